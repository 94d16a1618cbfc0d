//! Every class of failure, provoked at the server: requests sent again, tokens kept, problems reported.

use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};

use crate::common::{CLIENT_SECRET, Daemon, LIFE, Rig, SOON, always, domain, eventually};

fn refuse(status: u16, error: &str, description: &str) -> Fault {
    Fault::Refuse {
        status,
        error: error.to_owned(),
        description: description.to_owned(),
    }
}

fn body(status: u16, content_type: &str, body: &str, retry_after: Option<u64>) -> Fault {
    Fault::Body {
        status,
        content_type: content_type.to_owned(),
        body: body.to_owned(),
        retry_after,
    }
}

fn graceful() -> Rules {
    let reuse = Reuse::Grace(Duration::from_secs(60));
    Rules {
        token_lifetime: LIFE,
        reuse,
        ..Rules::default()
    }
}

/// Faults that lose a response although the request was carried out, each with a portal of its own.
fn lost_replies() -> [(&'static str, Fault); 8] {
    [
        ("lost", Fault::Lost),
        ("reset", Fault::Reset),
        ("truncated", Fault::Truncated { after: 40 }),
        ("cut-json", Fault::CutJson { after: 40 }),
        ("gateway", Fault::Gateway { status: 502 }),
        ("stalled", Fault::Stall),
        (
            "dripped",
            Fault::Drip {
                every: Duration::from_millis(100),
            },
        ),
        ("huge", Fault::Huge { bytes: 1 << 20 }),
    ]
}

/// A portal with a published token whose renewals meet this fault from the first on.
fn failing(fault: Fault, times: u32) -> (Rig, Daemon) {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", fault, times);
    rig.start_import("acme", &grant);
    (rig, daemon)
}

/// Asserts that nothing is sent any more and the last token stays published.
#[track_caller]
fn sends_nothing(rig: &Rig, requests: u64) {
    always(
        "nothing is sent and the last token is there",
        Duration::from_secs(3),
        || rig.requests("acme") == requests && rig.has_working_token("acme"),
    );
}

#[test]
fn hung_request_does_not_delay_other_retries() {
    let mut rig = Rig::with_rules(["hangs", "fails"], Rules::default());
    for name in ["hangs", "fails"] {
        rig.grant(name);
    }
    rig.fail("hangs", Fault::Stall, 1);
    rig.fail("fails", body(503, "text/plain", "", None), 1);
    let daemon = rig.start();
    daemon.wait_for_outcome("fails", "renewed");
    assert_eq!(daemon.outcomes("fails"), ["transient", "renewed"]);
    assert_eq!(
        (rig.requests("hangs"), daemon.outcomes("hangs").len()),
        (1, 0),
        "its time limit is 30 s"
    );
}

#[test]
fn outage_is_retried_and_the_pair_kept() {
    let cases = [
        ("code", refuse(500, "INTERNAL_SERVER_ERROR", "")),
        (
            "page",
            body(200, "text/html", "<html>maintenance</html>", None),
        ),
        ("unavailable", body(503, "text/plain", "", None)),
        ("no-reply", Fault::LostBefore),
    ];
    let mut rig = Rig::with_rules(cases.each_ref().map(|(name, _)| *name), graceful());
    for (name, fault) in &cases {
        rig.grant(name);
        rig.fail(name, fault.clone(), 2);
    }
    let daemon = rig.start();
    for (name, _) in &cases {
        daemon.wait_for_outcome(name, "renewed");
        // An unreadable success may have spent the token, just as a lost response may.
        let class = if matches!(*name, "page" | "no-reply") {
            "in-doubt"
        } else {
            "transient"
        };
        assert_eq!(
            daemon.outcomes(name)[..3],
            [class, class, "renewed"],
            "{name}"
        );
        assert_eq!((rig.requests(name), rig.renewals(name)), (3, 1), "{name}");
        assert_eq!(daemon.steps(name)[0].1, "notice", "{name}");
        assert!(rig.has_working_token(name));
    }
    rig.no_violations();
}

#[test]
fn retry_after_is_respected() {
    let (rig, daemon) = failing(body(429, "text/plain", "slowly", Some(4)), 1);
    daemon.wait_for_outcome("acme", "transient");
    always("no second request", Duration::from_millis(3500), || {
        rig.requests("acme") == 1
    });
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(rig.requests("acme"), 2);
    rig.no_violations();
}

#[test]
fn lost_response_is_recovered_by_replay() {
    let cases = lost_replies();
    let mut rig = Rig::with_rules(cases.each_ref().map(|(name, _)| *name), graceful());
    rig.config.timeout = Duration::from_secs(1);
    for (name, fault) in &cases {
        rig.grant(name);
        rig.fail(name, fault.clone(), 1);
    }
    let daemon = rig.start();
    for (name, _) in &cases {
        daemon.wait_for_outcome(name, "renewed");
        assert_eq!(
            daemon.outcomes(name)[..2],
            ["in-doubt", "renewed"],
            "{name}"
        );
        assert_eq!(
            (rig.requests(name), rig.renewals(name)),
            (2, 1),
            "{name}: one pair, asked for twice"
        );
        assert!(rig.has_working_token(name), "{name}");
    }
    assert!(
        rig.http("/metrics")
            .1
            .contains("refreshd_claims_in_doubt 0")
    );
    rig.no_violations();
}

#[test]
fn rejected_replay_is_reported_and_the_last_token_kept() {
    let cases = lost_replies();
    let mut rig = Rig::new(cases.each_ref().map(|(name, _)| *name));
    rig.config.timeout = Duration::from_secs(1);
    rig.server.set_rules(Rules {
        token_lifetime: Duration::from_secs(60),
        ..Rules::default()
    });
    let daemon = rig.start();
    for (name, fault) in &cases {
        let grant = rig.install(name);
        rig.fail(name, fault.clone(), 1);
        rig.start_import(name, &grant);
    }
    for (name, _) in &cases {
        let event = daemon.wait_for_step(name, "person");
        assert_eq!(event["severity"], "critical", "{event}");
        let reason = event["reason"].as_str().unwrap();
        assert!(
            reason.contains("rejected while in doubt") && !reason.contains("revoked"),
            "{event}"
        );
        assert!(
            event["action"]
                .as_str()
                .unwrap()
                .contains(&format!("refreshd authorize {name}")),
            "{event}"
        );
        daemon.wait_for_outcome(name, "needs-authorization");
        assert_eq!(
            daemon.outcomes(name),
            ["in-doubt", "needs-authorization"],
            "{name}"
        );
        assert_eq!(
            rig.get_json(&format!("/v1/portals/{name}"))["phase"],
            "needs-authorization"
        );
    }
    always(
        "nothing is sent any more, and the last tokens are there",
        Duration::from_secs(2),
        || {
            cases
                .iter()
                .all(|(name, _)| rig.requests(name) == 2 && rig.has_working_token(name))
        },
    );
    rig.no_violations();
}

#[test]
fn rejected_client_is_one_app_incident_until_corrected() {
    let rig = Rig::new(["acme", "globex", "hooli"]);
    rig.secret("crm.secret", "not the secret");
    let daemon = rig.start();
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    let event = daemon.wait_for_step("crm", "person");
    assert_eq!(
        (event["severity"].as_str(), &event["portal"]),
        (Some("critical"), &serde_json::Value::Null)
    );
    assert!(
        event["action"].as_str().unwrap().contains("client_secret"),
        "{event}"
    );
    rig.wait_for_phase("acme", "client-rejected");
    // The app's other portals send nothing from now on.
    rig.start_import("globex", &rig.install("globex"));
    rig.start_import("hooli", &rig.install("hooli"));
    always("one request in all", Duration::from_secs(3), || {
        rig.server.total_requests() == 1
    });
    assert!(rig.has_working_token("globex"), "their tokens are kept");
    assert!(daemon.steps("globex").is_empty() && daemon.steps("hooli").is_empty());
    assert_eq!(daemon.steps("crm").len(), 1, "one incident");

    rig.secret("crm.secret", CLIENT_SECRET);
    daemon.sighup();
    for portal in ["acme", "globex", "hooli"] {
        daemon.wait_for_outcome(portal, "renewed");
        rig.wait_for_phase(portal, "fresh");
    }
    daemon.wait_for_step("crm", "resolved");
    rig.no_violations();
}

#[test]
fn blocked_portal_retries_hourly_or_on_request() {
    let (rig, daemon) = failing(
        refuse(403, "PAYMENT_REQUIRED", "Payment required"),
        u32::MAX,
    );
    let event = daemon.wait_for_step("acme", "person");
    assert_eq!(event["severity"], "critical");
    let view = rig.wait_for_phase("acme", "blocked");
    assert!(
        view["next_renewal_in"]
            .as_u64()
            .is_some_and(|wait| (3500..=3600).contains(&wait)),
        "{view}"
    );
    sends_nothing(&rig, 1);
    rig.heal("acme");
    let ran = rig.run(["renew", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    rig.wait_for_phase("acme", "fresh");
    daemon.wait_for_step("acme", "resolved");
    rig.no_violations();
}

#[test]
fn dead_grant_is_not_resent_until_a_new_one_is_imported() {
    let (rig, daemon) = failing(refuse(400, "invalid_grant", "Invalid grant"), 2);
    let event = daemon.wait_for_step("acme", "person");
    assert_eq!(event["severity"], "critical");
    assert!(
        event["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme"),
        "{event}"
    );
    let view = rig.wait_for_phase("acme", "needs-authorization");
    assert!(
        view["next_renewal_in"]
            .as_u64()
            .is_some_and(|wait| (20..=33).contains(&wait)),
        "{view}"
    );
    assert!(
        view["action"]
            .as_str()
            .unwrap()
            .contains("asked again by itself at 20"),
        "{view}"
    );
    sends_nothing(&rig, 1);
    assert_eq!(rig.run(["status"]).code, Some(1));
    // An explicit request is sent once and raises no second alarm.
    let ran = rig.run(["renew", "acme"]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("refreshd authorize acme"),
        "{ran:?}"
    );
    sends_nothing(&rig, 2);
    let alarms = daemon
        .steps("acme")
        .iter()
        .filter(|(step, _)| step == "person")
        .count();
    assert_eq!(alarms, 1);

    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    daemon.wait_for_step("acme", "resolved");
    assert_eq!(rig.run(["status"]).code, Some(0));
    rig.no_violations();
}

#[test]
fn uninstalled_app_removes_the_token_files() {
    let (rig, daemon) = failing(Fault::Slow { by: Duration::ZERO }, 1);
    daemon.wait_for_outcome("acme", "renewed");
    rig.server.uninstall(&domain("acme"));
    let event = daemon.wait_for_step("acme", "person");
    assert_eq!(event["severity"], "critical", "{event}");
    eventually("the token files are gone", SOON, || {
        !rig.token_path("acme", "token").exists()
    });
    assert!(rig.token_json("acme").is_none());
    rig.wait_for_phase("acme", "gone");
    let requests = rig.requests("acme");
    always("nothing is sent", Duration::from_secs(2), || {
        rig.requests("acme") == requests
    });

    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    eventually("a token that works", SOON, || rig.has_working_token("acme"));
    daemon.wait_for_step("acme", "resolved");
    rig.no_violations();
}

#[test]
fn unknown_error_is_retried_and_escalated() {
    let (rig, daemon) = failing(refuse(418, "teapot", "I am a teapot"), 2);
    let event = daemon.wait_for_step("acme", "failed");
    assert_eq!(
        event["severity"], "warning",
        "an outage would be a notice: {event}"
    );
    assert!(
        event["reason"].as_str().unwrap().contains("teapot"),
        "{event}"
    );
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(
        daemon.outcomes("acme")[..3],
        ["unknown", "unknown", "renewed"]
    );
    rig.no_violations();
}

#[test]
fn pair_of_another_portal_is_refused() {
    let (rig, daemon) = failing(Fault::OtherMember, 1);
    let event = daemon.wait_for_step("acme", "person");
    assert_eq!(event["severity"], "critical");
    assert!(
        event["reason"].as_str().unwrap().contains("another portal"),
        "{event}"
    );
    assert_eq!(
        rig.generation("acme"),
        1,
        "the other portal's token is not published"
    );
    sends_nothing(&rig, 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    rig.no_violations();
}

#[test]
fn redirect_is_never_followed() {
    let rig = Rig::new(["acme", "globex"]);
    let daemon = rig.start();
    let here = rig.config.apps[0]
        .token_url
        .replace("/oauth/token/", "/redirected");
    for (portal, to) in [
        ("acme", here),
        ("globex", "http://127.0.0.2:1/elsewhere".to_owned()),
    ] {
        let grant = rig.install(portal);
        rig.fail(portal, Fault::Redirect { to }, 1);
        rig.start_import(portal, &grant);
        let event = daemon.wait_for_outcome(portal, "unknown");
        assert!(
            event["detail"].as_str().unwrap().contains("redirect"),
            "{event}"
        );
        daemon.wait_for_outcome(portal, "renewed");
    }
    // Following the redirect would be a request.
    rig.no_violations();
}
