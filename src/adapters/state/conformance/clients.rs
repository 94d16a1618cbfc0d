//! A refused client: the attribution of the refusal, the next portal to try, and the recovery of all.

use super::*;
use crate::domain::client::ClientDecision;

fn refusal(secs: i64) -> GrantStatus {
    let phase = Phase::ClientRejected {
        attempt: 1,
        since: at(secs),
        problem: problem(Class::ClientRejected),
    };
    GrantStatus {
        phase,
        renew_at: Some(at(0)),
        next_attempt_at: Some(at(secs + 300)),
    }
}

/// A refusal of the client by the claimed portal's renewal at `secs`; it may be tried again 300 s later.
async fn refuse<E: Engine>(rig: &Rig<E>, portal: &Portal, secs: i64) -> Recorded {
    let rejection = ClientVerdict::Refused(at(secs + 300));
    rig.record_client(portal, secs, RecordOutcome::Kept(refusal(secs)), rejection)
        .await
}

async fn accept<E: Engine>(rig: &Rig<E>, portal: &Portal, secs: i64) -> Recorded {
    rig.record_client(
        portal,
        secs,
        renewed(&format!("{}-{secs}", portal.name), secs),
        ClientVerdict::Accepted,
    )
    .await
}

fn ruled(recorded: &Recorded) -> (Option<ClientDecision>, bool) {
    match recorded {
        Recorded::Done {
            ruling,
            client_changed,
            ..
        } => (*ruling, *client_changed),
        Recorded::Superseded => panic!("set aside"),
    }
}

fn works_for(portal: &Portal) -> Option<u64> {
    portal
        .grant
        .as_ref()
        .unwrap()
        .status
        .phase
        .problem()
        .unwrap()
        .works_for
}

/// Portals of one app: the first is due at 0, the others are fresh, and valid for an hour from 0.
async fn fresh<E: Engine>(names_: &[&str]) -> Rig<E> {
    let rig = Rig::<E>::with(names_).await;
    for portal in rig.claim(0, 100).await.portals {
        accept(&rig, &portal, 0).await;
    }
    rig
}

async fn claim<E: Engine>(rig: &Rig<E>, portal: &str, secs: i64) -> Portal {
    rig.state
        .claim_one(name(portal), at(secs))
        .await
        .unwrap()
        .unwrap()
}

pub async fn one_portals_refusal_is_one_portals<E: Engine>() {
    let rig = fresh::<E>(&["a", "b", "c"]).await;
    let a = claim(&rig, "a", 600).await;
    assert_eq!(
        ruled(&refuse(&rig, &a, 600).await),
        (Some(ClientDecision::AskAnother), false)
    );
    let witness = rig.claim_only(600).await;
    assert_ne!(
        witness.name, a.name,
        "another portal is asked at once, though it is not due"
    );
    assert_eq!(ruled(&accept(&rig, &witness, 601).await), (None, false));

    assert_eq!(works_for(&rig.portal("a").await), Some(2));
    assert!(
        rig.portal("b").await.client_refused.is_none(),
        "no portal waits"
    );
    for secs in [900, 1800, 3500] {
        let again = claim(&rig, "a", secs).await;
        assert_eq!(
            ruled(&refuse(&rig, &again, secs).await),
            (Some(ClientDecision::ThisPortal), false),
            "{secs}"
        );
        assert_eq!(works_for(&rig.portal("a").await), Some(2));
        assert!(
            !rig.claimed(secs).await.iter().any(|claimed| claimed == "a"),
            "it has its own time"
        );
    }
}

/// Neither a retrying portal nor one with an expired token is a portal for which the client works.
pub async fn a_client_works_for_the_portals_that_have_a_valid_token<E: Engine>() {
    let rig = fresh::<E>(&["a", "retries", "ended", "valid"]).await;
    for valid in ["a", "valid"] {
        let renewed = claim(&rig, valid, 1000).await;
        accept(&rig, &renewed, 1000).await;
    }
    let failing = claim(&rig, "retries", 3700).await;
    rig.record(&failing, 3700, retrying(9000)).await;
    let a = claim(&rig, "a", 3700).await;
    refuse(&rig, &a, 3700).await;
    let valid = claim(&rig, "valid", 3701).await;
    accept(&rig, &valid, 3701).await;
    assert_eq!(works_for(&rig.portal("a").await), Some(1));
    let again = claim(&rig, "a", 4000).await;
    assert_eq!(
        ruled(&refuse(&rig, &again, 4000).await),
        (Some(ClientDecision::ThisPortal), false)
    );
    assert_eq!(works_for(&rig.portal("a").await), Some(1));
}

