//! Install events: what they create, replace and end.

use refreshd_time::Timestamp;

use crate::common::installs::{Form, PROOF, encoded, event_of, form_of, removal_of, with};
use crate::common::{Rig, SOON, domain, eventually, now_millis};
use crate::interfaces::install::{ACME, installing};

fn user_of(rig: &Rig) -> String {
    rig.token_json(ACME)
        .map(|json| json["fields"]["user_id"].to_string())
        .unwrap_or_default()
}

/// Waits until the token of this user is published.
#[track_caller]
fn wait_for_user(rig: &Rig, user: &str) {
    eventually(&format!("the token of user {user}"), SOON, || {
        user_of(rig) == user
    });
}

#[test]
fn install_event_brings_the_installers_grant() {
    let rig = installing("");
    let daemon = rig.start();
    rig.open("acme", &rig.grant_of("acme", 1));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    // No event is verified as the portal's yet: the operator decides about another user's.
    rig.post(
        "",
        &event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 5)),
    );
    rig.wait_for_installs("other-user", 1.0);
    // The installer's own event brings the application token, and from then on another installer's counts.
    for (count, user) in [(1_u32, 1), (2, 5)] {
        let event = event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", user));
        assert_eq!(rig.post("", &event).0, 200);
        rig.wait_for_installs("resumed", f64::from(count));
        wait_for_user(&rig, &user.to_string());
        // A grant that replaces a live one has been verified, which counts as a renewal. The same event again is ignored.
        rig.wait_for_generation(ACME, 2 + u64::from(count));
        assert_eq!(rig.post("", &event).0, 200);
        rig.wait_for_installs("replayed", f64::from(count));
    }
    assert_eq!(rig.generation(ACME), 4);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn app_user_takes_over_the_grant_and_keeps_it() {
    let rig = installing("");
    let daemon = rig.start();
    rig.post(
        "",
        &event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 1)),
    );
    rig.wait_for_installs("stored", 1.0);
    let event = with(
        event_of("ONAPPUSERREADY", "data", &rig.grant_of("acme", 512)),
        "auth[user_id]",
        "1",
    );
    assert_eq!(rig.post("", &event).0, 200);
    rig.wait_for_installs("resumed", 1.0);
    wait_for_user(&rig, "512");
    for (count, user) in [(1.0, 1), (2.0, 67)] {
        rig.open("acme", &rig.grant_of("acme", user));
        rig.wait_for_installs("other-user", count);
    }
    assert_eq!(user_of(&rig), "512");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn uninstall_ends_the_grant_and_install_restores_it() {
    let rig = installing("");
    let daemon = rig.start();
    let grant = rig.grant_of("acme", 1);
    let base = now_millis();
    rig.post(
        "",
        &with(
            event_of("ONAPPINSTALL", "auth", &grant),
            "ts",
            &at(base, -20),
        ),
    );
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    rig.server.uninstall(&domain("acme"));
    let removal_at = |seconds| with(removal_of(&grant, PROOF, 0), "ts", &at(base, seconds));
    let removal = removal_at(-10);
    assert_eq!(rig.post("", &removal).0, 200);
    rig.wait_for_installs("uninstalled", 1.0);
    rig.wait_for_phase(ACME, "gone");
    eventually("its token files are removed", SOON, || {
        !rig.token_path(ACME, "token").exists()
    });
    let step = daemon.wait_for_step(ACME, "person");
    assert_eq!(step["severity"], "critical");
    let sent = rig.requests("acme");

    // An employee of the portal cannot open an uninstalled app; an installer can.
    rig.post(
        "",
        &with(
            event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 2)),
            "ts",
            &at(base, -5),
        ),
    );
    rig.wait_for_installs("resumed", 1.0);
    wait_for_user(&rig, "2");
    rig.wait_for_phase(ACME, "fresh");
    assert!(rig.requests("acme") > sent);

    // The uninstallation again, and one that was sent before the new installation.
    for (count, removal) in [(1.0, removal), (2.0, removal_at(-7))] {
        assert_eq!(rig.post("", &removal).0, 200);
        rig.wait_for_installs("replayed", count);
    }
    assert_eq!(rig.wait_for_phase(ACME, "fresh")["portal"], ACME);
    daemon.stop();
}

/// Unix time in seconds after `base`: events are compared with each other, however slow the machine is.
fn at(base: i64, seconds: i64) -> String {
    (base / 1000 + seconds).to_string()
}

