//! `refreshd import` over a live grant: nothing replaces it before the new grant is verified.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use refreshd_fake_server::{Fault, Reuse, Rules};
use serde_json::{Value, json};

use crate::common::{
    CLIENT_ID, CLIENT_SECRET, CommandOutput, EVERY, Rig, SOON, always, domain, eventually, is_step,
};
use crate::interfaces::{broken, calm, contains, fresh};

/// State that must not change: the portal's status and its published files.
fn status(rig: &Rig, portal: &str) -> (Value, Value, Option<Value>) {
    let view = rig.status(portal);
    (
        view["generation"].clone(),
        view["phase"].clone(),
        rig.token_json(portal),
    )
}

/// Imports with these options.
fn import(rig: &Rig, portal: &str, text: &str, options: &[&str]) -> CommandOutput {
    rig.secret("handed", text);
    let stdin = File::open(rig.path("handed")).expect("it was written");
    CommandOutput::run(
        rig.command(
            ["import", portal]
                .into_iter()
                .chain(options.iter().copied()),
        )
        .stdin(stdin),
    )
}

fn refresh_of(reply: &str) -> String {
    let reply: Value = serde_json::from_str(reply).expect("JSON");
    reply["refresh_token"]
        .as_str()
        .expect("a refresh token")
        .to_owned()
}

