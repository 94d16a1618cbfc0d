//! The rig of the tests: a fake authorization server, a directory, a configuration, and the real binary using them.
//!
//! Level-triggered throughout: tests wait for conditions with a time limit, never for a time. Everything is cleaned up on
//! drop, also when a test fails: daemons are killed, servers stopped and directories removed. Must not look into the
//! daemon: a test sees only what a user can see.
//!
//! ```ignore
//! let mut rig = Rig::new(["acme"]);                  // a Bitrix24 profile, tokens of 20 s renewed every 8 s
//! rig.grant("acme");                                 // a grant in acme's refresh_token_file
//! let daemon = rig.start();
//! daemon.wait_for("a renewal", |event| event["outcome"] == "renewed");
//! rig.no_violations();
//! ```

#![allow(dead_code, reason = "every test binary uses its own part of the rig")]

pub mod authorizing;
pub mod config;
pub mod daemon;
pub mod hostile;
pub mod installs;
pub mod mailserver;
pub mod proxies;
pub mod receivers;
pub mod service_manager;
pub mod strict;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use refreshd::adapters::token_files::write_whole;
use refreshd_fake_server::{At, FakeServer, Fault, Rules};
use refreshd_time::clock::Clock;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub use config::{App, Config, Portal};
pub use daemon::Daemon;

/// The client of the rig's first app.
pub const CLIENT_ID: &str = "local.55d32b338a90f0.23817";
/// Its secret.
pub const CLIENT_SECRET: &str = "c1ientSecret0OfTheTests0123456789";
/// Lifetime of an access token, and the interval of renewals.
pub const LIFE: Duration = Duration::from_secs(20);
pub const EVERY: Duration = Duration::from_secs(8);
/// Time limit for anything that happens at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Time limit of a command.
pub const COMMAND: Duration = Duration::from_secs(30);

/// Result of a condition that a test waits for: true, or a value.
pub trait Condition {
    type Found;
    fn found(self) -> Option<Self::Found>;
}

