//! Limits and failures of the machine: an unread log, missing threads and descriptors, leftovers of a kill, suspension. Also
//! the daemon's exposure to other users of the machine.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use refreshd_fake_server::Fault;

use rustix::process::geteuid;

use crate::common::authorizing::Authorizing;
use crate::common::hostile::{Behaviour, Hostile, reply};
use crate::common::{Daemon, Rig, SOON, always, eventually};

/// A user id that no machine has.
const UNKNOWN_USER: u32 = 61_234;
/// The smallest pipe that the kernel makes.
const PIPE: usize = 4096;

fn signal(name: &str, pid: u32) {
    let sent = Command::new("/bin/sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .expect("a shell");
    assert!(sent.success(), "the daemon is gone");
}

#[test]
fn unread_log_blocks_nothing() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    let mut command = rig.command(["run"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let stderr = child.stderr.take().expect("it is piped");
    rustix::pipe::fcntl_setpipe_size(&stderr, PIPE).expect("a small pipe");
    eventually("the first renewal", SOON, || rig.renewals("acme") >= 1);
    // Each reload logs at least one line.
    let socket = rig.path("control.sock");
    eventually("a daemon that serves", SOON, || socket.exists());
    for _ in 0..100 {
        assert_eq!(
            rig.control("POST", "/v1/reload", "").0,
            200,
            "a full pipe must not stop the control socket"
        );
    }
    let waiting = rustix::io::ioctl_fionread(&stderr).expect("a pipe");
    assert!(
        waiting as usize > PIPE / 2,
        "the pipe is full: {waiting} bytes"
    );
    rig.wait_for_renewals("acme", 1);
    assert_eq!(rig.http("/livez").0, 200);
    signal("TERM", child.id());
    let ended = eventually("its end", SOON, || child.try_wait().expect("a child"));
    assert_eq!(ended.code(), Some(0), "SIGTERM is obeyed");
    assert!(rig.has_working_token("acme"));
    rig.no_violations();
}

/// A full pipe that is not read: its ends.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let size = rustix::pipe::fcntl_setpipe_size(&writer, PIPE).expect("a small pipe");
    let written = rustix::io::write(&writer, &vec![b'x'; size]).expect("it takes so much");
    assert_eq!(written, size);
    (reader, writer)
}

#[test]
fn failed_start_exits_though_its_log_is_unread() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let _first = rig.start();
    let ends = |rig: &Rig, code: i32, what: &str| {
        let (_reader, writer) = full_pipe();
        let mut command = rig.command(["run"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .expect("it starts");
        drop(command);
        let ended = eventually(what, SOON, || child.try_wait().expect("a child"));
        assert_eq!(ended.code(), Some(code), "{what}");
    };
    ends(&rig, 69, "the end of a second daemon");
    rig.config.more = "nonsense".to_owned();
    rig.write_config();
    ends(&rig, 78, "the end of one with a bad configuration");
}

#[test]
fn dropped_log_lines_are_counted_and_reported_later() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    let pipe = rig.path("log");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .expect("mkfifo")
            .success()
    );
    let read = || {
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag");
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(nonblock)
            .open(&pipe)
            .expect("a pipe")
    };
    let reader = read();
    let writer = fs::OpenOptions::new()
        .write(true)
        .open(&pipe)
        .expect("it has a reader");
    let mut command = rig.command(["run"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .expect("it starts");
    // The daemon must be the only owner of the writing end.
    drop(command);
    eventually("a daemon that serves", SOON, || {
        rig.path("control.sock").exists()
    });
    let reload = || assert_eq!(rig.control("POST", "/v1/reload", "").0, 200);
    reload();
    assert!(rig.metric("refreshd_log_lines_dropped_total") < 0.5);
    drop(reader);
    for _ in 0..7 {
        reload();
    }
    eventually("they are counted", SOON, || {
        rig.metric("refreshd_log_lines_dropped_total") > 6.5
    });
    let mut reader = read();
    let mut text = Vec::new();
    eventually("they are reported", SOON, || {
        reload();
        // It may be empty or incomplete so far.
        let _ = reader.read_to_end(&mut text);
        String::from_utf8_lossy(&text).contains("lines of the log were dropped")
    });
    signal("TERM", child.id());
    let ended = eventually("its end", SOON, || {
        let _ = reader.read_to_end(&mut text);
        child.try_wait().expect("a child")
    });
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn returning_log_reader_misses_no_buffered_line() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    let mut child = rig
        .command(["run"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let stderr = child.stderr.take().expect("it is piped");
    rustix::pipe::fcntl_setpipe_size(&stderr, PIPE).expect("a small pipe");
    eventually("a daemon that serves", SOON, || {
        rig.path("control.sock").exists()
    });
    for _ in 0..60 {
        assert_eq!(rig.control("POST", "/v1/reload", "").0, 200);
    }
    let lines = std::thread::Builder::new().spawn(move || {
        BufReader::new(stderr)
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.contains("was reloaded"))
            .count()
    });
    signal("TERM", child.id());
    let ended = eventually("its end", SOON, || child.try_wait().expect("a child"));
    assert_eq!(ended.code(), Some(0));
    assert_eq!(
        lines.expect("a thread").join().expect("it reads"),
        60,
        "every line arrives, in the end too"
    );
}

/// A copy of the program that another user may run.
fn program(rig: &Rig) -> Command {
    let directory = tempfile::Builder::new()
        .prefix("refreshd-public-")
        .tempdir()
        .expect("a directory")
        .keep();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("its owner");
    let copy = directory.join("refreshd");
    fs::copy(rig.command(["run"]).get_program(), &copy).expect("a copy");
    let mut command = Command::new(copy);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    if geteuid().is_root() {
        command.uid(UNKNOWN_USER).gid(UNKNOWN_USER);
    }
    command
}

fn remove(command: &Command) {
    let directory = std::path::Path::new(command.get_program())
        .parent()
        .expect("a directory");
    fs::remove_dir_all(directory).expect("it is ours");
}

#[test]
fn too_few_threads_fail_the_start_with_a_reason() {
    let rig = Rig::new(["acme"]);
    let program = program(&rig);
    let name = program.get_program().to_str().expect("a path").to_owned();
    let limits = [1, 4, 12].map(|most| (most, "run"));
    for (most, what) in limits
        .into_iter()
        .chain([4, 8, 11].map(|most| (most, "renew")))
    {
        let mut limited = Command::new("prlimit");
        limited.args([
            &format!("--nproc={most}"),
            &name,
            what,
            "--config",
            "/nowhere.toml",
        ]);
        if what == "renew" {
            limited.arg("acme");
        }
        limited
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::null());
        if geteuid().is_root() {
            limited.uid(UNKNOWN_USER + most).gid(UNKNOWN_USER);
        }
        let ran = crate::common::CommandOutput::run(&mut limited);
        assert_eq!(ran.code, Some(69), "{ran:?}");
        assert!(
            ran.stderr.contains("TasksMax="),
            "it names the limit to raise: {ran:?}"
        );
    }
    remove(&program);
}

#[test]
fn too_few_descriptors_send_nothing_and_are_reported() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    for arguments in [
        &["run"] as &[_],
        &["renew", "acme"],
        &["status"],
        &["check"],
    ] {
        for most in [6, 20, 30] {
            let command = rig.command(arguments.iter().copied());
            let mut limited = Command::new("/bin/sh");
            let limit = format!("ulimit -n {most}; exec \"$@\"");
            limited.env_clear().args(["-c", &limit, "sh"]);
            limited.arg(command.get_program()).args(command.get_args());
            let ran = crate::common::CommandOutput::run(&mut limited);
            assert_eq!(ran.code, Some(69), "{ran:?}");
            assert!(
                ran.stderr.contains("file descriptors") && ran.stderr.contains("ulimit -n"),
                "it names the limit to raise: {ran:?}"
            );
        }
    }
    assert_eq!(rig.requests("acme"), 0);
}

#[test]
fn memory_is_not_readable_or_dumpable() {
    let rig = Rig::new(["acme"]);
    let mut program = program(&rig);
    let work = std::path::Path::new(program.get_program()).with_file_name("work");
    fs::create_dir(&work).expect("a directory");
    fs::set_permissions(&work, fs::Permissions::from_mode(0o777)).expect("its owner");
    program
        .args(["sandbox", "--listen", "127.0.0.1:0", "--dir"])
        .arg(work);
    program.stdout(Stdio::null()).stderr(Stdio::null());
    // Another test may have had the copy open for writing when it started a process.
    let mut child = eventually("a process", SOON, || program.spawn().ok());
    let about = |file: &str| format!("/proc/{}/{file}", child.id());
    // The kernel gives the files of a process that is not dumpable to root.
    eventually("a process that is not dumpable", SOON, || {
        fs::metadata(about("environ")).is_ok_and(|found| found.uid() == 0)
    });
    eventually("no core dump", SOON, || {
        let limits = fs::read_to_string(about("limits")).unwrap_or_default();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        core.is_some_and(|line| line.split_whitespace().nth(4) == Some("0"))
    });
    assert_eq!(child.try_wait().expect("a child"), None, "it runs");
    child.kill().expect("it runs");
    child.wait().expect("a child");
    remove(&program);
}

/// Needs root, which alone can start a process of another user.
#[test]
fn commands_send_nothing_to_an_untrusted_listener() {
    if !geteuid().is_root() {
        return;
    }
    let rig = Rig::new(["acme"]);
    rig.write_config();
    let mut stranger = program(&rig);
    let public = std::path::Path::new(stranger.get_program())
        .parent()
        .expect("a directory")
        .to_owned();
    let (shared, own) = (public.join("shared"), public.join("own"));
    for (directory, mode) in [(&shared, 0o1777), (&own, 0o700)] {
        fs::create_dir(directory).expect("a directory");
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).expect("its owner");
    }
    let config = format!(
        "state = \"{own}/state.db\"\ntoken_dir = \"{own}/tokens\"\ncontrol_socket = \"{shared}/control.sock\"\n\
         [apps.crm]\nprovider = \"bitrix24\"\nclient_id = \"a\"\nclient_secret_file = \"{own}/secret\"\n\
         [portals.acme]\napp = \"crm\"\ndomain = \"acme.bitrix24.com\"\n",
        own = own.display(),
        shared = shared.display()
    );
    for (file, text) in [
        ("refreshd.toml", config.as_str()),
        ("secret", "s3cret0123456789"),
    ] {
        refreshd::adapters::token_files::write_whole(&own, &own.join(file), text.as_bytes(), 0o600)
            .expect("a file");
        std::os::unix::fs::chown(own.join(file), Some(UNKNOWN_USER), Some(UNKNOWN_USER))
            .expect("the superuser");
    }
    std::os::unix::fs::chown(&own, Some(UNKNOWN_USER), Some(UNKNOWN_USER)).expect("the superuser");
    stranger
        .args(["run", "--config"])
        .arg(own.join("refreshd.toml"));
    stranger.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = eventually("a process", SOON, || stranger.spawn().ok());
    let socket = shared.join("control.sock");
    eventually("a foreign listener", SOON, || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    rig.secret("handed", &rig.install("acme"));
    let socket = socket.to_str().expect("a path").to_owned();
    for arguments in [["import", "acme"], ["status", "acme"]] {
        let handed = fs::File::open(rig.path("handed")).expect("it was written");
        let mut command = rig.command(arguments.into_iter().chain(["--socket", &*socket]));
        let ran = crate::common::CommandOutput::run(command.stdin(handed));
        assert_eq!(ran.code, Some(77), "{ran:?}");
        assert!(
            ran.stderr
                .contains(&format!("belongs to user {UNKNOWN_USER}")),
            "{ran:?}"
        );
    }
    child.kill().expect("it runs");
    child.wait().expect("a child");
    remove(&stranger);
}

#[test]
fn temporary_files_of_a_killed_process_are_removed() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    daemon.kill9();
    let left = [
        rig.token_path("acme", ".refreshd-AbCdEf"),
        rig.path("tokens/.probe-AbCdEf"),
    ];
    for file in &left {
        fs::File::create_new(file).expect("a leftover");
    }
    fs::File::create_new(rig.token_path("acme", ".foreign")).expect("a foreign file");
    let daemon = rig.start();
    assert!(
        left.iter().all(|file| !file.exists()),
        "they hold access tokens"
    );
    assert!(
        rig.token_path("acme", ".foreign").exists(),
        "foreign files stay"
    );
    daemon.stop();
}

