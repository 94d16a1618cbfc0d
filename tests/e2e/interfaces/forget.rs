//! `refreshd forget`: never by accident, and completely.

use std::fs;

use crate::common::{Rig, SOON, domain, eventually};
use crate::interfaces::{contains, fresh};

#[test]
fn pipe_requires_yes() {
    let (rig, daemon) = fresh(["acme"]);
    let check = || {
        let ran = rig.run(["forget", "acme"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""));
        contains(&ran.stderr, &["acme was not forgotten; confirm with --yes"]);
        assert_eq!(rig.generation("acme"), 2);
        assert_eq!(rig.status("acme")["phase"], "fresh");
    };
    check();
    daemon.stop();
    check();
}

#[test]
fn yes_removes_the_grant_and_its_files() {
    let (rig, daemon) = fresh(["acme", "globex"]);
    let forget = |portal: &str| {
        let ran = rig.run(["forget", portal, "--yes"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
        let message = format!("{portal}: the grant is forgotten, its token files are gone\n");
        assert_eq!(ran.stderr, message);
        assert!(
            !rig.token_path(portal, "token").exists()
                && !rig.token_path(portal, "token.json").exists()
        );
    };
    forget("acme");
    assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
    assert_eq!(rig.run(["token", "acme"]).code, Some(75));
    let again = rig.run(["forget", "acme", "--yes"]);
    assert_eq!(again.code, Some(0));
    assert_eq!(again.stderr, "acme: there was no grant to forget\n");
    let sent = rig.server.requests(&domain("globex"));
    daemon.stop();
    // The file of its first refresh token holds one that was used before: it is not used again.
    forget("globex");
    let status = rig.status("globex");
    assert_eq!(
        (status["phase"].as_str(), status["generation"].as_u64()),
        (Some("awaiting-authorization"), Some(0))
    );
    assert_eq!(rig.server.requests(&domain("globex")), sent);
    rig.no_violations();
}

#[test]
fn undeletable_token_files_are_reported_and_removed_later() {
    for with_daemon in [true, false] {
        let (rig, daemon) = fresh(["acme"]);
        let mut daemon = Some(daemon);
        let directory = rig.path("tokens/acme");
        if !with_daemon {
            daemon.take().expect("it runs").stop();
        }
        // Not even root can remove a directory in place of a file.
        // The daemon may write the file again in between.
        eventually("a directory in its place", SOON, || {
            let _ = fs::remove_file(directory.join("token"));
            fs::create_dir(directory.join("token")).is_ok()
        });
        let ran = rig.run(["forget", "acme", "--yes"]);
        assert_eq!(ran.code, Some(75), "{ran:?}");
        contains(
            &ran.stderr,
            &[
                "acme: the grant is forgotten, but",
                "still there",
                directory.to_str().expect("a path"),
                "tries again by itself",
            ],
        );
        assert!(!ran.stderr.contains("are gone"), "{ran:?}");
        assert!(
            !directory.join("token.json").exists(),
            "one that stays keeps no other"
        );
        assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
        let again = rig.run(["forget", "acme", "--yes"]);
        assert_eq!(again.code, Some(75), "{again:?}");
        contains(&again.stderr, &["there was no grant to forget, but"]);
        let Some(daemon) = daemon else { continue };
        let event = daemon.wait_for_step("acme", "unremoved");
        let reason = event["reason"].as_str().unwrap_or_default();
        assert!(
            reason.contains("token files that are to go are still there"),
            "{event}"
        );
        assert!(
            daemon
                .events(|event| event["step"] == "unpublished")
                .is_empty()
        );
        assert_eq!(
            rig.http("/readyz"),
            (
                503,
                "the token files of 1 portal cannot be removed\n".to_owned()
            )
        );
        fs::remove_dir(directory.join("token")).expect("a directory");
        rig.secret("tokens/acme/token", "left");
        eventually("it is removed", SOON, || !directory.exists());
        daemon.wait_for_step("acme", "resolved");
        daemon.stop();
    }
}

/// The files beside the state, including the state, that contain one of these words.
fn files_with(rig: &Rig, words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(rig.path(".")).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("state.db") {
            continue;
        }
        let bytes = fs::read(entry.path()).unwrap_or_default();
        let holds = |word: &String| {
            bytes
                .windows(word.len())
                .any(|window| window == word.as_bytes())
        };
        found.extend(
            words
                .iter()
                .filter(|word| holds(word))
                .map(|_| name.clone()),
        );
    }
    found
}

#[test]
fn forgotten_grant_is_in_no_state_file() {
    let names = ["acme", "globex", "initech", "umbrella"];
    let (rig, daemon) = fresh(names);
    let mut daemon = Some(daemon);
    let secrets = |name: &str| {
        let refresh = rig.server.current_refresh(&domain(name)).expect("a grant");
        [
            refresh,
            fs::read_to_string(rig.token_path(name, "token")).expect("a token"),
        ]
    };
    let secrets_of: Vec<_> = names.map(secrets).into();
    for (number, name) in names.iter().enumerate() {
        let own = &secrets_of[number];
        assert!(
            !files_with(&rig, own).is_empty(),
            "the search finds the secret: {name}"
        );
        match number {
            // Checkpointed into the database before.
            1 => {
                daemon.take().expect("it runs").stop();
                daemon = Some(rig.start());
            }
            // Without a daemon.
            2 => daemon.take().expect("it runs").stop(),
            3 => daemon = Some(rig.start()),
            _ => {}
        }
        assert_eq!(rig.run(["forget", name, "--yes"]).code, Some(0));
        assert_eq!(files_with(&rig, own), Vec::<String>::new(), "{name}");
    }
    daemon.expect("it runs").stop();
    let all: Vec<_> = secrets_of.into_iter().flatten().collect();
    assert_eq!(files_with(&rig, &all), Vec::<String>::new(), "after a stop");
}
