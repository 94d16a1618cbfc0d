//! The built-in providers, each against requests and responses in their documented formats (`tests/fixtures/providers`).
//!
//! The fixtures contain made-up values only. Deviations of the real server are not detected here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::super::provider::{KEY_NAMES, built_in};
use super::{Rig, loaded};
use crate::config::{App, PortalConfig};
use crate::domain::hint::template_error;
use refreshd_secrets::{AccessToken, AuthorizationCode, CodeVerifier, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::error_table::Class;
use refreshd_token_client::provider::{ClientAuthentication, Method, Profile, Replay};
use refreshd_token_client::quirks::JsonPath;
use refreshd_token_client::quirks::{BodyEncoding, NotBefore, Pkce};
use refreshd_token_client::reply::{GrantedTokens, TokenReply, Verdict, read};
use refreshd_token_client::request::{RequestKind, Token, TokenRequest};
use refreshd_token_client::token::Credential;

const FIXTURES: &str = "tests/fixtures/providers";

/// The example of RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    setup: Setup,
    authorize: Address,
    code: Sent,
    renewal: Sent,
    revocation: Option<Sent>,
    introspection: Option<Sent>,
    reply: Vec<DocumentedReply>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setup {
    /// A public client: without a secret.
    #[serde(default)]
    public: bool,
    /// Renewals use the client's own credentials.
    #[serde(default)]
    client_credentials: bool,
    /// Further lines of the app and of the portal.
    #[serde(default)]
    app: String,
    #[serde(default)]
    portal: String,
    /// Parameters of the redirect.
    #[serde(default)]
    fields: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    url: String,
    parameters: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    url: String,
    body: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    authorization: Option<String>,
    parameters: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentedReply {
    says: String,
    #[serde(default = "ok")]
    status: u16,
    body: String,
    grants: Option<Grants>,
    class: Option<Class>,
    /// Part of the description for the operator.
    meaning: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grants {
    token: String,
    life: String,
    /// Without it the refresh token is unchanged.
    refresh: Option<String>,
    r#type: Option<String>,
    #[serde(default)]
    scope: Vec<String>,
    identity: Option<String>,
    endpoint: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, Value>,
}

const fn ok() -> u16 {
    200
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_to_string(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn page(name: &str) -> Page {
    let text = read_to_string(&format!("{FIXTURES}/{name}.toml"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn answer(reply: &DocumentedReply, profile: &Profile) -> Verdict {
    let (now, body) = (Timestamp::default(), reply.body.as_bytes());
    read(
        &TokenReply {
            whole: true,
            status: reply.status,
            retry_after: None,
            now,
            body,
        },
        profile,
        &[],
    )
}

/// The app and the portal of a fixture, as an operator would configure them.
fn configured(name: &str, setup: &Setup) -> (App, PortalConfig) {
    let secret = if setup.public {
        ""
    } else {
        "client_secret_env = 'CRM'\n"
    };
    let Setup { app, portal, .. } = setup;
    let text = format!(
        "[apps.it]\nprovider = '{name}'\nclient_id = 'client-1'\n{secret}{app}\n[portals.acme]\napp = 'it'\n{portal}\n"
    );
    let mut config = loaded(&text).config;
    (config.apps.remove("it").unwrap(), config.portals.remove(0))
}

fn names() -> Vec<&'static str> {
    built_in().collect()
}

fn profile(name: &str) -> Arc<Profile> {
    configured(name, &page(name).setup).0.profile
}

fn check_request(what: &str, request: &TokenRequest, sent: &Sent) {
    let parameters: BTreeMap<_, _> = request.parameters.iter().cloned().collect();
    assert_eq!(
        request.parameters.len(),
        parameters.len(),
        "{what}: a parameter twice"
    );
    assert_eq!(parameters, sent.parameters, "{what}");
    assert_eq!(
        (request.url.as_str(), request.method),
        (sent.url.as_str(), Method::Post),
        "{what}"
    );
    let body = match sent.body.as_deref() {
        None => BodyEncoding::Form,
        Some("json") => BodyEncoding::Json,
        Some(other) => panic!("{what}: {other}"),
    };
    assert_eq!(request.body, body, "{what}");
    assert_eq!(
        request.headers.iter().cloned().collect::<BTreeMap<_, _>>(),
        sent.headers,
        "{what}"
    );
    assert_eq!(request.authorization, sent.authorization, "{what}");
}

#[test]
fn each_provider_is_asked_as_it_documents() {
    for name in names() {
        let page = page(name);
        let (app, portal) = configured(name, &page.setup);
        let request_builder =
            app.request_builder(Some(&portal.settings), &page.setup.fields, "RANDOM");
        let url = portal.renewal_url(&app);
        let credential = if page.setup.client_credentials {
            Credential::Client
        } else {
            Credential::Refresh(RefreshToken::new("OLD-REFRESH").unwrap())
        };
        let renewal = request_builder.request(&url, RequestKind::Renewal(&credential));
        check_request(&format!("{name}, a renewal"), &renewal, &page.renewal);

        let (code, verifier) = (
            AuthorizationCode::new("CODE").unwrap(),
            CodeVerifier::new(VERIFIER).unwrap(),
        );
        let exchange = request_builder.request(&url, RequestKind::Code(&code, Some(&verifier)));
        check_request(&format!("{name}, a code's exchange"), &exchange, &page.code);

        let address = reqwest::Url::parse(
            &request_builder
                .authorize_url("STATE", Some(&verifier), None)
                .unwrap(),
        )
        .unwrap();
        let parameters: BTreeMap<String, String> = address.query_pairs().into_owned().collect();
        assert_eq!(
            parameters, page.authorize.parameters,
            "{name}, the authorization"
        );
        let (base, _) = address.as_str().split_once('?').unwrap();
        assert_eq!(base, page.authorize.url, "{name}, the authorization");

        let (profile, access) = (&app.profile, AccessToken::new("ACCESS").unwrap());
        let given_back = credential
            .refresh()
            .map(Token::Refresh)
            .map(RequestKind::Revocation);
        for (what, url, sent, purpose) in [
            (
                "giving back",
                &profile.revoke_url,
                &page.revocation,
                given_back,
            ),
            (
                "asking about",
                &profile.introspect_url,
                &page.introspection,
                Some(RequestKind::Introspection(&access)),
            ),
        ] {
            let what = format!("{name}, {what}");
            assert_eq!(url.is_some(), sent.is_some(), "{what}");
            if let (Some(url), Some(sent), Some(purpose)) = (url, sent, purpose) {
                check_request(&what, &request_builder.request(url, purpose), sent);
            }
        }
    }
}

fn check_grant(what: &str, granted: GrantedTokens, grants: &Grants) {
    let GrantedTokens {
        access,
        refresh,
        odd_refresh: _,
        token_type,
        lives,
        identity,
        server: _,
        details,
    } = granted;
    assert_eq!(access.expose(), grants.token, "{what}");
    assert_eq!(
        refresh.as_ref().map(RefreshToken::expose),
        grants.refresh.as_deref(),
        "{what}"
    );
    assert_eq!(
        token_type,
        grants.r#type.as_deref().unwrap_or("Bearer"),
        "{what}"
    );
    assert_eq!(
        lives.span(),
        humantime::parse_duration(&grants.life).unwrap(),
        "{what}"
    );
    assert_eq!(identity, grants.identity, "{what}");
    assert_eq!(details.scope, grants.scope, "{what}");
    assert_eq!(details.endpoint, grants.endpoint, "{what}");
    assert_eq!(details.fields, grants.fields, "{what}");
}

#[test]
fn each_provider_is_understood_as_it_documents() {
    for name in names() {
        let page = page(name);
        let profile = profile(name);
        for reply in &page.reply {
            let what = format!("{name}, {}", reply.says);
            match (answer(reply, &profile), &reply.grants, reply.class) {
                (Verdict::Granted(granted), Some(grants), None) => {
                    check_grant(&what, *granted, grants);
                }
                (Verdict::Refused(refusal), None, Some(class)) => {
                    let problem = refusal.problem;
                    assert_eq!(problem.class, class, "{what}: {}", problem.detail);
                    let part = reply.meaning.as_deref().unwrap_or_default();
                    assert!(problem.detail.contains(part), "{what}: {}", problem.detail);
                    let by_status = reply.status >= 500;
                    assert!(
                        problem.remedy.is_some() || by_status,
                        "{what}: no row is about it"
                    );
                }
                (verdict, _, _) => panic!("{what}: {verdict:?}"),
            }
        }
        for kind in ["a token", "a dead grant", "a refused client"] {
            let shown = page.reply.iter().any(|reply| match kind {
                "a token" => reply.grants.is_some(),
                "a dead grant" => reply.class == Some(Class::NeedsAuthorization),
                _ => reply.class == Some(Class::ClientRejected) || name == "bitrix24",
            });
            assert!(shown, "{name}: no reply shows {kind}");
        }
    }
}

/// The hint fits the class.
#[test]
fn every_row_says_what_happened_and_what_mends_it() {
    for name in names() {
        for rule in &profile(name).errors {
            let row = format!(
                "{name} {:?} {:?} {:?}",
                rule.error, rule.description, rule.also
            );
            let meaning = rule
                .meaning
                .as_deref()
                .unwrap_or_else(|| panic!("{row} has no meaning"));
            let remedy = rule
                .remedy
                .as_deref()
                .unwrap_or_else(|| panic!("{row} has no remedy"));
            assert_eq!(
                (template_error(meaning), template_error(remedy)),
                (None, None),
                "{row}"
            );
            let ways: &[&str] = match rule.class {
                Class::NeedsAuthorization | Class::Gone => &["refreshd authorize {portal}"],
                Class::Blocked => &["refreshd renew {portal}", "refreshd authorize {portal}"],
                Class::ClientRejected => &[
                    "systemctl reload refreshd",
                    "refreshd renew {portal}",
                    "refreshd authorize {portal}",
                ],
                Class::Transient | Class::InDoubt | Class::TooEarly => &["it is retried by itself"],
                Class::Unknown => &["it is retried by itself", "systemctl reload refreshd"],
                Class::NotSent => panic!("{row}: a reply came"),
            };
            assert!(
                ways.iter().any(|way| remedy.contains(way)),
                "{row}: {remedy}"
            );
            assert!(
                !remedy.ends_with('.') && !meaning.ends_with('.'),
                "{row}: more text follows"
            );
        }
    }
}

/// The rows of README's table, and the fixtures.
#[test]
fn every_provider_that_is_promised_is_built_in_and_the_reverse() {
    let built_in: BTreeSet<_> = names().into_iter().map(str::to_owned).collect();
    assert_eq!(built_in.len(), 19);
    let readme = include_str!("../../../README.md");
    let (_, section) = readme
        .split_once("\n## Providers\n")
        .expect("README has a section Providers");
    let section = section.split("\n## ").next().unwrap();
    let promised: BTreeSet<_> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .filter(|name| name != "provider")
        .collect();
    assert_eq!(promised, built_in, "README's table");
    let shown: BTreeSet<_> = fs::read_dir(root().join(FIXTURES))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(shown, built_in, "the fixtures");
}

/// A profile names its documentation, and repeats no key of another file's defaults.
#[test]
fn every_profile_names_its_source() {
    for name in names() {
        let text = read_to_string(&format!("config/providers/{name}.toml"));
        let header: Vec<_> = text
            .lines()
            .take_while(|line| line.starts_with('#'))
            .collect();
        assert!(
            header.iter().any(|line| line.contains("https://")),
            "{name}"
        );
        let table: toml::Table = toml::from_str(&text).unwrap();
        for key in table.keys() {
            assert!(KEY_NAMES.contains(&key.as_str()), "{name}: {key}");
        }
    }
}

#[test]
fn the_times_of_the_profiles_leave_room() {
    for name in names() {
        let profile = profile(name);
        let life = profile.assumed_lifetime;
        let age = profile.renew_every.age(life);
        assert!(profile.renew_every.fits(life), "{name}");
        let spare = life.saturating_sub(age);
        let is_late = matches!(profile.earliest, NotBefore::Expiry);
        assert!(
            is_late || spare >= Duration::from_secs(600),
            "{name}: {spare:?} for retries"
        );
        if let Some(grace) = profile.grace {
            assert_eq!(
                (profile.replay, grace >= Duration::from_secs(60)),
                (Replay::Now, true),
                "{name}"
            );
        }
        if profile.client_authentication == ClientAuthentication::None {
            assert_ne!(
                profile.pkce,
                Pkce::None,
                "{name}: nothing protects its codes"
            );
        }
    }
}

/// A portal without a host gets the provider's.
#[test]
fn a_host_of_ones_own_is_one_line() {
    for (name, default, own) in [
        (
            "gitlab",
            "https://gitlab.com/oauth/token",
            "https://git.example.org/oauth/token",
        ),
        (
            "salesforce",
            "https://login.salesforce.com/services/oauth2/token",
            "https://git.example.org/services/oauth2/token",
        ),
        (
            "microsoft",
            "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            "https://login.microsoftonline.com/git.example.org/oauth2/v2.0/token",
        ),
    ] {
        let app =
            format!("[apps.it]\nprovider = '{name}'\nclient_id = 'c'\nclient_secret_env = 'CRM'\n");
        let of = |text: &str| {
            let config = loaded(text).config;
            config.portals[0].renewal_url(&config.apps["it"])
        };
        assert_eq!(of(&format!("{app}[portals.acme]\napp = 'it'\n")), default);
        assert_eq!(
            of(&format!(
                "{app}[portals.acme]\napp = 'it'\ndomain = 'git.example.org'\n"
            )),
            own
        );
        assert_eq!(
            of(&format!(
                "{app}default_domain = 'git.example.org'\n[portals.acme]\napp = 'it'\n"
            )),
            own
        );
    }
    let problems = Rig::new().problems(
        "[apps.it]\nprovider = 'amocrm'\nclient_id = 'c'\nclient_secret_env = 'CRM'\n[portals.acme]\napp = 'it'\n",
    );
    assert!(problems.contains("`domain`"), "{problems}");
}

/// A row without a matching response may be shadowed by a more general one.
#[test]
fn every_row_is_reached_by_a_reply() {
    let common = read_to_string("config/providers/common.toml")
        .matches("[[errors]]")
        .count();
    // `shipped` covers Bitrix24 and X.
    for name in names()
        .into_iter()
        .filter(|name| !["bitrix24", "x"].contains(name))
    {
        let mut numbered = Profile::clone(&profile(name));
        for (number, rule) in numbered.errors.iter_mut().enumerate() {
            rule.meaning = Some(number.to_string());
        }
        let reached: BTreeSet<_> = (page(name).reply.iter())
            .filter_map(|reply| match answer(reply, &numbered) {
                Verdict::Refused(refusal) => refusal.problem.detail.parse::<usize>().ok(),
                Verdict::Granted(_) => None,
            })
            .collect();
        let own = numbered.errors.len() - common;
        let unreached = (0..own)
            .find(|number| !reached.contains(number))
            .map(|at| &numbered.errors[at]);
        assert_eq!(unreached, None, "{name}: no reply reaches this row");
    }
}

#[test]
fn what_means_success_is_read_and_written_out() {
    let text = "[providers.own]\ntoken_url = 'https://a.example/'\n\
        reply = { success = { code = ['0', '200'], 'meta.ok' = 'true' } }\n\
        [apps.a]\nprovider = 'own'\nclient_id = 'x'\nclient_secret = 's'\n";
    let profile = loaded(text).config.profiles["own"].clone();
    let success = &profile.reply.success;
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|&text| text.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        *success,
        [
            (JsonPath::new("code"), texts(&["0", "200"])),
            (JsonPath::new("meta.ok"), texts(&["true"]))
        ]
    );
    let written = crate::config::profile_as_toml(&profile);
    let again =
        loaded(&(written + "\n[apps.a]\nprovider = 'own'\nclient_id = 'x'\nclient_secret = 's'\n"));
    assert_eq!(again.config.profiles["own"].reply, profile.reply);
}

#[test]
fn what_is_written_out_is_the_profile() {
    for name in built_in() {
        let profile = crate::config::built_in_profile(name).unwrap();
        let text = crate::config::profile_as_toml(&profile)
            .replace(&format!("[providers.{name}"), "[providers.own");
        let text = text + "\n[apps.a]\nprovider = 'own'\nclient_id = 'x'\nclient_secret = 's'\n";
        let again = loaded(&text).config.profiles["own"].clone();
        // The table of RFC 6749's codes follows each, and now twice.
        let common = again.errors.len() - profile.errors.len();
        assert_eq!(
            again.errors[..profile.errors.len()],
            profile.errors[..],
            "{name}"
        );
        assert_eq!(
            again.errors[profile.errors.len()..],
            profile.errors[profile.errors.len() - common..],
            "{name}"
        );
        let errors = profile.errors.clone();
        assert_eq!(
            Profile {
                name: name.to_owned(),
                errors,
                ..Profile::clone(&again)
            },
            *profile,
            "{name}"
        );
    }
}