#[test]
fn recently_exchanged_refresh_token_is_not_resent() {
    let token_lifetime = Duration::from_secs(60);
    let mut rig = Rig::with_rules(
        ["acme"],
        Rules {
            token_lifetime,
            reuse: Reuse::RevokeFamily,
            ..Rules::default()
        },
    );
    rig.config.app().renew_every = EVERY;
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let older = rig
        .server
        .current_refresh(&domain("acme"))
        .expect("a grant");
    rig.wait_for_renewals("acme", 2);
    for options in [&[][..], &["--replace", "--yes"]] {
        let ran = import(&rig, "acme", &older, options);
        assert_eq!(ran.code, Some(65), "{ran:?}");
        contains(
            &ran.stderr,
            &[
                "exchanged for a newer one",
                "nothing was sent",
                "refreshd forget acme",
            ],
        );
    }
    // Sending it would have ended the grant at the server.
    rig.wait_for_renewals("acme", 2);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn impossible_refresh_token_is_refused_unsent() {
    let (rig, daemon) = fresh(["acme", "globex"]);
    let (before, sent) = (status(&rig, "acme"), rig.server.total_requests());
    let access = |portal: &str| fs::read_to_string(rig.token_path(portal, "token")).unwrap();
    let machine = rustix::system::uname()
        .nodename()
        .to_str()
        .unwrap()
        .to_owned();
    let (own, others) = (access("acme"), access("globex"));
    let authorize = format!(
        "https://acme.bitrix24.com/oauth/authorize/?client_id={CLIENT_ID}&response_type=code"
    );
    let words = [
        "null",
        "true",
        "false",
        "0",
        "4711",
        "None",
        "undefined",
        "Array",
        "[object Object]",
        "\"5bad2d67006e9f06006b12e4\"",
        "'5bad2d67006e9f06006b12e4'",
        "<!DOCTYPE html>",
        "<html><body>404</body></html>",
        "a=b&c=d",
        "REFRESH_TOKEN=5bad2d67006e9f06",
        "export REFRESH_TOKEN=5bad2d67006e9f06",
        "REFRESH_TOKEN",
        "${REFRESH_TOKEN}",
        "<your refresh token>",
        "changeme",
        "**********",
        "/etc/hostname",
        "./acme.refresh",
        "Bearer 5bad2d67006e9f06",
        "https://app.example/cb?code=6dm7bdbh&state=x",
        &authorize,
        "1%2F%2F0gabcdefgh12345",
        "several words of prose",
        "refresh_token=",
        "foo/bar",
        "@/etc/refreshd/token",
        "bool(false)",
        "%PDF-1.4",
        "#!/bin/sh",
        r#"{"refresh_token":"\"5bad2d67006e9f06\""}"#,
        r#"{"refresh_token":"REFRESH_TOKEN=5bad2d67006e9f06"}"#,
        &CLIENT_SECRET.to_uppercase(),
        &machine,
        CLIENT_ID,
        CLIENT_SECRET,
        &own,
        &others,
        "acme.bitrix24.com",
        r#"{"refresh_token":"null"}"#,
        r#"{"refresh_token":null,"access_token":"x"}"#,
        r#"["5bad2d67006e9f06"]"#,
        &json!({ "refresh_token": own }).to_string(),
        &json!({ "refresh_token": CLIENT_SECRET }).to_string(),
        &json!({ "access_token": "a b", "refresh_token": "5bad 2d67" }).to_string(),
    ]
    .map(str::to_owned);
    let check = |with: &str| {
        for word in &words {
            let ran = rig.import("acme", &format!("{word}\n"));
            assert_eq!(ran.code, Some(65), "{with}: {word}: {ran:?}");
            assert!(
                ran.stderr.starts_with("refreshd: acme: not accepted: "),
                "{word}: {}",
                ran.stderr
            );
            assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
            assert!(
                !ran.stderr.contains(CLIENT_SECRET) && !ran.stderr.contains(&own),
                "{}",
                ran.stderr
            );
        }
        assert_eq!(
            (status(&rig, "acme"), rig.server.total_requests()),
            (before.clone(), sent),
            "{with}"
        );
    };
    check("with a daemon");
    // The client secret's own file, and a file of the portal.
    for file in ["crm.secret", "tokens/acme/token", "tokens/acme/token.json"] {
        let ran = rig.run(["import", "acme", rig.path(file).to_str().unwrap()]);
        assert_eq!(ran.code, Some(65), "{file}: {ran:?}");
    }
    daemon.stop();
    check("without one");
    rig.no_violations();
}

#[test]
fn rejected_grant_leaves_the_live_one_and_reports_the_error() {
    let (rig, daemon) = fresh(["acme"]);
    let before = status(&rig, "acme");
    let ran = rig.import("acme", "5bad2d67006e9f06006b12e4");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "acme: not accepted: the authorization server refuses it: invalid_grant",
            "the grant that acme has stays as it is",
        ],
    );
    assert_eq!(status(&rig, "acme"), before);
    assert_eq!(rig.status("acme")["candidate"], Value::Null);
    assert_eq!(
        rig.requests("acme"),
        1,
        "the word was sent without a portal"
    );
    daemon.wait_for("the log line", |event| {
        is_step(event, "candidate-refused") && event["portal"] == "acme"
    });
    let ran = import(&rig, "acme", "5bad2d67006e9f06006b12e4", &["--json"]);
    let outcome: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, outcome["outcome"].as_str()),
        (Some(65), Some("refused")),
        "{ran:?}"
    );
    assert_eq!(
        rig.run(["renew", "acme"]).code,
        Some(0),
        "the old one is whole"
    );
    daemon.stop();
    let before = status(&rig, "acme");
    let ran = rig.import("acme", "5bad2d67006e9f06006b12e5");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &["refuses it: invalid_grant", "stays as it is"],
    );
    assert_eq!(status(&rig, "acme"), before);
    rig.no_violations();
}

