//! The state as a file: permissions, refusals without a change, and files of an older refreshd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rusqlite::Connection;

use super::*;
use crate::adapters::state::conformance::installs::{proven, removal, terms};
use crate::domain::install::Users;

/// An unknown version.
const NEWER: i64 = SCHEMA_VERSION as i64 + 1;

/// A state with two grants as stored by each schema version. Once released they never change: a version that cannot read them
/// would lose every user every grant.
const VERSIONS: [&str; SCHEMA_VERSION] = [
    include_str!("../../../../tests/fixtures/state-v1.sql"),
    include_str!("../../../../tests/fixtures/state-v2.sql"),
    include_str!("../../../../tests/fixtures/state-v3.sql"),
    include_str!("../../../../tests/fixtures/state-v4.sql"),
    include_str!("../../../../tests/fixtures/state-v5.sql"),
    include_str!("../../../../tests/fixtures/state-v6.sql"),
    include_str!("../../../../tests/fixtures/state-v7.sql"),
];

/// Every file of the directory with its bytes, except the lock, which is not the state's, SQLite's shared memory, and an empty
/// write-ahead log, which has no meaning.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .filter(|(name, _)| !name.ends_with(".lock") && !name.ends_with("-shm"))
        .filter(|(name, bytes)| !(name.ends_with("-wal") && bytes.is_empty()))
        .collect();
    files.sort();
    files
}

/// The reason for which a state is not opened; its files must be unchanged.
#[track_caller]
fn refusal(folder: &tempfile::TempDir) -> StateError {
    let before = contents(folder.path());
    let path = path_in(folder);
    let Err(error) = State::open(&path, lock(&path).unwrap()) else {
        panic!("it was opened")
    };
    assert!(
        contents(folder.path()) == before,
        "it was changed, and refused: {error}"
    );
    error
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's own files need not be written whole"
)]
fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::write(path, bytes).unwrap();
}

/// A directory with a database created by these statements, with its log if it has one.
fn database(statements: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(path_in(&folder)).unwrap();
    keep_log(&connection);
    connection.execute_batch(statements).unwrap();
    folder
}

