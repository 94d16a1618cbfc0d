//! Alerts to receivers that validate requests strictly: the real binary, with a daemon and without.

mod command;
mod incidents;
mod kinds;
mod refusals;

use crate::common::mailserver::{LOGIN, MailServer};
use crate::common::receivers::{AUTHORIZATION, ROUTING_KEY, Receivers, TOKEN};
use crate::common::{CommandOutput, LIFE, Rig};
use serde_json::Value;
use std::time::Duration;

/// A rig with a channel of every kind over the network, and their receivers.
fn rig() -> (Rig, Receivers, MailServer) {
    rig_with_life(LIFE)
}

/// Like [`rig`], with tokens of this lifetime.
fn rig_with_life(life: Duration) -> (Rig, Receivers, MailServer) {
    let mut rig = Rig::with_lifetime(["acme"], life);
    let receivers = Receivers::listen(&rig);
    let mail = MailServer::listen();
    let url = |path: &str| receivers.url(path);
    rig.secret("password", LOGIN.1);
    rig.config.more = format!(
        "[alerts]\ninstance = \"host-1\"\nurl = \"https://refreshd.example.org/?a=1&b=2\"\n\
         [channels.alertmanager]\nkind = \"alertmanager\"\nurl = \"{}\"\n\
         [channels.beat]\nkind = \"heartbeat\"\nurl = \"{}\"\n\
         [channels.mail]\nkind = \"email\"\nsmtp = \"{}\"\ntls = \"off\"\nuser = \"{}\"\npassword_file = \"password\"\n\
         from = \"refreshd <refreshd@example.org>\"\nto = [\"ops@example.org\", \"Zoe <zoe@example.org>\"]\n\
         [channels.pagerduty]\nkind = \"pagerduty\"\nrouting_key = \"{ROUTING_KEY}\"\nurl = \"{}\"\n\
         [channels.push]\nkind = \"webhook\"\nurl = \"{}\"\nbody = '{{\"t\": {{{{ title }}}}, \"who\": {{{{ instance }}}}}}'\n\
         [channels.slack]\nkind = \"slack\"\nurl = \"{}\"\n\
         [channels.telegram]\nkind = \"telegram\"\nbot_token = \"{TOKEN}\"\nchat_id = -1001\nurl = \"{}\"\n\
         [channels.webhook]\nkind = \"webhook\"\nurl = \"{}\"\nauthorization = \"{AUTHORIZATION}\"\n",
        url("/alertmanager/"),
        url("/beat/secret-of-the-beat-1"),
        mail.address,
        LOGIN.0,
        url("/pagerduty"),
        url("/push"),
        url("/slack/T0/B0/secretOfTheHook"),
        url(""),
        url("/webhook/secretOfThePath1"),
    );
    (rig, receivers, mail)
}

/// The results of `alert test --json`, by channel.
#[track_caller]
fn tests(ran: &CommandOutput) -> Vec<(String, String, String)> {
    let all: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no JSON: {ran:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tests = all["tests"].as_array().expect("tests");
    tests
        .iter()
        .map(|test| {
            (
                text(&test["channel"]),
                text(&test["result"]),
                text(&test["answer"]),
            )
        })
        .collect()
}

/// Result and answer of the only test.
#[track_caller]
fn only(ran: &CommandOutput) -> (String, String) {
    let mut tests = tests(ran);
    assert_eq!(tests.len(), 1, "{ran:?}");
    let (_, result, answer) = tests.remove(0);
    (result, answer)
}

/// Asserts that the output holds no secret.
#[track_caller]
fn is_silent(output: &str) {
    for secret in [
        TOKEN,
        ROUTING_KEY,
        "secretOf",
        "secret-of",
        LOGIN.1,
        "127.0.0.1",
    ] {
        assert!(!output.contains(secret), "{secret} is in\n{output}");
    }
}
