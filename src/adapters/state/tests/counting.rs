//! Counts and pages, and that they and the claims come from an index.

use super::*;

#[tokio::test]
async fn the_census_counts_kinds_and_what_is_overdue() {
    let rig = Rig::with(&["dropped", "late", "fresh"]).await;
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

#[tokio::test]
async fn pages_follow_the_names_and_both_ways_to_read_agree() {
    let rig = Rig::with(&["b", "a", "d", "c"]).await;
    let view = ReadConnection::open(&rig.path()).unwrap();
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
    let mut read = PortalCursor::default();
    assert_eq!(
        names(&view.next_page(&mut read).unwrap().unwrap()),
        ["a", "b", "c", "d"]
    );
    assert!(view.next_page(&mut read).is_none());
    assert!(view.portal(&name("d")).unwrap().is_some());
    assert!(view.portal(&name("e")).unwrap().is_none());
}

/// How SQLite would carry it out.
fn plan(connection: &rusqlite::Connection, query: &str) -> String {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
        .unwrap();
    let mut rows = statement.raw_query();
    let mut plan = String::new();
    while let Some(row) = rows.next().unwrap() {
        plan += &row.get::<_, String>(3).unwrap();
        plan.push('\n');
    }
    plan
}

#[tokio::test]
async fn what_runs_often_uses_an_index() {
    let rig = Rig::with(&["a"]).await;
    let connection = schema::open_reader(&rig.path()).unwrap();
    for (query, uses) in [
        (
            claims::due_query(),
            "SEARCH portal USING INDEX portal_due (token_url=? AND act_at>? AND act_at<?)",
        ),
        (
            claims::next_query(),
            "SEARCH portal USING INDEX portal_due (token_url=? AND act_at>?)",
        ),
        (
            listing::KINDS.to_owned(),
            "SCAN portal USING INDEX portal_kind",
        ),
        (
            listing::PAST_DUE.to_owned(),
            "SEARCH portal USING INDEX portal_renew (renew_at<?)",
        ),
        (
            listing::page_query(),
            "SEARCH portal USING INDEX sqlite_autoindex_portal_1 (name>?)",
        ),
        (
            listing::troubled_query(),
            "SEARCH portal USING INDEX portal_told (name>?)",
        ),
        (
            listing::escalation_query(),
            "SEARCH portal USING INDEX portal_climb (climb_at<?)",
        ),
        (
            holders::HOLDER.to_owned(),
            "SEARCH portal USING INDEX portal_fingerprint (<expr>=?)",
        ),
    ] {
        let plan = plan(&connection, &query);
        assert!(plan.contains(uses), "{query}\n{plan}");
    }
    let pages = plan(&connection, &listing::page_query());
    assert!(!pages.contains("TEMP B-TREE"), "{pages}");
}
