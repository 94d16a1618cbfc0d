//! Renewals that bring an access token and no readable refresh token, after others that brought one: the new one may be in
//! an unknown place of the response, and the sent one may be spent.

use std::sync::Mutex;
use std::time::Duration;

use crate::common::hostile::{Behaviour, Hostile, reply};
use crate::common::{Daemon, Portal, Rig, SOON, always, eventually, message_contains};

/// The response to the renewal with refresh token `r-NUMBER`, and whether it spends the token.
type Answer = fn(u64) -> (String, bool);

const KEPT: &str = "no refresh token that can be read";

/// A daemon whose portal `acme` has the grant `r-1` at a server that accepts a spent token only once.
fn renewing(answer: Answer) -> (Hostile, Rig, Daemon) {
    let spent: Mutex<Vec<u64>> = Mutex::default();
    let count = Mutex::new(0);
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let token = asked.parameter("refresh_token");
        let number: u64 = token
            .trim_start_matches("r-")
            .parse()
            .expect("as the test made it");
        let mut spent = spent.lock().expect("no thread panics");
        let mut count = count.lock().expect("no thread panics");
        let (status, body) = if spent.contains(&number) {
            ("400 Bad Request", r#"{"error":"invalid_grant"}"#.to_owned())
        } else {
            *count += 1;
            let (body, spends) = answer(number);
            if spends {
                spent.push(number);
            }
            ("200 OK", body.replace("ACCESS", &format!("a-{count}")))
        };
        Behaviour::Close(reply(status, "Connection: close\r\n", &body))
    });
    let mut rig = Rig::new([]);
    rig.config.app().token_url = hostile.token_url();
    rig.config.app().renew_every = Duration::from_secs(1);
    rig.secret("acme.refresh", "r-1");
    rig.config.portals.push(Portal {
        refresh_token_file: true,
        ..Portal::new("acme", "crm")
    });
    let daemon = rig.start();
    (hostile, rig, daemon)
}

fn rotated(number: u64) -> (String, bool) {
    let next = number + 1;
    (
        format!(r#"{{"access_token":"ACCESS","refresh_token":"r-{next}","expires_in":4}}"#),
        true,
    )
}

#[test]
fn unreadable_refresh_token_is_kept_and_named_when_needed() {
    let hidden: [Answer; 3] = [
        |number| match number {
            3 => (
                r#"{"access_token":"ACCESS","expires_in":4,"user":{"refresh_token":"r-4"}}"#.into(),
                true,
            ),
            _ => rotated(number),
        },
        |number| match number {
            3 => (
                r#"{"access_token":"ACCESS","expires_in":4,"new_refresh_token":"r-4"}"#.into(),
                true,
            ),
            _ => rotated(number),
        },
        |number| match number {
            3 => (
                "{\"access_token\":\"ACCESS\",\"expires_in\":4}\n{\"refresh_token\":\"r-4\"}"
                    .into(),
                true,
            ),
            _ => rotated(number),
        },
    ];
    for answer in hidden {
        let (_hostile, rig, daemon) = renewing(answer);
        eventually("it is kept", SOON, || {
            rig.status("acme")["unread_replies"]["count"] == 1
        });
        daemon.wait_for_outcome("acme", "needs-authorization");
        let action = rig.wait_for_phase("acme", "needs-authorization")["action"].to_string();
        let (recover, authorize) = (action.find("recover acme"), action.find("authorize acme"));
        assert!(recover.is_some() && recover < authorize, "{action}");
        let ran = rig.run(["recover", "acme", "--show"]);
        assert!(ran.stdout.contains("r-4"), "{ran:?}");
        assert!(
            !daemon.stderr().contains("r-4"),
            "no token is logged: {}",
            daemon.stderr()
        );
        let refused = rig.run(["recover", "acme"]);
        assert_eq!(refused.code, Some(65), "no new pair is in it: {refused:?}");
        // A start parses kept responses again, and must not take the access token alone for a pair.
        daemon.stop();
        let daemon = rig.start();
        rig.wait_for_phase("acme", "needs-authorization");
        assert_eq!(rig.status("acme")["unread_replies"]["count"], 1);
        assert_eq!(rig.import("acme", "r-4").code, Some(0));
        rig.wait_for_phase("acme", "fresh");
        eventually("nothing is kept", SOON, || {
            rig.status("acme")["unread_replies"].is_null()
        });
        daemon.stop();
    }
}

#[test]
fn notified_once_and_kept_until_a_refresh_token_comes() {
    static ASKED: Mutex<u64> = Mutex::new(0);
    let (_hostile, rig, daemon) = renewing(|number| {
        let mut asked = ASKED.lock().expect("no thread panics");
        *asked += 1;
        // `r-3` is accepted three times, and `r-4` twice: this server rotates sometimes.
        match (number, *asked) {
            (3, ..=5) | (4, ..=7) => (r#"{"access_token":"ACCESS","expires_in":4}"#.into(), false),
            _ => rotated(number),
        }
    });
    let warned = || daemon.events(|event| message_contains(event, KEPT)).len();
    daemon.wait_for("the warning", |event| message_contains(event, KEPT));
    eventually("it is kept", SOON, || {
        rig.status("acme")["unread_replies"]["count"] == 1
    });
    rig.wait_for_generation("acme", 7);
    eventually("nothing is kept", SOON, || {
        rig.status("acme")["unread_replies"].is_null()
    });
    rig.wait_for_generation("acme", 9);
    assert!(rig.status("acme")["unread_replies"].is_null());
    assert_eq!(warned(), 1, "{}", daemon.stderr());
    daemon.stop();
}

#[test]
fn server_without_rotation_causes_no_notice() {
    let answers: [Answer; 2] = [
        |_| (r#"{"access_token":"ACCESS","expires_in":4}"#.into(), false),
        |number| {
            (
                format!(
                    r#"{{"access_token":"ACCESS","refresh_token":"r-{number}","expires_in":4}}"#
                ),
                false,
            )
        },
    ];
    for answer in answers {
        let (_hostile, rig, daemon) = renewing(answer);
        rig.wait_for_generation("acme", 5);
        always("nothing is kept", Duration::from_secs(2), || {
            rig.status("acme")["unread_replies"].is_null()
        });
        assert!(!daemon.stderr().contains(KEPT), "{}", daemon.stderr());
        daemon.stop();
    }
}
