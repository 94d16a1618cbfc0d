//! Files and directories that the superuser makes belong to the owner of the directory that they are in, as if that one had
//! made them: else a command of the administrator's would leave the daemon what it may not open.
//!
//! Must be given only what was made this moment: what lay there before may be somebody else's trap. Failing is no error:
//! without the right to give a file away everything goes on as it would have.

use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt as _, fchown, lchown};
use std::path::Path;

/// Gives away a file that was made this moment at that path.
pub(super) fn give_file(file: &File, path: &Path) {
    let Some((directory, made)) = directory_of(path).zip(file.metadata().ok()) else { return };
    if differs(&directory, &made) {
        let _ = fchown(file, Some(directory.uid()), Some(directory.gid()));
    }
}

/// The same of a directory or a socket.
pub fn give(path: &Path) {
    let Some((directory, made)) = directory_of(path).zip(path.symlink_metadata().ok()) else { return };
    if differs(&directory, &made) {
        let _ = lchown(path, Some(directory.uid()), Some(directory.gid()));
    }
}

/// The directory that it is in; `None` unless this is the superuser.
fn directory_of(path: &Path) -> Option<Metadata> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let is_superuser = rustix::process::geteuid().is_root();
    is_superuser.then(|| directory.unwrap_or(Path::new(".")).metadata().ok()).flatten()
}

/// The superuser's own directories are as they always were.
fn differs(directory: &Metadata, made: &Metadata) -> bool {
    directory.uid() != made.uid()
}
