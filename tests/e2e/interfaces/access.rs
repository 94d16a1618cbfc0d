//! Who may do what, and which of two reaches the state: permissions of the socket, and the state's lock.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use crate::common::{Ran, Rig};
use crate::interfaces::{calm, contains, fresh};

/// Some user who is neither root nor the daemon.
const NOBODY: &str = "65534";

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its permissions change");
}

/// Whether this process can become somebody else; says so if not.
#[expect(clippy::print_stdout, reason = "a test that was skipped says why")]
fn can_become_nobody() -> bool {
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

/// Runs the client on the rig's socket as nobody, from a copy that nobody can reach.
fn as_nobody(rig: &Rig, arguments: &[&str]) -> Ran {
    let binary = rig.path("refreshd");
    if !binary.exists() {
        chmod(&rig.path("."), 0o755);
        let from = env!("CARGO_BIN_EXE_refreshd");
        fs::hard_link(from, &binary)
            .or_else(|_| fs::copy(from, &binary).map(drop))
            .expect("a copy");
    }
    let become_nobody = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"];
    let mut command = Command::new("setpriv");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .args(become_nobody);
    command
        .arg(binary)
        .args(arguments)
        .arg("--socket")
        .arg(rig.path("control.sock"));
    Ran::to_its_end(&mut command)
}

#[test]
fn who_cannot_open_the_socket_is_told_so() {
    if !can_become_nobody() {
        return;
    }
    let (rig, daemon) = fresh(["acme"]);
    for command in [
        &["status"][..],
        &["token", "acme"],
        &["renew", "acme"],
        &["forget", "acme", "--yes"],
    ] {
        let ran = as_nobody(&rig, command);
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
fn who_can_open_the_socket_may_look_and_renew_and_change_nothing() {
    if !can_become_nobody() {
        return;
    }
    let (rig, daemon) = fresh(["acme", "globex"]);
    let token = fs::read_to_string(rig.token_path("acme", "token")).unwrap();
    let grant = rig.path("grant");
    rig.secret("grant", &rig.install("globex"));
    chmod(&grant, 0o644);
    chmod(&rig.path("control.sock"), 0o666);
    assert_eq!(as_nobody(&rig, &["status"]).code, Some(0));
    assert_eq!(
        as_nobody(&rig, &["token", "acme"]).stdout,
        format!("{token}\n")
    );
    assert_eq!(as_nobody(&rig, &["renew", "acme"]).code, Some(0));
    for command in [
        &["import", "globex", grant.to_str().unwrap()][..],
        &["forget", "acme", "--yes"],
    ] {
        let ran = as_nobody(&rig, command);
        assert_eq!(ran.code, Some(77), "{command:?}: {ran:?}");
        contains(
            &ran.stderr,
            &["only root and refreshd's own user may do this"],
        );
    }
    let mut curl = Command::new("setpriv");
    curl.args([
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
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
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                said.contains("\"not-permitted\"") && said.ends_with("403"),
                "{said}"
            );
        }
        _ => println!("no curl: whether nobody may reload was not seen"),
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
fn a_state_in_use_is_not_opened_and_its_daemon_is_named() {
    let (rig, daemon) = fresh(["acme"]);
    let sent = rig.sandbox.total_requests();
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
        let ran = Ran::to_its_end(&mut command);
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
        (rig.generation("acme"), rig.sandbox.total_requests()),
        (2, sent)
    );
    assert_eq!(rig.run(["status"]).code, Some(0), "the daemon goes on");
    daemon.stop();
}

#[test]
fn a_socket_that_was_named_is_the_only_one_asked() {
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
