//! Kills renewals at every system call, and lets every system call fail, one after the other, to prove that nothing is lost.
//!
//! `tests/system/crash.sh` runs this: it takes minutes and needs strace. The quick form (without
//! `REFRESHD_CRASH_WHOLE`) skips some calls, but none that reaches the disk or the server.

mod attached;
#[path = "../common/mod.rs"]
mod common;
mod strace;
mod world;

use std::fmt::Write as _;

use attached::Tried;
use common::CommandOutput;
use strace::{Fault, FaultKind, calls_in, under_strace};
use world::{Tally, World};

/// Calls that change the disk or reach the server. The quick form hits each of them, too.
const ALWAYS_HIT: &[&str] = &[
    "pwrite64",
    "write",
    "writev",
    "sendto",
    "recvfrom",
    "connect",
    "fsync",
    "fdatasync",
    "fallocate",
    "ftruncate",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "fchmod",
    "fchown",
];
/// Calls that a disk can refuse. Not `write`: most of those wake threads of the runtime and reach no disk.
const DISK: &[&str] = &[
    "pread64",
    "pwrite64",
    "fdatasync",
    "fsync",
    "?rename,?renameat,?renameat2",
    "ftruncate",
    "fallocate",
];
/// The quick form hits one of so many calls.
const STRIDE: usize = 5;

fn whole() -> bool {
    std::env::var_os("REFRESHD_CRASH_WHOLE").is_some()
}

#[test]
#[ignore = "takes minutes and needs strace: tests/system/crash.sh"]
fn command_killed_at_each_syscall() {
    for strict in [false, true] {
        let world = World::new(strict);
        let server = if strict {
            "strict server"
        } else {
            "server with grace"
        };
        for (name, count) in calls_of_a_renewal(&world) {
            let matters = ALWAYS_HIT.contains(&&*name);
            if whole() || matters {
                let mut tally = Tally::default();
                for nth in 1.. {
                    let fault = Fault {
                        calls: name.clone(),
                        kind: FaultKind::Kill,
                        nth,
                    };
                    if !world.fail_in_command(&mut tally, &fault) && nth >= count {
                        break;
                    }
                }
                report(&format!("command, {server}: killed at {name}"), tally);
            }
        }
        let mut tally = Tally::default();
        let step = if whole() { 1 } else { STRIDE };
        for nth in (1..).step_by(step) {
            let fault = Fault {
                calls: "all".to_owned(),
                kind: FaultKind::Kill,
                nth,
            };
            if !world.fail_in_command(&mut tally, &fault) {
                break;
            }
        }
        report(&format!("command, {server}: killed at any call"), tally);
        world.rig.no_violations();
    }
}

#[test]
#[ignore = "takes minutes and needs strace: tests/system/crash.sh"]
fn command_with_failing_disk() {
    let world = World::new(true);
    for error in ["EIO", "ENOSPC"] {
        for calls in DISK {
            let mut tally = Tally::default();
            for nth in 1.. {
                let fault = Fault {
                    calls: (*calls).to_owned(),
                    kind: FaultKind::Error(error),
                    nth,
                };
                if !world.fail_in_command(&mut tally, &fault) {
                    break;
                }
            }
            report(&format!("command: {error} from {calls}"), tally);
        }
    }
    world.rig.no_violations();
}

#[test]
#[ignore = "takes minutes and needs strace: tests/system/crash.sh"]
fn daemon_killed_at_each_syscall() {
    for strict in [false, true] {
        let world = World::new(strict);
        let server = if strict {
            "strict server"
        } else {
            "server with grace"
        };
        let mut tally = Tally::default();
        attached::kill_everywhere(&world, &mut tally, if whole() { 1 } else { STRIDE });
        report(&format!("daemon, {server}: killed at any call"), tally);
        world.rig.no_violations();
    }
}

#[test]
#[ignore = "takes minutes and needs strace: tests/system/crash.sh"]
fn daemon_with_failing_disk() {
    let world = World::new(true);
    for error in ["EIO", "ENOSPC"] {
        for calls in DISK {
            let mut tally = Tally::default();
            for nth in 1.. {
                let fault = Fault {
                    calls: (*calls).to_owned(),
                    kind: FaultKind::Error(error),
                    nth,
                };
                if world.fail_in_daemon(&mut tally, &fault) != Tried::Injected {
                    break;
                }
            }
            report(&format!("daemon: {error} from {calls}"), tally);
        }
    }
    world.rig.no_violations();
}

/// The calls of an undisturbed renewal.
fn calls_of_a_renewal(world: &World) -> Vec<(String, u32)> {
    world.age();
    let report = world.rig.path("calls");
    let options = ["-f", "-o"]
        .map(Into::into)
        .into_iter()
        .chain([report.clone().into()])
        .collect();
    let ran = CommandOutput::run(&mut under_strace(options, &world.traceable()));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    calls_in(&std::fs::read_to_string(report).expect("strace's report"))
}

/// Prints a line of the table, if such a call was made; fails if something was lost or a promise broken.
#[track_caller]
#[expect(clippy::print_stdout, reason = "the table is the result of the rig")]
fn report(what: &str, tally: Tally) {
    let Tally {
        tried,
        lost,
        in_doubt,
        problems,
    } = tally;
    if tried == 0 && problems.is_empty() {
        return;
    }
    let mut line = format!("{what} | {tried} | {lost}");
    if in_doubt > 0 {
        let _ = write!(line, " ({in_doubt} in doubt)");
    }
    println!("TABLE {line}");
    assert!(
        problems.is_empty(),
        "{what}: {} problems, the first:\n{}",
        problems.len(),
        problems[..problems.len().min(3)].join("\n")
    );
    assert_eq!(lost, 0, "{what}");
}
