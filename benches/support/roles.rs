//! Roles of this binary when it starts itself again: the fake server, or the bare loop.
//!
//! The bare loop sends the daemon's requests with the same client, and ignores the responses.

#![expect(clippy::print_stdout, reason = "the parent reads these lines")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use refreshd::adapters::token_files::write_whole;
use refreshd_fake_server::{FakeServer, Rules};
use refreshd_time::clock::Clock;
use reqwest::header::ACCEPT;
use reqwest::{Client, redirect, retry};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The argument that selects a role.
pub const ROLE: &str = "--role";
/// The client id that the server knows.
pub const CLIENT_ID: &str = "local.storm";
/// Its secret, as long as Bitrix24's.
pub const CLIENT_SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef01";
/// The server's grants, one token response a line.
const GRANTS: &str = "grants.jsonl";
/// The daemon's default.
pub const CONCURRENCY: usize = 256;

/// Name of a portal: `portal-000001` and so on.
pub fn name(number: usize) -> String {
    format!("portal-{number:06}")
}

/// The host of a portal.
pub fn domain(name: &str) -> String {
    format!("{name}.bitrix24.com")
}

/// The grants that the server has issued.
pub fn grants(dir: &Path) -> Result<Vec<String>> {
    Ok(std::fs::read_to_string(dir.join(GRANTS))?
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Issues grants, serves, and reports the time of the first request and the number of requests.
#[tokio::main]
pub async fn server(arguments: &[&str]) -> Result<()> {
    let [dir, portals, delay] = arguments else {
        bail!("DIR PORTALS DELAY")
    };
    let clock = Clock::system();
    let rules = Rules {
        delay: Duration::from_millis(delay.parse()?),
        ..Rules::default()
    };
    let sandbox = FakeServer::new(clock, rules);
    sandbox.add_client(CLIENT_ID, CLIENT_SECRET);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    tasks.spawn(sandbox.clone().serve(listener, stop.clone()));
    let mut grants = String::new();
    for number in 0..portals.parse()? {
        let reply = sandbox.install(&domain(&name(number)), CLIENT_ID);
        grants.push_str(&serde_json::to_string(&reply)?);
        grants.push('\n');
    }
    let dir = Path::new(dir);
    write_whole(dir, &dir.join(GRANTS), grants.as_bytes(), 0o600)?;
    drop(grants);
    println!("ready http://{address}/oauth/token/");
    let watched = sandbox.clone();
    // On a thread of its own: the runtime's timers are late when it has much to do.
    tasks.spawn_blocking(move || {
        while watched.total_requests() == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        println!("first {}", clock.now().millis());
    });
    tokio::task::block_in_place(line)?;
    println!(
        "seen {} {}",
        sandbox.total_requests(),
        sandbox.violations().len()
    );
    tokio::task::block_in_place(line)?;
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Uses every grant once, as fast as `reqwest` can.
#[tokio::main]
pub async fn bare(arguments: &[&str]) -> Result<()> {
    let [dir, url] = arguments else {
        bail!("DIR URL")
    };
    let clock = Clock::system();
    let grants = grants(Path::new(dir))?
        .iter()
        .map(|grant| refresh_token(grant))
        .collect::<Result<Vec<_>>>()?;
    let (grants, next, url) = (
        Arc::new(grants),
        Arc::new(AtomicUsize::new(0)),
        Arc::new((*url).to_owned()),
    );
    let client = client()?;
    println!("ready");
    tokio::task::block_in_place(line)?;
    let mut workers = JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (client, grants, next, url) =
            (client.clone(), grants.clone(), next.clone(), url.clone());
        workers.spawn(async move {
            while let Some(grant) = grants.get(next.fetch_add(1, Ordering::Relaxed)) {
                spend(&client, &url, grant).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    println!("ended {}", clock.now().millis());
    tokio::task::block_in_place(line)?;
    Ok(())
}

/// The client of `adapters/authorization_server.rs`.
pub fn client() -> Result<Client> {
    Ok(Client::builder()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .connect_timeout(Duration::from_secs(10))
        .pool_idle_timeout(Duration::from_secs(4))
        .user_agent(concat!("refreshd/", env!("CARGO_PKG_VERSION")))
        .build()?)
}

/// Sends one token request; returns the response body.
pub async fn spend(client: &Client, url: &str, refresh_token: &str) -> Result<Vec<u8>> {
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT_ID),
        ("client_secret", CLIENT_SECRET),
        ("refresh_token", refresh_token),
    ];
    let request = client
        .post(url)
        .form(&form)
        .timeout(Duration::from_secs(30));
    let mut response = request.header(ACCEPT, "application/json").send().await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
    }
    ensure!(!body.is_empty(), "no body");
    Ok(body)
}

/// The refresh token of a grant.
pub fn refresh_token(grant: &str) -> Result<String> {
    let grant: serde_json::Value = serde_json::from_str(grant)?;
    grant["refresh_token"]
        .as_str()
        .map(str::to_owned)
        .context("a grant without a refresh token")
}

/// Waits for a line from the parent process, or for end of file.
pub fn line() -> Result<()> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