#[test]
fn opening_the_app_restores_an_uninstalled_portal() {
    let mut rig = Rig::new([]);
    rig.take_installs("", "");
    let daemon = rig.start();
    rig.open("acme", &rig.grant_of("acme", 1));
    rig.wait_for_generation(ACME, 2);
    // No uninstall event arrives: the next renewal finds out.
    rig.server.uninstall(&domain("acme"));
    daemon.wait_for_outcome(ACME, "gone");
    rig.open("acme", &rig.grant_of("acme", 3));
    rig.wait_for_installs("resumed", 1.0);
    wait_for_user(&rig, "3");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn other_events_are_ignored_and_counted() {
    let rig = installing("");
    let daemon = rig.start();
    let event = with(
        removal_of(&rig.grant_of("acme", 1), PROOF, 0),
        "event",
        "ONAPPUPDATE",
    );
    assert_eq!(rig.post("", &event).0, 200);
    rig.wait_for_installs("ignored", 1.0);
    assert_eq!(rig.server.questions(), 0);
    daemon.stop();
}

#[test]
fn verifiable_event_is_accepted_in_every_encoding() {
    let rig = installing("");
    let daemon = rig.start();
    let form = "application/x-www-form-urlencoded";
    let names = [
        "float",
        "iso",
        "garbage",
        "endpoint",
        "scope",
        "json",
        "multipart",
        "text",
        "bom",
    ];
    for name in names {
        let event = event_of("ONAPPINSTALL", "auth", &rig.grant_of(name, 1));
        let plain = encoded(&event);
        let (kind, body) = match name {
            "float" => (
                form,
                encoded(&with(event, "ts", &format!("{}.25", at(now_millis(), 0)))),
            ),
            "iso" => (
                form,
                encoded(&with(
                    event,
                    "ts",
                    &Timestamp::from_millis(now_millis()).to_string(),
                )),
            ),
            "garbage" => (form, encoded(&with(event, "ts", "soon"))),
            "endpoint" => (
                form,
                encoded(&with(event, "auth[client_endpoint]", "not a url")),
            ),
            "scope" => (
                form,
                encoded(&with(event, "auth[scope]", &"crm,".repeat(20_000))),
            ),
            "json" => ("application/json", json_of(&event)),
            "multipart" => ("multipart/form-data; boundary=XX", multipart_of(&event)),
            "text" => ("text/plain", plain),
            _ => (form, format!("\u{feff}{plain}")),
        };
        let answer = rig.post_raw("/install/crm", kind, body);
        assert_eq!(answer.0, 200, "{name}: {answer:?}");
        rig.wait_for_generation(&domain(name), 2);
    }
    // An event that names no portal is acknowledged without an error.
    let event = event_of("ONAPPINSTALL", "auth", &rig.grant_of("none", 1));
    let answer = rig.post("", &with(event, "auth[member_id]", ""));
    assert_eq!(
        (answer.0, answer.2.as_str()),
        (200, "ignored: auth[member_id] is missing\n")
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn server_decides_the_portal_host_not_the_event() {
    let rig = installing("");
    let daemon = rig.start();
    for (at, host) in [
        "www.p0.bitrix24.com",
        "old-name.bitrix24.com",
        "127.0.0.1",
        "localhost",
        "p4.bitrix24.com&DOMAIN=p4.bitrix24.com",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("p{at}");
        let query = format!("?DOMAIN={host}");
        assert_eq!(rig.post(&query, &form_of(&rig.grant_of(&name, 1))).0, 200);
        rig.wait_for_generation(&domain(&name), 2);
        let view = rig.get_json(&format!("/v1/portals/{}", domain(&name)));
        assert_eq!(
            view["endpoint"],
            format!("https://{}/rest/", domain(&name)),
            "{view}"
        );
    }
    assert_eq!(
        rig.get_json("/v1/portals")["portals"]
            .as_array()
            .map(Vec::len),
        Some(5)
    );
    daemon.stop();
    rig.no_violations();
}

/// A form as a proxy may forward it.
fn json_of(form: &Form) -> String {
    let mut body = serde_json::Map::new();
    for (name, value) in form {
        match name.split_once('[') {
            Some((outer, inner)) => {
                let part = body.entry(outer).or_insert_with(|| serde_json::json!({}));
                part[inner.trim_end_matches(']')] = value.as_str().into();
            }
            None => {
                body.insert(name.clone(), value.as_str().into());
            }
        }
    }
    serde_json::Value::from(body).to_string()
}

fn multipart_of(form: &Form) -> String {
    let part = |(name, value): &(String, String)| {
        format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    form.iter().map(part).collect::<String>() + "--XX--\r\n"
}
