//! Responses to a code or a device code are parsed however they are wrapped, and kept if unreadable.

use std::sync::Mutex;

use serde_json::json;

use crate::common::authorizing::Authorizing;
use crate::common::hostile::{Behaviour, Hostile, reply};
use crate::common::{Portal, Rig};
use crate::interfaces::contains;

const PAIR: &str = r#"{"access_token":"a1","refresh_token":"r1","expires_in":3600}"#;

/// A portal `news` without a grant, whose token requests get these responses in turn, the last one repeatedly.
fn rig(bodies: &[&str], keys: &str) -> (Hostile, Rig) {
    let mut left: Vec<String> = bodies.iter().rev().map(|&body| body.to_owned()).collect();
    let last = left[0].clone();
    let left = Mutex::new(std::mem::take(&mut left));
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let body = if asked.text.starts_with("POST /device") {
            json!({"device_code": "d1", "user_code": "AAAA", "verification_uri": "https://a.example/device", "interval": 1})
                .to_string()
        } else {
            left.lock()
                .expect("no thread panics")
                .pop()
                .unwrap_or_else(|| last.clone())
        };
        Behaviour::Close(reply("200 OK", "Connection: close\r\n", &body))
    });
    let mut rig = Rig::new([]);
    rig.config.portals.push(Portal::new("news", "own"));
    rig.config.more = format!(
        "[providers.own]\ntoken_url = 'http://{0}/token'\ndevice_url = 'http://{0}/device'\n\
         authorize_url = 'http://{0}/authorize'\npkce = 'none'\n\
         [apps.own]\nprovider = 'own'\nclient_id = 'tv'\nclient_authentication = 'none'\n{keys}",
        hostile.address
    );
    (hostile, rig)
}

#[test]
fn code_and_device_accept_a_wrapped_response() {
    let wrapped = format!("<br /><b>Notice</b>: x {PAIR}");
    let (_hostile, rig) = rig(&[&wrapped], "");
    let daemon = rig.start();
    let ran = rig.run(["authorize", "news", "--code", "c0de"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        rig.token_json("news").expect("its file")["access_token"],
        "a1"
    );
    daemon.stop();
    let (_hostile, rig) = self::rig(&[&format!("cb({PAIR});")], "grant = 'device'");
    let daemon = rig.start();
    let ran = Authorizing::spawn(rig.command(["authorize", "news"])).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        rig.token_json("news").expect("its file")["access_token"],
        "a1"
    );
    daemon.stop();
}

/// The code is spent: its response is kept, and accepted once the profile names the place of the token.
#[test]
fn unreadable_code_response_is_kept() {
    let (_hostile, mut rig) = rig(&[&PAIR.replace("access_token", "tok")], "");
    let daemon = rig.start();
    let ran = rig.run(["authorize", "news", "--code", "c0de"]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "The reply is kept: refreshd recover news",
            "authorize again",
        ],
    );
    assert!(!ran.stderr.contains("a1"), "{ran:?}");
    assert_eq!(rig.status("news")["unread_replies"]["count"], 1);
    let ran = rig.run(["recover", "news"]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &["reply 1 to the authorization of", "cannot be read"],
    );
    daemon.stop();
    rig.config
        .more
        .push_str("\nreply = { access_token = 'tok' }");
    let daemon = rig.start();
    rig.wait_for_phase("news", "fresh");
    assert_eq!(
        rig.token_json("news").expect("its file")["access_token"],
        "a1"
    );
    assert_eq!(
        rig.run(["recover", "news"]).code,
        Some(66),
        "it was accepted"
    );
    daemon.stop();
}

#[test]
fn device_flow_keeps_an_unreadable_response_and_waits() {
    let (_hostile, rig) = rig(&["<p>a moment</p>", PAIR], "grant = 'device'");
    let daemon = rig.start();
    let ran = Authorizing::spawn(rig.command(["authorize", "news"])).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &daemon.stderr(),
        &["a reply that could not be read is kept; see: refreshd recover news"],
    );
    daemon.stop();
}
