//! A profile written out as a table of `[providers.NAME]`, to be looked at or to begin one's own with.
//!
//! Must say all of it: what is read back is the same profile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use toml::Value;

use refreshd_token_client::error_table::ErrorRule;
use refreshd_token_client::provider::{ClientAuthentication, Method, Profile, Replay};
use refreshd_token_client::quirks::{
    BasicEncoding, BodyEncoding, GrantType, InstallFields, JsonPath, NotBefore, Pkce, ReplyFields,
    RequestQuirks, Rotation,
};
use refreshd_token_client::renew_every::RenewEvery;

/// The table, errors included.
pub(in crate::config) fn written(profile: &Profile) -> String {
    let Profile {
        name,
        issuer,
        hosts,
        default_domain,
        token_url,
        token_url_by_region,
        refresh_url,
        authorize_url,
        device_url,
        revoke_url,
        introspect_url,
        names_issuer_in_redirect: _,
        start,
        method,
        client_authentication,
        pkce,
        request,
        reply,
        renew_every,
        earliest,
        assumed_lifetime,
        replay,
        rotation,
        grace,
        scope_separator,
        identity_field,
        endpoint_field,
        server_field,
        fields,
        install,
        errors,
    } = profile;
    let mut out = TomlLines(format!("[providers.{name}]\n"));
    out.optional("issuer", issuer.as_ref());
    out.list("allowed_hosts", hosts);
    out.optional("default_domain", default_domain.as_ref());
    out.optional("token_url", Some(token_url).filter(|url| !url.is_empty()));
    out.table("token_url_by_region", token_url_by_region);
    out.optional("refresh_url", refresh_url.as_ref());
    out.optional("authorize_url", authorize_url.as_ref());
    out.optional("device_url", device_url.as_ref());
    out.optional("revoke_url", revoke_url.as_ref());
    out.optional("introspect_url", introspect_url.as_ref());
    out.text(
        "grant",
        match start {
            GrantType::AuthorizationCode => "authorization-code",
            GrantType::ClientCredentials => "client-credentials",
            GrantType::Device => "device",
        },
    );
    out.text(
        "method",
        if *method == Method::Post {
            "post"
        } else {
            "get"
        },
    );
    out.text(
        "client_authentication",
        match client_authentication {
            ClientAuthentication::None => "none",
            ClientAuthentication::Basic => "basic",
            ClientAuthentication::Body => "body",
            ClientAuthentication::BasicWithBody => "basic-with-body",
        },
    );
    out.text(
        "pkce",
        match pkce {
            Pkce::None => "none",
            Pkce::Plain => "plain",
            Pkce::S256 => "S256",
        },
    );
    out.request(request);
    out.reply(reply);
    out.text("assumed_lifetime", &span(*assumed_lifetime));
    match renew_every {
        RenewEvery::Age(age) => out.text("renew_every", &span(*age)),
        RenewEvery::Share(share) => {
            out.text(
                "renew_every",
                &format!("{}%", (share * 10_000.0).round() / 100.0),
            );
        }
        // `not_before` says it.
        RenewEvery::Expiry => {}
    }
    match earliest {
        NotBefore::Any => {}
        NotBefore::Age(age) => out.text("not_before", &span(*age)),
        NotBefore::Expiry => out.text("not_before", "expiry"),
    }
    out.text(
        "retry_ambiguous",
        if *replay == Replay::Now {
            "now"
        } else {
            "before-expiry"
        },
    );
    out.text(
        "rotation",
        match rotation {
            Rotation::Always => "always",
            Rotation::Sometimes => "sometimes",
            Rotation::Never => "never",
        },
    );
    out.optional("grace", grace.map(span).as_ref());
    out.text("scope_separator", scope_separator);
    out.optional("identity", identity_field.as_ref());
    out.optional("endpoint", endpoint_field.as_ref());
    out.optional("token_server_field", server_field.as_ref());
    out.list("fields", fields);
    let InstallFields {
        check,
        admin,
        script,
        run,
    } = install;
    out.optional("install_check", check.as_ref());
    out.optional("install_admin", admin.as_ref());
    out.optional("install_script", script.as_ref());
    out.optional("install_run", run.as_ref());
    errors.iter().for_each(|rule| out.rule(name, rule));
    out.0
}

