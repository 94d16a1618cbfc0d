//! The escalation ladder: severity rises while a portal fails, each step once, also across restarts, and resolves.

use std::time::Duration;

use refreshd_fake_server::Fault;

use crate::common::{LIFE, Rig, SOON, always, eventually, is_step, message_contains};

#[test]
fn failing_portal_escalates_once_and_resolves() {
    let rig = Rig::new(["acme"]);
    let outage = Fault::Refuse {
        status: 500,
        error: "oops".into(),
        description: String::new(),
    };
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", outage, u32::MAX);
    rig.start_import("acme", &grant);
    daemon.wait_for_step("acme", "overdue");
    let ladder =
        [("failed", "notice"), ("overdue", "warning")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(daemon.steps("acme"), ladder);
    let event = daemon.wait_for_step("acme", "overdue");
    assert_eq!(event["target"], "refreshd::escalation");
    assert_eq!(event["level"], "WARN");
    assert!(
        event["reason"].as_str().unwrap().contains("oops"),
        "{event}"
    );
    assert!(
        ["action", "remaining"]
            .iter()
            .all(|field| event[*field].is_string()),
        "{event}"
    );
    eventually("the incident is counted", SOON, || {
        rig.metric("refreshd_incidents_open{severity=\"warning\"}") == 1.0
    });
    assert_eq!(rig.http("/readyz").0, 503, "a portal is overdue");
    daemon.stop();

    // Steps notified before the restart are not repeated.
    let daemon = rig.start();
    let expired = daemon.wait_after(0, LIFE + SOON, "the last step", |event| {
        is_step(event, "expired")
    });
    assert_eq!(expired["level"], "ERROR");
    let ladder = [
        ("late", "error"),
        ("expiring", "critical"),
        ("expired", "critical"),
    ];
    let steps = daemon.steps("acme");
    let steps: Vec<_> = steps
        .iter()
        .map(|(step, severity)| (step.as_str(), severity.as_str()))
        .collect();
    assert_eq!(steps, ladder);
    let late = daemon.wait_for_step("acme", "late");
    assert!(late["remaining"].as_str().unwrap().ends_with('s'), "{late}");
    assert_eq!(rig.run(["status"]).code, Some(1));

    rig.heal("acme");
    let resolved = daemon.wait_for_step("acme", "resolved");
    assert_eq!(resolved["severity"], "notice");
    rig.wait_for_phase("acme", "fresh");
    assert_eq!(
        (rig.run(["status"]).code, rig.http("/readyz").0),
        (Some(0), 200)
    );
    let count = daemon.steps("acme").len();
    always("it is logged once", Duration::from_secs(2), || {
        daemon.steps("acme").len() == count
    });
    rig.no_violations();
}

/// One row of the provider's table, and one of the app's own for a code that the table lacks.
#[test]
fn hint_comes_from_the_provider_table() {
    let mut rig = Rig::new(["acme", "globex"]);
    rig.config.app().more =
        "[[apps.crm.errors]]\nerror = 'LOCKED'\nclass = 'blocked'\nmeaning = 'it is locked'\n\
        remedy = 'unlock {app} on {domain}, then: refreshd renew {portal}'\n"
            .to_owned();
    let daemon = rig.start();
    let hints = [
        (
            "acme",
            "PAYMENT_REQUIRED",
            "licence has lapsed",
            "renew the licence at https://acme.bitrix24.com/settings/license_all.php, or the app's subscription in the \
             portal's Market, then: refreshd renew acme",
        ),
        (
            "globex",
            "LOCKED",
            "it is locked",
            "unlock crm on globex.bitrix24.com, then: refreshd renew globex",
        ),
    ];
    for (portal, code, meaning, remedy) in hints {
        let grant = rig.install(portal);
        rig.fail(
            portal,
            Fault::Refuse {
                status: 401,
                error: code.into(),
                description: String::new(),
            },
            1,
        );
        rig.start_import(portal, &grant);
        let event = daemon.wait_for_step(portal, "person");
        assert_eq!(
            (event["severity"].as_str(), event["action"].as_str()),
            (Some("critical"), Some(remedy))
        );
        assert!(
            event["reason"].as_str().unwrap().contains(meaning),
            "{event}"
        );
        assert!(
            event["message"]
                .as_str()
                .unwrap()
                .ends_with(&format!("To do: {remedy}")),
            "{event}"
        );
        let ran = rig.run(["status"]);
        assert!(
            ran.stdout.contains(&format!("\n{portal}: {remedy}\n")),
            "{}",
            ran.stdout
        );
        let view = rig.status(portal);
        assert_eq!(view["action"].as_str(), Some(remedy));
        assert!(
            !view.to_string().contains("{portal}"),
            "a sentence with placeholders is not shown: {view}"
        );
    }
    // The escalation survives a restart, and the suggested command resolves it.
    daemon.stop();
    let _daemon = rig.start();
    for (portal, _, _, remedy) in hints {
        assert_eq!(rig.status(portal)["action"].as_str(), Some(remedy));
        assert_eq!(rig.run(["renew", portal]).code, Some(0));
        rig.wait_for_phase(portal, "fresh");
        assert!(rig.status(portal)["action"].is_null());
    }
    rig.no_violations();
}

#[test]
fn healthy_portal_logs_nothing() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_renewals("acme", 2);
    daemon.sighup();
    daemon.wait_for("the reload", |event| {
        message_contains(event, "the configuration was reloaded")
    });
    rig.wait_for_renewals("acme", 1);
    assert_eq!(
        daemon.events(|event| event["target"] == "refreshd::escalation"),
        Vec::<serde_json::Value>::new()
    );
    assert!(
        daemon
            .events(|event| event["level"] == "WARN" || event["level"] == "ERROR")
            .is_empty(),
        "nothing to worry about"
    );
    rig.no_violations();
}

#[test]
fn configured_escalation_ladder_is_used() {
    let mut rig = Rig::new(["acme"]);
    rig.config.more =
        "[[escalation.step]]\nwhen = \"remaining < 70%\"\nseverity = \"error\"".to_owned();
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.fail("acme", Fault::LostBefore, u32::MAX);
    rig.start_import("acme", &grant);
    let event = daemon.wait_for_step("acme", "remaining < 70%");
    assert_eq!(event["severity"], "error");
    assert_eq!(
        daemon.steps("acme").len(),
        1,
        "no step of the built-in ladder"
    );
    rig.no_violations();
}
