//! Reads the files that a configuration names. Must not block on a pipe, nor read without a limit: a reload runs while the daemon
//! works.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::problem::os_reason;

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum FileReadError {
    /// An error of the operating system.
    Refused(io::Error),
    /// A directory, a pipe, a device or a socket.
    NotRegular,
    /// More than the limit, in bytes.
    TooLarge(u64),
}

impl FileReadError {
    /// The reason, to follow the name of the file.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Refused(error) => format!("cannot be read: {}", os_reason(error)),
            Self::NotRegular => "is not a regular file".to_owned(),
            Self::TooLarge(limit) => format!("is larger than {} KiB", limit / 1024),
        }
    }
}

/// Reads a regular file of at most `limit` bytes, and its metadata.
///
/// # Errors
/// [`FileReadError`].
pub(super) fn read(path: &Path, limit: u64) -> Result<(Vec<u8>, Metadata), FileReadError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened =
        open(path, flags, Mode::empty()).map_err(|error| FileReadError::Refused(error.into()))?;
    let file = File::from(opened);
    let about = file.metadata().map_err(FileReadError::Refused)?;
    if !about.is_file() {
        return Err(FileReadError::NotRegular);
    }
    if about.len() > limit {
        return Err(FileReadError::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(FileReadError::Refused)?;
    if bytes.len() as u64 > limit {
        Err(FileReadError::TooLarge(limit))
    } else {
        Ok((bytes, about))
    }
}
