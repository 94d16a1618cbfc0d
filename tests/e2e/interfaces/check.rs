//! `refreshd check`, and `run` on the same problems: all of them at once, with their positions and exit code 78.

use std::net::TcpListener;
use std::process::Command;

use crate::common::hostile::{Behaviour, Hostile};
use crate::common::{CLIENT_ID, CommandOutput, Rig, SOON, domain, eventually};
use crate::interfaces::{calm, contains};

fn check(rig: &Rig, arguments: &[&str]) -> CommandOutput {
    rig.write_config();
    rig.run(["check"].iter().chain(arguments).copied())
}

#[test]
fn valid_configuration_exits_0_and_creates_nothing() {
    let rig = calm(["acme", "globex"]);
    let ran = check(&rig, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    contains(
        &ran.stderr,
        &[
            "refreshd.toml: no problems; 2 portals, 1 app; the state ",
            "is not there yet",
        ],
    );
    assert!(
        !rig.path("state.db").exists() && !rig.path("tokens").exists(),
        "check changes nothing"
    );
    rig.start().stop();
    let ran = check(&rig, &[]);
    assert_eq!(ran.code, Some(0));
    contains(&ran.stderr, &["is schema version "]);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
}

#[test]
fn all_problems_are_reported_with_their_positions() {
    let mut rig = calm(["acme", "globex"]);
    rig.config.app().more = "client_secrt_file = \"x\"".to_owned();
    rig.config.portal("globex").app = "crn".to_owned();
    rig.config.portal("acme").more = "renew_every = \"soon\"".to_owned();
    rig.write_config();
    let config = rig.config.to_string();
    let place = |text: &str| {
        let at = config.find(text).expect("it is there");
        let line = config[..at].matches('\n').count() + 1;
        let column = at - config[..at].rfind('\n').map_or(0, |newline| newline + 1) + 1;
        format!("refreshd.toml:{line}:{column}: ")
    };
    for command in ["check", "run", "status"] {
        let ran = rig.run([command]);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(78), ""),
            "{command}: {ran:?}"
        );
        contains(
            &ran.stderr,
            &["refreshd: 3 problems in the configuration\n"],
        );
        contains(
            &ran.stderr,
            &[
                &place("client_secrt_file"),
                "did you mean `client_secret_file`?",
            ],
        );
        contains(&ran.stderr, &[&place("\"crn\""), "did you mean `crm`?"]);
        contains(&ran.stderr, &[&place("\"soon\"")]);
    }
    assert!(!rig.path("state.db").exists());
}

#[test]
fn newer_state_exits_78_and_is_left_untouched() {
    let rig = calm(["acme"]);
    rig.start().stop();
    let state = rig.path("state.db");
    let connection = rusqlite::Connection::open(&state).unwrap();
    connection
        .pragma_update(None, "user_version", 4000)
        .unwrap();
    connection.close().unwrap();
    let before = std::fs::read(&state).unwrap();
    for command in ["check", "run", "status"] {
        let ran = rig.run([command]);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(78), ""),
            "{command}: {ran:?}"
        );
        contains(&ran.stderr, &["has schema version 4000", "left untouched"]);
    }
    assert!(
        std::fs::read(&state).unwrap() == before,
        "the newer state was changed"
    );
}

