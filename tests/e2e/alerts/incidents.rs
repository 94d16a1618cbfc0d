//! Notifications of incidents: at once, in order, once, across restarts of the daemon and of receivers, and the resolution.

use std::time::Duration;

use refreshd_fake_server::{At, Fault};
use serde_json::Value;

use crate::alerts::{is_silent, rig, rig_with_life};
use crate::common::receivers::{Behaviour, Receivers};
use crate::common::{LIFE, Portal, SOON, always, domain, eventually, is_step};

/// Time limit for a notification that is due at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Receivers that are notified once, by path; a heartbeat is pinged and Alertmanager is notified repeatedly.
const NOTIFIED_ONCE: [&str; 5] = ["/pagerduty", "/push", "/slack", "/bot", "/webhook"];

fn dead() -> Fault {
    Fault::Refuse {
        status: 400,
        error: "invalid_grant".into(),
        description: String::new(),
    }
}

fn outage() -> Fault {
    Fault::Refuse {
        status: 500,
        error: "oops".into(),
        description: String::new(),
    }
}

/// The webhook's messages so far as `SEVERITY STATUS`, without repeated attempts.
fn webhook_messages(receivers: &Receivers) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |json: Value| {
        format!(
            "{} {}",
            text(&json["commonLabels"]["severity"]),
            text(&json["status"])
        )
    };
    let mut all: Vec<_> = receivers
        .seen("/webhook")
        .iter()
        .map(|seen| line(seen.json()))
        .collect();
    all.dedup();
    all
}

fn counts(receivers: &Receivers) -> [usize; 5] {
    NOTIFIED_ONCE.map(|path| receivers.seen(path).len())
}

