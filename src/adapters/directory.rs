//! Directories as open handles, and the files in them: the checked file is the used one, whatever another user renames meanwhile.
//!
//! A directory is trusted if it and each of its parents belong to root, to this user or to the owner of the configuration, and
//! if others cannot rename its entries. Symbolic links on the way are followed if one of these users owns them. Below an open
//! directory no link is followed. Must not decide the content of files.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Prefix of temporary files.
pub(super) const TEMPORARY: &str = ".refreshd-";
/// Maximum number of links, like the kernel's.
const MAX_LINKS: usize = 40;
/// Number of names to try for a temporary file.
const TRIES: usize = 16;
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Users whose directories are trusted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// In addition to root and the user of this process.
    others: Vec<u32>,
}

impl Trust {
    /// Root, this user, and the owner of the configuration, who can start programs as this user anyway.
    #[must_use]
    pub fn by_configuration(source: &Path) -> Self {
        Self {
            others: std::fs::metadata(source)
                .map(|found| found.uid())
                .into_iter()
                .collect(),
        }
    }

    /// Also the owner of this state: read-only commands and the superuser's commands act for the daemon of that user.
    #[must_use]
    pub fn and_owner_of(mut self, state: &Path) -> Self {
        self.others
            .extend(std::fs::metadata(parent(state)).map(|found| found.uid()));
        self
    }

    /// Returns whether this user is trusted.
    #[must_use]
    pub fn holds(&self, uid: u32) -> bool {
        uid == 0 || uid == geteuid().as_raw() || self.others.contains(&uid)
    }
}

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum UntrustedDirectory {
    /// The directory, or a parent, belongs to another user.
    #[error(
        "{} belongs to {owner}, who could read and replace what refreshd keeps in {}: give it to refreshd's user (chown), or \
         configure a directory that only root and refreshd can write", path.display(), wanted.display()
    )]
    Owner {
        /// The untrusted directory.
        path: PathBuf,
        /// The requested directory: below it, or the same.
        wanted: PathBuf,
        /// Name and number of the owner.
        owner: String,
    },
    /// Every user may rename its entries.
    #[error(
        "{} can be written by everybody (mode {mode:04o}, owner {owner}), so others could replace what refreshd keeps in {}: \
         chmod o-w it", path.display(), wanted.display()
    )]
    Writable {
        /// The untrusted directory.
        path: PathBuf,
        /// The requested directory: below it, or the same.
        wanted: PathBuf,
        /// Name and number of the owner.
        owner: String,
        /// Its permissions.
        mode: u32,
    },
    /// An error of the operating system.
    #[error("cannot open the directory {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl UntrustedDirectory {
    /// As an error of a file in the directory.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            refused => io::Error::new(ErrorKind::PermissionDenied, refused),
        }
    }
}

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOwnFile {
    /// A symbolic link.
    #[error(
        "is a symbolic link, and none is followed here; it was left untouched: put the file itself in its place"
    )]
    Link,
    /// A directory, a pipe, a device.
    #[error("is no regular file; it was left untouched: move it away")]
    Kind,
    /// Owned by another user.
    #[error(
        "belongs to {0}, who is neither root nor refreshd's user; it was left untouched: if it is the right one, as after a restore, give \
         it to refreshd's user (chown)"
    )]
    Owner(String),
}

/// Permissions of directories that are created.
#[derive(Clone, Copy, Debug)]
pub struct Make {
    /// Mode of the directory itself, whatever the umask.
    pub mode: u32,
    /// Mode of its parents, less the umask.
    pub above: u32,
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    handle: OwnedFd,
    /// The path, as requested.
    path: PathBuf,
    stat: Stat,
}

