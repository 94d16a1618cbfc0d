//! Invalid rows: left alone, named and counted, without effect on the other portals.

use super::*;

/// Portals with a damaged row: the name, the reported column, and the damaged part.
const SPOILT: [(&str, &str, Part); 7] = [
    ("details", "details", Part::Details),
    ("phase", "phase", Part::Phase),
    ("problem", "problem", Part::Problem),
    ("attempt", "attempt", Part::Attempt),
    ("bound", "bound_to", Part::BoundTo),
    ("unbound", "bound_to", Part::Bindings),
    ("settings", "settings", Part::Settings),
];

impl<E: Engine> Rig<E> {
    /// Valid portals among damaged ones, all due, the damaged ones first.
    async fn spoilt() -> Self {
        let good = ["acme", "zorg"];
        let rig = Self::new().await;
        let damaged = SPOILT.iter().map(|(name, ..)| *name);
        rig.configure(&damaged.chain(good).collect::<Vec<_>>())
            .await;
        for portal in good {
            rig.take(portal, portal, HOUR).await;
        }
        for (portal, _, part) in SPOILT {
            rig.take(portal, portal, 1).await;
            rig.engine.spoil(Spoiled::Row(portal, part));
        }
        rig
    }
}

pub async fn the_others_are_listed_and_each_says_what_is_wrong_with_it<E: Engine>() {
    let rig = Rig::<E>::spoilt().await;
    for row in ["../../etc", "", "zz top"] {
        rig.engine.spoil(Spoiled::RowWithoutName(row));
    }
    let page = rig.state.first_portals(100).await.unwrap();
    assert_eq!(page.len(), SPOILT.len() + 2, "{:?}", names(&page));
    let ones = pages_of(rig.state.portals().in_pages_of(1)).await;
    assert_eq!(
        ones.concat(),
        names(&page),
        "a row without a name ended the listing"
    );
    for (name, column, _) in SPOILT {
        let portal = rig.portal(name).await;
        assert_eq!(
            (portal.kind(), portal.unreadable),
            (Kind::Unreadable, Some(column)),
            "{name}"
        );
    }
    assert_eq!(rig.portal("acme").await.kind(), Kind::Fresh);
    assert_eq!(
        rig.state.escalations_due(at(1), 100).await.unwrap().len(),
        SPOILT.len() + 2
    );
    let mut unnamed = rig.state.quarantine_unnamed().await.unwrap();
    unnamed.sort();
    assert_eq!(unnamed, ["", "../../etc", "zz top"]);
}

pub async fn they_are_claimed_once_held_and_counted_and_the_others_are_claimed<E: Engine>() {
    let rig = Rig::<E>::spoilt().await;
    let (mut claimed, mut unreadable) = (Vec::new(), Vec::new());
    // Less capacity than damaged rows, which expire first.
    for _ in 0..SPOILT.len() {
        let claims = rig.claim(0, 2).await;
        claimed.extend(names(&claims.portals));
        unreadable.extend(names(&claims.unreadable));
    }
    claimed.sort();
    unreadable.sort();
    assert_eq!(claimed, ["acme", "zorg"]);
    // A portal without a client is not due in the first place.
    let mut due: Vec<_> = SPOILT
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| !name.ends_with("bound"))
        .collect();
    due.sort_unstable();
    assert_eq!(unreadable, due, "each once");
    assert_eq!(
        rig.state.census(at(0)).await.unwrap().of(Kind::Unreadable),
        due.len() as u64
    );
    assert_eq!(
        rig.state.orphans().await.unwrap().len(),
        2,
        "they keep no claim"
    );
    assert_eq!(
        rig.state
            .request_renewal(name("details"), at(1))
            .await
            .unwrap(),
        RenewalRequest::NoGrant
    );
}

pub async fn a_new_grant_mends_a_row_and_the_configuration_its_settings<E: Engine>() {
    let rig = Rig::<E>::spoilt().await;
    let spoilt: Vec<_> = SPOILT.iter().map(|(name, ..)| *name).collect();
    rig.claim(0, 100).await;
    rig.configure(&spoilt).await;
    for name in spoilt {
        assert_eq!(
            rig.take(name, &format!("new {name}"), HOUR).await,
            StoreOutcome::Stored(Generation(2))
        );
        assert_eq!(rig.portal(name).await.kind(), Kind::Fresh, "{name}");
    }
    rig.engine.spoil(Spoiled::Row("acme", Part::Phase));
    assert!(rig.state.forget(name("acme")).await.unwrap());
}

pub async fn what_was_told_is_not_worth_a_grant<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.engine.spoil(Spoiled::Row("acme", Part::Notified));
    assert_eq!(pages_of(rig.state.troubled()).await.concat().len(), 1);
    let claimed = rig.claim_only(0).await;
    assert_eq!(
        rig.record(&claimed, 0, renewed("r2", 0)).await,
        generation(2)
    );
}

pub async fn an_unknown_phase_does_not_stop_the_following_of_configuration_and_clock<E: Engine>() {
    let rig = Rig::<E>::spoilt().await;
    let mut portals: Vec<_> = SPOILT.iter().map(|(name, ..)| configured(name)).collect();
    for portal in &mut portals {
        portal.every = RenewSetting::AgeMillis(900_000);
    }
    assert_eq!(
        rig.follow(portals).await,
        PortalChanges {
            added: 0,
            changed: SPOILT.len(),
            dropped: 2
        }
    );
    rig.state.shift_times(-5000).await.unwrap();
    rig.state.adjust_clock(at(0), 5000).await.unwrap();
    rig.state.reschedule_escalations(true).await.unwrap();
}
