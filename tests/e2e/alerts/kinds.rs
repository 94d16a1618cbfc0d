//! `alert test` for each kind of channel: every receiver accepts the message, with a daemon and without.

use crate::alerts::{is_silent, rig, tests};
use crate::common::receivers::Receivers;
use crate::common::{Rig, mailserver::MailServer};

const ALL: [&str; 8] = [
    "alertmanager",
    "beat",
    "mail",
    "pagerduty",
    "push",
    "slack",
    "telegram",
    "webhook",
];

#[track_caller]
fn all_are_notified(rig: &Rig, receivers: &Receivers, mail: &MailServer) {
    let ran = rig.run(["alert", "test", "--json"]);
    let results = tests(&ran);
    let names: Vec<_> = results
        .iter()
        .map(|(channel, ..)| channel.as_str())
        .collect();
    assert_eq!(names, ALL, "{ran:?}");
    for (channel, result, answer) in &results {
        assert_eq!(result, "delivered", "{channel}: {answer}");
    }
    assert_eq!(ran.code, Some(0), "{ran:?}");
    is_silent(&format!("{}{}", ran.stdout, ran.stderr));
    receivers.no_complaints();
    let actions: Vec<_> = receivers
        .seen("/pagerduty")
        .iter()
        .map(|seen| seen.json()["event_action"].clone())
        .collect();
    assert_eq!(actions[actions.len() - 2..], ["trigger", "resolve"]);
    let webhook = receivers.seen("/webhook");
    let statuses: Vec<_> = webhook
        .iter()
        .map(|seen| seen.json()["status"].clone())
        .collect();
    assert_eq!(statuses[statuses.len() - 2..], ["firing", "resolved"]);
    assert_eq!(
        webhook.last().expect("two requests").json()["externalURL"],
        "https://refreshd.example.org/?a=1&b=2"
    );
    let push = receivers.seen("/push").pop().expect("a request");
    assert_eq!(push.json()["who"], "host-1");
    assert_eq!(
        push.json()["t"],
        "[test] channel push: this is a test: alerts of refreshd arrive here"
    );
    let alerts = receivers
        .seen("/alertmanager")
        .pop()
        .expect("a request")
        .json();
    assert_eq!(alerts[0]["labels"]["channel"], "alertmanager");
    let mail = mail.mails().pop().expect("a mail");
    for part in [
        "MAIL FROM:<refreshd@example.org>",
        "RCPT TO:<ops@example.org>",
        "RCPT TO:<zoe@example.org>",
        "\nSubject: [test] channel mail",
        "\nAuto-Submitted: auto-generated",
        "refreshd on host-1",
    ] {
        assert!(mail.contains(part), "no {part:?} in\n{mail}");
    }
}

#[test]
fn every_channel_is_tested_without_a_daemon_or_state() {
    let (rig, receivers, mail) = rig();
    rig.write_config();
    all_are_notified(&rig, &receivers, &mail);
    assert!(!rig.path("state.db").exists());
    assert_eq!(receivers.seen("/beat").len(), 1);
}

#[test]
fn every_channel_is_tested_through_the_daemon() {
    let (rig, receivers, mail) = rig();
    let daemon = rig.start();
    all_are_notified(&rig, &receivers, &mail);
    let (status, answer) = rig.control("POST", "/v1/alerts/test", "{\"channel\": \"slack\"}");
    assert_eq!(status, 200, "{answer}");
    let expected = "{\"tests\":[{\"answer\":\"status 200: ok\",\"channel\":\"slack\",\"kind\":\"slack\",\"result\":\"delivered\"}]}";
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        answer,
        serde_json::from_str::<serde_json::Value>(expected).unwrap()
    );
    for (body, status) in [
        ("{\"chanel\": 1}", 400),
        ("[", 400),
        ("{\"channel\": \"slak\"}", 404),
    ] {
        assert_eq!(
            rig.control("POST", "/v1/alerts/test", body).0,
            status,
            "{body}"
        );
    }
    is_silent(&daemon.stderr().replace("127.0.0.1", ""));
    daemon.stop();
}

#[test]
fn reload_changes_the_instance_name_in_notifications() {
    let (mut rig, receivers, _mail) = rig();
    let daemon = rig.start();
    rig.config.more = rig.config.more.replace("host-1", "host-2");
    rig.write_config();
    assert_eq!(rig.control("POST", "/v1/reload", "").0, 200);
    assert_eq!(rig.run(["alert", "test", "push"]).code, Some(0));
    assert_eq!(
        receivers.seen("/push").pop().unwrap().json()["who"],
        "host-2"
    );
    daemon.stop();
}

#[test]
fn one_channel_is_tested_by_name_and_unknown_exits_66() {
    let (mut rig, receivers, _mail) = rig();
    rig.write_config();
    let check = |rig: &Rig| {
        let ran = rig.run(["alert", "test", "slack"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
        assert_eq!(
            ran.stderr.trim_end(),
            "slack (slack): delivered: status 200: ok"
        );
        let ran = rig.run(["alert", "test", "slak"]);
        assert_eq!(ran.code, Some(66));
        assert!(
            ran.stderr
                .contains("no channel is named slak; did you mean slack?"),
            "{ran:?}"
        );
    };
    check(&rig);
    let daemon = rig.start();
    check(&rig);
    assert_eq!(receivers.seen("/").len(), 2);
    daemon.stop();
    rig.config.more.clear();
    rig.write_config();
    let ran = rig.run(["alert", "test", "--json"]);
    assert_eq!((ran.code, tests(&ran).len()), (Some(66), 0));
    assert!(ran.stderr.contains("no channel is configured"), "{ran:?}");
}
