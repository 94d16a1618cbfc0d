//! Rows of the state that cannot be understood: said, counted and left alone, while the others are renewed.

use rusqlite::Connection;

use refreshd::sandbox::{Reuse, Rules};
use std::time::Duration;

use crate::common::{LIFE, Rig, SOON, always, eventually};

/// How a row is spoilt, by a word for it.
const SPOILT: [(&str, &str); 4] = [
    ("details", "details = '{'"),
    ("phase", "phase = 'exalted'"),
    ("problem", "phase = 'retrying', since = 1, problem = '[]', act_at = 1"),
    ("bound", "bound_to = x'00'"),
];

fn spoil(rig: &Rig, name: &str, how: &str) {
    let state = Connection::open(rig.path("state.db")).expect("a state");
    state.busy_timeout(SOON).expect("a time limit");
    let spoilt = state.execute(&format!("UPDATE portal SET {how} WHERE name = '{name}'"), []).expect("SQL");
    assert_eq!(spoilt, 1);
}

#[test]
fn a_row_that_cannot_be_read_is_said_and_counted_and_the_others_go_on() {
    let names = ["acme", "details", "phase", "problem", "bound", "zorg"];
    let reuse = Reuse::Grace(Duration::from_secs(60));
    let mut rig = Rig::with_rules(names, Rules { token_lifetime: LIFE, reuse, ..Rules::default() });
    names.iter().for_each(|name| rig.grant(name));
    let daemon = rig.start();
    names.iter().for_each(|name| rig.wait_for_generation(name, 2));
    daemon.stop();
    let sent: Vec<_> =
        SPOILT.iter().map(|(name, how)| (*name, rig.requests(name), spoil(&rig, name, how))).collect();

    let daemon = rig.start();
    for (name, ..) in SPOILT {
        let told = daemon.wait_for_step(name, "unreadable");
        assert_eq!(told["severity"], "critical", "{told}");
        assert!(told["action"].as_str().unwrap().contains(&format!("refreshd authorize {name}")), "{told}");
        assert_eq!(rig.get_json(&format!("/v1/portals/{name}"))["phase"], "unreadable");
        assert!(rig.has_working_token(name), "readers keep theirs: {name}");
    }
    assert!((rig.metric("refreshd_portals{phase=\"unreadable\"}") - 4.0).abs() < 0.1);
    assert_eq!(rig.http("/").0, 200);
    let ran = rig.run(["status"]);
    assert_eq!((ran.code, ran.stdout.matches(" unreadable ").count()), (Some(1), 4), "{ran:?}");
    let ran = rig.run(["renew", "details"]);
    assert!(ran.code == Some(75) && ran.stderr.contains("refreshd authorize details"), "{ran:?}");
    for name in ["acme", "zorg"] {
        rig.wait_for_renewals(name, 1);
    }

    for (name, requests, ()) in sent {
        assert_eq!(rig.requests(name), requests, "nothing is sent for {name}");
    }
    let told = daemon.events(|event| event["step"] == "unreadable").len();
    assert_eq!(told, 4, "each once");

    // Out of it.
    for name in ["details", "bound"] {
        assert_eq!(rig.import(name, &rig.install(name)).code, Some(0));
        rig.wait_for_phase(name, "fresh");
        eventually("a token that works", SOON, || rig.has_working_token(name));
    }
    assert_eq!(rig.run(["forget", "phase", "--yes"]).code, Some(0));
    assert!(rig.token_json("phase").is_none());
    always("no more is said", Duration::from_secs(1), || {
        daemon.events(|event| event["step"] == "unreadable").len() == 4
    });
    daemon.stop();
    rig.no_violations();
}
