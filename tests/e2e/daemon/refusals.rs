//! Rejections of one portal only, clients whose secret was replaced, failing servers, and the display of the server's error
//! texts.

use std::collections::BTreeSet;
use std::time::Duration;

use refreshd_fake_server::{At, Fault, Rules};
use serde_json::Value;

use crate::common::{
    CLIENT_ID, Daemon, LIFE, Rig, SOON, always, domain, eventually, is_step, message_contains,
};

fn refuse(status: u16, error: &str, description: &str) -> Fault {
    Fault::Refuse {
        status,
        error: error.into(),
        description: description.into(),
    }
}

fn answer(status: u16, body: &str, retry_after: Option<u64>) -> Fault {
    Fault::Body {
        status,
        content_type: "application/json".into(),
        body: body.into(),
        retry_after,
    }
}

/// A daemon whose portals have each been renewed once, so that tokens are published and the request is proven.
fn renewed<const N: usize>(portals: [&str; N], rules: Rules) -> (Rig, Daemon) {
    let mut rig = Rig::with_rules(portals, rules);
    for portal in portals {
        rig.grant(portal);
    }
    let daemon = rig.start();
    for portal in portals {
        rig.wait_for_generation(portal, 2);
    }
    (rig, daemon)
}

fn short() -> Rules {
    Rules {
        token_lifetime: LIFE,
        ..Rules::default()
    }
}

/// Tokens that live so long that none expires within a test.
fn long() -> Rules {
    Rules {
        token_lifetime: Duration::from_secs(600),
        ..Rules::default()
    }
}

fn text<'v>(view: &'v Value, key: &str) -> &'v str {
    view[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {view}"))
}

fn view(rig: &Rig, portal: &str) -> Value {
    rig.get_json(&format!("/v1/portals/{portal}"))
}

/// An explicit `renew`, which is allowed some time after the last renewal only.
fn renew(rig: &Rig, portal: &str) {
    eventually(&format!("a renewal of {portal} by hand"), SOON, || {
        let ran = rig.run(["renew", portal, "--json"]);
        !ran.stdout.contains("fresh-already")
    });
}

#[test]
fn client_refused_for_one_portal_continues_for_others() {
    let (rig, daemon) = renewed(["acme", "globex", "hooli"], short());
    for (code, status) in [("invalid_client", 400), ("insufficient_scope", 403)] {
        let mark = daemon.mark();
        rig.fail("acme", refuse(status, code, ""), u32::MAX);
        let event = daemon.wait_after(mark, SOON + LIFE, "the report of the refusal", |event| {
            is_step(event, "person") && event["portal"] == "acme"
        });
        assert_eq!(event["severity"], "critical", "{event}");
        assert!(
            text(&event, "reason").contains("for this portal only (it works for 2 others)"),
            "{event}"
        );
        assert!(text(&event, "reason").contains(code), "{event}");
        assert!(
            text(&event, "action")
                .starts_with("refused for this portal only; the client works for 2 others: see"),
            "{event}"
        );
        assert!(
            text(&event, "action").contains("acme.bitrix24.com"),
            "{event}"
        );
        let shown = rig.wait_for_phase("acme", "client-rejected");
        assert_eq!(shown["last_error"]["works_for"], 2, "{shown}");
        let waits = text(&shown, "waits");
        assert!(
            waits.starts_with("waits: the client is refused for this portal only since 20")
                && waits.ends_with(text(&shown, "next_renewal")),
            "{shown}"
        );
        for portal in ["globex", "hooli"] {
            rig.wait_for_renewals(portal, 2);
            let shown = view(&rig, portal);
            assert!(
                shown["phase"] == "fresh" && shown["waits"].is_null(),
                "{shown}"
            );
            assert!(rig.has_working_token(portal), "{portal}");
        }
        assert!(daemon.steps("crm").is_empty(), "no incident of the app");
        rig.heal("acme");
        renew(&rig, "acme");
        rig.wait_for_phase("acme", "fresh");
        daemon.wait_after(mark, SOON, "its end", |event| {
            is_step(event, "resolved") && event["portal"] == "acme"
        });
    }
    rig.no_violations();
}

#[test]
fn client_failing_everywhere_is_the_apps_incident() {
    one_dead_the_others_refused(["acme", "globex"]);
    one_dead_the_others_refused(["acme", "globex", "hooli"]);
}

