//! `refreshd demo`, a newcomer's first command: it runs to its end and touches no foreign file.

use std::fs;
use std::process::Command;
use std::time::Duration;

use refreshd::adapters::token_files::write_whole;

use crate::common::{CommandOutput, Daemon, SOON, eventually};
use crate::interfaces::contains;

fn demo(dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refreshd"));
    command.env_clear().args(["demo", "--dir"]).arg(dir);
    command
}

#[test]
fn it_shows_renewal_escalation_and_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("demo");
    // An earlier demo ran here.
    fs::create_dir(&folder).unwrap();
    write_whole(&folder, &folder.join(".refreshd-demo"), b"", 0o600).unwrap();
    write_whole(
        &folder,
        &folder.join("state.db"),
        b"an earlier demo's",
        0o600,
    )
    .unwrap();
    let mut demo = Daemon::spawn(demo(&folder));
    let token = folder.join("tokens/acme/token");
    eventually("a token to look at while it runs", SOON, || token.exists());
    assert_eq!(demo.wait_exit(Duration::from_secs(180)), 0);
    let output = demo.stderr();
    let shown = folder.display().to_string();
    contains(
        &output,
        &[
            "authorization server   http://127.0.0.1:",
            "metrics                http://127.0.0.1:",
        ],
    );
    contains(
        &output,
        &[
            &format!("{shown}/tokens/acme/token"),
            &format!("--config {shown}/refreshd.toml"),
        ],
    );
    for portal in ["acme", "initech"] {
        let renewals = output
            .lines()
            .filter(|line| line.contains(&format!(" {portal}: renewed")))
            .count();
        assert!(
            renewals >= 3,
            "{portal} was renewed {renewals} times\n{output}"
        );
        let escalations = output
            .lines()
            .filter(|line| line.contains(&format!(" {portal}: ")) && line.contains("step="));
        assert_eq!(escalations.count(), 0, "{portal} is unaffected\n{output}");
    }
    // The ladder, from the first step to the last, in order.
    let of_globex = |line: &&str| line.contains(" globex: ") && line.contains("step=");
    let steps: Vec<_> = output
        .lines()
        .filter(of_globex)
        .filter_map(|line| line.split("step=\"").nth(1))
        .collect();
    let steps: Vec<_> = steps
        .iter()
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(
        steps,
        [
            "failed", "overdue", "late", "expiring", "expired", "resolved"
        ],
        "{output}"
    );
    contains(
        &output,
        &[
            "globex is fresh again",
            "The demo is over. Renewals: acme ",
            "README.md",
        ],
    );
    assert!(!output.contains("complains"), "{output}");
}

#[test]
fn foreign_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("thesis.txt");
    write_whole(dir.path(), &file, b"four years", 0o600).unwrap();
    let ran = CommandOutput::run(&mut demo(dir.path()));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""));
    contains(
        &ran.stderr,
        &["is not empty and is no demo's folder; name another with --dir"],
    );
    assert_eq!(fs::read(&file).unwrap(), b"four years");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing was added"
    );
}
