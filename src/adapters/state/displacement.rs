//! Repair of displaced files by the writer, and the handle's report of it.

use std::fs::symlink_metadata;
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::displaced::Displaced;
use super::error::StateError;
use super::file_names::RESCUED;
use super::file_names::beside;
use super::handle::State;
use super::place::{Place, Seen, Spot, Watch};
use super::schema;
use super::worker::WriterThread;

impl WriterThread {
    /// Before a transaction: checks that the files are in their place, and repairs what it can.
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
                // Not at once: a restore of a backup removes the file first, and then overwrites the path.
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

    /// At the end: moves data that no start would find to a place where one does, or beside it.
    pub(super) fn stand_at_the_end(&mut self) {
        self.watch.place.wanted_back.store(true, Ordering::Relaxed);
        self.stand();
    }

    fn keep_beside(&mut self, by: &'static str) {
        let path = self.watch.place.path.clone();
        if !holds_anything(&self.connection) {
            self.leave_log_empty();
            let back = Displaced::Returned { path, by };
            return self.watch.place.set(Some(back));
        }
        // A file below a mount point still has its name, but no path leads to it.
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
        self.leave_log_empty();
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

    /// The log must not be taken for that of the file that is there now.
    fn leave_log_empty(&self) {
        let _ = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn drop_copy(&mut self) {
        if self.watch.kept.take().is_some() {
            let copy = beside(&self.watch.place.path, RESCUED);
            // It holds the same as the state, which is in its place.
            let _ = std::fs::remove_file(copy);
        }
    }

    /// Puts a copy of the open state in its place, and continues with that.
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
        // The copy contains everything of the log.
        if let Some(log) = beside(path, "-wal").file_name() {
            directory.remove(log).map_err(io)?;
        }
        match self.watch.spot(path, &self.watch.database) {
            Spot::Here => directory.rename(copy, name).map_err(io)?,
            Spot::Nothing | Spot::Empty => {
                directory.remove(name).map_err(io)?;
                // Never overwrite a file that another process put there meanwhile.
                directory.rename_no_replace(copy, name).map_err(io)?;
            }
            Spot::Other(_) => return Err(io(ErrorKind::AlreadyExists.into())),
        }
        directory.sync().map_err(io)?;
        self.watch.put = symlink_metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()));
        // When the old one is closed, it must not take the new one's log for its own.
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

    /// Displacement of the state's files at the last transaction; `None`: they are in their place.
    #[must_use]
    pub fn displaced(&self) -> Option<Displaced> {
        self.room.place().displaced()
    }

    /// Checks now. A state that the last call found removed is written back.
    pub async fn stand(&self) -> Option<Displaced> {
        let place = self.room.place();
        let seen = place.seen_removed.load(Ordering::Relaxed);
        place.wanted_back.store(seen, Ordering::Relaxed);
        // The result of the transaction does not matter: the check precedes it.
        let _ = self.write.run(|_| Ok(())).await;
        let displaced = place.displaced();
        let removed = matches!(
            displaced,
            Some(Displaced::Removed { .. } | Displaced::Lost { .. })
        );
        place.seen_removed.store(removed, Ordering::Relaxed);
        displaced
    }

    /// True if the state was written back since the last call.
    #[must_use]
    pub fn was_written_back(&self) -> bool {
        self.room
            .place()
            .was_written_back
            .swap(false, Ordering::Relaxed)
    }
}

/// True if it has a grant or a candidate, or if that cannot be read.
fn holds_anything(connection: &Connection) -> bool {
    let any = "SELECT EXISTS (SELECT 1 FROM portal WHERE refresh_token IS NOT NULL OR access_token IS NOT NULL) \
               OR EXISTS (SELECT 1 FROM candidate) OR EXISTS (SELECT 1 FROM superseded) OR EXISTS (SELECT 1 FROM unread_reply) \
               OR EXISTS (SELECT 1 FROM install_event) OR EXISTS (SELECT 1 FROM install_dispute)";
    connection
        .query_row(any, [], |row| row.get(0))
        .unwrap_or(true)
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
