//! The daemon, whose threads get a fault one by one in the midst of a renewal that it was asked for.
//!
//! Must not leave a tracer behind: a daemon that is traced does not end.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::{Daemon, Ran, SOON, eventually, says};
use crate::strace::{Fault, FaultKind, strace};
use crate::world::{PORTAL, Tally, World, outcome};

/// What became of one try.
#[derive(Debug, PartialEq, Eq)]
pub enum Tried {
    Injected,
    /// The renewal was over before.
    Unharmed,
    /// The daemon does not have so many threads.
    NoSuchThread,
}

impl World {
    /// Renews by a daemon that is killed at a call of one of its threads, counted from the oldest.
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
        // Of this thread alone.
        options.retain(|option| option != "-f");
        let tracer = attach(strace(options).args(["-p", id]), &daemon, &[id]);
        let asked = self.renew();
        detach(tracer);
        // Whoever asked notices the end before strace has written of it.
        if outcome(&asked) == "renewed" && !fault.was_injected(&report) {
            daemon.kill9();
            return Tried::Unharmed;
        }
        tally.tried += 1;
        assert_eq!(daemon.wait_exit(SOON), -9, "{}", daemon.stderr());
        self.judge(tally, fault, &before, &daemon.stderr());
        Tried::Injected
    }

    /// Renews by a daemon one call of which fails. It must get over that by itself, and say what is wrong meanwhile.
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
        // Nothing need be said of what did not matter: room that was not made, a flush of a file of tokens.
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

/// Whoever asked for the renewal was told why there is none.
fn refused(asked: &Ran) -> bool {
    asked.code == Some(69) && asked.stderr.contains("cannot")
}

/// The ids of the daemon's threads, the oldest first.
fn threads(daemon: &Daemon) -> Vec<String> {
    daemon.wait_for("its parts to be there", |event| says(event, "is ready"));
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs");
    let name = |task: std::io::Result<fs::DirEntry>| task.ok()?.file_name().into_string().ok();
    let mut ids: Vec<String> = tasks.filter_map(name).collect();
    ids.sort_by_key(|id| id.parse::<u32>().unwrap_or_default());
    ids
}

/// Starts strace, and waits until it holds these threads.
fn attach(strace: &mut Command, daemon: &Daemon, threads: &[&String]) -> Child {
    let spawned = strace
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut tracer = spawned.expect("strace starts");
    eventually("strace holds the daemon", SOON, || {
        // An idle thread makes calls too: the fault may have come about.
        tracer.try_wait().expect("a child").is_some()
            || threads.iter().all(|id| {
                let status = fs::read_to_string(format!("/proc/{}/task/{id}/status", daemon.pid()));
                // A thread that has ended needs none.
                status.map_or(true, |status| !status.contains("TracerPid:\t0"))
            })
    });
    tracer
}

/// Asks strace to let go, if it has not ended with the daemon.
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

/// The calls of the daemon that get a fault, in the quick form every so many.
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
