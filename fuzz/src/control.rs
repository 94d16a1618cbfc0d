//! Any request to the control socket of a daemon that runs in this process, with a fake server behind it.
//!
//! An input is `METHOD PATH`, a line of headers or none, and after an empty line the body; one that begins with a NUL
//! is sent byte for byte instead. Grants come and go meanwhile, so the order of inputs counts a little.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use refreshd::adapters::log::LogHandle;
use refreshd::config::{Environment, load};
use refreshd::daemon;
use refreshd_fake_server::{FakeServer, Rules};
use refreshd_time::clock::Clock;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{SHORTEST_TOKEN, file, folder, is_silent_about};

const CLIENT_SECRET: &str = "c1ientSecret0OfTheFuzzer";
/// Nothing takes longer on the slowest machine.
const LONG: Duration = Duration::from_secs(30);
/// A renewal may wait for its turn; its client disconnects then.
const SHORT: Duration = Duration::from_millis(100);

/// The daemon and the server behind it; both end with it.
pub struct Daemon {
    sandbox: FakeServer,
    socket: PathBuf,
    stop: CancellationToken,
    daemon: Option<JoinHandle<()>>,
    runtime: Runtime,
    _folder: TempDir,
}

impl Daemon {
    /// Starts both. `acme` has a grant, `globex` none, `initech` one that the server does not know.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime starts");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let sandbox = FakeServer::new(Clock::system(), Rules::default());
        sandbox.add_client("local.1", CLIENT_SECRET);
        let stop = CancellationToken::new();
        runtime.spawn(sandbox.clone().serve(listener, stop.clone()));

