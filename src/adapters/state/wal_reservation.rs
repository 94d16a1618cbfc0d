//! Space on the disk for the pairs of pending renewals, reserved before anything is sent.
//!
//! A record goes into the write-ahead log. So the log's file is made as long, before a claim is durable, as the records of all
//! claims can need: SQLite then overwrites blocks that are allocated already, and no other process can have filled the disk
//! with them. Must not touch data that SQLite has written: it moves only the end of the file.
//!
//! This works if a file is overwritten in place: on ext4, XFS, tmpfs, and Btrfs, which is configured for it. If each write
//! takes a new block (ZFS, or Btrfs after a snapshot), a pair without space is held in memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rustix::fs::{FallocateFlags, IFlags, fallocate, ioctl_getflags, ioctl_setflags};

use super::error::StateError;
use super::file_names::beside;
use super::place::Place;

/// Pages for the record of one pair: measured are 12 on average with tokens of 4 KB, each in its own transaction.
const RECORD: u64 = 16;
/// Pages for one claim.
const CLAIM: u64 = 8;
/// Reserve for a record that is larger than others, and for small changes: alerts, a new grant.
const SMALL: u64 = 64;
/// Step of the growth of the log's file, in pages.
const STEP: u64 = 256;
/// Size of a page of the database in the log, and of the log's header.
const FRAME: u64 = 4096 + 24;
const HEADER: u64 = 32;
/// Delay before a claim that did not fit is tried again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Space in the log: written by the writer's thread before a transaction, queried in it.
#[derive(Debug, Default)]
pub(super) struct WalReservation {
    /// Pages for which the log's file has space.
    free: AtomicU64,
    /// Claims without an outcome.
    claims: AtomicU64,
    /// Something was forgotten, and may still be in the log.
    forgot: AtomicBool,
    /// Pages that were requested in vain.
    wanted: AtomicU64,
    refused: Mutex<Option<(PathBuf, Arc<io::Error>)>>,
    place: Arc<Place>,
}

impl WalReservation {
    fn at(place: Arc<Place>) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Number of further claims for which there is space.
    fn capacity(&self) -> u64 {
        let left = self
            .free
            .load(Ordering::Relaxed)
            .saturating_sub(self.needed(0));
        left / (RECORD + CLAIM)
    }

    /// The pages for pending renewals and for so many further claims.
    fn needed(&self, claims: u64) -> u64 {
        RECORD * self.claims.load(Ordering::Relaxed) + (RECORD + CLAIM) * claims + SMALL
    }

    /// Marks a transaction that removes secrets, which must not stay readable in the log: to be called in it.
    pub(super) fn forget(&self) {
        self.forgot.store(true, Ordering::Relaxed);
    }

    /// Checks that so many may be claimed in this transaction. If not, the writer reserves space before the next.
    pub(super) fn require(&self, claims: usize) -> Result<(), StateError> {
        let claims = u64::try_from(claims).unwrap_or(u64::MAX);
        if claims > 0 {
            self.place.check()?;
        }
        if claims == 0 || claims <= self.capacity() {
            return Ok(());
        }
        self.wanted
            .fetch_max(self.needed(claims), Ordering::Relaxed);
        Err(self.none())
    }

    /// Checks that a deferrable change may be written without the space of pending renewals.
    pub(super) fn allow_deferrable(&self) -> Result<(), StateError> {
        let under_way = self.claims.load(Ordering::Relaxed) > 0;
        let whole = self.free.load(Ordering::Relaxed) >= self.needed(0);
        if under_way && !whole {
            Err(self.none())
        } else {
            Ok(())
        }
    }

    /// As much of the capacity as fits; an error if nothing does and no pending renewal will free space.
    pub(super) fn distribute(
        &self,
        capacity: &[(String, usize)],
    ) -> Result<Vec<(String, usize)>, StateError> {
        let mut left = usize::try_from(self.capacity()).unwrap_or(usize::MAX);
        if left == 0 && self.claims.load(Ordering::Relaxed) == 0 {
            return Err(self.none());
        }
        let mut share = |(url, wanted): &(String, usize)| {
            let given = left.min(*wanted);
            left -= given;
            (url.clone(), given)
        };
        Ok(capacity.iter().map(&mut share).collect())
    }

    fn none(&self) -> StateError {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, source) = refused.clone().unzip();
        let kilobytes = self.wanted.load(Ordering::Relaxed).max(self.needed(0)) * FRAME / 1024;
        StateError::NoRoom {
            path: path.unwrap_or_default(),
            kilobytes,
            source,
        }
    }
}

/// Reserves the space. Owned by the writer: only its thread writes the log.
pub struct WalReserve {
    log: File,
    path: PathBuf,
    room: Arc<WalReservation>,
}

impl WalReserve {
    /// For an open state.
    pub(super) fn open(state: &Path) -> Result<Self, StateError> {
        let path = beside(state, "-wal");
        let log = open_log(&path)?;
        Ok(Self {
            log,
            path,
            room: Arc::new(WalReservation::at(Arc::new(Place::of(state)))),
        })
    }

