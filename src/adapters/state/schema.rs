//! Opening the SQLite state: the lock, the version, the tables. Must not change a state it does not understand.
//!
//! WAL with `synchronous=FULL`: a commit that returned survives a power cut. The schema version is `user_version`;
//! a migration is one more entry in [`MIGRATIONS`], and a released one never changes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StateError;

/// "rfsd": says that a database is a refreshd state.
const APPLICATION_ID: i32 = 0x7266_7364;

/// Each brings the schema from its index to the next version.
const MIGRATIONS: &[&str] = &["
CREATE TABLE portal (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    -- what the configuration says
    configured  INTEGER NOT NULL DEFAULT 0,
    app         TEXT NOT NULL DEFAULT '',
    settings    TEXT,                       -- JSON of domain::settings::Settings
    every       TEXT,                       -- JSON of domain::settings::RenewSetting
    config_url  TEXT,
    binding     BLOB,
    -- the grant; there is one where refresh_token is not null. The generation stays after `forget`.
    generation  INTEGER NOT NULL DEFAULT 0,
    refresh_token TEXT,
    fingerprint BLOB,
    access_token TEXT,
    token_type  TEXT,
    issued_at   INTEGER,                    -- all times in milliseconds since the epoch
    expires_at  INTEGER,
    details     TEXT,                       -- JSON of domain::token::Details
    identity    TEXT,
    bound_to    BLOB,
    token_url   TEXT,
    renewed_at  INTEGER,
    -- where it stands
    phase       TEXT,
    attempt     INTEGER NOT NULL DEFAULT 0,
    since       INTEGER,
    problem     TEXT,                       -- JSON of domain::portal::Problem
    doubtful    INTEGER NOT NULL DEFAULT 0, -- rejected while in doubt
    renew_at    INTEGER,
    act_at      INTEGER,
    -- the ladder
    told        TEXT NOT NULL DEFAULT '[]', -- JSON array of step names
    climb_at    INTEGER,
    -- the durable intent to spend this generation
    claim       INTEGER,
    claimed_at  INTEGER,                    -- of the claim, or of the last one
    kind TEXT NOT NULL GENERATED ALWAYS AS (CASE
        WHEN configured = 0 THEN 'unconfigured'
        WHEN refresh_token IS NULL THEN 'awaiting-authorization'
        WHEN bound_to IS NOT binding THEN 'client-changed'
        ELSE phase END) VIRTUAL
) STRICT;
CREATE INDEX portal_due ON portal (token_url, act_at, expires_at, app)
    WHERE act_at IS NOT NULL AND claim IS NULL AND configured = 1 AND bound_to = binding;
CREATE INDEX portal_climb ON portal (climb_at) WHERE climb_at IS NOT NULL;
CREATE INDEX portal_kind ON portal (kind) WHERE kind <> 'fresh';
CREATE INDEX portal_claimed ON portal (claim) WHERE claim IS NOT NULL;
CREATE INDEX portal_fingerprint ON portal (fingerprint);
CREATE INDEX portal_told ON portal (told) WHERE told <> '[]';
CREATE INDEX portal_renew ON portal (renew_at, expires_at) WHERE configured = 1 AND refresh_token IS NOT NULL;

-- Refresh tokens that came from outside, so that the same grant is never taken in twice.
CREATE TABLE seen (fingerprint BLOB PRIMARY KEY, portal TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Clients: a fingerprint of what they are, and whether the server refuses them.
CREATE TABLE app (
    name        TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    rejected_since INTEGER,
    retry_at    INTEGER
) STRICT, WITHOUT ROWID;

-- Pairs that came too late or for somebody else: never used, never lost.
CREATE TABLE aside (
    id INTEGER PRIMARY KEY, portal TEXT NOT NULL, at INTEGER NOT NULL, why TEXT NOT NULL,
    access_token TEXT, refresh_token TEXT, identity TEXT
) STRICT;
", "
-- Four bytes of a fingerprint find it as well as all 32, and every renewal writes far fewer of the index's pages.
DROP INDEX portal_fingerprint;
CREATE INDEX portal_fingerprint ON portal (substr(fingerprint, 1, 4));
-- Before the first release it held the many fresh portals too.
DROP INDEX portal_kind;
CREATE INDEX portal_kind ON portal (kind) WHERE kind <> 'fresh';
", "
-- Troubled portals, page by page.
DROP INDEX portal_told;
CREATE INDEX portal_told ON portal (name) WHERE told <> '[]';
-- What people were told, as JSON of domain::incident::Incident.
CREATE TABLE incident (key TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- What they are still to be told, as JSON of domain::message::Message; the ids are in the order of telling.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY, channel TEXT NOT NULL, first INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
-- What they do not want to hear until then: of a portal, or '*': of anything.
CREATE TABLE silence (subject TEXT PRIMARY KEY, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- When what is done once in a while was done last.
CREATE TABLE mark (name TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
", "
-- What authorization servers said of themselves (RFC 8414), as they wrote it.
CREATE TABLE metadata (issuer TEXT PRIMARY KEY, body BLOB NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
", "
-- The app whose install made the portal (null: the configuration did), at which member, and whose the grant is.
ALTER TABLE portal ADD COLUMN installed_by TEXT;
ALTER TABLE portal ADD COLUMN member_id TEXT;
ALTER TABLE portal ADD COLUMN user_id TEXT;
CREATE INDEX portal_member ON portal (member_id) WHERE member_id IS NOT NULL;
CREATE INDEX portal_listed ON portal (app) WHERE installed_by IS NULL;
-- What is known of an app at a member: the proof of its events, and when it came and went, by the events' own clock.
CREATE TABLE installation (
    binding BLOB NOT NULL, member_id TEXT NOT NULL, application_token TEXT, installed_at INTEGER,
    uninstalled_at INTEGER, installer TEXT, PRIMARY KEY (binding, member_id)
) STRICT, WITHOUT ROWID;
"];

/// The newest schema this program knows.
pub const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// The exclusive right to a state, held for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What can be told of a state file without touching it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// There is none yet.
    Absent,
    /// A refreshd state of this schema version.
    Version(usize),
}

/// Takes the lock beside the state; a second process is told who holds it.
///
/// # Errors
/// [`StateError::Locked`] with the holder's process id, or [`StateError::File`].
pub fn lock(state: &Path) -> Result<Lock, StateError> {
    let path = lock_path(state);
    if let Some(directory) = state.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| StateError::file("create the directory", directory, source))?;
    }
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = opened.map_err(|source| StateError::file("open the lock", &path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The holder may be about to write its id; without one the message still names the file.
            let _ = file.read_to_string(&mut holder);
            return Err(StateError::Locked { path: state.to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(StateError::file("lock", &path, source)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()));
    // A full disk must not keep the daemon from serving the tokens it has; the lock itself is held already.
    if let Err(source) = written
        && source.kind() != std::io::ErrorKind::StorageFull
    {
        return Err(StateError::file("write the lock", &path, source));
    }
    Ok(Lock { _file: file })
}

fn lock_path(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Reads the database's own header, without SQLite, so that nothing is created or recovered.
///
/// # Errors
/// [`StateError::NotOurs`], [`StateError::Newer`] or [`StateError::File`].
pub fn inspect(path: &Path) -> Result<Header, StateError> {
    let mut header = Vec::new();
    match File::open(path) {
        Ok(file) => {
            let read = file.take(100).read_to_end(&mut header);
            read.map_err(|source| StateError::file("read", path, source))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Header::Absent),
        Err(source) => return Err(StateError::file("open", path, source)),
    }
    if header.is_empty() {
        return Ok(Header::Absent);
    }
    let number =
        |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    let (Some(version), Some(application)) = (number(60), number(68)) else {
        return Err(StateError::NotOurs { path: path.to_owned() });
    };
    if !header.starts_with(b"SQLite format 3\0") || (application, version) != (APPLICATION_ID, version.max(0))
    {
        // A crash right after creation leaves the schema in the write-ahead log only: then its cookie is zero, which
        // it is in no other database that has a table.
        let fresh = header.starts_with(b"SQLite format 3\0")
            && (application, version) == (0, 0)
            && number(40) == Some(0);
        return if fresh { Ok(Header::Absent) } else { Err(StateError::NotOurs { path: path.to_owned() }) };
    }
    let version = usize::try_from(version).unwrap_or_default();
    if version > SCHEMA_VERSION {
        return Err(StateError::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    Ok(Header::Version(version))
}

/// Opens the state for writing and brings its schema up to date. The caller holds the [`Lock`].
///
/// # Errors
/// What [`inspect`] says, [`StateError::Damaged`], or [`StateError::Sql`].
pub fn open(path: &Path) -> Result<Connection, StateError> {
    inspect(path)?;
    let created = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    created.map_err(|source| StateError::file("open", path, source))?;
    let sql = |stage: &'static str| move |source| StateError::sql(stage, source);
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql("open the state"))?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sql("open the state"))?;
    // A state that is refused stays as it is: closing it would move its write-ahead log into it.
    let keep_log = |connection: &Connection, keep| {
        let set = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep);
        set.map(|_| ()).map_err(sql("open the state"))
    };
    keep_log(&connection, true)?;
    let quick_check = || connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    let check: String = quick_check().or_else(|first| match first.sqlite_error_code() {
        // A page of the schema that could not be read looks damaged, too: the disk has the last word.
        Some(ErrorCode::DatabaseCorrupt) => {
            readable(path)?;
            quick_check().map_err(|source| unreadable(path, source))
        }
        _ => Err(unreadable(path, first)),
    })?;
    if check != "ok" {
        return Err(found(path, check));
    }
    recognise(path, &connection)?;
    keep_log(&connection, false)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
             PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 4000;",
        )
        .map_err(sql("prepare the state"))?;
    migrate(&mut connection).map_err(sql("bring the state's schema up to date"))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// "unix-excl": SQLite keeps the log's index in memory, not in a file beside it. A full disk could refuse that file at a
/// start, or end the process by SIGBUS in the midst of it; and no other process may have the state anyway.
fn connect(path: &Path, mode: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags_and_vfs(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX, c"unix-excl")
}

/// Whether every byte of the state can be read.
fn readable(path: &Path) -> Result<(), StateError> {
    let read = File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    read.map(|_| ()).map_err(|source| StateError::file("read", path, source))
}

/// A disk that is full or fails is not a damaged state: what it holds is whole, and no backup is needed.
fn unreadable(path: &Path, source: rusqlite::Error) -> StateError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StateError::Damaged { path: path.to_owned(), detail: source.to_string() }
        }
        _ => StateError::sql("open the state; is its disk full or failing?", source),
    }
}

/// What a check found. A page that could not be read is a finding too, and says by its error code what was in the way:
/// the last byte is SQLite's primary one.
fn found(path: &Path, detail: String) -> StateError {
    let code = detail.rsplit_once("error code=").and_then(|(_, code)| code.trim().parse::<i32>().ok());
    let primary = code.map(|code| rusqlite::ffi::Error::new(code & 0xff).code);
    if primary.is_some_and(|code| code != ErrorCode::DatabaseCorrupt) {
        return StateError::file("read", path, std::io::Error::other(detail));
    }
    StateError::Damaged { path: path.to_owned(), detail }
}

/// As [`inspect`], with what the write-ahead log adds to the file: it may hold a newer schema than the header shows.
fn recognise(path: &Path, connection: &Connection) -> Result<(), StateError> {
    let number = |query| connection.query_row(query, [], |row| row.get::<_, i64>(0));
    let numbers = || Ok((number("PRAGMA application_id")?, number("PRAGMA user_version")?));
    let sql = |source| StateError::sql("open the state", source);
    let (application, version) = numbers().map_err(sql)?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(sql)?;
    let ours = application == i64::from(APPLICATION_ID) && version > 0;
    if !ours && (application, version, tables) != (0, 0, 0) {
        return Err(StateError::NotOurs { path: path.to_owned() });
    }
    let found = usize::try_from(version).unwrap_or_default();
    if found > SCHEMA_VERSION {
        return Err(StateError::Newer { path: path.to_owned(), found, known: SCHEMA_VERSION });
    }
    Ok(())
}

/// Opens a second connection that only reads.
///
/// # Errors
/// [`StateError::Sql`].
pub fn open_reader(path: &Path) -> Result<Connection, StateError> {
    let sql = |source| StateError::sql("open the state for reading", source);
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sql)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sql)?;
    // Whoever closes last would take the log away, and its room on a full disk with it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql)?;
    // Pages lie in the system's cache as well; a copy of the many in each connection is memory for nothing.
    connection.pragma_update(None, "cache_size", -512).map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or_default();
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", i64::try_from(SCHEMA_VERSION).unwrap_or_default())?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    // `inspect` reads the file's header, so the version must not stay behind in the write-ahead log.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
