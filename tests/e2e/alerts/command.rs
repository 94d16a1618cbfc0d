//! Command channels: programs that behave, hang, fork, print too much or are not there.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;

use crate::alerts::only;
use crate::common::{Rig, SOON, eventually, says};

/// A rig whose only channel is this shell script.
fn with_script(script: &str) -> Rig {
    let mut rig = Rig::new(["acme"]);
    rig.secret("alert", &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(rig.path("alert"), std::fs::Permissions::from_mode(0o700))
        .expect("its mode");
    rig.config.more =
        "[channels.script]\nkind = \"command\"\ncommand = [\"./alert\", \"--to\", \"a b\"]\ntimeout = \"2s\"\n".to_owned();
    rig.write_config();
    rig
}

fn is_running(process: &str) -> bool {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn it_is_told_everything_and_nothing_of_the_daemons() {
    let rig = with_script("echo \"$@\" >args; env >env; cat >message");
    let mut command = rig.command(["alert", "test", "--json"]);
    let ran = crate::common::Ran::to_its_end(command.env("SECRET_OF_THE_DAEMON", "hunter2"));
    assert_eq!(
        (ran.code, only(&ran)),
        (Some(0), ("delivered".to_owned(), "exit code 0".to_owned()))
    );
    let read = |name: &str| std::fs::read_to_string(rig.path(name)).expect("the program wrote it");
    assert_eq!(read("args"), "--to a b\n");
    let env = read("env");
    assert!(
        env.contains("REFRESHD_EVENT=test\n") && env.contains("REFRESHD_CHANNEL=script\n"),
        "{env}"
    );
    assert!(
        !env.contains("hunter2") && !env.contains("REFRESHD_CONFIG"),
        "{env}"
    );
    let message: Value = serde_json::from_str(&read("message")).expect("JSON");
    assert_eq!(
        (&message["event"], &message["subject"], &message["name"]),
        (&"test".into(), &"channel".into(), &"script".into())
    );
}

#[test]
fn what_it_says_is_logged_and_its_exit_code_decides() {
    for (script, code, result, answer) in [
        (
            "echo first; echo last >&2; exit 0",
            0,
            "delivered",
            "exit code 0: last",
        ),
        ("echo never; exit 65", 69, "rejected", "exit code 65: never"),
        ("exit 3", 69, "failed", "exit code 3"),
        ("kill -9 $$", 69, "failed", "signal: 9"),
    ] {
        let rig = with_script(script);
        let ran = rig.run(["alert", "test", "--json"]);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        let (was, said) = only(&ran);
        assert!(
            was == result && said.contains(answer),
            "{script}: {was} {said}"
        );
    }
    let rig = with_script("echo one; echo 'token 5bad2d67006e9f06006b12e4'; yes | head -c 1000000");
    let daemon = rig.start();
    assert_eq!(rig.run(["alert", "test"]).code, Some(0));
    let said = daemon.wait_for("its output", |event| {
        event["channel"] == "script" && says(event, "script: one")
    });
    assert_eq!(said["level"], "INFO");
    daemon.wait_for("its second line", |event| says(event, "script: token …"));
    let lines = daemon.events(|event| event["channel"] == "script").len();
    assert!(lines < 60, "{lines} lines are logged");
    daemon.stop();
}

#[test]
fn one_that_hangs_is_killed_with_its_children_at_the_time_limit() {
    let rig = with_script("sleep 1000 & echo $! >child; echo $$ >self; wait");
    let daemon = rig.start();
    let ran = rig.run(["alert", "test", "--json"]);
    assert_eq!(
        only(&ran),
        ("failed".to_owned(), "no answer within 2s".to_owned())
    );
    for name in ["child", "self"] {
        let process = std::fs::read_to_string(rig.path(name)).expect("it was started");
        eventually(&format!("the end of {name}"), SOON, || {
            !is_running(&process)
        });
    }
    daemon.stop();
}

#[test]
fn whoever_asks_and_leaves_ends_it() {
    let rig = with_script("sleep 1000 & echo $! >self; wait");
    let daemon = rig.start();
    let mut asking = rig
        .command(["alert", "test"])
        .spawn()
        .expect("the binary starts");
    let process = eventually("the program", SOON, || {
        std::fs::read_to_string(rig.path("self"))
            .ok()
            .filter(|text| text.ends_with('\n'))
    });
    asking.kill().expect("it waits");
    asking.wait().expect("a child");
    eventually("its end", Duration::from_secs(10), || !is_running(&process));
    daemon.stop();
}

#[test]
fn what_it_leaves_behind_delays_nobody_and_is_ended() {
    let rig = with_script("sleep 1000 & echo $! >child; echo told");
    let ran = rig.run(["alert", "test", "--json"]);
    assert_eq!(
        only(&ran),
        ("delivered".to_owned(), "exit code 0: told".to_owned())
    );
    let process = std::fs::read_to_string(rig.path("child")).expect("it was started");
    eventually("the end of the child", SOON, || !is_running(&process));
}

#[test]
fn one_that_cannot_be_started_says_why() {
    let mut rig = with_script("true");
    std::fs::set_permissions(rig.path("alert"), std::fs::Permissions::from_mode(0o600))
        .expect("its mode");
    let (result, answer) = only(&rig.run(["alert", "test", "--json"]));
    assert!(
        result == "failed" && answer.contains("20-command-channel.conf"),
        "{answer}"
    );
    rig.config.more = rig.config.more.replace("./alert", "no-such-program");
    rig.write_config();
    let (_, answer) = only(&rig.run(["alert", "test", "--json"]));
    assert!(
        answer.contains("No such file") && !answer.contains("drop-in"),
        "{answer}"
    );
}
