//! The keys of a profile as one table: how each is read, how it is written out, its example and its meaning.
//!
//! `config/example.toml` and `docs/reference/provider-keys.md` are made of it; tests compare them.

use std::time::Duration;

use toml::Value;

use super::super::source::Diagnostics;
use super::super::table::{Table, TextValue};
use super::super::values::{
    VariantNames, check_age, choice, duration, host, one_of, renew_every, set,
};
use super::super::values::{url, url_path};
use super::error_rules::rows;
use super::wire_format::{
    NAMES, check_headers, is_secret, read_reply, reply_value, strings, texts, texts_value,
};
use refreshd_token_client::provider::{Profile, Replay};
use refreshd_token_client::quirks::NotBefore;
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::token::LIFETIME_RANGE;

/// One key of a profile.
pub(in crate::config) struct ProviderKey {
    /// Its name.
    pub name: &'static str,
    /// A value as TOML.
    pub example: &'static str,
    /// The meaning, in half a sentence.
    pub meaning: &'static str,
    /// Comment above it in the example, for it and the following keys.
    pub preface: Option<&'static str>,
    read: fn(&mut KeyReader<'_, '_>, &mut Profile),
    /// `None`: the profile does not set it.
    write: fn(&Profile) -> Option<Value>,
}

/// A key of a table that has it.
struct KeyReader<'t, 'r> {
    table: Table<'t>,
    key: &'static str,
    report: &'r mut Diagnostics,
}

impl<'t> KeyReader<'t, '_> {
    fn text(&mut self) -> Option<TextValue<'t>> {
        self.table.text(self.report, self.key)
    }

    fn string(&mut self) -> Option<String> {
        self.text().map(|text| text.value.to_owned())
    }

    /// An address that may hold `{domain}`.
    fn url(&mut self) -> Option<String> {
        let text = self.text()?;
        url(self.report, self.key, text, true)
    }

    fn host(&mut self) -> Option<String> {
        let text = self.text()?;
        host(self.report, self.key, text)
    }

    fn choice<T: VariantNames>(&mut self) -> Option<T> {
        choice(self.table, self.report, self.key)
    }

    fn duration(&mut self, example: &str) -> Option<Duration> {
        duration(self.table, self.report, self.key, example, LIFETIME_RANGE)
    }

    fn inner(&mut self, section: &'static str) -> Option<Table<'t>> {
        self.table.table(self.report, self.key, section)
    }

    /// Names of fields that may be given to readers.
    fn fields(&mut self) -> Option<Vec<String>> {
        let fields = self.table.texts(self.report, self.key, false)?;
        for field in fields.iter().filter(|field| is_secret(field.value)) {
            let message = format!(
                "`{}` names a field that is never handed to readers",
                self.key
            );
            self.report.problem(field.place, message);
        }
        Some(fields.iter().map(|field| field.value.to_owned()).collect())
    }
}

/// A key whose value is one of a few words.
macro_rules! choice_key {
    ($name:literal, $($field:ident).+, $example:literal, $meaning:literal) => {
        key(
            $name,
            $example,
            $meaning,
            |reader, profile| set(&mut profile.$($field).+, reader.choice()),
            |profile| Some(<&str>::from(profile.$($field).+).into()),
        )
    };
}

/// A key whose value is a text that may be absent, read by a method of [`KeyReader`].
macro_rules! optional_key {
    ($name:literal, $read:ident, $($field:ident).+, $example:literal, $meaning:literal) => {
        key(
            $name,
            $example,
            $meaning,
            |reader, profile| set(&mut profile.$($field).+, reader.$read().map(Some)),
            |profile| profile.$($field).+.clone().map(Value::from),
        )
    };
}

/// A key whose value is a table of further parameters. One more on an app leaves the provider's as they are.
macro_rules! parameters_key {
    ($name:literal, $field:ident, $example:literal, $meaning:literal) => {
        key(
            $name,
            $example,
            $meaning,
            |reader, profile| {
                if let Some(given) = reader.inner("[parameters]") {
                    profile.request.$field.extend(texts(given, reader.report));
                }
            },
            |profile| texts_value(&profile.request.$field),
        )
    };
}

