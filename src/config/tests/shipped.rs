//! The shipped files: examples that load, and profiles that classify every documented code.

use std::sync::Arc;
use std::time::Duration;

use super::{ACME, Rig, loaded};
use crate::config::values::words;
use crate::config::{Environment, Loaded, load};
use refreshd_alerting::channel::ChannelKind;
use refreshd_time::Timestamp;
use refreshd_token_client::provider::{Class, ClientAuthentication, Profile, Replay};
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::reply::{TokenReply, Verdict, read};

/// Loads a shipped file, with `/etc/refreshd` in the test's folder.
fn shipped(text: &str) -> Loaded {
    let rig = Rig::new();
    for secret in ["crm.secret", "acme.refresh", "ops.authorization"] {
        rig.file(secret, 0o640, "stub");
    }
    for url in ["ops.url", "push.url", "tickets.url"] {
        rig.file(url, 0o640, "https://hooks.example.org/1");
    }
    rig.file("proxy.url", 0o640, "http://u:stub@proxy.corp.example:3128");
    rig.file(
        "corp-ca.pem",
        0o644,
        include_str!("../../../tests/fixtures/tls/authority.pem"),
    );
    rig.file(
        "ticket.json.j2",
        0o644,
        include_str!("../../../config/ticket.json.j2"),
    );
    rig.file(
        "credentials/slack-url",
        0o600,
        "https://hooks.example.org/2\n",
    );
    for credential in ["x-secret", "telegram-token", "smtp-password"] {
        rig.file(&format!("credentials/{credential}"), 0o600, "stub");
    }
    rig.file(
        "credentials/pagerduty-key",
        0o600,
        "0123456789abcdef0123456789abcdef",
    );
    let credentials = rig.path().join("credentials");
    let environment = Environment::of([
        ("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap()),
        ("WIKI_SECRET", "stub"),
        ("REFRESHD_DEMO_SECRET", "stub"),
        ("ALERTMANAGER_URL", "http://127.0.0.1:9093/api/v2/alerts"),
        ("HEARTBEAT_URL", "https://hooks.example.org/3"),
    ]);
    let text = text.replace("/etc/refreshd", rig.path().to_str().unwrap());
    load(&rig.file("main.toml", 0o644, text), &environment)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_shipped_files_load() {
    let example = shipped(include_str!("../../../config/example.toml"));
    assert_eq!(example.config.portals.len(), 3);
    assert_eq!(example.config.ladder.len(), 5);
    let shown = |kind: &str| {
        let mut channels = example.config.channels.iter();
        channels.any(|channel| channel.kind.as_str() == kind)
    };
    assert!(
        words::<ChannelKind>().all(shown),
        "a kind of channel is not shown"
    );
    let warnings: Vec<_> = example
        .warnings
        .iter()
        .map(|warning| warning.message.as_str())
        .collect();
    assert_eq!(warnings, ["`command`: the program does not exist"]);
    let minimal = shipped(include_str!("../../../config/minimal.toml"));
    assert_eq!(
        (minimal.config.portals.len(), minimal.warnings.len()),
        (1, 0)
    );
    let demo = shipped(include_str!("../../../config/demo.toml"));
    assert_eq!((demo.config.portals.len(), demo.warnings.len()), (3, 0));
    for portal in &demo.config.portals {
        assert_eq!(
            portal.renewal_url(&demo.config.apps[&portal.settings.app]),
            "http://127.0.0.1:9480/oauth/token/"
        );
    }
    let paths = demo.config.paths;
    for path in [paths.state, paths.token_dir, paths.control_socket] {
        assert_eq!(path.parent().unwrap().file_name().unwrap(), "refreshd-demo");
    }
}

/// After a change of the table of keys: `refreshd provider keys [--markdown]` prints what belongs there.
#[test]
fn the_example_and_the_reference_page_are_made_of_the_table_of_keys() {
    let example = include_str!("../../../config/example.toml");
    let keys = crate::config::annotated_provider("intranet");
    assert!(
        example.contains(&keys),
        "config/example.toml does not hold this:\n{keys}"
    );
    let page = include_str!("../../../docs/reference/provider-keys.md");
    let table = crate::config::provider_keys_markdown();
    assert!(
        page.ends_with(&table),
        "docs/reference/provider-keys.md does not end with this:\n{table}"
    );
}

#[test]
fn the_example_shows_every_key() {
    let example = include_str!("../../../config/example.toml");
    let keys = super::super::provider::KEY_NAMES
        .into_iter()
        .chain(super::super::include::SETTINGS);
    let secrets = [
        "authorization",
        "url",
        "routing_key",
        "bot_token",
        "password",
        "proxy",
    ];
    let of_channels = super::super::channels::every_key().filter(|key| {
        // One form of each secret is shown.
        !secrets.iter().any(|secret| key.starts_with(secret))
    });
    for key in keys.chain(of_channels) {
        assert!(
            example.contains(&format!("\n{key} = "))
                || example.contains(&format!(".{key}]"))
                || example.contains(&format!("[{key}]")),
            "{key}"
        );
    }
    for secret in secrets {
        let forms = ["file", "env", "credential"];
        assert!(
            forms
                .iter()
                .any(|form| example.contains(&format!("\n{secret}_{form} = "))),
            "{secret}"
        );
    }
}

fn profile(provider: &str) -> Arc<Profile> {
    let text = ACME.replace("bitrix24", provider);
    loaded(&text).config.apps.remove("crm").unwrap().profile
}

fn check(profile: &Profile, status: u16, error: &str, description: &str, class: Class) {
    let body = serde_json::json!({ "error": error, "error_description": description }).to_string();
    let reply = TokenReply {
        whole: true,
        status,
        retry_after: None,
        now: Timestamp::default(),
        body: body.as_bytes(),
    };
    let Verdict::Refused(refusal) = read(&reply, profile, &[]) else {
        panic!("{error} was taken for a grant")
    };
    assert_eq!(
        refusal.problem.class, class,
        "{status} {error} {description}"
    );
    assert!(
        !refusal.problem.detail.is_empty(),
        "{error} has no meaning in words"
    );
    // The code in a server error is not used, nor is its hint.
    let believed = error != "never_heard_of" && !refusal.problem.detail.contains("is not believed");
    assert_eq!(
        refusal.problem.remedy.is_some(),
        believed,
        "{error}: nothing mends it"
    );
}

#[test]
fn the_built_in_profiles_say_what_is_known_of_the_servers() {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let bitrix24 = profile("bitrix24");
    assert_eq!(bitrix24.token_url, "https://oauth.bitrix.info/oauth/token/");
    let east: Vec<_> = bitrix24
        .token_url_by_region
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(east, ["am", "az", "by", "ge", "kg", "kz", "ru", "uz"]);
    assert!(
        bitrix24
            .token_url_by_region
            .values()
            .all(|url| url == "https://oauth.bitrix24.tech/oauth/token/")
    );
    assert_eq!(bitrix24.client_authentication, ClientAuthentication::Body);
    assert_eq!(
        (bitrix24.renew_every, bitrix24.replay),
        (RenewEvery::Age(minutes(25)), Replay::Now)
    );
    assert_eq!(bitrix24.identity_field.as_deref(), Some("member_id"));
    let x = profile("x");
    assert_eq!(x.client_authentication, ClientAuthentication::BasicWithBody);
    assert_eq!(
        (x.renew_every, x.assumed_lifetime),
        (RenewEvery::Age(minutes(105)), minutes(120))
    );
    assert_eq!((x.replay, x.identity_field.is_none()), (Replay::Late, true));
}

#[test]
fn every_documented_code_of_bitrix24_has_its_class() {
    let profile = profile("bitrix24");
    let table: [(Class, &[&str]); 6] = [
        (
            Class::NeedsAuthorization,
            &[
                "invalid_grant",
                "bad_verification_code",
                "expired_token",
                "invalid_token",
                "NO_AUTH_FOUND",
            ],
        ),
        (
            Class::ClientRejected,
            &[
                "invalid_client",
                "wrong_client",
                "invalid_request",
                "invalid_scope",
                "insufficient_scope",
                "unauthorized_client",
                "unsupported_grant_type",
            ],
        ),
        (
            Class::Blocked,
            &[
                "PAYMENT_REQUIRED",
                "user_access_error",
                "ACCESS_DENIED",
                "OVERLOAD_LIMIT",
                "PORTAL_DELETED",
                "authorization_error",
                "INVALID_CREDENTIALS",
                "WRONG_AUTH_TYPE",
                "ALLOWED_ONLY_INTRANET_USER",
                "ACCESS_ERROR",
                "METHOD_CONFIRM_WAITING",
                "METHOD_CONFIRM_DENIED",
            ],
        ),
        (
            Class::Gone,
            &["NOT_INSTALLED", "ERROR_OAUTH", "APPLICATION_NOT_FOUND"],
        ),
        (
            Class::Transient,
            &[
                "CONNECTION_ERROR",
                "INTERNAL_SERVER_ERROR",
                "ERROR_UNEXPECTED_ANSWER",
                "QUERY_LIMIT_EXCEEDED",
                "OPERATION_TIME_LIMIT",
                "server_error",
                "temporarily_unavailable",
            ],
        ),
        (
            Class::Unknown,
            &[
                "ERROR_MANIFEST_IS_NOT_AVAILABLE",
                "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION",
            ],
        ),
    ];
    for (class, codes) in table {
        for code in codes {
            for status in [200, 400, 401, 403, 500, 503] {
                // 5xx takes precedence over the code, unless the profile names the status itself.
                let named = (status, *code) == (503, "OVERLOAD_LIMIT");
                let class = if status < 500 || named {
                    class
                } else {
                    Class::Transient
                };
                check(&profile, status, code, "", class);
                check(&profile, status, &code.to_lowercase(), "some words", class);
            }
        }
    }
    check(
        &profile,
        400,
        "never_heard_of",
        "some words",
        Class::Unknown,
    );
}

#[test]
fn every_documented_code_of_x_has_its_class() {
    let profile = profile("x");
    let needs = Class::NeedsAuthorization;
    for (status, error, description, class) in [
        (
            400,
            "invalid_request",
            "Value passed for the token was invalid.",
            needs,
        ),
        (
            400,
            "invalid_request",
            "Value passed for the authorization code was invalid.",
            needs,
        ),
        (
            400,
            "invalid_request",
            "Missing required parameter [client_id].",
            Class::ClientRejected,
        ),
        (400, "invalid_request", "Something else.", Class::Unknown),
        (
            401,
            "unauthorized_client",
            "Missing valid authorization header",
            Class::ClientRejected,
        ),
        (401, "anything", "", Class::ClientRejected),
        (400, "invalid_client", "", Class::ClientRejected),
        (400, "invalid_grant", "", needs),
        (503, "temporarily_unavailable", "", Class::Transient),
    ] {
        check(&profile, status, error, description, class);
    }
    let page = TokenReply {
        whole: true,
        status: 401,
        retry_after: None,
        now: Timestamp::default(),
        body: b"Unauthorized",
    };
    let Verdict::Refused(refusal) = read(&page, &profile, &[]) else {
        panic!()
    };
    assert_eq!(refusal.problem.class, Class::ClientRejected);
}