fn keep_log(connection: &Connection) {
    let no_checkpoint = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(no_checkpoint, true).unwrap();
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_state() {
    let rig = Rig::new().await;
    let Err(StateError::Locked { path, holder, .. }) = lock(&rig.path()) else {
        panic!("locked twice")
    };
    assert_eq!((path, holder), (rig.path(), Some(std::process::id())));
    let text = lock(&rig.path()).unwrap_err().to_string();
    assert!(
        text.contains(&format!("(process {})", std::process::id())),
        "{text}"
    );
    let folder = rig.close().await;
    lock(&path_in(&folder)).unwrap();
}

#[tokio::test]
async fn others_cannot_read_the_state() {
    let rig = Rig::with(&["acme"]).await;
    let mut names = Vec::new();
    for entry in fs::read_dir(rig.engine.folder.path())
        .unwrap()
        .map(Result::unwrap)
    {
        let name = entry.file_name().into_string().unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
        names.push(name);
    }
    names.sort();
    // SQLite's index of the log would be a file that a full disk can refuse.
    assert_eq!(names, ["state.db", "state.db-wal", "state.db.lock"]);
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("new/state.db");
    drop(lock(&below).unwrap());
    assert_eq!(
        fs::metadata(folder.path().join("new"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
}

#[tokio::test]
async fn an_empty_or_half_created_state_is_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(inspect(&path_in(&folder)).unwrap(), Header::Absent);
    write(&path_in(&folder), "");
    assert_eq!(inspect(&path_in(&folder)).unwrap(), Header::Absent);
    let rig = Rig::open(folder);
    assert_eq!(
        inspect(&rig.path()).unwrap(),
        Header::Version(SCHEMA_VERSION)
    );
    // Ended between the first page and the schema.
    let half = database("PRAGMA journal_mode = WAL");
    assert_eq!(inspect(&path_in(&half)).unwrap(), Header::Absent);
    let rig = Rig::open(half);
    rig.configure(&["acme"]).await;
}

#[tokio::test]
async fn a_newer_state_is_refused_untouched() {
    let folder = Rig::with(&["acme"]).await.close().await;
    let connection = Connection::open(path_in(&folder)).unwrap();
    connection
        .pragma_update(None, "user_version", NEWER)
        .unwrap();
    drop(connection);
    let newer =
        |error| matches!(error, StateError::Newer { found, known, .. } if found == known + 1);
    assert!(newer(inspect(&path_in(&folder)).unwrap_err()));
    assert!(newer(refusal(&folder)));
    // Possibly only the write-ahead log shows it.
    let folder = Rig::with(&["acme"]).await.close().await;
    let connection = Connection::open(path_in(&folder)).unwrap();
    keep_log(&connection);
    connection
        .pragma_update(None, "user_version", NEWER)
        .unwrap();
    drop(connection);
    assert_eq!(
        inspect(&path_in(&folder)).unwrap(),
        Header::Version(SCHEMA_VERSION)
    );
    assert!(newer(refusal(&folder)));
}

#[test]
fn what_is_no_state_is_refused_untouched() {
    for statements in [
        "CREATE TABLE bookmarks (url TEXT)",
        "PRAGMA journal_mode = WAL; CREATE TABLE bookmarks (url TEXT)",
        "PRAGMA application_id = 1; CREATE TABLE bookmarks (url TEXT)",
        "PRAGMA user_version = 1; CREATE TABLE bookmarks (url TEXT)",
        "PRAGMA user_version = 1",
    ] {
        let error = refusal(&database(statements));
        assert!(
            matches!(error, StateError::NotOurs { .. }),
            "{statements}: {error}"
        );
    }
    let told_by_the_header = inspect(&path_in(&database("CREATE TABLE bookmarks (url TEXT)")));
    assert!(
        matches!(told_by_the_header, Err(StateError::NotOurs { .. })),
        "{told_by_the_header:?}"
    );
    for bytes in [
        "[apps.crm]\n".repeat(100),
        "x".to_owned(),
        format!("SQLite format 3\0{}", "x".repeat(200)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(&path_in(&folder), &bytes);
        let error = refusal(&folder);
        assert!(
            matches!(error, StateError::NotOurs { .. }),
            "{bytes:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_damaged_state_is_refused_untouched() {
    let folder = Rig::with(&["acme"]).await.close().await;
    let whole = fs::read(path_in(&folder)).unwrap();
    let mut scribbled = whole.clone();
    let from = whole.len() / 3;
    scribbled[from..from + 8192].fill(0xa5);
    for bytes in [
        &whole[..whole.len() / 2],
        &whole[..4096],
        &whole[..100],
        &scribbled[..],
    ] {
        write(&path_in(&folder), bytes);
        let error = refusal(&folder);
        assert!(
            matches!(error, StateError::Damaged { .. }),
            "{} bytes: {error}",
            bytes.len()
        );
    }
    write(&path_in(&folder), &whole);
    let rig = Rig::open(folder);
    assert_eq!(rig.claimed(0).await, ["acme"]);
}

#[tokio::test]
async fn a_state_of_every_version_stays_readable() {
    for (version, statements) in VERSIONS.iter().enumerate() {
        assert!(statements.contains(&format!("PRAGMA user_version = {};", version + 1)));
        stays_readable(Rig::open(database(statements))).await;
    }
}

/// The indexes of a state, as SQLite keeps them.
fn indexes(rig: &Rig) -> Vec<String> {
    let connection = Connection::open(rig.path()).unwrap();
    let query =
        "SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name";
    let mut statement = connection.prepare(query).unwrap();
    statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[tokio::test]
async fn an_older_state_gets_the_indexes_of_a_new_one() {
    let new = indexes(&Rig::new().await);
    for statements in &VERSIONS[..SCHEMA_VERSION - 1] {
        let rig = Rig::open(database(statements));
        assert_eq!(indexes(&rig), new);
        assert_eq!(
            inspect(&rig.path()).unwrap(),
            Header::Version(SCHEMA_VERSION)
        );
    }
}

async fn stays_readable(rig: Rig) {
    let done = rig
        .follow(vec![configured("acme"), configured("doubtful")])
        .await;
    assert_eq!(
        done,
        PortalChanges::default(),
        "its settings are read as they were written"
    );
    let census = rig.state.census(at(0)).await.unwrap();
    let kinds = [Kind::Fresh, Kind::InDoubt, Kind::Unconfigured];
    assert_eq!(
        (kinds.map(|kind| census.of(kind)), census.total()),
        ([1, 1, 1], 3)
    );

    let acme = rig.grant("acme").await;
    assert_eq!((refresh_of(&acme), acme.generation), ("r2", Generation(2)));
    assert_eq!(acme.identity, None);
    assert_eq!(acme.tokens.details.scope, ["crm"]);
    let access = acme.tokens.access.as_ref().unwrap();
    assert_eq!(
        (access.token.expose(), access.token_type.as_str()),
        ("access of r2", "Bearer")
    );
    assert_eq!((access.issued_at, access.expires_at), (at(0), at(HOUR)));
    assert_eq!(
        (&acme.status.phase, acme.status.next_attempt_at),
        (&Phase::Fresh, Some(at(1500)))
    );

    let doubtful = rig.grant("doubtful").await;
    let phase = Phase::InDoubt {
        attempt: 2,
        since: at(0),
        problem: problem(Class::InDoubt),
    };
    assert_eq!(
        (doubtful.status.phase, doubtful.notified),
        (phase, vec!["warning".to_owned()])
    );
    assert_eq!(names(&rig.state.orphans().await.unwrap()), ["doubtful"]);

    let seen = rig
        .state
        .holder_of_refresh_token(RefreshToken::new("acme").unwrap().fingerprint())
        .await
        .unwrap();
    assert_eq!(seen.as_deref(), Some("acme"));
    assert_eq!(rig.superseded().len(), 1);
    let claimed = rig.claim_only(1500).await;
    assert_eq!(
        rig.record(&claimed, 1500, renewed("r3", 1500)).await,
        generation(3)
    );
}

/// Portals and their generations in a snapshot.
fn seen(path: &Path) -> Vec<(String, u64)> {
    let Ok(SnapshotOutcome::Whole(copy)) = take_snapshot(path) else {
        panic!("not seen")
    };
    let (state, reader) = State::of_copy(copy);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut worker = tokio::task::JoinSet::new();
        worker.spawn(reader.serve());
        let portals = state.first_portals(100).await.unwrap();
        let generation =
            |portal: &Portal| portal.grant.as_ref().map_or(0, |grant| grant.generation.0);
        portals
            .iter()
            .map(|portal| (portal.name.to_string(), generation(portal)))
            .collect()
    })
}

#[test]
fn a_look_sees_what_lies_in_the_log_and_leaves_no_trace() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(seen(&path_in(&folder)), []);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let copy = tempfile::tempdir().unwrap();
    let folder = runtime.block_on(async {
        let rig = Rig::with(&["acme"]).await;
        rig.state
            .store_grant(grant("acme", "r1", HOUR))
            .await
            .unwrap();
        assert!(
            matches!(take_snapshot(&rig.path()), Err(StateError::Locked { .. })),
            "a process has it open"
        );
        // As after a kill: the pair is in the log only.
        for name in ["state.db", "state.db-wal"] {
            fs::copy(rig.engine.folder.path().join(name), copy.path().join(name)).unwrap();
        }
        rig.close().await
    });
    for folder in [&folder, &copy] {
        let before = contents(folder.path());
        assert_eq!(seen(&path_in(folder)), [("acme".to_owned(), 2)]);
        assert!(contents(folder.path()) == before);
    }
    // An older schema is brought up to date in the copy only.
    let old = database(VERSIONS[0]);
    let before = contents(old.path());
    assert!(!seen(&path_in(&old)).is_empty());
    assert!(contents(old.path()) == before);
    for (statements, is_newer) in [
        (format!("PRAGMA user_version = {NEWER};"), true),
        ("CREATE TABLE x (y);".to_owned(), false),
    ] {
        let folder = database(&format!(
            "PRAGMA application_id = {}; {statements}",
            if is_newer { 0x7266_7364 } else { 0 }
        ));
        match take_snapshot(&path_in(&folder)) {
            Err(StateError::Newer { .. }) => assert!(is_newer),
            Err(StateError::NotOurs { .. }) => assert!(!is_newer),
            _ => panic!("{statements}"),
        }
    }
}

#[tokio::test]
async fn the_stored_installs_of_an_older_refreshd_are_found_again() {
    let rig = Rig::open(database(VERSIONS[4]));
    rig.follow_with_installs(
        &["acme", "doubtful"],
        Some(terms("{domain}", Users::Installer)),
    )
    .await;
    assert_eq!(rig.portal("dropped").await.kind(), Kind::Fresh);
    let removal = removal("member of dropped", "proof", 10, 10);
    assert_eq!(rig.end(removal).await, proven(&[]));
}
