//! Slow, many or hostile connections to the two listeners: they delay no other, cost little, and are closed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use refreshd_fake_server::Fault;

use crate::common::{Daemon, LIFE, Portal, Rig, SOON, eventually};
use crate::interfaces::calm;

/// Longer than the daemon's time limit for one step of a connection.
const CLOSED_WITHIN: Duration = Duration::from_secs(30);

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// A connection to the control socket or to the metrics listener.
fn connect(rig: &Rig, listener: &str) -> Box<dyn Connection> {
    if listener == "control" {
        let stream =
            UnixStream::connect(rig.path("control.sock")).expect("the socket accepts connections");
        stream
            .set_read_timeout(Some(CLOSED_WITHIN))
            .expect("a time limit");
        stream
            .set_write_timeout(Some(CLOSED_WITHIN))
            .expect("a time limit");
        Box::new(stream)
    } else {
        let stream =
            TcpStream::connect(&rig.config.http).expect("the listener accepts connections");
        stream
            .set_read_timeout(Some(CLOSED_WITHIN))
            .expect("a time limit");
        stream
            .set_write_timeout(Some(CLOSED_WITHIN))
            .expect("a time limit");
        Box::new(stream)
    }
}

/// Sends this, although the daemon may close the connection early, and returns the response.
fn response_to(rig: &Rig, listener: &str, request: &[u8]) -> String {
    let mut connection = connect(rig, listener);
    let _ = connection.write_all(request);
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Number of the daemon's open connections and files.
fn open(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .expect("a Linux")
        .count()
}

/// Asserts that both listeners respond.
#[track_caller]
fn is_responsive(rig: &Rig) {
    assert_eq!(rig.run(["status"]).code, Some(0));
    assert_eq!(rig.http("/livez").0, 200);
    assert_eq!(rig.control("GET", "/v1/portals/acme", "").0, 200);
}

#[test]
fn silent_partial_and_deaf_clients_delay_no_other() {
    let mut rig = Rig::with_lifetime(["acme"], LIFE);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    let mut crowd = Vec::new();
    for listener in ["control", "http"] {
        for number in 0..300 {
            let mut connection = connect(&rig, listener);
            let path = if listener == "control" {
                "/v1/portals"
            } else {
                "/metrics"
            };
            let request = match number % 3 {
                0 => String::new(),
                1 => format!("GET {path} HTTP/1.1\r\nHost: re"),
                _ => format!("GET {path} HTTP/1.1\r\nHost: refreshd\r\n\r\n"),
            };
            // It may have been disconnected already, in favour of later ones.
            let _ = connection.write_all(request.as_bytes());
            crowd.push(connection);
        }
        is_responsive(&rig);
    }
    assert!(
        open(&daemon) < 300,
        "of {} connections {} are in",
        crowd.len(),
        open(&daemon)
    );
    rig.wait_for_renewals("acme", 2);
    is_responsive(&rig);
    assert!(
        daemon.peak_memory() < 80 * 1024,
        "{} KiB",
        daemon.peak_memory()
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn idle_client_is_disconnected() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    for listener in ["control", "http"] {
        let mut connections: Vec<_> = (0..4).map(|_| connect(&rig, listener)).collect();
        let body =
            "POST /v1/portals/acme/grant HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nhalf";
        for (connection, words) in
            connections
                .iter_mut()
                .zip(["", "GE", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", body])
        {
            connection.write_all(words.as_bytes()).unwrap();
        }
        let ends: Vec<_> = connections
            .iter_mut()
            .map(|connection| {
                let mut answer = String::new();
                connection.read_to_string(&mut answer).map(|_| answer)
            })
            .collect();
        assert!(
            ends.iter().all(Result::is_ok),
            "{listener}: a connection stays open: {ends:?}"
        );
        assert!(
            ends[3].as_ref().unwrap().starts_with("HTTP/1.1 408 "),
            "{listener}: {ends:?}"
        );
    }
    daemon.stop();
}

#[test]
fn client_that_does_not_read_is_disconnected() {
    let mut rig = calm([]);
    // A response of about 700 KB: more than the buffers of a connection hold.
    rig.config.portals = (0..1200)
        .map(|number| Portal::new(&format!("p{number:04}"), "crm"))
        .collect();
    let daemon = rig.start();
    let before = open(&daemon);
    let mut connections: Vec<_> = (0..8).map(|_| connect(&rig, "control")).collect();
    for connection in &mut connections {
        connection
            .write_all(b"GET /v1/portals HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
    }
    eventually("they are in", SOON, || open(&daemon) >= before + 8);
    eventually("their places are free again", CLOSED_WITHIN, || {
        open(&daemon) <= before
    });
    daemon.stop();
}

#[test]
fn garbage_and_oversized_requests_are_refused() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    let long = "a".repeat(2 << 20);
    let many: String = (0..500)
        .map(|number| format!("X-{number}: a\r\n"))
        .collect();
    for listener in ["control", "http"] {
        for (request, status) in [
            ("\x16\x03\x01\x02garbage\r\n\r\n".to_owned(), "400"),
            ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "4"),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), "431"),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned(), "400"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"
                    .to_owned(),
                "4",
            ),
        ] {
            let answer = response_to(&rig, listener, request.as_bytes());
            // A client that is still sending when it is refused may not receive the response.
            let refused = answer.starts_with(&format!("HTTP/1.1 {status}"))
                || answer.is_empty() && request.len() > 9999;
            assert!(refused, "{listener}: {:?}: {answer:?}", &request[..request.len().min(60)]);
        }
        let body = format!(
            "POST /v1/portals/acme/grant HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{long}",
            2 << 20
        );
        let answer = response_to(&rig, listener, body.as_bytes());
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{listener}: {answer:?}"
        );
    }
    // A response that is received: it refuses a grant that is too long.
    assert_eq!(
        rig.control("POST", "/v1/portals/acme/grant", &long[..1_500_000])
            .0,
        413
    );
    assert!(
        daemon.peak_memory() < 80 * 1024,
        "{} KiB",
        daemon.peak_memory()
    );
    daemon.stop();
}

#[test]
fn open_connections_do_not_block_shutdown() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    let mut daemon = rig.start();
    let mut connections = Vec::new();
    for listener in ["control", "http"] {
        for words in [
            "",
            "GET /v1/por",
            "POST /v1/portals/acme/grant HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
        ] {
            let mut connection = connect(&rig, listener);
            connection.write_all(words.as_bytes()).unwrap();
            connections.push(connection);
        }
    }
    eventually("a request under way", SOON, || rig.renewals("acme") == 1);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert_eq!(daemon.outcomes("acme"), ["renewed"]);
    assert!(rig.has_working_token("acme"));
    rig.no_violations();
}

/// Whenever the client disconnects, a forgotten grant has no files, and a kept one has them.
#[test]
fn change_is_atomic_though_its_sender_disconnects() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    let mut forgotten = 0;
    for number in 0..60 {
        if rig.token_json("acme").is_none() {
            assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
            rig.wait_for_phase("acme", "fresh");
        }
        let mut connection = connect(&rig, "control");
        connection
            .write_all(b"DELETE /v1/portals/acme/grant HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        // Before, during and after the daemon's work.
        std::thread::sleep(Duration::from_micros(100 * number));
        drop(connection);
        let has_grant = || rig.get_json("/v1/portals/acme")["phase"] == "fresh";
        eventually("files as the state has it", SOON, || {
            has_grant() == rig.token_json("acme").is_some()
        });
        forgotten += u32::from(!has_grant());
    }
    assert!(forgotten > 0, "no try came through");
    daemon.stop();
}
