//! A candidate through crashes and a disk that takes nothing: one of the two grants is whole at any moment.

use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};

use crate::common::installs::event_of;
use crate::common::{Daemon, EVERY, LIFE, Rig, SOON, domain, eventually, is_step, says};

/// A portal whose grant was renewed once, at a server of these rules.
fn living(reuse: Reuse) -> (Rig, Daemon) {
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

/// Hands a grant over whose request is carried out and never answered, and ends the daemon then.
fn killed_in_the_middle(rig: &Rig, daemon: Daemon) {
    let renewals = rig.renewals("acme");
    rig.fail("acme", Fault::Stall, 1);
    rig.hand_over("acme", &rig.install("acme"));
    eventually("a request that is never answered", SOON, || {
        rig.renewals("acme") > renewals
    });
    daemon.kill9();
    assert_eq!(rig.generation("acme"), 2, "readers have what they had");
}

#[test]
fn a_candidate_whose_reply_was_lost_in_a_crash_is_sent_again_and_taken_in() {
    let (rig, daemon) = living(Reuse::Grace(Duration::from_secs(600)));
    killed_in_the_middle(&rig, daemon);
    let daemon = rig.start();
    daemon.wait_for("the candidate that was found", |event| {
        says(event, "was being verified when refreshd ended")
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
fn a_candidate_that_is_refused_after_a_crash_goes_and_the_living_grant_stays() {
    let (rig, daemon) = living(Reuse::Strict);
    killed_in_the_middle(&rig, daemon);
    let daemon = rig.start();
    rig.sandbox.allow_replay(&domain("acme"));
    daemon.wait_for("a word", |event| {
        is_step(event, "candidate-refused") && event["portal"] == "acme"
    });
    let status = rig.status("acme");
    assert!(
        status["candidate"].is_null() && status["phase"] == "fresh" && rig.generation("acme") == 2,
        "{status}"
    );
    // Once more is not asked for.
    daemon.stop();
    let sent = rig.sandbox.total_requests();
    let daemon = rig.start();
    crate::common::always("nothing is sent", Duration::from_secs(3), || {
        rig.sandbox.total_requests() == sent
    });
    daemon.stop();
}

#[test]
fn a_crash_before_the_request_left_loses_nothing() {
    let (rig, daemon) = living(Reuse::Strict);
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
fn a_disk_that_takes_nothing_loses_neither_pair() {
    let (rig, daemon) = living(Reuse::Strict);
    let renewals = rig.renewals("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    rig.hand_over("acme", &rig.install("acme"));
    eventually("the request has left", SOON, || {
        rig.renewals("acme") > renewals
    });
    daemon.limit_file_size(Some(0));
    let told = daemon.wait_for_step("acme", "unsaved");
    assert_eq!(told["severity"], "critical");
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
fn a_renewal_of_the_old_grant_that_comes_late_is_set_aside() {
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
        says(event, "a late reply was set aside")
    });
    assert_eq!(rig.generation("acme"), 3);
    rig.wait_for_renewals("acme", 1);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn a_reply_to_a_candidate_that_cannot_be_read_is_kept() {
    let (rig, daemon) = living(Reuse::Grace(Duration::from_secs(600)));
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
fn a_renewal_of_the_living_grant_keeps_what_answered_a_candidate() {
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
        "it says nothing of the candidate's reply"
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
    assert_eq!(rig.generation(&portal), 2, "readers have what they had");
    (rig, portal)
}

#[test]
fn a_reinstall_whose_reply_was_lost_in_a_crash_replaces_the_grant() {
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
fn a_reinstall_that_is_refused_after_a_crash_leaves_the_grant() {
    let (rig, portal) = reinstalled_and_killed(Reuse::Strict);
    rig.sandbox.allow_replay(&portal);
    let daemon = rig.start();
    // A refusal after a lost reply says nothing about the event.
    rig.wait_for_installs("unverified", 1.0);
    daemon.wait_for("the outcome", |event| {
        event["outcome"] == "unverified"
            && says(event, "after a reply was lost")
            && says(event, "stays as it was")
    });
    let status = rig.status(&portal);
    assert!(
        status["candidate"].is_null() && status["phase"] == "fresh" && rig.generation(&portal) == 2,
        "{status}"
    );
    daemon.stop();
}
