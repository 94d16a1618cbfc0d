//! Opening the SQLite state: the lock, the version, the tables. Must not change a state it does not understand.
//!
//! WAL with `synchronous=FULL`: a commit that returned survives a power cut. The schema version is `user_version`;
//! the migrations are in `migrations`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::StateError;
use super::file_names::beside;
use super::migrations::MIGRATIONS;
use crate::adapters::directory::{
    Directory, Make, NotOwnFile, Trust, UntrustedDirectory, named, parent,
};

/// "rfsd": says that a database is a refreshd state.
const APPLICATION_ID: i32 = 0x7266_7364;

/// The newest schema this program knows.
pub const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// The exclusive right to a state, held for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    trust: Trust,
}

impl Lock {
    /// Whose directories are trusted.
    pub(super) const fn trust(&self) -> &Trust {
        &self.trust
    }
}

/// Holder of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenure {
    /// A daemon, until it ends.
    Lasting,
    /// A command, for as long as its work takes: another process may wait for it.
    Brief,
}

/// Word that a brief holder writes beside its id.
const BRIEF: &str = "brief";

/// Content of a state file's header, read without touching it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// There is none yet.
    Absent,
    /// A refreshd state of this schema version.
    Version(usize),
}

/// Takes the lock beside the state, to keep it; the error of a second process names the holder.
///
/// # Errors
/// [`StateError::Locked`] with the holder's process id, or [`StateError::File`].
pub fn lock(state: &Path) -> Result<Lock, StateError> {
    lock_as(state, Tenure::Lasting, &Trust::default())
}

/// As [`lock`], for so long, in a directory whose owner is trusted. It is made where it is not there.
///
/// # Errors
/// As [`lock`], or [`StateError::Directory`].
pub fn lock_as(state: &Path, tenure: Tenure, trust: &Trust) -> Result<Lock, StateError> {
    let path = lock_path(state);
    let make = Make {
        mode: 0o700,
        above: 0o700,
    };
    let directory = match Directory::open_trusted(parent(state), trust, Some(make)) {
        Err(UntrustedDirectory::Io { path, source }) => {
            return Err(StateError::file("open the directory", &path, source));
        }
        opened => opened.map_err(StateError::Directory)?,
    };
    for suffix in FILES {
        check_file(&directory, &beside(state, suffix))?;
    }
    let mut file = open_or_make(&directory, &path)
        .map_err(|source| cannot_open("open the lock", &path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(is_locked(state, &mut file)),
        Err(TryLockError::Error(source)) => return Err(StateError::file("lock", &path, source)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| match tenure {
            Tenure::Lasting => writeln!(file, "{}", std::process::id()),
            Tenure::Brief => writeln!(file, "{} {BRIEF}", std::process::id()),
        });
    // A full disk must not keep the daemon from serving the tokens it has; the lock itself is held already.
    if let Err(source) = written
        && source.kind() != std::io::ErrorKind::StorageFull
    {
        return Err(StateError::file("write the lock", &path, source));
    }
    Ok(Lock {
        _file: file,
        trust: trust.clone(),
    })
}

/// Checks that the lock is free, and creates nothing. It is held for the moment of the check, which a start that meets it
/// waits out.
///
/// # Errors
/// [`StateError::Locked`] with the holder's process id, or [`StateError::File`].
pub(super) fn is_free(state: &Path) -> Result<(), StateError> {
    let path = lock_path(state);
    let mut file = match open_to_read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(StateError::file("open the lock", &path, source)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(is_locked(state, &mut file)),
        Err(TryLockError::Error(source)) => Err(StateError::file("lock", &path, source)),
    }
}

/// The holder, by the lock's file.
fn is_locked(state: &Path, file: &mut File) -> StateError {
    let mut holder = String::new();
    // The holder may be about to write its id; without one the message still names the file.
    let _ = file.read_to_string(&mut holder);
    let mut words = holder.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    StateError::Locked {
        path: state.to_owned(),
        holder: pid,
        is_brief: words.next() == Some(BRIEF),
    }
}

/// Suffixes of the files beside a state that must be refreshd's own. Not the record of generations: it is
/// opened through no link either, and without it everything goes on.
const FILES: [&str; 5] = ["", "-wal", "-shm", "-journal", ".lock"];

/// Checks that a file of the state is refreshd's own: no link and no pipe.
fn check_file(directory: &Directory, path: &Path) -> Result<(), StateError> {
    let Some(name) = path.file_name() else {
        return Err(StateError::NotOurs {
            path: path.to_owned(),
        });
    };
    match directory.check_file(name) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(StateError::Trap {
            path: path.to_owned(),
            why,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StateError::file("look at", path, source)),
    }
}

/// Sees that the files of a state are refreshd's own, as a start does, and makes nothing.
///
/// # Errors
/// [`StateError::Trap`], or [`StateError::File`].
pub fn check_files(state: &Path) -> Result<(), StateError> {
    let directory = match Directory::open(parent(state)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|source| StateError::file("open", parent(state), source))?,
    };
    FILES
        .iter()
        .try_for_each(|suffix| check_file(&directory, &beside(state, suffix)))
}

/// Takes the files of a state from all but their owner: those that others could read, each with the mode that it had. The
/// caller holds the [`Lock`], and has nothing of it open: SQLite's locks end with any descriptor.
#[must_use]
pub fn close_to_others(state: &Path, _: &Lock) -> Vec<(PathBuf, u32)> {
    let Ok(directory) = Directory::open(parent(state)) else {
        return Vec::new();
    };
    let closed = |suffix: &&str| {
        let path = beside(state, suffix);
        // What may not be changed is as it was: that is no reason not to renew.
        let mode = directory.close_to_others(path.file_name()?).ok()??;
        Some((path, mode))
    };
    FILES.iter().filter_map(closed).collect()
}

/// Oddities of a state's files that a start by their owner accepts: for `check`.
#[must_use]
pub fn oddities(state: &Path) -> Vec<String> {
    let owner = std::fs::metadata(parent(state)).map(|found| found.uid());
    let odd = |suffix: &&str| {
        let path = beside(state, suffix);
        let found = std::fs::symlink_metadata(&path).ok()?;
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = path.display();
            return Some(format!(
                "state: {path} is open to others (mode {mode:04o}): chmod 600 it, or the next start does"
            ));
        }
        // As after a restore by the superuser: who has the directory cannot open the file.
        let is_roots = found.uid() == 0 && owner.as_ref().is_ok_and(|owner| *owner != 0);
        is_roots.then(|| {
            let path = path.display();
            format!("state: {path} belongs to root, and its directory does not: give it to refreshd's user (chown)")
        })
    };
    FILES.iter().filter_map(odd).collect()
}

