//! `refreshd import`: accepted and refused formats, and the check of the owner.

use std::fs::File;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::{CommandOutput, Rig, SOON, domain, eventually};
use crate::interfaces::{calm, contains};

fn reply(rig: &Rig, portal: &str) -> Value {
    serde_json::from_str(&rig.install(portal)).expect("JSON")
}

/// The settings file of Bitrix24's PHP library.
fn crest_settings(rig: &Rig, portal: &str) -> String {
    let reply = reply(rig, portal);
    json!({
        "access_token": reply["access_token"], "expires_in": "3600", "application_token": "51856fefc120afa4b628cc82d3935cce",
        "refresh_token": reply["refresh_token"], "domain": domain(portal),
        "client_endpoint": format!("https://{}/rest/", domain(portal)),
    })
    .to_string()
}

/// `refreshd import PORTAL ARGUMENT`, with `stdin` on standard input.
fn import(rig: &Rig, portal: &str, argument: &str, stdin: Stdio) -> CommandOutput {
    CommandOutput::run(rig.command(["import", portal, argument]).stdin(stdin))
}

#[test]
fn every_grant_format_is_read_from_file_and_stdin() {
    let rig = calm(["acme", "globex", "initech", "hooli"]);
    let daemon = rig.start();
    // A token response, piped in.
    let ran = rig.import("acme", &rig.install("acme"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    contains(
        &ran.stderr,
        &["acme: the grant was imported and renewed (generation 2); it is of "],
    );
    assert_eq!(ran.stderr.lines().count(), 1);
    // A settings.json, by its name.
    rig.secret("settings.json", &crest_settings(&rig, "globex"));
    let path = rig.path("settings.json");
    assert_eq!(
        import(&rig, "globex", path.to_str().unwrap(), Stdio::null()).code,
        Some(0)
    );
    // A bare refresh token, as `-`.
    let bare = reply(&rig, "initech")["refresh_token"]
        .as_str()
        .unwrap()
        .to_owned();
    rig.secret("bare", &format!("{bare}\n"));
    let stdin = File::open(rig.path("bare")).unwrap();
    assert_eq!(
        import(&rig, "initech", "-", Stdio::from(stdin)).code,
        Some(0)
    );
    for portal in ["acme", "globex", "initech"] {
        rig.wait_for_generation(portal, 2);
        assert_eq!(
            rig.server.renewals(&domain(portal)),
            1,
            "{portal} is renewed at once, to prove that it lives"
        );
    }
    daemon.stop();
    // Without a daemon the command does the same.
    let ran = rig.import("hooli", &rig.install("hooli"));
    assert_eq!(ran.code, Some(0));
    contains(
        &ran.stderr,
        &["hooli: the grant was imported and renewed (generation 2)"],
    );
    assert_eq!(rig.generation("hooli"), 2);
    let daemon = rig.start();
    rig.wait_for_phase("hooli", "fresh");
    assert_eq!(rig.server.renewals(&domain("hooli")), 1);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn non_grant_exits_65_and_names_the_format() {
    let rig = calm(["acme"]);
    let long = "a".repeat((1 << 20) + 1);
    let check = |daemon: bool| {
        for (text, why) in [
            (
                r#"{"error":"invalid_grant","error_description":"x"}"#,
                "it is an error reply of the authorization server (invalid_grant)",
            ),
            (
                "neither one nor the other",
                "it is neither JSON nor a bare refresh token (one word)",
            ),
            (
                "{\"access_token\": \"6b2e06",
                "it begins like JSON but is none (line 1, column 24)",
            ),
            (
                r#"{"access_token":"6b2e0667006e9f06"}"#,
                "it has access_token but no refresh_token",
            ),
            (r#"{"name":"acme"}"#, "it has no refresh_token"),
            ("", "there is nothing in it"),
            ("  \n\t", "there is nothing in it"),
            (&long, "it is longer than 1048576 bytes"),
        ] {
            let ran = rig.import("acme", text);
            assert_eq!(ran.code, Some(65), "{why}, daemon {daemon}: {ran:?}");
            assert!(
                ran.stderr
                    .starts_with(&format!("refreshd: acme: not accepted: {why}")),
                "{}",
                ran.stderr
            );
            assert_eq!(
                ran.stderr.lines().count(),
                1,
                "nothing else is printed: {}",
                ran.stderr
            );
            assert_eq!(
                ran.stderr.matches(why).count(),
                1,
                "printed twice: {}",
                ran.stderr
            );
        }
        let status = rig.status("acme");
        assert_eq!(
            (status["phase"].as_str(), status["generation"].as_u64()),
            (Some("awaiting-authorization"), Some(0))
        );
    };
    let daemon = rig.start();
    check(true);
    daemon.stop();
    check(false);
    let ran = rig.run(["import", "acme", "/nonexistent/grant"]);
    assert_eq!(ran.code, Some(66));
    contains(&ran.stderr, &["cannot read /nonexistent/grant: "]);
    assert_eq!(rig.server.total_requests(), 0);
}

#[test]
fn one_grant_is_not_imported_for_two_portals() {
    let rig = calm(["acme", "globex"]);
    let grant = rig.install("acme");
    let daemon = rig.start();
    assert_eq!(rig.import("acme", &grant).code, Some(0));
    rig.wait_for_generation("acme", 2);
    let requests = rig.server.total_requests();
    // Also when it was rotated since.
    let current = rig.server.current_refresh(&domain("acme")).unwrap();
    for text in [&grant, &current] {
        let ran = rig.import("globex", text);
        assert_eq!(ran.code, Some(65), "{ran:?}");
        contains(
            &ran.stderr,
            &["globex: not accepted: the same refresh token belongs to acme"],
        );
    }
    daemon.stop();
    let ran = rig.import("globex", &current);
    assert_eq!(ran.code, Some(65));
    contains(&ran.stderr, &["globex: not accepted: ", "belongs to acme"]);
    assert_eq!(rig.server.total_requests(), requests);
    rig.no_violations();
}

#[test]
fn import_resumes_a_dead_grant() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    let ran = rig.import("acme", "5bad2d67006e9f06006b12e4");
    assert_eq!(
        ran.code,
        Some(65),
        "a bare word may be a token, but this one is not: {ran:?}"
    );
    contains(
        &ran.stderr,
        &[
            "the authorization server refuses it: invalid_grant",
            "refreshd authorize acme",
        ],
    );
    let status = rig.wait_for_phase("acme", "needs-authorization");
    contains(
        status["action"].as_str().unwrap(),
        &["refreshd authorize acme"],
    );
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    eventually("status 0", SOON, || rig.run(["status"]).code == Some(0));
    daemon.stop();
}

/// Dumps of the real pizauth 1.1.0; the tokens in them are made up.
const SEVERAL: &[u8] = include_bytes!("../../fixtures/pizauth-1.1.0.dump");
const ONE: &[u8] = include_bytes!("../../fixtures/pizauth-1.1.0-one.dump");

#[test]
fn pizauth_dump_is_imported_for_the_chosen_account() {
    let rig = calm(["acme", "globex", "umbrella"]);
    rig.secret_bytes("several", SEVERAL);
    rig.secret_bytes("one", ONE);
    let several = rig.path("several").to_str().unwrap().to_owned();
    let daemon = rig.start();
    // The account named like the portal. The fake server never issued this token: it is sent and rejected.
    let ran = rig.run(["import", "acme", &several]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "acme: refused: the authorization server refuses it: invalid_grant",
            "it is kept",
            "refreshd forget acme",
        ],
    );
    rig.wait_for_phase("acme", "needs-authorization");
    assert_eq!(rig.server.total_requests(), 1);
    // The only account, on standard input, whatever its name; afterwards it belongs to this portal.
    let stdin = || Stdio::from(File::open(rig.path("one")).unwrap());
    let ran = CommandOutput::run(rig.command(["import", "umbrella"]).stdin(stdin()));
    assert_eq!(ran.code, Some(65), "{ran:?}");
    let ran = CommandOutput::run(
        rig.command(["import", "globex", "--account", "work"])
            .stdin(stdin()),
    );
    assert_eq!(ran.code, Some(65));
    contains(
        &ran.stderr,
        &["globex: not accepted: the same refresh token belongs to umbrella"],
    );
    daemon.stop();
}

#[test]
fn pizauth_dump_without_a_grant_exits_65() {
    let rig = calm(["acme", "globex", "initech", "umbrella"]);
    rig.secret_bytes("several", SEVERAL);
    rig.secret_bytes("cut", &SEVERAL[..SEVERAL.len() - 1]);
    rig.secret("text", "5bad2d67");
    let daemon = rig.start();
    for (portal, file, account, why) in [
        (
            "umbrella",
            "several",
            None,
            "the dump of pizauth has several accounts; choose one with --account: acme, globex, hooli, initech",
        ),
        (
            "acme",
            "several",
            Some("acne"),
            "the dump of pizauth has no account acne, only acme, globex, hooli, initech",
        ),
        (
            "initech",
            "several",
            None,
            "account initech of pizauth has no refresh token",
        ),
        (
            "acme",
            "several",
            Some("hooli"),
            "account hooli of pizauth has no refresh token",
        ),
        (
            "globex",
            "several",
            None,
            "it belongs to another client than the app's",
        ),
        (
            "acme",
            "cut",
            None,
            "it is neither text nor a whole dump of pizauth",
        ),
        (
            "acme",
            "text",
            Some("acme"),
            "--account chooses from a dump of pizauth, and this is none",
        ),
    ] {
        let path = rig.path(file);
        let account = account.map(|account| format!("--account={account}"));
        let ran = rig.run(
            ["import", portal, path.to_str().unwrap()]
                .into_iter()
                .chain(account.as_deref()),
        );
        assert_eq!(ran.code, Some(65), "{why}: {ran:?}");
        assert!(
            ran.stderr
                .starts_with(&format!("refreshd: {portal}: not accepted: {why}")),
            "{}",
            ran.stderr
        );
        assert_eq!(
            ran.stderr.lines().count(),
            1,
            "nothing else is printed: {}",
            ran.stderr
        );
        assert_eq!(rig.status(portal)["phase"], "awaiting-authorization");
    }
    daemon.stop();
    assert_eq!(rig.server.total_requests(), 0);
}