pub async fn a_client_that_five_portals_are_refused_with_is_refused_and_others_wait<E: Engine>() {
    let rig = fresh::<E>(&["a", "b", "c", "d", "e", "f"]).await;
    let mut other = configured("z");
    other.settings.app = "other".to_owned();
    let portals = ["a", "b", "c", "d", "e", "f"]
        .into_iter()
        .map(configured)
        .chain([other])
        .collect();
    rig.state
        .reconcile(portals, vec![app("crm", "1"), app("other", "1")], at(0))
        .await
        .unwrap();
    let a = claim(&rig, "a", 600).await;
    refuse(&rig, &a, 600).await;
    for _ in 0..3 {
        let next = rig.claim_only(601).await;
        assert_eq!(
            ruled(&refuse(&rig, &next, 601).await),
            (Some(ClientDecision::AskAnother), false),
            "one that is well may be among those that are left"
        );
    }
    let fifth = rig.claim_only(601).await;
    assert_eq!(
        ruled(&refuse(&rig, &fifth, 601).await),
        (Some(ClientDecision::TheClient), true)
    );
    rig.take("z", "z", 2 * HOUR).await;
    assert_eq!(
        rig.claimed(603).await,
        ["z"],
        "another app's portal goes on"
    );
    let waiting = rig.portal("a").await.client_refused.unwrap();
    let last = waiting.probe.unwrap();
    assert_eq!(waiting.since, at(601), "and it is known who tries next");

    let probe = rig.claim_only(641).await;
    assert_eq!(
        probe.name.as_str(),
        last,
        "not one that was refused already"
    );
    assert_eq!(rig.claimed(642).await, [""; 0], "a second one tries");
    assert_eq!(ruled(&accept(&rig, &probe, 643).await), (None, true));
    let rest = rig.claimed(643).await;
    assert!(
        rest.len() == 5 && !rest.contains(&last),
        "those that were refused are tried at once: {rest:?}"
    );
}

pub async fn no_portal_tries_twice_in_a_row<E: Engine>() {
    let rig = fresh::<E>(&["a", "b", "c"]).await;
    let mut last = claim(&rig, "a", 600).await;
    let mut secs = 600;
    for _ in 0..12 {
        refuse(&rig, &last, secs).await;
        let next = loop {
            secs += 1;
            if let Some(next) = rig.claim(secs, 100).await.portals.pop() {
                break next;
            }
            assert!(secs < 600 + 12 * 3700, "no portal tries");
        };
        assert_ne!(next.name, last.name, "at {secs}");
        last = next;
    }
    assert!(
        secs > 600 + 4 * 300,
        "a client that is refused for all is left in peace"
    );
}

pub async fn the_portals_of_a_client_that_breaks_later_find_it_out<E: Engine>() {
    let rig = fresh::<E>(&["a", "b"]).await;
    let a = claim(&rig, "a", 600).await;
    refuse(&rig, &a, 600).await;
    let b = rig.claim_only(600).await;
    accept(&rig, &b, 601).await;
    assert_eq!(works_for(&rig.portal("a").await), Some(1));
    // Now the client is refused for the other one, too.
    let b = claim(&rig, "b", 2000).await;
    assert_eq!(
        ruled(&refuse(&rig, &b, 2000).await),
        (Some(ClientDecision::AskAnother), false)
    );
    let a = rig.claim_only(2000).await;
    assert_eq!(a.name.as_str(), "a");
    assert_eq!(
        ruled(&refuse(&rig, &a, 2001).await),
        (Some(ClientDecision::TheClient), true)
    );
    assert_eq!(works_for(&rig.portal("a").await), None);
}

