//! `[http] listen`: metrics, health and the status page. Read-only, and nothing secret.
//!
//! Must not change renewal: everything here reads snapshots.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::page;
use super::publisher::chain;
use super::serving::{House, Introduction, serve};
use super::shared::Shared;
use crate::adapters::metrics::{CONTENT_TYPE, Snapshot};
use crate::adapters::state::StateError;

/// Connections at a time.
const PLACES: usize = 64;

/// Why the listener could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on [{table}] listen = \"{address}\"")]
pub struct ListenError {
    table: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

impl ListenError {
    /// Of the address that a table of the configuration names.
    pub(super) const fn new(table: &'static str, address: SocketAddr, source: std::io::Error) -> Self {
        Self { table, address, source }
    }
}

/// Binds the listener.
///
/// # Errors
/// [`ListenError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::new("http", address, source))
}

/// Serves until `stop`.
pub async fn run(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    let clock = shared.clock;
    let routes = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(shared);
    let introduce = |_: &TcpStream| Introduction::new();
    serve(listener, House { routes, places: PLACES, longest_body: 0, introduce, clock }, stop).await;
}

fn unavailable(error: &StateError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("the state cannot be read: {}\n", chain(error))).into_response()
}

async fn status_page(Extract(shared): Extract<Arc<Shared>>) -> Response {
    match page::render(&shared).await {
        Ok(html) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn metrics(Extract(shared): Extract<Arc<Shared>>) -> Response {
    match render_metrics(&shared).await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn render_metrics(shared: &Shared) -> Result<String, StateError> {
    let config = shared.config();
    let census = shared.state.census(shared.clock.now()).await?;
    let series = config.http.as_ref().map_or(0, |http| http.portal_series);
    let portals =
        if census.total() <= series as u64 { shared.state.page(None, series).await? } else { Vec::new() };
    let incidents = shared.post.by_severity();
    let outbox = shared.post.waiting(config.channels.iter().map(|channel| channel.name.as_str()));
    let now = shared.clock.now();
    let silences = shared.state.silences().await?.into_values().filter(|until| *until > now).count();
    let snapshot = Snapshot {
        census: &census,
        portals: &portals,
        incidents: &incidents,
        outbox: &outbox,
        silences,
        writable: shared.health.is_state_writable(),
        files_failing: shared.health.count_unpublished(),
    };
    Ok(shared.metrics.render(&snapshot))
}

async fn live(Extract(shared): Extract<Arc<Shared>>) -> Response {
    if shared.health.is_live() {
        "live\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the scheduler made no progress in the last minute\n")
            .into_response()
    }
}

async fn ready(Extract(shared): Extract<Arc<Shared>>) -> Response {
    let problems = readiness_problems(&shared).await;
    if problems.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
}

async fn readiness_problems(shared: &Shared) -> Vec<String> {
    let mut problems = Vec::new();
    if shared.health.is_stopping() {
        problems.push("refreshd is stopping".to_owned());
    }
    if !shared.health.is_state_writable() {
        problems.push("the state cannot be written".to_owned());
    }
    let unsaved = shared.metrics.unsaved();
    if unsaved > 0 {
        problems.push(match unsaved {
            1 => "1 new pair is not on disk".to_owned(),
            _ => format!("{unsaved} new pairs are not on disk"),
        });
    }
    let unpublished = shared.health.count_unpublished();
    if unpublished > 0 {
        problems.push(match unpublished {
            1 => "the token files of 1 portal cannot be written".to_owned(),
            _ => format!("the token files of {unpublished} portals cannot be written"),
        });
    }
    match shared.state.census(shared.clock.now()).await {
        Ok(census) if census.overdue == 1 => problems.push("1 portal is overdue".to_owned()),
        Ok(census) if census.overdue > 0 => problems.push(format!("{} portals are overdue", census.overdue)),
        Ok(_) => {}
        Err(error) => problems.push(format!("the state cannot be read: {}", chain(&error))),
    }
    problems
}
