//! Recording of an outcome, and grants that it must not overwrite.

use super::*;
use refreshd_token_client::refresh_end::{Motion, RefreshEnd};
use refreshd_token_client::reply::GrantedTokens;

pub async fn a_new_pair_is_stored_whole_and_counted<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let mut secs = 0;
    for count in 2..5 {
        let claimed = rig.claim_only(secs).await;
        assert_eq!(
            rig.record(&claimed, secs, renewed(&format!("r{count}"), secs))
                .await,
            generation(count)
        );
        secs += 1500;
    }
    let rig = rig.reopen().await;
    let grant = rig.grant("acme").await;
    let access = grant.tokens.access.as_ref().unwrap();
    assert_eq!(
        (refresh_of(&grant), access.token.expose()),
        ("r4", "access of r4")
    );
    assert_eq!(
        (access.issued_at, access.expires_at),
        (at(3000), at(3000 + HOUR))
    );
    assert_eq!(
        (grant.generation, grant.renewed_at),
        (Generation(4), at(3000))
    );
    assert_eq!(grant.status.next_attempt_at, Some(at(4500)));
    assert_eq!(grant.tokens.details.scope, ["crm"]);
    assert_eq!(
        (grant.token_url.as_str(), grant.claim),
        (URL, None),
        "the server named no other place"
    );
}

pub async fn the_generation_never_goes_back<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await;
    rig.record(&claimed, 0, renewed("r2", 0)).await;
    assert!(rig.state.forget(name("acme")).await.unwrap());
    assert!(
        !rig.state.forget(name("acme")).await.unwrap(),
        "forgotten twice"
    );
    assert_eq!(
        rig.take("acme", "r3", HOUR).await,
        StoreOutcome::Stored(Generation(3))
    );
}

pub async fn a_reply_that_comes_after_an_import_is_kept_aside<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await;
    assert_eq!(
        rig.take("acme", "imported", HOUR).await,
        StoreOutcome::Stored(Generation(2))
    );
    // The import is claimed in the same millisecond: the late reply must not end that claim either.
    let second = rig.claim_only(0).await;
    assert_eq!(
        rig.record(&claimed, 1, renewed("late", 1)).await,
        Recorded::Superseded
    );
    assert_eq!(refresh_of(&rig.grant("acme").await), "imported");
    assert_eq!(
        rig.superseded(),
        [("acme".to_owned(), "late".to_owned(), "late".to_owned())]
    );
    assert_eq!(
        rig.record(&claimed, 1, retrying(5)).await,
        Recorded::Superseded
    );
    assert_eq!(rig.grant("acme").await.status.phase, Phase::Fresh);
    assert_eq!(
        rig.record(&second, 2, renewed("r3", 2)).await,
        generation(3)
    );
    assert_eq!(
        rig.record(&second, 2, renewed("twice", 2)).await,
        Recorded::Superseded
    );
}

pub async fn a_reply_that_comes_after_a_forget_is_kept_aside<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await;
    rig.state.forget(name("acme")).await.unwrap();
    assert_eq!(
        rig.record(&claimed, 1, renewed("late", 1)).await,
        Recorded::Superseded
    );
    assert!(
        rig.portal("acme").await.grant.is_none(),
        "a late reply brought a forgotten grant back"
    );
    assert_eq!(
        rig.superseded(),
        [("acme".to_owned(), "late".to_owned(), "late".to_owned())]
    );
    rig.state.forget(name("acme")).await.unwrap();
    assert_eq!(rig.superseded(), []);
}

pub async fn somebody_elses_pair_is_kept_aside_and_not_used<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let foreign = || {
        let phase = Phase::NeedsAuthorization {
            since: at(1),
            problem: problem(Class::NeedsAuthorization),
            while_in_doubt: false,
        };
        let granted = GrantedTokens {
            access: AccessToken::new("theirs").unwrap(),
            refresh: RefreshToken::new("their refresh"),
            odd_refresh: None,
            token_type: "Bearer".to_owned(),
            lives: refreshd_token_client::token_life::TokenLives::reported(
                std::time::Duration::from_secs(3600),
            ),
            identity: Some("m2".to_owned()),
            server: None,
            details: Details::default(),
        };
        RecordOutcome::Foreign(
            GrantStatus {
                phase,
                renew_at: None,
                next_attempt_at: None,
            },
            Box::new(granted),
        )
    };
    let claimed = rig.claim_only(0).await;
    assert_eq!(rig.record(&claimed, 1, foreign()).await, generation(1));
    let kept = (
        "acme".to_owned(),
        "foreign".to_owned(),
        "their refresh".to_owned(),
    );
    assert_eq!(rig.superseded(), std::slice::from_ref(&kept));
    assert_eq!(refresh_of(&rig.grant("acme").await), "acme");
    assert_eq!(rig.portal("acme").await.kind(), Kind::NeedsAuthorization);
    assert_eq!(
        rig.record(&claimed, 1, foreign()).await,
        Recorded::Superseded
    );
    assert_eq!(rig.superseded(), [kept.clone(), kept], "a pair was lost");
}