#[test]
fn accepted_grant_replaces_the_live_one() {
    let (rig, daemon) = fresh(["acme"]);
    let ran = rig.import("acme", &refresh_of(&rig.install("acme")));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "acme: the grant was imported and renewed (generation 3)",
            "https://acme.bitrix24.com/rest/",
        ],
    );
    assert_eq!(rig.generation("acme"), 3);
    assert!(rig.has_working_token("acme"));
    let ran = import(&rig, "acme", &rig.install("acme"), &["--json"]);
    let outcome: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (outcome["outcome"].as_str(), outcome["generation"].as_u64()),
        (Some("renewed"), Some(4)),
        "{outcome}"
    );
    assert!(
        outcome["identity"].is_string() && ran.code == Some(0),
        "{outcome}"
    );
    // Its own refresh token again: the grant is renewed, and the token is not sent twice.
    let own = rig.server.current_refresh(&domain("acme")).unwrap();
    assert_eq!(rig.import("acme", &own).code, Some(0));
    daemon.stop();
    let ran = rig.import("acme", &rig.install("acme"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(&ran.stderr, &["imported and renewed"]);
    let generation = rig.generation("acme");
    let daemon = rig.start();
    assert_eq!(rig.generation("acme"), generation);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn grant_of_another_portal_requires_replace() {
    let (rig, daemon) = fresh(["acme"]);
    let before = status(&rig, "acme");
    let member = rig.status("acme")["identity"].as_str().unwrap().to_owned();
    let sent = rig.server.total_requests();
    let whole = rig.install("globex");
    let other = serde_json::from_str::<Value>(&whole).unwrap()["member_id"]
        .as_str()
        .unwrap()
        .to_owned();
    // The import itself names the owner: nothing is sent.
    for (text, whose) in [
        (whole.clone(), "globex.bitrix24.com"),
        (json!({"refreshToken": refresh_of(&whole), "memberId": other}).to_string(), other.as_str()),
        (
            json!({"auth_token": {"refresh_token": refresh_of(&whole)}, "domain_url": "https://globex.bitrix24.com"}).to_string(),
            "globex.bitrix24.com",
        ),
    ] {
        let ran = rig.import("acme", &text);
        assert_eq!(ran.code, Some(65), "{ran:?}");
        contains(&ran.stderr, &["it is the grant of ", whose, "acme", "refreshd import acme --replace"]);
    }
    let ran = rig.import("acme", &whole);
    contains(&ran.stderr, &[&other, &member]);
    assert_eq!(rig.server.total_requests(), sent);
    // The server's response names the owner.
    let ran = rig.import("acme", &refresh_of(&rig.install("globex")));
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(&ran.stderr, &[&other, &member]);
    assert_eq!(status(&rig, "acme"), before);
    assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
    // This needs a confirmation.
    let text = rig.install("globex");
    let ran = import(&rig, "acme", &text, &["--replace"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    let ran = import(&rig, "acme", &text, &["--replace", "--yes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        rig.status("acme")["identity"].as_str(),
        Some(other.as_str())
    );
    assert_eq!(
        rig.token_json("acme").unwrap()["endpoint"],
        "https://globex.bitrix24.com/rest/"
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn superseded_pair_is_imported_for_its_own_portal() {
    let mut rig = calm(["acme", "globex"]);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let before = status(&rig, "acme");
    let word = refresh_of(&rig.install("globex"));
    let ran = rig.import("acme", &word);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "its new pair is put aside",
            "refreshd import THAT-PORTAL --aside-of acme",
            "refreshd import acme --aside-of acme",
        ],
    );
    assert!(
        !ran.stderr.contains("--replace"),
        "a spent token is not to be sent again: {ran:?}"
    );
    let ran = rig.run(["import", "globex", "--aside-of", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(rig.has_working_token("globex"));
    assert_eq!(status(&rig, "acme"), before);
    let ran = rig.run(["import", "globex", "--aside-of", "acme"]);
    assert_eq!(ran.code, Some(66), "it is taken out then: {ran:?}");
    // The right portal accepts it.
    let ran = rig.import("acme", &refresh_of(&rig.install("initech")));
    assert_eq!(ran.code, Some(65), "{ran:?}");
    daemon.stop();
    let ran = rig.run(["import", "acme", "--aside-of", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        rig.token_json("acme").unwrap()["endpoint"],
        "https://initech.bitrix24.com/rest/"
    );
    // The operator requested each exchange, however soon.
    let soon = |what: &String| what.contains("renewed twice within a tenth");
    let noticed = rig.server.take_violations();
    assert!(noticed.iter().all(soon), "{noticed:?}");
}

#[test]
fn other_host_is_refused_where_no_owner_is_known() {
    let mut rig = calm(["acme"]);
    rig.authorizes_here();
    let daemon = rig.start();
    let whole = rig.install("globex");
    let ran = rig.import("acme", &whole);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "globex.bitrix24.com",
            "acme is acme.bitrix24.com",
            "`domain`",
            "`member_id`",
        ],
    );
    assert_eq!(rig.server.total_requests(), 0);
    // The code of another portal's administrator.
    let code = rig.server.authorize(&domain("globex"), CLIENT_ID);
    let ran = rig.run(["authorize", "acme", "--code", &code]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "globex.bitrix24.com",
            "acme is acme.bitrix24.com",
            "`member_id`",
        ],
    );
    assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
    // A bare token names no owner; the first response reveals it.
    let ran = rig.import("acme", &refresh_of(&whole));
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &["globex.bitrix24.com", "acme is acme.bitrix24.com"],
    );
    assert!(
        rig.token_json("acme").is_none(),
        "readers never have another portal's token"
    );
    // A renamed portal is the same portal: the identity decides.
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.server.rename(&domain("acme"), "umbrella.bitrix24.com");
    assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
    assert_eq!(rig.import("acme", &rig.install("umbrella")).code, Some(0));
    assert_eq!(
        rig.token_json("acme").unwrap()["endpoint"],
        "https://umbrella.bitrix24.com/rest/"
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn dead_grant_is_not_reported_as_staying_in_force() {
    let dead = || Fault::Refuse {
        status: 400,
        error: "invalid_grant".to_owned(),
        description: String::new(),
    };
    let mut rig = calm(["acme"]);
    rig.grant("acme");
    rig.fail("acme", dead(), 1);
    let daemon = rig.start();
    rig.wait_for_phase("acme", "needs-authorization");
    rig.fail("acme", dead(), 1);
    let ran = rig.import("acme", &rig.install("acme"));
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "does not work either (needs-authorization)",
            "refreshd authorize acme",
        ],
    );
    rig.fail("acme", broken(), u32::MAX);
    let ran = rig.import("acme", &rig.install("acme"));
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &["the grant is stored", "does not work (needs-authorization)"],
    );
    assert!(!ran.stderr.contains("stays in force"), "{ran:?}");
    daemon.stop();
}

#[test]
fn unverifiable_grant_waits_beside_the_live_one() {
    let (rig, daemon) = fresh(["acme"]);
    let before = status(&rig, "acme");
    rig.fail("acme", broken(), u32::MAX);
    let text = rig.install("acme");
    let ran = rig.import("acme", &text);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "acme: the grant is stored",
            "the grant that acme has stays in force",
            "tried again at",
        ],
    );
    assert_eq!(status(&rig, "acme"), before);
    let candidate = rig.status("acme")["candidate"].clone();
    assert_eq!(
        (candidate["origin"].as_str(), candidate["phase"].as_str()),
        (Some("import"), Some("retrying"))
    );
    assert!(
        candidate["since"].is_string() && candidate["next_try"].is_string(),
        "{candidate}"
    );
    contains(
        &rig.run(["status"]).stdout,
        &["acme: a candidate was received (import)"],
    );
    contains(&rig.http("/").1, &["candidate: received"]);
    // A newer candidate does not replace an older one by accident: the older may be the valid one.
    let newer = rig.install("acme");
    let ran = import(&rig, "acme", &newer, &["--json"]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "acme: another candidate grant was received at 20",
            "nothing was accepted",
            "refreshd import acme --replace",
        ],
    );
    // The first candidate is retried meanwhile, and is still there.
    assert_eq!(rig.status("acme")["candidate"]["since"], candidate["since"]);
    let ran = import(&rig, "acme", &newer, &["--json", "--replace", "--yes"]);
    let outcome: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, outcome["outcome"].as_str()),
        (Some(75), Some("pending")),
        "{outcome}"
    );
    daemon.stop();
    let daemon = rig.start();
    rig.heal("acme");
    rig.wait_for_generation("acme", 3);
    eventually("no candidate is left", SOON, || {
        rig.status("acme")["candidate"].is_null()
    });
    assert!(rig.server.current_refresh(&domain("acme")).is_some());
    // `forget` removes a candidate, too.
    rig.fail("acme", broken(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    assert_eq!(rig.status("acme")["candidate"], Value::Null);
    rig.heal("acme");
    let sent = rig.requests("acme");
    always("nothing is sent for it", EVERY, || {
        rig.requests("acme") == sent
    });
    daemon.stop();
    rig.no_violations();
}

#[test]
fn disconnecting_does_not_stop_a_verification() {
    let (rig, daemon) = fresh(["acme"]);
    let sent = rig.requests("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    rig.secret("handed", &rig.install("acme"));
    let stdin = Stdio::from(File::open(rig.path("handed")).expect("it was written"));
    let mut command = rig.command(["import", "acme"]);
    let mut child = command.stdin(stdin).stderr(Stdio::null()).spawn().unwrap();
    eventually("the request has left", SOON, || rig.requests("acme") > sent);
    child.kill().unwrap();
    child.wait().unwrap();
    // SIGTERM waits for it, too.
    daemon.stop();
    assert_eq!(rig.generation("acme"), 3);
    let daemon = rig.start();
    assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn common_grant_sources_are_imported() {
    let rig = calm(["event", "form", "saved", "php", "js", "python"]);
    let daemon = rig.start();
    let grant = |portal: &str| serde_json::from_str::<Value>(&rig.install(portal)).unwrap();
    let query = |pairs: &[(&str, &str)]| {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs).finish()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let event =
        json!({"event": "ONAPPINSTALL", "ts": "1728454747", "auth": grant("event")}).to_string();
    let form = grant("form");
    let (auth, refresh, member) = (
        text(&form["access_token"]),
        text(&form["refresh_token"]),
        text(&form["member_id"]),
    );
    let form = query(&[
        ("AUTH_ID", &auth),
        ("AUTH_EXPIRES", "3600"),
        ("REFRESH_ID", &refresh),
        ("member_id", &member),
        ("DOMAIN", "form.bitrix24.com"),
        ("PLACEMENT", "DEFAULT"),
    ]);
    let saved = grant("saved");
    let (auth, refresh, member) = (
        text(&saved["access_token"]),
        text(&saved["refresh_token"]),
        text(&saved["member_id"]),
    );
    let saved = query(&[
        ("event", "ONAPPINSTALL"),
        ("auth[access_token]", &auth),
        ("auth[refresh_token]", &refresh),
        ("auth[member_id]", &member),
        ("auth[client_endpoint]", "https://saved.bitrix24.com/rest/"),
    ]);
    let php = grant("php");
    let php = json!({"auth_token": {"access_token": php["access_token"], "refresh_token": php["refresh_token"],
        "expires": 1}, "domain_url": "https://php.bitrix24.com", "application_token": "x"});
    let js = grant("js");
    let js = json!({"accessToken": js["access_token"], "refreshToken": js["refresh_token"], "memberId": js["member_id"],
        "clientEndpoint": js["client_endpoint"], "expires": 1, "expiresIn": 3600});
    let python = grant("python");
    let python = json!({"oauth_token": {"access_token": python["access_token"], "refresh_token": python["refresh_token"]},
        "member_id": python["member_id"], "client_endpoint": python["client_endpoint"]});
    for (portal, text) in [
        ("event", event),
        ("form", form),
        ("saved", saved),
        ("php", php.to_string()),
        ("js", js.to_string()),
        ("python", python.to_string()),
    ] {
        let ran = rig.import(portal, &text);
        assert_eq!(ran.code, Some(0), "{portal}: {ran:?}");
        rig.wait_for_phase(portal, "fresh");
    }
    for (text, why) in [
        (
            r#"{"auth":{"access_token":"a"}}"#,
            "it has auth.access_token but no auth.refresh_token",
        ),
        (
            "AUTH_ID=a&AUTH_EXPIRES=3600",
            "it has AUTH_ID but no REFRESH_ID",
        ),
        (
            r#"{"accessToken":"a"}"#,
            "it has accessToken but no refreshToken",
        ),
        (r#"{"refresh_token":""}"#, "its refresh_token is empty"),
    ] {
        let ran = rig.import("js", text);
        assert_eq!(ran.code, Some(65));
        contains(&ran.stderr, &[why]);
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn wrapped_bytes_are_imported_with_and_without_a_daemon() {
    let names = ["notice", "jsonp", "packed", "wide", "long", "broken"];
    let rig = calm(names);
    let replies: Vec<_> = names
        .iter()
        .map(|name| {
            let reply = rig.install(name);
            let bytes = match *name {
                "notice" => format!(
                    "<br />\n<b>Notice</b>: x in <b>/srv/a.php</b> on line <b>3</b><br />\n{reply}"
                )
                .into_bytes(),
                "jsonp" => format!("cb({reply});").into_bytes(),
                "packed" => {
                    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
                    packed.write_all(reply.as_bytes()).unwrap();
                    packed.finish().unwrap()
                }
                "wide" => reply.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                "long" => reply
                    .replacen('{', &format!("{{\"x\":\"{}\",", "y".repeat(900_000)), 1)
                    .into_bytes(),
                _ => [
                    reply.trim_end().trim_end_matches('}').as_bytes(),
                    b",\"name\":\"M\xfcller\x01\"}\0",
                ]
                .concat(),
            };
            (*name, bytes)
        })
        .collect();
    let import = |(name, bytes): &(&str, Vec<u8>)| {
        rig.secret_bytes("reply", bytes);
        let ran = rig.run(["import", name, rig.path("reply").to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "{name}: {ran:?}");
    };
    let (with, without) = replies.split_at(3);
    let daemon = rig.start();
    with.iter().for_each(import);
    daemon.stop();
    without.iter().for_each(import);
    rig.no_violations();
}

#[test]
fn first_token_file_brings_a_candidate() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let named = daemon.events(|event| {
        let text = event["message"].as_str().unwrap_or_default();
        text.contains("its refresh_token_file was accepted; delete ")
    });
    assert_eq!(
        named.len(),
        1,
        "the first token's file is of no use any more"
    );
    // The grant dies; the next token in the file is unknown to the server.
    let dead = Fault::Refuse {
        status: 400,
        error: "invalid_grant".into(),
        description: String::new(),
    };
    rig.fail("acme", dead, u32::MAX);
    rig.secret("acme.refresh", "5bad2d67006e9f06006b12e4");
    rig.wait_for_phase("acme", "needs-authorization");
    daemon.wait_for("a refusal", |event| is_step(event, "candidate-refused"));
    let known = || rig.server.total_requests() - rig.requests("acme");
    let sent = known();
    always("it is not sent again", Duration::from_secs(8), || {
        known() == sent
    });
    let view = rig.status("acme");
    contains(
        view["notice"].as_str().expect("a notice"),
        &[
            "acme.refresh is not used: the authorization server has refused the token in it",
            "refreshd authorize acme",
        ],
    );
    rig.heal("acme");
    let before = daemon.mark();
    rig.grant("acme");
    rig.wait_for_phase("acme", "fresh");
    daemon.wait_after(before, SOON, "the file is named", |event| {
        event["message"]
            .as_str()
            .unwrap_or_default()
            .contains("its refresh_token_file was accepted")
    });
    daemon.stop();
}
