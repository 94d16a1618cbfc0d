//! Files and directories that are made once: with their owner and mode from the beginning, and never in the place of another.
//!
//! Must not change what is there, but for the group and the mode of a file that is to be shared.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, fchown};
use std::path::Path;

/// Makes a file with this content; an error if there is one of that name, which is left as it is.
///
/// # Errors
/// The operating system's; `AlreadyExists` if the name is taken.
pub fn write_new(path: &Path, contents: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    let directory = super::directory::parent(path);
    // Others have no access before the content is there.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(contents)?;
    if group.is_some() {
        fchown(file.as_file(), None, group)?;
    }
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    rustix::fs::fsync(std::fs::File::open(directory)?)?;
    Ok(())
}

/// Makes a directory, and those above it, which everybody may pass; false if it is there, which is left as it is.
///
/// # Errors
/// The operating system's.
pub fn make_directory(path: &Path, mode: u32, group: Option<u32>) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(above)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(path)?;
    if group.is_some() {
        chown(path, None, group)?;
    }
    // A change of the group takes the setgid bit away, so the mode comes last.
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(true)
}

/// Gives a file that is there the mode and the group with which the service reads it; false if it has them.
///
/// # Errors
/// The operating system's.
pub fn share(path: &Path, mode: u32, group: Option<u32>) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(path)?;
    let has_group = group.is_none_or(|group| found.gid() == group);
    if has_group && found.mode() & 0o7777 == mode {
        return Ok(false);
    }
    if !has_group {
        chown(path, None, group)?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(true)
}
