//! Lifetimes reported by servers: an expiry in the past, a lifetime that is no number, a repeated token, a refresh token that
//! expires by itself. Regression tests for cases that once failed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::strict::Strict;
use crate::common::{Daemon, LIFE, Rig, SOON, always, eventually, is_step, now_millis};
use crate::interfaces::{contains, news};

fn rig(server: &Strict, kind: &str) -> Rig {
    news(server, "n3wsSecretOfTheTests0123456789", kind)
}

const CLIENT: &str = "grant = 'client-credentials'";

/// A response with this access token and a refresh token of the same number.
fn pair(number: u32, more: &Value) -> Value {
    let mut reply = json!({"access_token": format!("a{number}"), "refresh_token": format!("r{number}"), "token_type": "bearer"});
    let more = more.as_object().expect("an object").clone();
    reply.as_object_mut().expect("an object").extend(more);
    reply
}

fn published(rig: &Rig) -> (String, i64) {
    let json = rig.token_json("news").unwrap_or_default();
    let ends = json["expires_at_unix"].as_i64().unwrap_or_default();
    (
        json["access_token"].as_str().unwrap_or_default().to_owned(),
        ends,
    )
}

fn now() -> i64 {
    now_millis() / 1000
}

/// Starts it with an imported grant; its first renewal is the first logged event.
fn start(rig: &Rig) -> Daemon {
    started(rig, 0)
}

/// Starts it likewise; `import` waits for that renewal and ends with this code.
fn started(rig: &Rig, code: i32) -> Daemon {
    let daemon = rig.start();
    let ran = rig.import("news", "r0");
    assert_eq!(ran.code, Some(code), "{ran:?}");
    daemon
}

#[test]
fn expired_token_is_published_and_renewed_without_a_spin() {
    let server = Strict::listen();
    let rig = rig(&server, "");
    for number in 1..=40 {
        server.respond("/token", 200, pair(number, &json!({"expires_in": 0})));
    }
    // A token that is expired on arrival is unusable.
    let daemon = started(&rig, 75);
    let event = daemon.wait_for_step("news", "failed");
    assert_eq!(event["severity"], "warning", "{event}");
    contains(
        event["reason"].as_str().expect("a reason"),
        &["the server reports that its new token has expired already"],
    );
    eventually("three of them", SOON, || server.asked("/token").len() >= 3);
    let (token, ends) = published(&rig);
    assert!(
        token.starts_with('a') && (ends - now()).abs() <= 5,
        "{token} ends at {ends}"
    );
    let view = rig.get_json("/v1/portals/news");
    assert_eq!(
        (&view["phase"], &view["fresh"]),
        (&json!("retrying"), &json!(false))
    );
    // Each with the newest refresh token, and ever more slowly: 0, 1, 3, 7, 15 s.
    always("no spin", Duration::from_secs(4), || {
        server.asked("/token").len() <= 5
    });
    let sent: Vec<_> = server
        .asked("/token")
        .iter()
        .map(|request| request.parameter("refresh_token").to_owned())
        .collect();
    assert!(
        sent.iter()
            .enumerate()
            .all(|(at, token)| *token == format!("r{at}")),
        "{sent:?}"
    );
    assert_eq!(
        daemon
            .steps("news")
            .iter()
            .filter(|(step, _)| step == "failed")
            .count(),
        1,
        "logged once"
    );
    daemon.stop();
}

#[test]
fn valid_lifetime_after_an_expired_one_is_used() {
    let server = Strict::listen();
    let rig = rig(&server, "");
    server.respond("/token", 200, pair(1, &json!({"expires_in": -1})));
    server.respond(
        "/token",
        200,
        pair(2, &json!({"expires_at": "2001-01-01T00:00:00Z"})),
    );
    server.respond("/token", 200, pair(3, &json!({"expires_in": 3600})));
    // A token that is expired on arrival is unusable.
    let daemon = started(&rig, 75);
    daemon.wait_for_step("news", "resolved");
    eventually("the good one", SOON, || published(&rig).0 == "a3");
    assert_eq!(rig.status("news")["phase"], "fresh");
    assert_eq!(server.asked("/token").len(), 3);
    daemon.stop();
}

