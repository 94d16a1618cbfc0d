//! Census and listings.

use super::*;

pub async fn the_census_counts_kinds_and_what_is_overdue<E: Engine>() {
    let rig = Rig::<E>::with(&["dropped", "late", "fresh"]).await;
    rig.configure(&["late", "fresh", "new"]).await;
    let portals = rig.claim(0, 9).await.portals;
    for portal in &portals {
        let outcome = if portal.name == name("fresh") {
            renewed("r2", 0)
        } else {
            retrying(9999)
        };
        rig.record(portal, 0, outcome).await;
    }
    let census = rig.state.census(at(0)).await.unwrap();
    let kinds = [
        Kind::Fresh,
        Kind::Retrying,
        Kind::AwaitingAuthorization,
        Kind::Unconfigured,
        Kind::Gone,
    ];
    assert_eq!(kinds.map(|kind| census.of(kind)), [1, 1, 1, 1, 0]);
    assert_eq!(census.total(), 4);
    // `late` was due at 0 and expires after an hour: 30 % of it are 1080 s. `fresh`: 1500 s + 30 % of 2100 s.
    for (secs, overdue) in [(1079, 0), (1080, 1), (2129, 1), (2130, 2)] {
        assert_eq!(
            rig.state.census(at(secs)).await.unwrap().overdue,
            overdue,
            "at {secs}"
        );
    }
}

pub async fn pages_follow_the_names_without_a_gap<E: Engine>() {
    let rig = Rig::<E>::with(&["b", "a", "d", "c"]).await;
    let threes = || rig.state.portals().in_pages_of(3);
    assert_eq!(pages_of(threes()).await, [vec!["a", "b", "c"], vec!["d"]]);
    assert_eq!(
        pages_of(threes().after(Some(name("bb")))).await,
        [vec!["c", "d"]]
    );
    let mut limited = threes().limit(2);
    let page = limited.next().await.unwrap().unwrap();
    assert_eq!(
        (names(&page.portals), page.next),
        (vec!["a".to_owned(), "b".to_owned()], Some(name("b")))
    );
    assert!(limited.has_ended() && limited.next().await.unwrap().is_none());
}
