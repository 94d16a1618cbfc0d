//! What the file system of a directory has left, for this user.
//!
//! Must not write.

use std::path::Path;

use rustix::fs::{statfs, statvfs};

use crate::domain::token_space::FreeSpace;

/// tmpfs, of statfs(2).
const TMPFS_MAGIC: i128 = 0x0102_1994;

/// Free space where this directory is, or will be; and whether it is in memory. `None` if that cannot be seen.
#[must_use]
pub fn of(directory: &Path) -> Option<(FreeSpace, bool)> {
    let there = directory.ancestors().find(|path| path.exists())?;
    let found = statvfs(there).ok()?;
    let kind = statfs(there).ok()?.f_type;
    let free = FreeSpace {
        bytes: found.f_bavail.saturating_mul(found.f_frsize),
        // Btrfs and others make them as needed.
        inodes: (found.f_files > 0).then_some(found.f_favail),
        block: found.f_frsize.max(512),
    };
    Some((free, i128::from(kind) == TMPFS_MAGIC))
}

/// Number of directories in it, without hidden ones.
#[must_use]
pub fn count_directories(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            !entry.file_name().as_encoded_bytes().starts_with(b".")
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
        .count()
}
