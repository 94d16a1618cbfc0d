//! Other users of the same machine: which directories are trusted, and foreign objects in directories that readers can write.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::{Rig, SOON, eventually, message_contains};

/// A user id that no machine has.
const STRANGER: u32 = 61_001;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("its owner");
}

/// A rig whose token directory exists already.
fn with_tokens(mode: u32) -> Rig {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    fs::create_dir(rig.path("tokens")).expect("a directory");
    chmod(&rig.path("tokens"), mode);
    rig.write_config();
    rig
}

/// Asserts that neither a start nor `check` accepts the directory, and both print these words.
#[track_caller]
fn is_refused(rig: &Rig, words: &[&str]) {
    for command in ["run", "check", "renew"] {
        let arguments: &[&str] = if command == "renew" {
            &["renew", "acme"]
        } else {
            &[command]
        };
        let ran = rig.run(arguments.iter().copied());
        assert_eq!(ran.code, Some(78), "{command}: {ran:?}");
        for word in words {
            assert!(
                ran.stderr.contains(word),
                "{command} does not print {word}: {ran:?}"
            );
        }
    }
    assert_eq!(rig.requests("acme"), 0, "nothing was sent");
}

#[test]
fn world_writable_token_directory_is_refused() {
    let rig = with_tokens(0o777);
    is_refused(&rig, &["tokens can be written by everybody", "chmod o-w"]);
    chmod(&rig.path("tokens"), 0o1777);
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    rig.wait_for_generation("acme", 2);
    daemon.stop();
}

#[test]
fn token_directory_below_a_world_writable_one_is_refused() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    fs::create_dir_all(rig.path("open/tokens")).expect("directories");
    chmod(&rig.path("open"), 0o777);
    symlink("open/tokens", rig.path("tokens")).expect("a link");
    rig.write_config();
    is_refused(&rig, &["/open can be written by everybody"]);
    chmod(&rig.path("open"), 0o755);
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    eventually(
        "a file in the target of the administrator's link",
        SOON,
        || rig.path("open/tokens/acme/token").exists(),
    );
    daemon.stop();
}

#[test]
fn token_directory_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let rig = with_tokens(0o755);
    chown(rig.path("tokens"), Some(STRANGER), None).expect("root");
    is_refused(&rig, &[&format!("belongs to user {STRANGER}"), "chown"]);
    chown(rig.path("tokens"), Some(0), None).expect("root");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    // The owner changes while the daemon runs.
    chown(rig.path("tokens"), Some(STRANGER), None).expect("root");
    daemon.wait_for_step("acme", "unpublished");
    let before = rig.generation("acme");
    rig.wait_for_renewals("acme", 1);
    assert_eq!(rig.generation("acme"), before, "nothing is written there");
    chown(rig.path("tokens"), Some(0), None).expect("root");
    rig.wait_for_generation("acme", before + 1);
    daemon.stop();
}

#[test]
fn portal_directory_of_another_user_is_named() {
    if !is_root() {
        return;
    }
    let rig = with_tokens(0o751);
    fs::create_dir(rig.path("tokens/acme")).expect("a directory");
    let owner = format!("acme belongs to user {STRANGER}");
    // A directory made for a consumer stays even without a token.
    chmod(&rig.path("tokens/acme"), 0o2750);
    chown(rig.path("tokens/acme"), Some(STRANGER), None).expect("root");
    let daemon = rig.start();
    daemon.wait_for("the report", |event| {
        event["level"] == "WARN" && message_contains(event, &owner)
    });
    // It may be intended.
    eventually("a token that works", SOON, || rig.has_working_token("acme"));
    let ran = rig.run(["check"]);
    assert!(
        ran.code == Some(0) && ran.stderr.contains(&owner),
        "{ran:?}"
    );
    daemon.stop();
    chown(rig.path("tokens/acme"), Some(0), None).expect("root");
    let daemon = rig.start();
    assert!(
        daemon
            .events(|event| message_contains(event, "belongs to"))
            .is_empty()
    );
    let ran = rig.run(["check"]);
    assert!(!ran.stderr.contains("belongs to"), "{ran:?}");
    daemon.stop();
}

#[test]
fn recommended_directories_work() {
    for mode in [0o751, 0o2750, 0o2770] {
        let rig = with_tokens(0o751);
        fs::create_dir(rig.path("tokens/acme")).expect("a directory");
        if is_root() {
            chown(rig.path("tokens/acme"), None, Some(STRANGER)).expect("root");
        }
        chmod(&rig.path("tokens/acme"), mode);
        let daemon = rig.start();
        rig.wait_for_generation("acme", 2);
        eventually("a token that works", SOON, || rig.has_working_token("acme"));
        assert_eq!(rig.run(["check"]).code, Some(0));
        daemon.stop();
    }
}