        let folder = folder();
        let text = format!(
            "state = 'state.db'\ntoken_dir = 'tokens'\ncontrol_socket = 'control.sock'\n[apps.crm]\n\
             provider = 'bitrix24'\nclient_id = 'local.1'\nclient_secret = '{CLIENT_SECRET}'\n\
             token_url = 'http://{address}/oauth/token/'\n\
             [portals.acme]\napp = 'crm'\n[portals.globex]\napp = 'crm'\n[portals.initech]\napp = 'crm'\n"
        );
        let path = file(folder.path(), "main.toml", text.as_bytes());
        let read = move || load(&path, &Environment::of([("", ""); 0]));
        let config = read().expect("the configuration is in order").config;
        let socket = config.paths.control_socket.clone();
        let running = {
            let stop = stop.clone();
            async move {
                let done = Box::pin(daemon::run(
                    config,
                    Arc::new(read),
                    LogHandle::none(),
                    stop.clone(),
                ))
                .await;
                assert!(
                    done.is_ok() && stop.is_cancelled(),
                    "the daemon ended: {done:?}"
                );
            }
        };
        let daemon = Some(runtime.spawn(running));
        let started = Self {
            sandbox,
            socket,
            stop,
            daemon,
            runtime,
            _folder: folder,
        };
        let clock = Clock::system();
        let began = clock.tick();
        while UnixStream::connect(&started.socket).is_err() {
            assert!(clock.elapsed(began) < LONG, "the daemon does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        started.hand_over_acme();
        started.request(
            "POST /v1/portals/initech/grant",
            "",
            b"unknown-refresh-token",
            LONG,
        );
        started
    }

    /// Checks the properties.
    pub fn holds(&self, data: &[u8]) {
        if let [0, raw @ ..] = data {
            let answer = self
                .send(raw, true, LONG)
                .expect("a connection that has ended is closed");
            self.is_in_order(&answer, "", "");
            return;
        }
        let text = String::from_utf8_lossy(data);
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let (line, header) = head.split_once('\n').unwrap_or((head, ""));
        let waits = line.contains("renew") || line.contains("token");
        let answer = self.request(
            line,
            header,
            body.as_bytes(),
            if waits { SHORT } else { LONG },
        );
        assert!(answer.is_some() || waits, "no answer to {head:?}");
        if let Some(answer) = answer {
            assert!(
                answer.starts_with("HTTP/1.1 "),
                "no answer to {head:?}: {answer:?}"
            );
            self.is_in_order(
                &answer,
                line,
                if line.contains("grant") { body } else { "" },
            );
        }
        if line.contains("grant") {
            self.hand_over_acme();
        }
    }

    fn hand_over_acme(&self) {
        let grant = Value::Object(self.sandbox.install("acme.bitrix24.com", "local.1")).to_string();
        let answer = self.request("POST /v1/portals/acme/grant", "", grant.as_bytes(), LONG);
        assert!(
            answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200 ")),
            "acme's grant is refused"
        );
    }

    /// Sends a whole request; `None` if no answer comes in time.
    fn request(&self, line: &str, header: &str, body: &[u8], patience: Duration) -> Option<String> {
        let (method, path) = line.split_once(' ').unwrap_or(("GET", line));
        let method: String = method.chars().filter(char::is_ascii_alphabetic).collect();
        let method = if method.is_empty() { "GET" } else { &method };
        let path: String = path.bytes().map(in_a_path).collect();
        let header: String = header
            .chars()
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .collect();
        // Headers that delimit a request are set by this function.
        let name = header
            .split(':')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let unfit = [
            "content-length",
            "transfer-encoding",
            "connection",
            "expect",
            "upgrade",
        ];
        let header = if name.is_empty() || unfit.contains(&name.as_str()) {
            "x: y".to_owned()
        } else {
            header
        };
        let length = body.len();
        let head = format!(
            "{method} /{} HTTP/1.1\r\nhost: refreshd\r\nconnection: close\r\ncontent-length: {length}\r\n{header}\r\n\r\n",
            path.trim_start_matches('/')
        );
        self.send(&[head.as_bytes(), body].concat(), false, patience)
    }

    fn send(&self, bytes: &[u8], ends: bool, patience: Duration) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).expect("the daemon listens");
        stream
            .set_read_timeout(Some(patience))
            .expect("a limit can be set");
        // The other end may answer and close before it has read everything.
        let _ = stream.write_all(bytes);
        if ends {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                None
            }
            _ => Some(String::from_utf8_lossy(&answer).into_owned()),
        }
    }

    /// `grant` is the submitted text, if any. A portal's name may be repeated, whatever it is.
    fn is_in_order(&self, answer: &str, line: &str, grant: &str) {
        let refresh = self
            .sandbox
            .current_refresh("acme.bitrix24.com")
            .unwrap_or_default();
        is_silent_about(&[CLIENT_SECRET, &refresh], answer);
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            assert!(answer.is_empty(), "half an answer: {answer:?}");
            return;
        };
        let parsed: Value = serde_json::from_str(grant).unwrap_or_default();
        let handed_over = parsed
            .get("refresh_token")
            .and_then(Value::as_str)
            .unwrap_or(grant)
            .trim();
        if handed_over.len() >= SHORTEST_TOKEN && !line.contains(handed_over) {
            is_silent_about(&[handed_over], body);
        }
        assert!(!head.starts_with("HTTP/1.1 500"), "a bug: {answer}");
        let has_reason = body.contains("\"code\":") || body.contains("\"outcome\":");
        assert!(
            !head.starts_with("HTTP/1.1 5") || has_reason,
            "not for any reason: {answer}"
        );
        if head.contains("application/json")
            && head.contains("content-length")
            && !head.contains("content-length: 0")
        {
            // HEAD is answered without a body, and only the first of several answers is looked at.
            let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
            assert!(
                body.is_empty() || matches!(values.next(), Some(Ok(_))),
                "no JSON: {answer}"
            );
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(daemon) = self.daemon.take() {
            // A panic of the daemon is reported elsewhere.
            let _ = self.runtime.block_on(daemon);
        }
    }
}

/// A byte as it may stand in a path.
fn in_a_path(byte: u8) -> String {
    if byte.is_ascii_graphic() {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02x}")
    }
}