#[test]
fn dead_grant_notifies_every_channel_once_and_its_end_too() {
    let (rig, receivers, mail) = rig();
    let daemon = rig.start();
    rig.fail("acme", dead(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    daemon.wait_for_step("acme", "person");
    eventually("every receiver is notified", AT_ONCE, || {
        counts(&receivers).iter().all(|count| *count > 0)
            && !mail.mails().is_empty()
            && !receivers.seen("/alertmanager").is_empty()
    });
    receivers.no_complaints();
    let webhook = receivers.seen("/webhook")[0].json();
    let alert = &webhook["alerts"][0];
    assert_eq!(
        (&alert["labels"]["portal"], &alert["labels"]["severity"]),
        (&"acme".into(), &"critical".into())
    );
    let text = mail.mails()[0].clone();
    for part in [
        "acme",
        "the grant is dead",
        "Since 20",
        "The current token works for",
        "refreshd authorize acme",
    ] {
        assert!(
            text.replace("=\n", "").contains(part),
            "no {part:?} in\n{text}"
        );
    }
    eventually("the dead man's switch is notified", AT_ONCE, || {
        receivers
            .seen("/beat")
            .iter()
            .any(|seen| seen.path.ends_with("/fail"))
    });
    let event = receivers.seen("/pagerduty")[0].json();
    assert_eq!(
        (&event["event_action"], &event["dedup_key"]),
        (&"trigger".into(), &"refreshd/host-1/portal/acme".into())
    );

    // Neither time nor a restart repeats it.
    always(
        "no receiver is notified again",
        Duration::from_secs(3),
        || counts(&receivers) == [1; 5],
    );
    daemon.stop();
    let posts = receivers.seen("/alertmanager").len();
    let daemon = rig.start();
    always(
        "no receiver is notified again",
        Duration::from_secs(6),
        || counts(&receivers) == [1; 5],
    );
    // Alertmanager is: it would forget the alert while refreshd is restarted again and again.
    eventually(
        "Alertmanager gets the firing alert again",
        2 * AT_ONCE,
        || receivers.seen("/alertmanager").len() > posts,
    );

    rig.heal("acme");
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    eventually("every receiver gets the resolution", AT_ONCE, || {
        counts(&receivers) == [2; 5] && mail.mails().len() == 2
    });
    let event = receivers.seen("/pagerduty")[1].json();
    assert_eq!(
        (&event["event_action"], &event["dedup_key"]),
        (&"resolve".into(), &"refreshd/host-1/portal/acme".into())
    );
    assert_eq!(
        webhook_messages(&receivers),
        ["critical firing", "critical resolved"]
    );
    let alerts = receivers
        .seen("/alertmanager")
        .pop()
        .expect("a request")
        .json();
    assert!(
        alerts[0]["endsAt"].as_str() <= alerts[0]["startsAt"].as_str().map(|_| "3"),
        "{alerts}"
    );
    assert_eq!(
        rig.metric("refreshd_alert_deliveries_total{channel=\"slack\",result=\"delivered\"}"),
        1.0
    );
    assert_eq!(
        rig.metric("refreshd_alert_outbox_messages{channel=\"slack\"}"),
        0.0
    );
    receivers.no_complaints();
    is_silent(&daemon.stderr());
    daemon.stop();
}

#[test]
fn outage_notifies_by_share_of_life_and_resolves_once() {
    let (rig, receivers, _mail) = rig();
    let daemon = rig.start();
    rig.fail("acme", outage(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    eventually("a warning", LIFE, || {
        webhook_messages(&receivers) == ["warning firing"]
    });
    daemon.stop();
    receivers.play(Behaviour::Respond(503, Vec::new(), String::new()));
    let daemon = rig.start();
    daemon.wait_for_step("acme", "late");
    daemon.wait_after(0, LIFE + SOON, "the last step", |event| {
        is_step(event, "expired")
    });
    // Queued notifications survive a crash.
    daemon.kill9();
    let daemon = rig.start();
    rig.heal("acme");
    rig.wait_for_phase("acme", "fresh");
    receivers.play(Behaviour::Check);
    let all = [
        "warning firing",
        "error firing",
        "critical firing",
        "critical resolved",
    ];
    eventually("all of it, in order", Duration::from_secs(60), || {
        webhook_messages(&receivers) == all
    });
    always("and nothing else", Duration::from_secs(4), || {
        webhook_messages(&receivers) == all
    });
    receivers.no_complaints();
    daemon.stop();
    rig.no_violations();
}

#[test]
fn many_failing_portals_are_one_message_per_channel() {
    let (mut rig, receivers, mail) = rig();
    let names: Vec<String> = (0..40)
        .map(|number| format!("portal-{number:02}"))
        .collect();
    rig.config.portals = names.iter().map(|name| Portal::new(name, "crm")).collect();
    names.iter().for_each(|name| rig.grant(name));
    rig.server.fail(At::All, dead(), u32::MAX);
    let daemon = rig.start();
    eventually("every receiver is notified", AT_ONCE, || {
        counts(&receivers) == [1; 5] && mail.mails().len() == 1
    });
    let alert = receivers.seen("/webhook")[0].json()["alerts"][0].clone();
    assert_eq!(alert["labels"]["app"], "crm");
    let summary = alert["annotations"]["summary"].as_str().unwrap_or_default();
    assert!(
        summary.starts_with("[critical] 40 portals of app crm: "),
        "{summary}"
    );
    let named = alert["annotations"]["portals"].as_str().unwrap_or_default();
    assert!(
        named.contains("portal-00, portal-01") && named.contains("and 20 more"),
        "{named}"
    );
    always("once", Duration::from_secs(6), || {
        counts(&receivers) == [1; 5]
    });

    rig.server.heal(At::All);
    for name in &names {
        let grant =
            Value::Object(rig.server.install(&domain(name), crate::common::CLIENT_ID)).to_string();
        assert_eq!(
            rig.control("POST", &format!("/v1/portals/{name}/grant"), &grant)
                .0,
            200
        );
    }
    eventually("and the end once", LIFE, || counts(&receivers) == [2; 5]);
    assert_eq!(
        webhook_messages(&receivers),
        ["critical firing", "critical resolved"]
    );
    daemon.stop();
}

#[test]
fn silence_holds_and_then_reports_what_is_still_wrong() {
    let (rig, receivers, _mail) = rig();
    let daemon = rig.start();
    assert_eq!(
        rig.run(["silence", "acmee", "2h"]).code,
        Some(66),
        "there is no such portal"
    );
    assert_eq!(rig.run(["silence", "acme"]).code, Some(64));
    assert_eq!(rig.run(["silence", "acme", "soon"]).code, Some(64));
    assert_eq!(rig.run(["silence", "acme", "2h"]).code, Some(0));
    assert_eq!(rig.metric("refreshd_silences_active"), 1.0);
    rig.fail("acme", dead(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    daemon.wait_for_step("acme", "person");
    always("no receiver is notified", Duration::from_secs(5), || {
        counts(&receivers) == [0; 5]
    });
    let listed = rig.run(["alert", "list"]);
    assert!(
        listed.stdout.contains("silenced: acme, until 20"),
        "{listed:?}"
    );
    assert_eq!(rig.run(["silence", "acme", "--end"]).code, Some(0));
    eventually("the lasting incident is notified", AT_ONCE, || {
        counts(&receivers) == [1; 5]
    });

    let listed = rig.run(["alert", "list"]);
    assert_eq!(listed.code, Some(1), "something is open");
    for part in [
        "portal/acme",
        "critical",
        "refreshd authorize acme",
        "channel slack (slack): ok",
    ] {
        assert!(
            listed.stdout.contains(part),
            "no {part:?} in\n{}",
            listed.stdout
        );
    }
    assert_eq!(rig.run(["alert", "acknowledge", "globex"]).code, Some(66));
    assert_eq!(rig.run(["alert", "acknowledge", "acme"]).code, Some(0));
    eventually("PagerDuty gets the acknowledgement", AT_ONCE, || {
        receivers
            .seen("/pagerduty")
            .last()
            .is_some_and(|seen| seen.json()["event_action"] == "acknowledge")
    });
    assert_eq!(
        rig.get_json("/v1/alerts")["incidents"][0]["stage"],
        "acknowledged"
    );
    receivers.no_complaints();
    daemon.stop();
}

#[test]
fn hung_channels_delay_neither_renewal_nor_shutdown() {
    let (mut rig, receivers, _mail) = rig();
    rig.config.portals.push(Portal::new("globex", "crm"));
    rig.grant("globex");
    rig.secret("hang.sh", "sleep 60");
    rig.config
        .more
        .push_str("[channels.script]\nkind = \"command\"\ncommand = [\"/bin/sh\", \"hang.sh\"]\n");
    receivers.play(Behaviour::Hang);
    let daemon = rig.start();
    rig.fail("acme", dead(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    eventually("every channel is tried", AT_ONCE, || {
        counts(&receivers).iter().all(|count| *count > 0)
    });
    rig.wait_for_generation("globex", 2);
    let before = rig.renewals("globex");
    rig.wait_for_renewals("globex", 2);
    assert!(before > 0 && rig.has_working_token("globex"));
    let all = rig.metric("refreshd_renewal_lateness_seconds_count");
    let in_time = rig.metric("refreshd_renewal_lateness_seconds_bucket{le=\"5.0\"}");
    assert!(
        all > 0.0 && in_time >= all,
        "{in_time} of {all} were in time"
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn channels_are_tested_at_the_first_start_only() {
    let (mut rig, receivers, mail) = rig();
    rig.config.more = rig
        .config
        .more
        .replacen("[alerts]\n", "[alerts]\nself_test = \"30d\"\n", 1);
    let daemon = rig.start();
    eventually("every channel is tested", AT_ONCE, || {
        counts(&receivers) == [2, 1, 1, 1, 2] && mail.mails().len() == 1
    });
    let title = receivers.seen("/push")[0].json()["t"].clone();
    assert_eq!(
        title,
        "[test] channel push: this is a test: alerts of refreshd arrive here"
    );
    daemon.stop();
    let daemon = rig.start();
    always("not again", Duration::from_secs(4), || {
        counts(&receivers) == [2, 1, 1, 1, 2]
    });
    receivers.no_complaints();
    daemon.stop();
}

/// A receiver that answers slowly gets the message nevertheless.
#[test]
fn shutdown_waits_briefly_for_a_delivery_in_progress() {
    let (rig, receivers, _mail) = rig();
    let daemon = rig.start();
    receivers.play(Behaviour::Slow(Duration::from_millis(700)));
    rig.fail("acme", dead(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    eventually("every delivery has begun", AT_ONCE, || {
        counts(&receivers) == [1; 5]
    });
    daemon.stop();
    receivers.play(Behaviour::Check);
    let daemon = rig.start();
    always(
        "no receiver is notified again",
        Duration::from_secs(4),
        || counts(&receivers) == [1; 5],
    );
    daemon.stop();
}

#[test]
fn grant_that_dies_repeatedly_pages_once() {
    // A resolution is held back for a sixth of a life, longer than any delay of a busy machine.
    let (rig, receivers, _mail) = rig_with_life(Duration::from_secs(180));
    let daemon = rig.start();
    let stage = || rig.get_json("/v1/alerts")["incidents"][0]["stage"].clone();
    // A tenth of its life after a renewal it may be renewed again.
    let dies = || {
        rig.fail("acme", dead(), u32::MAX);
        eventually("a renewal", Duration::from_secs(28), || {
            rig.run(["renew", "acme"]).code == Some(1)
        });
    };
    let lives = || {
        rig.heal("acme");
        assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
        rig.wait_for_phase("acme", "fresh");
        eventually("nothing is open", AT_ONCE, || stage() == Value::Null);
    };
    rig.fail("acme", dead(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    eventually("every receiver is notified", AT_ONCE, || {
        counts(&receivers) == [1; 5]
    });
    lives();
    eventually("every receiver gets the resolution", AT_ONCE, || {
        counts(&receivers) == [2; 5]
    });
    for _ in 0..2 {
        dies();
        eventually("it is known, and held", AT_ONCE, || stage() == "held");
        lives();
    }
    assert_eq!(
        counts(&receivers),
        [2; 5],
        "no receiver is notified of a flapping portal"
    );
    assert_eq!(
        daemon
            .steps("acme")
            .iter()
            .filter(|(step, _)| step == "person")
            .count(),
        3,
        "the log has every event"
    );
    receivers.no_complaints();
    daemon.stop();
}

/// A candidate grant is not verified yet, and there is no new problem.
#[test]
fn slow_candidate_neither_notifies_nor_resolves() {
    let (rig, receivers, _mail) = rig();
    let daemon = rig.start();
    rig.fail("acme", dead(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    eventually("every receiver is notified", AT_ONCE, || {
        counts(&receivers) == [1; 5]
    });
    rig.heal("acme");
    rig.fail("acme", Fault::Stall, u32::MAX);
    rig.start_import("acme", &rig.install("acme"));
    // A reload makes the alerter collect findings.
    daemon.sighup();
    always("no receiver is notified", Duration::from_secs(4), || {
        counts(&receivers) == [1; 5]
    });
    assert_eq!(
        rig.get_json("/v1/alerts")["incidents"][0]["key"],
        "portal/acme"
    );
    receivers.no_complaints();
}
