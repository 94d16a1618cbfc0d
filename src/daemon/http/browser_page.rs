//! The page at which a browser is opened: it leads on to where a person authorizes, and works once.
//!
//! Every user of a machine can read the arguments of a browser that is started, and whoever knows an authorization's `state` can
//! answer it with a grant of his own. So the browser is given this page's address instead. Must not show the other address to
//! a second client: who comes second, or first, may be somebody else, and whoever waits is told.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::daemon::http::callback::{is_ahead_of_its_user, page};
use crate::daemon::http::connection_limits::ConnectionLimits;
use crate::daemon::http::host_header::only_this_machine;
use crate::daemon::http::server::{PeerExtensions, Server, busy, serve};
use refreshd_time::clock::{Clock, Tick};

/// A browser that takes longer to start finds nothing.
const SHORT_LIFE: Duration = Duration::from_secs(120);
/// Connections at a time.
const MAX_CONNECTIONS: ConnectionLimits = ConnectionLimits { open: 16, spare: 0 };

/// A page that leads on once.
pub struct BrowserPage {
    /// Its address on this machine.
    pub url: String,
    way: Arc<RedirectPath>,
    stop: CancellationToken,
    serving: JoinSet<()>,
}

/// What handlers share.
struct RedirectPath {
    path: String,
    to: HeaderValue,
    taken: AtomicBool,
    again: Notify,
    began: Tick,
    clock: Clock,
}

impl BrowserPage {
    /// Listens on loopback for a browser that is to be led to this address.
    ///
    /// # Errors
    /// The operating system's; or the address cannot stand in a header.
    pub async fn listen(to: &str) -> io::Result<Self> {
        let clock = Clock::system();
        let to = HeaderValue::from_str(to).map_err(io::Error::other)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let path = format!("/open/{}", clock.random_token());
        let url = format!("http://{}{path}", listener.local_addr()?);
        let (taken, again) = (AtomicBool::new(false), Notify::new());
        let way = Arc::new(RedirectPath {
            path,
            to,
            taken,
            again,
            began: clock.tick(),
            clock,
        });
        let routes = Router::new()
            .fallback(lead_on)
            .layer(middleware::from_fn(only_this_machine))
            .with_state(Arc::clone(&way));
        let peer_extensions_of = |_: &TcpStream| PeerExtensions::new();
        let house = Server {
            routes,
            places: MAX_CONNECTIONS,
            kept: None,
            longest_body: |_| 0,
            peer_extensions_of,
            busy,
            clock,
        };
        let (stop, mut serving) = (CancellationToken::new(), JoinSet::new());
        serving.spawn(serve(listener, house, stop.clone()));
        Ok(Self {
            url,
            way,
            stop,
            serving,
        })
    }

    /// Waits until somebody has opened the page again.
    pub async fn opened_again(&self) {
        self.way.again.notified().await;
    }

    /// Ends.
    pub async fn close(mut self) {
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
    }
}

async fn lead_on(
    Extract(way): Extract<Arc<RedirectPath>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if uri.path() != way.path {
        return page(
            StatusCode::NOT_FOUND,
            "There is nothing here.",
            "refreshd waits for a browser.",
        );
    }
    // Whoever only looks must not use it up: a preview, a scanner, a browser's guess.
    if method == Method::HEAD {
        return page(
            StatusCode::OK,
            "refreshd waits here.",
            "Open the address in a browser.",
        );
    }
    if method != Method::GET {
        return page(
            StatusCode::METHOD_NOT_ALLOWED,
            "That did not work.",
            "The browser comes here by GET.",
        );
    }
    if is_ahead_of_its_user(&headers) {
        let text = "The address was asked for before anybody opened it.";
        return page(StatusCode::SERVICE_UNAVAILABLE, "Not yet.", text);
    }
    if way.clock.elapsed(way.began) > SHORT_LIFE {
        return page(
            StatusCode::GONE,
            "This page has ended.",
            "Open the address that the terminal shows.",
        );
    }
    if way.taken.swap(true, Ordering::SeqCst) {
        way.again.notify_one();
        let text = "This page leads on once, and somebody has been here. The authorization was ended: begin it again.";
        return page(StatusCode::GONE, "This page was opened before.", text);
    }
    let headers = [
        (header::LOCATION, way.to.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}
