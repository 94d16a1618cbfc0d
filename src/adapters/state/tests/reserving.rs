//! Space for the outcomes of renewals: reserved before they start, and sufficient.

use super::*;

/// Pages in the log, and bytes of its file.
fn log(rig: &Rig) -> (i64, u64) {
    let connection = schema::open_reader(&rig.path()).unwrap();
    let used = connection
        .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))
        .unwrap();
    let file = rig.engine.folder.path().join("state.db-wal");
    (used, std::fs::metadata(file).unwrap().len())
}

/// A refresh token as long as signed ones are.
fn long(name: &str, turn: u32) -> String {
    format!("{turn}{name}{}", "x".repeat(4000))
}

#[tokio::test]
async fn the_records_of_everything_claimed_fit_into_the_log_as_the_claim_left_it() {
    let names: Vec<String> = (0..700).map(|number| format!("portal-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rig = Rig::with(&names).await;
    for (turn, secs) in [(1, 0), (2, 2000)] {
        let claims = rig.claim(secs, 256).await.portals;
        assert_eq!(claims.len(), 256);
        let (_, length) = log(&rig);
        for portal in &claims {
            rig.record(
                portal,
                secs,
                renewed(&long(portal.name.as_str(), turn), secs),
            )
            .await;
        }
        assert_eq!(
            log(&rig).1,
            length,
            "the log had to grow for what was under way"
        );
    }
}

#[tokio::test]
async fn there_is_room_before_the_claim_and_it_is_there_at_the_next_start() {
    let rig = Rig::with(&["acme", "globex"]).await;
    let portal = rig.claim_by_name("acme").await;
    let (used, length) = log(&rig);
    let room = (i64::try_from(length).unwrap() - 32) / 4120 - used;
    assert!(room >= 16 + 64, "room for {room} pages");
    rig.record(&portal, 0, renewed("r2", 0)).await;
    let folder = rig.close().await;
    let left = std::fs::read(folder.path().join("state.db-wal")).unwrap();
    assert!(
        left.len() >= 1_000_000 && left.iter().all(|byte| *byte == 0),
        "{} bytes",
        left.len()
    );
    // The log's content is in the database, which alone is backed up.
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(path_in(&folder), path_in(&other)).unwrap();
    assert_eq!(refresh_of(&Rig::open(other).grant("acme").await), "r2");
}
