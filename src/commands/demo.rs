//! `refreshd demo`: the first command to try. Runs the real daemon against a fake authorization server on loopback, with three
//! portals whose tokens live one minute; one portal's server fails for a while and recovers.
//!
//! Must not touch anything outside its own folder, nor need anything but this program.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::client::ImportInput;
use super::connect::{cannot_run, in_configuration};
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::adapters::log;
use crate::adapters::token_files::write_whole;
use crate::config::{self, Environment, Loaded};
use crate::daemon;
use crate::domain::error_chain::error_chain;
use refreshd_fake_server::{At, FakeServer, Fault, Rules};
use refreshd_time::clock::{Clock, Tick};

/// The shipped configuration, so that the demo matches the file.
const CONFIGURATION: &str = include_str!("../../config/demo.toml");
/// Its portals and their hosts.
const PORTALS: [(&str, &str); 3] = [
    ("acme", "acme.bitrix24.com"),
    ("globex", "globex.bitrix24.de"),
    ("initech", "initech.bitrix24.ru"),
];
/// Client id.
const CLIENT_ID: &str = "local.demo";
/// Marks a demo's folder, which the next demo may empty.
const MARKER: &str = ".refreshd-demo";

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd demo\n  refreshd demo --keep        keep running until Ctrl-C\n  cat refreshd-demo/tokens/acme/token.json     while it runs\n\nExit codes: 0 done, 64 usage, or the directory belongs to another user, 69 failed."
)]
pub(super) struct Arguments {
    /// The demo's own directory.
    #[arg(long, value_name = "DIR", default_value = "refreshd-demo")]
    dir: PathBuf,
    /// Keep running after the demo, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let io = |error: std::io::Error| {
        CommandError::new(Exit::Unavailable, format!("cannot start the demo: {error}"))
    };
    let dir = &arguments.dir;
    empty(dir)?;
    let server = listen(SocketAddr::from(([127, 0, 0, 1], 9480)))
        .await
        .map_err(io)?;
    let server_address = server.local_addr().map_err(io)?;
    let http = listen(SocketAddr::from(([127, 0, 0, 1], 9470)))
        .await
        .map_err(io)?;
    let http_address = http.local_addr().map_err(io)?;
    drop(http);
    let file = dir.join("refreshd.toml");
    let text = CONFIGURATION
        .replace("refreshd-demo/", "")
        .replace(
            "client_secret_env = \"REFRESHD_DEMO_SECRET\"",
            "client_secret_file = \"client.secret\"",
        )
        .replace("127.0.0.1:9480", &server_address.to_string())
        .replace("127.0.0.1:9470", &http_address.to_string());
    let secret: String = (0..32).map(|_| fastrand::alphanumeric()).collect();
    for (path, contents) in [(&file, &text), (&dir.join("client.secret"), &secret)] {
        write_whole(dir, path, contents.as_bytes(), 0o600)
            .map_err(|error| CommandError::new(Exit::Unavailable, error_chain(&error)))?;
    }

    let rules = Rules {
        token_lifetime: Duration::from_secs(60),
        ..Rules::default()
    };
    let sandbox = FakeServer::new(Clock::system(), rules);
    sandbox.add_client(CLIENT_ID, &secret);
    let read = {
        let file = file.clone();
        move || config::load(&file, &Environment::of_process())
    };
    let Loaded { config, .. } = read()
        .map_err(|problems| CommandError::new(Exit::Configuration, in_configuration(&problems)))?;
    let socket = config.paths.control_socket.clone();
    let handle = log::start_for_command("info,refreshd::renewal=debug")
        .map_err(|error| CommandError::new(Exit::Unavailable, error_chain(&error)))?;

    banner(dir, &server_address, &http_address);
    let stop = CancellationToken::new();
    let ended = CancellationToken::new();
    let daemon = Box::pin(async {
        let done = Box::pin(daemon::run(config, Arc::new(read), handle, stop.clone())).await;
        ended.cancel();
        done
    });
    let demo = Box::pin(async {
        let script = DemoScript {
            sandbox: &sandbox,
            socket: &socket,
            clock: Clock::system(),
            began: Clock::system().tick(),
        };
        tokio::select! {
            done = script.run(arguments.keep) => { stop.cancel(); done }
            () = ended.cancelled() => Ok(()),
        }
    });
    let (done, demo, ()) = tokio::join!(daemon, demo, sandbox.clone().serve(server, ended.clone()));
    done.map_err(|error| cannot_run(&error))?;
    demo?;
    summary(&sandbox)
}

