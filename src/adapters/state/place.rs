//! Checks that the state's files are still where they were opened. They may be removed, moved or replaced while they are
//! open: then writes go to a file that no start will find.
//!
//! The writer checks before each transaction. A removed state is written back from the open one; a file with content is never
//! overwritten, since an older state put there may be intended: then a copy of the open state is kept beside it. Must not
//! claim nor alert: code that does asks here.

use std::fs::{File, Metadata, symlink_metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Mode, OFlags};

use super::displaced::Displaced;
use super::error::StateError;
use super::file_names::{RESCUED, beside};
use super::schema;
use crate::adapters::directory::{Directory, Make, Trust, UntrustedDirectory, parent};

/// The writer's knowledge of the files' place, for other threads.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) displaced: Mutex<Option<Displaced>>,
    /// The periodic check has found it removed.
    pub(super) seen_removed: AtomicBool,
    /// And now requests that it is written back.
    pub(super) wanted_back: AtomicBool,
    pub(super) was_written_back: AtomicBool,
    /// Increases when the files are replaced; every connection must be opened again then.
    pub(super) edition: AtomicU64,
}

impl Place {
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
    }

    /// Durable work must not begin where no start would find it.
    pub(super) fn check(&self) -> Result<(), StateError> {
        self.displaced()
            .map_or(Ok(()), |displaced| Err(StateError::Displaced(displaced)))
    }

    pub(super) fn displaced(&self) -> Option<Displaced> {
        self.displaced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set(&self, displaced: Option<Displaced>) {
        *self
            .displaced
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = displaced;
    }

    /// Opens a new connection, if the files differ from those of this edition.
    pub(super) fn follow(&self, edition: &mut u64, connection: &mut Connection) {
        let now = self.edition.load(Ordering::Acquire);
        // If that fails the old one reads the former data; the next job retries.
        if now != *edition
            && let Ok(opened) = schema::open_reader(&self.path)
        {
            (*edition, *connection) = (now, opened);
        }
    }
}

/// The writer's own check.
pub(super) struct Watch {
    pub(super) place: Arc<Place>,
    pub(super) trust: Trust,
    /// The database, through a descriptor that keeps its number from being reused. It does not affect SQLite's locks.
    pub(super) database: File,
    /// A copy that was put in place and could not be opened.
    pub(super) put: Option<(u64, u64)>,
    /// Changes of the connection that are in the copy.
    pub(super) kept: Option<u64>,
}

/// File behind a name.
pub(super) enum Spot {
    /// The open file.
    Here,
    Nothing,
    Empty,
    Other(&'static str),
}

pub(super) enum Seen {
    InPlace,
    Removed,
    Moved(PathBuf),
    Replaced(&'static str),
}

impl Watch {
    /// For an open state.
    pub(super) fn open(place: Arc<Place>, trust: Trust) -> Result<Self, StateError> {
        let database = handle(&place.path)
            .map_err(|source| StateError::file("look at", &place.path, source))?;
        Ok(Self {
            place,
            trust,
            database,
            put: None,
            kept: None,
        })
    }

    pub(super) fn see(&self, log: &File) -> Seen {
        let path = &self.place.path;
        let (database, log) = (
            self.spot(path, &self.database),
            self.spot(&beside(path, "-wal"), log),
        );
        match (database, log) {
            (Spot::Here, Spot::Here) => Seen::InPlace,
            (Spot::Here, Spot::Nothing | Spot::Empty) => Seen::Removed,
            (Spot::Here | Spot::Nothing | Spot::Empty, Spot::Other(_)) => {
                Seen::Replaced("another write-ahead log")
            }
            (Spot::Nothing | Spot::Empty, _) => self.moved().map_or(Seen::Removed, Seen::Moved),
            (Spot::Other(by), _) => Seen::Replaced(by),
        }
    }

    pub(super) fn spot(&self, path: &Path, open: &File) -> Spot {
        match symlink_metadata(path) {
            Ok(found) if open.metadata().is_ok_and(|open| is_same(&open, &found)) => Spot::Here,
            Ok(found) if self.put == Some((found.dev(), found.ino())) => Spot::Nothing,
            Ok(found) if found.is_file() && found.len() == 0 => Spot::Empty,
            Ok(found) if found.is_dir() => Spot::Other("a directory"),
            Ok(_) => Spot::Other("another file"),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Spot::Nothing
            }
            // A failing disk reveals nothing about the place of files.
            Err(_) => Spot::Here,
        }
    }

    /// Path of the open database, if it has one.
    pub(super) fn moved(&self) -> Option<PathBuf> {
        let linked = self
            .database
            .metadata()
            .is_ok_and(|found| found.nlink() > 0);
        let now =
            std::fs::read_link(format!("/proc/self/fd/{}", self.database.as_raw_fd())).ok()?;
        // Below a mount point its name is still this one, but no path leads to it.
        let is_hidden = now == self.place.path
            || std::path::absolute(&self.place.path).is_ok_and(|path| path == now);
        let is_deleted = now.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
        (linked && !is_deleted && !is_hidden).then_some(now)
    }

    /// Writes the open state into a file beside it, completely and durably.
    pub(super) fn copy(&self, from: &Connection) -> Result<(Directory, PathBuf), StateError> {
        let path = &self.place.path;
        let make = Make {
            mode: 0o700,
            above: 0o700,
        };
        let directory = match Directory::open_trusted(parent(path), &self.trust, Some(make)) {
            Err(UntrustedDirectory::Io { path, source }) => {
                return Err(StateError::file("open the directory", &path, source));
            }
            opened => opened.map_err(StateError::Directory)?,
        };
        let copy = beside(path, RESCUED);
        let io = |source| StateError::file("write", &copy, source);
        let name = copy
            .file_name()
            .ok_or(ErrorKind::InvalidFilename.into())
            .map_err(io)?;
        directory.remove(name).map_err(io)?;
        let file = directory.open_or_make(name, 0o600).map_err(io)?;
        let copied = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut to = Connection::open_with_flags(&copy, flags)?;
            // An incomplete copy is discarded, so no journal is needed; it is flushed once, at the end.
            to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
            let step = Backup::new(from, &mut to)?.step(-1)?;
            Ok(step == StepResult::Done)
        };
        let done = copied().map_err(|source| StateError::sql("copy the state", source))?;
        if !done {
            return Err(io(ErrorKind::ResourceBusy.into()));
        }
        file.sync_all().map_err(io)?;
        Ok((directory, copy))
    }
}

fn handle(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// True if both are one file. If a file system's numbers change (FUSE), its times are compared.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let number = |found: &Metadata| (found.dev(), found.ino());
    let stamp = |found: &Metadata| {
        (
            found.len(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
            found.nlink(),
        )
    };
    number(one) == number(other) || one.nlink() > 0 && stamp(one) == stamp(other)
}
