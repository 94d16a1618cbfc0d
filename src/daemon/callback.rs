//! Listens where a browser is sent after an authorization (RFC 8252 section 7.3), and tells its user how it ended.
//!
//! Must not exchange anything: whoever waits does, and says what came of it. A redirect that was not asked for is
//! turned away and the wait goes on.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::{DOCTYPE, Markup, html};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::serving::{House, Introduction, serve};
use crate::adapters::clock::Clock;

/// Browsers ask for icons and more besides.
const PLACES: usize = 16;

/// A redirect: its query, and how its browser is told what came of it.
pub struct Arrival {
    /// The query as it came, `code=…&state=…`.
    pub query: String,
    told: oneshot::Sender<Ending>,
}

/// What a browser's user is told.
#[derive(Debug)]
pub enum Ending {
    /// It worked, for this portal.
    Done(String),
    /// It did not, and why.
    Failed(String),
}

impl Arrival {
    /// Tells the browser's user.
    pub fn tell(self, ending: Ending) {
        // Whoever closed the window meanwhile knows enough.
        let _ = self.told.send(ending);
    }
}

/// A listener for redirects.
pub struct Callback {
    arrivals: mpsc::Receiver<Arrival>,
    stop: CancellationToken,
    serving: JoinSet<()>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Callback {
    /// Listens at an address, for a redirect to any path there.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn listen(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (tell, arrivals) = mpsc::channel(PLACES);
        let stop = CancellationToken::new();
        let routes = Router::new().fallback(get(redirected)).with_state(Arc::new(tell));
        let introduce = |_: &TcpStream| Introduction::new();
        let house = House { routes, places: PLACES, longest_body: 0, introduce, clock: Clock::system() };
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, house, stop.clone()));
        Ok(Self { arrivals, stop, serving, address })
    }

    /// The next redirect.
    pub async fn next(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }

    /// Lets browsers take what they were told, and ends.
    pub async fn close(mut self) {
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
    }
}

async fn redirected(
    Extract(tell): Extract<Arc<mpsc::Sender<Arrival>>>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    // A browser asks for icons besides.
    if !["code=", "error="].iter().any(|sign| query.contains(sign)) {
        return page(StatusCode::NOT_FOUND, "There is nothing here.", "refreshd waits for an authorization.");
    }
    let (told, ending) = oneshot::channel();
    let arrival = Arrival { query, told };
    if tell.send(arrival).await.is_err() {
        return page(StatusCode::GONE, "Nobody waits for this any more.", "Begin the authorization again.");
    }
    match ending.await {
        Ok(Ending::Done(portal)) => page(
            StatusCode::OK,
            "Done.",
            &format!("{portal} is authorized and kept fresh from now on. You can close this window."),
        ),
        Ok(Ending::Failed(why)) => page(StatusCode::BAD_REQUEST, "That did not work.", &why),
        Err(_) => page(StatusCode::GONE, "Nobody waits for this any more.", "Begin the authorization again."),
    }
}

fn page(status: StatusCode, title: &str, text: &str) -> Response {
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