#[test]
fn others_can_never_connect_to_the_control_socket() {
    let rig = Rig::new(["acme"]);
    rig.write_config();
    let mut command = Command::new("/bin/sh");
    let program = rig
        .command(["run"])
        .get_program()
        .to_str()
        .expect("a path")
        .to_owned();
    let script = format!(
        "umask 0; exec {program} run --config {}",
        rig.path("refreshd.toml").display()
    );
    let mut child = command
        .args(["-c", &script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let socket = rig.path("control.sock");
    let clock = refreshd_time::clock::Clock::system();
    let began = clock.tick();
    let seen = loop {
        if let Ok(found) = fs::symlink_metadata(&socket) {
            break found.permissions().mode() & 0o777;
        }
        assert!(clock.elapsed(began) < SOON, "no socket");
        std::hint::spin_loop();
    };
    assert_eq!(seen & 0o007, 0, "the very first mode is {seen:o}");
    eventually("a daemon that serves", SOON, || {
        rig.control_if_any("GET", "/v1/portals").is_some()
    });
    assert_eq!(crate::common::mode(&socket), 0o660);
    signal("TERM", child.id());
    eventually("its end", SOON, || child.try_wait().expect("a child"));
}

#[test]
fn response_received_while_suspended_is_used() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.config.timeout = Duration::from_secs(3);
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(1),
        },
        1,
    );
    let daemon = rig.start();
    eventually("a request under way", SOON, || rig.renewals("acme") == 1);
    signal("STOP", daemon.pid());
    // The response is in the socket, and the request's time limit has passed.
    always("it is suspended", Duration::from_secs(6), || {
        daemon.outcomes("acme").is_empty()
    });
    signal("CONT", daemon.pid());
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(
        daemon.outcomes("acme"),
        ["renewed"],
        "the received response was not discarded"
    );
    assert_eq!(
        rig.requests("acme"),
        1,
        "and the spent token was not sent again"
    );
    daemon.stop();
    rig.no_violations();
}

