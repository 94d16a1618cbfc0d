//! Claims: selection, order, and persistence across a restart.

use super::*;

pub async fn claims_are_exclusive_and_soonest_expiry_first<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.configure(&["late", "soon", "never", "middle"]).await;
    rig.take("late", "l", 300).await;
    rig.take("soon", "s", 100).await;
    rig.take("middle", "m", 200).await;
    let bare = Tokens {
        access: None,
        ..tokens("n", 0, 0)
    };
    rig.state
        .store_grant(NewGrant {
            tokens: bare,
            ..grant("never", "n", 0)
        })
        .await
        .unwrap();
    let first = rig.claim(0, 3).await;
    assert_eq!(names(&first.portals), ["never", "soon", "middle"]);
    let claims: Vec<_> = first
        .portals
        .iter()
        .map(|portal| portal.grant.as_ref().unwrap().claim.unwrap())
        .collect();
    assert!(
        claims
            .iter()
            .all(|(claim, since)| *claim == claims[0].0 && *since == at(0)),
        "{claims:?}"
    );
    assert_eq!(rig.claimed(0).await, ["late"]);
    assert_eq!(rig.claimed(9999).await, [""; 0]);
}

pub async fn claims_made_at_once_have_no_portal_in_common<E: Engine>() {
    let all: Vec<String> = (10..50).map(|number| format!("p{number}")).collect();
    let rig = Rig::<E>::with(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let handles = [(); 4].map(|()| rig.state.clone());
    let claim = |state: State| async move {
        let mut claimed = Vec::new();
        for _ in 0..4 {
            let capacity = vec![(URL.to_owned(), 3)];
            claimed.extend(names(
                &state.claim_due(at(0), capacity).await.unwrap().portals,
            ));
        }
        claimed
    };
    let [a, b, c, d] = handles.map(claim);
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let mut claimed = [a, b, c, d].concat();
    claimed.sort();
    assert_eq!(claimed, all);
    let one = rig.state.claim_one(name("p10"), at(0)).await.unwrap();
    assert!(one.is_none() && rig.claimed(0).await.is_empty());
}

pub async fn a_request_that_nobody_waits_for_claims_all_of_it_or_nothing<E: Engine>() {
    let rig = Rig::<E>::with(&["a", "b"]).await;
    let capacity = vec![(URL.to_owned(), 9)];
    abandon(rig.state.claim_due(at(0), capacity)).await;
    let rig = rig.reopen().await;
    let (mut orphans, mut due) = (
        names(&rig.state.orphans().await.unwrap()),
        rig.claimed(0).await,
    );
    orphans.sort();
    due.sort();
    assert!(
        (orphans.len(), due.len()) == (2, 0) || (orphans.len(), due.len()) == (0, 2),
        "claimed {orphans:?}, due {due:?}"
    );
}

pub async fn capacity_counts_for_each_token_endpoint<E: Engine>() {
    let rig = Rig::<E>::with(&["a", "b"]).await;
    rig.configure(&["a", "b", "c", "d"]).await;
    for portal in ["c", "d"] {
        let there = NewGrant {
            token_url: OTHER.to_owned(),
            ..grant(portal, portal, HOUR)
        };
        rig.state.store_grant(there).await.unwrap();
    }
    let capacity = vec![(URL.to_owned(), 1), (OTHER.to_owned(), 5)];
    let taken = rig.state.claim_due(at(0), capacity).await.unwrap();
    assert_eq!(names(&taken.portals), ["a", "c", "d"]);
    let taken = rig
        .state
        .claim_due(at(0), vec![(OTHER.to_owned(), 5)])
        .await
        .unwrap();
    assert_eq!(
        names(&taken.portals),
        [""; 0],
        "an endpoint without capacity gets nothing"
    );
    assert_eq!(rig.claimed(0).await, ["b"]);
}

pub async fn nothing_is_claimed_before_its_time_and_the_next_is_said<E: Engine>() {
    let rig = Rig::<E>::with(&["a", "b", "c"]).await;
    let all = rig.claim(0, 9).await;
    for (portal, act) in all.portals.iter().zip([500, 400, 600]) {
        assert_eq!(rig.record(portal, 1, retrying(act)).await, generation(1));
    }
    let claims = rig.claim(399, 9).await;
    assert_eq!((claims.portals.len(), claims.next), (0, Some(at(400))));
    let claims = rig.claim(400, 9).await;
    assert_eq!(
        (names(&claims.portals), claims.next),
        (vec!["b".to_owned()], Some(at(500)))
    );
    let claims = rig.claim(600, 9).await;
    assert_eq!((claims.portals.len(), claims.next), (2, None));
}

pub async fn a_claim_survives_the_process_and_can_be_ended_by_the_next<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(7).await;
    let rig = rig.reopen().await;
    assert_eq!(rig.claimed(9999).await, [""; 0]);
    let mut orphans = rig.state.orphans().await.unwrap();
    let orphan = orphans.remove(0);
    assert!(orphans.is_empty());
    assert_eq!(
        orphan.grant.as_ref().unwrap().claim,
        claimed.grant.unwrap().claim
    );
    let phase = Phase::InDoubt {
        attempt: 1,
        since: at(7),
        problem: problem(Class::InDoubt),
    };
    let status = GrantStatus {
        phase: phase.clone(),
        renew_at: None,
        next_attempt_at: Some(at(20)),
    };
    assert_eq!(
        rig.record(&orphan, 10, RecordOutcome::Kept(status)).await,
        generation(1)
    );
    assert_eq!(names(&rig.state.orphans().await.unwrap()), [""; 0]);
    let again = rig.claim_only(20).await;
    assert_eq!(again.grant.unwrap().status.phase, phase);
}

