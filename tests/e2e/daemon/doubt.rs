//! A request without a known outcome: when it is sent again, whom a rejection is believed of, and what it is called.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};
use serde_json::Value;

use crate::common::hostile::{Hostile, Play, pass_on, reply};
use crate::common::{Daemon, LIFE, Rig, SOON, always, eventually, now_millis, says};

/// A rig whose provider is known to end a grant when a spent token comes again: the replay is put off.
fn late(reuse: Reuse) -> Rig {
    let mut rig = Rig::with_rules(
        ["acme"],
        Rules {
            token_lifetime: LIFE,
            reuse,
            ..Rules::default()
        },
    );
    rig.config.app().more = "retry_ambiguous = \"before-expiry\"".to_owned();
    rig
}

/// Its first renewal is carried out and the reply lost; readers have the token that was imported.
fn lost(rig: &Rig) -> Daemon {
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::Lost, 1);
    rig.hand_over("acme", &grant);
    daemon.wait_for_outcome("acme", "in-doubt");
    daemon
}

/// When the published token ends, in milliseconds.
fn ends(rig: &Rig) -> i64 {
    rig.token_json("acme")
        .and_then(|json| json["expires_at_unix"].as_i64())
        .expect("a token file")
        * 1000
}

fn left(rig: &Rig) -> i64 {
    ends(rig) - now_millis()
}

#[test]
fn a_late_replay_warns_at_once_and_waits_for_the_end_of_the_token() {
    let rig = late(Reuse::RevokeFamily);
    let daemon = lost(&rig);
    let told = daemon.wait_for_step("acme", "failed");
    assert_eq!(told["severity"], "warning", "{told}");
    assert!(
        told["reason"]
            .as_str()
            .unwrap()
            .contains("no known outcome"),
        "{told}"
    );
    assert!(
        told["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme, within"),
        "{told}"
    );
    assert!(
        rig.status("acme")["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme, within")
    );
    let ended = ends(&rig);
    // A tenth of the life is for the replay.
    while left(&rig) > 3500 {
        assert!(
            rig.requests("acme") == 1 && rig.has_working_token("acme"),
            "{} ms before the end",
            left(&rig)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = daemon.wait_for_step("acme", "person");
    assert_eq!(told["severity"], "critical");
    let reason = told["reason"].as_str().unwrap();
    assert!(
        reason.contains("rejected while in doubt") && !reason.contains("revoked"),
        "{told}"
    );
    assert!(
        told["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme"),
        "{told}"
    );
    assert_eq!(daemon.outcomes("acme"), ["in-doubt", "needs-authorization"]);
    always(
        "it was sent twice and no more",
        Duration::from_secs(3),
        || rig.requests("acme") == 2,
    );
    assert_eq!(ends(&rig), ended, "the file stays");
    rig.no_violations();
}

#[test]
fn who_authorizes_again_before_a_late_replay_spares_it() {
    let rig = late(Reuse::RevokeFamily);
    let daemon = lost(&rig);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    daemon.wait_for_outcome("acme", "renewed");
    daemon.wait_for_step("acme", "resolved");
    rig.wait_for_renewals("acme", 2);
    assert!(
        daemon
            .events(|event| event["severity"] == "critical")
            .is_empty()
    );
    rig.no_violations();
}

#[test]
fn a_late_replay_may_succeed_and_outlives_a_crash() {
    let rig = late(Reuse::Grace(LIFE * 3));
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::Stall, 1);
    rig.hand_over("acme", &grant);
    eventually("a request that is never answered", SOON, || {
        rig.renewals("acme") == 1
    });
    daemon.kill9();
    let daemon = rig.start();
    daemon.wait_for("the claim that was found", |event| {
        says(event, "was under way")
    });
    let view = rig.get_json("/v1/portals/acme");
    assert_eq!(view["phase"], "in-doubt");
    let told = daemon.wait_for_step("acme", "failed");
    assert_eq!(told["severity"], "warning", "{told}");
    always("it is put off", Duration::from_secs(4), || {
        rig.requests("acme") == 1 && rig.has_working_token("acme")
    });
    daemon.wait_after(0, LIFE + SOON, "a renewal", |event| {
        event["outcome"] == "renewed"
    });
    assert_eq!(
        (rig.requests("acme"), rig.renewals("acme")),
        (2, 1),
        "one pair, asked for twice"
    );
    assert!(rig.has_working_token("acme"));
    rig.no_violations();
}

#[test]
fn a_late_rejection_is_not_believed_of_a_grant_that_was_brought_meanwhile() {
    let rules = Rules {
        token_lifetime: Duration::from_secs(3600),
        ..Rules::default()
    };
    let mut rig = Rig::with_rules(["acme"], rules);
    let server = rig.config.apps[0]
        .token_url
        .trim_start_matches("http://")
        .trim_end_matches("/oauth/token/")
        .to_owned();
    let (go, wait) = channel::<()>();
    let (wait, first) = (Mutex::new(wait), Mutex::new(true));
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            wait.lock().unwrap().recv().expect("the test goes on");
            return Play::Close(reply(
                "400 Bad Request",
                "Connection: close\r\n",
                r#"{"error":"invalid_grant"}"#,
            ));
        }
        Play::Close(pass_on(&server, &asked))
    });
    rig.config.app().token_url = hostile.token_url();
    rig.grant("acme");
    let daemon = rig.start();
    eventually("a request under way", SOON, || hostile.connections() == 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    daemon.wait_for_outcome("acme", "renewed");
    go.send(()).expect("the server waits");
    daemon.wait_for("the late word", |event| says(event, "set aside"));
    let view = rig.get_json("/v1/portals/acme");
    assert!(
        view["phase"] == "fresh" && view["last_error"] == Value::Null,
        "{view}"
    );
    assert!(rig.has_working_token("acme"));
    assert!(
        daemon
            .events(|event| event["severity"] == "critical")
            .is_empty()
    );
    always("nothing more is sent", Duration::from_secs(2), || {
        hostile.connections() <= 2
    });
    rig.no_violations();
}