/// Kind of process that sends the requests of an authorization.
#[derive(Clone, Copy)]
enum Asks {
    Daemon,
    Command,
}

/// The response to an authorization arrives while the process is suspended for longer than the request's time limit.
#[track_caller]
fn authorization_during_a_suspension_is_used(kind: &str, arguments: &[&str], asks: Asks) {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Hostile::listen("127.0.0.1:0", move |request| {
        let close = |body: &str| Behaviour::Close(reply("200 OK", "Connection: close\r\n", body));
        if request.text.starts_with("POST /device") {
            return close(
                r#"{"device_code":"d1","user_code":"WDJB-MJHT","verification_uri":"https://a.example/d","interval":1}"#,
            );
        }
        count.fetch_add(1, Ordering::SeqCst);
        let held = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
        held.expect("the test lets it go");
        close(r#"{"access_token":"a1","refresh_token":"r1","expires_in":3600}"#)
    });
    let asked = || asked.load(Ordering::SeqCst);
    let mut rig = Rig::new([]);
    rig.secret("news.secret", "s3cretOfTheClient");
    rig.config.apps.clear();
    rig.config.timeout = Duration::from_secs(3);
    rig.config.more = format!(
        "[portals.news]\nprovider = 'own'\nclient_id = 'svc'\nclient_secret_file = 'news.secret'\n\
         [providers.own]\ntoken_url = 'http://{0}/token'\ndevice_url = 'http://{0}/device'\n\
         authorize_url = 'http://{0}/authorize'\npkce = 'none'\n{kind}",
        server.address
    );
    let daemon = matches!(asks, Asks::Daemon).then(|| rig.start());
    rig.write_config();
    let command = Authorizing::spawn(rig.command(arguments.iter().copied()));
    let pid = daemon.as_ref().map_or(command.pid(), Daemon::pid);
    eventually("a request under way", SOON, || asked() == 1);
    signal("STOP", pid);
    go.send(()).expect("a server");
    always("it is suspended", Duration::from_secs(6), || asked() == 1);
    signal("CONT", pid);
    eventually("the received response is used", SOON, || {
        rig.token_json("news")
            .is_some_and(|token| token["access_token"] == "a1")
    });
    assert_eq!(asked(), 1, "and it was not asked again");
    drop(command);
    drop(daemon);
}

#[test]
fn code_exchange_response_received_while_suspended_is_used() {
    let code = ["authorize", "news", "--code", "c0de"];
    authorization_during_a_suspension_is_used("", &code, Asks::Daemon);
    authorization_during_a_suspension_is_used("", &code, Asks::Command);
}

#[test]
fn device_response_received_while_suspended_is_used() {
    let device = ["authorize", "news"];
    authorization_during_a_suspension_is_used("grant = 'device'", &device, Asks::Daemon);
    authorization_during_a_suspension_is_used("grant = 'device'", &device, Asks::Command);
}

#[test]
fn commands_time_out_while_the_daemon_is_suspended() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    signal("STOP", daemon.pid());
    let clock = refreshd_time::clock::Clock::system();
    let began = clock.tick();
    let commands: [&[&str]; 4] = [
        &["status"],
        &["alert", "list"],
        &["renew", "acme"],
        &["token", "acme"],
    ];
    for command in commands {
        let ran = rig.run(command.iter().copied());
        let silent = format!("process {}) does not answer", daemon.pid());
        assert!(
            ran.code == Some(69) && ran.stderr.contains(&silent),
            "{command:?}: {ran:?}"
        );
    }
    let took = clock.elapsed(began);
    assert!(took < Duration::from_secs(60), "{took:?}");
    signal("CONT", daemon.pid());
    eventually("it goes on", SOON, || rig.run(["status"]).code == Some(0));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn command_waits_for_a_slow_renewal() {
    let mut rig = Rig::new(["acme"]);
    let slow = Fault::Slow {
        by: Duration::from_secs(13),
    };
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    rig.fail("acme", slow, 1);
    let ran = rig.run(["renew", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    daemon.stop();
}

#[test]
fn low_descriptor_limit_is_reported_at_start() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.write_config();
    let run = rig.command(["run"]);
    let mut limited = Command::new("/bin/sh");
    limited
        .env_clear()
        .args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]);
    limited.arg(run.get_program()).args(run.get_args());
    let daemon = Daemon::spawn(limited);
    let event = daemon.wait_for("a warning", |event| {
        crate::common::message_contains(event, "only 64 file descriptors")
    });
    assert!(
        crate::common::message_contains(&event, "LimitNOFILE="),
        "{event}"
    );
    assert!(
        crate::common::message_contains(&event, "needs 64 for itself"),
        "the number needed: {event}"
    );
    rig.wait_for_generation("acme", 2);
    let check = rig.command(["check"]);
    let mut limited = Command::new("/bin/sh");
    limited
        .env_clear()
        .args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]);
    limited.arg(check.get_program()).args(check.get_args());
    let checked = crate::common::CommandOutput::run(&mut limited);
    assert!(
        checked.code == Some(0) && checked.stderr.contains("only 64 file descriptors"),
        "{checked:?}"
    );
    daemon.stop();
}

