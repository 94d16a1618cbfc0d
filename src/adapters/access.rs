//! What an account may do with files, found by asking the kernel as that account: on a thread of its own, which takes the account's ids
//! on and ends. Credentials are a thread's on Linux, so the other threads keep theirs.
//!
//! Must not open, read or change a file.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::service_manager::Account;

/// What is to be possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Read a file.
    Read,
    /// Read and write a file.
    Change,
    /// List a directory.
    List,
    /// Make files in a directory.
    Fill,
    /// Get to what is in a directory.
    Pass,
}

impl Want {
    const fn access(self) -> Access {
        match self {
            Self::Read => Access::READ_OK,
            Self::Change => Access::READ_OK.union(Access::WRITE_OK),
            Self::List => Access::READ_OK.union(Access::EXEC_OK),
            Self::Fill => Access::WRITE_OK.union(Access::EXEC_OK),
            Self::Pass => Access::EXEC_OK,
        }
    }
}

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The file, or a directory on the way to it.
    pub path: PathBuf,
    /// What would have to be possible there.
    pub want: Want,
}

/// For each path, what keeps this account from it; `None` if nothing does. Paths that are not there are no obstacle.
///
/// # Errors
/// This process cannot act as that account.
pub fn obstacles(
    account: &Account,
    wanted: &[(PathBuf, Want)],
) -> io::Result<Vec<Option<Obstacle>>> {
    std::thread::scope(|scope| {
        let looking = std::thread::Builder::new()
            .name("account".to_owned())
            .spawn_scoped(scope, || {
                become_account(account)?;
                let found = wanted.iter().map(|(path, want)| obstacle(path, *want));
                Ok(found.collect())
            })?;
        looking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// For this thread only.
fn become_account(account: &Account) -> io::Result<()> {
    if geteuid().as_raw() == account.uid {
        return Ok(());
    }
    let id = |number: u32| Gid::from_raw(number);
    let groups: Vec<_> = account.groups.iter().copied().map(id).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), id(account.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn obstacle(path: &Path, want: Want) -> Option<Obstacle> {
    let above: Vec<_> = path.ancestors().skip(1).collect();
    let on_the_way = above.into_iter().rev().map(|above| (above, Want::Pass));
    let (path, want) = on_the_way
        .chain([(path, want)])
        .filter(|(path, _)| !path.as_os_str().is_empty())
        .find(|(path, want)| is_refused(path, *want))?;
    Some(Obstacle {
        path: path.to_owned(),
        want,
    })
}

fn is_refused(path: &Path, want: Want) -> bool {
    match accessat(CWD, path, want.access(), AtFlags::EACCESS) {
        Ok(()) => false,
        Err(error) => !matches!(
            io::Error::from(error).kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}

/// Owner, group and mode of a path, as a person writes them: `root:root, mode 0600`.
#[must_use]
pub fn ownership(path: &Path) -> Option<String> {
    let found = std::fs::metadata(path).ok()?;
    Some(format!(
        "{}:{}, mode {:04o}",
        name("/etc/passwd", found.uid()),
        name("/etc/group", found.gid()),
        found.mode() & 0o7777
    ))
}

/// The name of a number in one of the machine's lists, or the number.
fn name(list: &str, number: u32) -> String {
    let text = std::fs::read_to_string(list).unwrap_or_default();
    let named = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| number.to_string())
}
