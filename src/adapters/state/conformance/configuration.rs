//! The state follows the configuration and the clock, and keeps the grants in both cases.

use super::*;

pub async fn a_dropped_portal_keeps_its_grant_and_is_left_alone<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "other"]).await;
    rig.configure(&["acme", "other", "empty"]).await;
    assert_eq!(
        rig.configure(&["acme", "other", "empty"]).await,
        PortalChanges::default()
    );
    assert_eq!(
        rig.configure(&["other"]).await,
        PortalChanges {
            added: 0,
            changed: 0,
            dropped: 2
        }
    );
    assert_eq!(rig.portal("acme").await.kind(), Kind::Unconfigured);
    assert!(
        rig.state.portal(name("empty")).await.unwrap().is_none(),
        "nothing of it is worth keeping"
    );
    assert_eq!(rig.claimed(0).await, ["other"]);
    assert_eq!(
        rig.state
            .claim_one(name("acme"), at(0))
            .await
            .unwrap()
            .map(|_| ()),
        None
    );
    assert_eq!(rig.take("acme", "r2", HOUR).await, StoreOutcome::Unknown);
    assert_eq!(
        rig.configure(&["acme", "other"]).await,
        PortalChanges {
            added: 0,
            changed: 1,
            dropped: 0
        }
    );
    assert_eq!(refresh_of(&rig.grant("acme").await), "acme");
    assert_eq!(rig.claimed(9999).await, ["acme"]);
    rig.configure(&[]).await;
    assert!(rig.state.forget(name("acme")).await.unwrap());
    assert!(rig.state.portal(name("acme")).await.unwrap().is_none());
}

pub async fn another_client_does_not_get_to_see_the_grant<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let elsewhere = || Configured {
        binding: binding("example", "another client"),
        token_url: OTHER.to_owned(),
        allowed_urls: Arc::new([OTHER.to_owned()]),
        ..configured("acme")
    };
    rig.follow(vec![elsewhere()]).await;
    assert_eq!(rig.portal("acme").await.kind(), Kind::ClientChanged);
    assert_eq!(
        rig.state
            .census(at(0))
            .await
            .unwrap()
            .of(Kind::ClientChanged),
        1
    );
    let capacity = vec![(URL.to_owned(), 9), (OTHER.to_owned(), 9)];
    assert_eq!(
        rig.state
            .claim_due(at(0), capacity)
            .await
            .unwrap()
            .portals
            .len(),
        0
    );
    assert_eq!(
        rig.state
            .request_renewal(name("acme"), at(0))
            .await
            .unwrap(),
        RenewalRequest::NoGrant
    );
    assert!(
        rig.state
            .claim_one(name("acme"), at(0))
            .await
            .unwrap()
            .is_none()
    );
    rig.configure(&["acme"]).await;
    assert_eq!(rig.portal("acme").await.kind(), Kind::Fresh);
    assert_eq!(
        rig.claimed(9999).await,
        ["acme"],
        "its server is not what it was"
    );
}

pub async fn another_age_moves_the_renewal<E: Engine>() {
    let rig = Rig::<E>::with(&["fresh", "retries"]).await;
    let portals = rig.claim(0, 9).await.portals;
    rig.record(&portals[0], 0, renewed("r2", 0)).await;
    rig.record(&portals[1], 0, retrying(700)).await;
    let aged = |portal: &str, secs: u64| Configured {
        every: RenewSetting::AgeMillis(secs * 1000),
        ..configured(portal)
    };
    let with_age = |secs| vec![aged("fresh", secs), aged("retries", secs)];
    assert_eq!(rig.follow(with_age(900)).await.changed, 2);
    let status = rig.grant("fresh").await.status;
    assert_eq!(status.next_attempt_at, status.renew_at);
    let moved = status.next_attempt_at.unwrap();
    assert!((at(810)..=at(900)).contains(&moved), "{moved}");
    assert_eq!(
        rig.grant("retries").await.status.next_attempt_at,
        Some(at(700)),
        "a retry keeps its own time"
    );
    // A due portal must not be put off.
    rig.state
        .request_renewal(name("fresh"), at(400))
        .await
        .unwrap();
    rig.state
        .reconcile(with_age(1800), vec![], at(401))
        .await
        .unwrap();
    let status = rig.grant("fresh").await.status;
    assert_eq!(status.next_attempt_at, Some(at(400)));
    assert!(status.renew_at > Some(at(1600)), "{status:?}");
}

pub async fn an_endpoint_that_is_not_allowed_any_more_is_left<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.configure(&["acme"]).await;
    rig.state
        .store_grant(NewGrant {
            token_url: OTHER.to_owned(),
            ..grant("acme", "r1", HOUR)
        })
        .await
        .unwrap();
    rig.configure(&["acme"]).await;
    assert_eq!(rig.grant("acme").await.token_url, OTHER, "it is allowed");
    // The portal's own settings do not change.
    let only = Configured {
        allowed_urls: Arc::new([URL.to_owned()]),
        ..configured("acme")
    };
    rig.follow(vec![only]).await;
    assert_eq!(
        rig.claimed(0).await,
        ["acme"],
        "it waits for a server that gets nothing any more"
    );
}

pub async fn an_endpoint_that_changes_during_a_renewal_stays_changed<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await;
    let moved = Configured {
        token_url: OTHER.to_owned(),
        allowed_urls: Arc::new([OTHER.to_owned()]),
        ..configured("acme")
    };
    rig.follow(vec![moved]).await;
    rig.record(&claimed, 1, renewed("r2", 1)).await;
    assert_eq!(rig.grant("acme").await.token_url, OTHER);
}