#[test]
fn online_reports_every_server() {
    let mut rig = calm(["acme"]);
    let url = rig.config.app().token_url.clone();
    let ran = check(&rig, &["--online"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(&ran.stderr, &[&format!("{url}: answers")]);
    // A port that was free just before.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let closed = format!("http://127.0.0.1:{port}/oauth/token/");
    rig.config.app().token_url.clone_from(&closed);
    let ran = check(&rig, &["--online"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    contains(
        &ran.stderr,
        &["no problems", &format!("{closed}: does not answer")],
    );
    let answer = "HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.example/?code=x\r\nConnection: close\r\n\r\n";
    let moved = Hostile::listen("127.0.0.1:0", move |_| Behaviour::Close(answer.into()));
    rig.config.app().token_url = moved.token_url();
    let ran = check(&rig, &["--online"]);
    contains(
        &ran.stderr,
        &["(status 301 to HEAD, a redirect to elsewhere.example)"],
    );
    rig.no_violations();
}

#[test]
fn missing_configuration_fails() {
    for command in ["run", "check", "status"] {
        let mut binary = Command::new(env!("CARGO_BIN_EXE_refreshd"));
        let arguments = [command, "--config", "/nonexistent/refreshd.toml"];
        let ran = CommandOutput::run(binary.env_clear().args(arguments));
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(78), ""),
            "{command}: {ran:?}"
        );
        contains(
            &ran.stderr,
            &["/nonexistent/refreshd.toml:1:1: this file cannot be read"],
        );
    }
}

#[test]
fn damaged_secret_is_named_and_the_start_continues() {
    let mut rig = calm(["acme"]);
    rig.grant("acme");
    for (secret, what) in [
        (
            "\u{feff}c1ientSecret0OfTheTests0123456789",
            "byte order mark",
        ),
        ("\"c1ientSecret0OfTheTests0123456789\"", "stands in quotes"),
        (
            "c1ientSecret0OfTheTests0123456789\nc1ientSecret0\n",
            "more than one line",
        ),
        (
            "C_REST_CLIENT_SECRET=c1ientSecret0OfTheTests0123456789",
            "NAME=value",
        ),
        ("{\"client_secret\": \"c1ientSecret0\"}", "is JSON"),
        ("${CLIENT_SECRET}", "placeholder"),
        ("c1ient\u{200b}Secret0", "not seen"),
        ("c1ientSecret\0", "NUL"),
        ("\"c1ientSecret0OfTheTests0123456789", "quote at one end"),
        ("c1ientSecret0OfTheTests0123456789,", "a comma"),
        ("c1ientSecret0OfTheTests0123456789\\n", "backslash"),
        ("ENC[AES256_GCM,data:c1ient,tag:z]", "vault"),
        ("op://c1ient/crm/secret", "vault"),
        ("/etc/refreshd/c1ient.secret", "name of a file"),
        ("https://c1ient.example/secret", "an address"),
        ("__CLIENT_SECRET__", "placeholder"),
        (
            &format!("{CLIENT_ID}:c1ientSecret0OfTheTests"),
            "begins with the client_id",
        ),
    ] {
        rig.secret("crm.secret", secret);
        let ran = check(&rig, &[]);
        assert_eq!(ran.code, Some(78), "{secret:?}: {ran:?}");
        let config = rig.config.to_string();
        let line = config[..config.find("\"crm.secret\"").unwrap()]
            .matches('\n')
            .count()
            + 1;
        contains(
            &ran.stderr,
            &[
                "1 problem in the configuration",
                &format!("refreshd.toml:{line}:"),
                "`client_secret_file`",
                what,
            ],
        );
        assert!(!ran.stderr.contains("c1ient"), "a secret is shown: {ran:?}");
    }
    // UTF-16, as Notepad writes it, is accepted.
    let wide = "c1ientSecret0OfTheTests0123456789\r\n".encode_utf16();
    let wide: Vec<u8> = std::iter::once(0xfeff)
        .chain(wide)
        .flat_map(u16::to_le_bytes)
        .collect();
    rig.secret_bytes("crm.secret", &wide);
    assert_eq!(check(&rig, &[]).code, Some(0));
    // A CRLF line end is no damage.
    rig.secret("crm.secret", "c1ientSecret0OfTheTests0123456789\r\n");
    assert_eq!(check(&rig, &[]).code, Some(0));
    // Inline and in a variable as well.
    let more = rig.config.app().more.clone();
    for (key, value) in [
        ("client_secret", "'s3cret'"),
        ("client_secret_env", "DAMAGED"),
    ] {
        let text = rig.config.to_string().replace(
            "client_secret_file = \"crm.secret\"",
            &format!("{key} = \"{value}\""),
        );
        rig.secret("refreshd.toml", &text);
        let mut command = rig.command(["check"]);
        let ran = CommandOutput::run(command.env("DAMAGED", "\"s3cret\""));
        assert_eq!(ran.code, Some(78), "{key}: {ran:?}");
        contains(&ran.stderr, &[&format!("`{key}`"), "stands in quotes"]);
    }
    rig.config.app().more = more;
    // A daemon started with it runs the portals of other apps, and logs the problem first.
    rig.secret("crm.secret", "\"c1ientSecret0OfTheTests0123456789\"");
    let daemon = rig.start();
    let event = daemon.wait_for("the damage", |event| {
        crate::common::message_contains(event, "stands in quotes")
    });
    assert_eq!(event["level"], "ERROR");
    daemon.stop();
}

#[test]
fn online_discovers_endpoints_of_an_issuer() {
    let server = crate::common::strict::Strict::listen();
    let mut rig = calm([]);
    rig.config.apps.clear();
    rig.config.more = format!(
        "[portals.news]\nprovider = 'own'\nclient_id = 'n'\nclient_secret_file = 'crm.secret'\n[providers.own]\nissuer = '{}'\n",
        server.origin
    );
    let ran = check(&rig, &["--online"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    contains(
        &ran.stderr,
        &[&format!("{}: its metadata is not known", server.origin)],
    );
    let metadata = serde_json::json!({
        "issuer": server.origin, "token_endpoint": format!("{}/token", server.origin),
        "authorization_endpoint": format!("{}/authorize", server.origin),
    });
    // The test's server closes each connection, which the client may see as a reset.
    let ran = eventually("its metadata", SOON, || {
        server.respond(
            "/.well-known/oauth-authorization-server",
            200,
            metadata.clone(),
        );
        Some(check(&rig, &["--online"])).filter(|ran| ran.code == Some(0))
    });
    contains(
        &ran.stderr,
        &[
            "serves its metadata",
            &format!("{}/token: answers", server.origin),
        ],
    );
    assert!(!rig.path("state.db").exists());
}

#[test]
fn damaged_client_id_is_named() {
    let rig = calm(["acme"]);
    let config = rig.config.to_string();
    for (id, what) in [
        ("\\\"local.1\\\"", "stands in quotes"),
        ("local.1\\n", "white space around it"),
        ("local\\u200b.1", "not seen"),
        ("${CLIENT_ID}", "placeholder"),
        ("CLIENT_ID=local.1", "NAME=value"),
        ("local.1\\nlocal.2", "more than one line"),
    ] {
        let text = config.replace(
            &format!("client_id = \"{CLIENT_ID}\""),
            &format!("client_id = \"{id}\""),
        );
        rig.secret("refreshd.toml", &text);
        let ran = rig.run(["check"]);
        assert_eq!(ran.code, Some(78), "{id}: {ran:?}");
        contains(&ran.stderr, &["1 problem", "`client_id` ", what]);
    }
}

#[test]
fn unreadable_portal_file_stops_no_other_portal() {
    let mut rig = calm(["acme", "globex", "hooli"]);
    for portal in ["acme", "globex", "hooli"] {
        rig.grant(portal);
    }
    let token = rig
        .server
        .current_refresh(&domain("acme"))
        .expect("a refresh token");
    let wide: Vec<u8> = std::iter::once(0xfeff)
        .chain(format!("{token}\r\n").encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    rig.secret_bytes("acme.refresh", &wide);
    rig.secret_bytes("globex.refresh", b"\xff\x00\xc3\x28");
    rig.write_config();
    let ran = rig.run(["check"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "1 problem",
            "`refresh_token_file`",
            "globex.refresh is not UTF-8",
        ],
    );
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    rig.wait_for_generation("hooli", 2);
    let view = rig.status("globex");
    assert_eq!(view["phase"], "awaiting-authorization", "{view}");
    let notice = view["notice"].as_str().expect("a notice");
    contains(
        notice,
        &["globex.refresh is not used: it has characters that no refresh token has"],
    );
    daemon.stop();
}

fn json(ran: &CommandOutput) -> serde_json::Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no JSON: {ran:?}"))
}

#[test]
fn json_contains_every_finding_with_position_and_severity() {
    let mut rig = calm(["acme"]);
    let ran = check(&rig, &["--json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let told = json(&ran);
    assert_eq!(
        (
            &told["version"],
            &told["ok"],
            &told["portals"],
            &told["apps"]
        ),
        (&1.into(), &true.into(), &1.into(), &1.into())
    );
    let findings = told["findings"].as_array().expect("a list");
    assert!(
        !findings.is_empty()
            && findings
                .iter()
                .all(|finding| finding["severity"] == "warning"),
        "its directories are not there yet: {told}"
    );
    assert!(findings.iter().all(|finding| finding["line"].is_null()));
    rig.config.portal("acme").app = "crn".to_owned();
    rig.config.app().more = "client_secrt_file = \"x\"".to_owned();
    let ran = check(&rig, &["--json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(78), ""), "{ran:?}");
    let told = json(&ran);
    assert_eq!(told["ok"], false);
    let findings = told["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 2, "{told}");
    let config = rig.config.to_string();
    let line = |text: &str| {
        config
            .lines()
            .position(|line| line.contains(text))
            .map(|at| at as u64 + 1)
    };
    let of = |text: &str| {
        findings
            .iter()
            .find(|finding| {
                finding["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(text))
            })
            .unwrap_or_else(|| panic!("no finding on {text}: {told}"))
    };
    assert_eq!(of("crn")["line"].as_u64(), line("\"crn\""));
    assert_eq!(
        of("client_secrt_file")["line"].as_u64(),
        line("client_secrt_file")
    );
    assert_eq!(of("crn")["column"], 7);
    // What is not about a place in a file.
    rig.config.portal("acme").app = "crm".to_owned();
    rig.config.app().more.clear();
    rig.secret(
        "state.db",
        "this is no database, though it is long enough to be looked at as one",
    );
    let ran = check(&rig, &["--json"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    let told = json(&ran);
    let last = told["findings"]
        .as_array()
        .and_then(|found| found.last())
        .expect("a finding");
    assert!(
        last["severity"] == "error" && last["file"].is_null(),
        "{told}"
    );
}

#[test]
fn missing_secrets_are_listed_and_the_rest_is_checked() {
    let mut rig = calm(["acme", "globex"]);
    rig.config.portal("globex").refresh_token_file = true;
    rig.config.more = "[channels.ops]\nkind = \"webhook\"\nurl_file = \"ops.url\"\n\
        [channels.duty]\nkind = \"pagerduty\"\nrouting_key_env = \"DUTY\"\n\
        [channels.chat]\nkind = \"telegram\"\nchat_id = 7\nbot_token_credential = \"bot\"\n\
        [channels.mail]\nkind = \"email\"\nsmtp = \"mail.example.org:587\"\nuser = \"u\"\npassword_file = \"mail.password\"\n\
        from = \"refreshd@example.org\"\nto = [\"ops@example.org\"]\n"
        .to_owned();
    std::fs::remove_file(rig.path("crm.secret")).expect("it is there");
    assert_eq!(check(&rig, &[]).code, Some(78));
    let ran = check(&rig, &["--without-secrets"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "no problems; 2 portals, 1 app; 6 secrets not checked",
            "crm.secret cannot be read",
        ],
    );
    let told = json(&check(&rig, &["--without-secrets", "--json"]));
    assert_eq!(told["ok"], true, "{told}");
    let findings = told["findings"].as_array().expect("a list");
    let unchecked = |finding: &&serde_json::Value| finding["severity"] == "unchecked";
    let unchecked: Vec<_> = findings.iter().filter(unchecked).collect();
    assert_eq!(unchecked.len(), 6, "{told}");
    assert_eq!(findings.len(), 6, "nothing is said of this machine: {told}");
    for key in [
        "client_secret_file",
        "refresh_token_file",
        "url_file",
        "routing_key_env",
        "bot_token_credential",
        "password_file",
    ] {
        let named = |finding: &&&serde_json::Value| {
            finding["message"]
                .as_str()
                .is_some_and(|text| text.starts_with(&format!("`{key}`: ")))
        };
        let found = unchecked
            .iter()
            .find(named)
            .unwrap_or_else(|| panic!("{key}: {told}"));
        assert!(found["line"].as_u64() > Some(1), "{found}");
    }
    // A secret that is there is looked at, and so is all the rest.
    rig.secret("crm.secret", "\"c1ientSecret0OfTheTests0123456789\"");
    rig.config.portal("acme").app = "crn".to_owned();
    let ran = check(&rig, &["--without-secrets"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(&ran.stderr, &["stands in quotes", "did you mean `crm`?"]);
    let ran = check(&rig, &["--without-secrets", "--online"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
}
