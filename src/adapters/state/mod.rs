//! The private store: grants, claims, what was told. SQLite behind one narrow handle.
//!
//! [`State`] is the interface; every method is one durable transaction or one snapshot, and says in domain types what
//! happened. PostgreSQL is meant to stand behind the same methods. The store decides what is due, so memory does not
//! grow with the number of portals. Must not decide anything about renewal, nor hold a transaction across an `await`.

mod alerts;
mod candidates;
mod carried;
mod claims;
mod clients;
mod disputes;
mod grant_store;
mod incomplete;
mod install_events;
mod installation;
mod installs;
mod listing;
mod metadata;
mod migrations;
mod place;
mod quarantine;
mod read_connection;
mod reconcile;
mod record;
mod rows;
mod schema;
mod snapshot;
mod superseded;
mod unread;
mod wal_reservation;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use alerts::{AlertChanges, StoredAlerts};
pub use candidates::{
    Candidate, CandidateOutcome, CandidateRecorded, Offer, Offered, RecordCandidate,
};
pub use carried::{Carried, CarriedPair, Damage, Load, Unsaved};
pub use claims::{Claims, RenewalRequest};
pub use disputes::{NewDispute, OpenDispute, RecordedDispute};
pub use grant_store::{NewGrant, StoreOutcome};
pub use install_events::{NewEvent, StoredEvent};
pub use installation::{Uninstall, Uninstalled};
pub use installs::{InstallOutcome, InstalledGrant};
pub use listing::Census;
pub use place::{Displaced, RESCUED};
pub use read_connection::ReadConnection;
pub use reconcile::{AppFingerprint, Reconciled, Unnamed};
pub use record::{ClientVerdict, KeepNotified, RecordOutcome, Recorded, RenewalRecord};
pub use schema::{Header, Lock, SCHEMA_VERSION, Tenure, beside, inspect, lock, lock_as};
pub use snapshot::{SnapshotOutcome, take_snapshot};
pub use unread::RecoverOutcome;
pub use worker::{Disk, DiskFuture, ReaderThread, WriterThread};

use crate::adapters::directory::UntrustedDirectory;
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, GrantStatus, Portal};
use crate::domain::secret::Fingerprint;
use crate::domain::settings::Configured;
use crate::domain::time::Timestamp;
use crate::domain::token::Generation;
use worker::DbHandle;

