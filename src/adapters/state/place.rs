//! Whether the state's files are still where they were opened. Somebody may remove, move or replace them while they are
//! open: then what is written goes where no start will find it.
//!
//! The writer looks before each transaction. A state that was removed is written back from what is open; over a file that
//! holds anything nothing is ever written, since an older state put there may be meant: then a copy of what is open is kept
//! beside it. Must not claim nor tell: who does asks here.

use std::fs::{File, Metadata, symlink_metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Mode, OFlags};

use super::schema::beside;
use super::worker::WriterThread;
use super::{State, StateError, schema};
use crate::adapters::directory::{Directory, Make, Trust, UntrustedDirectory, parent};

/// What the copy of an open state is called whose path somebody else's file has.
pub const RESCUED: &str = ".rescued";

/// What became of the state's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Displaced {
    /// They were removed. Known once; by the next look they are written back.
    #[error("the state {} was removed while refreshd runs: within seconds it is written back from what refreshd has open", path.display())]
    Removed {
        /// The state.
        path: PathBuf,
    },
    /// They were removed, and cannot be written back.
    #[error(
        "the state {} was removed while refreshd runs, and cannot be written back yet ({why}); do not stop refreshd: {}", path.display(),
        by_hand(path, *open)
    )]
    Lost {
        /// The state.
        path: PathBuf,
        /// Why not.
        why: String,
        /// The descriptors of the database and its log.
        open: (i32, i32),
    },
    /// It has another name.
    #[error("the state {} was moved while refreshd runs, and is {} now: move it back", path.display(), now.display())]
    Moved {
        /// The state.
        path: PathBuf,
        /// Where it is.
        now: PathBuf,
    },
    /// Something else is in its place.
    #[error(
        "the state {} was replaced by {by} while refreshd runs, and what refreshd has is kept in {}: to go on with that, remove \
         what was put in its place, and refreshd writes its own back; to go on with what was put there, restart refreshd",
        path.display(), kept.display()
    )]
    Replaced {
        /// The state.
        path: PathBuf,
        /// What is there.
        by: &'static str,
        /// Where the true one is.
        kept: PathBuf,
    },
    /// Something else is in its place, and no copy could be made.
    #[error(
        "the state {} was replaced by {by} while refreshd runs, and no copy of what refreshd has can be kept beside it ({why}); do \
         not stop refreshd: remove what was put in its place, and refreshd writes its own back, or {}", path.display(),
        by_hand(path, *open)
    )]
    Unkept {
        /// The state.
        path: PathBuf,
        /// What is there.
        by: &'static str,
        /// Why there is no copy.
        why: String,
        /// The descriptors of the database and its log.
        open: (i32, i32),
    },
}

fn by_hand(path: &Path, (database, log): (i32, i32)) -> String {
    let (pid, copy) = (std::process::id(), beside(path, RESCUED));
    let copy = copy.display();
    format!(
        "save it with cp /proc/{pid}/fd/{database} {copy} and cp /proc/{pid}/fd/{log} {copy}-wal"
    )
}

/// What the writer knows of the place, for those who ask.
#[derive(Debug, Default)]
pub(super) struct Place {
    path: PathBuf,
    displaced: Mutex<Option<Displaced>>,
    /// Whoever keeps house has seen that it was removed.
    seen_removed: AtomicBool,
    /// And now wants it back.
    wanted_back: AtomicBool,
    was_written_back: AtomicBool,
    /// Goes up when the files become others, and whoever has them open must open them again.
    edition: AtomicU64,
}