/// Creates the folder, replacing only that of an earlier demo.
fn empty(dir: &Path) -> Result<(), CommandError> {
    let fail = |error: std::io::Error| {
        CommandError::new(
            Exit::Unavailable,
            format!("cannot use the folder {}: {error}", dir.display()),
        )
    };
    let taken = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken && !dir.join(MARKER).exists() {
        let message = format!(
            "{} is not empty and is no demo's folder; name another with --dir",
            dir.display()
        );
        return Err(CommandError::new(Exit::Usage, message));
    }
    if taken {
        std::fs::remove_dir_all(dir).map_err(fail)?;
    }
    std::fs::create_dir_all(dir).map_err(fail)?;
    write_whole(
        dir,
        &dir.join(MARKER),
        b"refreshd demo may empty this folder\n",
        0o600,
    )
    .map_err(|error| CommandError::new(Exit::Unavailable, error_chain(&error)))
}

/// The usual port, or any free one.
async fn listen(usual: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(usual).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::new(usual.ip(), 0)).await,
    }
}

fn banner(dir: &Path, server: &SocketAddr, http: &SocketAddr) {
    let dir = dir.display();
    terminal::eprintln(&format!(
        "
refreshd demo: three portals whose tokens live one minute, renewed every 25 seconds.

  authorization server   http://{server}/oauth/token/  (a fake one, strict single use)
  token files            {dir}/tokens/acme/token  and  token.json beside it
  status page            http://{http}/
  metrics                http://{http}/metrics
  status in a terminal   refreshd status --watch --config {dir}/refreshd.toml
  stop                   Ctrl-C
"
    ));
}

/// Timeline of the demo.
struct DemoScript<'a> {
    sandbox: &'a FakeServer,
    socket: &'a Path,
    clock: Clock,
    began: Tick,
}

impl DemoScript<'_> {
    async fn run(&self, keep: bool) -> Result<(), CommandError> {
        let client = self.client().await?;
        for (portal, host) in PORTALS {
            let grant = self.sandbox.install(host, CLIENT_ID);
            client
                .import(
                    portal,
                    ImportInput::Grant(serde_json::Value::Object(grant).to_string().into_bytes()),
                    false,
                )
                .await?;
        }
        self.print("three grants were imported; each is renewed at once, which verifies it");
        self.wait_until(18).await;
        let code = "INTERNAL_SERVER_ERROR".to_owned();
        let fault = Fault::Refuse {
            status: 500,
            error: code,
            description: "demo".to_owned(),
        };
        self.sandbox
            .fail(At::Portal("globex.bitrix24.de".to_owned()), fault, u32::MAX);
        self.print(
            "globex: its server answers 500 from now on. The first renewal is due at about 25 seconds of the \
                  token's lifetime; watch it fail, be retried, and escalate by the remaining share of the lifetime",
        );
        self.wait_until(68).await;
        self.sandbox
            .heal(At::Portal("globex.bitrix24.de".to_owned()));
        self.print("globex: its token has expired: see expires_at in token.json, and the log. The server works again now; \
                  the next retry renews the token, and the incident is resolved");
        self.wait_until(72).await;
        while client
            .list(Some("globex"))
            .await?
            .iter()
            .any(|portal| !portal.fresh)
        {
            self.clock.sleep(Duration::from_millis(200)).await;
        }
        self.print(
            "globex is fresh again, without manual action; acme and initech were not affected",
        );
        self.wait_until(90).await;
        if keep {
            self.print("the demo is over; running until Ctrl-C");
            return std::future::pending().await;
        }
        Ok(())
    }

    /// The daemon's socket, once it exists.
    async fn client(&self) -> Result<Client, CommandError> {
        while tokio::net::UnixStream::connect(self.socket).await.is_err() {
            self.clock.sleep(Duration::from_millis(50)).await;
        }
        Client::new(self.socket, None)
    }

    async fn wait_until(&self, second: u64) {
        loop {
            let left = Duration::from_secs(second).saturating_sub(self.clock.elapsed(self.began));
            if left.is_zero() {
                return;
            }
            self.clock.sleep(left).await;
        }
    }

    fn print(&self, text: &str) {
        let second = self.clock.elapsed(self.began).as_secs();
        terminal::eprintln(&format!("\n▶ {second:>3} s  {text}\n"));
    }
}

/// Observations of the server: a correct client causes no complaints.
fn summary(sandbox: &FakeServer) -> Result<Exit, CommandError> {
    let renewals: Vec<_> = PORTALS
        .iter()
        .map(|(portal, host)| format!("{portal} {}", sandbox.renewals(host)))
        .collect();
    terminal::eprintln(&format!(
        "\nThe demo is over. Renewals: {}; token requests: {}. A refresh token was never used twice.",
        renewals.join(", "),
        sandbox.total_requests()
    ));
    let violations = sandbox.violations();
    if violations.is_empty() {
        terminal::eprintln("Next: README.md, \"Your first real portal\".");
        return Ok(Exit::Done);
    }
    Err(CommandError::new(
        Exit::Unavailable,
        format!("the server complains: {}", violations.join("; ")),
    ))
}