#[test]
fn repeated_token_keeps_its_first_expiry() {
    // In the second round the server changes the expiry twice.
    for (lives, ends_after) in [([12, 4, 1], 13), ([12, 2, 3600], 11)] {
        let server = Strict::listen();
        let rig = rig(&server, CLIENT);
        for life in lives {
            server.respond(
                "/token",
                200,
                json!({"access_token": "a1", "expires_in": life}),
            );
        }
        server.respond(
            "/token",
            200,
            json!({"access_token": "a2", "expires_in": 3600}),
        );
        let daemon = rig.start();
        eventually("the first", SOON, || published(&rig).0 == "a1");
        let mut last = published(&rig).1;
        let began = last - lives[0];
        eventually(
            "the next token, at the end of the first",
            SOON + LIFE,
            || {
                let (token, ends) = published(&rig);
                if token == "a1" {
                    assert!(
                        ends <= last,
                        "{lives:?}: longer than announced: {ends}, {last} before"
                    );
                    last = ends;
                }
                token == "a2"
            },
        );
        assert!(
            last <= began + ends_after,
            "{lives:?}: {last}, asked at {began}"
        );
        assert!(now() >= last - 1, "and not before it had to");
        assert_eq!(server.asked("/token").len(), 4);
        let steps = daemon.steps("news");
        assert!(steps.iter().all(|(step, _)| step != "expired"), "{steps:?}");
        daemon.stop();
    }
}

#[test]
fn unambiguous_non_numeric_lifetime_is_parsed() {
    let ahead = |secs: i64| now() + secs;
    for (value, least, most) in [
        (json!("20s"), 10, 21),
        (json!("20 seconds"), 10, 21),
        (json!("PT20S"), 10, 21),
        (json!([20]), 10, 21),
        (json!({"seconds": 20}), 10, 21),
        (json!(ahead(40)), 10, 41),
        (json!(ahead(40) * 1000), 10, 41),
        (
            json!(refreshd_time::Timestamp::from_secs(ahead(40)).to_string()),
            10,
            41,
        ),
    ] {
        let server = Strict::listen();
        let rig = rig(&server, "");
        server.respond(
            "/token",
            200,
            pair(1, &json!({"expires_in": value.clone()})),
        );
        let daemon = start(&rig);
        eventually("a token", SOON, || published(&rig).0 == "a1");
        let left = published(&rig).1 - now();
        assert!((least..=most).contains(&left), "{value}: {left} s");
        assert_eq!(rig.status("news")["notice"], Value::Null, "{value}");
        daemon.stop();
    }
}

#[test]
fn unreadable_lifetime_warns_and_is_assumed() {
    let server = Strict::listen();
    let rig = rig(&server, "assumed_lifetime = '10m'");
    server.respond(
        "/token",
        200,
        pair(
            1,
            &json!({"expires_in": "when the cows come home\u{1b}[2J"}),
        ),
    );
    let daemon = start(&rig);
    let warning = daemon.wait_for("a warning", |event| event["notice"].is_string());
    assert_eq!(warning["level"], "WARN", "{warning}");
    let view = rig.status("news");
    let notice = view["notice"].as_str().expect("a notice");
    contains(
        notice,
        &[
            "cannot be read (\"when the cows come home",
            "10m is assumed",
        ],
    );
    assert!(!notice.contains('\u{1b}'), "{notice:?}");
    assert_eq!(
        (&view["phase"], &view["fresh"]),
        (&json!("fresh"), &json!(true))
    );
    let left = published(&rig).1 - now();
    assert!((580..=600).contains(&left), "{left}");
    contains(
        &rig.run(["status", "news"]).stdout,
        &["notice", "10m is assumed"],
    );
    contains(&rig.http("/").1, &["10m is assumed"]);
    daemon.stop();
}

#[test]
fn refresh_token_ending_first_is_renewed_in_time() {
    let server = Strict::listen();
    let rig = rig(&server, "");
    let lives = json!({"expires_in": 40, "refresh_expires_in": 12});
    for number in 1..=9 {
        server.respond("/token", 200, pair(number, &lives));
    }
    let daemon = start(&rig);
    eventually("the first", SOON, || published(&rig).0 == "a1");
    let first = now();
    eventually("the second", SOON, || published(&rig).0 == "a2");
    assert!(
        now() - first <= 11,
        "with a margin before the twelve seconds are over: {}",
        now() - first
    );
    let view = rig.status("news");
    let left = view["refresh_expires_in"].as_i64().expect("its end");
    assert!(
        (9..=12).contains(&left) && view["refresh_end"] == "moves",
        "{view}"
    );
    assert!(
        view["refresh_expires_at"]
            .as_str()
            .expect("a time")
            .starts_with("20"),
        "{view}"
    );
    contains(
        &rig.run(["status", "news"]).stdout,
        &["refresh token", "each renewal moves that"],
    );
    contains(&rig.http("/").1, &["refresh token "]);
    let metric = rig.metric("refreshd_refresh_token_expiry_timestamp_seconds{portal=\"news\"}");
    assert!((metric - (now() + left) as f64).abs() <= 2.0, "{metric}");
    assert_eq!(
        daemon.steps("news"),
        [],
        "an end that each renewal moves is not notified"
    );
    daemon.stop();
}