#[track_caller]
fn one_dead_the_others_refused<const N: usize>(portals: [&str; N]) {
    let (rig, daemon) = renewed(portals, short());
    rig.fail("acme", refuse(400, "invalid_grant", ""), u32::MAX);
    for portal in &portals[1..] {
        rig.fail(portal, refuse(400, "invalid_client", ""), u32::MAX);
    }
    daemon.wait_after(0, SOON + LIFE, "the incident of the app", |event| {
        is_step(event, "person") && event["app"] == "crm"
    });
    rig.wait_for_phase("acme", "needs-authorization");
    let open = || {
        let alerts = rig.get_json("/v1/alerts");
        let incidents = alerts["incidents"].as_array().cloned().unwrap_or_default();
        let keys = incidents.iter().map(|one| text(one, "key").to_owned());
        keys.collect::<BTreeSet<_>>()
    };
    eventually(
        "one incident of the app, one of the dead grant",
        SOON,
        || open() == ["app/crm", "portal/acme"].map(str::to_owned).into(),
    );
    for portal in &portals[1..] {
        let shown = rig.wait_for_phase(portal, "client-rejected");
        assert!(shown["last_error"]["works_for"].is_null(), "{shown}");
    }
    let dead = view(&rig, "acme");
    assert!(dead["waits"].is_null(), "it waits for a person: {dead}");
    assert!(
        !daemon.stderr().contains("for this portal only"),
        "nothing reports it"
    );
    rig.no_violations();
    daemon.stop();
}

