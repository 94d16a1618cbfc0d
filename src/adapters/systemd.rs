//! What systemd is told: ready, reloading, stopping, a status line, and that the loop makes progress; and the file
//! descriptors that it keeps for the next process of the unit (`FileDescriptorStoreMax=`).
//!
//! Must not fail: without systemd every call does nothing. Must not keep time: `alive` is called by the loop itself. Must not
//! wait: whoever listens may have stopped reading, and what is told is less than what is done meanwhile.

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

/// The longest name that systemd accepts of a stored descriptor, in bytes.
const LONGEST_NAME: usize = 255;

/// What must be heard in the end, in this order, and was refused so far: a service manager that never hears of `READY=1` stops
/// the unit.
static UNHEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says that the daemon serves (`Type=notify`).
pub fn ready(status: &str) {
    insist(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that a reload began (`Type=notify-reload`; ignored by `notify`). [`ready`] ends it.
pub fn reloading() {
    // The crate stamps MONOTONIC_USEC, which systemd compares with the signal's time.
    let stamp = NotifyState::monotonic_usec_now().ok();
    let states: Vec<_> = std::iter::once(NotifyState::Reloading)
        .chain(stamp)
        .collect();
    // An earlier word is not news any more; the end of this reload says how it is.
    forget_unheard();
    insist(&states);
}

/// Says that the daemon is about to end.
pub fn stopping(status: &str) {
    forget_unheard();
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// The line that `systemctl status` shows.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that stopping is under way and needs a little longer, so that neither the watchdog nor `TimeoutStopSec=` cuts
/// off what was sent.
pub fn still_stopping(more: Duration) {
    let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Watchdog, NotifyState::ExtendTimeoutUsec(more)]);
}

/// Feeds the watchdog.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be called at least, if systemd watches: half of `WatchdogSec`, of which 0 means that it does not.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
        .filter(|limit| !limit.is_zero())
        .map(|limit| limit / 2)
}

/// Whether anybody hears what is told.
#[must_use]
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How many descriptors the service manager keeps for the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// None: there is no service manager.
    Nothing,
    /// It does not say: systemd before 254, or a unit without a store.
    Unknown,
    /// So many.
    UpTo(usize),
}

/// How many descriptors the service manager keeps.
#[must_use]
pub fn keeps() -> Keeps {
    match (listens(), std::env::var("FDSTORE")) {
        (false, _) => Keeps::Nothing,
        (true, Err(_)) => Keeps::Unknown,
        // Set by systemd 254 and later where the unit has a store.
        (true, Ok(most)) => match most.parse() {
            Ok(0) => Keeps::Nothing,
            Ok(most) => Keeps::UpTo(most),
            Err(_) => Keeps::Unknown,
        },
    }
}

/// Gives the service manager a descriptor to keep under this name. That it was sent does not say that it is kept.
///
/// # Errors
/// The operating system's; `WouldBlock` where the service manager is too busy to hear.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // It cannot be polled: a regular file has no end that the service manager could see.
    send(
        &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
        &[descriptor],
    )
}

/// Takes every descriptor of this name out of what is kept. Those that are no name are left there.
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
    (1..=LONGEST_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| (byte == b' ' || byte.is_ascii_graphic()) && byte != b':')
}

/// Never waits: whoever sends may be the loop that feeds the watchdog.
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

/// A descriptor that the service manager has handed over.
#[derive(Debug)]
pub struct Inherited {
    /// Under which name.
    pub name: String,
    /// A file of its own on what it refers to, to be read from the beginning; an error if it is none that could be.
    pub file: io::Result<File>,
}

/// How many descriptors the service manager has handed over. They stay open as long as this process lives: to close one
/// that was not opened here would take `unsafe`.
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

/// The descriptors that the service manager has handed over. No program that is started gets them.
///
/// # Errors
/// What it says of them is not true.
pub fn inherited() -> io::Result<Vec<Inherited>> {
    let inherited = |(descriptor, name)| Inherited {
        name,
        file: reopen(descriptor),
    };
    Ok(sd_notify::listen_fds_with_names()?.map(inherited).collect())
}

/// Opens what a descriptor of this process refers to once more, for reading. The process itself may, be it dumpable or not.
fn reopen(descriptor: RawFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{descriptor}");
    // A pipe would wait for its other end, a device may do anything.
    if FileType::from_raw_mode(rustix::fs::stat(&path)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no file"));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(&path, flags, Mode::empty())?))
}

/// Whether standard error goes to the journal.
#[must_use]
pub fn has_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

/// Says once more what was refused before and must be heard.
pub fn say_again() {
    let mut unheard = UNHEARD.lock().unwrap_or_else(PoisonError::into_inner);
    let heard = unheard
        .iter()
        .take_while(|message| send(message, &[]).is_ok())
        .count();
    unheard.drain(..heard);
}

fn forget_unheard() {
    UNHEARD
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
}

fn insist(states: &[NotifyState<'_>]) {
    UNHEARD
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(message(states));
    say_again();
}

fn tell(states: &[NotifyState<'_>]) {
    say_again();
    // Nobody listening, or a full socket: the next one may be heard, and the watchdog notices if it matters.
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
