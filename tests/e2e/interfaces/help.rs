//! Help, completions, the manual page, and the error for a mistyped command.

use std::process::Command;

use crate::common::CommandOutput;
use crate::interfaces::contains;

fn refreshd(arguments: &[&str]) -> CommandOutput {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refreshd"));
    CommandOutput::run(command.env_clear().args(arguments))
}

#[test]
fn every_command_shows_examples_and_exit_codes() {
    let overview = refreshd(&["--help"]);
    assert_eq!((overview.code, overview.stderr.as_str()), (Some(0), ""));
    contains(
        &overview.stdout,
        &[
            "\nExamples:\n",
            "\nExit codes: 0 done",
            "/etc/refreshd/refreshd.toml",
        ],
    );
    let list = overview
        .stdout
        .split("Commands:\n")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let commands: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        commands.len() >= 11 && !commands.contains(&"sandbox"),
        "{commands:?}"
    );
    for command in commands.iter().filter(|command| **command != "help") {
        let ran = refreshd(&[command, "--help"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{command}");
        contains(
            &ran.stdout,
            &[
                "\nExamples:\n",
                &format!("refreshd {command}"),
                "\nExit codes: 0 ",
            ],
        );
        assert!(
            ran.stdout.lines().all(|line| line.chars().count() <= 100),
            "{command}: a line is too long"
        );
    }
}

#[test]
fn suggested_commands_exist() {
    let overview = refreshd(&["--help"]).stdout;
    for command in refreshd::domain::hint::COMMANDS {
        assert!(
            overview.contains(&format!("\n  {command} ")),
            "{command} is not in\n{overview}"
        );
        assert_eq!(refreshd(&[command, "--help"]).code, Some(0), "{command}");
    }
}

#[test]
fn typo_exits_64_with_a_suggestion() {
    for (arguments, suggestion) in [
        (&[][..], "Usage: refreshd"),
        (&["statu"], "similar subcommand exists: 'status'"),
        (&["status", "--jsn"], "similar argument exists: '--json'"),
        (&["token"], "<PORTAL>"),
        (&["token", "acme", "--min-valid", "soon"], "--min-valid"),
        (
            &["token", "acme", "--format", "yaml"],
            "possible values: raw, json, header, env",
        ),
        (&["renew"], "<PORTALS>"),
        (&["renew", "acme", "--all"], "cannot be used with"),
        (&["completions", "tcsh"], "bash"),
    ] {
        let ran = refreshd(arguments);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(64), ""),
            "{arguments:?}: {ran:?}"
        );
        contains(&ran.stderr, &[suggestion]);
    }
}

#[test]
fn completions_and_manual_page_are_generated() {
    for (shell, begins) in [
        ("bash", "_refreshd() {"),
        ("zsh", "#compdef refreshd"),
        ("fish", "complete -c refreshd"),
    ] {
        let ran = refreshd(&["completions", shell]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{shell}");
        contains(&ran.stdout, &[begins, "status", "min-valid"]);
    }
    if let Ok(output) = Command::new("bash").args(["-n", "/dev/stdin"]).output()
        && output.status.success()
    {
        let script = refreshd(&["completions", "bash"]).stdout;
        let checked = Command::new("bash")
            .args(["-n", "-c", &script])
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
    let manual = refreshd(&["man"]);
    assert_eq!((manual.code, manual.stderr.as_str()), (Some(0), ""));
    contains(
        &manual.stdout,
        &[".TH refreshd 1", "refreshd\\-status(1)", "Exit codes"],
    );
    // The pages referred to exist.
    let manual = refreshd(&["man", "alert", "test"]);
    assert_eq!((manual.code, manual.stderr.as_str()), (Some(0), ""));
    contains(&manual.stdout, &[".TH refreshd-alert-test 1", "CHANNEL"]);
    contains(
        &refreshd(&["man", "alert"]).stdout,
        &["refreshd\\-alert\\-test(1)"],
    );
    let unknown = refreshd(&["man", "alert", "tset"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(64), ""));
    contains(&unknown.stderr, &["no command `tset`"]);
    let version = refreshd(&["--version"]);
    assert_eq!(
        version.stdout,
        format!("refreshd {}\n", env!("CARGO_PKG_VERSION"))
    );
}
