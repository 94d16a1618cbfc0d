//! Requests with an unknown outcome: the time of the replay, the scope of a rejection, and the reported phase.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};
use serde_json::Value;

use crate::common::hostile::{Behaviour, Hostile, forward, reply};
use crate::common::{Daemon, LIFE, Rig, SOON, always, eventually, message_contains, now_millis};

/// A rig whose provider ends a grant when a spent token is sent again: the replay is put off.
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

/// Its first renewal is carried out and the response lost; the imported token is published.
fn lost(rig: &Rig) -> Daemon {
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::Lost, 1);
    rig.start_import("acme", &grant);
    daemon.wait_for_outcome("acme", "in-doubt");
    daemon
}

/// Expiry of the published token, in milliseconds.
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
fn late_replay_warns_at_once_and_waits_for_expiry() {
    let rig = late(Reuse::RevokeFamily);
    let daemon = lost(&rig);
    let event = daemon.wait_for_step("acme", "failed");
    assert_eq!(event["severity"], "warning", "{event}");
    assert!(
        event["reason"]
            .as_str()
            .unwrap()
            .contains("no known outcome"),
        "{event}"
    );
    assert!(
        event["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme, within"),
        "{event}"
    );
    assert!(
        rig.status("acme")["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme, within")
    );
    let ended = ends(&rig);
    // A tenth of the life is reserved for the replay.
    while left(&rig) > 3500 {
        assert!(
            rig.requests("acme") == 1 && rig.has_working_token("acme"),
            "{} ms before the end",
            left(&rig)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let event = daemon.wait_for_step("acme", "person");
    assert_eq!(event["severity"], "critical");
    let reason = event["reason"].as_str().unwrap();
    assert!(
        reason.contains("rejected while in doubt") && !reason.contains("revoked"),
        "{event}"
    );
    assert!(
        event["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme"),
        "{event}"
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
fn reauthorizing_cancels_a_late_replay() {
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
fn late_replay_can_succeed_and_survives_a_crash() {
    let rig = late(Reuse::Grace(LIFE * 3));
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::Stall, 1);
    rig.start_import("acme", &grant);
    eventually("a request that is never answered", SOON, || {
        rig.renewals("acme") == 1
    });
    daemon.kill9();
    let daemon = rig.start();
    daemon.wait_for("the claim that was found", |event| {
        message_contains(event, "was under way")
    });
    let view = rig.get_json("/v1/portals/acme");
    assert_eq!(view["phase"], "in-doubt");
    let event = daemon.wait_for_step("acme", "failed");
    assert_eq!(event["severity"], "warning", "{event}");
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
fn late_rejection_does_not_affect_a_newer_grant() {
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
            return Behaviour::Close(reply(
                "400 Bad Request",
                "Connection: close\r\n",
                r#"{"error":"invalid_grant"}"#,
            ));
        }
        Behaviour::Close(forward(&server, &asked))
    });
    rig.config.app().token_url = hostile.token_url();
    rig.grant("acme");
    let daemon = rig.start();
    eventually("a request under way", SOON, || hostile.connections() == 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    daemon.wait_for_outcome("acme", "renewed");
    go.send(()).expect("the server waits");
    daemon.wait_for("the late word", |event| {
        message_contains(event, "set aside")
    });
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
fn lost_responses_cause_backoff_and_keep_the_last_token() {
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
    rig.start_import("acme", &grant);
    daemon.wait_for_outcome("acme", "in-doubt");
    // The first replay comes at once; then the pauses grow, at random up to 5, 10, 20 s.
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
fn token_command_does_not_resend_a_rejected_token() {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::Lost, 1);
    rig.start_import("acme", &grant);
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
    // An explicit renewal sends it.
    assert_eq!(rig.run(["renew", "acme"]).code, Some(1));
    assert_eq!(rig.requests("acme"), 3);
}
