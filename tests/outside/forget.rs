//! `refreshd forget`: not by accident, and then wholly.

use crate::common::domain;
use crate::{contains, fresh};

#[test]
fn without_yes_nobody_can_be_asked_in_a_pipe() {
    let (rig, daemon) = fresh(["acme"]);
    let check = || {
        let ran = rig.run(["forget", "acme"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""));
        contains(&ran.stderr, &["acme was not forgotten; say --yes to mean it"]);
        assert_eq!(rig.generation("acme"), 2);
        assert_eq!(rig.status("acme")["phase"], "fresh");
    };
    check();
    daemon.stop();
    check();
}

#[test]
fn with_yes_the_grant_and_its_files_go() {
    let (rig, daemon) = fresh(["acme", "globex"]);
    let forget = |portal: &str| {
        let ran = rig.run(["forget", portal, "--yes"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
        let said = format!("{portal}: the grant is forgotten, its token files are gone\n");
        assert_eq!(ran.stderr, said);
        assert!(!rig.token_path(portal, "token").exists() && !rig.token_path(portal, "token.json").exists());
    };
    forget("acme");
    assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
    assert_eq!(rig.run(["token", "acme"]).code, Some(75));
    let again = rig.run(["forget", "acme", "--yes"]);
    assert_eq!(again.code, Some(0));
    assert_eq!(again.stderr, "acme: there was no grant to forget\n");
    let sent = rig.sandbox.requests(&domain("globex"));
    daemon.stop();
    // The file of its first refresh token holds one that came in before: it is not taken again.
    forget("globex");
    let status = rig.status("globex");
    assert_eq!(
        (status["phase"].as_str(), status["generation"].as_u64()),
        (Some("awaiting-authorization"), Some(0))
    );
    assert_eq!(rig.sandbox.requests(&domain("globex")), sent);
    rig.no_violations();
}