/// A file that could not be opened; whose it is, where that is why.
fn cannot_open(stage: &'static str, path: &Path, source: std::io::Error) -> StateError {
    let is_denied = source.kind() == std::io::ErrorKind::PermissionDenied;
    match std::fs::symlink_metadata(path) {
        Ok(found) if is_denied && found.uid() != rustix::process::geteuid().as_raw() => {
            StateError::Denied {
                path: path.to_owned(),
                owner: named(found.uid()),
            }
        }
        _ => StateError::file(stage, path, source),
    }
}

/// Opens a file for reading and writing, or makes it for its owner alone. A link is not followed.
fn open_or_make(directory: &Directory, path: &Path) -> std::io::Result<File> {
    let name = path
        .file_name()
        .ok_or(std::io::ErrorKind::InvalidFilename)?;
    directory.open_or_make(name, 0o600)
}

fn lock_path(state: &Path) -> PathBuf {
    beside(state, ".lock")
}

/// Opens a file for reading. A link is not followed, and a pipe not waited for.
fn open_to_read(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Reads the database's own header, without SQLite, so that nothing is created or recovered.
///
/// # Errors
/// [`StateError::NotOurs`], [`StateError::Newer`] or [`StateError::File`].
pub fn inspect(path: &Path) -> Result<Header, StateError> {
    let mut header = Vec::new();
    match open_to_read(path) {
        Ok(file) if file.metadata().is_ok_and(|found| !found.is_file()) => {
            return Err(StateError::Trap {
                path: path.to_owned(),
                why: NotOwnFile::Kind,
            });
        }
        Ok(file) => {
            let read = file.take(100).read_to_end(&mut header);
            read.map_err(|source| StateError::file("read", path, source))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Header::Absent),
        Err(source) => return Err(cannot_open("open", path, source)),
    }
    if header.is_empty() {
        return Ok(Header::Absent);
    }
    let number = |at: usize| {
        header
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(i32::from_be_bytes)
    };
    let (Some(version), Some(application)) = (number(60), number(68)) else {
        return Err(StateError::NotOurs {
            path: path.to_owned(),
        });
    };
    if !header.starts_with(b"SQLite format 3\0")
        || (application, version) != (APPLICATION_ID, version.max(0))
    {
        // A crash right after creation leaves the schema in the write-ahead log only: then its cookie is zero, which
        // it is in no other database that has a table.
        let fresh = header.starts_with(b"SQLite format 3\0")
            && (application, version) == (0, 0)
            && number(40) == Some(0);
        return if fresh {
            Ok(Header::Absent)
        } else {
            Err(StateError::NotOurs {
                path: path.to_owned(),
            })
        };
    }
    let version = usize::try_from(version).unwrap_or_default();
    if version > SCHEMA_VERSION {
        return Err(StateError::Newer {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok(Header::Version(version))
}

/// Opens the state for writing and brings its schema up to date. The caller holds the [`Lock`].
///
/// # Errors
/// The errors of [`inspect`], [`StateError::Damaged`], or [`StateError::Sql`].
pub fn open(path: &Path) -> Result<Connection, StateError> {
    inspect(path)?;
    let created =
        Directory::open(parent(path)).and_then(|directory| open_or_make(&directory, path));
    created.map_err(|source| cannot_open("open", path, source))?;
    let sql = |stage: &'static str| move |source| StateError::sql(stage, source);
    let mut connection =
        connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql("open the state"))?;
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .map_err(sql("open the state"))?;
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
             PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 4000; PRAGMA secure_delete = ON;",
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

/// Checks that every byte of the state can be read.
fn readable(path: &Path) -> Result<(), StateError> {
    let read = File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    read.map(|_| ())
        .map_err(|source| StateError::file("read", path, source))
}

/// A disk that is full or fails is not a damaged state: what it holds is whole, and no backup is needed.
pub(super) fn unreadable(path: &Path, source: rusqlite::Error) -> StateError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StateError::Damaged {
            path: path.to_owned(),
            detail: source.to_string(),
        },
        // The lock's file was deleted: SQLite has a lock of its own.
        Some(ErrorCode::DatabaseBusy) => StateError::Locked {
            path: path.to_owned(),
            holder: None,
            is_brief: false,
        },
        _ => StateError::sql("open the state; is its disk full or failing?", source),
    }
}

/// Reads all of a database, up to the first damage.
pub(super) fn quick_check(path: &Path, connection: &Connection) -> Result<(), StateError> {
    let check: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => unreadable(path, source),
            _ => StateError::sql("check the state", source),
        })?;
    if check == "ok" {
        Ok(())
    } else {
        Err(found(path, check))
    }
}

