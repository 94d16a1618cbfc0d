//! Webhook receiver: admission control, parsing and responses. Must not send requests: it responds at once.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::adapters::state::NewEvent;
use crate::config::{App, Config, InstallListener};
use crate::daemon::context::Context;
use crate::daemon::http::descriptors;
use crate::daemon::http::server::{PeerExtensions, Server, busy, serve};
use crate::daemon::install::job::{InstallJob, number, share_of};
use crate::daemon::install::page;
use crate::daemon::install::queue_shares::QueueShares;
use crate::daemon::install::result_log::LogContext;
use crate::domain::error_chain::error_chain;
use crate::domain::install::Outcome;
use crate::domain::install_event::{self, Incomplete, InstallEvent, MAX_LENGTH};
use crate::domain::install_form::as_form;
use crate::domain::throttle::Throttle;
use refreshd_time::clock::Tick;

/// Maximum number of concurrent connections; a proxy keeps a few open.
const MAX_CONNECTIONS: usize = 256;
/// Minimum interval between log lines about throttled events.
const THROTTLED_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// `Retry-After` when too many events wait.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(30);

struct InstallHandler {
    shared: Arc<Context>,
    queue: mpsc::Sender<InstallJob>,
    shares: Arc<QueueShares>,
    throttle: Mutex<Throttle>,
    throttled: Mutex<ThrottledEvents>,
}

/// Throttled events since the last log line about them.
#[derive(Default)]
struct ThrottledEvents {
    logged_at: Option<Tick>,
    unlogged: u64,
}

/// Serves until `stop`; then the queue ends.
pub(crate) async fn serve_install_events(
    shared: Arc<Context>,
    listener: TcpListener,
    (queue, shares): (mpsc::Sender<InstallJob>, Arc<QueueShares>),
    stop: CancellationToken,
) {
    let clock = shared.clock;
    let (rate, of_source) = rates(&shared.config());
    let throttle = Mutex::new(Throttle::new(rate, of_source, clock.now()));
    let handler = Arc::new(InstallHandler {
        shared,
        queue,
        shares,
        throttle,
        throttled: Mutex::default(),
    });
    let routes = Router::new().fallback(receive_event).with_state(handler);
    let peer_extensions_of = |_: &TcpStream| PeerExtensions::new();
    serve(
        listener,
        Server {
            routes,
            limits: descriptors::for_clients(MAX_CONNECTIONS, 0),
            reserved_for: None,
            max_body_bytes: |_| MAX_LENGTH,
            peer_extensions_of,
            busy,
            clock,
        },
        stop,
    )
    .await;
}

/// Without the table there is no listener; a reload that removes it takes effect at the next restart.
fn rates(config: &Config) -> (f64, f64) {
    config
        .install
        .as_ref()
        .map_or((1.0, 1.0), |install| (install.rate, install.source_rate))
}

