//! Portals and the request rate, and portals and the room for their files: what does not fit is said before it hurts, and counted.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{CommandOutput, Rig, SOON, eventually, message_contains};
use crate::interfaces::{calm, contains};

/// The figure behind `rate = `.
fn advised(said: &str) -> f64 {
    let (_, rest) = said.split_once("write `rate = ").expect("a remedy");
    let figure = rest.split('`').next().expect("a figure");
    figure.parse().expect("a number")
}

#[test]
fn low_rate_is_reported_with_a_sufficient_one() {
    let mut rig = calm(["acme", "globex"]);
    rig.config.rate = Some(0.001);
    rig.write_config();
    let ran = rig.run(["check"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let config = rig.config.to_string();
    let line = config
        .lines()
        .position(|line| line.starts_with("rate = "))
        .expect("it is there")
        + 1;
    contains(
        &ran.stderr,
        &[
            &format!("refreshd.toml:{line}:1: 2 portals at 127.0.0.1"),
            "and `rate` is 0.001: they will be renewed late",
            "(warning)",
        ],
    );
    assert!(
        !ran.stderr.contains("renew_every"),
        "a longer age would be too long: {ran:?}"
    );
    let enough = advised(&ran.stderr);
    // The daemon says so as well, and a reload.
    let daemon = rig.start();
    let said = daemon.wait_for("the warning", |event| {
        message_contains(event, "2 portals at 127.0.0.1")
    });
    assert_eq!(said["level"], "WARN");
    let ran = rig.run(["reload"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(&ran.stderr, &["they will be renewed late"]);
    rig.config.rate = Some(enough);
    rig.write_config();
    for command in ["check", "reload"] {
        let ran = rig.run([command]);
        assert!(
            ran.code == Some(0) && !ran.stderr.contains("portals at"),
            "{command}: {ran:?}"
        );
    }
    // Short ages are what asks for much.
    rig.config.rate = Some(0.001);
    rig.config.app().renew_every = std::time::Duration::from_secs(370);
    rig.config.remove("globex");
    rig.write_config();
    let ran = rig.run(["check"]);
    contains(
        &ran.stderr,
        &[
            "1 portals at 127.0.0.1",
            ", or a `renew_every` of 22m or more",
        ],
    );
    daemon.stop();
}

#[test]
fn requests_waiting_for_the_budget_are_counted() {
    let names = ["p1", "p2", "p3", "p4", "p5", "p6"];
    let mut rig = calm(names);
    rig.grant_all();
    let metrics = |rig: &mut Rig| {
        let url = rig.config.app().token_url.clone();
        let server = url.split('/').nth(2).expect("a host").to_owned();
        ["waits", "wait_seconds"]
            .map(|what| format!("refreshd_budget_{what}_total{{server=\"{server}\"}}"))
    };
    let [waits, seconds] = metrics(&mut rig);
    let daemon = rig.start_renewed();
    assert_eq!(
        (rig.metric(&waits), rig.metric(&seconds)),
        (0.0, 0.0),
        "fifty a second are enough for six"
    );
    daemon.stop();
    // Six at once, of which two in a second may be sent.
    let mut rig = calm(names);
    rig.config.rate = Some(2.0);
    rig.grant_all();
    let [waits, seconds] = metrics(&mut rig);
    let daemon = rig.start_renewed();
    eventually("four of them waited", SOON, || rig.metric(&waits) >= 4.0);
    let waited = rig.metric(&seconds);
    assert!(
        (2.0..60.0).contains(&waited),
        "half a second, one, one and a half, two: {waited}"
    );
    daemon.stop();
}

/// `refreshd check` with a file system of these limits at the token directory, which ends with it; `None` where that may not be made.
fn check_with(rig: &Rig, limits: &str) -> Option<CommandOutput> {
    let tokens = rig.path("tokens");
    std::fs::create_dir_all(&tokens).expect("a directory");
    let mount = format!("mount -t tmpfs -o {limits} tmpfs {}", shown(&tokens));
    let allowed = Command::new("unshare")
        .args(["--mount", "/bin/sh", "-c", &mount])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        return None;
    }
    let check = rig.command(["check"]);
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "/bin/sh",
            "-c",
            &format!("{mount} && exec \"$@\"",),
            "sh",
        ])
        .arg(check.get_program())
        .args(check.get_args())
        .stdin(Stdio::null());
    Some(CommandOutput::run(&mut command))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn small_token_file_system_is_reported() {
    let rig = calm(["p1", "p2", "p3", "p4", "p5", "p6"]);
    rig.write_config();
    let Some(ran) = check_with(&rig, "size=1m,nr_inodes=12") else {
        return;
    };
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "token_dir: the token files of 6 portals need more than the file system of ",
            "files and directories, and 11 are free",
            "nr_inodes=",
            "(warning)",
        ],
    );
    let ran = check_with(&rig, "size=16k,nr_inodes=1000").expect("as before");
    contains(&ran.stderr, &["KiB, and 16 KiB are free"]);
    assert!(!ran.stderr.contains("files and directories"), "{ran:?}");
    let ran = check_with(&rig, "size=1m,nr_inodes=1000").expect("as before");
    assert!(
        !ran.stderr.contains("token_dir: the token files"),
        "{ran:?}"
    );
}