pub async fn a_client_of_one_portal_is_left_alone_until_its_time<E: Engine>() {
    let rig = Rig::<E>::with(&["a"]).await;
    let first = rig.claim_only(0).await;
    assert_eq!(
        ruled(&refuse(&rig, &first, 0).await),
        (Some(ClientDecision::TheClient), true)
    );
    assert_eq!(rig.claim(299, 9).await.next, Some(at(300)));
    let probe = rig.claim_only(300).await;
    assert_eq!(
        rig.claim(301, 9).await.next,
        Some(at(420)),
        "should it never end"
    );
    assert_eq!(
        ruled(&refuse(&rig, &probe, 302).await),
        (Some(ClientDecision::TheClient), false),
        "it is refused already"
    );
    assert_eq!(rig.claimed(601).await, [""; 0]);
    let probe = rig.claim_only(602).await;
    assert_eq!(ruled(&accept(&rig, &probe, 603).await), (None, true));
}

/// Its replay got the refusal; it would wait for its own time, up to an hour.
pub async fn acceptance_releases_a_grant_in_doubt_too<E: Engine>() {
    let rig = Rig::<E>::with(&["a"]).await;
    let only = rig.claim_only(0).await;
    let phase = Phase::InDoubt {
        attempt: 2,
        since: at(0),
        problem: problem(Class::ClientRejected),
    };
    let status = GrantStatus {
        phase,
        renew_at: Some(at(0)),
        next_attempt_at: Some(at(HOUR)),
    };
    rig.record_client(
        &only,
        0,
        RecordOutcome::Kept(status),
        ClientVerdict::Refused(at(HOUR)),
    )
    .await;
    assert_eq!(rig.claimed(5).await, [""; 0]);
    rig.configure(&["a", "b"]).await;
    rig.take("b", "b", HOUR).await;
    let b = claim(&rig, "b", 5).await;
    accept(&rig, &b, 5).await;
    assert_eq!(rig.claimed(5).await, ["a"]);
}

/// A portal that tries uses capacity; the due portals of other apps use the rest.
pub async fn a_probe_keeps_nobody_waiting<E: Engine>() {
    let rig = Rig::<E>::with(&["a", "b", "c"]).await;
    for portal in rig.claim(0, 3).await.portals {
        refuse(&rig, &portal, 0).await;
    }
    let mut other = configured("z");
    other.settings.app = "other".to_owned();
    rig.follow(
        ["a", "b", "c"]
            .into_iter()
            .map(configured)
            .chain([other])
            .collect(),
    )
    .await;
    rig.take("z", "z", 2 * HOUR).await;
    let claims = rig.claim(400, 2).await;
    assert_eq!(
        (names(&claims.portals), claims.next),
        (vec!["a".to_owned(), "z".to_owned()], Some(at(520)))
    );
}

pub async fn a_changed_client_is_tried_at_once<E: Engine>() {
    let rig = Rig::<E>::with(&["a", "b"]).await;
    for portal in rig.claim(0, 2).await.portals {
        refuse(&rig, &portal, 0).await;
    }
    let portals = || vec![configured("a"), configured("b")];
    rig.state
        .reconcile(portals(), vec![app("crm", "1")], at(1))
        .await
        .unwrap();
    assert_eq!(rig.claimed(1).await, [""; 0], "nothing has changed");
    rig.state
        .reconcile(portals(), vec![app("crm", "2")], at(5))
        .await
        .unwrap();
    let probe = rig.claim_only(5).await;
    accept(&rig, &probe, 6).await;
    assert_eq!(
        rig.claimed(6).await.len(),
        1,
        "the refusal's wait is still kept"
    );
}

/// Any of their failures may have been the client's.
pub async fn a_changed_client_ends_the_waits_of_its_portals<E: Engine>() {
    let rig = Rig::<E>::with(&["fresh", "retries"]).await;
    let portals = rig.claim(0, 9).await.portals;
    rig.record(&portals[0], 0, renewed("r2", 0)).await;
    rig.record(&portals[1], 0, retrying(900)).await;
    let both = vec![configured("fresh"), configured("retries")];
    rig.state
        .reconcile(both, vec![app("crm", "2")], at(5))
        .await
        .unwrap();
    assert_eq!(rig.claimed(5).await, ["retries"]);
}

pub async fn an_operators_word_lets_a_refused_client_try_with_each_portal_that_is_asked_for<
    E: Engine,
