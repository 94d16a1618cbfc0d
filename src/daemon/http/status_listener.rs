//! `[http] listen`: metrics, health and the status page. Read-only, without secrets.
//!
//! Must not influence renewals: everything here reads snapshots.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::adapters::exposition::ExpositionFormat;
use crate::adapters::log;
use crate::adapters::metrics::MetricsSnapshot;
use crate::adapters::state::{Census, StateError};
use crate::daemon::alerts::Condition;
use crate::daemon::context::Context;
use crate::daemon::http::descriptors;
use crate::daemon::http::document;
use crate::daemon::http::host_header::is_allowed_host;
use crate::daemon::http::server::{PeerExtensions, Reservation, Server, busy, serve};
use crate::daemon::http::status_page;
use crate::daemon::readiness;
use crate::domain::error_chain::error_chain;
use crate::domain::portal::Portal;
use refreshd_token_client::provider::host_of;

/// Maximum number of concurrent connections.
const MAX_CONNECTIONS: usize = 64;
/// Additional connections for health checks.
const RESERVED_CONNECTIONS: usize = 16;
/// Maximum number of concurrent responses that read much of the state.
const MAX_RENDERED: usize = 4;
/// Timeout of the wait for such a response.
const RENDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop`.
pub async fn run(shared: Arc<Context>, listener: TcpListener, stop: CancellationToken) {
    let clock = shared.clock;
    let rendered = Arc::new(Semaphore::new(MAX_RENDERED));
    let in_turn = middleware::from_fn(move |request: Request, next: Next| {
        let rendered = Arc::clone(&rendered);
        async move {
            let Some(Ok(_turn)) = clock.within(RENDER_TIMEOUT, rendered.acquire()).await else {
                return busy();
            };
            next.run(request).await
        }
    });
    let routes = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .layer(in_turn)
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            only_own_hosts,
        ))
        .with_state(shared);
    let peer_extensions_of = |_: &TcpStream| PeerExtensions::new();
    serve(
        listener,
        Server {
            routes,
            limits: descriptors::for_clients(MAX_CONNECTIONS, RESERVED_CONNECTIONS),
            reserved_for: Some(Reservation::Paths(&["/livez", "/readyz"])),
            max_body_bytes: |_| 0,
            peer_extensions_of,
            busy,
            clock,
        },
        stop,
    )
    .await;
}

/// Middleware that accepts only requests to a host name of this machine: a web page whose name resolves to this machine
/// (DNS rebinding) can read nothing.
async fn only_own_hosts(
    Extract(shared): Extract<Arc<Context>>,
    request: Request,
    next: Next,
) -> Response {
    let config = shared.config();
    let named = config
        .http
        .iter()
        .flat_map(|http| http.hosts.iter().map(String::as_str));
    let linked = config.alerts.url.as_deref().and_then(host_of);
    let host = request
        .headers()
        .get(header::HOST)
        .map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(|host| is_allowed_host(host, named.chain(linked))) {
        return next.run(request).await;
    }
    let message =
        "this host name is not refreshd's; name it in `allowed_hosts` of [http] if it is right\n";
    (StatusCode::MISDIRECTED_REQUEST, message).into_response()
}

fn unavailable(error: &StateError) -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("the state cannot be read: {}\n", error_chain(error)),
    )
        .into_response()
}

async fn status_page(Extract(shared): Extract<Arc<Context>>) -> Response {
    match status_page::render(&shared).await {
        Ok(page) => document::response(StatusCode::OK, page, document::NO_SCRIPTS),
        Err(error) => unavailable(&error),
    }
}

async fn metrics(Extract(shared): Extract<Arc<Context>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT);
    let format = ExpositionFormat::accepted(accept.and_then(|accept| accept.to_str().ok()));
    let text = format.convert(render_metrics(&shared).await);
    let kind = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, "Accept"),
    ];
    (kind, text).into_response()
}

/// Values that only the state has.
async fn known_by_state(
    shared: &Context,
) -> Result<(Option<Census>, Vec<Portal>, usize), StateError> {
    let (config, now) = (shared.config(), shared.clock.now());
    let census = shared.state.census(now).await?;
    let series = config
        .http
        .as_ref()
        .map_or(0, |http| http.per_portal_metrics_limit);
    let portals = if census.total() <= series as u64 {
        shared.state.first_portals(series).await?
    } else {
        Vec::new()
    };
    let silences = shared.state.silences().await?;
    let silences = silences.into_values().filter(|until| *until > now).count();
    Ok((Some(census), portals, silences))
}

async fn render_metrics(shared: &Context) -> String {
    let config = shared.config();
    let known = known_by_state(shared).await;
    let is_read = known.is_ok() && !shared.conditions.is_active(Condition::Unread);
    let (census, portals, silences) = known.unwrap_or_default();
    let incidents = shared.outboxes.by_severity();
    let outbox = shared
        .outboxes
        .waiting(config.channels.iter().map(|channel| channel.name.as_str()));
    let snapshot = MetricsSnapshot {
        census: census.as_ref(),
        portals: &portals,
        incidents: &incidents,
        outbox: &outbox,
        silences,
        writable: shared.health.is_state_writable(),
        readable: is_read,
        files_failing: shared.health.count_unpublished(),
        log_lines_dropped: log::dropped(),
    };
    shared.metrics.render(&snapshot)
}

async fn live(Extract(shared): Extract<Arc<Context>>) -> Response {
    if shared.health.is_live() {
        "live\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the scheduler made no progress in the last minute\n",
        )
            .into_response()
    }
}

async fn ready(Extract(shared): Extract<Arc<Context>>) -> Response {
    let problems = readiness::problems(&shared).await;
    if problems.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
}
