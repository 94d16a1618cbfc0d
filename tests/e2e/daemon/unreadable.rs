//! Rows of the state that cannot be understood: said, counted and left alone, while the others are renewed. And a state that
//! cannot be read at all any more.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rusqlite::Connection;

use refreshd_fake_server::{Reuse, Rules};

use crate::common::receivers::{AUTHORIZATION, Receivers};
use crate::common::{LIFE, Rig, SOON, always, eventually, is_step, says};

/// How a row is spoilt, by a word for it.
const SPOILT: [(&str, &str); 4] = [
    ("details", "details = '{'"),
    ("phase", "phase = 'exalted'"),
    (
        "problem",
        "phase = 'retrying', since = 1, problem = '[]', next_attempt_at = 1",
    ),
    ("bound", "bound_to = x'00'"),
];

fn spoil(rig: &Rig, name: &str, how: &str) {
    let state = Connection::open(rig.path("state.db")).expect("a state");
    state.busy_timeout(SOON).expect("a time limit");
    let spoilt = state
        .execute(
            &format!("UPDATE portal SET {how} WHERE name = '{name}'"),
            [],
        )
        .expect("SQL");
    assert_eq!(spoilt, 1);
}

#[test]
fn a_row_that_cannot_be_read_is_said_and_counted_and_the_others_go_on() {
    let names = ["acme", "details", "phase", "problem", "bound", "zorg"];
    let reuse = Reuse::Grace(Duration::from_secs(60));
    let mut rig = Rig::with_rules(
        names,
        Rules {
            token_lifetime: LIFE,
            reuse,
            ..Rules::default()
        },
    );
    names.iter().for_each(|name| rig.grant(name));
    let daemon = rig.start();
    names
        .iter()
        .for_each(|name| rig.wait_for_generation(name, 2));
    daemon.stop();
    let sent: Vec<_> = SPOILT
        .iter()
        .map(|(name, how)| (*name, rig.requests(name), spoil(&rig, name, how)))
        .collect();

    let daemon = rig.start();
    for (name, ..) in SPOILT {
        let told = daemon.wait_for_step(name, "unreadable");
        assert_eq!(told["severity"], "critical", "{told}");
        assert!(
            told["action"]
                .as_str()
                .unwrap()
                .contains(&format!("refreshd authorize {name}")),
            "{told}"
        );
        assert_eq!(
            rig.get_json(&format!("/v1/portals/{name}"))["phase"],
            "unreadable"
        );
        assert!(rig.has_working_token(name), "readers keep theirs: {name}");
    }
    assert!((rig.metric("refreshd_portals{phase=\"unreadable\"}") - 4.0).abs() < 0.1);
    assert_eq!(rig.http("/").0, 200);
    let ran = rig.run(["status"]);
    assert_eq!(
        (ran.code, ran.stdout.matches(" unreadable ").count()),
        (Some(1), 4),
        "{ran:?}"
    );
    let ran = rig.run(["renew", "details"]);
    assert!(
        ran.code == Some(75) && ran.stderr.contains("refreshd authorize details"),
        "{ran:?}"
    );
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

/// Bytes of a page that are none of SQLite's.
fn damage_page(rig: &Rig, page: u64) {
    let state = fs::OpenOptions::new()
        .write(true)
        .open(rig.path("state.db"))
        .expect("a state");
    state
        .write_all_at(&[0xa5; 4096], (page - 1) * 4096)
        .expect("a page");
}

#[test]
fn a_state_that_can_be_written_and_not_read_is_told_and_its_new_pairs_are_published() {
    let names: [&str; 32] = std::array::from_fn(|number| &*String::leak(format!("p{number:02}")));
    let mut rig = Rig::new(names);
    names.iter().for_each(|name| rig.grant(name));
    let receivers = Receivers::listen(&rig);
    let url = receivers.url("/webhook/secretOfThePath1");
    rig.config.more = format!(
        "[alerts]\ninstance = \"host-1\"\n[channels.webhook]\nkind = \"webhook\"\nurl = \"{url}\"\nauthorization = \"{AUTHORIZATION}\"\n"
    );
    let daemon = rig.start();
    names
        .iter()
        .for_each(|name| rig.wait_for_generation(name, 2));
    daemon.stop();
    let state = Connection::open(rig.path("state.db")).expect("a state");
    let root: u32 = state
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'portal'",
            [],
            |row| row.get(0),
        )
        .expect("a table");
    let root = u64::from(root);
    drop(state);
    let whole = fs::read(rig.path("state.db")).expect("a state");
    let daemon = rig.start();
    // The writer has the page in memory by now.
    names
        .iter()
        .for_each(|name| rig.wait_for_generation(name, 3));
    assert_eq!(rig.http("/readyz").0, 200);
    damage_page(&rig, root);
    let told = daemon.wait_for("the state cannot be read", |event| {
        is_step(event, "state-unread")
    });
    assert_eq!(told["severity"], "critical", "{told}");
    let (status, body) = rig.http("/readyz");
    assert!(
        status == 503 && body.contains("the state cannot be read"),
        "{status} {body}"
    );
    let before = names.map(|name| rig.generation(name));
    for (name, before) in names.iter().zip(before) {
        rig.wait_for_generation(name, before + 2);
        eventually("a token that works", SOON, || rig.has_working_token(name));
    }
    eventually("the webhook is told", SOON, || {
        receivers
            .seen("/webhook")
            .iter()
            .any(|seen| seen.json().to_string().contains("cannot be read"))
    });
    let lines = daemon.events(|event| {
        event["level"] == "ERROR"
            && event["message"]
                .as_str()
                .is_some_and(|text| text.contains("cannot be read"))
    });
    assert!(lines.len() <= 2, "told once: {lines:?}");
    // The disk comes back to its senses.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(rig.path("state.db"))
        .expect("a state");
    let (from, to) = (
        usize::try_from(root - 1).expect("small") * 4096,
        usize::try_from(root).expect("small") * 4096,
    );
    file.write_all_at(&whole[from..to], from as u64)
        .expect("a page");
    daemon.wait_for("its end", |event| says(event, "the state is read again"));
    eventually("readiness", SOON, || rig.http("/readyz").0 == 200);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn damage_is_noticed_though_nothing_is_written() {
    let names: [&str; 32] = std::array::from_fn(|number| &*String::leak(format!("r{number:02}")));
    let rules = Rules {
        token_lifetime: Duration::from_secs(3600),
        ..Rules::default()
    };
    let mut rig = Rig::with_rules(names, rules);
    rig.config.app().renew_every = Duration::from_secs(1500);
    names.iter().for_each(|name| rig.grant(name));
    let daemon = rig.start();
    names
        .iter()
        .for_each(|name| rig.wait_for_generation(name, 2));
    daemon.stop();
    let daemon = rig.start();
    assert_eq!(rig.http("/readyz").0, 200);
    let pages = fs::metadata(rig.path("state.db")).expect("a state").len() / 4096;
    (4..=pages)
        .step_by(2)
        .for_each(|page| damage_page(&rig, page));
    // Sooner than the state is written for no other reason.
    eventually("it is not ready", Duration::from_secs(12), || {
        let (code, text) = rig.http("/readyz");
        code == 503 && text.contains("cannot be read")
    });
    assert_eq!(
        daemon.events(|event| is_step(event, "state-unread")).len(),
        1
    );
    daemon.kill9();
}

#[test]
fn damage_is_told_by_whoever_meets_it_first_and_metrics_are_answered_all_the_same() {
    let names: [&str; 32] = std::array::from_fn(|number| &*String::leak(format!("q{number:02}")));
    let rules = Rules {
        token_lifetime: Duration::from_secs(3600),
        ..Rules::default()
    };
    let mut rig = Rig::with_rules(names, rules);
    rig.config.app().renew_every = Duration::from_secs(1500);
    names.iter().for_each(|name| rig.grant(name));
    let daemon = rig.start();
    names
        .iter()
        .for_each(|name| rig.wait_for_generation(name, 2));
    daemon.stop();
    let daemon = rig.start();
    let sound = rig.run(["check"]);
    assert!(
        sound.code == Some(0) && sound.stderr.contains("and whole"),
        "{sound:?}"
    );
    assert!((rig.metric("refreshd_state_readable") - 1.0).abs() < 0.1);
    let pages = fs::metadata(rig.path("state.db")).expect("a state").len() / 4096;
    (4..=pages)
        .step_by(2)
        .for_each(|page| damage_page(&rig, page));
    // Whatever is written makes readers read anew; what becomes of it does not matter here.
    drop(rig.run(["silence", "--all", "1h"]));
    eventually("the metrics say so", SOON, || {
        let (code, text) = rig.http("/metrics");
        assert_eq!(code, 200, "{text}");
        let is_told = text.contains("refreshd_state_readable 0");
        // By then it is told everywhere.
        if is_told {
            let (code, text) = rig.http("/readyz");
            assert!(code == 503 && text.contains("cannot be read"), "{text}");
        }
        is_told
    });
    let told = daemon.events(|event| is_step(event, "state-unread"));
    assert_eq!(told.len(), 1, "{told:?}");
    let (_, text) = rig.http("/metrics");
    assert!(
        text.contains("refreshd_state_writable") && !text.contains("refreshd_portals{"),
        "what is not known is not said: {text}"
    );
    let ran = rig.run(["check"]);
    assert!(
        ran.code == Some(78) && ran.stderr.contains("is damaged"),
        "{ran:?}"
    );
    daemon.kill9();
    let ran = rig.run(["check"]);
    assert!(
        ran.code == Some(78) && ran.stderr.contains("is damaged"),
        "{ran:?}"
    );
}
