//! Command channels: programs that succeed, hang, fork, print too much or do not exist.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;

use crate::alerts::only;
use crate::common::{Rig, SOON, eventually, message_contains};

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
fn environment_has_the_alert_but_nothing_of_the_daemon() {
    let rig = with_script("echo \"$@\" >args; env >env; cat >message");
    let mut command = rig.command(["alert", "test", "--json"]);
    let ran = crate::common::CommandOutput::run(command.env("SECRET_OF_THE_DAEMON", "hunter2"));
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
fn output_is_logged_and_exit_code_decides() {
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
        let (was, answer_text) = only(&ran);
        assert!(
            was == result && answer_text.contains(answer),
            "{script}: {was} {answer_text}"
        );
    }
    let rig = with_script("echo one; echo 'token 5bad2d67006e9f06006b12e4'; yes | head -c 1000000");
    let daemon = rig.start();
    assert_eq!(rig.run(["alert", "test"]).code, Some(0));
    let event = daemon.wait_for("its output", |event| {
        event["channel"] == "script" && message_contains(event, "script: one")
    });
    assert_eq!(event["level"], "INFO");
    daemon.wait_for("its second line", |event| {
        message_contains(event, "script: token …")
    });
    let lines = daemon.events(|event| event["channel"] == "script").len();
    assert!(lines < 60, "{lines} lines are logged");
    daemon.stop();
}

#[test]
fn hung_program_is_killed_with_its_children() {
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
fn program_ends_when_the_requester_disconnects() {
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
fn leftover_children_are_killed_without_delay() {
    let rig = with_script("sleep 1000 & echo $! >child; echo done");
    let ran = rig.run(["alert", "test", "--json"]);
    assert_eq!(
        only(&ran),
        ("delivered".to_owned(), "exit code 0: done".to_owned())
    );
    let process = std::fs::read_to_string(rig.path("child")).expect("it was started");
    eventually("the end of the child", SOON, || !is_running(&process));
}

#[test]
fn program_that_cannot_start_is_reported() {
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
