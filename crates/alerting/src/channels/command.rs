//! A program on this machine as a channel: started without a shell, given all details, with a time limit. The only
//! place that starts other programs.
//!
//! It has a process group of its own, which is killed as a whole at the time limit, when the delivery is dropped, and
//! when the program exits and leaves children behind. Must not pass the daemon's environment to it.

#![expect(clippy::disallowed_methods, reason = "starts the programs of channels")]

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::http_sender::failed;
use super::sender::Sender;
use super::text_limits::{details, fit, line, utf16};
use crate::channel::Delivery;
use crate::message::{Message, MessageSubject};
use refreshd_secrets::mask::mask;
use refreshd_time::clock::Clock;

/// Logged bytes of its output; the rest is read and discarded.
const MAX_OUTPUT_BYTES: usize = 4096;
/// Logged lines of its output.
const MAX_LINES: usize = 50;
/// Maximum length of an environment variable, in characters. A variable is one line.
const MAX_VARIABLE: usize = 4096;
/// Time limit for output after the program has exited.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// Search path if this process has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Exit code that rejects a message for good: `EX_DATAERR`.
const EXIT_REJECTED: i32 = 65;
/// Drop-in that permits this channel, shipped beside the unit.
const DROP_IN: &str = "refreshd.service.d/20-command-channel.conf";

pub(super) async fn send(
    channel: &str,
    command: &[String],
    directory: &Path,
    message: &Message,
    sender: Sender<'_>,
) -> Delivery {
    let Some((program, arguments)) = command.split_first() else {
        return failed("the channel's command is empty");
    };
    let started = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs(environment(message, sender))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let group = match started {
        Ok(child) => ProcessGroup::of(child),
        Err(error) => return failed(cannot_start(program, &error)),
    };
    let (status, output) =
        wait_for_exit(group, Value::Object(details(message, sender)).to_string()).await;
    for line in output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(MAX_LINES)
    {
        tracing::info!(channel, "{channel}: {}", mask(line, &[]));
    }
    match status {
        Ok(status) => judge(status, &output),
        Err(error) => failed(format!("cannot wait for the program: {error}")),
    }
}

fn judge(status: ExitStatus, output: &str) -> Delivery {
    let last = output.lines().rev().find(|line| !line.trim().is_empty());
    let last = last
        .map(|line| format!(": {}", mask(line, &[])))
        .unwrap_or_default();
    match status.code() {
        Some(0) => Delivery::Delivered(format!("exit code 0{last}")),
        Some(EXIT_REJECTED) => Delivery::Rejected(format!("exit code {EXIT_REJECTED}{last}")),
        Some(code) => failed(format!("exit code {code}{last}")),
        None => failed(format!("{status}{last}")),
    }
}

/// The shipped unit forbids starting programs, which looks like a missing permission.
fn cannot_start(program: &str, error: &io::Error) -> String {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        format!("; refreshd's systemd unit forbids starting programs without the drop-in {DROP_IN}")
    } else {
        String::new()
    };
    format!("cannot start {program}: {error}{hint}")
}

/// A started program and its children. All are killed on drop.
struct ProcessGroup {
    child: Child,
    leader: Option<Pid>,
}

impl ProcessGroup {
    fn of(child: Child) -> Self {
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Self { child, leader }
    }

    /// Kills the remaining processes.
    fn end(&mut self) {
        if let Some(leader) = self.leader.take() {
            // An error means that none remains.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes the message and reads output until the program exits.
async fn wait_for_exit(
    mut group: ProcessGroup,
    message: String,
) -> (io::Result<ExitStatus>, String) {
    let (stdin, stdout, stderr) = (
        group.child.stdin.take(),
        group.child.stdout.take(),
        group.child.stderr.take(),
    );
    let write = async {
        if let Some(mut stdin) = stdin {
            // The program need not read it.
            let _ = stdin.write_all(message.as_bytes()).await;
        }
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let talk = async {
            tokio::join!(
                write,
                read_output(stdout, &mut out),
                read_output(stderr, &mut err)
            )
        };
        tokio::pin!(talk);
        let mut talking = true;
        let status = loop {
            tokio::select! {
                status = group.child.wait() => break status,
                _ = &mut talk, if talking => talking = false,
            }
        };
        // Children may hold the pipes open: they are killed, so that reading ends.
        group.end();
        if talking {
            let _ = Clock::system().within(OUTPUT_GRACE, talk).await;
        }
        status
    };
    out.extend_from_slice(&err);
    out.truncate(MAX_OUTPUT_BYTES);
    (status, String::from_utf8_lossy(&out).into_owned())
}

/// Reads to the end and keeps the beginning: a full pipe would block the program.
async fn read_output(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(read) = pipe.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        let room = MAX_OUTPUT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}

fn environment(message: &Message, sender: Sender<'_>) -> Vec<(&'static str, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    let mut variables = vec![("PATH", path), ("LANG", "C.UTF-8".to_owned())];
    let mut set =
        |name, value: &str| variables.push((name, fit(&line(value), MAX_VARIABLE, utf16)));
    set("REFRESHD_INSTANCE", sender.instance);
    set("REFRESHD_EVENT", message.event.as_str());
    set("REFRESHD_SEVERITY", message.severity.as_str());
    set("REFRESHD_KEY", &message.dedup_key(sender.instance));
    match &message.subject {
        MessageSubject::Portal(name) => set("REFRESHD_PORTAL", name),
        MessageSubject::App(name) => set("REFRESHD_APP", name),
        MessageSubject::Server(name) => set("REFRESHD_SERVER", name),
        MessageSubject::Channel(name) => set("REFRESHD_CHANNEL", name),
        MessageSubject::Daemon => {}
    }
    set("REFRESHD_TITLE", &message.title());
    set("REFRESHD_REASON", &message.reason);
    set(
        "REFRESHD_ACTION",
        message.action.as_deref().unwrap_or_default(),
    );
    set("REFRESHD_SINCE", &message.since.to_string());
    set(
        "REFRESHD_EXPIRES_AT",
        &message
            .expires_at
            .map(|at| at.to_string())
            .unwrap_or_default(),
    );
    set("REFRESHD_COUNT", &message.count.to_string());
    if let Some(url) = sender.url {
        set("REFRESHD_URL", url);
    }
    variables
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
