//! A socket that the superuser creates, and its directory, are given to the owner of the directory that they are in: else an
//! administrator's command would leave files that the daemon cannot open. `directory` does the same for its files and
//! directories, by their handles.
//!
//! Must be given only entries that were created just now: an older entry may be another user's trap. Failures are ignored: without the
//! right to change the owner nothing is different.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

/// Changes the owner of an entry just created at that path.
pub fn give_to_directory_owner(path: &Path) {
    let Some((directory, made)) = directory_of(path).zip(path.symlink_metadata().ok()) else {
        return;
    };
    if differs(&directory, &made) {
        let _ = lchown(path, Some(directory.uid()), Some(directory.gid()));
    }
}

/// The directory that it is in; `None` unless this is the superuser.
fn directory_of(path: &Path) -> Option<Metadata> {
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty());
    let is_superuser = rustix::process::geteuid().is_root();
    is_superuser
        .then(|| directory.unwrap_or(Path::new(".")).metadata().ok())
        .flatten()
}

/// The superuser's own directories stay unchanged.
fn differs(directory: &Metadata, made: &Metadata) -> bool {
    directory.uid() != made.uid()
}
