//! Destinations of log lines: standard error, or the journal's socket. Both may block, so only the log's own thread writes here.
//!
//! Must not use the standard library's handle to standard error: it has a lock, and other output would wait for a blocked log
//! reader.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::io::Errno;

use super::queue::{LineLost, Sink};

/// The journal's socket for its native protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Retry interval while the reader of a non-blocking standard error is full.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);

/// Standard error.
#[derive(Default)]
pub(super) struct StandardError {
    /// The last line was truncated: the next must start on a new line.
    is_cut_off: bool,
}

impl Sink for StandardError {
    fn deliver(&mut self, line: &[u8]) -> Result<(), LineLost> {
        if self.is_cut_off {
            write(b"\n").map_err(|_| LineLost)?;
            self.is_cut_off = false;
        }
        write(line).map_err(|begun| {
            self.is_cut_off = begun;
            LineLost
        })
    }
}

/// Writes all of it; an error states whether some of it was written. After a closed pipe or a full disk the line is lost, and the
/// next is tried.
fn write(line: &[u8]) -> Result<(), bool> {
    let mut rest = line;
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => std::thread::sleep(RECONNECT_AFTER),
            Err(_) => return Err(rest.len() < line.len()),
        }
    }
    Ok(())
}

/// The journal. Each line is a datagram of its native protocol.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// Opens a socket. A missing journal is an error; one that does not read, or is being restarted, is not: its lines are lost
    /// and counted until it is back.
    pub(super) fn open() -> std::io::Result<Self> {
        // Sending may block if the queue is full; connecting does not.
        match UnixDatagram::unbound()?.connect(JOURNAL) {
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => return Err(error),
            Err(_) | Ok(()) => {}
        }
        Ok(Self(UnixDatagram::unbound()?))
    }
}

impl Sink for Journal {
    fn deliver(&mut self, line: &[u8]) -> Result<(), LineLost> {
        // The journal may restart: the address is resolved for each datagram.
        while let Err(error) = self.0.send_to(line, JOURNAL) {
            if error.kind() != ErrorKind::Interrupted {
                return Err(LineLost);
            }
        }
        Ok(())
    }
}
