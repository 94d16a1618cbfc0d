//! Receivers that refuse, are unreachable or do not answer: the reported error, which holds no secret.

use std::time::Duration;

use refreshd_time::clock::Clock;

use crate::alerts::{is_silent, only, rig, tests};
use crate::common::Rig;
use crate::common::receivers::{Behaviour, TOKEN};

#[track_caller]
fn tested(rig: &Rig, channel: &str) -> (String, String) {
    let ran = rig.run(["alert", "test", channel, "--json"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    is_silent(&format!("{}{}", ran.stdout, ran.stderr));
    only(&ran)
}

#[test]
fn wrong_secret_is_reported_but_not_shown() {
    let (mut rig, receivers, mail) = rig();
    let more = rig.config.more.clone();
    for (channel, right, wrong, result, expected) in [
        (
            "webhook",
            "Bearer secretOfTheWebhook1",
            "Bearer secretOfOther7",
            "failed",
            "status 401: who is …?",
        ),
        (
            "slack",
            "secretOfTheHook",
            "secretOfOther7",
            "failed",
            "status 404: no_service",
        ),
        (
            "telegram",
            TOKEN,
            "123456:ABC-secretOfOther7",
            "failed",
            "Unauthorized",
        ),
        (
            "pagerduty",
            "0123456789abcdef\"",
            "0123456789abcdee\"",
            "failed",
            "invalid routing key",
        ),
        (
            "beat",
            "secret-of-the-beat-1",
            "secret-of-another-7",
            "failed",
            "status 404: nothing at …",
        ),
        (
            "mail",
            "user = \"refreshd\"",
            "user = \"somebody\"",
            "failed",
            "535",
        ),
    ] {
        rig.config.more = more.replace(right, wrong);
        assert_ne!(rig.config.more, more, "{channel}");
        rig.write_config();
        let (was, answer) = tested(&rig, channel);
        assert_eq!(was, result, "{channel}: {answer}");
        assert!(answer.contains(expected), "{channel}: {answer}");
    }
    receivers.no_complaints();
    assert!(mail.mails().is_empty());
}

#[test]
fn echoed_channel_url_is_masked_in_every_spelling() {
    let (mut rig, receivers, _mail) = rig();
    let query = "token=q/w%2Be%3Ar%261";
    rig.config.more = rig
        .config
        .more
        .replace("/push\"", &format!("/push?{query}\""));
    rig.write_config();
    let encoded =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let json =
        |text: &str| -> String { text.bytes().map(|byte| format!("\\u{byte:04x}")).collect() };
    let html = |text: &str| -> String { text.bytes().map(|byte| format!("&#{byte};")).collect() };
    let hook = "secretOfTheHook";
    for (channel, secret, spelt) in [
        ("push", "q/w", format!("no such path /push?{query}")),
        ("push", "w%252", format!("no such path {}", encoded(query))),
        (
            "telegram",
            "secretOf",
            format!("no such path /bot{}/sendMessage", encoded(TOKEN)),
        ),
        ("telegram", "123456", format!("no such bot {}", json(TOKEN))),
        ("slack", "u0073", json(hook)),
        ("slack", "&#", html(hook)),
        ("slack", "SECRETOF", hook.to_uppercase()),
        (
            "webhook",
            "QmVhcmVy",
            "Basic QmVhcmVyIHNlY3JldE9mVGhlV2ViaG9vazE=".to_owned(),
        ),
    ] {
        receivers.play(Behaviour::Respond(404, Vec::new(), spelt.clone()));
        let (_, answer) = tested(&rig, channel);
        assert!(!answer.contains(secret), "{channel}, {spelt}: {answer}");
    }
}

#[test]
fn receiver_response_decides_the_outcome() {
    let (rig, receivers, mail) = rig();
    rig.write_config();
    let respond = |status, headers, body: &str| {
        receivers.play(Behaviour::Respond(status, headers, body.to_owned()));
    };
    for channel in [
        "webhook",
        "alertmanager",
        "slack",
        "telegram",
        "pagerduty",
        "beat",
        "push",
    ] {
        for status in [500, 429, 404] {
            respond(status, Vec::new(), "try later");
            assert_eq!(tested(&rig, channel).0, "failed", "{channel} {status}");
        }
        respond(400, Vec::new(), "no");
        assert_eq!(
            tested(&rig, channel).0,
            if channel == "beat" {
                "failed"
            } else {
                "rejected"
            },
            "{channel}"
        );
        // It would send the message, and its secrets, to another address.
        respond(307, vec![("location", receivers.url("/push"))], "");
        let before = receivers.seen("/").len();
        let (result, answer) = tested(&rig, channel);
        assert!(
            result == "failed" && answer.contains("redirects are not followed"),
            "{channel}: {answer}"
        );
        assert_eq!(
            receivers.seen("/").len(),
            before + 1,
            "{channel}: it was followed"
        );
    }
    for (refusal, result) in [
        ("552 5.3.4 too big", "rejected"),
        ("550 5.1.1 nobody here", "failed"),
        ("451 later", "failed"),
    ] {
        mail.refuse(Some(refusal));
        let (was, answer) = tested(&rig, "mail");
        assert_eq!(was, result, "{answer}");
        assert!(answer.starts_with(&refusal[..3]), "{answer}");
    }
}

#[test]
fn unresponsive_receiver_costs_only_the_timeout() {
    let (mut rig, receivers, _mail) = rig();
    rig.config.more = rig
        .config
        .more
        .replace("kind = ", "timeout = \"1s\"\nkind = ");
    let daemon = rig.start();
    receivers.play(Behaviour::Hang);
    let clock = Clock::system();
    let began = clock.tick();
    let ran = rig.run(["alert", "test", "--json"]);
    let took = clock.elapsed(began);
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(10),
        "{took:?}"
    );
    for (channel, result, answer) in tests(&ran) {
        let expected = if channel == "mail" {
            ("delivered", "250")
        } else {
            ("failed", "no answer within 1s")
        };
        assert_eq!(
            (result.as_str(), answer.contains(expected.1)),
            (expected.0, true),
            "{channel}: {answer}"
        );
    }
    daemon.stop();
}

#[test]
fn unreachable_receiver_is_reported_without_its_url() {
    let (mut rig, receivers, _mail) = rig();
    // A port that was free just before.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (there, away) = (receivers.address.port().to_string(), port.to_string());
    rig.config.more = rig
        .config
        .more
        .replace(&format!(":{there}"), &format!(":{away}"));
    rig.write_config();
    for channel in [
        "webhook",
        "slack",
        "telegram",
        "pagerduty",
        "alertmanager",
        "beat",
    ] {
        let (result, answer) = tested(&rig, channel);
        assert!(
            result == "failed" && answer.contains("cannot connect") && answer.contains("refused"),
            "{channel}: {answer}"
        );
        assert!(!answer.contains(&away), "{channel}: {answer}");
    }
}

#[test]
fn mail_server_without_tls_gets_no_password() {
    let (mut rig, _receivers, mail) = rig();
    rig.config.more = rig
        .config
        .more
        .replace("tls = \"off\"", "tls = \"starttls\"");
    rig.write_config();
    let (result, answer) = tested(&rig, "mail");
    assert_eq!(result, "failed", "{answer}");
    assert!(mail.mails().is_empty());
}
