//! The handle to the state: passes work to the threads that own its connections.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::error::StateError;
use super::place::Watch;
use super::schema::{self, Lock};
use super::snapshot::Snapshot;
use super::wal_reservation::{WalReservation, WalReserve};
use super::worker::{DbHandle, ReaderThread, WriterThread};
use refreshd_time::Timestamp;

/// A handle to the state. Cheap to clone; the work is done by [`WriterThread`] and [`ReaderThread`].
#[derive(Clone)]
pub struct State {
    pub(super) write: DbHandle,
    pub(super) read: DbHandle,
    pub(super) room: Arc<WalReservation>,
}

impl State {
    /// Opens the state under its lock. Run the two workers on separate threads; they end when every handle is dropped.
    ///
    /// # Errors
    /// [`StateError`]: locked, newer, foreign, damaged, or no access. Nothing is changed then.
    pub fn open(path: &Path, lock: Lock) -> Result<(Self, WriterThread, ReaderThread), StateError> {
        let connection = schema::open(path)?;
        let reader = schema::open_reader(path)?;
        let damage = Arc::default();
        let (write, write_jobs) = DbHandle::new(&damage);
        let (read, read_jobs) = DbHandle::new(&damage);
        let reserve = WalReserve::open(path)?;
        let room = reserve.room();
        let reader = ReaderThread::new(reader, read_jobs, Arc::clone(room.place()));
        let watch = Watch::open(Arc::clone(room.place()), lock.trust().clone())?;
        let writer = WriterThread {
            connection,
            jobs: write_jobs,
            reserve,
            watch,
            _lock: lock,
        };
        Ok((Self { write, read, room }, writer, reader))
    }

    /// A copy in memory: changes in it are stored nowhere else. Run the worker.
    #[must_use]
    pub fn of_copy(copy: Snapshot) -> (Self, ReaderThread) {
        let (port, jobs) = DbHandle::new(&Arc::default());
        let room: Arc<WalReservation> = Arc::default();
        let reader = ReaderThread::new(copy.0, jobs, Arc::clone(room.place()));
        (
            Self {
                write: port.clone(),
                read: port,
                room,
            },
            reader,
        )
    }

    /// Sets the listener that is called when a read or a write meets damage. Only the first call counts.
    pub fn on_damage(&self, listener: impl Fn(&StateError) + Send + Sync + 'static) {
        // A second call is a bug without consequence: damage is reported anyway.
        let _ = self.read.damage.0.set(Box::new(listener));
    }

    /// Reads all of the state again, up to the first damage.
    ///
    /// # Errors
    /// [`StateError`]: it is damaged, or cannot be read.
    pub async fn verify(&self) -> Result<(), StateError> {
        let path = self.room.place().path.clone();
        let verify = move |connection: &Connection| {
            drop_cache(connection)?;
            schema::quick_check(&path, connection)
        };
        self.read.run(verify).await
    }

    /// Reads again the pages that every read of the state needs.
    ///
    /// # Errors
    /// [`StateError`]: it is damaged, or cannot be read.
    pub async fn read_anew(&self, now: Timestamp) -> Result<(), StateError> {
        let read = move |connection: &Connection| {
            drop_cache(connection)?;
            super::listing::census(connection, now).map(|_| ())
        };
        self.read.run(read).await
    }

    /// Writes something that leaves no trace, and checks that one more claim would have space.
    ///
    /// # Errors
    /// [`StateError`]; then nothing can be claimed.
    pub async fn try_writing(&self) -> Result<(), StateError> {
        self.with_room(|connection, room| {
            room.require(1)
                .and_then(|()| write_and_take_back(connection))
        })
        .await
    }

    /// Does work that needs space; retries once without space, since the writer reserves space before each transaction.
    pub(super) async fn with_room<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: Fn(&Connection, &WalReservation) -> Result<T, StateError> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let run = || {
            let (room, work) = (Arc::clone(&self.room), Arc::clone(&work));
            self.write.run(move |connection| work(connection, &room))
        };
        match run().await {
            Err(StateError::NoRoom { .. }) => run().await,
            other => other,
        }
    }

    /// Like [`Self::change`], for data that the caller relies on from then on: it must be where the next start finds it.
    pub(super) async fn keep<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, StateError> + Send + Sync + 'static,
    {
        let keep = move |connection: &Connection, room: &WalReservation| {
            room.place()
                .check()
                .and_then(|()| room.allow_deferrable())
                .and_then(|()| work(connection))
        };
        self.with_room(keep).await
    }

    /// Does deferrable work, which must not take the space of pending renewals.
    pub(super) async fn change<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, StateError> + Send + Sync + 'static,
    {
        self.with_room(move |connection, room| {
            room.allow_deferrable().and_then(|()| work(connection))
        })
        .await
    }
}

/// Rows that are inserted and deleted in one transaction are still written: SQLite does not compare.
fn write_and_take_back(connection: &Connection) -> Result<(), StateError> {
    let statements = "INSERT INTO superseded (portal, at, why) VALUES ('', 0, 'trial'); \
                      DELETE FROM superseded WHERE id = last_insert_rowid()";
    connection
        .execute_batch(statements)
        .map_err(|source| StateError::sql("write to the state", source))
}

/// Pages in memory may be valid while those on the disk are not.
fn drop_cache(connection: &Connection) -> Result<(), StateError> {
    connection
        .execute_batch("PRAGMA shrink_memory")
        .map_err(|source| StateError::sql("check the state", source))
}
