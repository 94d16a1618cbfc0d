//! Notifications on systemd's NOTIFY_SOCKET: ready, watchdog, reloading, stopping.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::common::{Rig, SOON, eventually, message_contains};

/// The messages so far. The thread ends when none has come for as long as a test may wait.
fn listen(socket: UnixDatagram) -> impl Fn() -> Vec<String> {
    let messages = Arc::new(Mutex::new(Vec::new()));
    let writes = Arc::clone(&messages);
    socket.set_read_timeout(Some(SOON)).expect("a time limit");
    let thread = std::thread::Builder::new().spawn(move || {
        let mut message = [0; 4096];
        while let Ok(length) = socket.recv(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            writes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(text);
        }
    });
    thread.expect("a thread");
    move || {
        messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn has(message: &str, line: &str) -> bool {
    message.lines().any(|found| found == line)
}

#[test]
fn systemd_is_notified_of_start_watchdog_reload_and_stop() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let path = rig.path("notify.sock");
    let messages = listen(UnixDatagram::bind(&path).unwrap());
    let mut daemon = rig.launch([
        ("NOTIFY_SOCKET", path.as_os_str()),
        ("WATCHDOG_USEC", "2000000".as_ref()),
    ]);
    let ready = || {
        messages()
            .iter()
            .position(|message| has(message, "READY=1"))
    };
    let at = eventually("READY=1", SOON, ready);
    let status = messages()[at]
        .lines()
        .any(|line| line.starts_with("STATUS=") && line.contains("of 1 portals fresh"));
    assert!(status, "{:?}", messages());
    assert_eq!(
        rig.get_json("/v1/portals")["portals"][0]["portal"],
        "acme",
        "ready means that it serves"
    );

    let pings = || {
        messages()
            .iter()
            .filter(|message| has(message, "WATCHDOG=1"))
            .count()
    };
    let before = pings();
    eventually(
        "a watchdog that is fed every second",
        Duration::from_secs(4),
        || pings() >= before + 2,
    );

    let mark = messages().len();
    daemon.sighup();
    let again = |mark: usize, line: &'static str| {
        let messages = messages();
        messages[mark..]
            .iter()
            .position(|message| has(message, line))
            .map(|at| (mark + at, messages[mark + at].clone()))
    };
    let (at, reloading) = eventually("RELOADING=1", SOON, || again(mark, "RELOADING=1"));
    let stamp = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
    assert!(
        stamp.is_some_and(|stamp| stamp > 0),
        "in the same message: {reloading:?}"
    );
    eventually("READY=1 after it", SOON, || again(at, "READY=1"));

    let mark = messages().len();
    daemon.sigterm();
    eventually("STOPPING=1", SOON, || again(mark, "STOPPING=1"));
    assert_eq!(daemon.wait_exit(SOON), 0);
    rig.no_violations();
}

#[test]
fn failed_reload_is_reported_as_finished_to_systemd() {
    let mut rig = Rig::new([]);
    let path = rig.path("notify.sock");
    let messages = listen(UnixDatagram::bind(&path).unwrap());
    let daemon = rig.launch([("NOTIFY_SOCKET", path.as_os_str())]);
    eventually("READY=1", SOON, || {
        messages().iter().any(|message| has(message, "READY=1"))
    });
    rig.config.more = "nonsense".to_owned();
    rig.write_config();
    let mark = messages().len();
    daemon.sighup();
    eventually("READY=1 with a word on the failure", SOON, || {
        messages()[mark..]
            .iter()
            .any(|message| has(message, "READY=1") && message.contains("failed"))
    });
}

/// The line of `systemctl status` is written anew every few seconds.
#[test]
fn status_reports_an_old_configuration_until_a_valid_one_is_loaded() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let path = rig.path("notify.sock");
    let heard = listen(UnixDatagram::bind(&path).unwrap());
    let daemon = rig.launch([("NOTIFY_SOCKET", path.as_os_str())]);
    daemon.wait_for("it is ready", |event| message_contains(event, "is ready"));
    let statuses = |mark: usize| -> Vec<String> {
        let heard = heard();
        let lines = heard[mark..].iter().flat_map(|message| message.lines());
        lines
            .filter_map(|line| line.strip_prefix("STATUS="))
            .map(str::to_owned)
            .collect()
    };
    let is_old = |status: &String| status.contains("the old configuration is in force");
    assert!(!statuses(0).iter().any(is_old));
    let good = rig.config.to_string();
    rig.secret("refreshd.toml", &format!("nonsense = 1\n{good}"));
    let mark = heard().len();
    daemon.sighup();
    eventually(
        "a status of the housekeeping after that of the reload",
        SOON,
        || statuses(mark).len() >= 3,
    );
    let after = statuses(mark);
    assert!(after.iter().all(is_old), "{after:?}");
    assert!(
        after
            .iter()
            .all(|status| status.contains("of 1 portals fresh"))
    );
    rig.secret("refreshd.toml", &good);
    daemon.sighup();
    eventually("a status without it", SOON, || {
        statuses(mark).last().is_some_and(|last| !is_old(last))
    });
    daemon.stop();
    rig.no_violations();
}

/// Fills the queue of a socket that is not read.
fn fill(path: &std::path::Path) {
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("a socket");
    while filler.send_to(b"STATUS=filler", path).is_ok() {}
}

#[test]
fn unresponsive_service_manager_gets_ready_later() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let path = rig.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    fill(&path);
    let mut daemon = rig.launch([
        ("NOTIFY_SOCKET", path.as_os_str()),
        ("WATCHDOG_USEC", "1000000".as_ref()),
    ]);
    daemon.wait_for("it is ready", |event| message_contains(event, "is ready"));
    rig.wait_for_renewals("acme", 2);
    assert_eq!(rig.http("/livez").0, 200);
    assert!(rig.has_working_token("acme"));

    let messages = listen(manager.try_clone().unwrap());
    eventually("READY=1, late", SOON, || {
        messages().iter().any(|message| has(message, "READY=1"))
    });
    let ready = messages()
        .iter()
        .filter(|message| has(message, "READY=1"))
        .count();
    assert_eq!(ready, 1, "once: {:?}", messages());
    rig.no_violations();
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(SOON), 0);
}

#[test]
fn unresponsive_service_manager_does_not_delay_shutdown() {
    let rig = Rig::new([]);
    let path = rig.path("notify.sock");
    let _manager = UnixDatagram::bind(&path).unwrap();
    let mut daemon = rig.launch([("NOTIFY_SOCKET", path.as_os_str())]);
    daemon.wait_for("it is ready", |event| message_contains(event, "is ready"));
    fill(&path);
    daemon.sighup();
    daemon.wait_for("a reload", |event| {
        message_contains(event, "the configuration was reloaded")
    });
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(SOON), 0);
}
