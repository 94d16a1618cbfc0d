//! Every class of failure, by a server that fails that way: what is sent again, what is kept, what is said.

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

/// What loses a reply whose request was carried out, each with a portal to meet it.
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

/// A portal with a token that readers have, whose renewals meet this fault from the first on.
fn met(fault: Fault, times: u32) -> (Rig, Daemon) {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", fault, times);
    rig.hand_over("acme", &grant);
    (rig, daemon)
}

/// Nothing is sent any more, and readers still have the token of before.
#[track_caller]
fn stands_still(rig: &Rig, requests: u64) {
    always(
        "nothing is sent and the last token is there",
        Duration::from_secs(3),
        || rig.requests("acme") == requests && rig.has_working_token("acme"),
    );
}

#[test]
fn a_request_that_hangs_does_not_delay_the_retries_of_others() {
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
fn an_outage_is_retried_with_the_pair_kept() {
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
        // A success that cannot be read may have spent the token, as a reply that was lost may.
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
fn a_server_that_names_a_time_is_not_asked_before() {
    let (rig, daemon) = met(body(429, "text/plain", "slowly", Some(4)), 1);
    daemon.wait_for_outcome("acme", "transient");
    always("no second request", Duration::from_millis(3500), || {
        rig.requests("acme") == 1
    });
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(rig.requests("acme"), 2);
    rig.no_violations();
}

#[test]
fn a_lost_reply_is_fetched_by_sending_the_same_token_again() {
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
fn a_replay_that_is_rejected_is_called_so_and_the_last_token_stays() {
    let cases = lost_replies();
    let mut rig = Rig::new(cases.each_ref().map(|(name, _)| *name));
    rig.config.timeout = Duration::from_secs(1);
    rig.sandbox.set_rules(Rules {
        token_lifetime: Duration::from_secs(60),
        ..Rules::default()
    });
    let daemon = rig.start();
    for (name, fault) in &cases {
        let grant = rig.install(name);
        rig.fail(name, fault.clone(), 1);
        rig.hand_over(name, &grant);
    }
    for (name, _) in &cases {
        let told = daemon.wait_for_step(name, "person");
        assert_eq!(told["severity"], "critical", "{told}");
        let reason = told["reason"].as_str().unwrap();
        assert!(
            reason.contains("rejected while in doubt") && !reason.contains("revoked"),
            "{told}"
        );
        assert!(
            told["action"]
                .as_str()
                .unwrap()
                .contains(&format!("refreshd authorize {name}")),
            "{told}"
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
fn a_refused_client_is_one_incident_of_the_app_and_a_corrected_secret_heals_it_at_once() {
    let rig = Rig::new(["acme", "globex", "hooli"]);
    rig.secret("crm.secret", "not the secret");
    let daemon = rig.start();
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    let told = daemon.wait_for_step("crm", "person");
    assert_eq!(
        (told["severity"].as_str(), &told["portal"]),
        (Some("critical"), &serde_json::Value::Null)
    );
    assert!(
        told["action"].as_str().unwrap().contains("client_secret"),
        "{told}"
    );
    rig.wait_for_phase("acme", "client-rejected");
    // The others of the app are left alone from now on.
    rig.hand_over("globex", &rig.install("globex"));
    rig.hand_over("hooli", &rig.install("hooli"));
    always("one request in all", Duration::from_secs(3), || {
        rig.sandbox.total_requests() == 1
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
fn a_blocked_portal_keeps_its_pair_and_is_asked_again_only_after_an_hour_or_on_request() {
    let (rig, daemon) = met(
        refuse(403, "PAYMENT_REQUIRED", "Payment required"),
        u32::MAX,
    );
    let told = daemon.wait_for_step("acme", "person");
    assert_eq!(told["severity"], "critical");
    let view = rig.wait_for_phase("acme", "blocked");
    assert!(
        view["next_renewal_in"]
            .as_u64()
            .is_some_and(|wait| (3500..=3600).contains(&wait)),
        "{view}"
    );
    stands_still(&rig, 1);
    rig.heal("acme");
    let ran = rig.run(["renew", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    rig.wait_for_phase("acme", "fresh");
    daemon.wait_for_step("acme", "resolved");
    rig.no_violations();
}

#[test]
fn a_dead_grant_is_left_alone_for_half_a_minute_unless_a_new_one_is_imported() {
    let (rig, daemon) = met(refuse(400, "invalid_grant", "Invalid grant"), 2);
    let told = daemon.wait_for_step("acme", "person");
    assert_eq!(told["severity"], "critical");
    assert!(
        told["action"]
            .as_str()
            .unwrap()
            .contains("refreshd authorize acme"),
        "{told}"
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
    stands_still(&rig, 1);
    assert_eq!(rig.run(["status"]).code, Some(1));
    // Who asks for it by hand gets one request, and no second alarm.
    let ran = rig.run(["renew", "acme"]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("refreshd authorize acme"),
        "{ran:?}"
    );
    stands_still(&rig, 2);
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
fn an_uninstalled_app_takes_the_token_files_away() {
    let (rig, daemon) = met(Fault::Slow { by: Duration::ZERO }, 1);
    daemon.wait_for_outcome("acme", "renewed");
    rig.sandbox.uninstall(&domain("acme"));
    let told = daemon.wait_for_step("acme", "person");
    assert_eq!(told["severity"], "critical", "{told}");
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
fn an_unknown_answer_is_retried_and_said_louder() {
    let (rig, daemon) = met(refuse(418, "teapot", "I am a teapot"), 2);
    let told = daemon.wait_for_step("acme", "failed");
    assert_eq!(
        told["severity"], "warning",
        "an outage would be a notice: {told}"
    );
    assert!(
        told["reason"].as_str().unwrap().contains("teapot"),
        "{told}"
    );
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(
        daemon.outcomes("acme")[..3],
        ["unknown", "unknown", "renewed"]
    );
    rig.no_violations();
}

#[test]
fn the_pair_of_another_portal_is_refused() {
    let (rig, daemon) = met(Fault::OtherMember, 1);
    let told = daemon.wait_for_step("acme", "person");
    assert_eq!(told["severity"], "critical");
    assert!(
        told["reason"].as_str().unwrap().contains("another portal"),
        "{told}"
    );
    assert_eq!(rig.generation("acme"), 1, "nobody reads the other's token");
    stands_still(&rig, 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    rig.no_violations();
}

#[test]
fn a_redirect_is_never_followed() {
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
        rig.hand_over(portal, &grant);
        let event = daemon.wait_for_outcome(portal, "unknown");
        assert!(
            event["detail"].as_str().unwrap().contains("redirect"),
            "{event}"
        );
        daemon.wait_for_outcome(portal, "renewed");
    }
    // A request to where it led would be one.
    rig.no_violations();
}
