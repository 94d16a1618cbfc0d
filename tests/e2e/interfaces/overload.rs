//! Crowds that occupy every connection of a listener: health is answered, root reaches the control socket, memory is bounded.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use refreshd_fake_server::Fault;
use refreshd_time::clock::Clock;
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

use crate::common::{Daemon, Portal, Rig, SOON, eventually, message_contains};
use crate::interfaces::calm;

/// A user id that no machine has.
const STRANGER: u32 = 61_001;
/// Requests that each client of a crowd pipelines.
const AHEAD: usize = 20;

/// Clients that never stop sending requests.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own clients, which end with it"
    )]
    fn ask<S: Read + Write + 'static>(
        size: usize,
        request: &'static str,
        connect: impl Fn() -> Option<S> + Clone + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, connect) = (Arc::clone(&stop), connect.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(mut stream) = connect() else {
                        continue;
                    };
                    let mut owed = stream.write_all(request.repeat(AHEAD).as_bytes()).is_ok();
                    let mut answers = vec![0; 1 << 16];
                    while owed && !stop.load(Ordering::Relaxed) {
                        let Ok(read @ 1..) = stream.read(&mut answers) else {
                            break;
                        };
                        let answered = answers[..read]
                            .windows(9)
                            .filter(|bytes| bytes == b"HTTP/1.1 ")
                            .count();
                        owed = stream
                            .write_all(request.repeat(answered).as_bytes())
                            .is_ok();
                    }
                }
            })
        };
        let threads = (0..size).map(client).collect();
        Self { stop, threads }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
    }
}

fn on_http(rig: &Rig) -> impl Fn() -> Option<TcpStream> + Clone + Send + 'static {
    let address = rig.config.http.clone();
    move || {
        let stream = TcpStream::connect(&address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        Some(stream)
    }
}

/// Runs it as a member of the socket's group who is neither root nor refreshd.
fn on_the_socket(rig: &Rig) -> impl Fn() -> Option<UnixStream> + Clone + Send + 'static {
    fs::set_permissions(rig.path("."), fs::Permissions::from_mode(0o755)).expect("its owner");
    let socket = rig.path("control.sock");
    move || {
        let stranger = Uid::from_raw(STRANGER);
        set_thread_res_uid(stranger, stranger, stranger).ok()?;
        let stream = UnixStream::connect(&socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        Some(stream)
    }
}

/// Many portals without grants.
fn crowded(portals: usize) -> (Rig, Daemon) {
    let mut rig = calm([]);
    rig.config.portals = (0..portals)
        .map(|number| Portal::new(&format!("p{number:04}"), "crm"))
        .collect();
    let daemon = rig.start();
    (rig, daemon)
}

#[test]
fn health_works_while_metrics_take_every_connection() {
    let (rig, daemon) = crowded(200);
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let _crowd = Crowd::ask(96, request, on_http(&rig));
    eventually("a crowd", SOON, || {
        fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count()
            > 80
    });
    // A probe that does not send its request within a twentieth of a second, on a machine without a spare processor, loses its
    // connection to the crowd and connects again. Without reserved connections hardly any probe is answered.
    let mut unanswered = 0;
    for number in 0..100 {
        for path in ["/livez", "/readyz"] {
            match rig.http_if_any(path) {
                Some((status, _)) => assert_eq!(status, 200, "{path}, try {number}"),
                None => unanswered += 1,
            }
        }
    }
    assert!(unanswered <= 20, "{unanswered} of 200 were not answered");
}

#[test]
fn root_can_connect_while_others_take_every_connection() {
    if !geteuid().is_root() {
        return;
    }
    let (rig, daemon) = crowded(200);
    for request in [
        "GET /v1/portals/p0001 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v1/portals HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let _crowd = Crowd::ask(300, request, on_the_socket(&rig));
        eventually("a crowd", SOON, || {
            fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
                .unwrap()
                .count()
                > 120
        });
        let clock = Clock::system();
        for number in 0..20 {
            let began = clock.tick();
            let ran = rig.run(["status", "p0001"]);
            let took = clock.elapsed(began);
            assert!(
                ran.code == Some(1) && took < Duration::from_secs(20),
                "try {number}: {took:?} {ran:?}"
            );
        }
    }
    assert!(
        daemon.peak_memory() < 80 * 1024,
        "{} KiB",
        daemon.peak_memory()
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "only a thread can be another user"
)]
fn unread_listings_are_bounded_in_memory() {
    if !geteuid().is_root() {
        return;
    }
    let (rig, daemon) = crowded(2000);
    let before = daemon.peak_memory();
    let connect = on_the_socket(&rig);
    let request = b"GET /v1/portals?limit=10000 HTTP/1.1\r\nHost: x\r\n\r\n";
    let ask = move || {
        (0..128)
            .filter_map(|_| connect())
            .filter(|mut client| client.write_all(request).is_ok())
            .collect()
    };
    let clients: Vec<UnixStream> = std::thread::spawn(ask).join().expect("they ask");
    assert!(clients.len() > 100, "{}", clients.len());
    let clock = Clock::system();
    let began = clock.tick();
    while clock.elapsed(began) < Duration::from_secs(5) {
        assert_eq!(rig.run(["status", "p0001"]).code, Some(1));
    }
    let grown = daemon.peak_memory() - before;
    assert!(
        grown < 16 * 1024,
        "{grown} KiB more than the {before} before"
    );
}

/// Connections that arrive faster than they are handled, with few descriptors.
#[test]
fn idle_connections_leave_descriptors_for_token_files() {
    let portals: Vec<String> = (0..100).map(|number| format!("p{number:03}")).collect();
    let mut rig = Rig::new([]);
    rig.config.portals = portals
        .iter()
        .map(|name| Portal::new(name, "crm"))
        .collect();
    for name in &portals {
        rig.grant(name);
        rig.fail(
            name,
            Fault::Slow {
                by: Duration::from_secs(1),
            },
            u32::MAX,
        );
    }
    rig.write_config();
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]);
    let run = rig.command(["run"]);
    limited.arg(run.get_program()).args(run.get_args());
    let daemon = Daemon::spawn(limited);
    daemon.wait_for("a daemon", |event| message_contains(event, "is ready"));
    let (mut idle, mut most) = (VecDeque::new(), 0);
    let (clock, address, socket) = (
        Clock::system(),
        rig.config.http.clone(),
        rig.path("control.sock"),
    );
    let began = clock.tick();
    while clock.elapsed(began) < Duration::from_secs(15) {
        for _ in 0..200 {
            idle.push_back((
                TcpStream::connect(&address).ok(),
                UnixStream::connect(&socket).ok(),
            ));
        }
        idle.drain(..idle.len().saturating_sub(400));
        most = most.max(
            fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
                .unwrap()
                .count(),
        );
        assert_eq!(rig.http("/livez").0, 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(most < 100, "{most} descriptors");
    let failed = daemon.events(|event| event.to_string().contains("Too many open files"));
    assert!(failed.is_empty(), "{failed:?}");
    assert!(
        portals.iter().all(|name| rig.generation(name) >= 2),
        "every portal was renewed and published"
    );
    assert_eq!(rig.run(["status"]).code, Some(0));
    rig.no_violations();
}