#[test]
fn linked_portal_directory_is_reported_and_not_followed() {
    let rig = with_tokens(0o751);
    let victim = rig.path("victim");
    fs::create_dir(&victim).expect("a directory");
    for name in ["token", "env"] {
        File::create_new(victim.join(name)).expect("a foreign file");
    }
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let moved = Command::new("mv")
        .args([rig.path("tokens/acme"), rig.path("aside")])
        .status();
    assert!(moved.expect("mv").success());
    symlink(&victim, rig.path("tokens/acme")).expect("a link");
    let event = daemon.wait_for_step("acme", "unpublished");
    assert!(
        event["reason"]
            .as_str()
            .expect("a reason")
            .contains("symbolic link"),
        "{event}"
    );
    // The portal's own files are elsewhere now.
    let ran = rig.run(["forget", "acme", "--yes"]);
    assert!(
        ran.code == Some(75) && ran.stderr.contains("symbolic link"),
        "{ran:?}"
    );
    let there: Vec<_> = fs::read_dir(&victim).expect("a directory").collect();
    assert_eq!(
        there.len(),
        2,
        "nothing was written there, and nothing deleted: {there:?}"
    );
    assert_eq!(
        fs::metadata(victim.join("token"))
            .expect("it is there")
            .len(),
        0
    );
    daemon.stop();
}

#[test]
fn foreign_object_as_token_json_does_not_stop_the_start() {
    let rig = with_tokens(0o751);
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    daemon.stop();
    let file = rig.token_path("acme", "token.json");
    let json = fs::read_to_string(&file).expect("a file");
    for what in ["pipe", "sparse", "link", "generation"] {
        fs::remove_file(&file).expect("a file");
        match what {
            "pipe" => {
                assert!(
                    Command::new("mkfifo")
                        .arg(&file)
                        .status()
                        .expect("mkfifo")
                        .success()
                );
            }
            "sparse" => {
                File::create_new(&file)
                    .and_then(|file| file.set_len(3 << 30))
                    .expect("a sparse file");
            }
            "link" => symlink("/dev/zero", &file).expect("a link"),
            _ if is_root() => {
                let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
                let mut value = value;
                value["generation"] = 1_000_000_000.into();
                rig.secret("forged", &value.to_string());
                assert!(
                    Command::new("mv")
                        .arg(rig.path("forged"))
                        .arg(&file)
                        .status()
                        .expect("mv")
                        .success()
                );
                chown(&file, Some(STRANGER), Some(STRANGER)).expect("root");
            }
            _ => {
                rig.secret("forged", "{}");
                assert!(
                    Command::new("mv")
                        .arg(rig.path("forged"))
                        .arg(&file)
                        .status()
                        .expect("mv")
                        .success()
                );
            }
        }
        let looked = rig.run(["status", "--json"]);
        assert!(
            looked.stdout.contains("\"acme\"") && !looked.stdout.contains("old-state"),
            "{what}: {looked:?}"
        );
        let daemon = rig.start();
        let renewed = rig.renewals("acme");
        eventually(&format!("a renewal after {what}"), SOON, || {
            rig.renewals("acme") > renewed
        });
        eventually("a file of refreshd's own", SOON, || {
            fs::symlink_metadata(&file).is_ok_and(|found| found.is_file() && found.len() < 4096)
                && rig.generation("acme") < 1_000
                && rig.has_working_token("acme")
        });
        assert!(
            daemon.peak_memory() < 200 * 1024,
            "{what}: {} KiB",
            daemon.peak_memory()
        );
        daemon.stop();
    }
    rig.no_violations();
}

#[test]
fn state_files_are_not_opened_through_links() {
    for suffix in ["", "-wal", ".lock"] {
        let mut rig = Rig::new(["acme"]);
        rig.grant("acme");
        rig.write_config();
        rig.secret("victim", "a foreign file");
        symlink(rig.path("victim"), rig.path(format!("state.db{suffix}"))).expect("a link");
        for command in [&["run"][..], &["renew", "acme"]] {
            let ran = rig.run(command.iter().copied());
            assert_eq!(ran.code, Some(78), "{suffix} {command:?}: {ran:?}");
            assert!(ran.stderr.contains("symbolic link"), "{suffix}: {ran:?}");
        }
        assert_eq!(
            fs::read_to_string(rig.path("victim")).expect("it is there"),
            "a foreign file"
        );
        assert_eq!(rig.requests("acme"), 0);
    }
    // Without the record of generations, work continues; it is not written through a link.
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
    fs::remove_file(rig.path("state.db.generations")).expect("a record");
    rig.secret("victim", "a foreign file");
    symlink(rig.path("victim"), rig.path("state.db.generations")).expect("a link");
    assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
    assert_eq!(
        fs::read_to_string(rig.path("victim")).expect("it is there"),
        "a foreign file"
    );
}

#[test]
fn reading_commands_do_not_block_on_a_pipe_as_state() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.start().stop();
    for name in ["state.db-wal", "state.db"] {
        fs::remove_file(rig.path(name)).expect("a file");
        assert!(
            Command::new("mkfifo")
                .arg(rig.path(name))
                .status()
                .expect("mkfifo")
                .success()
        );
        for command in ["status", "run"] {
            let ran = rig.run([command]);
            assert!(
                ran.code == Some(78) && ran.stderr.contains("no regular file"),
                "{name} {command}: {ran:?}"
            );
        }
    }
}