fn span(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

/// Places and the values that are wanted there.
fn wanted(pairs: &[(JsonPath, Vec<String>)]) -> Value {
    let list = |values: &[String]| {
        values
            .iter()
            .map(|text| Value::from(text.as_str()))
            .collect::<Vec<_>>()
    };
    Value::Table(
        pairs
            .iter()
            .map(|(place, values)| (place.dotted(), Value::from(list(values))))
            .collect(),
    )
}

struct TomlLines(String);

impl TomlLines {
    fn value(&mut self, key: &str, value: &Value) {
        // A text cannot fail to take what is written to it.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, &text.into());
    }

    fn optional(&mut self, key: &str, text: Option<&String>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn list(&mut self, key: &str, list: &[String]) {
        if !list.is_empty() {
            self.value(
                key,
                &list
                    .iter()
                    .map(|text| Value::from(text.as_str()))
                    .collect::<Vec<_>>()
                    .into(),
            );
        }
    }

    fn table(&mut self, key: &str, map: &BTreeMap<String, String>) {
        if !map.is_empty() {
            let pairs = map
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.as_str())));
            self.value(key, &Value::Table(pairs.collect()));
        }
    }

    fn request(&mut self, form: &RequestQuirks) {
        let RequestQuirks {
            body,
            basic_encoding,
            scope_in_renewal,
            names,
            headers,
            authorize_parameters,
            code_parameters,
            renewal_parameters,
            redirect_fields,
            redirect_server,
        } = form;
        self.text(
            "body",
            if *body == BodyEncoding::Form {
                "form"
            } else {
                "json"
            },
        );
        self.text(
            "basic_encoding",
            if *basic_encoding == BasicEncoding::Form {
                "form"
            } else {
                "raw"
            },
        );
        self.value("scope_in_renewal", &(*scope_in_renewal).into());
        self.table("parameter_names", names);
        self.table("headers", headers);
        self.table("authorize_parameters", authorize_parameters);
        self.table("code_parameters", code_parameters);
        self.table("renewal_parameters", renewal_parameters);
        self.list("redirect_fields", redirect_fields);
        self.optional("redirect_server", redirect_server.as_ref());
    }

    fn reply(&mut self, form: &ReplyFields) {
        let ReplyFields {
            access_token,
            refresh_token,
            token_type,
            scope,
            expires_in,
            expires_at,
            refresh_expires_in,
            refresh_expires_at,
            in_milliseconds,
            error,
            error_description,
            success,
        } = form;
        let places = |places: &[JsonPath]| {
            places
                .iter()
                .map(|place| Value::from(place.dotted()))
                .collect::<Vec<_>>()
        };
        let table = [
            ("access_token", access_token),
            ("refresh_token", refresh_token),
            ("token_type", token_type),
            ("scope", scope),
            ("expires_in", expires_in),
            ("expires_at", expires_at),
            ("refresh_expires_in", refresh_expires_in),
            ("refresh_expires_at", refresh_expires_at),
            ("error", error),
            ("error_description", error_description),
        ];
        let table = table.map(|(name, at)| (name.to_owned(), Value::from(places(at))));
        let success = (!success.is_empty()).then(|| ("success".to_owned(), wanted(success)));
        self.value(
            "reply",
            &Value::Table(table.into_iter().chain(success).collect()),
        );
        self.text("expires_in_unit", if *in_milliseconds { "ms" } else { "s" });
    }

    fn rule(&mut self, provider: &str, rule: &ErrorRule) {
        let ErrorRule {
            status,
            error,
            description,
            also,
            class,
            meaning,
            remedy,
        } = rule;
        let _ = writeln!(self.0, "\n[[providers.{provider}.errors]]");
        if !status.is_empty() {
            let status = status
                .iter()
                .map(|status| Value::from(i64::from(*status)))
                .collect::<Vec<_>>();
            self.value("status", &status.into());
        }
        self.list("error", error);
        self.optional(
            "description",
            Some(description).filter(|part| !part.is_empty()),
        );
        if !also.is_empty() {
            self.value("match", &wanted(also));
        }
        self.text("class", class.as_str());
        self.optional("meaning", meaning.as_ref());
        self.optional("remedy", remedy.as_ref());
    }
}
