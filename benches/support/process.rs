//! The contestants as processes, and their resource usage from the kernel.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::place::Place;
use super::roles::ROLE;

/// A daemon with many portals takes some time to be ready.
const READY: Duration = Duration::from_secs(300);
/// Ticks per second of CPU times in `/proc`, the same on every Linux.
const TICKS: f64 = 100.0;

/// Resource usage of a process.
#[derive(Clone, Copy)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_mb: f64,
    pub anonymous_mb: f64,
    pub peak_mb: f64,
}

fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the command's name in parentheses, user and system time are fields 12 and 13.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mb = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes: Option<f64> =
            line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kilobytes
            .map(|kilobytes| kilobytes / 1024.0)
            .with_context(|| format!("{name} of /proc/{pid}/status"))
    };
    Ok(Usage {
        cpu_seconds: ticks as f64 / TICKS,
        resident_mb: mb("VmRSS")?,
        anonymous_mb: mb("RssAnon")?,
        peak_mb: mb("VmHWM")?,
    })
}

/// This binary in another role, controlled by lines on standard input and output.
pub struct Child {
    child: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Child {
    /// The fake authorization server.
    pub fn server(place: &Place, portals: usize, delay: u64) -> Result<Self> {
        Self::start(&[
            "server",
            &place.dir().to_string_lossy(),
            &portals.to_string(),
            &delay.to_string(),
        ])
    }

    /// The bare loop.
    pub fn bare(place: &Place, url: &str) -> Result<Self> {
        Self::start(&["bare", &place.dir().to_string_lossy(), url])
    }

    /// The floor.
    pub fn floor(place: &Place, url: &str) -> Result<Self> {
        Self::start(&[
            "floor",
            &place.dir().to_string_lossy(),
            &place.tokens().to_string_lossy(),
            url,
        ])
    }

    fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        Ok(Self { child, lines })
    }

    /// Waits for a line that begins with this word, and returns the rest.
    pub fn word(&mut self, word: &str) -> Result<String> {
        let line = self
            .lines
            .next()
            .with_context(|| format!("it ended before it printed {word}"))??;
        let rest = line
            .strip_prefix(word)
            .with_context(|| format!("it printed {line}, not {word}"))?;
        Ok(rest.trim().to_owned())
    }

    pub fn send_line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(
            self.child.stdin.as_mut().context("its input")?,
            "{line}"
        )?)
    }

    pub fn usage(&self) -> Result<Usage> {
        usage(self.child.id())
    }

    /// Lets it exit.
    pub fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        ensure!(self.child.wait()?.success(), "it failed");
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has exited already unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real daemon.
pub struct Daemon {
    child: std::process::Child,
    log: std::path::PathBuf,
}

impl Daemon {
    /// Starts the daemon and waits for its `READY=1`.
    pub fn start(place: &Place) -> Result<Self> {
        let socket = place.socket("notify");
        let notify = UnixDatagram::bind(&socket)?;
        notify.set_read_timeout(Some(READY))?;
        place.write("refreshd.log", "")?;
        let log = place.dir().join("refreshd.log");
        let child = Command::new(env!("CARGO_BIN_EXE_refreshd"))
            .arg("run")
            .arg("--config")
            .arg(place.config())
            .env("NOTIFY_SOCKET", &socket)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::OpenOptions::new().append(true).open(&log)?)
            .spawn()?;
        let mut daemon = Self { child, log };
        daemon.ready(&notify)?;
        Ok(daemon)
    }

    fn ready(&mut self, notify: &UnixDatagram) -> Result<()> {
        let mut message = [0; 4096];
        loop {
            let received = notify
                .recv(&mut message)
                .context("waiting for it to be ready")?;
            if String::from_utf8_lossy(&message[..received])
                .lines()
                .any(|line| line == "READY=1")
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "it ended: {status}\n{}",
                    std::fs::read_to_string(&self.log)?
                );
            }
        }
    }

    pub fn usage(&self) -> Result<Usage> {
        usage(self.child.id())
    }

    /// SIGTERM, and its exit status.
    pub fn stop(mut self) -> Result<()> {
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()?;
        ensure!(asked.success(), "cannot stop it");
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "it failed: {status}\n{}",
            std::fs::read_to_string(&self.log)?
        );
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has exited already unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