>() {
    let rig = fresh::<E>(&["a", "b", "c"]).await;
    let a = claim(&rig, "a", 600).await;
    refuse(&rig, &a, 600).await;
    let second = rig.claim_only(600).await;
    refuse(&rig, &second, 600).await;
    let third = rig.claim_only(600).await;
    refuse(&rig, &third, 600).await;
    for portal in [&a.name, &second.name] {
        let asked = rig
            .state
            .request_renewal(portal.clone(), at(602))
            .await
            .unwrap();
        assert_eq!(
            asked,
            RenewalRequest::Due(at(605)),
            "a few seconds after the last try"
        );
    }
    assert_eq!(rig.claimed(602).await, [""; 0]);
    let mut claimed = rig.claimed(605).await;
    claimed.retain(|claimed| *claimed == a.name.as_str() || *claimed == second.name.as_str());
    assert_eq!(claimed.len(), 2);
    assert!(rig.claimed(605).await.len() <= 1, "once each");
}

fn dead_grant(secs: i64) -> RecordOutcome {
    RecordOutcome::Kept(GrantStatus {
        phase: Phase::NeedsAuthorization {
            since: at(secs),
            problem: problem(Class::NeedsAuthorization),
            while_in_doubt: false,
        },
        renew_at: Some(at(0)),
        next_attempt_at: None,
    })
}

async fn dies<E: Engine>(
    rig: &Rig<E>,
    portal: &Portal,
    secs: i64,
) -> (Option<ClientDecision>, bool) {
    let recorded = rig
        .record_client(portal, secs, dead_grant(secs), ClientVerdict::GrantRefused)
        .await;
    ruled(&recorded)
}

pub async fn a_dead_grant_beside_a_refused_client_is_no_proof_that_the_client_works<E: Engine>() {
    let rig = fresh::<E>(&["a", "b"]).await;
    let a = claim(&rig, "a", 600).await;
    refuse(&rig, &a, 600).await;
    let b = rig.claim_only(600).await;
    assert_eq!(dies(&rig, &b, 601).await, (None, true), "no portal is left");
    assert_eq!(works_for(&rig.portal("a").await), None);
    assert!(rig.portal("a").await.client_refused.is_some());
    let b = rig.portal("b").await;
    assert_eq!(b.waits(), None, "it waits for a person");
    let again = rig.claim_only(900).await;
    assert_eq!(again.name.as_str(), "a", "it is tried again at its time");
    assert_eq!(ruled(&accept(&rig, &again, 901).await), (None, true));
}

pub async fn after_a_dead_grant_a_third_portal_is_asked<E: Engine>() {
    let rig = fresh::<E>(&["a", "b", "c"]).await;
    let a = claim(&rig, "a", 600).await;
    refuse(&rig, &a, 600).await;
    let second = rig.claim_only(600).await;
    assert_eq!(dies(&rig, &second, 601).await, (None, false));
    let third = rig.claim_only(601).await;
    assert_ne!(third.name, a.name);
    accept(&rig, &third, 602).await;
    assert_eq!(works_for(&rig.portal("a").await), Some(1));
    // And when that one dies too, the client works for no portal.
    let third = claim(&rig, third.name.as_str(), 2000).await;
    dies(&rig, &third, 2000).await;
    let a = claim(&rig, "a", 2001).await;
    assert_eq!(
        ruled(&refuse(&rig, &a, 2001).await),
        (Some(ClientDecision::TheClient), true)
    );
    assert_eq!(works_for(&rig.portal("a").await), None);
}

pub async fn a_client_that_works_for_the_last_portal_that_is_asked_is_never_called_refused<
    E: Engine,
>() {
    let rig = fresh::<E>(&["a", "b", "c", "d"]).await;
    let mut asked = claim(&rig, "a", 600).await;
    for _ in 0..3 {
        assert_eq!(
            ruled(&refuse(&rig, &asked, 600).await),
            (Some(ClientDecision::AskAnother), false)
        );
        asked = rig.claim_only(600).await;
    }
    assert_eq!(ruled(&accept(&rig, &asked, 601).await), (None, false));
    for portal in ["a", "b", "c", "d"] {
        let portal = rig.portal(portal).await;
        assert!(portal.client_refused.is_none());
        let is_own = portal.name != asked.name;
        let problem = portal.grant.as_ref().unwrap().status.phase.problem();
        assert_eq!(
            problem.and_then(|problem| problem.works_for),
            is_own.then_some(1)
        );
    }
}