/// Handles one event.
async fn receive_event(
    Extract(handler): Extract<Arc<InstallHandler>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let config = handler.shared.config();
    let Some(app) = app_at(&config, uri.path()) else {
        return (StatusCode::NOT_FOUND, "nothing is here\n").into_response();
    };
    if method != Method::POST {
        let page = page::plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "This address is for portals that install an app.",
        );
        return ([(header::ALLOW, "POST")], page).into_response();
    }
    let source = config
        .install
        .as_ref()
        .and_then(|install| source(install, &headers));
    let refuse = |outcome, host, reason: &str| {
        LogContext {
            app: &app.name,
            outcome,
            host,
            source,
            reason,
        }
        .log_result(&handler.shared);
    };
    if let Err(wait) = handler.admit(&config, source) {
        handler.too_many(app, source, "more came than [install] rate allows");
        return retry_later(StatusCode::TOO_MANY_REQUESTS, wait);
    }
    if body.len() > MAX_LENGTH {
        refuse(Outcome::Malformed, None, "it is too long");
        return (StatusCode::PAYLOAD_TOO_LARGE, "the form is too long\n").into_response();
    }
    let Some(body) = as_form(content_type(&headers), &body) else {
        refuse(Outcome::Malformed, None, "it is no form");
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "a form is expected\n").into_response();
    };
    let notice = match install_event::read(uri.query().unwrap_or_default(), &body) {
        Ok(notice) => notice,
        Err(error) => {
            refuse(Outcome::Malformed, None, &error.to_string());
            return (StatusCode::BAD_REQUEST, "this is no notice of an install\n").into_response();
        }
    };
    let answer = match &notice {
        InstallEvent::Opened(presented) => {
            page::finish(&app.profile.install, presented.claims.host.as_deref())
        }
        InstallEvent::Installed(_) | InstallEvent::SystemUser(_) | InstallEvent::Removed(_) => {
            "taken\n".into_response()
        }
        InstallEvent::Incomplete(Incomplete { missing, host }) => {
            let what = if missing.ends_with("member_id]") || *missing == "member_id" {
                "does not say which portal's it is"
            } else {
                "brings no grant"
            };
            let reason = format!(
                "it {what} ({missing} is missing), and nothing of it is kept, its application token neither. \
                 Open the app in the portal once: that brings a grant"
            );
            let (app, host, reason) = (&app.name, host.as_deref(), &reason);
            LogContext {
                app,
                outcome: Outcome::Ignored,
                host,
                source,
                reason,
            }
            .log_at_info(&handler.shared);
            return format!("ignored: {missing} is missing\n").into_response();
        }
        InstallEvent::Other => {
            refuse(Outcome::Ignored, None, "it says nothing about grants");
            return "ignored\n".into_response();
        }
    };
    let apps = config
        .apps
        .values()
        .filter(|app| app.install.is_some())
        .count();
    let length = body.len();
    let owner = share_of(&handler.shared, &app.name, source, &notice, length).await;
    let (Some(share), Ok(queue)) = (
        handler.shares.place(owner, apps),
        handler.queue.try_reserve(),
    ) else {
        handler.too_many(app, source, "too many wait to be worked off");
        return retry_later(StatusCode::SERVICE_UNAVAILABLE, BUSY_RETRY_AFTER);
    };
    // A sender does not repeat an event that was acknowledged with 200.
    let kept = NewEvent {
        app: app.name.clone(),
        query: uri.query().unwrap_or_default().to_owned(),
        body,
        source: source.map(|source| source.to_string()),
        now: handler.shared.clock.now(),
    };
    match handler.shared.state.store_event(kept).await {
        Ok(Some(row)) => {
            queue.send(InstallJob {
                row,
                app: app.name.clone(),
                notice,
                source,
                place: share,
            });
            answer
        }
        Ok(None) => {
            handler.too_many(app, source, "too many wait to be worked off");
            retry_later(StatusCode::SERVICE_UNAVAILABLE, BUSY_RETRY_AFTER)
        }
        Err(error) => {
            let reason = format!("the state does not take it: {}", error_chain(&error));
            handler.too_many(app, source, &reason);
            retry_later(StatusCode::SERVICE_UNAVAILABLE, BUSY_RETRY_AFTER)
        }
    }
}

fn app_at<'c>(config: &'c Config, path: &str) -> Option<&'c App> {
    let path = path.trim_end_matches('/');
    let is_there = |app: &&App| {
        app.install
            .as_ref()
            .is_some_and(|install| install.path.trim_end_matches('/') == path)
    };
    config.apps.values().find(is_there)
}

/// Client address according to the proxy in front: only the last address of the header is the proxy's own observation.
fn source(install: &InstallListener, headers: &HeaderMap) -> Option<IpAddr> {
    let value = headers
        .get_all(install.source_header.as_deref()?)
        .iter()
        .next_back()?;
    value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn retry_later(status: StatusCode, wait: Duration) -> Response {
    let wait = [(header::RETRY_AFTER, wait.as_secs_f64().ceil().to_string())];
    (status, wait, "come again later\n").into_response()
}

impl InstallHandler {
    fn admit(&self, config: &Config, source: Option<IpAddr>) -> Result<(), Duration> {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let (rate, of_source) = rates(config);
        throttle.set_rates(rate, of_source);
        throttle.admit(source.map(number), self.shared.clock.now())
    }

    /// Counts each throttled event, and logs at most one line in the interval: a flood must not fill the log.
    fn too_many(&self, app: &App, source: Option<IpAddr>, reason: &str) {
        let clock = self.shared.clock;
        let unlogged = {
            let mut throttled = self
                .throttled
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if throttled
                .logged_at
                .is_some_and(|at| clock.elapsed(at) < THROTTLED_LOG_INTERVAL)
            {
                throttled.unlogged += 1;
                drop(throttled);
                return self.shared.metrics.install(&app.name, Outcome::TooMany);
            }
            throttled.logged_at = Some(clock.tick());
            std::mem::take(&mut throttled.unlogged)
        };
        let reason = match unlogged {
            0 => reason.to_owned(),
            _ => format!("{reason}; {unlogged} more since this was said last"),
        };
        LogContext {
            app: &app.name,
            outcome: Outcome::TooMany,
            host: None,
            source,
            reason: &reason,
        }
        .log_result(&self.shared);
    }
}
