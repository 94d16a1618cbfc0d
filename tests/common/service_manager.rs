//! A service manager as far as refreshd knows one: it listens on NOTIFY_SOCKET, keeps the descriptors that it is given, and
//! hands them over to the next process.

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

/// A disk that takes no commit of SQLite's, and still a pair in memory: no file may have more bytes.
pub const FULL: u64 = 4096;

/// What it has heard and what it keeps.
#[derive(Default)]
struct Known {
    heard: Vec<String>,
    kept: Vec<(String, OwnedFd)>,
}

/// A service manager with a store.
pub struct ServiceManager {
    socket: PathBuf,
    known: Arc<Mutex<Known>>,
}

/// How a process is started.
pub struct Start<'s> {
    /// What FDSTORE says, if the service manager says it.
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
        // Whoever has not been heard for so long has gone with the test.
        listener
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a time limit");
        let known = Arc::new(Mutex::new(Known::default()));
        let hears = Arc::clone(&known);
        let thread = std::thread::Builder::new().spawn(move || while hear(&listener, &hears) {});
        thread.expect("a thread");
        Self { socket, known }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of what it keeps.
    pub fn names(&self) -> Vec<String> {
        self.known()
            .kept
            .iter()
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What it has heard of its store.
    pub fn heard(&self) -> Vec<String> {
        let heard = &self.known().heard;
        heard
            .iter()
            .filter(|message| message.contains("FDSTORE"))
            .cloned()
            .collect()
    }

    /// Keeps this too.
    pub fn keep(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        self.known().kept.push((name.to_owned(), descriptor.into()));
    }

    /// A second descriptor of everything that it keeps.
    pub fn copies(&self) -> Vec<(String, OwnedFd)> {
        let copy = |(name, kept): &(String, OwnedFd)| {
            (name.clone(), kept.try_clone().expect("a descriptor"))
        };
        self.known().kept.iter().map(copy).collect()
    }

    /// The bytes of what it keeps.
    pub fn bytes(&self) -> Vec<u8> {
        let (_, kept) = self.copies().pop().expect("it keeps something");
        let (mut file, mut bytes) = (File::from(kept), Vec::new());
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
            .expect("a file");
        bytes
    }

    /// Starts the daemon with everything that it keeps, without waiting for anything.
    pub fn launch(&self, rig: &Rig, start: &Start<'_>) -> Daemon {
        rig.write_config();
        // One-digit numbers are all that every shell can open.
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

/// Hears one message; false at the end.
fn hear(listener: &UnixDatagram, known: &Mutex<Known>) -> bool {
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
    known.heard.push(text);
    true
}
