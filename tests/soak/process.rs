//! A daemon process whose log can be left unread and whose descriptors can be limited.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::common::eventually;

/// SIGTERM is obeyed within this time.
pub const LONGEST_STOP: Duration = Duration::from_secs(20);
/// The smallest pipe that the kernel makes.
const PIPE: usize = 4096;
/// Number of log lines to keep.
const KEPT: usize = 40;

pub struct Process {
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<VecDeque<String>>,
    paused: Mutex<bool>,
    goes_on: Condvar,
}

impl Process {
    pub fn spawn(mut command: Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        rustix::pipe::fcntl_setpipe_size(&stderr, PIPE).expect("a small pipe");
        let log = Arc::new(Log::default());
        let kept = Arc::clone(&log);
        let reader = std::thread::Builder::new().spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let paused = kept.paused.lock().unwrap_or_else(PoisonError::into_inner);
                drop(kept.goes_on.wait_while(paused, |paused| *paused));
                let mut lines = kept.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == KEPT {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
        drop(reader.expect("a thread"));
        Self { child, log }
    }

    /// Stops or resumes reading its log.
    pub fn read_log(&self, reads: bool) {
        *self
            .log
            .paused
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = !reads;
        self.log.goes_on.notify_all();
    }

    /// The last lines of its log.
    pub fn output(&self) -> String {
        let lines = self
            .log
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("/bin/sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status();
        assert!(
            sent.expect("a shell").success(),
            "it is gone: {}",
            self.output()
        );
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Its exit code.
    #[track_caller]
    pub fn end(&mut self, limit: Duration) -> Option<i32> {
        eventually("its end", limit, || self.child.try_wait().expect("a child")).code()
    }

    /// Its peak memory, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_default();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .unwrap_or_default()
    }

    /// Sets this limit of descriptors and returns the former one.
    pub fn limit_descriptors(&self, most: u64) -> u64 {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed());
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current = Some(most);
        let before = rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit)
            .expect("it runs");
        before.current.unwrap_or(u64::MAX)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
