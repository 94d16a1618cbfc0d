//! Unreadable rows of the state: reported, counted and left alone, while the others are renewed. And a state that cannot be
//! read at all any more.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rusqlite::Connection;

use refreshd_fake_server::{Reuse, Rules};

use crate::common::receivers::{AUTHORIZATION, Receivers};
use crate::common::{LIFE, Rig, SOON, always, eventually, is_step, message_contains};

/// Damages of a row, with a name for each.
const DAMAGES: [(&str, &str); 4] = [
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
fn unreadable_row_is_reported_and_others_continue() {
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
    let sent: Vec<_> = DAMAGES
        .iter()
        .map(|(name, how)| (*name, rig.requests(name), spoil(&rig, name, how)))
        .collect();

    let daemon = rig.start();
    for (name, ..) in DAMAGES {
        let event = daemon.wait_for_step(name, "unreadable");
        assert_eq!(event["severity"], "critical", "{event}");
        assert!(
            event["action"]
                .as_str()
                .unwrap()
                .contains(&format!("refreshd authorize {name}")),
            "{event}"
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
    let count = daemon.events(|event| event["step"] == "unreadable").len();
    assert_eq!(count, 4, "each once");

    // Ways to recover.
    for name in ["details", "bound"] {
        assert_eq!(rig.import(name, &rig.install(name)).code, Some(0));
        rig.wait_for_phase(name, "fresh");
        eventually("a token that works", SOON, || rig.has_working_token(name));
    }
    assert_eq!(rig.run(["forget", "phase", "--yes"]).code, Some(0));
    assert!(rig.token_json("phase").is_none());
    always("nothing more is logged", Duration::from_secs(1), || {
        daemon.events(|event| event["step"] == "unreadable").len() == 4
    });
    daemon.stop();
    rig.no_violations();
}

/// Overwrites a page with bytes that SQLite rejects.
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
fn write_only_state_is_reported_and_still_publishes() {
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
    let event = daemon.wait_for("the state cannot be read", |event| {
        is_step(event, "state-unread")
    });
    assert_eq!(event["severity"], "critical", "{event}");
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
    eventually("the webhook is notified", SOON, || {
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
    assert!(lines.len() <= 2, "notified once: {lines:?}");
    // The disk recovers.
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
    daemon.wait_for("its end", |event| {
        message_contains(event, "the state is read again")
    });
    eventually("readiness", SOON, || rig.http("/readyz").0 == 200);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn damage_is_detected_without_a_write() {
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
    // Earlier than the next write of the state.
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
fn damage_is_reported_by_any_reader_and_metrics_still_work() {
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
    // Any write makes readers read again; its own outcome does not matter here.
    drop(rig.run(["silence", "--all", "1h"]));
    eventually("the metrics report it", SOON, || {
        let (code, text) = rig.http("/metrics");
        assert_eq!(code, 200, "{text}");
        let is_reported = text.contains("refreshd_state_readable 0");
        // Readiness reports it by then, too.
        if is_reported {
            let (code, text) = rig.http("/readyz");
            assert!(code == 503 && text.contains("cannot be read"), "{text}");
        }
        is_reported
    });
    let events = daemon.events(|event| is_step(event, "state-unread"));
    assert_eq!(events.len(), 1, "{events:?}");
    let (_, text) = rig.http("/metrics");
    assert!(
        text.contains("refreshd_state_writable") && !text.contains("refreshd_portals{"),
        "unknown values are left out: {text}"
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
