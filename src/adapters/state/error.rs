//! Errors of the state.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{ErrorCode, ffi};

use super::displaced::Displaced;
use crate::adapters::directory::{NotOwnFile, UntrustedDirectory};
use crate::domain::name::PortalName;

/// Error of the state. It names the stage, and never contains a stored value.
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
        /// It is a command that will end soon.
        is_brief: bool,
    },
    /// It changed while it was read.
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
        /// This program's version.
        known: usize,
    },
    /// Not a state at all.
    #[error("{} is not a refreshd state; it was left untouched", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Its directory belongs to another user.
    #[error("the state's directory is not used")]
    Directory(#[source] UntrustedDirectory),
    /// It, or a file beside it, was not created by refreshd.
    #[error("{} {why}", path.display())]
    Trap {
        /// The file.
        path: PathBuf,
        /// Reason for which it is not refreshd's.
        why: NotOwnFile,
    },
    /// It, or a file beside it, belongs to another user, and this one may not open it.
    #[error(
        "cannot open {}, which belongs to {owner}: if this user is refreshd's, give it the file (chown), else run this as root", path.display()
    )]
    Denied {
        /// The file.
        path: PathBuf,
        /// Name and number.
        owner: String,
    },
    /// SQLite finds it damaged.
    #[error("the state {} is damaged ({detail}); it was left untouched: restore it from a backup", path.display())]
    Damaged {
        /// The state.
        path: PathBuf,
        /// SQLite's message.
        detail: String,
    },
    /// The file system returned an error.
    #[error("cannot {stage} {}", path.display())]
    File {
        /// Stage that failed.
        stage: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Traces of grants beside it cannot be read: a spent token could be sent.
    #[error(
        "cannot read {}, since no file descriptor is left; nothing was sent: raise LimitNOFILE= of the unit, or ulimit -n",
        path.display()
    )]
    Descriptors {
        /// The file, or the directory of the token files.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A possibly incomplete configuration does not name portals whose grants are alive.
    #[error("{} portals whose grants are alive are not named any more", living.len())]
    Unnamed {
        /// The portals.
        living: Vec<PortalName>,
    },
    /// Its files were removed, moved or replaced while they are open.
    #[error(transparent)]
    Displaced(#[from] Displaced),
    /// SQLite returned an error.
    #[error("cannot {stage}")]
    Sql {
        /// Stage that failed.
        stage: &'static str,
        /// The cause.
        source: rusqlite::Error,
    },
    /// The transaction this belonged to did not become durable.
    #[error("not written to the state")]
    Commit(#[source] Arc<StateError>),
    /// A value that JSON cannot represent; impossible with the stored types.
    #[error("a value cannot be stored")]
    Unrepresentable,
    /// The disk has no space for the expected outcomes.
    #[error("the disk has no room for new pairs: {kilobytes} KB cannot be had for {}", path.display())]
    NoRoom {
        /// File that would grow.
        path: PathBuf,
        /// Kilobytes needed.
        kilobytes: u64,
        /// The cause.
        source: Option<Arc<std::io::Error>>,
    },
    /// The store's threads have ended.
    #[error("the state is closed")]
    Stopped,
}

impl StateError {
    pub(super) fn file(stage: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File {
            stage,
            path: path.to_owned(),
            source,
        }
    }

    /// True if the data on the disk cannot be read or is no database: damage, not a full disk.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Commit(error) => error.is_damage(),
            Self::Sql { source, .. } => source.sqlite_error().is_some_and(|error| {
                matches!(
                    error.code,
                    ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase
                ) || matches!(
                    error.extended_code,
                    ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ
                )
            }),
            _ => false,
        }
    }

    pub(super) fn sql(stage: &'static str, source: rusqlite::Error) -> Self {
        Self::Sql { stage, source }
    }
}
