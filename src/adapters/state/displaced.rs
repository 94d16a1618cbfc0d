//! Removed, moved or replaced files of an open state, as errors.

use std::path::{Path, PathBuf};

use super::file_names::{RESCUED, beside};

/// The state's files are not in their place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Displaced {
    /// They were removed. Detected once; the next check writes them back.
    #[error("the state {} was removed while refreshd runs: within seconds it is written back from what refreshd has open", path.display())]
    Removed {
        /// The state.
        path: PathBuf,
    },
    /// They were removed, and cannot be written back.
    #[error(
        "the state {} was removed while refreshd runs, and cannot be written back yet ({why}); do not stop refreshd: {}", path.display(),
        manual_recovery(path, *open)
    )]
    Lost {
        /// The state.
        path: PathBuf,
        /// The reason.
        why: String,
        /// The descriptors of the database and its log.
        open: (i32, i32),
    },
    /// It has another name.
    #[error("the state {} was moved while refreshd runs, and is {} now: move it back", path.display(), now.display())]
    Moved {
        /// The state.
        path: PathBuf,
        /// Its present path.
        now: PathBuf,
    },
    /// Another file is in its place.
    #[error(
        "the state {} was replaced by {by} while refreshd runs, and what refreshd has is kept in {}: to go on with that, remove \
         what was put in its place, and refreshd writes its own back; to go on with what was put there, restart refreshd",
        path.display(), kept.display()
    )]
    Replaced {
        /// The state.
        path: PathBuf,
        /// Kind of file in its place.
        by: &'static str,
        /// Path of the copy of the open state.
        kept: PathBuf,
    },
    /// Another file is in its place, and the open state holds nothing to keep: the right one came back, for example because its
    /// volume was mounted after the start.
    #[error(
        "the state {} was replaced by {by} while refreshd runs, and the one that refreshd began with holds no grant: the right state \
         seems to be back, as when its volume is mounted now. Restart refreshd, which then goes on with it; remove nothing",
        path.display()
    )]
    Returned {
        /// The state.
        path: PathBuf,
        /// Kind of file in its place.
        by: &'static str,
    },
    /// Another file is in its place, and no copy could be made.
    #[error(
        "the state {} was replaced by {by} while refreshd runs, and no copy of what refreshd has can be kept beside it ({why}); do \
         not stop refreshd: remove what was put in its place, and refreshd writes its own back, or {}", path.display(),
        manual_recovery(path, *open)
    )]
    Unkept {
        /// The state.
        path: PathBuf,
        /// Kind of file in its place.
        by: &'static str,
        /// Reason for which there is no copy.
        why: String,
        /// The descriptors of the database and its log.
        open: (i32, i32),
    },
}

fn manual_recovery(path: &Path, (database, log): (i32, i32)) -> String {
    let (pid, copy) = (std::process::id(), beside(path, RESCUED));
    let copy = copy.display();
    format!(
        "save it with cp /proc/{pid}/fd/{database} {copy} and cp /proc/{pid}/fd/{log} {copy}-wal"
    )
}
