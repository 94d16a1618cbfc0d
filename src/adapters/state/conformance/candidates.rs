//! Candidates beside grants: stored, claimed, recorded, replaced and forgotten, with the grant untouched until verification.

use super::*;
use crate::domain::candidate::{Origin, TokenPair};
use crate::domain::portal::Lost;
use crate::domain::rollback::LostPortals;

fn offer(portal: &str, refresh: &str) -> Offer {
    let tokens = Tokens {
        access: None,
        ..grant(portal, refresh, HOUR).tokens
    };
    Offer {
        grant: NewGrant {
            tokens,
            ..grant(portal, refresh, HOUR)
        },
        origin: Origin::Import,
        replaces: false,
        event: None,
    }
}

async fn claimed<E: Engine>(rig: &Rig<E>, secs: i64) -> Vec<Candidate> {
    rig.state
        .claim_candidates(at(secs), 100, Vec::new())
        .await
        .unwrap()
}

async fn record<E: Engine>(
    rig: &Rig<E>,
    candidate: &Candidate,
    secs: i64,
    outcome: CandidateOutcome,
) -> CandidateRecorded {
    let portal = &candidate.portal;
    let record = RecordCandidate {
        portal: portal.name.clone(),
        app: "crm".to_owned(),
        claim: portal.grant.as_ref().unwrap().claim.unwrap(),
        outcome,
        now: at(secs),
    };
    rig.state.record_candidate(Arc::new(record)).await.unwrap()
}

fn proved(refresh: &str, secs: i64) -> CandidateOutcome {
    match renewed(refresh, secs) {
        RecordOutcome::Renewed(renewed) => CandidateOutcome::Proved(renewed),
        other => panic!("{other:?}"),
    }
}

fn waits(class: Class, secs: i64) -> CandidateOutcome {
    let problem = problem(class);
    let phase = match class {
        Class::InDoubt => Phase::InDoubt {
            attempt: 1,
            since: at(0),
            problem,
        },
        _ => Phase::Retrying {
            attempt: 1,
            since: at(0),
            problem,
        },
    };
    CandidateOutcome::Waits(GrantStatus {
        phase,
        renew_at: None,
        next_attempt_at: Some(at(secs)),
    })
}

pub async fn the_grant_is_untouched_until_the_proof_is_recorded<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let before = format!("{:?}", rig.grant("acme").await);
    assert_eq!(
        rig.state.offer(offer("acme", "c1")).await.unwrap(),
        Offered::Stored
    );
    assert_eq!(
        rig.state.offer(offer("acme", "c1")).await.unwrap(),
        Offered::Known
    );
    let candidate = claimed(&rig, 0).await.remove(0);
    assert_eq!(refresh_of(candidate.portal.grant.as_ref().unwrap()), "c1");
    assert!(claimed(&rig, 0).await.is_empty(), "it is claimed once");
    assert_eq!(
        rig.state.offer(offer("acme", "c2")).await.unwrap(),
        Offered::Busy
    );
    assert_eq!(format!("{:?}", rig.grant("acme").await), before);
    assert!(rig.portal("acme").await.candidate.is_some());
    assert_eq!(
        record(&rig, &candidate, 1, waits(Class::Transient, 60)).await,
        CandidateRecorded::Kept
    );
    assert_eq!(format!("{:?}", rig.grant("acme").await), before);
    assert_eq!(rig.state.next_candidate().await.unwrap(), Some(at(60)));
    assert!(claimed(&rig, 59).await.is_empty());
    let candidate = claimed(&rig, 60).await.remove(0);
    let taken = record(&rig, &candidate, 61, proved("c1-next", 61)).await;
    assert_eq!(
        taken,
        CandidateRecorded::Promoted {
            generation: Generation(2),
            client_changed: false
        }
    );
    let grant = rig.grant("acme").await;
    assert_eq!(
        (refresh_of(&grant), grant.generation, &grant.status.phase),
        ("c1-next", Generation(2), &Phase::Fresh)
    );
    assert!(rig.portal("acme").await.candidate.is_none());
    assert_eq!(
        rig.state.offer(offer("acme", "c1")).await.unwrap(),
        Offered::Spent
    );
    assert_eq!(
        rig.state.offer(offer("acme", "c1-next")).await.unwrap(),
        Offered::Same
    );
}

