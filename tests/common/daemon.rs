//! A running daemon: its process, its log and its end.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use refreshd_time::clock::Clock;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use super::SOON;

/// The daemon's process. It is killed on drop.
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts a command that logs to standard error.
    pub fn spawn(mut command: Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let reader = Builder::new()
            .spawn(move || read(stderr, &lines))
            .expect("a thread");
        Self {
            child,
            log,
            reader: Some(reader),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its peak memory so far, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
        peak.expect("the kernel reports it")
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.lines().join("\n")
    }

    /// Number of lines logged so far, for [`Daemon::wait_after`].
    pub fn mark(&self) -> usize {
        self.lines().len()
    }

    /// Every event so far that satisfies the predicate.
    pub fn events(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.events_after(0, wanted)
    }

    /// Every event since the mark that satisfies the predicate.
    pub fn events_after(&self, mark: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let lines = self.lines()[mark..].to_vec();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(wanted)
            .collect()
    }

    /// The escalations so far of this portal (or app), as `(step, severity)`.
    pub fn steps(&self, of: &str) -> Vec<(String, String)> {
        let escalations = self.events(|event| {
            event["target"] == "refreshd::escalation"
                && (event["portal"] == of || event["app"] == of)
        });
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        escalations
            .iter()
            .map(|event| (text(event, "step"), text(event, "severity")))
            .collect()
    }

    /// Waits until such an event was logged, possibly before this call, and returns the first.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_after(0, SOON, what, wanted)
    }

    /// Waits until such an event is logged after the mark.
    #[track_caller]
    pub fn wait_after(
        &self,
        mark: usize,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let clock = Clock::system();
        let began = clock.tick();
        loop {
            let ended = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
            if let Some(event) = self.events_after(mark, &wanted).into_iter().next() {
                return event;
            }
            assert!(
                !ended,
                "the daemon ended, and there was no such event: {what}"
            );
            assert!(
                clock.elapsed(began) < limit,
                "no such event within {limit:?}: {what}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The outcomes of the portal's renewals so far, in order.
    pub fn outcomes(&self, portal: &str) -> Vec<String> {
        let renewals =
            self.events(|event| event["outcome"].is_string() && event["portal"] == portal);
        renewals
            .iter()
            .filter_map(|event| event["outcome"].as_str().map(str::to_owned))
            .collect()
    }

    /// Waits for that escalation step of this portal (or app).
    #[track_caller]
    pub fn wait_for_step(&self, of: &str, step: &str) -> Value {
        self.wait_after(0, SOON, &format!("the step {step} of {of}"), |event| {
            super::is_step(event, step) && (event["portal"] == of || event["app"] == of)
        })
    }

    /// Waits until a renewal of the portal has this outcome.
    #[track_caller]
    pub fn wait_for_outcome(&self, portal: &str, outcome: &str) -> Value {
        self.wait_after(
            0,
            SOON,
            &format!("{outcome} as the outcome of a renewal of {portal}"),
            |event| {
                event["outcome"].is_string()
                    && event["portal"] == portal
                    && event["outcome"] == outcome
            },
        )
    }

    /// Sends SIGTERM.
    pub fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Sends SIGHUP, which reloads the configuration.
    pub fn sighup(&self) {
        self.signal("HUP");
    }

    /// Waits for its end: the exit code, or minus the number of the signal that ended it.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> i32 {
        let status = super::eventually("the daemon's end", limit, || {
            self.child.try_wait().expect("a child")
        });
        self.join();
        code(status)
    }

    /// Limits the size of its files to so many bytes: 0 simulates a full disk. `None` removes the limit.
    pub fn limit_file_size(&self, bytes: Option<u64>) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        // The soft limit, which can be raised again; the hard one stays.
        let limit = Rlimit {
            current: bytes,
            maximum: getrlimit(Resource::Fsize).maximum,
        };
        prlimit(pid, Resource::Fsize, limit).expect("a process of the same user");
    }

    /// Stops it cleanly.
    #[track_caller]
    pub fn stop(mut self) {
        self.sigterm();
        assert_eq!(self.wait_exit(SOON), 0, "SIGTERM is a good end");
    }

    /// Kills it, as a power cut would.
    pub fn kill9(mut self) {
        self.end();
    }

    /// The process has not been waited for yet, so its id cannot belong to another process.
    /// Sends it the signal of this name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("/bin/sh")
            .args(["-c", &kill])
            .status()
            .expect("a shell");
        assert!(sent.success(), "{kill}: the daemon is gone");
    }

    fn end(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of the log does not panic");
        }
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "part of a failed test's output")]
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let lines = self.lines();
            let last = &lines[lines.len().saturating_sub(60)..];
            eprintln!(
                "--- the daemon's log, its last {} lines\n{}\n---",
                last.len(),
                last.join("\n")
            );
        }
    }
}

fn read(stderr: ChildStderr, lines: &Mutex<Vec<String>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| -signal))
        .expect("it has ended")
}