pub async fn one_portal_is_claimed_by_hand_whatever_its_time<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "other"]).await;
    let portal = rig.claim_by_name("acme").await;
    rig.record(&portal, 1, renewed("r2", 1)).await;
    let portal = rig
        .state
        .claim_one(name("acme"), at(2))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        rig.state
            .claim_one(name("acme"), at(2))
            .await
            .unwrap()
            .map(|_| ()),
        None,
        "claimed twice"
    );
    let stopped = Phase::NeedsAuthorization {
        since: at(2),
        problem: problem(Class::NeedsAuthorization),
        while_in_doubt: true,
    };
    let status = GrantStatus {
        phase: stopped.clone(),
        renew_at: None,
        next_attempt_at: None,
    };
    rig.record(&portal, 3, RecordOutcome::Kept(status)).await;
    assert_eq!(rig.grant("acme").await.status.phase, stopped);
    for unclaimable in ["acme", "unknown"] {
        assert!(
            rig.state
                .claim_one(name(unclaimable), at(4))
                .await
                .unwrap()
                .is_none(),
            "{unclaimable}"
        );
    }
}

pub async fn a_request_to_renew_says_what_becomes_of_it<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.configure(&["acme", "new"]).await;
    let ask = async |portal: &str, secs| {
        rig.state
            .request_renewal(name(portal), at(secs))
            .await
            .unwrap()
    };
    assert_eq!(ask("unknown", 0).await, RenewalRequest::Unknown);
    assert_eq!(ask("new", 0).await, RenewalRequest::NoGrant);
    let claimed = rig.claim_only(0).await;
    assert_eq!(ask("acme", 0).await, RenewalRequest::UnderWay);
    rig.record(&claimed, 0, renewed("r2", 0)).await;
    // A tenth of the hour.
    assert_eq!(ask("acme", 359).await, RenewalRequest::NotBefore(at(360)));
    assert_eq!(rig.claimed(359).await, [""; 0]);
    assert_eq!(ask("acme", 360).await, RenewalRequest::Due(at(360)));
    let claimed = rig.claim_only(360).await;
    rig.record(&claimed, 361, retrying(2000)).await;
    assert_eq!(
        ask("acme", 362).await,
        RenewalRequest::Due(at(365)),
        "a failing one is not hammered"
    );
    assert_eq!(rig.claimed(362).await, [""; 0]);
    assert_eq!(rig.claimed(365).await, ["acme"]);
    rig.state.forget(name("acme")).await.unwrap();
    assert_eq!(ask("acme", 366).await, RenewalRequest::NoGrant);
    rig.take("acme", "r3", HOUR).await;
    rig.configure(&[]).await;
    assert_eq!(
        ask("acme", 9999).await,
        RenewalRequest::NoGrant,
        "not configured any more"
    );
}
