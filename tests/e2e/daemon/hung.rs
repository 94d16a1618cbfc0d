//! A disk, or the server of a mount, that does not respond: strace delays calls of the real binary. A hung call blocks the
//! work that needs it, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Daemon, Rig, SOON, eventually, message_contains};

/// Two portals, and a daemon whose threads hang for a minute at the first of these calls on this file or directory.
fn hanging(calls: &str, at: &str) -> (Rig, Daemon) {
    let mut rig = Rig::new(["acme", "beta"]);
    for portal in ["acme", "beta"] {
        rig.grant(portal);
    }
    fs::create_dir_all(rig.path("tokens/acme")).expect("directories");
    rig.write_config();
    let command = rig.command(["run"]);
    let mut traced = Command::new("strace");
    // strace daemonizes its own process, so the child is the daemon.
    traced.args(["-D", "-f", "-qq", "-o"]);
    traced.args([rig.path("strace.out").as_path(), Path::new("-P")]);
    traced.arg(rig.path(at));
    let inject = format!("inject={calls}:delay_enter=60000000:when=1");
    traced.args(["-e", &format!("trace={calls}"), "-e", &inject]);
    traced
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    let daemon = Daemon::spawn(traced);
    daemon.wait_for("the daemon to be ready", |event| {
        message_contains(event, "is ready")
    });
    (rig, daemon)
}

/// Stops it and returns its log: it exits in time although calls still hang.
fn stop(mut daemon: Daemon) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    let tracer = tracer.expect("the kernel reports it").trim().to_owned();
    daemon.sigterm();
    daemon.wait_for("its end", |event| {
        message_contains(event, "refreshd has stopped")
    });
    // strace would delay even the end of the process while it delays a call.
    let killed = Command::new("/bin/sh")
        .args(["-c", &format!("kill -KILL {tracer}")])
        .status();
    assert!(killed.expect("a shell").success());
    assert_eq!(daemon.wait_exit(SOON), 0, "{}", daemon.stderr());
    daemon.stderr()
}

#[test]
#[ignore = "needs strace: tests/system/health.sh runs it"]
fn hung_token_directory_blocks_no_portal_and_no_stop() {
    let (rig, daemon) = hanging("renameat", "tokens/acme");
    let event = daemon.wait_for_step("acme", "unpublished");
    let reason = event["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("tokens/acme") && reason.contains("no answer for 5 s"),
        "{event}"
    );
    eventually("not ready", SOON, || {
        let (code, text) = rig.http("/readyz");
        code == 503 && text.contains("the token files of 1 portal cannot be written")
    });
    assert!((rig.metric("refreshd_token_files_failing") - 1.0).abs() < 0.1);
    assert_eq!(rig.http("/livez").0, 200);
    for _ in 0..2 {
        rig.wait_for_renewals("beta", 1);
    }
    eventually("the published token works", SOON, || {
        rig.has_working_token("beta")
    });
    let log = stop(daemon);
    assert!(
        log.contains("the token files of 1 portal (acme) are not written"),
        "{log}"
    );
    let daemon = rig.start();
    eventually("the next start writes them", SOON, || {
        rig.has_working_token("acme")
    });
    daemon.stop();
    rig.no_violations();
}

#[test]
#[ignore = "needs strace: tests/system/health.sh runs it"]
fn hung_record_of_generations_blocks_nothing() {
    let (rig, daemon) = hanging("write", "state.db.generations");
    for _ in 0..2 {
        for portal in ["acme", "beta"] {
            rig.wait_for_renewals(portal, 1);
            eventually("the published token works", SOON, || {
                rig.has_working_token(portal)
            });
        }
    }
    daemon.wait_for("that it hangs", |event| {
        message_contains(event, "its generations are not noted")
    });
    stop(daemon);
    let daemon = rig.start();
    rig.wait_for_renewals("acme", 1);
    daemon.stop();
    rig.no_violations();
}
