//! The page at which a browser is opened: it redirects to the authorization URL, and works once.
//!
//! Every user of a machine can read the arguments of a process, such as a browser, and a user who knows an authorization's
//! `state` can complete it with another grant. So the browser gets the URL of this page instead. Must not redirect
//! a second client: either of the two may be another user, so the caller is notified.

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

/// Validity of the page; a browser that takes longer to start gets an error.
const VALIDITY: Duration = Duration::from_secs(120);
/// Maximum number of concurrent connections.
const MAX_CONNECTIONS: ConnectionLimits = ConnectionLimits { open: 16, spare: 0 };

/// A page that redirects once.
pub struct BrowserPage {
    /// URL of the page on this machine.
    pub url: String,
    page_state: Arc<PageState>,
    stop: CancellationToken,
    serving: JoinSet<()>,
}

/// Shared data of the handlers.
struct PageState {
    path: String,
    to: HeaderValue,
    opened: AtomicBool,
    again: Notify,
    began: Tick,
    clock: Clock,
}

impl BrowserPage {
    /// Listens on loopback for a browser, which is redirected to `to`.
    ///
    /// # Errors
    /// An error of the operating system; or `to` is not a valid header value.
    pub async fn listen(to: &str) -> io::Result<Self> {
        let clock = Clock::system();
        let to = HeaderValue::from_str(to).map_err(io::Error::other)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let path = format!("/open/{}", clock.random_token());
        let url = format!("http://{}{path}", listener.local_addr()?);
        let (opened, again) = (AtomicBool::new(false), Notify::new());
        let page_state = Arc::new(PageState {
            path,
            to,
            opened,
            again,
            began: clock.tick(),
            clock,
        });
        let routes = Router::new()
            .fallback(redirect)
            .layer(middleware::from_fn(only_this_machine))
            .with_state(Arc::clone(&page_state));
        let peer_extensions_of = |_: &TcpStream| PeerExtensions::new();
        let server = Server {
            routes,
            limits: MAX_CONNECTIONS,
            reserved_for: None,
            max_body_bytes: |_| 0,
            peer_extensions_of,
            busy,
            clock,
        };
        let (stop, mut serving) = (CancellationToken::new(), JoinSet::new());
        serving.spawn(serve(listener, server, stop.clone()));
        Ok(Self {
            url,
            page_state,
            stop,
            serving,
        })
    }

    /// Waits until the page has been opened a second time.
    pub async fn opened_again(&self) {
        self.page_state.again.notified().await;
    }

    /// Shuts the listener down.
    pub async fn close(mut self) {
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
    }
}

async fn redirect(
    Extract(page_state): Extract<Arc<PageState>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if uri.path() != page_state.path {
        return page(
            StatusCode::NOT_FOUND,
            "There is nothing here.",
            "refreshd waits for a browser.",
        );
    }
    // A preview, a scanner or a speculative request must not use the page up.
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
        let text = "This is a speculative request; open the address itself.";
        return page(StatusCode::SERVICE_UNAVAILABLE, "Not yet.", text);
    }
    if page_state.clock.elapsed(page_state.began) > VALIDITY {
        return page(
            StatusCode::GONE,
            "This page has ended.",
            "Open the address that the terminal shows.",
        );
    }
    if page_state.opened.swap(true, Ordering::SeqCst) {
        page_state.again.notify_one();
        let text = "This page redirects once, and has been used. The authorization was ended: begin it again.";
        return page(StatusCode::GONE, "This page was opened before.", text);
    }
    let headers = [
        (header::LOCATION, page_state.to.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}