pub async fn the_server_a_reply_names_is_remembered<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_only(0).await;
    let RecordOutcome::Renewed(mut pair) = renewed("r2", 1) else {
        unreachable!()
    };
    pair.token_url = Some(OTHER.to_owned());
    rig.record(&claimed, 1, RecordOutcome::Renewed(pair)).await;
    assert_eq!(rig.grant("acme").await.token_url, OTHER);
}

/// Each of the two portals has an app of its own, so that the client of one is refused with it.
async fn apart<E: Engine>(rig: &Rig<E>) {
    let mut retries = configured("retries");
    retries.settings.app = "other".to_owned();
    let portals = vec![configured("acme"), retries];
    rig.state
        .reconcile(portals, vec![app("crm", "1"), app("other", "1")], at(0))
        .await
        .unwrap();
}

pub async fn every_time_moves_with_the_clock<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "retries"]).await;
    apart(&rig).await;
    let portals = rig.claim(0, 9).await.portals;
    rig.record(&portals[0], 0, renewed("r2", 0)).await;
    let refused = ClientVerdict::Refused(at(300));
    rig.record_client(&portals[1], 0, retrying(300), refused)
        .await;
    rig.state
        .set_notified(
            name("acme"),
            Generation(2),
            (rig.grant("acme").await.status, vec![]),
            vec![],
            Some(at(50)),
        )
        .await
        .unwrap();
    rig.state.shift_times(-100_000).await.unwrap();
    let grant = rig.grant("acme").await;
    let access = grant.tokens.access.unwrap();
    assert_eq!(
        (access.issued_at, access.expires_at, grant.renewed_at),
        (at(-100), at(HOUR - 100), at(-100))
    );
    assert_eq!(
        (grant.status.renew_at, grant.status.next_attempt_at),
        (Some(at(1400)), Some(at(1400)))
    );
    assert_eq!(rig.state.next_escalation().await.unwrap(), Some(at(-50)));
    assert_eq!(
        rig.grant("retries").await.status.phase.since(),
        Some(at(-100))
    );
    assert_eq!(
        rig.claim(199, 9).await.next,
        Some(at(200)),
        "the refused client's time stayed behind"
    );
    assert_eq!(rig.claimed(200).await, ["retries"]);
}

pub async fn a_reply_that_comes_after_a_clock_step_is_dated_by_the_new_clock<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "retries"]).await;
    apart(&rig).await;
    let portals = rig.claim(0, 9).await.portals;
    rig.state.shift_times(-7_200_000).await.unwrap();
    rig.record(&portals[0], 1, renewed("r2", 0)).await;
    rig.record_client(
        &portals[1],
        1,
        retrying(300),
        ClientVerdict::Refused(at(300)),
    )
    .await;
    let grant = rig.grant("acme").await;
    let access = grant.tokens.access.unwrap();
    assert_eq!(
        (access.issued_at, access.expires_at, grant.renewed_at),
        (at(-7200), at(HOUR - 7200), at(-7199))
    );
    assert_eq!(
        (grant.status.renew_at, grant.status.next_attempt_at),
        (Some(at(-5700)), Some(at(-5700)))
    );
    let retries = rig.grant("retries").await.status;
    assert_eq!(
        (retries.phase.since(), retries.next_attempt_at),
        (Some(at(-7200)), Some(at(-6900)))
    );
    assert_eq!(
        rig.claim(-6901, 9).await.next,
        Some(at(-6900)),
        "the refused client's time stayed ahead"
    );
}

pub async fn a_clock_set_back_between_two_runs_makes_every_fresh_grant_due<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "retries"]).await;
    let portals = rig.claim(0, 9).await.portals;
    rig.record(&portals[0], 1, renewed("r2", 0)).await;
    rig.record(&portals[1], 1, retrying(300)).await;
    assert_eq!(
        rig.state.adjust_clock(at(0), 5_000).await.unwrap(),
        None,
        "within the tolerance"
    );
    assert_eq!(
        rig.state.adjust_clock(at(2000), 5_000).await.unwrap(),
        None,
        "ahead is no step back"
    );
    assert_eq!(
        rig.state.adjust_clock(at(-7199), 5_000).await.unwrap(),
        Some(-7_200_000)
    );
    let grant = rig.grant("acme").await;
    assert_eq!(grant.tokens.access.unwrap().expires_at, at(HOUR - 7200));
    assert_eq!(
        rig.grant("retries").await.status.next_attempt_at,
        Some(at(300 - 7200))
    );
    assert!(
        rig.claimed(-7199).await.is_empty(),
        "it was renewed a moment ago, for all that is known"
    );
    assert_eq!(rig.claimed(HOUR / 10 - 7200).await, ["retries", "acme"]);
}

pub async fn a_changed_ladder_is_looked_at_again<E: Engine>() {
    let rig = Rig::<E>::with(&["fresh", "retries"]).await;
    rig.configure(&["fresh", "retries", "empty"]).await;
    let portals = rig.claim(0, 9).await.portals;
    rig.record(&portals[0], 0, renewed("r2", 0)).await;
    rig.record(&portals[1], 0, retrying(300)).await;
    assert_eq!(rig.state.next_escalation().await.unwrap(), None);
    rig.state.reschedule_escalations(false).await.unwrap();
    assert_eq!(
        names(&rig.state.escalations_due(at(0), 9).await.unwrap()),
        ["retries"]
    );
    rig.state.reschedule_escalations(true).await.unwrap();
    assert_eq!(
        rig.state.escalations_due(at(0), 9).await.unwrap().len(),
        2,
        "without a grant there is no escalation"
    );
    assert_eq!(rig.state.escalations_due(at(0), 1).await.unwrap().len(), 1);
}