/// What can go wrong with the state. Names the stage; never a stored value.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error(
        "the state {} is in use by another refreshd{}; stop that one first, or talk to it with the other commands",
        path.display(), holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The state.
        path: PathBuf,
        /// The other process, if it wrote its id.
        holder: Option<u32>,
        /// It is a command that will be done in a moment.
        is_brief: bool,
    },
    /// It changed while it was looked at.
    #[error("the state {} is being changed by another refreshd; try again in a moment", path.display())]
    Changing {
        /// The state.
        path: PathBuf,
    },
    /// Written by a newer refreshd.
    #[error(
        "the state {} has schema version {found}, this refreshd knows up to {known}; it was left untouched: \
         install the newer refreshd again", path.display()
    )]
    Newer {
        /// The state.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// Not a state at all.
    #[error("{} is not a refreshd state; it was left untouched", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Its directory is somebody else's.
    #[error("the state's directory is not used")]
    Directory(#[source] UntrustedDirectory),
    /// A file beside it is somebody else's.
    #[error(
        "{} is a symbolic link, no regular file, or not refreshd's own; it was left untouched: if you restored it, \
         give it to refreshd's user (chown); if it is none of refreshd's, move it away", path.display()
    )]
    Trap {
        /// The file.
        path: PathBuf,
    },
    /// SQLite finds it damaged.
    #[error("the state {} is damaged ({detail}); it was left untouched: restore it from a backup", path.display())]
    Damaged {
        /// The state.
        path: PathBuf,
        /// SQLite's word.
        detail: String,
    },
    /// The file system said no.
    #[error("cannot {stage} {}", path.display())]
    File {
        /// What was tried.
        stage: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A configuration that may not be all there does not name portals whose grants are alive.
    #[error("{} portals whose grants are alive are not named any more", living.len())]
    Unnamed {
        /// The portals.
        living: Vec<PortalName>,
    },
    /// Its files were removed, moved or replaced while they are open.
    #[error(transparent)]
    Displaced(#[from] Displaced),
    /// SQLite said no.
    #[error("cannot {stage}")]
    Sql {
        /// What was tried.
        stage: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The transaction this belonged to did not become durable.
    #[error("not written to the state")]
    Commit(#[source] Arc<StateError>),
    /// A value that JSON cannot hold; cannot happen with the types stored.
    #[error("a value cannot be stored")]
    Unrepresentable,
    /// The disk has no room for what would come back.
    #[error("the disk has no room for new pairs: {kilobytes} KB cannot be had for {}", path.display())]
    NoRoom {
        /// What would grow.
        path: PathBuf,
        /// How much is needed.
        kilobytes: u64,
        /// Why not.
        source: Option<Arc<std::io::Error>>,
    },
    /// The store's threads have ended.
    #[error("the state is closed")]
    Stopped,
}

impl StateError {
    fn file(stage: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File {
            stage,
            path: path.to_owned(),
            source,
        }
    }

    fn sql(stage: &'static str, source: rusqlite::Error) -> Self {
        Self::Sql { stage, source }
    }
}

/// A handle to the state. Cheap to clone; the work is done by [`WriterThread`] and [`ReaderThread`].
#[derive(Clone)]
pub struct State {
    write: DbHandle,
    read: DbHandle,
    room: Arc<wal_reservation::WalReservation>,
}

impl State {
    /// Opens the state under its lock. Run the two workers on threads of their own; they end when every handle is gone.
    ///
    /// # Errors
    /// [`StateError`]: locked, newer, not ours, damaged, or no access. Nothing is changed then.
    pub fn open(path: &Path, lock: Lock) -> Result<(Self, WriterThread, ReaderThread), StateError> {
        let connection = schema::open(path)?;
        let reader = schema::open_reader(path)?;
        let (write, write_jobs) = DbHandle::new();
        let (read, read_jobs) = DbHandle::new();
        let reserve = wal_reservation::WalReserve::open(path)?;
        let room = reserve.room();
        let reader = ReaderThread::new(reader, read_jobs, Arc::clone(room.place()));
        let watch = place::Watch::open(Arc::clone(room.place()), lock.trust().clone())?;
        let writer = WriterThread {
            connection,
            jobs: write_jobs,
            reserve,
            watch,
            _lock: lock,
        };
        Ok((Self { write, read, room }, writer, reader))
    }

    /// A copy that lies in memory, as `look` makes it: what is changed in it is nowhere else. Run the worker.
    #[must_use]
    pub fn of_copy(copy: snapshot::Snapshot) -> (Self, ReaderThread) {
        let (port, jobs) = DbHandle::new();
        let room: Arc<wal_reservation::WalReservation> = Arc::default();
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

    /// Claims that a process which is gone left behind.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn orphans(&self) -> Result<Vec<Portal>, StateError> {
        self.read.run(claims::orphans).await
    }

    /// Gives a portal's grant the claim again that it had when its request was sent.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn claim_again(
        &self,
        portal: PortalName,
        claim: (ClaimId, Timestamp),
    ) -> Result<(), StateError> {
        self.write
            .run(move |connection| claims::claim_again(connection, &portal, claim))
            .await
    }

    /// Records what became of a claimed renewal, if the claim is still the grant's.
    ///
    /// # Errors
    /// [`StateError`]; then nothing was recorded and the caller must keep the pair and try again.
    pub async fn record(&self, record: Arc<RenewalRecord>) -> Result<Recorded, StateError> {
        self.write
            .run(move |connection| record::record(connection, &record))
            .await
    }

    /// Makes a portal due now, if it may be renewed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn request_renewal(
        &self,
        portal: PortalName,
        now: Timestamp,
    ) -> Result<RenewalRequest, StateError> {
        self.change(move |connection| claims::request_renewal(connection, &portal, now))
            .await
    }

    /// Takes a grant in. It wins over a renewal in flight.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn store_grant(&self, grant: NewGrant) -> Result<StoreOutcome, StateError> {
        self.keep(move |connection| grant_store::store_grant(connection, &grant))
            .await
    }

    /// Forgets a grant, so that its tokens are in no file of the state's any more; false if there was none. A portal that the configuration does not name goes altogether, be it
    /// that an install made it.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn forget(&self, portal: PortalName) -> Result<bool, StateError> {
        let room = Arc::clone(&self.room);
        self.keep(move |connection| {
            room.forget();
            grant_store::forget(connection, &portal)
        })
        .await
    }

    /// Portals that wait for a first refresh token, or for a better one, from their file.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn awaiting_files(&self) -> Result<Vec<Portal>, StateError> {
        self.read.run(grant_store::awaiting_files).await
    }

    /// Portals of these apps that have no grant of their client yet.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn awaiting_clients(&self, apps: Vec<String>) -> Result<Vec<Portal>, StateError> {
        self.read
            .run(move |connection| grant_store::awaiting_clients(connection, &apps))
            .await
    }

    /// Whether this refresh token came from outside before, and for which portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn holder_of_refresh_token(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<String>, StateError> {
        self.read
            .run(move |connection| grant_store::holder_of_refresh_token(connection, &fingerprint))
            .await
    }

    /// Makes the state name exactly these portals; grants of others stay, unconfigured.
    ///
    /// # Errors
    /// [`StateError`]; then the configuration before stays in force.
    pub async fn reconcile(
        &self,
        portals: Vec<Configured>,
        apps: Vec<AppFingerprint>,
        now: Timestamp,
    ) -> Result<Reconciled, StateError> {
        self.reconcile_with(portals, apps, Unnamed::Go, now).await
    }

    /// The same, with a word on what becomes of grants that are not named any more.
    ///
    /// # Errors
    /// [`StateError`]; then the configuration before stays in force.
    pub async fn reconcile_with(
        &self,
        portals: Vec<Configured>,
        apps: Vec<AppFingerprint>,
        unnamed: Unnamed,
        now: Timestamp,
    ) -> Result<Reconciled, StateError> {
        self.write
            .run(move |connection| reconcile::reconcile(connection, &portals, &apps, unnamed, now))
            .await
    }

    /// The client of an app is another than before: it is tried at once.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn client_changed(
        &self,
        app: AppFingerprint,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.write
            .run(move |connection| {
                reconcile::reconcile_app(connection, &app, now)
                    .map_err(|source| StateError::sql("follow a changed client", source))
            })
            .await
    }

    /// Asks for the escalations to be looked at again: of troubled grants, or of all.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn reschedule_escalations(&self, all: bool) -> Result<(), StateError> {
        self.write
            .run(move |connection| reconcile::reschedule_escalations(connection, all))
            .await
    }

    /// Moves every stored time by as much as the wall clock stepped.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn shift_times(&self, millis: i64) -> Result<(), StateError> {
        self.write
            .run(move |connection| reconcile::shift_times(connection, millis))
            .await
    }

    /// After a start: as [`Self::shift_times`] if the clock was set back by more than `tolerance` ms; by how much.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn adjust_clock(
        &self,
        now: Timestamp,
        tolerance: i64,
    ) -> Result<Option<i64>, StateError> {
        self.write
            .run(move |connection| reconcile::adjust_clock(connection, now, tolerance))
            .await
    }

    /// Grants whose next escalation step has come.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn escalations_due(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Portal>, StateError> {
        self.read
            .run(move |connection| listing::escalations_due(connection, now, limit))
            .await
    }

    /// When the next escalation step comes.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn next_escalation(&self) -> Result<Option<Timestamp>, StateError> {
        self.read.run(listing::next_escalation).await
    }

    /// Remembers what was told of a grant, unless it has moved on since, or somebody else told of it; false then. `seen` and
    /// `before` are where it stood and what had been told.
    ///
    /// # Errors
    /// [`StateError`]; then nothing may be announced.
    pub async fn set_notified(
        &self,
        portal: PortalName,
        generation: Generation,
        (seen, before): (GrantStatus, Vec<String>),
        told: Vec<String>,
        next: Option<Timestamp>,
    ) -> Result<bool, StateError> {
        let tell = move |connection: &_| {
            record::set_notified(
                connection,
                &portal,
                generation,
                (&seen, &before),
                &told,
                next,
            )
        };
        self.change(tell).await
    }

    /// One portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn portal(&self, name: PortalName) -> Result<Option<Portal>, StateError> {
        self.read
            .run(move |connection| listing::portal(connection, &name))
            .await
    }

    /// The portals after `after` in the order of their names, at most `limit`.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn page(
        &self,
        after: Option<PortalName>,
        limit: usize,
    ) -> Result<Vec<Portal>, StateError> {
        self.read
            .run(move |connection| listing::page(connection, after.as_ref(), limit))
            .await
    }

    /// How many portals there are of each kind, and how many are overdue.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn census(&self, now: Timestamp) -> Result<Census, StateError> {
        self.read
            .run(move |connection| listing::census(connection, now))
            .await
    }
}

#[cfg(test)]
mod tests;
