//! Starting, stopping, being killed, and starting where it must not: data is durable, and foreign files stay untouched.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};

use crate::common::{LIFE, Portal, Rig, SOON, always, domain, eventually, message_contains};

#[test]
fn killed_during_a_request_it_replays_the_token() {
    let reuse = Reuse::Grace(Duration::from_secs(60));
    let mut rig = Rig::with_rules(
        ["acme"],
        Rules {
            token_lifetime: LIFE,
            reuse,
            ..Rules::default()
        },
    );
    rig.grant("acme");
    rig.fail("acme", Fault::Stall, 1);
    let daemon = rig.start();
    eventually("a request that is never answered", SOON, || {
        rig.renewals("acme") == 1
    });
    daemon.kill9();

    let daemon = rig.start();
    let event = daemon.wait_for("the claim that was found", |event| {
        message_contains(event, "was under way")
    });
    assert_eq!(
        (event["portal"].as_str(), event["level"].as_str()),
        (Some("acme"), Some("WARN"))
    );
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(
        (rig.requests("acme"), rig.renewals("acme")),
        (2, 1),
        "one pair, asked for twice"
    );
    assert!(rig.has_working_token("acme"));
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();
}

#[test]
fn killed_between_renewals_it_resumes() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    let before = rig.token_json("acme");
    daemon.kill9();
    let daemon = rig.start();
    assert_eq!(
        rig.token_json("acme"),
        before,
        "nothing is renewed before its time"
    );
    assert_eq!(rig.requests("acme"), 1);
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(rig.generation("acme"), 3);
    rig.no_violations();
}

#[test]
fn retry_wait_survives_a_restart() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let (content_type, body) = ("text/plain".to_owned(), String::new());
    rig.fail(
        "acme",
        Fault::Body {
            status: 503,
            content_type,
            body,
            retry_after: Some(60),
        },
        1,
    );
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "transient");
    daemon.kill9();
    let daemon = rig.start();
    always(
        "it is not asked at once again",
        Duration::from_secs(3),
        || rig.requests("acme") == 1,
    );
    let view = rig.get_json("/v1/portals/acme");
    assert_eq!(view["phase"], "retrying");
    assert!(
        view["next_renewal_in"]
            .as_u64()
            .is_some_and(|wait| wait > 40),
        "{view}"
    );
    assert!(
        daemon.steps("acme").is_empty(),
        "and the notification is not repeated"
    );
    rig.no_violations();
}

#[test]
fn sigterm_waits_for_the_pending_response_and_stores_it() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    let mut daemon = rig.start();
    eventually("a request under way", SOON, || rig.renewals("acme") == 1);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert_eq!(daemon.outcomes("acme"), ["renewed"]);
    assert!(rig.has_working_token("acme"), "published on the way out");
    assert!(!rig.path("control.sock").exists());

    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(
        (rig.requests("acme"), rig.renewals("acme")),
        (2, 2),
        "nothing was sent twice"
    );
    rig.no_violations();
}

#[test]
fn unused_signals_are_ignored_and_stop_signals_stop_cleanly() {
    let names = ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "XCPU", "IO"];
    let named = names.map(|name| (name.to_owned(), format!("SIG{name}")));
    // Shells know it by its number only.
    let numbered = [("16".to_owned(), "SIGSTKFLT".to_owned())];
    // All of the real-time signals except the one that stops a container.
    let real_time = (34..=64)
        .filter(|number| *number != 37)
        .map(|number| (number.to_string(), format!("SIGRTMIN+{}", number - 34)));
    let meaningless: Vec<_> = named.into_iter().chain(numbered).chain(real_time).collect();
    for stop in ["QUIT", "PWR", "37"] {
        let mut rig = Rig::new(["acme"]);
        rig.grant("acme");
        rig.fail(
            "acme",
            Fault::Slow {
                by: Duration::from_secs(2),
            },
            1,
        );
        let mut daemon = rig.start();
        eventually("a request under way", SOON, || rig.renewals("acme") == 1);
        for (signal, name) in &meaningless {
            daemon.signal(signal);
            daemon.wait_for("a warning", |event| {
                event["level"] == "WARN" && event["signal"] == *name
            });
        }
        daemon.signal(stop);
        assert_eq!(daemon.wait_exit(SOON), 0, "{stop}");
        assert_eq!(daemon.outcomes("acme"), ["renewed"]);
        rig.no_violations();
    }
}

#[test]
fn second_daemon_is_refused_naming_the_first() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    let second = rig.run(["run"]);
    assert_eq!(second.code, Some(69), "{second:?}");
    assert!(
        second.stderr.contains(&format!("process {}", daemon.pid())),
        "{second:?}"
    );
    assert!(
        rig.path("control.sock").exists(),
        "the first one's socket is left alone"
    );
    assert_eq!(rig.run(["status"]).code, Some(0));
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();
}