pub async fn what_was_told_is_remembered_unless_the_grant_moved_on<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await;
    rig.record(&claimed, 0, retrying(10)).await;
    let seen = rig.grant("acme").await;
    let notify = async |generation, status: &GrantStatus, step: &str, next: Option<i64>| {
        let seen = (status.clone(), rig.grant("acme").await.notified);
        rig.state
            .set_notified(
                name("acme"),
                generation,
                seen,
                vec![step.to_owned()],
                next.map(at),
            )
            .await
            .unwrap()
    };
    assert!(notify(seen.generation, &seen.status, "warning", Some(50)).await);
    let late = (seen.status.clone(), Vec::new());
    let again = rig
        .state
        .set_notified(
            name("acme"),
            seen.generation,
            late,
            vec!["warning".into()],
            None,
        )
        .await;
    assert!(!again.unwrap(), "another call notified first");
    assert_eq!(rig.grant("acme").await.notified, ["warning"]);
    assert_eq!(rig.state.next_escalation().await.unwrap(), Some(at(50)));
    assert_eq!(pages_of(rig.state.troubled()).await.concat(), ["acme"]);
    assert_eq!(rig.state.escalations_due(at(49), 9).await.unwrap().len(), 0);
    assert_eq!(
        names(&rig.state.escalations_due(at(50), 9).await.unwrap()),
        ["acme"]
    );

    let earlier = Phase::Retrying {
        attempt: 1,
        since: at(-1),
        problem: problem(Class::Transient),
    };
    assert!(
        !notify(
            seen.generation,
            &GrantStatus {
                phase: earlier,
                ..seen.status.clone()
            },
            "x",
            None
        )
        .await
    );
    let fresh = GrantStatus {
        phase: Phase::Fresh,
        ..seen.status.clone()
    };
    assert!(!notify(seen.generation, &fresh, "x", None).await);
    let claimed = rig.claim_only(10).await;
    rig.record(&claimed, 10, renewed("r2", 10)).await;
    let now = rig.grant("acme").await;
    assert!(
        now.notified.is_empty(),
        "the steps of a renewal replace the earlier ones"
    );
    assert!(
        !notify(seen.generation, &now.status, "x", None).await,
        "notified of an older pair"
    );
    assert!(notify(now.generation, &now.status, "resolved", None).await);
    assert_eq!(rig.grant("acme").await.notified, ["resolved"]);
    assert_eq!(rig.state.next_escalation().await.unwrap(), None);
}

pub async fn what_is_told_of_the_end_while_a_renewal_is_under_way_stays_told<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await;
    let grant = rig.grant("acme").await;
    let notified = vec!["overdue".to_owned(), "refresh-month".to_owned()];
    let seen = (grant.status, Vec::new());
    assert!(
        rig.state
            .set_notified(name("acme"), grant.generation, seen, notified.clone(), None)
            .await
            .unwrap()
    );
    let Recorded::Done { told_before, .. } = rig.record(&claimed, 1, renewed("r2", 1)).await else {
        panic!("not recorded")
    };
    assert_eq!(
        (told_before, rig.grant("acme").await.notified),
        (notified, vec!["refresh-month".to_owned()])
    );
}

pub async fn what_is_known_of_lives_is_kept_moves_with_the_clock_and_goes_with_the_grant<
    E: Engine,
>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let end = RefreshEnd {
        at: at(9000),
        since: at(-50),
        motion: Motion::Fixed,
    };
    let validity = Validity {
        refresh: Some(end),
        notice: Some("the life cannot be read".to_owned()),
    };
    let RecordOutcome::Renewed(mut pair) = renewed("r2", 0) else {
        panic!("a pair")
    };
    pair.tokens.validity = validity.clone();
    let claimed = rig.claim_only(0).await;
    rig.record(&claimed, 1, RecordOutcome::Renewed(pair)).await;
    assert_eq!(rig.grant("acme").await.tokens.validity, validity);
    rig.state.shift_times(60_000).await.unwrap();
    let moved = rig.grant("acme").await.tokens.validity.refresh.unwrap();
    assert_eq!(
        (moved.at, moved.since, moved.motion),
        (at(9060), at(10), Motion::Fixed)
    );
    // A grant that replaces it has its own, or none.
    rig.state
        .store_grant(grant("acme", "r3", 3600))
        .await
        .unwrap();
    assert_eq!(rig.grant("acme").await.tokens.validity, Validity::default());
    let mut other = grant("acme", "r4", 3600);
    other.tokens.validity = validity.clone();
    rig.state.store_grant(other).await.unwrap();
    assert_eq!(rig.grant("acme").await.tokens.validity, validity);
    rig.state.forget(name("acme")).await.unwrap();
    rig.state
        .store_grant(grant("acme", "r5", 3600))
        .await
        .unwrap();
    assert_eq!(rig.grant("acme").await.tokens.validity, Validity::default());
}

pub async fn a_pair_whose_token_had_ended_is_recorded_as_that<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let RecordOutcome::Renewed(mut pair) = renewed("r2", 0) else {
        panic!("a pair")
    };
    let RecordOutcome::Kept(status) = retrying(7) else {
        panic!("a status")
    };
    pair.status = status.clone();
    let claimed = rig.claim_only(0).await;
    assert_eq!(
        rig.record(&claimed, 1, RecordOutcome::Renewed(pair)).await,
        generation(2)
    );
    let now = rig.grant("acme").await;
    assert_eq!((refresh_of(&now), now.status.clone()), ("r2", status));
}
