//! systemd integration: readiness, reloading, stopping, the status line, the watchdog; and the file descriptor store for the
//! next process of the unit (`FileDescriptorStoreMax=`).
//!
//! Must not fail: without systemd every call does nothing. Must not keep time: the loop itself calls `alive`. Must not block:
//! the service manager may have stopped reading, and renewals are more important than notifications.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sd_notify::NotifyState;

/// Maximum length of a stored descriptor's name in systemd, in bytes.
const MAX_NAME_LENGTH: usize = 255;

/// Notifications that must arrive, in order, and were rejected so far: a service manager that never receives `READY=1` stops
/// the unit.
static PENDING: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notifies that the daemon serves (`Type=notify`).
pub fn ready(status: &str) {
    notify_reliably(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Notifies that a reload began: `systemctl status` shows it. [`ready`] ends it.
pub fn reloading() {
    // The crate adds MONOTONIC_USEC, which systemd compares with the signal's time.
    let stamp = NotifyState::monotonic_usec_now().ok();
    let states: Vec<_> = std::iter::once(NotifyState::Reloading)
        .chain(stamp)
        .collect();
    // Earlier notifications are obsolete; the end of this reload sends the current status.
    clear_pending();
    notify_reliably(&states);
}

/// Notifies that the daemon is about to exit.
pub fn stopping(status: &str) {
    clear_pending();
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Sets the status line of `systemctl status`.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Extends the stop timeout, so that neither the watchdog nor `TimeoutStopSec=` interrupts requests that were sent.
pub fn still_stopping(more: Duration) {
    let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Watchdog, NotifyState::ExtendTimeoutUsec(more)]);
}

/// Notifies the watchdog.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// Maximum interval between calls of [`alive`], if systemd watches: half of `WatchdogSec`; 0 disables it.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
        .filter(|limit| !limit.is_zero())
        .map(|limit| limit / 2)
}

/// Returns whether there is a notification socket.
#[must_use]
pub fn has_notify_socket() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Size of the service manager's file descriptor store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdStore {
    /// There is no service manager.
    Nothing,
    /// Not known: systemd before 254, or a unit without a store.
    Unknown,
    /// The size.
    UpTo(usize),
}

/// Size of the service manager's file descriptor store.
#[must_use]
pub fn fd_store() -> FdStore {
    match (has_notify_socket(), std::env::var("FDSTORE")) {
        (false, _) => FdStore::Nothing,
        (true, Err(_)) => FdStore::Unknown,
        // Set by systemd 254 and later if the unit has a store.
        (true, Ok(most)) => match most.parse() {
            Ok(0) => FdStore::Nothing,
            Ok(most) => FdStore::UpTo(most),
            Err(_) => FdStore::Unknown,
        },
    }
}

/// Stores a descriptor at the service manager under this name. Success does not prove that it was stored.
///
/// # Errors
/// The operating system's; `WouldBlock` if the service manager is too busy.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // FDPOLL=0 since a regular file cannot be polled.
    send(
        &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
        &[descriptor],
    )
}

/// Removes every stored descriptor of this name. Invalid names are ignored.
///
/// # Errors
/// As [`store`].
pub fn unstore(name: &str) -> io::Result<()> {
    if !is_name(name) {
        return Ok(());
    }
    send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name
            .bytes()
            .all(|byte| (byte == b' ' || byte.is_ascii_graphic()) && byte != b':')
}

/// Does not block: the caller may be the loop that notifies the watchdog.
fn send(message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address(&place)?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(
        &socket,
        &[IoSlice::new(message.as_bytes())],
        &mut control,
        flags,
    )?;
    Ok(())
}

fn address(place: &OsStr) -> io::Result<SocketAddr> {
    match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(place),
    }
}

/// A descriptor that was inherited from the service manager.
#[derive(Debug)]
pub struct Inherited {
    /// Its name.
    pub name: String,
    /// A new file on it, positioned at the start; an error if it cannot be reopened.
    pub file: io::Result<File>,
}

/// Number of inherited descriptors. They stay open for the lifetime of this process: closing them would need `unsafe`.
#[must_use]
pub fn count_inherited() -> usize {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<usize>().ok())
    };
    let is_ours = number("LISTEN_PID") == usize::try_from(std::process::id()).ok();
    number("LISTEN_FDS").filter(|_| is_ours).unwrap_or_default()
}

/// The inherited descriptors. Child processes do not get them.
///
/// # Errors
/// The service manager's variables are inconsistent.
pub fn inherited() -> io::Result<Vec<Inherited>> {
    let inherited = |(descriptor, name)| Inherited {
        name,
        file: reopen(descriptor),
    };
    Ok(sd_notify::listen_fds_with_names()?.map(inherited).collect())
}

/// Reopens a descriptor of this process for reading. Works whether the process is dumpable or not.
fn reopen(descriptor: RawFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{descriptor}");
    // A pipe would block, a device may do anything.
    if FileType::from_raw_mode(rustix::fs::stat(&path)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no file"));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(&path, flags, Mode::empty())?))
}

/// Returns whether standard error goes to the journal. A redirection leaves `JOURNAL_STREAM` unchanged, so the file is compared.
#[must_use]
pub fn has_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(found) = rustix::fs::fstat(rustix::stdio::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", found.st_dev, found.st_ino)
}

/// Resends the notifications that were rejected and must arrive.
pub fn resend_pending() {
    let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let sent = pending
        .iter()
        .take_while(|message| send(message, &[]).is_ok())
        .count();
    pending.drain(..sent);
}

fn clear_pending() {
    PENDING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
}

fn notify_reliably(states: &[NotifyState<'_>]) {
    PENDING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(message(states));
    resend_pending();
}

fn notify(states: &[NotifyState<'_>]) {
    resend_pending();
    // No listener, or a full socket: the next one may arrive, and the watchdog notices if it matters.
    let _ = send(&message(states), &[]);
}

fn message(states: &[NotifyState<'_>]) -> String {
    states.iter().map(|state| format!("{state}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_systemd_accepts() {
        for good in ["pair-acme-1", "stored", "a b", &"x".repeat(255)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a:b", "a\nFDSTORE=1", "портал", &"x".repeat(256)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