impl Condition for bool {
    type Found = ();
    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Condition for Option<T> {
    type Found = T;
    fn found(self) -> Self {
        self
    }
}

/// Evaluates `ask` until it is true (or `Some`), at most for `limit`; the panic names `what`.
#[track_caller]
pub fn eventually<M: Condition>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> M,
) -> M::Found {
    let clock = Clock::system();
    let began = clock.tick();
    loop {
        if let Some(found) = ask().found() {
            return found;
        }
        assert!(clock.elapsed(began) < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asserts that a condition stays true for a time.
#[track_caller]
pub fn always(what: &str, span: Duration, mut holds: impl FnMut() -> bool) {
    let clock = Clock::system();
    let began = clock.tick();
    while clock.elapsed(began) < span {
        assert!(
            holds(),
            "no longer true after {:?}: {what}",
            clock.elapsed(began)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Unix time in milliseconds.
pub fn now_millis() -> i64 {
    Clock::system().now().millis()
}

/// The mode of a file or directory.
#[track_caller]
pub fn mode(path: &Path) -> u32 {
    let about = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    about.permissions().mode() & 0o7777
}

/// Host of a portal of the rig.
pub fn domain(portal: &str) -> String {
    format!("{portal}.bitrix24.com")
}

/// The environment of one test.
pub struct Rig {
    pub server: FakeServer,
    /// Written by [`Rig::start`] and [`Rig::write_config`].
    pub config: Config,
    pub runtime: Runtime,
    stop: CancellationToken,
    dir: TempDir,
    /// Commands that no test waits for.
    background_commands: Mutex<Vec<Child>>,
}

impl Rig {
    /// A server and a configuration with these portals, all of one app. No portal has a grant yet.
    pub fn new<const N: usize>(portals: [&str; N]) -> Self {
        Self::with_lifetime(portals, LIFE)
    }

    /// Like [`Rig::new`], with access tokens of this lifetime.
    pub fn with_lifetime<const N: usize>(portals: [&str; N], token_lifetime: Duration) -> Self {
        Self::with_rules(
            portals,
            Rules {
                token_lifetime,
                ..Rules::default()
            },
        )
    }

    /// Like [`Rig::new`], with rules for the server.
    pub fn with_rules<const N: usize>(portals: [&str; N], rules: Rules) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime for the fake server");
        let life = rules.token_lifetime;
        let server = FakeServer::new(Clock::system(), rules);
        server.add_client(CLIENT_ID, CLIENT_SECRET);
        let stop = CancellationToken::new();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let token_url = format!(
            "http://{}/oauth/token/",
            listener.local_addr().expect("its address")
        );
        runtime.spawn(server.clone().serve(listener, stop.clone()));
        let dir = tempfile::Builder::new()
            .prefix("refreshd-test-")
            .tempdir()
            .expect("a directory");
        let app = App::new("crm", CLIENT_ID, &token_url, life);
        let mut config = Config::new(http_address(), app);
        config.portals = portals
            .iter()
            .map(|name| Portal::new(name, "crm"))
            .collect();
        let rig = Self {
            server,
            config,
            runtime,
            stop,
            dir,
            background_commands: Mutex::default(),
        };
        rig.secret("crm.secret", CLIENT_SECRET);
        rig
    }

    /// A path in the rig's directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file that others cannot read.
    pub fn secret(&self, name: &str, text: &str) {
        self.secret_bytes(name, text.as_bytes());
    }

    /// Writes bytes to a file that others cannot read.
    pub fn secret_bytes(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        let directory = path.parent().expect("a directory");
        write_whole(directory, &path, bytes, 0o600).expect("a file is written");
    }

    /// Writes the present configuration.
    pub fn write_config(&self) {
        self.secret("refreshd.toml", &self.config.to_string());
    }

    /// Creates a new grant of the portal at the server only, and returns the whole token response.
    pub fn install(&self, portal: &str) -> String {
        Value::Object(self.server.install(&domain(portal), CLIENT_ID)).to_string()
    }

    /// Creates a new grant of the portal; its refresh token is in the portal's `refresh_token_file`.
    pub fn grant(&mut self, portal: &str) {
        let reply = self.server.install(&domain(portal), CLIENT_ID);
        let refresh = reply["refresh_token"].as_str().expect("a refresh token");
        self.secret(&format!("{portal}.refresh"), refresh);
        self.config.portal(portal).refresh_token_file = true;
    }

    /// Creates a grant for each portal of the configuration.
    pub fn grant_all(&mut self) {
        let portals = self.config.portals.iter().map(|portal| portal.name.clone());
        for portal in portals.collect::<Vec<_>>() {
            self.grant(&portal);
        }
    }

    /// Starts the daemon and waits until each portal of the configuration has been renewed once.
    pub fn start_renewed(&self) -> Daemon {
        let daemon = self.start();
        for portal in &self.config.portals {
            self.wait_for_generation(&portal.name, 2);
        }
        daemon
    }

    /// Writes the configuration, starts the daemon and waits until it is ready.
    pub fn start(&self) -> Daemon {
        let daemon = self.launch([]);
        // A start reads and writes more than any other step, and thirty tests may run beside it.
        daemon.wait_after(0, SOON * 3, "the daemon to be ready", |event| {
            message_contains(event, "is ready")
        });
        daemon
    }

    /// Starts the daemon with this environment, without waiting for anything.
    pub fn launch<const N: usize>(&self, environment: [(&str, &OsStr); N]) -> Daemon {
        self.write_config();
        let mut command = self.command(["run"]);
        command.envs(environment);
        Daemon::spawn(command)
    }

    /// `refreshd ARGUMENTS…` on the rig's configuration, with an empty environment.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        // A rig may have built its own release binary.
        let binary = std::env::var_os("REFRESHD_BINARY");
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_refreshd").into());
        let mut command = Command::new(binary);
        command
            .env_clear()
            .args(arguments)
            .arg("--config")
            .arg(self.path("refreshd.toml"));
        command
    }

    /// Runs a command and waits for its end.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> CommandOutput {
        CommandOutput::run(self.command(arguments).stdin(Stdio::null()))
    }

    /// `refreshd import PORTAL`, with the grant on standard input.
    pub fn import(&self, portal: &str, grant: &str) -> CommandOutput {
        let name = format!("{portal}.import");
        self.secret(&name, grant);
        let stdin = fs::File::open(self.path(&name)).expect("what was just written");
        CommandOutput::run(self.command(["import", portal]).stdin(stdin))
    }

    /// Starts an import without waiting for its outcome: the daemon has the grant when this returns.
    #[track_caller]
    pub fn start_import(&self, portal: &str, grant: &str) {
        let name = format!("{portal}.import");
        self.secret(&name, grant);
        let view = || self.get_json(&format!("/v1/portals/{portal}"));
        let before = view();
        let stdin = fs::File::open(self.path(&name)).expect("what was just written");
        let mut command = self.command(["import", portal]);
        let silent = command
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = silent.spawn().expect("the binary starts");
        eventually("the daemon has the grant", SOON, || {
            let now = view();
            let differs = |key: &str| now[key] != before[key];
            differs("generation")
                || differs("candidate")
                || child.try_wait().expect("a child").is_some()
        });
        self.background_commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(child);
    }

    /// Entry of a portal in `refreshd status --json`; `null` if it is not shown.
    pub fn status(&self, portal: &str) -> Value {
        let ran = self.run(["status", "--json"]);
        let all: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no JSON: {ran:?}"));
        let portals = all["portals"].as_array().cloned().unwrap_or_default();
        portals
            .into_iter()
            .find(|view| view["portal"] == portal)
            .unwrap_or_default()
    }

    /// Waits until the status shows the portal in that phase.
    #[track_caller]
    pub fn wait_for_phase(&self, portal: &str, phase: &str) -> Value {
        let mut last = Value::Null;
        let clock = Clock::system();
        let began = clock.tick();
        while clock.elapsed(began) < SOON {
            last = self.get_json(&format!("/v1/portals/{portal}"));
            if last["phase"] == phase {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{portal} is not {phase} within {SOON:?}: {last}");
    }

    /// A file of a portal's token directory.
    pub fn token_path(&self, portal: &str, file: &str) -> PathBuf {
        self.path("tokens").join(portal).join(file)
    }

    /// The portal's `token.json`; `None` if it is missing. Invalid JSON is a panic.
    pub fn token_json(&self, portal: &str) -> Option<Value> {
        let text = fs::read_to_string(self.token_path(portal, "token.json")).ok()?;
        Some(
            serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("torn token.json ({error}): {text:?}")),
        )
    }

    /// The portal's generation in `token.json`; 0 without one.
    pub fn generation(&self, portal: &str) -> u64 {
        self.token_json(portal)
            .and_then(|json| json["generation"].as_u64())
            .unwrap_or_default()
    }

    /// Waits until the portal has renewed `more` times from now on.
    #[track_caller]
    pub fn wait_for_renewals(&self, portal: &str, more: u64) {
        let before = self.server.renewals(&domain(portal));
        let limit = EVERY * u32::try_from(more).expect("few") + SOON;
        eventually(&format!("{more} renewals of {portal}"), limit, || {
            self.server.renewals(&domain(portal)) >= before + more
        });
    }

    /// Waits until this generation of the token or a later one is published.
    #[track_caller]
    pub fn wait_for_generation(&self, portal: &str, generation: u64) {
        let what = format!("generation {generation} of {portal} in token.json");
        eventually(&what, EVERY + SOON, || {
            self.generation(portal) >= generation
        });
    }

    /// `GET` on the metrics listener: status and body.
    pub fn http(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.config.http);
        self.ask(reqwest::Client::builder(), reqwest::Method::GET, &url, "")
    }

    /// `GET` on the metrics listener, if it responds.
    pub fn http_if_any(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{}{path}", self.config.http);
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(SOON)
            .build()
            .expect("a client");
        self.runtime.block_on(async {
            let response = client.get(url).send().await.ok()?;
            let status = response.status().as_u16();
            Some((status, response.text().await.ok()?))
        })
    }

    /// A metric's value, by its whole name with labels.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.http("/metrics");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// Value of a metric, if the listener responds and has it.
    pub fn metric_if_any(&self, name: &str) -> Option<f64> {
        let (_, text) = self.http_if_any("/metrics")?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// A request on the control socket: status and body.
    pub fn control(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let client = reqwest::Client::builder().unix_socket(self.path("control.sock"));
        let method = method.parse().expect("a method");
        self.ask(client, method, &format!("http://refreshd{path}"), body)
    }

    /// A request on the control socket, if anything listens there.
    pub fn control_if_any(&self, method: &str, path: &str) -> Option<u16> {
        let client = reqwest::Client::builder()
            .unix_socket(self.path("control.sock"))
            .no_proxy()
            .timeout(SOON);
        let client = client.build().expect("a client");
        let method = method.parse().expect("a method");
        let request = client.request(method, format!("http://refreshd{path}"));
        self.runtime
            .block_on(async { request.send().await })
            .ok()
            .map(|response| response.status().as_u16())
    }

    /// `GET` on the control socket, as JSON.
    pub fn get_json(&self, path: &str) -> Value {
        let (_, body) = self.control("GET", path, "");
        serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON at {path}: {body}"))
    }

    /// Token requests of the portal so far.
    pub fn requests(&self, portal: &str) -> u64 {
        self.server.requests(&domain(portal))
    }

    /// Renewals of the portal so far, counted by the server.
    pub fn renewals(&self, portal: &str) -> u64 {
        self.server.renewals(&domain(portal))
    }

    /// Makes the portal's next `times` requests fail.
    pub fn fail(&self, portal: &str, fault: Fault, times: u32) {
        self.server.fail(At::Portal(domain(portal)), fault, times);
    }

    /// Removes every fault of the portal.
    pub fn heal(&self, portal: &str) {
        self.server.heal(At::Portal(domain(portal)));
    }

    /// Whether the published token of the portal is valid.
    pub fn has_working_token(&self, portal: &str) -> bool {
        let token = fs::read_to_string(self.token_path(portal, "token")).unwrap_or_default();
        let known = self.server.knows_access(&token);
        known.is_some_and(|known| !known.revoked && known.expires_at.millis() > now_millis())
    }

    /// Asserts that the server saw nothing a correct client never does.
    #[track_caller]
    pub fn no_violations(&self) {
        assert_eq!(
            self.server.violations(),
            Vec::<String>::new(),
            "the server saw violations"
        );
    }

    fn ask(
        &self,
        client: reqwest::ClientBuilder,
        method: reqwest::Method,
        url: &str,
        body: &str,
    ) -> (u16, String) {
        let client = client
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client");
        self.runtime.block_on(async {
            let request = client.request(method, url).body(body.to_owned());
            let response = request
                .send()
                .await
                .unwrap_or_else(|error| panic!("{url}: {error:?}"));
            let status = response.status().as_u16();
            (status, response.text().await.expect("a whole body"))
        })
    }
}

impl Drop for Rig {
    #[expect(clippy::print_stderr, reason = "part of a failed test's output")]
    fn drop(&mut self) {
        for mut child in self
            .background_commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // An error means that it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.stop.cancel();
        if std::thread::panicking() {
            eprintln!("violations at the server: {:?}", self.server.violations());
        }
    }
}

/// Whether the message of an event contains this text.
pub fn message_contains(event: &Value, text: &str) -> bool {
    event["message"]
        .as_str()
        .is_some_and(|message| message.contains(text))
}

/// Whether an event is an escalation with this step.
pub fn is_step(event: &Value, step: &str) -> bool {
    event["target"] == "refreshd::escalation" && event["step"] == step
}

/// Result of a command.
#[derive(Debug)]
pub struct CommandOutput {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Runs a command to its end. A command that does not end is killed, such as a daemon that should have refused to start.
    #[track_caller]
    pub fn run(command: &mut Command) -> Self {
        let file = || tempfile::tempfile().expect("a file");
        let (mut stdout, mut stderr) = (file(), file());
        let to = |file: &fs::File| Stdio::from(file.try_clone().expect("a second handle"));
        let mut child = command
            .stdout(to(&stdout))
            .stderr(to(&stderr))
            .spawn()
            .expect("the binary starts");
        let clock = Clock::system();
        let began = clock.tick();
        let ended = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break Some(status),
                None if clock.elapsed(began) > COMMAND => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        if ended.is_none() {
            child.kill().expect("it still runs");
            child.wait().expect("a child");
        }
        let text = |file: &mut fs::File| {
            let mut text = String::new();
            let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
            read.map(|_| text).expect("UTF-8")
        };
        let (stdout, stderr) = (text(&mut stdout), text(&mut stderr));
        let Some(ended) = ended else {
            panic!("did not end within {COMMAND:?}: {command:?}\n{stdout}{stderr}")
        };
        Self {
            code: ended.code(),
            stdout,
            stderr,
        }
    }
}

/// An address for the metrics listener that no other process uses: all of 127.0.0.0/8 is loopback, and only these tests
/// listen beyond 127.0.0.0/16.
fn http_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Four times 250 addresses for each process.
    format!(
        "127.{}.{}.{}:9470",
        1 + process % 250,
        process / 250 % 64 * 4 + number / 250 % 4,
        1 + number % 250
    )
}