pub async fn a_refused_candidate_goes_and_is_remembered_for_files<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let before = format!("{:?}", rig.grant("acme").await);
    rig.state.offer(offer("acme", "c1")).await.unwrap();
    let candidate = claimed(&rig, 0).await.remove(0);
    assert_eq!(
        record(&rig, &candidate, 1, CandidateOutcome::Refused).await,
        CandidateRecorded::Kept
    );
    assert_eq!(format!("{:?}", rig.grant("acme").await), before);
    assert!(rig.portal("acme").await.candidate.is_none() && rig.superseded().is_empty());
    let fingerprint = RefreshToken::new("c1").unwrap().fingerprint();
    assert!(
        rig.state
            .was_refused(name("acme"), fingerprint)
            .await
            .unwrap()
    );
    assert_eq!(
        rig.state.offer(offer("acme", "c1")).await.unwrap(),
        Offered::Stored,
        "a person may try again"
    );
    let candidate = claimed(&rig, 2).await.remove(0);
    let pair = TokenPair {
        access: None,
        refresh: RefreshToken::new("others"),
        identity: Some("b1".to_owned()),
    };
    record(&rig, &candidate, 3, CandidateOutcome::Another(pair)).await;
    assert_eq!(
        rig.superseded(),
        [("acme".to_owned(), "foreign".to_owned(), "others".to_owned())]
    );
    assert_eq!(format!("{:?}", rig.grant("acme").await), before);
}

pub async fn what_is_newer_wins_and_a_late_pair_is_kept_aside<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.state.offer(offer("acme", "c1")).await.unwrap();
    let candidate = claimed(&rig, 0).await.remove(0);
    rig.take("acme", "authorized", HOUR).await;
    assert_eq!(
        record(&rig, &candidate, 1, proved("late", 1)).await,
        CandidateRecorded::Superseded
    );
    assert_eq!(refresh_of(&rig.grant("acme").await), "authorized");
    assert_eq!(
        rig.superseded(),
        [("acme".to_owned(), "late".to_owned(), "late".to_owned())]
    );
    // A candidate in doubt is not discarded by a newer one.
    rig.state.offer(offer("acme", "c2")).await.unwrap();
    let candidate = claimed(&rig, 2).await.remove(0);
    record(&rig, &candidate, 3, waits(Class::InDoubt, 60)).await;
    assert_eq!(
        rig.state.offer(offer("acme", "c3")).await.unwrap(),
        Offered::Waiting(at(0))
    );
    let other = Offer {
        replaces: true,
        ..offer("acme", "c3")
    };
    assert_eq!(rig.state.offer(other).await.unwrap(), Offered::Stored);
    assert_eq!(
        rig.superseded()[1],
        ("acme".to_owned(), "candidate".to_owned(), "c2".to_owned())
    );
    // `forget` removes one, too, and its late pair belongs to no grant.
    let candidate = claimed(&rig, 4).await.remove(0);
    assert!(rig.state.forget(name("acme")).await.unwrap());
    assert_eq!(
        record(&rig, &candidate, 5, proved("late", 5)).await,
        CandidateRecorded::Superseded
    );
    assert!(
        rig.portal("acme").await.grant.is_none() && rig.portal("acme").await.candidate.is_none()
    );
}

pub async fn one_token_is_no_candidate_of_two_portals<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "copy"]).await;
    rig.state.offer(offer("acme", "c1")).await.unwrap();
    assert_eq!(
        rig.state.offer(offer("copy", "c1")).await.unwrap(),
        Offered::HeldBy("acme".to_owned())
    );
    assert_eq!(
        rig.take("copy", "c1", HOUR).await,
        StoreOutcome::HeldBy("acme".to_owned())
    );
    assert_eq!(
        rig.state.offer(offer("copy", "acme")).await.unwrap(),
        Offered::HeldBy("acme".to_owned())
    );
}

pub async fn a_claim_outlives_a_restart_and_times_follow_the_clock<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.state.offer(offer("acme", "c1")).await.unwrap();
    let candidate = claimed(&rig, 0).await.remove(0);
    rig.state.shift_times(-1000 * HOUR).await.unwrap();
    record(&rig, &candidate, 1, waits(Class::Transient, 60)).await;
    assert_eq!(
        rig.state.next_candidate().await.unwrap(),
        Some(at(60 - HOUR)),
        "moved with the others"
    );
    let candidate = claimed(&rig, 60 - HOUR).await.remove(0);
    let rig = rig.reopen().await;
    let orphan = rig.state.orphan_candidates().await.unwrap().remove(0);
    let claim = |candidate: &Candidate| candidate.portal.grant.as_ref().unwrap().claim;
    assert_eq!(claim(&orphan), claim(&candidate));
    assert!(
        claimed(&rig, HOUR).await.is_empty(),
        "it is not sent before it was inspected"
    );
}