/// Every key, in the order in which a profile is read and written out.
pub(in crate::config) const KEYS: [ProviderKey; 42] = [
    key(
        "issuer",
        r#""https://login.example.org/realms/staff""#,
        "replaces the addresses below: its metadata has them (RFC 8414, OpenID Connect)",
        read_issuer,
        |profile| profile.issuer.clone().map(Value::from),
    ),
    key(
        "allowed_hosts",
        r#"["sso-api.example.org"]"#,
        "other hosts that the metadata may name; nothing is sent to further ones",
        |reader, profile| {
            if let Some(hosts) = reader.table.texts(reader.report, reader.key, false) {
                profile.hosts = hosts
                    .into_iter()
                    .filter_map(|text| host(reader.report, reader.key, text))
                    .collect();
            }
        },
        |profile| strings(&profile.hosts),
    ),
    optional_key!(
        "default_domain",
        host,
        default_domain,
        r#""sso.example.org""#,
        "the {domain} of portals without one"
    )
    .with_preface(
        "Addresses are https; plain http only to loopback. Each may hold {domain}, the portal's host.",
    ),
    key(
        "token_url",
        r#""https://sso.example.org/oauth/token""#,
        "the endpoint that exchanges codes and refresh tokens (RFC 6749 section 3.2)",
        |reader, profile| {
            // One endpoint is written for every region, and for renewals.
            profile.token_url_by_region.clear();
            profile.refresh_url = None;
            set(&mut profile.token_url, reader.url());
        },
        |profile| (!profile.token_url.is_empty()).then(|| profile.token_url.as_str().into()),
    ),
    key(
        "token_url_by_region",
        r#"{ eu = "https://sso.eu.example.org/oauth/token" }"#,
        "token endpoints by region of the portal, where they differ",
        |reader, profile| {
            let Some(regions) = reader.inner("token_url_by_region") else {
                return;
            };
            profile.token_url_by_region.clear();
            for region in regions.keys() {
                let text = regions.text(reader.report, region.value);
                let address = text.and_then(|text| url(reader.report, reader.key, text, false));
                if let Some(address) = address {
                    let region = region.value.to_lowercase();
                    profile.token_url_by_region.insert(region, address);
                }
            }
        },
        |profile| texts_value(&profile.token_url_by_region),
    ),
    optional_key!(
        "refresh_url",
        url,
        refresh_url,
        r#""https://sso.example.org/oauth/refresh""#,
        "the endpoint of renewals, if not the token_url"
    ),
    optional_key!(
        "authorize_url",
        url,
        authorize_url,
        r#""https://sso.example.org/oauth/authorize""#,
        "the authorization endpoint (RFC 6749 section 3.1)"
    ),
    optional_key!(
        "device_url",
        url,
        device_url,
        r#""https://sso.example.org/oauth/device""#,
        "the endpoint at which a device requests its codes (RFC 8628)"
    ),
    optional_key!(
        "revoke_url",
        url,
        revoke_url,
        r#""https://sso.example.org/oauth/revoke""#,
        "for `refreshd forget --revoke` (RFC 7009)"
    ),
    optional_key!(
        "introspect_url",
        url,
        introspect_url,
        r#""https://sso.example.org/oauth/introspect""#,
        "for `refreshd introspect` (RFC 7662)"
    ),
    choice_key!(
        "grant",
        start,
        r#""authorization-code""#,
        "source of the first token: authorization-code, client-credentials (without a user), device"
    ),
    choice_key!("method", method, r#""post""#, "post, get"),
    choice_key!(
        "body",
        request.body,
        r#""form""#,
        "form, json: the body of a request"
    ),
    choice_key!(
        "client_authentication",
        client_authentication,
        r#""basic""#,
        "none (a public client), basic, body, basic-with-body"
    ),
    choice_key!(
        "basic_encoding",
        request.basic_encoding,
        r#""form""#,
        "form as in RFC 6749; raw: id and secret unchanged"
    ),
    choice_key!(
        "pkce",
        pkce,
        r#""S256""#,
        "S256, plain, none (RFC 7636)"
    ),
    key(
        "scope_separator",
        r#"" ""#,
        "separates the scopes of a request",
        |reader, profile| {
            let text = reader
                .table
                .text_as(reader.report, reader.key, "a string in quotes");
            set(
                &mut profile.scope_separator,
                text.map(|text| text.value.to_owned()),
            );
        },
        |profile| Some(profile.scope_separator.as_str().into()),
    ),
    key(
        "scope_in_renewal",
        "false",
        "whether a renewal repeats the scope",
        |reader, profile| {
            let given = reader.table.boolean(reader.report, reader.key);
            set(&mut profile.request.scope_in_renewal, given);
        },
        |profile| Some(profile.request.scope_in_renewal.into()),
    ),
    key(
        "parameter_names",
        r#"{ client_id = "client_key" }"#,
        "parameters with other names",
        |reader, profile| {
            if let Some(names) = reader.inner("[parameter_names]") {
                names.only(reader.report, &[&NAMES]);
                profile.request.names = texts(names, reader.report);
            }
        },
        |profile| texts_value(&profile.request.names),
    ),
    key(
        "headers",
        r#"{ User-Agent = "acme/1.0" }"#,
        "further headers",
        |reader, profile| {
            if let Some(headers) = reader.inner("[headers]") {
                profile.request.headers = texts(headers, reader.report);
                check_headers(headers, reader.report);
            }
        },
        |profile| texts_value(&profile.request.headers),
    ),
    parameters_key!(
        "authorize_parameters",
        authorize_parameters,
        r#"{ access_type = "offline" }"#,
        "further parameters of the authorization request"
    )
    .with_preface(
        "Further parameters; an empty one removes a standard one. They may contain {redirect_uri}, {domain}, {client_id},\n\
         {random} and {FIELD}, a field that is kept with the grant.",
    ),
    parameters_key!(
        "code_parameters",
        code_parameters,
        r#"{ audience = "api" }"#,
        "further parameters of the exchange of a code"
    ),
    parameters_key!(
        "renewal_parameters",
        renewal_parameters,
        r#"{ device_id = "{device_id}" }"#,
        "further parameters of a renewal"
    ),
    key(
        "redirect_fields",
        r#"["device_id"]"#,
        "parameters of the redirect that are kept with the grant, as fields",
        |reader, profile| set(&mut profile.request.redirect_fields, reader.fields()),
        |profile| strings(&profile.request.redirect_fields),
    ),
    optional_key!(
        "redirect_server",
        string,
        request.redirect_server,
        r#""server""#,
        "the parameter that names the authorization server; only hosts listed here count"
    ),
    key(
        "reply",
        r#"{ access_token = "authed_user.access_token", error = ["error", "status"], success = { code = ["0", "200"] } }"#,
        "places of values in a response",
        |reader, profile| {
            if let Some(reply) = reader.inner("[reply]") {
                read_reply(reply, &mut profile.reply, reader.report);
            }
        },
        |profile| Some(reply_value(&profile.reply)),
    )
    .with_preface(
        "Places of values in a response; also refresh_token, token_type, scope, expires_in, expires_at, error_description, and the\n\
         refresh token's own expiry: refresh_expires_in, refresh_expires_at. `success` lists the values of a place that mean success:\n\
         any other value there is an error, and `error` is ignored.",
    ),
    choice_key!(
        "expires_in_unit",
        reply.unit,
        r#""s""#,
        "s, ms: the unit of lifetimes that are bare numbers"
    ),
    key(
        "renew_every",
        r#""67%""#,
        "the age at which a token is renewed: a duration, or a share of its life up to 90%",
        |reader, profile| {
            set(
                &mut profile.renew_every,
                renew_every(reader.table, reader.report),
            );
        },
        |profile| match profile.renew_every {
            RenewEvery::Age(age) => Some(span(age).into()),
            RenewEvery::Share(share) => {
                Some(format!("{}%", (share * 10_000.0).round() / 100.0).into())
            }
            // `not_before` has it.
            RenewEvery::Expiry => None,
        },
    ),
    key(
        "not_before",
        r#""1m""#,
        "the age before which the server refuses renewals, or \"expiry\"",
        |reader, profile| {
            if reader.text().is_some_and(|text| text.value == "expiry") {
                profile.earliest = NotBefore::Expiry;
                if !reader.table.has("renew_every") {
                    profile.renew_every = RenewEvery::Expiry;
                }
            } else if let Some(age) = reader.duration("24h") {
                profile.earliest = NotBefore::Age(age);
            }
        },
        |profile| match profile.earliest {
            NotBefore::Any => None,
            NotBefore::Age(age) => Some(span(age).into()),
            NotBefore::Expiry => Some("expiry".into()),
        },
    ),
    key(
        "assumed_lifetime",
        r#""1h""#,
        "the lifetime of a token whose response has none, or an unreadable one",
        |reader, profile| set(&mut profile.assumed_lifetime, reader.duration("1h")),
        |profile| Some(span(profile.assumed_lifetime).into()),
    ),
    choice_key!(
        "rotation",
        rotation,
        r#""always""#,
        "whether a renewal brings a new refresh token: always, sometimes, never"
    ),
    key(
        "grace",
        r#""10m""#,
        "how long a spent refresh token gets the same response; default: unknown",
        |reader, profile| set(&mut profile.grace, reader.duration("10m").map(Some)),
        |profile| profile.grace.map(|grace| span(grace).into()),
    ),
    key(
        "retry_ambiguous",
        r#""now""#,
        "when a request without outcome is retried: now, or before-expiry if reuse revokes the grant",
        |reader, profile| set(&mut profile.replay, read_retry(reader)),
        |profile| Some(<&str>::from(profile.replay).into()),
    ),
    optional_key!(
        "identity",
        string,
        identity_field,
        r#""sub""#,
        "the field of a response that identifies the grant's owner, and never changes"
    ),
    optional_key!(
        "endpoint",
        string,
        endpoint_field,
        r#""api_url""#,
        "the field with the address of the API"
    ),
    optional_key!(
        "token_server_field",
        string,
        server_field,
        r#""token_server""#,
        "the field that names the next renewal's server; only hosts listed here count"
    ),
    key(
        "fields",
        r#"["sub", "api_url"]"#,
        "fields that are published in token.json",
        |reader, profile| set(&mut profile.fields, reader.fields()),
        |profile| strings(&profile.fields),
    ),
    key(
        "install_check",
        r#""/rest/app.info""#,
        "a path at the token endpoint's host that returns the owner of an access token",
        |reader, profile| {
            if let Some(text) = reader.text()
                && let Some(check) = url_path(reader.key, text, reader.report)
            {
                profile.install.check = Some(check);
            }
        },
        |profile| profile.install.check.clone().map(Value::from),
    )
    .with_preface("For [apps.NAME.install], with portals that send events like Bitrix24's."),
    key(
        "install_admin",
        r#""user.admin""#,
        "a method of the portal's API that reports administrators; default: none",
        |reader, profile| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            let Some(text) = reader.text() else {
                return;
            };
            if text.value.chars().all(plain) {
                profile.install.admin = Some(text.value.to_owned());
            } else {
                reader.report.problem(
                    text.place,
                    "`install_admin` must hold letters, digits and . _ - only",
                );
            }
        },
        |profile| profile.install.admin.clone().map(Value::from),
    ),
    key(
        "install_script",
        r#""https://api.example.org/install.js""#,
        "a script that finishes an installation in the browser",
        |reader, profile| {
            if let Some(text) = reader.text()
                && let Some(script) = url(reader.report, reader.key, text, false)
            {
                profile.install.script = Some(script);
            }
        },
        |profile| profile.install.script.clone().map(Value::from),
    ),
    key(
        "install_run",
        r#""finish();""#,
        "the call into that script",
        |reader, profile| {
            let Some(text) = reader.text() else {
                return;
            };
            if text.value.contains("</") {
                reader.report.problem(
                    text.place,
                    "`install_run` must not hold </, which would end it",
                );
            }
            profile.install.run = Some(text.value.to_owned());
        },
        |profile| profile.install.run.clone().map(Value::from),
    ),
    key(
        "errors",
        "[]",
        "the meaning of failed requests: see below",
        |reader, profile| {
            let mut errors = rows(reader.table, reader.report);
            errors.append(&mut profile.errors);
            profile.errors = errors;
        },
        // Rows are tables of their own, below all keys.
        |_| None,
    ),
];