#[test]
fn newer_state_and_non_state_files_are_left_untouched() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    daemon.stop();
    let state = rig.path("state.db");
    let newer = |path: &Path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&99_u32.to_be_bytes(), 60).unwrap();
    };
    let garbage = |path: &Path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[b'#'; 200], 0).unwrap();
    };
    let damaged = |path: &Path| {
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(5000)
            .unwrap();
    };
    let good = fs::read(&state).unwrap();
    type Spoil<'a> = &'a dyn Fn(&Path);
    for (spoil, word) in [
        (&damaged as Spoil<'_>, "damaged"),
        (&newer, "version 99"),
        (&garbage, "not a refreshd state"),
    ] {
        rig.secret_bytes("state.db", &good);
        spoil(&state);
        let before = fs::read(&state).unwrap();
        let requests = rig.server.total_requests();
        let ran = rig.run(["run"]);
        assert_eq!(ran.code, Some(78), "{ran:?}");
        assert!(
            ran.stderr.contains(word) && ran.stderr.contains("state.db"),
            "{ran:?}"
        );
        assert!(
            fs::read(&state).unwrap() == before,
            "{word}: the file was changed"
        );
        assert_eq!(rig.server.total_requests(), requests);
    }
    rig.secret_bytes("state.db", &good);
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    rig.no_violations();
}

#[test]
fn unwritable_token_files_are_reported_and_renewals_go_on() {
    let mut rig = Rig::new(["acme", "globex"]);
    rig.grant("acme");
    rig.grant("globex");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    daemon.wait_for_outcome("globex", "renewed");
    let directory = rig.path("tokens/acme");
    fs::remove_dir_all(&directory).unwrap();
    rig.secret("tokens/acme", "in the way");
    let event = daemon.wait_after(0, SOON + LIFE, "the report about the files", |event| {
        event["step"] == "unpublished"
    });
    assert_eq!(
        (event["severity"].as_str(), event["portal"].as_str()),
        (Some("critical"), Some("acme")),
        "{event}"
    );
    let (status, why) = rig.http("/readyz");
    assert!(status == 503 && why.contains("token files"), "{why}");
    rig.wait_for_renewals("acme", 1);
    assert!(
        rig.has_working_token("globex"),
        "the others are not affected"
    );

    fs::remove_file(&directory).unwrap();
    daemon.wait_for_step("acme", "resolved");
    assert!(rig.has_working_token("acme"));
    eventually("ready again", SOON, || rig.http("/readyz").0 == 200);
    let counted = daemon.events(|event| event["step"] == "unpublished").len();
    assert_eq!(counted, 1, "logged once");
    rig.no_violations();
}

#[test]
fn many_unwritable_token_files_are_one_log_line() {
    let names: Vec<_> = (0..40).map(|n| format!("p{n:02}")).collect();
    let mut rig = Rig::new([]);
    for name in &names {
        rig.config.portals.push(Portal::new(name, "crm"));
        rig.grant(name);
    }
    let daemon = rig.start();
    for name in &names {
        daemon.wait_for_outcome(name, "renewed");
    }
    // Not even root can create a directory in place of a file. Each renewal fails by itself.
    fs::remove_dir_all(rig.path("tokens")).unwrap();
    rig.secret("tokens", "in the way");
    let again = |name: &String| rig.renewals(name) >= 2;
    eventually("a renewal of each", SOON + LIFE, || names.iter().all(again));
    eventually("all are counted", SOON, || {
        rig.http("/readyz")
            .1
            .contains("of 40 portals cannot be written")
    });
    let lines = daemon.events(|event| event["step"] == "unpublished");
    let lines: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    assert!(lines.len() <= 2, "{} lines: {lines:#?}", lines.len());
    fs::remove_file(rig.path("tokens")).unwrap();
    daemon.wait_after(0, Duration::from_secs(60), "its end", |event| {
        event["step"] == "resolved"
    });
    for name in &names {
        assert!(rig.has_working_token(name), "{name}");
    }
    let ends = daemon.events(|event| event["step"] == "resolved");
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert!(
        ends[0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("all 40 portals")),
        "{ends:?}"
    );
    rig.no_violations();
}

#[test]
fn missing_or_changed_token_files_are_restored_at_start() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    daemon.stop();
    fs::remove_file(rig.token_path("acme", "token")).unwrap();
    rig.secret("tokens/acme/token.json", "{}");
    let _daemon = rig.start();
    assert!(rig.has_working_token("acme"), "the state knows it");
    assert_eq!(rig.generation("acme"), 2);
    assert_eq!(rig.requests("acme"), 1, "and nothing was sent for it");
    assert!(rig.server.current_refresh(&domain("acme")).is_some());
    rig.no_violations();
}

#[test]
fn invalid_configuration_is_refused_with_every_position() {
    let mut rig = Rig::new(["acme"]);
    rig.config.portal("acme").more = "domian = \"acme.bitrix24.com\"".to_owned();
    rig.config.more = "[portals.globex]\napp = \"crn\"\n".to_owned();
    rig.write_config();
    let text = rig.config.to_string();
    let place = |words: &str| {
        let line = text
            .lines()
            .position(|line| line.starts_with(words))
            .unwrap()
            + 1;
        format!("refreshd.toml:{line}:")
    };
    for command in ["run", "check"] {
        let ran = rig.run([command]);
        assert_eq!(ran.code, Some(78), "{ran:?}");
        for words in ["domian", "app = \"crn\""] {
            assert!(
                ran.stderr.contains(&place(words)),
                "{command}: {words}: {ran:?}"
            );
        }
        assert!(ran.stderr.contains("did you mean `crm`"), "{ran:?}");
    }
    assert!(!rig.path("state.db").exists(), "nothing was touched");
}
