//! A socket that the superuser makes, and its directory, belong to the owner of the directory that they are in, as if that
//! one had made them: else a command of the administrator's would leave the daemon what it may not open. Files and
//! directories of `directory` are given away there, by their handles.
//!
//! Must be given only what was made this moment: what lay there before may be somebody else's trap. Failing is no error:
//! without the right to give a file away everything goes on as it would have.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

/// Gives away what was made this moment at that path.
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

/// The superuser's own directories are as they always were.
fn differs(directory: &Metadata, made: &Metadata) -> bool {
    directory.uid() != made.uid()
}