/// The names of [`KEYS`].
pub(in crate::config) const KEY_NAMES: [&str; KEYS.len()] = {
    let mut names = [""; KEYS.len()];
    let mut at = 0;
    while at < KEYS.len() {
        names[at] = KEYS[at].name;
        at += 1;
    }
    names
};

const fn key(
    name: &'static str,
    example: &'static str,
    meaning: &'static str,
    read: fn(&mut KeyReader<'_, '_>, &mut Profile),
    write: fn(&Profile) -> Option<Value>,
) -> ProviderKey {
    ProviderKey {
        name,
        example,
        meaning,
        preface: None,
        read,
        write,
    }
}

impl ProviderKey {
    const fn with_preface(self, preface: &'static str) -> Self {
        Self {
            preface: Some(preface),
            ..self
        }
    }

    /// The value of a profile; `None` if the key is left out.
    pub(super) fn value_of(&self, profile: &Profile) -> Option<Value> {
        (self.write)(profile)
    }
}

/// Puts the keys of a table over a profile. Its error rows come before those that were there.
pub(in crate::config) fn apply(table: Table<'_>, profile: &mut Profile, report: &mut Diagnostics) {
    for key in &KEYS {
        if table.has(key.name) {
            let mut reader = KeyReader {
                table,
                key: key.name,
                report,
            };
            (key.read)(&mut reader, profile);
        }
    }
    check_ages(table, profile, report);
}

