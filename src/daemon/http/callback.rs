//! Listener for the redirect of an authorization (RFC 8252 section 7.3), which shows the outcome to the user.
//!
//! Must not exchange the code: the caller does, and returns the outcome. An unexpected redirect is rejected and the wait
//! goes on.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{RawQuery, State as Extract};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use maud::html;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use crate::daemon::http::connection_limits::ConnectionLimits;
use crate::daemon::http::document::{self, Document, NO_SCRIPTS};
use crate::daemon::http::host_header::only_this_machine;
use crate::daemon::http::server::{PeerExtensions, Server, busy, serve};
use refreshd_time::clock::Clock;

/// Browsers request icons as well, and may send the same redirect more than once.
const MAX_CONNECTIONS: usize = 64;

/// A redirect: its query, and the channel for its response.
pub struct CallbackRequest {
    /// The query, `code=…&state=…`.
    pub query: String,
    response: oneshot::Sender<CallbackResponse>,
}

/// Response to the user.
#[derive(Clone, Debug)]
pub enum CallbackResponse {
    /// Success, for this portal.
    Done(String),
    /// Failure, with its cause.
    Failed(String),
    /// The authorization is not pending any more.
    Late,
}

impl CallbackRequest {
    /// Responds to the browser.
    pub fn respond(self, response: CallbackResponse) {
        // The user may have closed the window.
        let _ = self.response.send(response);
    }
}

/// Outcome of the wait, for copies of the redirect that ended it.
struct CallbackEnd {
    state: String,
    ending: CallbackResponse,
}

/// Shared data of the handlers.
struct CallbackState {
    requests: mpsc::Sender<CallbackRequest>,
    ended: Mutex<Option<CallbackEnd>>,
}

impl CallbackState {
    /// Response to a redirect after the end of the wait.
    fn after(&self, query: &str) -> CallbackResponse {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let same = ended
            .as_ref()
            .filter(|ended| has_state(query, &ended.state));
        same.map_or(CallbackResponse::Late, |ended| ended.ending.clone())
    }
}

/// Returns whether a redirect belongs to the authorization with this `state`.
#[must_use]
pub fn has_state(query: &str, state: &str) -> bool {
    form_urlencoded::parse(query.trim_start_matches('?').as_bytes())
        .any(|(name, value)| name == "state" && value == state)
}

/// A listener for redirects.
pub struct Callback {
    arrivals: mpsc::Receiver<CallbackRequest>,
    state: Arc<CallbackState>,
    stop: CancellationToken,
    serving: JoinSet<()>,
    /// Addresses of the listeners.
    pub addresses: Vec<SocketAddr>,
}

impl Callback {
    /// Listens on these addresses, for a redirect to any path; with port 0, on one port for all. Returns the addresses that
    /// could not be bound, and `None` if none could be.
    pub async fn listen(wanted: &[SocketAddr]) -> (Option<Self>, Vec<(SocketAddr, io::Error)>) {
        let (mut listeners, mut addresses, mut missing) =
            (Vec::new(), Vec::<SocketAddr>::new(), Vec::new());
        for address in wanted {
            let mut address = *address;
            if let (0, Some(first)) = (address.port(), addresses.first()) {
                address.set_port(first.port());
            }
            match TcpListener::bind(address)
                .await
                .and_then(|it| Ok((it.local_addr()?, it)))
            {
                Ok((address, listener)) => {
                    addresses.push(address);
                    listeners.push(listener);
                }
                Err(error) => missing.push((address, error)),
            }
        }
        if listeners.is_empty() {
            return (None, missing);
        }
        let (requests, arrivals) = mpsc::channel(MAX_CONNECTIONS);
        let state = Arc::new(CallbackState {
            requests,
            ended: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        for listener in listeners {
            let routes = Router::new()
                .fallback(redirected)
                .layer(middleware::from_fn(only_this_machine))
                .with_state(Arc::clone(&state));
            let peer_extensions_of = |_: &TcpStream| PeerExtensions::new();
            let server = Server {
                routes,
                limits: ConnectionLimits {
                    open: MAX_CONNECTIONS,
                    spare: 0,
                },
                reserved_for: None,
                max_body_bytes: |_| 0,
                peer_extensions_of,
                busy,
                clock: Clock::system(),
            };
            serving.spawn(serve(listener, server, stop.clone()));
        }
        let callback = Self {
            arrivals,
            state,
            stop,
            serving,
            addresses,
        };
        (Some(callback), missing)
    }

    /// The next redirect.
    pub async fn next(&mut self) -> Option<CallbackRequest> {
        self.arrivals.recv().await
    }

    /// Responds to every waiting browser with the outcome, and shuts the listener down. `state` is that of the
    /// authorization.
    pub async fn close(mut self, state: &str, ending: CallbackResponse) {
        let ended = CallbackEnd {
            state: state.to_owned(),
            ending,
        };
        *self
            .state
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(ended);
        // Copies of the redirect that arrived while the code was exchanged.
        self.arrivals.close();
        while let Some(copy) = self.arrivals.recv().await {
            let ending = self.state.after(&copy.query);
            copy.respond(ending);
        }
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
    }
}

async fn redirected(
    Extract(state): Extract<Arc<CallbackState>>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    // Browsers request icons as well.
    if !["code=", "error="].iter().any(|sign| query.contains(sign)) {
        return page(
            StatusCode::NOT_FOUND,
            "There is nothing here.",
            "refreshd waits for an authorization.",
        );
    }
    // A preview, a scanner or a speculative request must not spend the code.
    if method == Method::HEAD {
        return page(
            StatusCode::OK,
            "refreshd waits here.",
            "Open the address in a browser.",
        );
    }
    if method != Method::GET {
        let text = "The browser is sent here by GET.";
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, "That did not work.", text);
        refused
            .headers_mut()
            .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if is_ahead_of_its_user(&headers) {
        let text = "This is a speculative request; open the address itself.";
        return page(StatusCode::SERVICE_UNAVAILABLE, "Not yet.", text);
    }
    let (response, ending) = oneshot::channel();
    let arrival = CallbackRequest {
        query: query.clone(),
        response,
    };
    let ending = match state.requests.send(arrival).await {
        Ok(()) => ending.await.unwrap_or_else(|_| state.after(&query)),
        Err(_) => state.after(&query),
    };
    match ending {
        CallbackResponse::Done(portal) => page(
            StatusCode::OK,
            "Done.",
            &format!(
                "{portal} is authorized and kept fresh from now on. You can close this window."
            ),
        ),
        CallbackResponse::Failed(why) => page(StatusCode::BAD_REQUEST, "That did not work.", &why),
        CallbackResponse::Late => page(
            StatusCode::GONE,
            "This authorization is not pending any more.",
            "Begin the authorization again.",
        ),
    }
}

/// Returns whether a browser loads the page speculatively (`Sec-Purpose`, and its predecessors).
pub(crate) fn is_ahead_of_its_user(headers: &HeaderMap) -> bool {
    ["sec-purpose", "purpose", "x-purpose", "x-moz"]
        .iter()
        .any(|name| {
            headers
                .get_all(*name)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .any(|value| {
                    let value = value.to_ascii_lowercase();
                    ["prefetch", "prerender", "preview"]
                        .iter()
                        .any(|word| value.contains(word))
                })
        })
}

pub(crate) fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let document = Document {
        title,
        style: "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}",
        head: html! {},
        body: html! { h1 { (title) } p { (text) } },
    };
    document::response(status, document.render(), NO_SCRIPTS)
}