impl Place {
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
    }

    /// Nothing that must last may begin where no start would find it.
    pub(super) fn check(&self) -> Result<(), StateError> {
        self.displaced()
            .map_or(Ok(()), |displaced| Err(StateError::Displaced(displaced)))
    }

    fn displaced(&self) -> Option<Displaced> {
        self.displaced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, displaced: Option<Displaced>) {
        *self
            .displaced
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = displaced;
    }

    /// Opens a connection that reads anew, if the files are others than those of this edition.
    pub(super) fn follow(&self, edition: &mut u64, connection: &mut Connection) {
        let now = self.edition.load(Ordering::Acquire);
        // Where that fails the old one reads what was; it is tried again at the next job.
        if now != *edition
            && let Ok(opened) = schema::open_reader(&self.path)
        {
            (*edition, *connection) = (now, opened);
        }
    }
}

/// The writer's own eyes.
pub(super) struct Watch {
    place: Arc<Place>,
    trust: Trust,
    /// The database, by a descriptor that keeps its number from being used again. SQLite's locks are not touched by it.
    database: File,
    /// A copy that was put in place and could not be opened.
    put: Option<(u64, u64)>,
    /// Changes of the connection that the copy beside has.
    kept: Option<u64>,
}

/// What a name stands for.
enum Spot {
    /// What is open.
    Here,
    Nothing,
    Empty,
    Other(&'static str),
}

enum Seen {
    InPlace,
    Removed,
    Moved(PathBuf),
    Replaced(&'static str),
}

impl Watch {
    /// Of a state that is open.
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

    fn see(&self, log: &File) -> Seen {
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

    fn spot(&self, path: &Path, open: &File) -> Spot {
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
            // A disk that fails says nothing about what is where.
            Err(_) => Spot::Here,
        }
    }

    /// Where the open database is, if it has a name.
    fn moved(&self) -> Option<PathBuf> {
        let linked = self
            .database
            .metadata()
            .is_ok_and(|found| found.nlink() > 0);
        let now =
            std::fs::read_link(format!("/proc/self/fd/{}", self.database.as_raw_fd())).ok()?;
        (linked && !now.as_os_str().as_encoded_bytes().ends_with(b" (deleted)")).then_some(now)
    }