fn check_ages(table: Table<'_>, profile: &Profile, report: &mut Diagnostics) {
    if table.has("renew_every") || table.has("assumed_lifetime") {
        check_age(table, profile.renew_every, profile.assumed_lifetime, report);
    }
    let too_soon = match (profile.earliest, profile.renew_every) {
        (NotBefore::Any, _) | (_, RenewEvery::Expiry) => false,
        (NotBefore::Expiry, _) => true,
        (NotBefore::Age(earliest), every) => every.age(profile.assumed_lifetime) < earliest,
    };
    let place = table
        .place_of("renew_every")
        .or_else(|| table.place_of("not_before"));
    if let (true, Some(place)) = (too_soon, place) {
        report.problem(
            place,
            "`renew_every` is sooner than the provider's `not_before`",
        );
    }
}

/// `late` is the former name of `before-expiry`.
fn read_retry(reader: &mut KeyReader<'_, '_>) -> Option<Replay> {
    let text = reader.text()?;
    if text.value == "late" {
        reader
            .report
            .warning(text.place, "`late` was renamed to `before-expiry`");
        return Some(Replay::Late);
    }
    one_of(reader.report, reader.key, text)
}

/// An issuer as its metadata must repeat it: RFC 8414 section 2 wants https, and neither query nor fragment.
fn read_issuer(reader: &mut KeyReader<'_, '_>, profile: &mut Profile) {
    let Some(text) = reader.text() else {
        return;
    };
    // An issuer stands for its endpoints, except for those written beside it.
    profile.refresh_url = None;
    profile.authorize_url = None;
    profile.device_url = None;
    profile.revoke_url = None;
    profile.introspect_url = None;
    profile.token_url.clear();
    profile.token_url_by_region.clear();
    if url(reader.report, reader.key, text, false).is_none() {
        return;
    }
    if text.value.contains('?') {
        reader
            .report
            .problem(text.place, "`issuer` must not hold a query (?…)");
        return;
    }
    profile.issuer = Some(text.value.to_owned());
}

fn span(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}
