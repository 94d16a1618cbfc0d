//! Permissions of the control socket, and the lock of the state.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use crate::common::{CommandOutput, Rig};
use crate::interfaces::{calm, contains, fresh};

/// A user who is neither root nor the daemon.
const OTHER_USER: &str = "65534";

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its permissions change");
}

/// Whether this process can run commands as another user; prints the reason if not.
#[expect(clippy::print_stdout, reason = "a skipped test prints why")]
fn can_switch_user() -> bool {
    let root = fs::metadata("/proc/self").expect("a Linux").uid() == 0;
    let setpriv = Command::new("setpriv")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !root {
        println!("skipped: only root can run the client as another user");
    } else if !setpriv {
        println!("skipped: there is no setpriv to run the client as another user with");
    }
    root && setpriv
}

/// Runs the client on the rig's socket as another user, from a copy which that user can reach.
fn as_other_user(rig: &Rig, arguments: &[&str]) -> CommandOutput {
    let binary = rig.path("refreshd");
    if !binary.exists() {
        chmod(&rig.path("."), 0o755);
        let from = env!("CARGO_BIN_EXE_refreshd");
        fs::hard_link(from, &binary)
            .or_else(|_| fs::copy(from, &binary).map(drop))
            .expect("a copy");
    }
    let switch_user = [
        "--reuid",
        OTHER_USER,
        "--regid",
        OTHER_USER,
        "--clear-groups",
        "--",
    ];
    let mut command = Command::new("setpriv");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .args(switch_user);
    command
        .arg(binary)
        .args(arguments)
        .arg("--socket")
        .arg(rig.path("control.sock"));
    CommandOutput::run(&mut command)
}

#[test]
fn missing_socket_permission_is_reported() {
    if !can_switch_user() {
        return;
    }
    let (rig, daemon) = fresh(["acme"]);
    for command in [
        &["status"][..],
        &["token", "acme"],
        &["renew", "acme"],
        &["forget", "acme", "--yes"],
    ] {
        let ran = as_other_user(&rig, command);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(77), ""),
            "{command:?}: {}",
            ran.stderr
        );
        contains(
            &ran.stderr,
            &["you may not use the control socket", "control.sock", "sudo"],
        );
    }
    daemon.stop();
}

#[test]
fn socket_users_may_read_and_renew_only() {
    if !can_switch_user() {
        return;
    }
    let (rig, daemon) = fresh(["acme", "globex"]);
    let token = fs::read_to_string(rig.token_path("acme", "token")).unwrap();
    let grant = rig.path("grant");
    rig.secret("grant", &rig.install("globex"));
    chmod(&grant, 0o644);
    chmod(&rig.path("control.sock"), 0o666);
    assert_eq!(as_other_user(&rig, &["status"]).code, Some(0));
    assert_eq!(
        as_other_user(&rig, &["token", "acme"]).stdout,
        format!("{token}\n")
    );
    assert_eq!(as_other_user(&rig, &["renew", "acme"]).code, Some(0));
    for command in [
        &["import", "globex", grant.to_str().unwrap()][..],
        &["forget", "acme", "--yes"],
    ] {
        let ran = as_other_user(&rig, command);
        assert_eq!(ran.code, Some(77), "{command:?}: {ran:?}");
        contains(
            &ran.stderr,
            &["only root and refreshd's own user may do this"],
        );
    }
    let mut curl = Command::new("setpriv");
    curl.args([
        "--reuid",
        OTHER_USER,
        "--regid",
        OTHER_USER,
        "--clear-groups",
        "--",
        "curl",
        "-s",
        "-o",
        "/dev/stdout",
    ]);
    curl.args([
        "-w",
        "%{http_code}",
        "-X",
        "POST",
        "http://refreshd/v1/reload",
        "--unix-socket",
    ]);
    match curl.arg(rig.path("control.sock")).output() {
        Ok(output) if output.status.success() => {
            let response = String::from_utf8_lossy(&output.stdout);
            assert!(
                response.contains("\"not-permitted\"") && response.ends_with("403"),
                "{response}"
            );
        }
        _ => println!("no curl: the permission to reload was not tested"),
    }
    assert_eq!(
        (rig.generation("acme"), rig.generation("globex")),
        (2, 2),
        "nothing was changed"
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn state_in_use_is_not_opened_and_its_daemon_named() {
    let (rig, daemon) = fresh(["acme"]);
    let sent = rig.server.total_requests();
    rig.secret(
        "other.toml",
        &rig.config
            .to_string()
            .replace("\"control.sock\"", "\"other.sock\""),
    );
    let pid = daemon.pid().to_string();
    for arguments in [
        &["status"][..],
        &["token", "acme"],
        &["renew", "acme"],
        &["forget", "acme", "--yes"],
        &["run"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refreshd"));
        command
            .env_clear()
            .args(arguments)
            .arg("--config")
            .arg(rig.path("other.toml"));
        let ran = CommandOutput::run(&mut command);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(69), ""),
            "{arguments:?}: {}",
            ran.stderr
        );
        contains(
            &ran.stderr,
            &["is in use by another refreshd", &format!("(process {pid})")],
        );
    }
    assert_eq!(
        (rig.generation("acme"), rig.server.total_requests()),
        (2, sent)
    );
    assert_eq!(rig.run(["status"]).code, Some(0), "the daemon goes on");
    daemon.stop();
}

#[test]
fn given_socket_is_the_only_one_used() {
    let rig = calm(["acme"]);
    rig.write_config();
    let socket = rig.path("elsewhere.sock");
    let ran = rig.run(["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(69), ""));
    contains(&ran.stderr, &["no daemon listens on ", "elsewhere.sock"]);
    assert!(
        !rig.path("state.db").exists(),
        "and no state is made in its place"
    );
}
