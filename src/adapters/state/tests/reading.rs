//! SQLite's read paths: the second connection, and the indexes of frequent queries.

use super::*;

#[tokio::test]
async fn pages_follow_the_names_and_both_ways_to_read_agree() {
    let rig = Rig::with(&["b", "a", "d", "c"]).await;
    let view = ReadConnection::open(&rig.path()).unwrap();
    let mut read = PortalCursor::default();
    assert_eq!(
        names(&view.next_page(&mut read).unwrap().unwrap()),
        ["a", "b", "c", "d"]
    );
    assert!(view.next_page(&mut read).is_none());
    assert_eq!(pages_of(rig.state.portals()).await, [["a", "b", "c", "d"]]);
    assert!(view.portal(&name("d")).unwrap().is_some());
    assert!(view.portal(&name("e")).unwrap().is_none());
}

/// SQLite's plan of a query.
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
            "SEARCH portal USING INDEX portal_due (token_url=? AND next_attempt_at>? AND next_attempt_at<?)",
        ),
        (
            claims::next_query(),
            "SEARCH portal USING INDEX portal_due (token_url=? AND next_attempt_at>?)",
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
            "SEARCH portal USING INDEX portal_notified (name>?)",
        ),
        (
            listing::escalation_query(),
            "SEARCH portal USING INDEX portal_escalation (escalate_at<?)",
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
