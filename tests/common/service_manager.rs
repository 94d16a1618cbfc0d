//! A service manager reduced to the part that refreshd uses: it listens on NOTIFY_SOCKET, keeps the descriptors sent to it,
//! and passes them to the next process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSliceMut, Read as _, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{Daemon, Rig};

/// File size limit that refuses every commit of SQLite while a pair still fits into memory.
pub const FULL: u64 = 4096;

/// Messages received and descriptors kept.
#[derive(Default)]
struct Known {
    received: Vec<String>,
    kept: Vec<(String, OwnedFd)>,
}

/// A service manager with a store.
pub struct ServiceManager {
    socket: PathBuf,
    known: Arc<Mutex<Known>>,
}

/// Options for starting a process.
pub struct Start<'s> {
    /// Value of FDSTORE, if the service manager sets it.
    pub room: Option<&'s str>,
    /// Whether LISTEN_PID names the process.
    pub to_it: bool,
    /// No file may have more bytes.
    pub longest_file: Option<u64>,
}

impl Default for Start<'_> {
    fn default() -> Self {
        Self {
            room: Some("16"),
            to_it: true,
            longest_file: None,
        }
    }
}

impl ServiceManager {
    /// Listens from now on.
    pub fn new(rig: &Rig) -> Self {
        let socket = rig.path("manager.sock");
        let listener = UnixDatagram::bind(&socket).expect("a socket");
        // A sender that is silent for so long ended with the test.
        listener
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a time limit");
        let known = Arc::new(Mutex::new(Known::default()));
        let shared = Arc::clone(&known);
        let thread =
            std::thread::Builder::new().spawn(move || while receive(&listener, &shared) {});
        thread.expect("a thread");
        Self { socket, known }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of the kept descriptors.
    pub fn names(&self) -> Vec<String> {
        self.known()
            .kept
            .iter()
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Messages received about its store.
    pub fn received(&self) -> Vec<String> {
        let received = &self.known().received;
        received
            .iter()
            .filter(|message| message.contains("FDSTORE"))
            .cloned()
            .collect()
    }

    /// Keeps another descriptor.
    pub fn keep(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        self.known().kept.push((name.to_owned(), descriptor.into()));
    }

    /// A duplicate of every kept descriptor.
    pub fn copies(&self) -> Vec<(String, OwnedFd)> {
        let copy = |(name, kept): &(String, OwnedFd)| {
            (name.clone(), kept.try_clone().expect("a descriptor"))
        };
        self.known().kept.iter().map(copy).collect()
    }

    /// Bytes of the kept descriptor.
    pub fn bytes(&self) -> Vec<u8> {
        let (_, kept) = self.copies().pop().expect("it keeps something");
        let (mut file, mut bytes) = (File::from(kept), Vec::new());
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
            .expect("a file");
        bytes
    }

    /// Starts the daemon with every kept descriptor, without waiting for anything.
    pub fn launch(&self, rig: &Rig, start: &Start<'_>) -> Daemon {
        rig.write_config();
        // Shells can open one-digit numbers only.
        let mut script = String::new();
        let mut names = Vec::new();
        for (number, (name, kept)) in (3..).zip(&self.known().kept) {
            assert!(number < 10, "too many for the shell");
            script += &format!(
                "exec {number}</proc/{}/fd/{}; ",
                std::process::id(),
                kept.as_raw_fd()
            );
            names.push(name.clone());
        }
        if let Some(longest) = start.longest_file {
            // In blocks of 512 bytes, and the soft limit alone: the test lifts it again.
            script += &format!("ulimit -S -f {}; ", longest / 512);
        }
        let process = if start.to_it { "$$" } else { "1" };
        script += &format!("export LISTEN_PID={process}; exec \"$0\" \"$@\"");
        let refreshd = rig.command(["run"]);
        let mut command = Command::new("/bin/sh");
        command.env_clear().env("NOTIFY_SOCKET", &self.socket);
        command
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        if let Some(room) = start.room {
            command.env("FDSTORE", room);
        }
        let arguments: Vec<OsString> = refreshd.get_args().map(OsString::from).collect();
        command
            .arg("-c")
            .arg(script)
            .arg(refreshd.get_program())
            .args(arguments);
        Daemon::spawn(command)
    }
}

/// Receives one message; false at the end.
fn receive(listener: &UnixDatagram, known: &Mutex<Known>) -> bool {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let Ok(message) = recvmsg(
        listener,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    ) else {
        return false;
    };
    let text = String::from_utf8_lossy(&bytes[..message.bytes]).into_owned();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("FDNAME="))
        .unwrap_or("stored")
        .to_owned();
    let mut descriptors = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            descriptors.extend(rights);
        }
    }
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if text.lines().any(|line| line == "FDSTORE=1") {
        known.kept.extend(
            descriptors
                .into_iter()
                .map(|descriptor| (name.clone(), descriptor)),
        );
    }
    if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
        known.kept.retain(|(kept, _)| *kept != name);
    }
    known.received.push(text);
    true
}
