//! `refreshd check`, and `run` on what it finds: every problem at once, by its place, with 78.

use std::net::TcpListener;
use std::process::Command;

use crate::common::{Ran, Rig};
use crate::{calm, contains};

fn check(rig: &Rig, arguments: &[&str]) -> Ran {
    rig.write_config();
    rig.run(["check"].iter().chain(arguments).copied())
}

#[test]
fn a_good_configuration_is_0_and_nothing_is_made() {
    let rig = calm(["acme", "globex"]);
    let ran = check(&rig, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    contains(&ran.stderr, &["refreshd.toml: no problems; 2 portals, 1 app; the state ", "is not there yet"]);
    assert!(!rig.path("state.db").exists() && !rig.path("tokens").exists(), "check changes nothing");
    rig.start().stop();
    let ran = check(&rig, &[]);
    assert_eq!(ran.code, Some(0));
    contains(&ran.stderr, &["is schema version "]);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
}

#[test]
fn several_problems_are_said_at_once_each_with_its_place() {
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
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{command}: {ran:?}");
        contains(&ran.stderr, &["refreshd: 3 problems in the configuration\n"]);
        contains(&ran.stderr, &[&place("client_secrt_file"), "did you mean `client_secret_file`?"]);
        contains(&ran.stderr, &[&place("\"crn\""), "did you mean `crm`?"]);
        contains(&ran.stderr, &[&place("\"soon\"")]);
    }
    assert!(!rig.path("state.db").exists());
}

#[test]
fn a_newer_state_is_78_and_left_untouched() {
    let rig = calm(["acme"]);
    rig.start().stop();
    let state = rig.path("state.db");
    let connection = rusqlite::Connection::open(&state).unwrap();
    connection.pragma_update(None, "user_version", 4000).unwrap();
    connection.close().unwrap();
    let before = std::fs::read(&state).unwrap();
    for command in ["check", "run", "status"] {
        let ran = rig.run([command]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{command}: {ran:?}");
        contains(&ran.stderr, &["has schema version 4000", "left untouched"]);
    }
    assert!(std::fs::read(&state).unwrap() == before, "the newer state was changed");
}

#[test]
fn online_says_of_every_server_whether_it_answers() {
    let mut rig = calm(["acme"]);
    let url = rig.config.app().token_url.clone();
    let ran = check(&rig, &["--online"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(&ran.stderr, &[&format!("{url}: answers")]);
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("http://127.0.0.1:{port}/oauth/token/");
    rig.config.app().token_url.clone_from(&closed);
    let ran = check(&rig, &["--online"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    contains(&ran.stderr, &["no problems", &format!("{closed}: does not answer")]);
    rig.no_violations();
}

#[test]
fn without_a_configuration_nothing_runs() {
    for command in ["run", "check", "status"] {
        let mut binary = Command::new(env!("CARGO_BIN_EXE_refreshd"));
        let arguments = [command, "--config", "/nonexistent/refreshd.toml"];
        let ran = Ran::to_its_end(binary.env_clear().args(arguments));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{command}: {ran:?}");
        contains(&ran.stderr, &["/nonexistent/refreshd.toml:1:1: this file cannot be read"]);
    }
}