#[test]
fn client_refused_for_all_portals_is_one_incident() {
    let names = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"];
    let (rig, daemon) = renewed(names, short());
    rig.server
        .add_client(CLIENT_ID, "the next secret 0123456789");
    let event = daemon.wait_after(0, SOON + LIFE, "the incident of the app", |event| {
        is_step(event, "person") && event["app"] == "crm"
    });
    assert!(
        text(&event, "reason").contains("refuses the app's client"),
        "{event}"
    );
    let waiting = eventually(
        "a portal that waits and is past its time",
        LIFE + SOON,
        || {
            let mut views = names.iter().map(|name| view(&rig, name));
            views.find(|view| {
                view["phase"] == "fresh" && view["fresh"] == false && view["waits"].is_string()
            })
        },
    );
    let waits = text(&waiting, "waits");
    assert!(
        waits.starts_with("waits: the client of app crm is refused since 20"),
        "{waits}"
    );
    assert!(
        waits.contains(", next try at 20") && waits.contains(" by p"),
        "{waits}"
    );
    let status = rig.run(["status"]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(
        status
            .stdout
            .contains("waits: the client of app crm is refused since"),
        "{status:?}"
    );
    assert!(
        rig.http("/")
            .1
            .contains("waits: the client of app crm is refused since")
    );
    assert_eq!(daemon.steps("crm").len(), 1, "one incident");
    // A few others send a request within seconds, since the refusals could be particular to portals; then all wait for minutes.
    eventually("the last immediate request", LIFE + SOON, || {
        let refused = |event: &Value| event["outcome"] == "client-rejected";
        daemon.events(refused).len() >= 6
    });
    let sent = rig.server.total_requests();
    always(
        "no request is sent for the client",
        Duration::from_secs(3),
        || rig.server.total_requests() == sent,
    );

    // The secret is replaced in its file, without a reload or a command.
    rig.secret("crm.secret", "the next secret 0123456789");
    for name in names {
        rig.wait_for_phase(name, "fresh");
        eventually("a token that works", SOON, || rig.has_working_token(name));
    }
    daemon.wait_for_step("crm", "resolved");
    assert!(
        !daemon.stderr().contains("the next secret"),
        "no secret is logged"
    );
    rig.no_violations();
}

#[test]
fn replaced_secret_is_used_before_anyone_is_notified() {
    let (rig, daemon) = renewed(["acme", "globex", "hooli"], short());
    let before: Vec<_> = ["acme", "globex", "hooli"]
        .map(|name| rig.requests(name))
        .into();
    rig.secret("crm.secret", "rotated secret 0123456789\n");
    rig.server
        .add_client(CLIENT_ID, "rotated secret 0123456789");
    for portal in ["acme", "globex", "hooli"] {
        rig.wait_for_renewals(portal, 1);
    }
    daemon.wait_for("a line about it", |event| {
        message_contains(event, "its secret was read again and is another one now")
    });
    for portal in ["acme", "globex", "hooli"] {
        assert!(
            daemon
                .outcomes(portal)
                .iter()
                .all(|outcome| outcome == "renewed"),
            "{portal}"
        );
        assert!(daemon.steps(portal).is_empty(), "{portal}");
    }
    assert!(daemon.steps("crm").is_empty());
    let after: u64 = ["acme", "globex", "hooli"]
        .map(|name| rig.requests(name))
        .iter()
        .sum();
    assert!(after > before.iter().sum(), "they were sent again");
    assert!(
        !daemon.stderr().contains("rotated secret"),
        "no secret is logged"
    );
    rig.no_violations();
}

#[test]
fn damaged_replacement_secret_is_named() {
    let (rig, daemon) = renewed(["acme"], short());
    rig.secret("crm.secret", "\u{feff}rotated-secret-0123456789");
    rig.server
        .add_client(CLIENT_ID, "rotated-secret-0123456789");
    daemon.wait_for("the damage", |event| {
        message_contains(event, "looks damaged")
            && message_contains(event, "byte order mark")
            && event["app"] == "crm"
    });
    assert!(!daemon.stderr().contains("rotated-secret"), "not shown");
    rig.secret("crm.secret", "rotated-secret-0123456789");
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();
}

#[test]
fn secret_replaced_after_refusal_is_used_within_seconds() {
    let (rig, daemon) = renewed(["acme"], long());
    rig.server
        .add_client(CLIENT_ID, "the next secret 0123456789");
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    let ran = rig.import("acme", &rig.install("acme"));
    assert_eq!(ran.code, Some(75), "the grant is kept: {ran:?}");
    rig.secret("crm.secret", "");
    daemon.wait_for("a line about the empty file", |event| {
        message_contains(event, "its file is empty")
    });
    let warnings = |daemon: &Daemon| {
        daemon
            .events(|event| message_contains(event, "its file is empty"))
            .len()
    };
    let sent = rig.server.total_requests();
    rig.secret("crm.secret", "the next secret 0123456789");
    rig.wait_for_phase("acme", "fresh");
    assert_eq!(warnings(&daemon), 1, "a lasting problem is logged once");
    assert!(
        rig.server.total_requests() <= sent + 2,
        "the refused secret is not tried meanwhile"
    );
    assert!(rig.has_working_token("acme"));
    rig.no_violations();
}

#[test]
fn server_5xx_outweighs_its_error_code() {
    let (rig, daemon) = renewed(["acme", "globex", "hooli"], short());
    for (portal, fault) in [
        ("acme", refuse(500, "invalid_grant", "")),
        (
            "globex",
            answer(429, r#"{"error":"invalid_client"}"#, Some(1)),
        ),
        ("hooli", refuse(503, "NOT_INSTALLED", "")),
    ] {
        rig.fail(portal, fault, 1);
    }
    for portal in ["acme", "globex", "hooli"] {
        let event = daemon.wait_after(0, SOON + LIFE, "the refusal", |event| {
            event["portal"] == portal && event["outcome"] == "transient"
        });
        assert!(
            text(&event, "detail").contains("is not believed"),
            "{event}"
        );
        rig.wait_for_renewals(portal, 1);
        assert!(
            daemon
                .steps(portal)
                .iter()
                .all(|(step, _)| step != "person"),
            "{portal}"
        );
        assert!(rig.has_working_token(portal), "{portal}");
    }
    rig.no_violations();
}

#[test]
fn grants_wrongly_reported_dead_recover() {
    let names = [
        "p01", "p02", "p03", "p04", "p05", "p06", "p07", "p08", "p09", "p10", "p11", "p12",
    ];
    let (rig, daemon) = renewed(names, long());
    rig.server
        .fail(At::All, refuse(400, "invalid_grant", ""), u32::MAX);
    // A tenth of their life must pass before an explicit renewal; a first grant that is imported is renewed at once.
    for name in names {
        assert_eq!(rig.run(["forget", name, "--yes"]).code, Some(0));
        assert_eq!(rig.import(name, &rig.install(name)).code, Some(65));
        daemon.wait_for_step(name, "person");
    }
    let ran = rig.run(["renew", "--all"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for name in names {
        assert!(
            ran.stderr.contains(&format!("{name}: not renewed")),
            "{name}: {ran:?}"
        );
    }
    rig.server.heal(At::All);
    for name in names {
        daemon.wait_after(
            0,
            Duration::from_secs(60),
            "the end of its incident",
            |event| is_step(event, "resolved") && event["portal"] == name,
        );
        assert_eq!(view(&rig, name)["phase"], "fresh");
        let alarms = daemon
            .steps(name)
            .iter()
            .filter(|(step, _)| step == "person")
            .count();
        assert_eq!(alarms, 1, "{name} is notified once");
    }
    rig.no_violations();
}

#[test]
fn retry_after_beyond_expiry_is_overridden_once() {
    let (rig, daemon) = renewed(["acme"], short());
    rig.fail(
        "acme",
        answer(429, r#"{"error":"slow_down"}"#, Some(86_400)),
        1,
    );
    let event = daemon.wait_for_step("acme", "failed");
    assert_eq!(event["severity"], "warning", "{event}");
    let reason = text(&event, "reason");
    assert!(
        reason.contains("127.0.0.1") && reason.contains(" asks to wait until 20"),
        "{reason}"
    );
    assert!(
        reason.contains("(Retry-After), which is after the token's end at 20"),
        "{reason}"
    );
    assert!(view(&rig, "acme")["last_error"]["asked_to_wait"]["by"].is_string());
    rig.wait_for_renewals("acme", 1);
    assert!(rig.has_working_token("acme"));
    let ends = daemon.wait_for_step("acme", "resolved");
    assert!(
        daemon
            .steps("acme")
            .iter()
            .all(|(step, _)| step != "expired"),
        "{ends}"
    );
    rig.no_violations();
}

#[test]
fn server_error_text_is_shown_with_every_problem() {
    let words = "AADSTS50173: the grant is not valid, the password was changed";
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let shown = format!("{words}\u{202e}\u{7}");
    let body = serde_json::json!({"error": "invalid_grant", "error_description": shown,
        "error_uri": "https://login.example/error?code=50173"});
    rig.fail("acme", answer(400, &body.to_string(), None), u32::MAX);
    let ran = rig.import("acme", &rig.install("acme"));
    assert!(
        ran.code == Some(65) && ran.stderr.contains(words),
        "{ran:?}"
    );
    let event = daemon.wait_for_outcome("acme", "needs-authorization");
    let all = format!("(the server says: {words}; see https://login.example/error?code=50173)");
    assert!(text(&event, "detail").contains(&all), "{event}");
    assert!(
        text(&event, "detail").contains("the refresh token has expired"),
        "beside our meaning: {event}"
    );
    assert!(text(&daemon.wait_for_step("acme", "person"), "reason").contains(&all));
    let view = rig.wait_for_phase("acme", "needs-authorization");
    assert_eq!(view["last_error"]["said"], words, "{view}");
    assert!(
        rig.run(["status"]).stdout.contains(&all)
            && rig.run(["status", "acme"]).stdout.contains(&all)
    );
    assert!(rig.http("/").1.contains(words), "the page");
    assert!(rig.run(["renew", "acme"]).stderr.contains(&all), "renew");
    rig.no_violations();
}

#[test]
fn redirect_target_is_reported() {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let to = rig.config.apps[0].token_url.clone() + "/";
    rig.fail("acme", Fault::Redirect { to }, 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    let event = daemon.wait_for_outcome("acme", "unknown");
    let detail = text(&event, "detail");
    assert!(
        detail.contains("a redirect to 127.0.0.1:")
            && detail.contains("the slash at its end is missing"),
        "{detail}"
    );
    let event = daemon.wait_for_step("acme", "failed");
    assert!(
        text(&event, "action").contains("token_url") && !text(&event, "action").contains("code"),
        "{event}"
    );
    rig.no_violations();
}

#[test]
fn unknown_rejection_of_a_proven_request_is_a_dead_grant() {
    let (rig, daemon) = renewed(["acme", "globex"], short());
    rig.fail(
        "acme",
        refuse(400, "invalid_request", "The refresh token is invalid."),
        1,
    );
    rig.fail("globex", answer(400, "", None), 1);
    for portal in ["acme", "globex"] {
        let event = daemon.wait_after(0, SOON + LIFE, "the suggested action", |event| {
            is_step(event, "person") && event["portal"] == portal
        });
        let reason = text(&event, "reason");
        assert!(
            reason.contains(
                "to the same kind of request that worked before; assumed: the grant is dead"
            ),
            "{event}"
        );
        assert!(
            text(&event, "action").contains(&format!("refreshd authorize {portal}")),
            "{event}"
        );
        assert_eq!(view(&rig, portal)["phase"], "needs-authorization");
    }
    // A candidate's request has the proven kind of the previous pair's.
    rig.fail(
        "acme",
        refuse(400, "invalid_request", "The refresh token is invalid."),
        1,
    );
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    // For a grant that was never renewed, the same response concerns the request.
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    rig.fail(
        "acme",
        refuse(400, "invalid_request", "The refresh token is invalid."),
        1,
    );
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    rig.wait_for_phase("acme", "client-rejected");
    rig.no_violations();
}

#[test]
fn changed_request_is_not_a_proven_request() {
    let (mut rig, daemon) = renewed(["acme"], short());
    rig.config.app().more = "renewal_parameters = { audience = \"x\" }".to_owned();
    rig.write_config();
    rig.server
        .fail(At::Portal(domain("acme")), answer(400, "", None), 1);
    daemon.sighup();
    let event = daemon.wait_after(0, SOON + LIFE, "the refusal", |event| {
        event["portal"] == "acme" && event["outcome"].is_string() && event["outcome"] != "renewed"
    });
    assert_eq!(event["outcome"], "unknown", "{event}");
    rig.no_violations();
}
