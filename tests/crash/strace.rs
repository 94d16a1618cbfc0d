//! Faults in system calls of the real binary, injected by strace: a call fails, or the process is killed at it.
//!
//! Must not judge the effect of a fault: `world` does.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Effect at the chosen system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// SIGKILL before the call is carried out.
    Kill,
    /// The call is not carried out and returns this error.
    Error(&'static str),
}

/// The chosen system call: the `nth` of these in any one thread.
#[derive(Clone, Debug)]
pub struct Fault {
    /// In strace's syntax: `fdatasync`, `?rename,?renameat2`, `all`.
    pub calls: String,
    pub kind: FaultKind,
    pub nth: u32,
}

impl Fault {
    /// Options of strace, whose report goes into the file.
    pub fn options(&self, report: &Path) -> Vec<OsString> {
        let Self { calls, kind, nth } = self;
        let what = match kind {
            FaultKind::Kill => "signal=SIGKILL".to_owned(),
            FaultKind::Error(error) => format!("error={error}"),
        };
        let mut options: Vec<OsString> = vec!["-f".into(), "-o".into(), report.into()];
        let filter = [
            format!("trace={calls}"),
            format!("inject={calls}:{what}:when={nth}"),
        ];
        options.extend(
            filter
                .into_iter()
                .flat_map(|filter| ["-e".into(), filter.into()]),
        );
        options
    }

    /// Whether the fault was injected, by strace's report. A run that ended before the chosen call was not hit.
    pub fn was_injected(&self, report: &Path) -> bool {
        let report = fs::read_to_string(report).unwrap_or_default();
        report.contains("(INJECTED)") || report.contains("killed by SIGKILL")
    }
}

/// `strace OPTIONS`.
pub fn strace(options: Vec<OsString>) -> Command {
    let mut strace = Command::new("strace");
    strace.env_clear().args(options);
    strace
}

/// `strace OPTIONS COMMAND`.
pub fn under_strace(options: Vec<OsString>, command: &Command) -> Command {
    let mut traced = strace(options);
    traced.arg(command.get_program()).args(command.get_args());
    traced.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    traced
}

/// The system calls in a report, each with the maximum number that one thread made.
pub fn calls_in(report: &str) -> Vec<(String, u32)> {
    let mut counts = std::collections::BTreeMap::<(&str, &str), u32>::new();
    for line in report.lines().filter(|line| !line.contains("<... ")) {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        *counts.entry((name, thread)).or_default() += 1;
    }
    let mut most = std::collections::BTreeMap::<&str, u32>::new();
    for ((name, _), count) in counts {
        let known = most.entry(name).or_default();
        *known = (*known).max(count);
    }
    most.into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}
