//! Runs a daemon for ten minutes at a server of each kind while its surroundings stall, vanish and attack, to prove that no
//! grant is lost.
//!
//! `tests/system/soak.sh` runs this with a release (`REFRESHD_BINARY`); `REFRESHD_SOAK_SECONDS` is the duration for each
//! server. Each round goes through every disturbance once: a suspended process, an unread log, exhausted descriptors, a
//! missing state, clients that take every connection, forged installs.

#[path = "../common/mod.rs"]
mod common;
mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::installs::encoded;
use common::{LIFE, Rig, SOON, always, domain, eventually};
use process::{LONGEST_STOP, Process};
use refreshd_fake_server::{At, Fault, Reuse, Rules};
use refreshd_time::clock::Clock;

/// 200 at the three servers together.
const PORTALS: usize = 67;
/// Upper limit of the daemon's resident memory, in KiB.
const MOST_MEMORY: u64 = 80 * 1024;
/// Time limit of a token request.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Body that is posted to the install listener in a round.
const FORGED: usize = 300;

fn seconds() -> u64 {
    let asked = std::env::var("REFRESHD_SOAK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    asked.unwrap_or(600)
}

#[test]
#[ignore = "takes ten minutes: tests/system/soak.sh"]
fn strict_server() {
    Soak::begin(Reuse::Strict).run();
}

#[test]
#[ignore = "takes ten minutes: tests/system/soak.sh"]
fn server_with_grace_period() {
    Soak::begin(Reuse::Grace(Duration::from_secs(60))).run();
}

#[test]
#[ignore = "takes ten minutes: tests/system/soak.sh"]
fn server_that_revokes_on_reuse() {
    Soak::begin(Reuse::RevokeFamily).run();
}

struct Soak {
    rig: Rig,
    names: [&'static str; PORTALS],
    process: Process,
}

impl Soak {
    fn begin(reuse: Reuse) -> Self {
        let names: [&'static str; PORTALS] = std::array::from_fn(|at| &*format!("p{at:02}").leak());
        let mut rig = Rig::with_rules(
            names,
            Rules {
                token_lifetime: LIFE,
                reuse,
                ..Rules::default()
            },
        );
        for name in names {
            rig.grant(name);
        }
        rig.config.timeout = TIMEOUT;
        rig.take_installs("", "");
        rig.write_config();
        let process = Process::spawn(rig.command(["run"]));
        let soak = Self {
            rig,
            names,
            process,
        };
        soak.assert_healthy("at the start");
        soak
    }

    fn run(mut self) {
        let clock = Clock::system();
        let began = clock.tick();
        let mut rounds = 0;
        while clock.elapsed(began) < Duration::from_secs(seconds()) {
            self.process_is_suspended();
            self.log_is_unread();
            self.no_descriptors();
            self.state_is_missing();
            self.clients_take_every_connection();
            self.forged_installs();
            rounds += 1;
        }
        let memory = self.process.peak_memory();
        self.stop();
        let renewals: u64 = self.names.iter().map(|name| self.rig.renewals(name)).sum();
        report(&format!(
            "{rounds} rounds, {renewals} renewals of {PORTALS} portals, {memory} KiB at most"
        ));
        self.rig.no_violations();
    }

    /// SIGTERM is obeyed within its time limit in every situation.
    fn stop(&mut self) {
        self.process.signal("TERM");
        let code = self.process.end(LONGEST_STOP);
        assert_eq!(code, Some(0), "{}", self.process.output());
    }

    /// Asserts that every grant is alive and every published token is valid.
    #[track_caller]
    fn assert_healthy(&self, when: &str) {
        eventually(&format!("a daemon that serves {when}"), SOON, || {
            self.rig
                .control_if_any("GET", "/v1/portals?limit=1")
                .is_some()
        });
        eventually(&format!("every token works {when}"), LIFE + SOON, || {
            self.names
                .iter()
                .all(|name| self.rig.has_working_token(name))
        });
        let phases = self.rig.get_json("/v1/portals?limit=1000");
        let lost: Vec<String> = (phases["portals"].as_array().into_iter().flatten())
            .filter(|view| {
                matches!(
                    view["phase"].as_str(),
                    Some("needs-authorization" | "gone" | "old-state")
                )
            })
            .map(|view| {
                format!(
                    "{}: {} {}",
                    view["portal"], view["phase"], view["last_error"]
                )
            })
            .collect();
        assert!(
            lost.is_empty(),
            "lost {when}: {lost:?}\n{}",
            self.process.output()
        );
        let memory = self.process.peak_memory();
        assert!(memory <= MOST_MEMORY, "{memory} KiB resident {when}");
    }

    /// Suspended for longer than a request may take, with responses on their way: they are in the sockets afterwards.
    fn process_is_suspended(&mut self) {
        self.rig.server.fail(
            At::All,
            Fault::Slow {
                by: Duration::from_millis(500),
            },
            20,
        );
        let sent = self.rig.server.total_requests();
        eventually("requests under way", LIFE, || {
            self.rig.server.total_requests() > sent
        });
        self.process.signal("STOP");
        let at = self.rig.server.total_requests();
        always("it is suspended", TIMEOUT * 2, || {
            self.rig.server.total_requests() <= at + 20
        });
        self.process.signal("CONT");
        self.rig.server.heal(At::All);
        self.assert_healthy("after the suspension");
    }

    fn log_is_unread(&mut self) {
        self.process.read_log(false);
        for _ in 0..200 {
            assert_eq!(
                self.rig.control("POST", "/v1/reload", "").0,
                200,
                "a full log stops nothing"
            );
        }
        let before = self.rig.renewals(self.names[0]);
        eventually("renewals go on", LIFE, || {
            self.rig.renewals(self.names[0]) > before
        });
        assert_eq!(self.rig.http("/livez").0, 200);
        self.process.read_log(true);
        self.assert_healthy("after its log was read again");
    }

    /// Without free descriptors, pending requests finish, and everything else waits until it can continue.
    fn no_descriptors(&mut self) {
        let before = self.process.limit_descriptors(8);
        let started = Clock::system();
        let began = started.tick();
        while started.elapsed(began) < LIFE / 4 {
            // No response is promised, but nothing may end.
            let _ = TcpStream::connect_timeout(&self.http(), Duration::from_millis(200));
            assert!(self.process.runs(), "{}", self.process.output());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.process.limit_descriptors(before);
        self.assert_healthy("with its descriptors back");
    }

    /// An unmounted volume: nothing is sent, nothing is deleted, and everything continues when it is mounted again.
    #[expect(
        clippy::disallowed_methods,
        reason = "the state is moved away as a whole, as by an unmounted volume"
    )]
    fn state_is_missing(&mut self) {
        self.stop();
        let away = self.rig.path("away");
        std::fs::create_dir(&away).expect("a directory");
        let files = [
            "state.db",
            "state.db-wal",
            "state.db-shm",
            "state.db.generations",
        ];
        let moved: Vec<&str> = files
            .into_iter()
            .filter(|file| self.rig.path(file).exists())
            .collect();
        for file in &moved {
            std::fs::rename(self.rig.path(file), away.join(file)).expect("it moves");
        }
        let sent = self.rig.server.total_requests();
        self.process = Process::spawn(self.rig.command(["run"]));
        eventually("portals that are held", SOON, || {
            let held = self
                .rig
                .metric_if_any("refreshd_portals{phase=\"old-state\"}");
            held.is_some_and(|held| held >= PORTALS as f64)
        });
        always(
            "nothing is sent, and no token file goes",
            Duration::from_secs(2),
            || {
                let there = self
                    .names
                    .iter()
                    .all(|name| self.rig.token_path(name, "token.json").exists());
                there && self.rig.server.total_requests() == sent
            },
        );
        self.stop();
        for file in [
            "state.db",
            "state.db-wal",
            "state.db-shm",
            "state.db.generations",
        ] {
            let _ = std::fs::remove_file(self.rig.path(file));
        }
        for file in &moved {
            std::fs::rename(away.join(file), self.rig.path(file)).expect("it moves");
        }
        std::fs::remove_dir(&away).expect("it is empty");
        self.process = Process::spawn(self.rig.command(["run"]));
        self.assert_healthy("with its state back");
    }

    /// Renewals that hang hold their clients; others connect and send nothing.
    fn clients_take_every_connection(&mut self) {
        let silent: Vec<_> = (0..150)
            .filter_map(|_| UnixStream::connect(self.rig.path("control.sock")).ok())
            .collect();
        let slow: Vec<_> = (0..100)
            .filter_map(|_| {
                let mut stream =
                    TcpStream::connect_timeout(&self.http(), Duration::from_secs(1)).ok()?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.").ok()?;
                Some(stream)
            })
            .collect();
        let before = self.rig.renewals(self.names[1]);
        eventually("renewals go on", LIFE, || {
            self.rig.renewals(self.names[1]) > before
        });
        drop((silent, slow));
        self.assert_healthy("after callers had every place");
    }

    /// Forged tokens from one sender, and their cost.
    fn forged_installs(&mut self) {
        let before = self.rig.renewals(self.names[2]);
        for at in 0..FORGED {
            let host = domain(&format!("forged{at}"));
            let form = [
                ("AUTH_ID".to_owned(), format!("{at:032x}")),
                ("REFRESH_ID".to_owned(), format!("{at:032x}f")),
                ("AUTH_EXPIRES".to_owned(), "3600".to_owned()),
                ("member_id".to_owned(), format!("{at:032x}")),
                ("status".to_owned(), "L".to_owned()),
            ]
            .to_vec();
            self.post(&host, &encoded(&form));
        }
        eventually("renewals go on", LIFE, || {
            self.rig.renewals(self.names[2]) > before
        });
        self.assert_healthy("after forged installs");
    }

    /// Whether and how the listener responds does not matter here.
    fn post(&self, host: &str, body: &str) {
        let address = self.rig.install_address().parse().expect("an address");
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else {
            return;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let request = format!(
            "POST /install/crm?DOMAIN={host}&PROTOCOL=1&LANG=en&APP_SID=x HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(request.as_bytes()).is_ok() {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }

    fn http(&self) -> std::net::SocketAddr {
        self.rig.config.http.parse().expect("an address")
    }
}

#[expect(clippy::print_stdout, reason = "what the rig is for")]
fn report(line: &str) {
    println!("SOAKED {line}");
}
