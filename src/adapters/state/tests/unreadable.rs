//! Rows that cannot be understood: left alone, named and counted, and no other portal hears of it.

use rusqlite::Connection;

use super::*;

/// What spoils a row: by a word for it, the column that is complained of, and how.
const SPOILT: [(&str, &str, &str); 7] = [
    ("details", "details", "details = '{\"scope\": 7'"),
    ("phase", "phase", "phase = 'exalted'"),
    (
        "problem",
        "problem",
        "phase = 'retrying', since = 1, problem = 'oops'",
    ),
    ("attempt", "attempt", "attempt = -3"),
    ("bound", "bound_to", "bound_to = x'00'"),
    ("unbound", "bound_to", "bound_to = NULL, binding = NULL"),
    ("settings", "settings", "settings = '[]'"),
];

impl Rig {
    /// Changes rows behind the store's back.
    pub fn spoil(&self, sql: &str) {
        let connection = Connection::open(self.path()).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    /// Good portals among spoilt ones, all due, the spoilt ones first.
    async fn spoilt() -> Self {
        let names: Vec<_> = SPOILT
            .iter()
            .map(|(name, ..)| *name)
            .chain(["acme", "zorg"])
            .collect();
        let rig = Self::with(&names).await;
        for (name, _, how) in SPOILT {
            rig.spoil(&format!(
                "UPDATE portal SET {how}, expires_at = 1, climb_at = 1 WHERE name = '{name}'"
            ));
        }
        rig
    }
}

#[tokio::test]
async fn the_others_are_listed_and_each_says_what_is_wrong_with_it() {
    let rig = Rig::spoilt().await;
    rig.spoil("INSERT INTO portal (name) VALUES ('../../etc'), (''), ('zz top')");
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

#[tokio::test]
async fn they_are_claimed_once_held_and_counted_and_the_others_are_claimed() {
    let rig = Rig::spoilt().await;
    let (mut claimed, mut unreadable) = (Vec::new(), Vec::new());
    // Fewer places than spoilt rows, which expire first.
    for _ in 0..SPOILT.len() {
        let claims = rig.claim(0, 2).await;
        claimed.extend(names(&claims.portals));
        unreadable.extend(names(&claims.unreadable));
    }
    claimed.sort();
    unreadable.sort();
    assert_eq!(claimed, ["acme", "zorg"]);
    // Whoever has no client is not due in the first place.
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

#[tokio::test]
async fn a_new_grant_mends_a_row_and_the_configuration_its_settings() {
    let rig = Rig::spoilt().await;
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
    rig.spoil("UPDATE portal SET phase = 'exalted' WHERE name = 'acme'");
    assert!(rig.state.forget(name("acme")).await.unwrap());
}

#[tokio::test]
async fn what_was_told_is_not_worth_a_grant() {
    let rig = Rig::with(&["acme"]).await;
    rig.spoil("UPDATE portal SET told = 'gossip'");
    assert_eq!(pages_of(rig.state.troubled()).await.concat().len(), 1);
    let claimed = rig.claim_only(0).await;
    assert_eq!(
        rig.record(&claimed, 0, renewed("r2", 0)).await,
        generation(2)
    );
}

#[tokio::test]
async fn an_unknown_phase_does_not_stop_the_following_of_configuration_and_clock() {
    let rig = Rig::spoilt().await;
    let mut portals: Vec<_> = SPOILT.iter().map(|(name, ..)| configured(name)).collect();
    for portal in &mut portals {
        portal.every = RenewSetting::AgeMillis(900_000);
    }
    assert_eq!(
        rig.follow(portals).await,
        Reconciled {
            added: 0,
            changed: SPOILT.len(),
            dropped: 2
        }
    );
    rig.state.shift_times(-5000).await.unwrap();
    rig.state.adjust_clock(at(0), 5000).await.unwrap();
    rig.state.reschedule_escalations(true).await.unwrap();
}