    /// The state was opened again, and has another log.
    pub(super) fn follow(&mut self, state: &Path) -> Result<(), StateError> {
        self.log = open_log(&beside(state, "-wal"))?;
        Ok(())
    }

    pub(super) fn log(&self) -> &File {
        &self.log
    }

    /// Space requested by claims.
    pub(super) fn room(&self) -> Arc<WalReservation> {
        Arc::clone(&self.room)
    }

    /// Before each transaction: counts, and reserves space if there is less than is needed or was requested.
    pub(super) fn keep(&self, connection: &Connection) {
        let number = |sql: &str, column: &str| {
            let mut statement = connection.prepare_cached(sql)?;
            statement
                .query_row([], |row| row.get::<_, i64>(column))
                .map(|n| u64::try_from(n).unwrap_or_default())
        };
        let counted = number(
            "SELECT count(*) AS claims FROM portal WHERE claim IS NOT NULL",
            "claims",
        )
        .and_then(|claims| Ok((claims, number("PRAGMA wal_checkpoint(NOOP)", "log")?)));
        let Ok((claims, mut used)) = counted else {
            return self.room.free.store(0, Ordering::Relaxed);
        };
        self.room.claims.store(claims, Ordering::Relaxed);
        let wanted = self
            .room
            .wanted
            .swap(0, Ordering::Relaxed)
            .max(self.room.needed(0));
        if self.pages() < used + wanted {
            let ample = (used + wanted).next_multiple_of(STEP);
            let made = self
                .grow(ample)
                .or_else(|_| self.grow(used + wanted))
                .map_err(Arc::new);
            // If the disk is full, the log can still restart at its first page.
            if made.is_err()
                && number("PRAGMA wal_checkpoint(RESTART)", "busy").is_ok_and(|busy| busy == 0)
            {
                used = 0;
            }
            let refused = made.err().map(|error| (self.path.clone(), error));
            *self
                .room
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = refused;
        }
        self.room
            .free
            .store(self.pages().saturating_sub(used), Ordering::Relaxed);
    }

    /// After a transaction: forgotten data is overwritten in the log as well. In the database SQLite has done so
    /// (`secure_delete`). If a reader or the disk prevents it, the next transaction retries.
    pub(super) fn scrub(&self, connection: &Connection) {
        if !self.room.forgot.swap(false, Ordering::Relaxed) {
            return;
        }
        let checkpoint = |sql: &str| {
            connection
                .query_row(sql, [], |row| row.get::<_, i64>(0))
                .is_ok_and(|busy| busy == 0)
        };
        // After the first step no process reads the log, and all of it is in the database: its bytes are unused.
        let done = checkpoint("PRAGMA wal_checkpoint(RESTART)")
            && self.overwrite().is_ok()
            && checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
        if !done {
            self.room.forget();
        }
    }

    fn overwrite(&self) -> io::Result<()> {
        self.fill(0, self.log.metadata()?.len())?;
        self.log.sync_data()
    }

    /// At the end: everything moves into the database, and an empty log keeps the space for the next start. A log with content
    /// could be taken for that of a database restored from a backup.
    pub(super) fn leave(&self, connection: &Connection) {
        // A failure is harmless: the next start reads the log.
        let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i64>(0)
        });
        let keep = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        if emptied.is_ok_and(|busy| busy == 0) && keep.is_ok() {
            let _ = self.grow(STEP);
        }
    }

    /// Pages for which the log's file has space.
    fn pages(&self) -> u64 {
        let length = self
            .log
            .metadata()
            .map(|metadata| metadata.len())
            .unwrap_or_default();
        length.saturating_sub(HEADER) / FRAME
    }

    fn grow(&self, pages: u64) -> io::Result<()> {
        let (before, length) = (self.log.metadata()?.len(), HEADER + pages * FRAME);
        if length <= before {
            return Ok(());
        }
        let grown = match fallocate(&self.log, FallocateFlags::empty(), before, length - before) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.fill(before, length),
            other => other.map_err(io::Error::from),
        };
        // An insufficient allocation is released.
        grown.inspect_err(|_| drop(self.log.set_len(before)))
    }

    /// For file systems that cannot allocate blocks without writing them.
    fn fill(&self, mut from: u64, to: u64) -> io::Result<()> {
        let zeros = [0; 4096];
        while from < to {
            let length = usize::try_from(to - from)
                .unwrap_or(zeros.len())
                .min(zeros.len());
            self.log.write_all_at(&zeros[..length], from)?;
            from += length as u64;
        }
        Ok(())
    }
}

fn open_log(path: &Path) -> Result<File, StateError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let log = opened.map_err(|source| StateError::file("open", path, source))?;
    write_in_place(&log);
    Ok(log)
}

/// Configures Btrfs to overwrite in place. It is possible only while the file is empty; others do not support the flag.
fn write_in_place(log: &File) {
    if let Ok(flags) = ioctl_getflags(log) {
        let _ = ioctl_setflags(log, flags | IFlags::NOCOW);
    }
}