#[test]
fn refresh_token_ending_at_once_warns_without_a_spin() {
    for ends in [
        json!({"expires_in": 40, "refresh_expires_in": 1}),
        json!({"expires_in": 40, "refresh_token_expires_at": now() - 100}),
        json!({"expires_in": 40, "refresh_token_expires_on": now() - 100}),
    ] {
        let server = Strict::listen();
        let rig = rig(&server, "");
        for number in 1..=40 {
            server.respond("/token", 200, pair(number, &ends));
        }
        let daemon = start(&rig);
        let event = daemon.wait_for_step("news", "refresh-month");
        assert_eq!(event["severity"], "warning", "{event}");
        contains(
            event["reason"].as_str().expect("a reason"),
            &["before the next renewal is allowed"],
        );
        always("at most one in a tenth of its life", LIFE / 2, || {
            server.asked("/token").len() <= 3
        });
        eventually("as soon as may be", SOON, || {
            server.asked("/token").len() >= 3
        });
        let view = rig.status("news");
        assert_eq!(
            (&view["refresh_end"], &view["phase"]),
            (&json!("short"), &json!("fresh")),
            "{view}"
        );
        contains(
            &rig.run(["status", "news"]).stdout,
            &["sooner than a renewal may come", "refreshd authorize news"],
        );
        daemon.stop();
    }
}

#[test]
fn fixed_refresh_token_end_warns_until_reauthorized() {
    let server = Strict::listen();
    let rig = rig(&server, "renew_every = '2s'");
    let ends = now() + 24;
    for number in 1..=40 {
        // It counts down, as LinkedIn's does; a day of the real one is a fraction of a second here.
        let left = 24 - 2 * (i64::from(number) - 1);
        server.respond(
            "/token",
            200,
            pair(
                number,
                &json!({"expires_in": 10, "refresh_token_expires_in": left.max(1)}),
            ),
        );
    }
    let daemon = start(&rig);
    let event = daemon.wait_after(0, Duration::from_secs(40), "a month ahead", |event| {
        is_step(event, "refresh-month")
    });
    assert_eq!(
        (&event["severity"], &event["portal"]),
        (&json!("warning"), &json!("news")),
        "{event}"
    );
    contains(
        event["action"].as_str().expect("an action"),
        &["authorize again before 20", "refreshd authorize news"],
    );
    assert!(now() < ends, "ahead");
    let view = rig.status("news");
    assert_eq!(
        (&view["refresh_end"], &view["phase"], &view["fresh"]),
        (&json!("fixed"), &json!("fresh"), &json!(true))
    );
    contains(
        view["action"].as_str().expect("an action"),
        &["authorize again before"],
    );
    eventually("an incident", SOON, || {
        let alerts = rig.get_json("/v1/alerts");
        alerts["incidents"].as_array().is_some_and(|all| {
            all.iter()
                .any(|one| one["key"] == "portal/news/refresh-end")
        })
    });
    contains(
        &rig.run(["status", "news"]).stdout,
        &["no renewal moves that"],
    );
    // A renewal does not end the incident: it is notified once.
    let asked = server.asked("/token").len();
    eventually("another renewal", SOON, || {
        server.asked("/token").len() > asked
    });
    let month = daemon
        .steps("news")
        .iter()
        .filter(|(step, _)| step == "refresh-month")
        .count();
    assert_eq!(month, 1, "{:?}", daemon.steps("news"));
    // A new grant does.
    assert_eq!(rig.import("news", "r100").code, Some(0));
    eventually("the new grant is in force", SOON, || {
        server
            .asked("/token")
            .iter()
            .any(|request| request.parameter("refresh_token") == "r100")
    });
    eventually("the incident's end", SOON, || {
        let alerts = rig.get_json("/v1/alerts");
        alerts["incidents"].as_array().is_some_and(|all| {
            all.iter()
                .all(|one| one["key"] != "portal/news/refresh-end")
        })
    });
    daemon.stop();
}

#[test]
fn renewal_allowed_only_after_expiry_keeps_it_ready() {
    let server = Strict::listen();
    let rig = rig(&server, "not_before = 'expiry'");
    server.respond("/token", 200, pair(1, &json!({"expires_in": 3})));
    let daemon = start(&rig);
    eventually("a token", SOON, || published(&rig).0 == "a1");
    // From the token's expiry on, and while the renewal is due: the server responds with 404 only.
    always("ready", Duration::from_secs(7), || {
        rig.http("/readyz").0 == 200
    });
    assert!(now() > published(&rig).1, "it has expired meanwhile");
    let overdue = rig.metric("refreshd_portals_overdue");
    assert!(
        overdue.abs() < 0.5 && rig.status("news")["overdue"] == Value::Null,
        "{overdue}"
    );
    let at = rig.metric("refreshd_token_overdue_timestamp_seconds{portal=\"news\"}");
    let due = rig.metric("refreshd_token_renewal_due_timestamp_seconds{portal=\"news\"}");
    assert!(
        (at - due - 90.0).abs() <= 2.0,
        "30 % of five minutes: {}",
        at - due
    );
    daemon.stop();
}
