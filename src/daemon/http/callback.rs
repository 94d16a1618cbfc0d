//! Listens where a browser is sent after an authorization (RFC 8252 section 7.3), and tells its user how it ended.
//!
//! Must not exchange anything: whoever waits does, and says what came of it. A redirect that was not asked for is
//! turned away and the wait goes on.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{RawQuery, State as Extract};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use crate::daemon::http::connection_limits::ConnectionLimits;
use crate::daemon::http::host_header::only_this_machine;
use crate::daemon::http::server::{PeerExtensions, Server, busy, serve};
use refreshd_time::clock::Clock;

/// Browsers ask for icons and more besides, and bring the same redirect more than once.
const MAX_CONNECTIONS: usize = 64;

/// A redirect: its query, and how its browser is told what came of it.
pub struct CallbackRequest {
    /// The query as it came, `code=…&state=…`.
    pub query: String,
    told: oneshot::Sender<CallbackResponse>,
}

/// What a browser's user is told.
#[derive(Clone, Debug)]
pub enum CallbackResponse {
    /// It worked, for this portal.
    Done(String),
    /// It did not, and why.
    Failed(String),
    /// Nobody waits for it.
    Late,
}

impl CallbackRequest {
    /// Tells the browser's user.
    pub fn tell(self, ending: CallbackResponse) {
        // Whoever closed the window meanwhile knows enough.
        let _ = self.told.send(ending);
    }
}

/// How the wait ended, for copies of the redirect that ended it.
struct CallbackEnd {
    state: String,
    ending: CallbackResponse,
}

/// What handlers share.
struct CallbackState {
    tell: mpsc::Sender<CallbackRequest>,
    ended: Mutex<Option<CallbackEnd>>,
}

impl CallbackState {
    /// What the user of a redirect is told after the wait.
    fn after(&self, query: &str) -> CallbackResponse {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let same = ended
            .as_ref()
            .filter(|ended| has_state(query, &ended.state));
        same.map_or(CallbackResponse::Late, |ended| ended.ending.clone())
    }
}

/// Whether a redirect belongs to the authorization with this `state`.
#[must_use]
pub fn has_state(query: &str, state: &str) -> bool {
    form_urlencoded::parse(query.trim_start_matches('?').as_bytes())
        .any(|(name, value)| name == "state" && value == state)
}

/// A listener for redirects.
pub struct Callback {
    arrivals: mpsc::Receiver<CallbackRequest>,
    door: Arc<CallbackState>,
    stop: CancellationToken,
    serving: JoinSet<()>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

impl Callback {
    /// Listens at these addresses, for a redirect to any path there; with port 0, at one port on all. Those that could not be
    /// had come back; `None` where none could be.
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
        let (tell, arrivals) = mpsc::channel(MAX_CONNECTIONS);
        let door = Arc::new(CallbackState {
            tell,
            ended: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        for listener in listeners {
            let routes = Router::new()
                .fallback(redirected)
                .layer(middleware::from_fn(only_this_machine))
                .with_state(Arc::clone(&door));
            let peer_extensions_of = |_: &TcpStream| PeerExtensions::new();
            let house = Server {
                routes,
                places: ConnectionLimits {
                    open: MAX_CONNECTIONS,
                    spare: 0,
                },
                kept: None,
                longest_body: |_| 0,
                peer_extensions_of,
                busy,
                clock: Clock::system(),
            };
            serving.spawn(serve(listener, house, stop.clone()));
        }
        let callback = Self {
            arrivals,
            door,
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

    /// Tells every browser that waits how it ended, lets them take it, and ends. `state` is that of the authorization.
    pub async fn close(mut self, state: &str, ending: CallbackResponse) {
        let ended = CallbackEnd {
            state: state.to_owned(),
            ending,
        };
        *self
            .door
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(ended);
        // Copies of the redirect that came while the code was exchanged.
        self.arrivals.close();
        while let Some(copy) = self.arrivals.recv().await {
            let ending = self.door.after(&copy.query);
            copy.tell(ending);
        }
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
    }
}

async fn redirected(
    Extract(door): Extract<Arc<CallbackState>>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    // A browser asks for icons besides.
    if !["code=", "error="].iter().any(|sign| query.contains(sign)) {
        return page(
            StatusCode::NOT_FOUND,
            "There is nothing here.",
            "refreshd waits for an authorization.",
        );
    }
    // Whoever only looks at a link must not spend its code: a preview, a scanner, a browser's guess.
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
        let text = "The address was asked for before anybody opened it.";
        return page(StatusCode::SERVICE_UNAVAILABLE, "Not yet.", text);
    }
    let (told, ending) = oneshot::channel();
    let arrival = CallbackRequest {
        query: query.clone(),
        told,
    };
    let ending = match door.tell.send(arrival).await {
        Ok(()) => ending.await.unwrap_or_else(|_| door.after(&query)),
        Err(_) => door.after(&query),
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
            "Nobody waits for this any more.",
            "Begin the authorization again.",
        ),
    }
}

/// Whether a browser loads it ahead, in case its user goes there (`Sec-RequestKind`, and what came before it).
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
    let page: Markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "refreshd: " (title) }
                style { "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}" }
            }
            body { h1 { (title) } p { (text) } }
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        // The address holds the code.
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ];
    (status, headers, page.into_string()).into_response()
}
