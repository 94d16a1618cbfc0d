//! `refreshd sandbox`: the fake authorization server as a process, for tests in containers and rigs.
//!
//! Must not be usable as a real server: it listens on loopback only and keeps nothing when it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{CommandError, Exit};
use super::terminal;
use crate::adapters::token_files::write_whole;
use refreshd_fake_server::{FakeServer, Rules};
use refreshd_time::clock::Clock;

/// Its client id.
const CLIENT_ID: &str = "local.sandbox";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9480")]
    listen: SocketAddr,
    /// Number of portals: portal-1, portal-2, …
    #[arg(long, default_value_t = 2)]
    portals: usize,
    /// Lifetime of an access token.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    lifetime: Duration,
    /// Number of further portals that install the app without an event for refreshd; their token responses are in
    /// installs.jsonl, one a line.
    #[arg(long, default_value_t = 0)]
    installs: usize,
    /// Directory for client.secret and portal-N.refresh.
    #[arg(long)]
    dir: PathBuf,
}

pub(super) async fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let Arguments {
        listen,
        portals,
        lifetime,
        installs,
        dir,
    } = arguments;
    if !listen.ip().is_loopback() {
        return Err(CommandError::new(
            Exit::Usage,
            "the sandbox listens on loopback only",
        ));
    }
    let io = |error: std::io::Error| {
        CommandError::new(
            Exit::Unavailable,
            format!("cannot start the sandbox: {error}"),
        )
    };
    let listener = TcpListener::bind(listen).await.map_err(io)?;
    let sandbox = FakeServer::new(
        Clock::system(),
        Rules {
            token_lifetime: *lifetime,
            ..Rules::default()
        },
    );
    let secret: String = (0..32).map(|_| fastrand::alphanumeric()).collect();
    sandbox.add_client(CLIENT_ID, &secret);
    std::fs::create_dir_all(dir).map_err(io)?;
    let write = |name: String, text: &str| {
        write_whole(dir, &dir.join(name), text.as_bytes(), 0o600)
            .map_err(|error| CommandError::new(Exit::Unavailable, error.to_string()))
    };
    write("client.secret".to_owned(), &secret)?;
    for number in 1..=*portals {
        let grant = sandbox.install(&format!("portal-{number}.bitrix24.com"), CLIENT_ID);
        let refresh = grant
            .get("refresh_token")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        write(format!("portal-{number}.refresh"), refresh)?;
    }
    if *installs > 0 {
        // Each response contains the server's address.
        sandbox.name(&listen.to_string());
        let install =
            |number| sandbox.install(&format!("install-{number}.bitrix24.com"), CLIENT_ID);
        let replies: String = (1..=*installs)
            .map(|number| format!("{}\n", serde_json::Value::Object(install(number))))
            .collect();
        write("installs.jsonl".to_owned(), &replies)?;
    }
    terminal::eprintln(&format!(
        "sandbox: http://{listen}/oauth/token/, client {CLIENT_ID}, {portals} portals, {}",
        dir.display()
    ));
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
    tokio::select! {
        () = sandbox.clone().serve(listener, stop.clone()) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    for violation in sandbox.violations() {
        terminal::eprintln(&format!("sandbox: violation: {violation}"));
    }
    Ok(Exit::Done)
}
