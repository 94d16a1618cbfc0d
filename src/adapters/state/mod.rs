//! The private store: grants, claims, alerts. SQLite behind one narrow handle.
//!
//! [`State`] is the interface; every method is one durable transaction or one snapshot, and returns domain types. PostgreSQL is
//! planned behind the same methods; `conformance` tests their promises. The store decides which portals are due, so memory
//! does not grow with the number of portals. Must not decide anything about renewal, nor hold a transaction across an `await`.

mod alerts;
mod app_fingerprint;
mod candidate_rows;
mod candidates;
mod carried;
mod claims;
mod clients;
mod displaced;
mod displacement;
mod disputes;
mod error;
mod file_names;
mod grant_columns;
mod grant_store;
mod handle;
mod holders;
mod incomplete;
mod install_events;
mod installation;
mod installs;
mod listing;
mod metadata;
mod migrations;
mod pages;
mod place;
mod quarantine;
mod read_connection;
mod reconcile;
mod record;
mod recover;
mod rows;
mod schema;
mod snapshot;
mod superseded;
mod unread;
mod wal_reservation;
mod worker;

pub use app_fingerprint::AppFingerprint;
pub use candidates::{
    Candidate, CandidateOutcome, CandidateRecorded, Offer, Offered, RecordCandidate,
};
pub use carried::{Carried, CarriedPair, CopyDamage, Load, Unsaved};
pub use claims::{Claims, RenewalRequest};
pub use displaced::Displaced;
pub use disputes::{NewDispute, OpenDispute, RecordedDispute};
pub use error::StateError;
pub use file_names::{RESCUED, beside};
pub use grant_store::{NewGrant, StoreOutcome};
pub use handle::State;
pub use install_events::{NewEvent, StoredEvent};
pub use installation::{InstallRecord, InstalledGrant, OverGrant, Uninstall, Uninstalled};
pub use installs::InstallOutcome;
pub use listing::Census;
pub use pages::{PortalCursor, PortalPage, PortalPages};
pub use read_connection::ReadConnection;
pub use reconcile::{PortalChanges, Unnamed};
pub use recover::RecoverOutcome;
pub use schema::{
    Header, Lock, SCHEMA_VERSION, Tenure, check_files, close_to_others, inspect, lock, lock_as,
    oddities,
};
pub use snapshot::{CheckOutcome, SnapshotOutcome, StateCheck, take_snapshot};
pub use worker::{Disk, DiskFuture, ReaderThread, WriterThread};

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
