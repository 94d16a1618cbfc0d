//! Ownership of the directory of the control socket: its owner could listen there in the daemon's place.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;

use crate::common::{CommandOutput, Daemon, Rig, SOON, eventually, message_contains, mode};

/// A user id that no machine has.
const STRANGER: u32 = 61_001;

/// A rig whose socket is in `run/`, which exists.
fn rig() -> Rig {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    let text = fs::read_to_string(rig.path("refreshd.toml")).expect("the configuration");
    rig.secret(
        "refreshd.toml",
        &text.replace("\"control.sock\"", "\"run/control.sock\""),
    );
    fs::create_dir(rig.path("run")).expect("a directory");
    rig
}

fn chmod(rig: &Rig, mode: u32) {
    fs::set_permissions(rig.path("run"), fs::Permissions::from_mode(mode)).expect("its owner");
}

#[track_caller]
fn is_refused(rig: &Rig, words: &str) {
    for command in ["run", "check"] {
        let ran = rig.run([command]);
        assert!(
            ran.code == Some(78) && ran.stderr.contains(words),
            "{command}: {ran:?}"
        );
    }
    assert!(
        !rig.path("run/control.sock").exists(),
        "nothing was made there"
    );
}

#[test]
fn socket_directory_writable_by_others_is_refused() {
    let rig = rig();
    chmod(&rig, 0o777);
    is_refused(&rig, "run can be written by everybody");
    chmod(&rig, 0o755);
    if rustix::process::geteuid().is_root() {
        chown(rig.path("run"), Some(STRANGER), None).expect("root");
        is_refused(&rig, &format!("belongs to user {STRANGER}"));
        chown(rig.path("run"), Some(0), None).expect("root");
    }
    for allowed in [0o1777, 0o770, 0o755] {
        chmod(&rig, allowed);
        let daemon = Daemon::spawn(rig.command(["run"]));
        daemon.wait_for("a daemon", |event| message_contains(event, "is ready"));
        assert_eq!(mode(&rig.path("run/control.sock")), 0o660);
        assert_eq!(rig.run(["check"]).code, Some(0));
        daemon.stop();
    }
}

#[test]
fn socket_mode_is_independent_of_umask() {
    let rig = rig();
    fs::remove_dir(rig.path("run")).expect("it is empty");
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "umask 0777; exec \"$@\"", "sh"]);
    let run = rig.command(["run"]);
    shell.arg(run.get_program()).args(run.get_args());
    let daemon = Daemon::spawn(shell);
    daemon.wait_for("a daemon", |event| message_contains(event, "is ready"));
    assert_eq!(
        (mode(&rig.path("run")), mode(&rig.path("run/control.sock"))),
        (0o755, 0o660)
    );
    daemon.stop();
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "only a thread can be another user"
)]
fn command_does_not_trust_a_listener_for_its_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let rig = rig();
    fs::set_permissions(rig.path("."), fs::Permissions::from_mode(0o755)).expect("its owner");
    chown(rig.path("run"), Some(STRANGER), None).expect("root");
    let path = rig.path("run/control.sock");
    let listen = move || {
        let stranger = rustix::process::Uid::from_raw(STRANGER);
        rustix::thread::set_thread_res_uid(stranger, stranger, stranger).expect("root");
        UnixListener::bind(path).expect("his directory")
    };
    let listener = std::thread::spawn(listen).join().expect("he listens");
    listener.set_nonblocking(true).expect("a socket");
    rig.secret("grant", &rig.install("acme"));
    let stdin = fs::File::open(rig.path("grant")).expect("a file");
    let ran = CommandOutput::run(rig.command(["import", "acme"]).stdin(stdin));
    assert!(
        ran.code == Some(77) && ran.stderr.contains(&format!("belongs to user {STRANGER}")),
        "{ran:?}"
    );
    let ran = rig.run(["status"]);
    assert_eq!(ran.code, Some(77), "{ran:?}");
}

#[test]
fn removed_socket_is_recreated() {
    let rig = rig();
    let mut daemon = Daemon::spawn(rig.command(["run"]));
    daemon.wait_for("a daemon", |event| message_contains(event, "is ready"));
    let socket = rig.path("run/control.sock");
    let answers = || rig.run(["status"]).code.is_some_and(|code| code < 2);
    let ways: [(&str, &dyn Fn()); 3] = [
        ("its file", &|| fs::remove_file(&socket).unwrap()),
        ("its directory", &|| {
            fs::remove_dir_all(rig.path("run")).unwrap();
        }),
        ("another's in its place", &|| {
            fs::remove_file(&socket).unwrap();
            drop(UnixListener::bind(&socket).unwrap());
        }),
    ];
    for (what, take_away) in ways {
        eventually("a daemon that answers", SOON, answers);
        let mark = daemon.mark();
        take_away();
        daemon.wait_after(mark, SOON, what, |event| {
            event["level"] == "WARN"
                && message_contains(event, "is made anew; no command reached refreshd")
        });
        eventually(what, SOON, answers);
        assert_eq!(mode(&socket), 0o660, "{what}");
    }
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert!(!socket.exists());
}

#[test]
fn non_socket_in_its_place_is_left_and_reported() {
    let rig = rig();
    let mut daemon = Daemon::spawn(rig.command(["run"]));
    daemon.wait_for("a daemon", |event| message_contains(event, "is ready"));
    let socket = rig.path("run/control.sock");
    fs::remove_file(&socket).unwrap();
    rig.secret("run/control.sock", "mine");
    let warn = |event: &serde_json::Value| message_contains(event, "cannot be made anew yet");
    daemon.wait_for("the report", warn);
    for command in [&["status"][..], &["renew", "acme"]] {
        let ran = rig.run(command.iter().copied());
        assert!(
            ran.code == Some(69)
                && ran.stderr.contains(&format!("(process {})", daemon.pid()))
                && ran.stderr.contains("nothing answers on the control socket"),
            "{ran:?}"
        );
    }
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
    assert_eq!(daemon.events(warn).len(), 1, "it is reported once");
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
}

#[test]
fn foreign_listener_is_not_called_the_daemon() {
    let rig = Rig::new(["acme"]);
    rig.write_config();
    let socket = rig.path("control.sock");
    for answers in [false, true] {
        let listener = UnixListener::bind(&socket).unwrap();
        let listening = listener.try_clone().unwrap();
        if answers {
            // It closes each connection at once.
            std::thread::Builder::new()
                .spawn(move || listening.incoming().for_each(drop))
                .unwrap();
        }
        let ran = rig.run(["status"]);
        assert_eq!(ran.code, Some(69), "{ran:?}");
        let process = format!("(process {}, ", std::process::id());
        assert!(
            ran.stderr.contains("another process listens")
                && ran.stderr.contains(&process)
                && !ran.stderr.contains("the daemon ("),
            "{ran:?}"
        );
        fs::remove_file(&socket).unwrap();
    }
}
