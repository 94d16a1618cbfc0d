//! Reads a state that no process has open, and leaves no trace: no file, no lock, no byte changed.
//!
//! The state is read in place, by a connection that takes no lock and keeps the log's index in its own memory, into a copy in
//! memory. A daemon may start meanwhile and is not blocked: then the files change, or their lock is taken, and the copy is
//! discarded. Must not be used for a decision that is carried out: only the file is authoritative.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::backup::Backup;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};

use super::error::StateError;
use super::file_names::beside;
use super::schema::{Header, inspect, is_free, migrate, quick_check, recognise, unreadable};
use crate::adapters::directory::NotOwnFile;

/// A state's copy in memory, with its schema brought up to date.
pub struct Snapshot(pub(super) Connection);

/// Result of taking a snapshot.
pub enum SnapshotOutcome {
    /// The state at one point in time; an empty one, if there is none yet.
    Whole(Snapshot),
    /// It changed meanwhile: try again.
    Changing,
}

/// Tries once.
///
/// # Errors
/// [`StateError::Locked`] if a process has it open; the errors of [`inspect`]; [`StateError::Damaged`]; [`StateError::Sql`].
pub fn take_snapshot(path: &Path) -> Result<SnapshotOutcome, StateError> {
    let before = Stamps::of(path);
    if let Err(held) = is_free(path) {
        return match held {
            StateError::Locked { is_brief: true, .. } => Ok(SnapshotOutcome::Changing),
            held => Err(held),
        };
    }
    let copied = match inspect(path) {
        Ok(Header::Absent) if !has_log(path) => empty(),
        Ok(_) => copy(path),
        Err(error) => Err(error),
    };
    // Data and errors read during a change are meaningless.
    let is_still_free = is_free(path).is_ok();
    if !is_still_free || Stamps::of(path) != before {
        return Ok(SnapshotOutcome::Changing);
    }
    let mut copied = copied?;
    let sql = |source| StateError::sql("bring the copy of the state up to date", source);
    copied
        .execute_batch("PRAGMA foreign_keys = ON;")
        .map_err(sql)?;
    migrate(&mut copied).map_err(sql)?;
    copied.set_prepared_statement_cache_capacity(64);
    Ok(SnapshotOutcome::Whole(Snapshot(copied)))
}

fn empty() -> Result<Connection, StateError> {
    Connection::open_in_memory().map_err(|source| StateError::sql("open memory", source))
}

fn copy(path: &Path) -> Result<Connection, StateError> {
    refuse_traps(path)?;
    let sql = |source| StateError::sql("look at the state", source);
    let from = connect(path).map_err(sql)?;
    let mut to = empty()?;
    {
        let backup = Backup::new(&from, &mut to).map_err(sql)?;
        let step = backup.step(-1).map_err(|source| unreadable(path, source))?;

        if step != rusqlite::backup::StepResult::Done {
            return Err(StateError::Changing {
                path: path.to_owned(),
            });
        }
    }
    quick_check(path, &to)?;
    recognise(path, &to)?;
    Ok(to)
}

/// SQLite opens by name, and would block on a pipe.
fn refuse_traps(path: &Path) -> Result<(), StateError> {
    for file in ["", "-wal", "-journal"].map(|suffix| beside(path, suffix)) {
        if let Ok(found) = file.symlink_metadata()
            && !found.is_file()
        {
            let why = if found.is_symlink() {
                NotOwnFile::Link
            } else {
                NotOwnFile::Kind
            };
            return Err(StateError::Trap { path: file, why });
        }
    }
    Ok(())
}

/// A check of the whole state, while a daemon may use it. Takes no lock, and changes nothing.
pub struct StateCheck {
    connection: Connection,
    path: PathBuf,
    before: Stamps,
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It is intact.
    Sound,
    /// It was written meanwhile, which may look like damage: check again.
    Changing,
    /// It was interrupted.
    Unfinished,
}

impl StateCheck {
    /// Starts a check; `None` if there is no state.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn begin(path: &Path) -> Result<Option<Self>, StateError> {
        refuse_traps(path)?;
        if !path.exists() {
            return Ok(None);
        }
        let before = Stamps::of(path);
        let connection =
            connect(path).map_err(|source| StateError::sql("look at the state", source))?;
        Ok(Some(Self {
            connection,
            path: path.to_owned(),
            before,
        }))
    }

    /// Ends it from another thread.
    #[must_use]
    pub fn interrupt(&self) -> InterruptHandle {
        self.connection.get_interrupt_handle()
    }

    /// Reads all of it, up to the first damage. Blocks.
    ///
    /// # Errors
    /// [`StateError::Damaged`], or another reason for which it cannot be read.
    pub fn run(self) -> Result<CheckOutcome, StateError> {
        let Self {
            connection,
            path,
            before,
        } = self;
        match quick_check(&path, &connection) {
            Ok(()) => Ok(CheckOutcome::Sound),
            Err(StateError::Sql { source, .. })
                if source.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                Ok(CheckOutcome::Unfinished)
            }
            Err(_) if Stamps::of(&path) != before => Ok(CheckOutcome::Changing),
            Err(error) => Err(error),
        }
    }
}

/// "unix-none" takes no locks, exclusive mode keeps the log's index in memory instead of in a file beside the state, and
/// nothing is moved from the log into the state at the end. Without a log SQLite would create one: then the file is opened
/// as immutable, which holds for the duration of the check.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if !has_log(path) {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let uri = format!("file:{}?immutable=1", encoded(&absolute));
        return Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI);
    }
    let connection = Connection::open_with_flags_and_vfs(path, flags, c"unix-none")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    Ok(connection)
}

/// A path in a URI: special characters are percent-encoded.
fn encoded(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte);
    bytes
        .iter()
        .map(|byte| {
            if plain(*byte) {
                char::from(*byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn has_log(path: &Path) -> bool {
    beside(path, "-wal")
        .metadata()
        .is_ok_and(|log| log.len() > 0)
}

/// Properties of a state's files that change when they are written. Not the time of their status: if root runs this, SQLite
/// changes the log's owner to its present one.
#[derive(PartialEq, Eq)]
struct Stamps([Option<[i64; 4]>; 3]);

impl Stamps {
    fn of(path: &Path) -> Self {
        let stamp = |path: PathBuf| path.metadata().ok().map(|found| Self::stamp(&found));
        Self([path.to_owned(), beside(path, "-wal"), beside(path, ".lock")].map(stamp))
    }

    fn stamp(found: &Metadata) -> [i64; 4] {
        [
            found.ino().cast_signed(),
            found.size().cast_signed(),
            found.mtime(),
            found.mtime_nsec(),
        ]
    }
}