impl Directory {
    /// Opens the directory of any owner. Follows a link.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = fs::openat(CWD, path, flags, Mode::empty())?;
        Self::of(handle, path)
    }

    /// Opens the directory if it and all its parents are trusted. Missing ones are created, or an [`ErrorKind::NotFound`].
    ///
    /// # Errors
    /// [`UntrustedDirectory`].
    pub fn open_trusted(
        path: &Path,
        trust: &Trust,
        make: Option<Make>,
    ) -> Result<Self, UntrustedDirectory> {
        let refused = |source: io::Error| UntrustedDirectory::Io {
            path: path.to_owned(),
            source,
        };
        let absolute = std::path::absolute(path).map_err(refused)?;
        let mut rest: VecDeque<OsString> = parts(&absolute).collect();
        let mut at = Self::root(&absolute).map_err(refused)?;
        at.check(path, trust, rest.is_empty())?;
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            let found = match (
                fs::openat(&at.handle, part.as_os_str(), HANDLE, Mode::empty()),
                make,
            ) {
                (Err(Errno::NOENT), Some(make)) => {
                    let made = if rest.is_empty() {
                        at.make(&part, make.mode, true)
                    } else {
                        at.make(&part, make.above, false)
                    };
                    made.and_then(|()| {
                        Ok(fs::openat(
                            &at.handle,
                            part.as_os_str(),
                            HANDLE,
                            Mode::empty(),
                        )?)
                    })
                }
                (found, _) => found.map_err(io::Error::from),
            };
            let here = at.path.join(&part);
            let found = Self::of(found.map_err(refused)?, &here).map_err(refused)?;
            match found.kind() {
                FileType::Directory => {
                    found.check(path, trust, rest.is_empty())?;
                    at = found;
                }
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refused(Errno::LOOP.into()));
                    }
                    // A user who can redirect the path can read files written there.
                    found.check_owner(path, trust, rest.is_empty())?;
                    let target = fs::readlinkat(&found.handle, "", Vec::new())
                        .map_err(|error| refused(error.into()))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        at = Self::root(&target).map_err(refused)?;
                    }
                    parts(&target).rev().for_each(|part| rest.push_front(part));
                }
                _ => return Err(refused(Errno::NOTDIR.into())),
            }
        }
        at.path = path.to_owned();
        Ok(at)
    }

    /// Opens a subdirectory. A link is an error of its own.
    ///
    /// # Errors
    /// The operating system's.
    pub fn below(&self, name: &str) -> io::Result<Self> {
        let path = self.path.join(name);
        let found = Self::of(
            fs::openat(&self.handle, name, HANDLE, Mode::empty())?,
            &path,
        )?;
        match found.kind() {
            FileType::Directory => {}
            FileType::Symlink => {
                let why = "it is a symbolic link, which is not followed: replace it by a directory";
                return Err(io::Error::new(ErrorKind::NotADirectory, why));
            }
            _ => return Err(Errno::NOTDIR.into()),
        }
        // If others may create directories here, theirs must not be used.
        if self.stat.st_mode & 0o022 != 0 && !self.is_owner(found.stat.st_uid) {
            let owner = named(found.stat.st_uid);
            let why = format!(
                "it belongs to {owner}, who made it there: remove it, or give it to refreshd's user"
            );
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        Ok(found)
    }

    /// Creates a subdirectory; an existing one stays unchanged. `exact`: with this mode whatever the umask.
    ///
    /// # Errors
    /// The operating system's.
    pub fn make(&self, name: &OsStr, mode: u32, exact: bool) -> io::Result<()> {
        match fs::mkdirat(&self.handle, name, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) => return Ok(()),
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = fs::openat(&self.handle, name, flags, Mode::empty())?;
        if exact {
            fs::fchmod(&made, Mode::from_raw_mode(mode))?;
        }
        self.give(&File::from(made));
        Ok(())
    }

    /// Writes a file atomically: temporary file, final mode, fsync, rename. Readers see the old or the new content.
    ///
    /// # Errors
    /// The stage and the operating system's error; the old file is intact then, and the temporary one removed.
    pub fn write_whole(
        &self,
        name: &OsStr,
        contents: &[u8],
        mode: u32,
    ) -> Result<(), (&'static str, io::Error)> {
        let (temporary, mut file) = self
            .temporary()
            .map_err(|error| ("create a file beside", error))?;
        self.give(&file);
        let written = file
            .write_all(contents)
            .and_then(|()| Ok(fs::fchmod(&file, Mode::from_raw_mode(mode))?))
            .and_then(|()| file.sync_all())
            .map_err(|error| ("write", error));
        let renamed = written.and_then(|()| {
            let renamed = fs::renameat(&self.handle, temporary.as_str(), &self.handle, name);
            renamed.map_err(|error| ("replace", error.into()))
        });
        // Best effort: the next start sweeps.
        renamed.inspect_err(|_| drop(self.remove(OsStr::new(&temporary))))
    }

    fn temporary(&self) -> io::Result<(String, File)> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut last = Errno::EXIST;
        for _ in 0..TRIES {
            let rest: String = (0..6).map(|_| fastrand::alphanumeric()).collect();
            let name = format!("{TEMPORARY}{rest}");
            match fs::openat(
                &self.handle,
                name.as_str(),
                flags,
                Mode::from_raw_mode(0o600),
            ) {
                Ok(made) => return Ok((name, File::from(made))),
                Err(error) if error == Errno::EXIST => last = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.into())
    }

    /// Checks that files can be created in it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn try_writing(&self) -> io::Result<()> {
        let (name, _) = self.temporary()?;
        self.remove(OsStr::new(&name))
    }

    /// Sets the mode of a socket that this user has just created; anything else of that name stays unchanged.
    ///
    /// # Errors
    /// The operating system's, or that it is not such a socket.
    pub fn set_socket_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let found = Self::of(
            fs::openat(&self.handle, name, HANDLE, Mode::empty())?,
            &self.path,
        )?;
        if found.kind() != FileType::Socket || found.stat.st_uid != geteuid().as_raw() {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "it was replaced at this moment",
            ));
        }
        if found.mode() == mode {
            return Ok(());
        }
        // Permissions of a socket's handle can be set by this name only.
        let by_handle = format!("/proc/self/fd/{}", found.handle.as_raw_fd());
        match fs::chmod(by_handle, Mode::from_raw_mode(mode)) {
            Err(Errno::NOENT) => Err(io::Error::new(
                ErrorKind::Unsupported,
                "its mode cannot be set without /proc: mount it",
            )),
            done => Ok(done?),
        }
    }

    /// Removes a file. A missing one is not an error.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        match fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Renames a file, replacing an existing one.
    ///
    /// # Errors
    /// The operating system's.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(fs::renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Renames a file to a free name.
    ///
    /// # Errors
    /// The operating system's; [`ErrorKind::AlreadyExists`] if the name is not free.
    pub fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        fs::linkat(&self.handle, from, &self.handle, to, AtFlags::empty())?;
        self.remove(from)
    }

    /// Makes its entries durable (fsync).
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::fsync(fs::openat(
            &self.handle,
            ".",
            flags,
            Mode::empty(),
        )?)?)
    }

    /// Removes an empty subdirectory.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove_directory(&self, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR)?)
    }

    /// Opens a file for reading if it is a regular file of an owner who may write here anyway. Does not block and follows no
    /// link.
    ///
    /// # Errors
    /// The operating system's, or that it is not such a file.
    pub fn read_only(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(fs::openat(
            &self.handle,
            name.as_ref(),
            flags,
            Mode::empty(),
        )?);
        let found = file.metadata()?;
        if !found.is_file() || !self.is_owner(found.uid()) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "it is no file of refreshd's",
            ));
        }
        Ok(file)
    }

    /// Returns whether this is a regular file with content, of an owner who may write here anyway.
    ///
    /// # Errors
    /// The operating system's.
    pub fn has_contents(&self, name: &OsStr) -> io::Result<bool> {
        let found = fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        Ok(is_file && found.st_size > 0 && self.is_owner(found.st_uid))
    }

    /// Returns whether an entry is a regular file of an owner who may write here anyway; if not, why.
    ///
    /// # Errors
    /// The operating system's.
    pub fn check_file(&self, name: &OsStr) -> io::Result<Result<(), NotOwnFile>> {
        let found = fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile if self.is_owner(found.st_uid) => Ok(()),
            FileType::RegularFile => Err(NotOwnFile::Owner(named(found.st_uid))),
            FileType::Symlink => Err(NotOwnFile::Link),
            _ => Err(NotOwnFile::Kind),
        })
    }

    /// Removes all access except the owner's from a file, by its handle. Returns the previous mode if others had access.
    ///
    /// # Errors
    /// As [`Self::read_only`], or the operating system's.
    pub fn close_to_others(&self, name: &OsStr) -> io::Result<Option<u32>> {
        let file = self.read_only(name)?;
        let mode = file.metadata()?.mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(None);
        }
        fs::fchmod(&file, Mode::from_raw_mode(mode & 0o700))?;
        Ok(Some(mode))
    }

    /// Opens a file for reading and writing, or creates it with this mode. Does not block and follows no link.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open_or_make(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let new = flags | OFlags::CREATE | OFlags::EXCL;
        match fs::openat(&self.handle, name, new, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) => Ok(File::from(fs::openat(
                &self.handle,
                name,
                flags,
                Mode::empty(),
            )?)),
            made => {
                let made = File::from(made?);
                self.give(&made);
                Ok(made)
            }
        }
    }

    /// Content of such a file, at most `most` bytes.
    ///
    /// # Errors
    /// As [`Self::read_only`].
    pub fn read(&self, name: impl AsRef<OsStr>, most: u64) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        let file = self.read_only(name)?;
        if file.metadata()?.len() > most {
            return Err(ErrorKind::FileTooLarge.into());
        }
        file.take(most + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 > most {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(contents)
    }

    /// The entries, and whether each is a regular file, a directory or something else.
    #[must_use]
    pub fn names(&self) -> Vec<(OsString, FileType)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(readable) = fs::openat(&self.handle, ".", flags, Mode::empty()) else {
            return Vec::new();
        };
        let Ok(entries) = Dir::new(readable) else {
            return Vec::new();
        };
        let named = |entry: fs::DirEntry| {
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            let found =
                fs::statat(&self.handle, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((name, FileType::from_raw_mode(found.st_mode)))
        };
        let entries = entries.filter_map(Result::ok).filter_map(named);
        entries
            .filter(|(name, _)| name != "." && name != "..")
            .collect()
    }

    /// Device and inode.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The owner's name, if the owner is not trusted.
    #[must_use]
    pub fn foreign_owner(&self, trust: &Trust) -> Option<String> {
        let uid = self.stat.st_uid;
        (!trust.holds(uid)).then(|| named(uid))
    }

    /// Its mode.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// Files that the superuser creates are given to the owner of the directory.
    fn give(&self, made: &File) {
        let Ok(found) = made.metadata() else { return };
        if geteuid().is_root() && found.uid() != self.stat.st_uid {
            // Best effort: the right to change the owner may be missing.
            let _ = std::os::unix::fs::fchown(made, Some(self.stat.st_uid), Some(self.stat.st_gid));
        }
    }

    /// Returns whether files of this owner are refreshd's own here. The superuser's files are given to the directory's owner.
    fn is_owner(&self, uid: u32) -> bool {
        uid == geteuid().as_raw() || uid == 0 || uid == self.stat.st_uid
    }

    fn root(path: &Path) -> io::Result<Self> {
        Self::open(if path.is_absolute() {
            Path::new("/")
        } else {
            Path::new(".")
        })
    }

    fn of(handle: OwnedFd, path: &Path) -> io::Result<Self> {
        let stat = fs::fstat(handle.as_fd())?;
        Ok(Self {
            handle,
            path: path.to_owned(),
            stat,
        })
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn check(&self, wanted: &Path, trust: &Trust, is_last: bool) -> Result<(), UntrustedDirectory> {
        self.check_owner(wanted, trust, is_last)?;
        // In a directory with the sticky bit only the owner of an entry may rename it.
        if self.stat.st_mode & 0o1002 == 0o002 {
            return Err(UntrustedDirectory::Writable {
                path: self.path.clone(),
                wanted: wanted.to_owned(),
                owner: named(self.stat.st_uid),
                mode: self.mode(),
            });
        }
        Ok(())
    }

    fn check_owner(
        &self,
        wanted: &Path,
        trust: &Trust,
        is_last: bool,
    ) -> Result<(), UntrustedDirectory> {
        let uid = self.stat.st_uid;
        // In a user namespace the machine's own directories have an unmapped owner.
        if trust.holds(uid) || !is_last && is_unmapped(uid) {
            return Ok(());
        }
        Err(UntrustedDirectory::Owner {
            path: self.path.clone(),
            wanted: wanted.to_owned(),
            owner: named(uid),
        })
    }
}

/// Returns whether a call failed for lack of a file descriptor of this process or machine: that has nothing to do with the file.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|raw| shortages.contains(&raw))
}

/// The directory of a file.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty());
    directory.unwrap_or(Path::new("."))
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Returns whether the number stands for users outside this user namespace.
fn is_unmapped(uid: u32) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if read("/proc/sys/kernel/overflowuid").trim().parse() != Ok(uid) {
        return false;
    }
    let map = read("/proc/self/uid_map");
    let holds = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return true;
        };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    };
    !map.is_empty() && !map.lines().any(holds)
}

/// A user's name, if the machine's own list has it, and the number.
pub(super) fn named(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.contains(char::is_control))?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.map_or_else(
        || format!("user {uid}"),
        |name| format!("{name} (user {uid})"),
    )
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
