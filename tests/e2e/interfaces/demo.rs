//! `refreshd demo`, the newcomer's first command: its story is told to the end, and it touches nothing of anybody's.

use std::fs;
use std::process::Command;
use std::time::Duration;

use refreshd::adapters::token_files::write_whole;

use crate::common::{Daemon, Ran, SOON, eventually};
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
    // An earlier demo was here.
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
    let said = demo.stderr();
    let shown = folder.display().to_string();
    contains(
        &said,
        &[
            "authorization server   http://127.0.0.1:",
            "metrics                http://127.0.0.1:",
        ],
    );
    contains(
        &said,
        &[
            &format!("{shown}/tokens/acme/token"),
            &format!("--config {shown}/refreshd.toml"),
        ],
    );
    for portal in ["acme", "initech"] {
        let renewals = said
            .lines()
            .filter(|line| line.contains(&format!(" {portal}: renewed")))
            .count();
        assert!(
            renewals >= 3,
            "{portal} was renewed {renewals} times\n{said}"
        );
        let escalations = said
            .lines()
            .filter(|line| line.contains(&format!(" {portal}: ")) && line.contains("step="));
        assert_eq!(
            escalations.count(),
            0,
            "{portal} has nothing to do with it\n{said}"
        );
    }
    // The ladder, from the first rung to the last, in order.
    let of_globex = |line: &&str| line.contains(" globex: ") && line.contains("step=");
    let steps: Vec<_> = said
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
        "{said}"
    );
    contains(
        &said,
        &[
            "globex is fresh again",
            "The demo is over. Renewals: acme ",
            "README.md",
        ],
    );
    assert!(!said.contains("complains"), "{said}");
}

#[test]
fn a_folder_of_somebody_elses_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("thesis.txt");
    write_whole(dir.path(), &file, b"four years", 0o600).unwrap();
    let ran = Ran::to_its_end(&mut demo(dir.path()));
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