#[test]
fn a_server_that_loses_every_reply_is_not_hammered_and_the_last_token_stays() {
    let reuse = Reuse::Grace(Duration::from_secs(3600));
    let rules = Rules {
        token_lifetime: Duration::from_secs(3600),
        reuse,
        ..Rules::default()
    };
    let rig = Rig::with_rules(["acme"], rules);
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::Lost, u32::MAX);
    rig.hand_over("acme", &grant);
    daemon.wait_for_outcome("acme", "in-doubt");
    // The first replay comes at once; then the pauses grow, by chance up to 5, 10, 20 s.
    always(
        "few requests, and readers have a token",
        Duration::from_secs(10),
        || rig.requests("acme") <= 8 && rig.has_working_token("acme"),
    );
    assert!(rig.requests("acme") >= 2);
    assert!((rig.metric("refreshd_claims_in_doubt") - 1.0).abs() < 0.1);
    rig.heal("acme");
    assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    assert_eq!(rig.renewals("acme"), 1);
    rig.no_violations();
}

#[test]
fn asking_for_a_token_does_not_send_what_was_rejected() {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::Lost, 1);
    rig.hand_over("acme", &grant);
    daemon.wait_for_step("acme", "person");
    rig.wait_for_phase("acme", "needs-authorization");
    assert_eq!(rig.requests("acme"), 2);
    let good = rig.run(["token", "acme", "--min-valid", "1s"]);
    assert_eq!(good.code, Some(0), "as long as it works: {good:?}");
    for _ in 0..3 {
        let ran = rig.run(["token", "acme", "--min-valid", "1h"]);
        assert!(
            ran.code == Some(75) && ran.stderr.contains("refreshd authorize acme"),
            "{ran:?}"
        );
    }
    assert_eq!(
        rig.requests("acme"),
        2,
        "a reader in a loop is no reason to send a dead token"
    );
    // Who means it says so.
    assert_eq!(rig.run(["renew", "acme"]).code, Some(1));
    assert_eq!(rig.requests("acme"), 3);
}
