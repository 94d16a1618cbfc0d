//! Reading commands leave no trace and block no other; files created by root belong to the directory's owner.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Rig, SOON, eventually};
use crate::interfaces::{calm, contains};

/// Every file below a directory, with attributes that change when it is written.
fn traces(directory: &Path) -> Vec<(PathBuf, u64, u64, i64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)
        .expect("a directory")
        .map(Result::unwrap)
    {
        let (path, about) = (entry.path(), entry.metadata().expect("a file"));
        if about.is_dir() {
            found.extend(traces(&path));
        }
        found.push((
            path,
            about.ino(),
            about.len(),
            about.mtime(),
            about.mtime_nsec(),
        ));
    }
    found.sort();
    found
}

/// Runs the reading commands and checks their exit codes.
fn look(rig: &Rig, fresh: bool) {
    let of_state = Some(i32::from(!fresh));
    for (command, code) in [
        (&["status"][..], of_state),
        (&["status", "acme"], of_state),
        (&["status", "--json"], of_state),
        (&["check"], Some(0)),
        (&["alert", "list"], Some(69)),
        (&["install", "list"], Some(if fresh { 0 } else { 66 })),
        (&["recover", "acme"], Some(66)),
        (&["recover", "acme", "--show"], Some(66)),
    ] {
        let ran = rig.run(command.iter().copied());
        assert_eq!(ran.code, code, "{command:?}: {ran:?}");
    }
    if fresh {
        let token = fs::read_to_string(rig.token_path("acme", "token")).expect("a token");
        assert_eq!(rig.run(["token", "acme"]).stdout, format!("{token}\n"));
    }
}

#[test]
fn nothing_is_created_before_the_first_start() {
    let mut rig = calm(["acme"]);
    rig.grant("acme");
    rig.write_config();
    let before = traces(&rig.path("."));
    look(&rig, false);
    for command in [&["recover", "acme"][..], &["forget", "acme", "--yes"]] {
        let ran = rig.run(command.iter().copied());
        assert_eq!(ran.code, Some(66), "{ran:?}");
        contains(&ran.stderr, &["there is no state at", "state.db"]);
    }
    assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
    assert_eq!(traces(&rig.path(".")), before);
}

#[test]
fn commands_that_need_a_state_create_none() {
    let mut rig = calm(["acme", "globex"]);
    for portal in &mut rig.config.portals {
        portal.refresh_token_file = false;
    }
    rig.write_config();
    let before = traces(&rig.path("."));
    for (command, code) in [
        (&["token", "acme"][..], 75),
        (&["renew", "acme"], 75),
        (&["silence", "acme", "--end"], 66),
    ] {
        let ran = rig.run(command.iter().copied());
        assert_eq!(ran.code, Some(code), "{command:?}: {ran:?}");
        contains(
            &ran.stderr,
            &["there is no state at", "state.db", "refreshd authorize"],
        );
    }
    let ran = rig.run(["renew", "--all"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    contains(&ran.stderr, &["acme: not renewed", "globex: not renewed"]);
    let ran = rig.run(["renew", "--all", "--json"]);
    contains(&ran.stdout, &["\"portal\": \"acme\"", "not-tried"]);
    assert_eq!(traces(&rig.path(".")), before);
}

#[test]
fn nothing_changes_after_a_stop_or_a_kill() {
    for by_force in [false, true] {
        let mut rig = calm(["acme", "globex"]);
        for portal in ["acme", "globex"] {
            rig.grant(portal);
        }
        let daemon = rig.start();
        for portal in ["acme", "globex"] {
            rig.wait_for_generation(portal, 2);
            rig.wait_for_phase(portal, "fresh");
        }
        if by_force {
            daemon.kill9();
        } else {
            daemon.stop();
        }
        let before = traces(&rig.path("."));
        look(&rig, true);
        let status = rig.status("acme");
        assert_eq!(
            (&status["phase"], &status["generation"]),
            (&"fresh".into(), &2.into()),
            "{by_force}"
        );
        contains(
            &rig.run(["status"]).stderr,
            &["no daemon runs; this is read from the state"],
        );
        assert_eq!(traces(&rig.path(".")), before, "{by_force}");
        rig.start().stop();
        rig.no_violations();
    }
}

#[test]
fn start_and_reading_commands_do_not_block_each_other() {
    let mut rig = calm(["acme"]);
    rig.grant("acme");
    rig.start().stop();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let ran = rig.run(["status", "--json"]);
                    // While it starts it cannot be queried yet; the state is never damaged or incomplete.
                    assert!(matches!(ran.code, Some(0 | 69)), "{ran:?}");
                }
            });
        }
        for _ in 0..5 {
            let daemon = rig.start();
            rig.wait_for_phase("acme", "fresh");
            daemon.stop();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    rig.no_violations();
}

#[test]
fn start_waits_for_a_command_but_not_for_a_daemon() {
    let rig = calm(["acme"]);
    rig.start().stop();
    let lock = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(rig.path("state.db.lock"))
        .unwrap();
    lock.lock().unwrap();
    rig.secret("state.db.lock.text", "1 brief\n");
    fs::copy(rig.path("state.db.lock.text"), rig.path("state.db.lock")).unwrap();
    let daemon = rig.launch([]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        !daemon.stderr().contains("is ready") && !daemon.stderr().contains("in use"),
        "{}",
        daemon.stderr()
    );
    drop(lock);
    daemon.wait_for("the daemon to be ready", |event| {
        crate::common::message_contains(event, "is ready")
    });
    let second = rig.run(["run"]);
    assert_eq!(second.code, Some(69), "{second:?}");
    contains(&second.stderr, &[&format!("(process {})", daemon.pid())]);
    daemon.stop();
}

#[test]
fn files_created_by_root_belong_to_the_directory_owner() {
    const DAEMON: u32 = 65534;
    if fs::metadata("/proc/self").expect("a Linux").uid() != 0 {
        return;
    }
    let mut rig = calm(["acme"]);
    rig.grant("acme");
    chown(rig.path("."), Some(DAEMON), Some(DAEMON)).unwrap();
    // Without a daemon: the state, its lock, the record of generations, the token files and their directories.
    assert_eq!(
        rig.run(["renew", "acme"]).code,
        Some(78),
        "there is no configuration yet"
    );
    rig.write_config();
    let ran = rig.run(["renew", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for name in [
        "state.db",
        "state.db.lock",
        "state.db.generations",
        "tokens",
        "tokens/acme",
        "tokens/acme/token",
    ] {
        assert_eq!(
            fs::metadata(rig.path(name)).expect(name).uid(),
            DAEMON,
            "{name}"
        );
    }
    if let Ok(log) = fs::metadata(rig.path("state.db-wal")) {
        assert_eq!(log.uid(), DAEMON, "the log");
    }
    let daemon = rig.start();
    assert_eq!(
        fs::metadata(rig.path("control.sock")).unwrap().uid(),
        DAEMON,
        "the socket"
    );
    eventually("the log", SOON, || rig.path("state.db-wal").exists());
    assert_eq!(
        fs::metadata(rig.path("state.db-wal")).unwrap().uid(),
        DAEMON,
        "the log"
    );
    daemon.stop();
    rig.no_violations();
}
