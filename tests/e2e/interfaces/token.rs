//! `refreshd token`: the access token in every format, renewed first if necessary, or exit code 75.

use std::fs;
use std::time::Duration;

use refreshd_fake_server::At;
use serde_json::Value;

use crate::common::{Rig, domain, eventually};
use crate::interfaces::{broken, calm, contains, fresh};

#[test]
fn every_format_prints_the_published_token_unsent() {
    let (rig, daemon) = fresh(["acme"]);
    let sent = rig.server.total_requests();
    let check = || {
        let token = fs::read_to_string(rig.token_path("acme", "token")).unwrap();
        let raw = rig.run(["token", "acme"]);
        assert_eq!(
            (raw.code, raw.stdout, raw.stderr.as_str()),
            (Some(0), format!("{token}\n"), "")
        );
        let json = rig.run(["token", "acme", "--format", "json"]);
        assert_eq!(
            serde_json::from_str::<Value>(&json.stdout).unwrap(),
            rig.token_json("acme").unwrap()
        );
        let header = rig.run(["token", "acme", "--format", "header"]);
        assert_eq!(header.stdout, format!("Authorization: Bearer {token}\n"));
        let env = rig.run(["token", "acme", "--format", "env"]);
        contains(
            &env.stdout,
            &[
                &format!("\nREFRESHD_ACCESS_TOKEN='{token}'\n"),
                "REFRESHD_PORTAL='acme'\n",
            ],
        );
        contains(
            &env.stdout,
            &["REFRESHD_ENDPOINT='https://acme.bitrix24.com/rest/'\n"],
        );
    };
    check();
    daemon.stop();
    check();
    assert_eq!(rig.server.total_requests(), sent);
    rig.no_violations();
}

#[test]
fn too_little_time_left_renews_first() {
    let life = Duration::from_secs(30);
    let mut rig = Rig::with_lifetime(["acme"], life);
    rig.config.app().renew_every = Duration::from_secs(25);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let first = rig.run(["token", "acme", "--min-valid", "1s"]);
    assert_eq!(rig.server.renewals(&domain("acme")), 1);
    // Renewed just before, it is as fresh as possible; from a tenth of its life on it is renewed on request.
    let second = eventually("a renewal for the asking", Duration::from_secs(15), || {
        let ran = rig.run(["token", "acme", "--min-valid", "29s"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        (rig.server.renewals(&domain("acme")) == 2).then_some(ran)
    });
    assert_ne!(first.stdout, second.stdout);
    let known = rig
        .server
        .knows_access(second.stdout.trim())
        .expect("the server issued it");
    assert!(known.current, "it is the new one");
    assert_eq!(
        fs::read_to_string(rig.token_path("acme", "token")).unwrap(),
        second.stdout.trim()
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn unavailable_token_exits_75_with_the_reason() {
    let rig = calm(["acme", "globex"]);
    rig.server.fail(At::All, broken(), u32::MAX);
    let daemon = rig.start();
    assert_eq!(rig.import("acme", &bare(&rig, "acme")).code, Some(75));
    let check = || {
        let failing = rig.run(["token", "acme"]);
        assert_eq!((failing.code, failing.stdout.as_str()), (Some(75), ""));
        contains(
            &failing.stderr,
            &[
                "refreshd: acme: the renewal failed",
                "(transient): INTERNAL_SERVER_ERROR",
            ],
        );
        let awaiting = rig.run(["token", "globex"]);
        assert_eq!((awaiting.code, awaiting.stdout.as_str()), (Some(75), ""));
        contains(
            &awaiting.stderr,
            &["globex has no usable grant", "refreshd import globex"],
        );
    };
    check();
    daemon.stop();
    check();
    rig.server.heal(At::All);
    assert_eq!(
        rig.run(["token", "acme"]).code,
        Some(0),
        "earlier failures have no effect"
    );
    rig.no_violations();
}

#[test]
fn unwritable_output_exits_74_and_a_closed_pipe_0() {
    let (rig, daemon) = fresh(["acme"]);
    for arguments in [
        &["token", "acme"] as &[_],
        &["status", "--json"],
        &["status", "--watch"],
        &["provider", "list"],
        &["--help"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = rig.command(arguments.iter().copied());
        let ran = command.stdout(full.unwrap()).output().unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(74), "{arguments:?}: {stderr}");
        contains(&stderr, &["standard output", "No space left on device"]);

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = rig.command(arguments.iter().copied());
        let ran = command.stdout(writer).output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.is_empty(), "{ran:?}");
    }
    daemon.stop();
    rig.no_violations();
}

/// A new grant at the server, as a bare refresh token.
fn bare(rig: &Rig, portal: &str) -> String {
    let reply: Value = serde_json::from_str(&rig.install(portal)).expect("JSON");
    reply["refresh_token"]
        .as_str()
        .expect("a refresh token")
        .to_owned()
}