/// Error for a check's finding. A page that could not be read is a finding too; its error code gives the cause:
/// the last byte is SQLite's primary one.
pub(super) fn found(path: &Path, detail: String) -> StateError {
    let code = detail
        .rsplit_once("error code=")
        .and_then(|(_, code)| code.trim().parse::<i32>().ok());
    let primary = code.map(|code| rusqlite::ffi::Error::new(code & 0xff).code);
    if primary.is_some_and(|code| code != ErrorCode::DatabaseCorrupt) {
        return StateError::file("read", path, std::io::Error::other(detail));
    }
    StateError::Damaged {
        path: path.to_owned(),
        detail,
    }
}

/// As [`inspect`], with what the write-ahead log adds to the file: it may hold a newer schema than the header shows.
pub(super) fn recognise(path: &Path, connection: &Connection) -> Result<(), StateError> {
    let number = |query| connection.query_row(query, [], |row| row.get::<_, i64>(0));
    let numbers = || {
        Ok((
            number("PRAGMA application_id")?,
            number("PRAGMA user_version")?,
        ))
    };
    let sql = |source| StateError::sql("open the state", source);
    let (application, version) = numbers().map_err(sql)?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(sql)?;
    let ours = application == i64::from(APPLICATION_ID) && version > 0;
    if !ours && (application, version, tables) != (0, 0, 0) {
        return Err(StateError::NotOurs {
            path: path.to_owned(),
        });
    }
    let found = usize::try_from(version).unwrap_or_default();
    if found > SCHEMA_VERSION {
        return Err(StateError::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
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
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .map_err(sql)?;
    // The last connection that closes would remove the log, and its room on a full disk with it.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(sql)?;
    // Pages lie in the system's cache as well; a copy of the many in each connection is memory for nothing.
    connection
        .pragma_update(None, "cache_size", -512)
        .map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or_default();
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(
        None,
        "user_version",
        i64::try_from(SCHEMA_VERSION).unwrap_or_default(),
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    if connection.path().is_none_or(str::is_empty) {
        return Ok(());
    }
    // `inspect` reads the file's header, so the version must not stay behind in the write-ahead log.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
