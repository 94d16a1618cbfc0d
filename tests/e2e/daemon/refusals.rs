//! Refusals that are one portal's own, clients whose secret was replaced, servers that are ill, and what is shown of the
//! server's own words.

use std::collections::BTreeSet;
use std::time::Duration;

use refreshd_fake_server::{At, Fault, Rules};
use serde_json::Value;

use crate::common::{
    CLIENT_ID, Daemon, LIFE, Rig, SOON, always, domain, eventually, is_step, says,
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

/// A daemon whose portals have each been renewed once, so that readers have a token and the request is known to work.
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

/// Tokens that live so long that none ends within a test.
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

/// An operator's `renew`, which may come only some time after the last one.
fn renew(rig: &Rig, portal: &str) {
    eventually(&format!("a renewal of {portal} by hand"), SOON, || {
        let ran = rig.run(["renew", portal, "--json"]);
        !ran.stdout.contains("fresh-already")
    });
}

#[test]
fn a_client_that_is_refused_for_one_portal_only_goes_on_for_the_others() {
    let (rig, daemon) = renewed(["acme", "globex", "hooli"], short());
    for (code, status) in [("invalid_client", 400), ("insufficient_scope", 403)] {
        let mark = daemon.mark();
        rig.fail("acme", refuse(status, code, ""), u32::MAX);
        let told = daemon.wait_after(mark, SOON + LIFE, "the refusal to be told", |event| {
            is_step(event, "person") && event["portal"] == "acme"
        });
        assert_eq!(told["severity"], "critical", "{told}");
        assert!(
            text(&told, "reason").contains("for this portal only (it works for 2 others)"),
            "{told}"
        );
        assert!(text(&told, "reason").contains(code), "{told}");
        assert!(
            text(&told, "action")
                .starts_with("refused for this portal only; the client works for 2 others: see"),
            "{told}"
        );
        assert!(
            text(&told, "action").contains("acme.bitrix24.com"),
            "{told}"
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
fn a_client_that_no_portal_succeeds_with_is_the_apps_incident_though_a_grant_is_dead() {
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
        "nothing says so"
    );
    rig.no_violations();
    daemon.stop();
}

#[test]
fn a_client_that_is_refused_for_all_is_one_incident_whose_waiting_portals_say_so() {
    let names = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"];
    let (rig, daemon) = renewed(names, short());
    rig.sandbox
        .add_client(CLIENT_ID, "the next secret 0123456789");
    let told = daemon.wait_after(0, SOON + LIFE, "the incident of the app", |event| {
        is_step(event, "person") && event["app"] == "crm"
    });
    assert!(
        text(&told, "reason").contains("refuses the app's client"),
        "{told}"
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
    // A few others ask within seconds, since the refusals could be those portals' own; then nobody does for minutes.
    eventually("the last of those that ask at once", LIFE + SOON, || {
        let refused = |event: &Value| event["outcome"] == "client-rejected";
        daemon.events(refused).len() >= 6
    });
    let sent = rig.sandbox.total_requests();
    always(
        "the client is left in peace",
        Duration::from_secs(3),
        || rig.sandbox.total_requests() == sent,
    );

    // The secret is replaced in its file. Nobody reloads, and nobody asks.
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
fn a_secret_that_was_replaced_in_its_file_is_used_before_anybody_is_told() {
    let (rig, daemon) = renewed(["acme", "globex", "hooli"], short());
    let before: Vec<_> = ["acme", "globex", "hooli"]
        .map(|name| rig.requests(name))
        .into();
    rig.secret("crm.secret", "rotated secret 0123456789\n");
    rig.sandbox
        .add_client(CLIENT_ID, "rotated secret 0123456789");
    for portal in ["acme", "globex", "hooli"] {
        rig.wait_for_renewals(portal, 1);
    }
    daemon.wait_for("a line about it", |event| {
        says(event, "its secret was read again and is another one now")
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
fn a_secret_that_was_damaged_as_it_was_replaced_is_named() {
    let (rig, daemon) = renewed(["acme"], short());
    rig.secret("crm.secret", "\u{feff}rotated-secret-0123456789");
    rig.sandbox
        .add_client(CLIENT_ID, "rotated-secret-0123456789");
    daemon.wait_for("the damage", |event| {
        says(event, "looks damaged") && says(event, "byte order mark") && event["app"] == "crm"
    });
    assert!(!daemon.stderr().contains("rotated-secret"), "not shown");
    rig.secret("crm.secret", "rotated-secret-0123456789");
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();
}

#[test]
fn a_secret_that_is_replaced_after_the_refusal_is_used_within_seconds() {
    let (rig, daemon) = renewed(["acme"], long());
    rig.sandbox
        .add_client(CLIENT_ID, "the next secret 0123456789");
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    let ran = rig.import("acme", &rig.install("acme"));
    assert_eq!(ran.code, Some(75), "the grant is kept: {ran:?}");
    rig.secret("crm.secret", "");
    daemon.wait_for("a line about the empty file", |event| {
        says(event, "its file is empty")
    });
    let said = |daemon: &Daemon| {
        daemon
            .events(|event| says(event, "its file is empty"))
            .len()
    };
    let sent = rig.sandbox.total_requests();
    rig.secret("crm.secret", "the next secret 0123456789");
    rig.wait_for_phase("acme", "fresh");
    assert_eq!(said(&daemon), 1, "a problem that lasts is said once");
    assert!(
        rig.sandbox.total_requests() <= sent + 2,
        "the refused secret is not tried meanwhile"
    );
    assert!(rig.has_working_token("acme"));
    rig.no_violations();
}

#[test]
fn a_server_that_is_ill_is_not_believed_whatever_its_code_says() {
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
fn grants_that_an_ill_server_called_dead_come_back_by_themselves() {
    let names = [
        "p01", "p02", "p03", "p04", "p05", "p06", "p07", "p08", "p09", "p10", "p11", "p12",
    ];
    let (rig, daemon) = renewed(names, long());
    rig.sandbox
        .fail(At::All, refuse(400, "invalid_grant", ""), u32::MAX);
    // A tenth of their life must pass before they are asked by hand; a first grant that is imported is asked at once.
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
    rig.sandbox.heal(At::All);
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
        assert_eq!(alarms, 1, "{name} is told once");
    }
    rig.no_violations();
}

#[test]
fn a_wait_beyond_the_tokens_end_is_told_and_broken_once_before_it() {
    let (rig, daemon) = renewed(["acme"], short());
    rig.fail(
        "acme",
        answer(429, r#"{"error":"slow_down"}"#, Some(86_400)),
        1,
    );
    let told = daemon.wait_for_step("acme", "failed");
    assert_eq!(told["severity"], "warning", "{told}");
    let reason = text(&told, "reason");
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
fn the_servers_own_words_are_shown_wherever_a_problem_is() {
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
fn a_redirect_says_where_it_leads() {
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
    let told = daemon.wait_for_step("acme", "failed");
    assert!(
        text(&told, "action").contains("token_url") && !text(&told, "action").contains("code"),
        "{told}"
    );
    rig.no_violations();
}

#[test]
fn a_dead_grant_in_other_words_is_known_by_the_request_that_worked_before() {
    let (rig, daemon) = renewed(["acme", "globex"], short());
    rig.fail(
        "acme",
        refuse(400, "invalid_request", "The refresh token is invalid."),
        1,
    );
    rig.fail("globex", answer(400, "", None), 1);
    for portal in ["acme", "globex"] {
        let told = daemon.wait_after(0, SOON + LIFE, "what is to be done", |event| {
            is_step(event, "person") && event["portal"] == portal
        });
        let reason = text(&told, "reason");
        assert!(
            reason.contains(
                "to the same kind of request that worked before; assumed: the grant is dead"
            ),
            "{told}"
        );
        assert!(
            text(&told, "action").contains(&format!("refreshd authorize {portal}")),
            "{told}"
        );
        assert_eq!(view(&rig, portal)["phase"], "needs-authorization");
    }
    // A candidate's request is of the kind that bought the pair before.
    rig.fail(
        "acme",
        refuse(400, "invalid_request", "The refresh token is invalid."),
        1,
    );
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    // Of a grant that was never renewed the same answer is of the request.
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
fn a_changed_request_is_not_the_same_kind() {
    let (mut rig, daemon) = renewed(["acme"], short());
    rig.config.app().more = "renewal_parameters = { audience = \"x\" }".to_owned();
    rig.write_config();
    rig.sandbox
        .fail(At::Portal(domain("acme")), answer(400, "", None), 1);
    daemon.sighup();
    let event = daemon.wait_after(0, SOON + LIFE, "the refusal", |event| {
        event["portal"] == "acme" && event["outcome"].is_string() && event["outcome"] != "renewed"
    });
    assert_eq!(event["outcome"], "unknown", "{event}");
    rig.no_violations();
}