#[test]
fn huge_record_of_generations_is_not_read() {
    let rig = with_tokens(0o751);
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    daemon.stop();
    fs::remove_file(rig.path("state.db.generations")).expect("a record");
    File::create_new(rig.path("state.db.generations"))
        .and_then(|file| file.set_len(5 << 30))
        .expect("sparse");
    let daemon = rig.start();
    rig.wait_for_renewals("acme", 1);
    assert!(
        daemon.peak_memory() < 200 * 1024,
        "{} KiB",
        daemon.peak_memory()
    );
    assert!(
        fs::metadata(rig.path("state.db.generations"))
            .expect("it is there")
            .len()
            < 4096,
        "written anew"
    );
    daemon.stop();
}

#[test]
fn deleted_lock_does_not_admit_a_second_daemon() {
    let rig = with_tokens(0o751);
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    fs::remove_file(rig.path("state.db.lock")).expect("a lock");
    let text = fs::read_to_string(rig.path("refreshd.toml")).expect("the configuration");
    rig.secret(
        "refreshd.toml",
        &text.replace("\"control.sock\"", "\"other.sock\""),
    );
    let ran = rig.run(["run"]);
    assert!(
        ran.code == Some(69) && ran.stderr.contains("is in use by another refreshd"),
        "{ran:?}"
    );
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();
    daemon.stop();
}

#[test]
fn state_directory_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    fs::create_dir(rig.path("theirs")).expect("a directory");
    chown(rig.path("theirs"), Some(STRANGER), None).expect("root");
    let text = fs::read_to_string(rig.path("refreshd.toml")).expect("the configuration");
    rig.secret(
        "refreshd.toml",
        &text.replace("\"state.db\"", "\"theirs/state.db\""),
    );
    let ran = rig.run(["run"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    assert!(
        ran.stderr.contains(&format!("belongs to user {STRANGER}")),
        "{ran:?}"
    );
    assert!(
        fs::read_dir(rig.path("theirs"))
            .expect("a directory")
            .next()
            .is_none(),
        "nothing was made there"
    );
    chmod(&rig.path("theirs"), 0o777);
    chown(rig.path("theirs"), Some(0), None).expect("root");
    let ran = rig.run(["run"]);
    assert!(
        ran.code == Some(78) && ran.stderr.contains("can be written by everybody"),
        "{ran:?}"
    );
    chmod(&rig.path("theirs"), 0o700);
    let daemon = crate::common::Daemon::spawn(rig.command(["run"]));
    daemon.wait_for("a daemon", |event| message_contains(event, "is ready"));
    daemon.stop();
}

/// Asserts that `run` and `check` end like this, with these words.
#[track_caller]
fn neither_runs_nor_checks(rig: &Rig, code: i32, words: &[&str]) {
    for command in ["run", "check"] {
        let ran = rig.run([command]);
        assert_eq!(ran.code, Some(code), "{command}: {ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{command}, {word}: {ran:?}");
        }
        assert!(!ran.stderr.contains("remove"), "{command}: {ran:?}");
    }
}

#[test]
fn valid_state_of_another_owner_is_not_to_be_removed() {
    if !is_root() {
        return;
    }
    let rig = with_tokens(0o751);
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    daemon.stop();
    chown(rig.path("state.db"), Some(STRANGER), None).expect("root");
    neither_runs_nor_checks(&rig, 78, &["state.db belongs to user 61001", "chown"]);
    chown(rig.path("state.db"), Some(0), None).expect("root");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 3);
    daemon.stop();
}

#[test]
fn non_files_beside_the_state_are_named_by_run_and_check() {
    for name in ["state.db.lock", "state.db-shm"] {
        let rig = with_tokens(0o751);
        fs::create_dir(rig.path(name)).expect("a directory");
        neither_runs_nor_checks(&rig, 78, &[name, "is no regular file"]);
    }
}

#[test]
fn world_readable_state_is_restricted_and_reported() {
    let rig = with_tokens(0o751);
    rig.start().stop();
    chmod(&rig.path("state.db"), 0o644);
    let ran = rig.run(["check"]);
    assert!(
        ran.code == Some(0)
            && ran
                .stderr
                .contains("state.db is open to others (mode 0644)"),
        "{ran:?}"
    );
    let daemon = rig.start();
    daemon.wait_for("a warning", |event| {
        message_contains(event, "state.db was open to other users (mode 0644)")
    });
    assert_eq!(crate::common::mode(&rig.path("state.db")), 0o600);
    daemon.stop();
    let ran = rig.run(["check"]);
    assert!(!ran.stderr.contains("open to others"), "{ran:?}");
}

#[test]
fn world_writable_configuration_is_named_by_run_and_check() {
    let rig = with_tokens(0o751);
    chmod(&rig.path("refreshd.toml"), 0o666);
    let words = "every user can write this file (mode 0666)";
    let ran = rig.run(["check"]);
    assert!(ran.code == Some(0) && ran.stderr.contains(words), "{ran:?}");
    let daemon = crate::common::Daemon::spawn(rig.command(["run"]));
    daemon.wait_for("a warning", |event| message_contains(event, words));
    daemon.stop();
}
