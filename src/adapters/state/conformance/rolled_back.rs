//! Grants that are quarantined because the state went back.

use super::*;
use crate::domain::rollback::{PublishedGeneration, Trace, quarantined};

fn trace(noted: Option<u64>, published: Option<u64>) -> Trace {
    let published = published.map(|generation| PublishedGeneration {
        generation: Generation(generation),
        access: tokens("published", 50, 50 + HOUR).access.unwrap(),
        details: Details {
            scope: vec!["task".to_owned()],
            ..Details::default()
        },
    });
    Trace {
        noted: noted.map(Generation),
        published,
    }
}

pub async fn an_old_grant_takes_over_what_was_published_and_is_not_sent<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await.grant.unwrap();
    let held = quarantined(&claimed, trace(Some(7), Some(6)), at(9)).unwrap();
    assert!(
        rig.state
            .quarantine_rolled_back(name("acme"), Generation(1), held)
            .await
            .unwrap()
    );
    let grant = rig.grant("acme").await;
    assert!(
        matches!(&grant.status.phase, Phase::OldState { since, .. } if *since == at(9)),
        "{grant:?}"
    );
    assert_eq!(
        (grant.generation, grant.claim, grant.status.next_attempt_at),
        (Generation(7), None, None)
    );
    assert_eq!(
        grant.tokens.access.as_ref().unwrap().token.expose(),
        "access of published"
    );
    assert_eq!(
        (refresh_of(&grant), grant.tokens.details.scope.as_slice()),
        ("acme", &["task".to_owned()][..])
    );
    assert_eq!(rig.state.census(at(9)).await.unwrap().of(Kind::OldState), 1);
    assert_eq!(rig.claimed(9999).await, [""; 0]);
    assert_eq!(
        names(&rig.state.orphans().await.unwrap()),
        [""; 0],
        "its claim is of the old time"
    );
    assert_eq!(
        names(&rig.state.escalations_due(at(9), 9).await.unwrap()),
        ["acme"],
        "it is notified of"
    );
    assert!(
        quarantined(&grant, trace(Some(7), Some(7)), at(9)).is_none(),
        "once"
    );
    // Ways to recover: a request of the operator, or a new grant.
    assert_eq!(
        rig.state
            .request_renewal(name("acme"), at(10))
            .await
            .unwrap(),
        RenewalRequest::Due(at(10))
    );
    assert_eq!(rig.claimed(10).await, ["acme"]);
    assert_eq!(
        rig.take("acme", "new", HOUR).await,
        StoreOutcome::Stored(Generation(8))
    );
}

pub async fn a_grant_that_moved_on_is_not_held<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let before = rig.grant("acme").await;
    let claimed = rig.claim_only(0).await;
    rig.record(&claimed, 0, renewed("r2", 0)).await;
    let held = quarantined(&before, trace(Some(9), None), at(1)).unwrap();
    assert!(
        !rig.state
            .quarantine_rolled_back(name("acme"), before.generation, held)
            .await
            .unwrap()
    );
    assert_eq!(rig.portal("acme").await.kind(), Kind::Fresh);
}
