//! A daemon whose threads get a fault one by one during a requested renewal.
//!
//! Must not leave a tracer attached: a traced daemon does not end.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::{CommandOutput, Daemon, SOON, eventually, message_contains};
use crate::strace::{Fault, FaultKind, strace};
use crate::world::{PORTAL, Tally, World, outcome};

/// Result of one try.
#[derive(Debug, PartialEq, Eq)]
pub enum Tried {
    Injected,
    /// The renewal ended before the chosen call.
    Unharmed,
    /// The daemon does not have so many threads.
    NoSuchThread,
}

impl World {
    /// Renews by a daemon that is killed at a call of one of its threads, numbered from the oldest.
    pub fn kill_daemon(&self, tally: &mut Tally, thread: usize, fault: &Fault) -> Tried {
        self.age();
        let before = self.before();
        let mut daemon = self.rig.start();
        let threads = threads(&daemon);
        let Some(id) = threads.get(thread) else {
            return Tried::NoSuchThread;
        };
        let report = self.rig.path("strace.out");
        let mut options = fault.options(&report);
        // Of this thread only.
        options.retain(|option| option != "-f");
        let tracer = attach(strace(options).args(["-p", id]), &daemon, &[id]);
        let asked = self.renew();
        detach(tracer);
        // The requester may notice the end before strace has written its report.
        if outcome(&asked) == "renewed" && !fault.was_injected(&report) {
            daemon.kill9();
            return Tried::Unharmed;
        }
        tally.tried += 1;
        assert_eq!(daemon.wait_exit(SOON), -9, "{}", daemon.stderr());
        self.judge(tally, fault, &before, &daemon.stderr());
        Tried::Injected
    }

    /// Renews by a daemon one call of which fails. The daemon must recover by itself and report the problem meanwhile.
    pub fn fail_in_daemon(&self, tally: &mut Tally, fault: &Fault) -> Tried {
        self.age();
        let before = self.before();
        let mut daemon = self.rig.start();
        let report = self.rig.path("strace.out");
        let mut tracer = strace(fault.options(&report));
        let ids = threads(&daemon);
        let ids: Vec<&String> = ids.iter().collect();
        tracer.arg("-p").arg(daemon.pid().to_string());
        let tracer = attach(&mut tracer, &daemon, &ids);
        let asked = self.renew();
        eventually("readers have a newer pair", SOON, || {
            self.rig.generation(PORTAL) > before.0.generation
        });
        detach(tracer);
        let injected = fault.was_injected(&report);
        daemon.sigterm();
        let code = daemon.wait_exit(SOON);
        if code != 0 {
            tally.problems.push(format!(
                "{fault:?}: it ended with {code}: {}",
                daemon.stderr()
            ));
        }
        if !injected {
            return Tried::Unharmed;
        }
        tally.tried += 1;
        let alarmed =
            daemon.events(|event| matches!(event["level"].as_str(), Some("ERROR" | "WARN")));
        // Failures without consequences need no report: a preallocation that failed, a flush of a token file.
        let matters = fault.calls.contains("rename") || fault.calls == "pwrite64";
        if matters && alarmed.is_empty() && !refused(&asked) {
            let trace = fs::read_to_string(&report).unwrap_or_default();
            let hit = trace
                .lines()
                .find(|line| line.contains("INJECTED"))
                .unwrap_or_default()
                .to_owned();
            tally
                .problems
                .push(format!("{fault:?}: not a word of {hit}: {asked:?}"));
        }
        self.judge(tally, fault, &before, &daemon.stderr());
        Tried::Injected
    }
}

/// Whether the requester got the reason for the failure.
fn refused(asked: &CommandOutput) -> bool {
    asked.code == Some(69) && asked.stderr.contains("cannot")
}

/// Ids of the daemon's threads, the oldest first.
fn threads(daemon: &Daemon) -> Vec<String> {
    daemon.wait_for("its parts to be there", |event| {
        message_contains(event, "is ready")
    });
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs");
    let name = |task: std::io::Result<fs::DirEntry>| task.ok()?.file_name().into_string().ok();
    let mut ids: Vec<String> = tasks.filter_map(name).collect();
    ids.sort_by_key(|id| id.parse::<u32>().unwrap_or_default());
    ids
}

/// Starts strace, and waits until it is attached to these threads.
fn attach(strace: &mut Command, daemon: &Daemon, threads: &[&String]) -> Child {
    let spawned = strace
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut tracer = spawned.expect("strace starts");
    eventually("strace holds the daemon", SOON, || {
        // An idle thread makes calls too, so the fault may have been injected.
        tracer.try_wait().expect("a child").is_some()
            || threads.iter().all(|id| {
                let status = fs::read_to_string(format!("/proc/{}/task/{id}/status", daemon.pid()));
                // A thread that has ended needs no tracer.
                status.map_or(true, |status| !status.contains("TracerPid:\t0"))
            })
    });
    tracer
}

/// Detaches strace, if it has not ended with the daemon.
fn detach(mut tracer: Child) {
    if tracer.try_wait().expect("a child").is_none() {
        let kill = format!("kill -TERM {}", tracer.id());
        let _ = Command::new("/bin/sh")
            .args(["-c", &kill])
            .stderr(Stdio::null())
            .status();
    }
    tracer.wait().expect("a child");
}

/// The daemon's calls that get a fault; in the quick form, one in `STRIDE`.
pub fn kill_everywhere(world: &World, tally: &mut Tally, stride: usize) {
    for thread in 0.. {
        for nth in (1..).step_by(stride) {
            let fault = Fault {
                calls: "all".to_owned(),
                kind: FaultKind::Kill,
                nth,
            };
            match world.kill_daemon(tally, thread, &fault) {
                Tried::Injected => {}
                Tried::Unharmed => break,
                Tried::NoSuchThread => return,
            }
        }
    }
}