pub async fn a_portal_in_doubt_is_held_until_a_person_hands_a_grant_over_or_forgets<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.configure(&["acme", "globex"]).await;
    for portal in ["acme", "globex"] {
        let hold = || rig.state.quarantine_doubted(name(portal));
        assert!(hold().await.unwrap());
        assert!(!hold().await.unwrap(), "it is held already");
        assert_eq!(rig.portal(portal).await.kind(), Kind::OldState);
        assert_eq!(rig.portal(portal).await.lost, Some(Lost::Doubt));
    }
    let known = LostPortals {
        lost: Vec::new(),
        doubted: vec![name("acme"), name("globex")],
    };
    assert_eq!(rig.state.lost_portals().await.unwrap(), known);
    let census = rig.state.census(at(0)).await.unwrap();
    assert_eq!(census.of(Kind::OldState), 2);
    assert_eq!(census.overdue, 0, "no reader is known to have a token");
    assert!(!rig.state.holds_grants().await.unwrap());
    assert_eq!(
        rig.take("acme", "a", HOUR).await,
        StoreOutcome::Stored(Generation(1))
    );
    assert!(rig.state.holds_grants().await.unwrap());
    assert!(
        !rig.state.quarantine_doubted(name("acme")).await.unwrap(),
        "it has a grant"
    );
    assert!(rig.state.forget(name("globex")).await.unwrap());
    assert_eq!(
        rig.portal("globex").await.kind(),
        Kind::AwaitingAuthorization
    );
    assert!(rig.state.lost_portals().await.unwrap().is_empty());
}

pub async fn a_lost_grant_is_held_until_a_person_hands_one_over_or_forgets<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.configure(&["acme", "globex", "new"]).await;
    let spent = RefreshToken::new("leftover").unwrap().fingerprint();
    for portal in ["acme", "globex"] {
        assert!(
            rig.state
                .quarantine_lost(name(portal), Generation(7), Some(spent), None)
                .await
                .unwrap()
        );
        assert_eq!(rig.portal(portal).await.kind(), Kind::OldState);
    }
    let census = rig.state.census(at(0)).await.unwrap();
    assert_eq!(
        (
            census.of(Kind::OldState),
            census.of(Kind::AwaitingAuthorization),
            census.total()
        ),
        (2, 1, 3)
    );
    assert_eq!(rig.state.count_lost().await.unwrap(), 2);
    assert!(
        rig.state
            .holder_of_refresh_token(spent)
            .await
            .unwrap()
            .is_some(),
        "its file brings nothing in"
    );
    assert_eq!(
        rig.take("acme", "a", HOUR).await,
        StoreOutcome::Stored(Generation(8))
    );
    assert!(rig.state.forget(name("globex")).await.unwrap());
    assert_eq!(
        rig.portal("globex").await.kind(),
        Kind::AwaitingAuthorization
    );
    assert!(
        !rig.state
            .quarantine_lost(name("globex"), Generation(7), None, None)
            .await
            .unwrap(),
        "it is no news"
    );
    assert!(
        !rig.state
            .quarantine_lost(name("acme"), Generation(9), None, None)
            .await
            .unwrap(),
        "it has a grant"
    );
    assert_eq!(rig.state.count_lost().await.unwrap(), 0);
}

pub async fn one_after_the_other_they_find_room_as_the_log_grows<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    for turn in 0..200 {
        let refresh = format!("c{turn}{}", "x".repeat(3000));
        assert_eq!(
            rig.state.offer(offer("acme", &refresh)).await.unwrap(),
            Offered::Stored
        );
        let candidate = if turn % 2 == 0 {
            rig.state
                .claim_candidates(at(0), 100, Vec::new())
                .await
                .unwrap()
                .pop()
        } else {
            rig.state
                .claim_candidate(name("acme"), at(0))
                .await
                .unwrap()
        };
        record(&rig, &candidate.unwrap(), 0, CandidateOutcome::Refused).await;
    }
}

pub async fn candidates_of_a_busy_app_wait<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.state.offer(offer("acme", "c1")).await.unwrap();
    let claim = async |busy: &str| {
        let busy = vec![busy.to_owned()];
        rig.state.claim_candidates(at(0), 8, busy).await.unwrap()
    };
    assert!(claim("crm").await.is_empty());
    assert_eq!(claim("another").await.len(), 1);
}
