//! A candidate grant across crashes and with a full disk: one of the two grants is complete at any moment.

use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};

use crate::common::installs::event_of;
use crate::common::{
    Daemon, EVERY, LIFE, Rig, SOON, domain, eventually, is_step, message_contains,
};

/// A portal whose grant was renewed once, at a server with these rules.
fn live_grant(reuse: Reuse) -> (Rig, Daemon) {
    let life = Duration::from_secs(3600);
    let mut rig = Rig::with_rules(
        ["acme"],
        Rules {
            token_lifetime: life,
            reuse,
            ..Rules::default()
        },
    );
    rig.config.app().renew_every = Duration::from_secs(1500);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    daemon.wait_for_outcome("acme", "renewed");
    (rig, daemon)
}

/// Starts the import of a grant whose request is carried out and never answered, and then kills the daemon.
fn killed_in_the_middle(rig: &Rig, daemon: Daemon) {
    let renewals = rig.renewals("acme");
    rig.fail("acme", Fault::Stall, 1);
    rig.start_import("acme", &rig.install("acme"));
    eventually("a request that is never answered", SOON, || {
        rig.renewals("acme") > renewals
    });
    daemon.kill9();
    assert_eq!(rig.generation("acme"), 2, "the published token stays");
}

#[test]
fn candidate_is_replayed_after_a_crash_and_stored() {
    let (rig, daemon) = live_grant(Reuse::Grace(Duration::from_secs(600)));
    killed_in_the_middle(&rig, daemon);
    let daemon = rig.start();
    daemon.wait_for("the candidate that was found", |event| {
        message_contains(event, "was being verified when refreshd ended")
    });
    rig.wait_for_generation("acme", 3);
    eventually("no candidate is left", SOON, || {
        rig.status("acme")["candidate"].is_null()
    });
    assert!(rig.has_working_token("acme"));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn rejected_candidate_after_a_crash_leaves_the_live_grant() {
    let (rig, daemon) = live_grant(Reuse::Strict);
    killed_in_the_middle(&rig, daemon);
    let daemon = rig.start();
    rig.server.allow_replay(&domain("acme"));
    daemon.wait_for("the log line", |event| {
        is_step(event, "candidate-refused") && event["portal"] == "acme"
    });
    let status = rig.status("acme");
    assert!(
        status["candidate"].is_null() && status["phase"] == "fresh" && rig.generation("acme") == 2,
        "{status}"
    );
    // It is not requested a second time.
    daemon.stop();
    let sent = rig.server.total_requests();
    let daemon = rig.start();
    crate::common::always("nothing is sent", Duration::from_secs(3), || {
        rig.server.total_requests() == sent
    });
    daemon.stop();
}

#[test]
fn crash_before_the_request_loses_nothing() {
    let (rig, daemon) = live_grant(Reuse::Strict);
    let refuse = Fault::Refuse {
        status: 503,
        error: "x".into(),
        description: String::new(),
    };
    rig.fail("acme", refuse, u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    daemon.kill9();
    let before = rig.token_json("acme");
    let daemon = rig.start();
    let status = rig.status("acme");
    assert!(
        status["phase"] == "fresh" && !status["candidate"].is_null(),
        "both are whole: {status}"
    );
    assert_eq!(
        (rig.token_json("acme"), rig.generation("acme")),
        (before, 2)
    );
    rig.heal("acme");
    rig.wait_for_generation("acme", 3);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn full_disk_loses_neither_pair() {
    let (rig, daemon) = live_grant(Reuse::Strict);
    let renewals = rig.renewals("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    rig.start_import("acme", &rig.install("acme"));
    eventually("the request has left", SOON, || {
        rig.renewals("acme") > renewals
    });
    daemon.limit_file_size(Some(0));
    let event = daemon.wait_for_step("acme", "unsaved");
    assert_eq!(event["severity"], "critical");
    assert!((rig.metric("refreshd_tokens_unsaved") - 1.0).abs() < 0.1);
    assert_eq!(
        rig.generation("acme"),
        2,
        "nothing is published before it is durable"
    );
    daemon.limit_file_size(None);
    rig.wait_for_generation("acme", 3);
    daemon.wait_for_step("acme", "resolved");
    assert_eq!(
        rig.run(["token", "acme", "--min-valid", "1s"]).code,
        Some(0)
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn late_renewal_of_the_old_grant_is_superseded() {
    let mut rig = Rig::with_lifetime(["acme"], LIFE);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(4),
        },
        1,
    );
    let renewals = rig.renewals("acme");
    eventually("a renewal is under way", EVERY + SOON, || {
        rig.renewals("acme") > renewals
    });
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    assert_eq!(rig.generation("acme"), 3);
    daemon.wait_for("the late reply", |event| {
        message_contains(event, "a late reply was set aside")
    });
    assert_eq!(rig.generation("acme"), 3);
    rig.wait_for_renewals("acme", 1);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn unreadable_candidate_response_is_kept() {
    let (rig, daemon) = live_grant(Reuse::Grace(Duration::from_secs(600)));
    rig.fail("acme", Fault::CutJson { after: 40 }, 1);
    let ran = rig.import("acme", &rig.install("acme"));
    assert!(
        ran.code == Some(75)
            && ran
                .stderr
                .contains("the grant that acme has stays in force"),
        "{ran:?}"
    );
    let status = rig.status("acme");
    assert!(
        !status["unread_replies"].is_null() && status["phase"] == "fresh",
        "{status}"
    );
    rig.wait_for_generation("acme", 3);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn renewal_of_the_live_grant_keeps_the_candidate_response() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    rig.fail("acme", Fault::CutJson { after: 40 }, 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    eventually(
        "the candidate is refused, its token was spent",
        SOON,
        || rig.status("acme")["candidate"].is_null(),
    );
    let before = rig.generation("acme");
    rig.wait_for_generation("acme", before + 1);
    assert!(
        !rig.status("acme")["unread_replies"].is_null(),
        "it does not mention the candidate's response"
    );
    let shown = rig.run(["recover", "acme", "--show"]);
    assert!(
        shown.code == Some(0) && shown.stdout.starts_with('{'),
        "{shown:?}"
    );
    daemon.stop();
}

/// An installed portal whose own user installs it again: the exchange is processed and never answered, and the daemon is
/// killed then.
fn reinstalled_and_killed(reuse: Reuse) -> (Rig, String) {
    let rules = Rules {
        reuse,
        ..Rules::default()
    };
    let mut rig = Rig::with_rules([], rules);
    rig.config.app().renew_every = Duration::from_secs(1500);
    rig.take_installs("", "");
    let daemon = rig.start();
    let event = || event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 1));
    rig.post("", &event());
    let portal = domain("acme");
    rig.wait_for_generation(&portal, 2);
    let renewals = rig.renewals("acme");
    rig.fail("acme", Fault::Stall, 1);
    rig.post("", &event());
    eventually("a request that is never answered", SOON, || {
        rig.renewals("acme") > renewals
    });
    assert_eq!(rig.status(&portal)["candidate"]["origin"], "install");
    daemon.kill9();
    assert_eq!(rig.generation(&portal), 2, "the published token stays");
    (rig, portal)
}

#[test]
fn reinstall_is_replayed_after_a_crash_and_replaces_the_grant() {
    let (rig, portal) = reinstalled_and_killed(Reuse::Grace(Duration::from_secs(600)));
    let daemon = rig.start();
    rig.wait_for_generation(&portal, 3);
    rig.wait_for_installs("resumed", 1.0);
    assert!(rig.status(&portal)["candidate"].is_null());
    assert!(rig.has_working_token(&portal));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn rejected_reinstall_after_a_crash_leaves_the_grant() {
    let (rig, portal) = reinstalled_and_killed(Reuse::Strict);
    rig.server.allow_replay(&portal);
    let daemon = rig.start();
    // A rejection after a lost response does not concern the event.
    rig.wait_for_installs("unverified", 1.0);
    daemon.wait_for("the outcome", |event| {
        event["outcome"] == "unverified"
            && message_contains(event, "after a reply was lost")
            && message_contains(event, "stays as it was")
    });
    let status = rig.status(&portal);
    assert!(
        status["candidate"].is_null() && status["phase"] == "fresh" && rig.generation(&portal) == 2,
        "{status}"
    );
    daemon.stop();
}