    /// Writes what is open into a file beside, whole and durable.
    fn copy(&self, from: &Connection) -> Result<(Directory, PathBuf), StateError> {
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
            // A copy that is cut off is thrown away, so nothing need undo it; it is flushed once, at the end.
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

impl WriterThread {
    /// Before a transaction: sees whether the files are in their place, and does what can be done about it.
    pub(super) fn stand(&mut self) {
        let place = Arc::clone(&self.watch.place);
        match self.watch.see(self.reserve.log()) {
            Seen::InPlace if place.displaced().is_none() => {}
            Seen::InPlace => {
                self.drop_copy();
                place.set(None);
            }
            Seen::Removed if place.wanted_back.swap(false, Ordering::Relaxed) => self.write_back(),
            Seen::Removed => {
                // Not at once: whoever restores a backup removes the file first, and then writes over whatever is there.
                if !matches!(place.displaced(), Some(Displaced::Lost { .. })) {
                    place.set(Some(Displaced::Removed {
                        path: place.path.clone(),
                    }));
                }
            }
            Seen::Moved(now) => place.set(Some(Displaced::Moved {
                path: place.path.clone(),
                now,
            })),
            Seen::Replaced(by) => self.keep_beside(by),
        }
    }

    /// At the end: what no start would find is put where one does, or beside.
    pub(super) fn stand_at_the_end(&mut self) {
        self.watch.place.wanted_back.store(true, Ordering::Relaxed);
        self.stand();
    }

    fn keep_beside(&mut self, by: &'static str) {
        let path = self.watch.place.path.clone();
        // What a volume was mounted over still has the name that nobody finds it by.
        let kept = match self.watch.moved().filter(|now| *now != path) {
            Some(now) => Ok(now),
            None if self.watch.kept == Some(self.connection.total_changes()) => {
                Ok(beside(&path, RESCUED))
            }
            None => self.watch.copy(&self.connection).map(|(_, copy)| {
                self.watch.kept = Some(self.connection.total_changes());
                copy
            }),
        };
        // Its log must not be taken for that of the file which is there now.
        let _ = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let open = self.open_files();
        self.watch.place.set(Some(match kept {
            Ok(kept) => Displaced::Replaced { path, by, kept },
            Err(error) => Displaced::Unkept {
                path,
                by,
                why: words(&error),
                open,
            },
        }));
    }

    fn drop_copy(&mut self) {
        if self.watch.kept.take().is_some() {
            let copy = beside(&self.watch.place.path, RESCUED);
            // It holds what the state holds, which is in its place.
            let _ = std::fs::remove_file(copy);
        }
    }

    /// Puts a copy of what is open in its place, and goes on with that.
    fn write_back(&mut self) {
        let place = Arc::clone(&self.watch.place);
        let path = place.path.clone();
        match self.try_writing_back(&path) {
            Ok(()) => {
                place.edition.fetch_add(1, Ordering::Release);
                place.was_written_back.store(true, Ordering::Relaxed);
                place.set(None);
            }
            Err(error) => {
                let open = self.open_files();
                place.set(Some(Displaced::Lost {
                    path,
                    why: words(&error),
                    open,
                }));
            }
        }
    }

    fn try_writing_back(&mut self, path: &Path) -> Result<(), StateError> {
        let (directory, copy) = self.watch.copy(&self.connection)?;
        let io = |source| StateError::file("put the state's copy at", path, source);
        let (Some(name), Some(copy)) = (path.file_name(), copy.file_name()) else {
            return Err(io(ErrorKind::InvalidFilename.into()));
        };
        // Everything of the log is in the copy.
        if let Some(log) = beside(path, "-wal").file_name() {
            directory.remove(log).map_err(io)?;
        }
        match self.watch.spot(path, &self.watch.database) {
            Spot::Here => directory.rename(copy, name).map_err(io)?,
            Spot::Nothing | Spot::Empty => {
                directory.remove(name).map_err(io)?;
                // Never over what somebody put there meanwhile.
                directory.rename_to_nothing(copy, name).map_err(io)?;
            }
            Spot::Other(_) => return Err(io(ErrorKind::AlreadyExists.into())),
        }
        directory.sync().map_err(io)?;
        self.watch.put = symlink_metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()));
        // When the old one is closed, the new one's log is not its own.
        let _ = self
            .connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        let connection = schema::open(path)?;
        let watch = Watch::open(Arc::clone(&self.watch.place), self.watch.trust.clone())?;
        self.reserve.follow(path)?;
        (self.connection, self.watch) = (connection, watch);
        Ok(())
    }

    fn open_files(&self) -> (i32, i32) {
        (
            self.watch.database.as_raw_fd(),
            self.reserve.log().as_raw_fd(),
        )
    }
}

impl State {
    pub(super) fn place(&self) -> Arc<Place> {
        Arc::clone(self.room.place())
    }

    /// What became of the state's files, as the last transaction found them; `None`: they are in their place.
    #[must_use]
    pub fn displaced(&self) -> Option<Displaced> {
        self.room.place().displaced()
    }

    /// Looks now. A state that the last call found removed is written back.
    pub async fn stand(&self) -> Option<Displaced> {
        let place = self.room.place();
        let seen = place.seen_removed.load(Ordering::Relaxed);
        place.wanted_back.store(seen, Ordering::Relaxed);
        // Whatever becomes of the transaction: the look comes before.
        let _ = self.write.run(|_| Ok(())).await;
        let displaced = place.displaced();
        let removed = matches!(
            displaced,
            Some(Displaced::Removed { .. } | Displaced::Lost { .. })
        );
        place.seen_removed.store(removed, Ordering::Relaxed);
        displaced
    }

    /// Whether the state was written back since the last call.
    #[must_use]
    pub fn was_written_back(&self) -> bool {
        self.room
            .place()
            .was_written_back
            .swap(false, Ordering::Relaxed)
    }
}

fn handle(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Whether both are one file. Where a file system's numbers change (FUSE), its times are as good.
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

fn words(error: &StateError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
