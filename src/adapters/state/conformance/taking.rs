//! Imported grants, and tokens that must not be stored twice.

use super::*;

pub async fn a_grant_is_stored_and_due_at_once<E: Engine>() {
    let rig = Rig::<E>::new().await;
    assert_eq!(rig.take("acme", "r1", HOUR).await, StoreOutcome::Unknown);
    rig.configure(&["acme"]).await;
    assert_eq!(rig.portal("acme").await.kind(), Kind::AwaitingAuthorization);
    assert_eq!(
        rig.take("acme", "r1", HOUR).await,
        StoreOutcome::Stored(Generation(1))
    );
    let portal = rig.portal("acme").await;
    assert_eq!(portal.kind(), Kind::Fresh);
    assert_eq!(portal.settings, Some(configured("acme").settings));
    assert_eq!(
        portal.grant.unwrap().identity.as_deref(),
        Some("member of acme")
    );
    assert_eq!(rig.claimed(0).await, ["acme"]);
}

pub async fn one_refresh_token_is_not_for_two_portals<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.configure(&["acme", "copy"]).await;
    let held = StoreOutcome::HeldBy("acme".to_owned());
    assert_eq!(rig.take("copy", "acme", HOUR).await, held);
    let claimed = rig.claim_only(0).await;
    rig.record(&claimed, 0, renewed("r2", 0)).await;
    assert_eq!(
        rig.take("copy", "acme", HOUR).await,
        held,
        "it was acme's before it rotated"
    );
    assert_eq!(
        rig.take("copy", "r2", HOUR).await,
        held,
        "acme rotated to it"
    );
    assert!(rig.portal("copy").await.grant.is_none());
    assert_eq!(rig.grant("acme").await.generation, Generation(2));
    assert_eq!(
        rig.take("copy", "its own", HOUR).await,
        StoreOutcome::Stored(Generation(1))
    );
    assert_eq!(
        rig.take("acme", "acme", HOUR).await,
        StoreOutcome::Spent,
        "its own, exchanged since"
    );
    assert_eq!(
        rig.take("acme", "r2", HOUR).await,
        StoreOutcome::Stored(Generation(3)),
        "its own once more"
    );
}

pub async fn tokens_whose_fingerprints_begin_alike_are_not_one<E: Engine>() {
    let (one, other) = (
        RefreshToken::new("token 15817").unwrap(),
        RefreshToken::new("token 76302").unwrap(),
    );
    let start = |token: &RefreshToken| token.fingerprint().to_string();
    assert_eq!(
        start(&one),
        start(&other),
        "they share what the index knows"
    );
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.configure(&["acme", "copy"]).await;
    let claimed = rig.claim_only(0).await;
    rig.record(&claimed, 0, renewed(one.expose(), 0)).await;
    assert_eq!(
        rig.take("copy", other.expose(), HOUR).await,
        StoreOutcome::Stored(Generation(1))
    );
    for (token, holder) in [(one, "acme"), (other, "copy")] {
        assert_eq!(
            rig.state
                .holder_of_refresh_token(token.fingerprint())
                .await
                .unwrap()
                .as_deref(),
            Some(holder)
        );
    }
    assert_eq!(
        rig.take("copy", "token 15817", HOUR).await,
        StoreOutcome::HeldBy("acme".to_owned())
    );
}

pub async fn a_token_that_came_in_before_is_recognised<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let seen = async |token: &str| {
        rig.state
            .holder_of_refresh_token(RefreshToken::new(token).unwrap().fingerprint())
            .await
            .unwrap()
    };
    let claimed = rig.claim_only(0).await;
    rig.record(&claimed, 0, renewed("r2", 0)).await;
    let acme = Some("acme".to_owned());
    assert_eq!(
        [seen("acme").await, seen("r2").await, seen("r3").await],
        [acme.clone(), acme.clone(), None]
    );
    rig.state.forget(name("acme")).await.unwrap();
    assert_eq!(
        [seen("acme").await, seen("r2").await],
        [acme, None],
        "a spent file would come in again"
    );
}

pub async fn portals_that_wait_for_their_file_are_found<E: Engine>() {
    let rig = Rig::<E>::new().await;
    let with_file = |portal: &str| {
        let mut portal = configured(portal);
        portal.settings.refresh_token_file = Some(PathBuf::from("/etc/refreshd/token"));
        portal
    };
    let portals = ["dead", "fresh", "waits"]
        .map(with_file)
        .into_iter()
        .chain([configured("without")]);
    rig.follow(portals.collect()).await;
    rig.take("dead", "d", 100).await;
    rig.take("fresh", "f", 200).await;
    let dead = rig.claim(0, 1).await.portals.remove(0);
    let phase = Phase::NeedsAuthorization {
        since: at(0),
        problem: problem(Class::NeedsAuthorization),
        while_in_doubt: false,
    };
    rig.record(
        &dead,
        0,
        RecordOutcome::Kept(GrantStatus {
            phase,
            renew_at: None,
            next_attempt_at: None,
        }),
    )
    .await;
    let mut waiting = names(&rig.state.awaiting_files().await.unwrap());
    waiting.sort();
    assert_eq!(waiting, ["dead", "waits"]);
}