/// The response's `Date` is older by the suspension, which is not clock skew.
#[test]
fn suspension_is_not_taken_for_clock_skew() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let by = Duration::from_secs(1);
    rig.fail("acme", Fault::Slow { by }, 1);
    let daemon = rig.start();
    eventually("a request under way", SOON, || rig.renewals("acme") == 1);
    signal("STOP", daemon.pid());
    always("it is suspended", Duration::from_secs(36), || {
        daemon.outcomes("acme").is_empty()
    });
    signal("CONT", daemon.pid());
    daemon.wait_for_outcome("acme", "renewed");
    rig.wait_for_renewals("acme", 1);
    let of_clocks = |event: &serde_json::Value| {
        event["skew_seconds"].is_number() || event["step_seconds"].is_number()
    };
    assert_eq!(daemon.events(of_clocks), Vec::<serde_json::Value>::new());
    daemon.stop();
    rig.no_violations();
}

/// The journal's socket has a fixed path, so the daemon gets its own mount namespace.
#[test]
fn unresponsive_or_missing_journal_delays_no_start() {
    if !geteuid().is_root() {
        return;
    }
    for is_full in [true, false] {
        let mut rig = Rig::new(["acme"]);
        rig.grant("acme");
        let config = rig.config.to_string();
        rig.secret(
            "refreshd.toml",
            &config.replace("format = \"json\"", "format = \"journald\""),
        );
        let journal = rig.path("journal");
        fs::create_dir(&journal).unwrap();
        let socket = UnixDatagram::bind(journal.join("socket")).unwrap();
        // Without the receiver the path has no listener.
        let _unread = is_full.then(|| {
            let sender = UnixDatagram::unbound().unwrap();
            sender.set_nonblocking(true).unwrap();
            while sender.send_to(b"x", journal.join("socket")).is_ok() {}
            socket
        });
        let daemon = rig.command(["run"]);
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal && exec \"$@\"",
            journal.display()
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(daemon.get_program())
            .args(daemon.get_args());
        let daemon = Daemon::spawn(command);
        eventually("a token", SOON, || rig.has_working_token("acme"));
        daemon.stop();
        rig.no_violations();
    }
}
