//! HTTP/1.1 for the fake server: passes requests to the authority and sends its responses.
//!
//! Must not hold the authority's lock while it waits, and must not log: it serves thousands of requests a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::checks::TOKEN_PATH;
use super::faulty_stream::{
    ConnectionState, Cut, FaultyBody, FaultyStream, PendingReply, wait_for,
};
use super::form::ReceivedTokenRequest;
use super::handle::FakeServer;
use super::installs::{APP_INFO_PATH, USER_ADMIN_PATH};
use super::pages::AUTHORIZE_PATH;
use super::response::{DeliveryFault, FakeResponse, ReplyContent};

/// Maximum size of a request body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Delay after a failed accept (no descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

impl FakeServer {
    /// Serves until stopped, then closes every connection. One server may serve several listeners, consecutively or at
    /// once; `server_endpoint` names the last.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        serve(self, listener, stop).await;
    }
}

/// Serves until stopped, then closes every connection.
pub(super) async fn serve(sandbox: FakeServer, listener: TcpListener, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        sandbox.lock().host = address.to_string();
    }
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(sandbox.clone(), stream));
                }
                Err(_) => sandbox.clock.sleep(ACCEPT_RETRY).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn connection(sandbox: FakeServer, stream: TcpStream) {
    // Without it a dripped reply would be sent in larger pieces; a socket that rejects the option is about to fail
    // anyway.
    let _ = stream.set_nodelay(true);
    let line = Arc::new(ConnectionState::default());
    let wire = TokioIo::new(FaultyStream::new(stream, line.clone(), sandbox.clone()));
    let service = service_fn(|request| answer(sandbox.clone(), line.clone(), request));
    // The client or a fault ends a connection; its error does not matter.
    let _ = http1::Builder::new().serve_connection(wire, service).await;
}

async fn answer(
    sandbox: FakeServer,
    line: Arc<ConnectionState>,
    request: Request<Incoming>,
) -> Result<Response<FaultyBody>, Cut> {
    let reply = match (request.method(), request.uri().path()) {
        (_, TOKEN_PATH) => return token(sandbox, line, request).await,
        (_, APP_INFO_PATH) => {
            let (head, body) = request.into_parts();
            let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
                return Err(Cut);
            };
            let (query, now) = (head.uri.query().unwrap_or_default(), sandbox.clock.now());
            let (reply, delay) = {
                let mut authority = sandbox.lock();
                let reply = authority.app_info(head.method.as_str(), query, &body.to_bytes(), now);
                (reply, authority.owner_request_delay)
            };
            wait_for(sandbox.clock, delay).await;
            reply
        }
        (&Method::POST, USER_ADMIN_PATH) => {
            let Ok(body) = Limited::new(request.into_body(), MAX_BODY_BYTES)
                .collect()
                .await
            else {
                return Err(Cut);
            };
            sandbox
                .lock()
                .user_admin(&body.to_bytes(), sandbox.clock.now())
        }
        (&Method::GET, AUTHORIZE_PATH) => {
            let (query, host) = (
                request.uri().query().unwrap_or_default(),
                text(request.headers(), header::HOST),
            );
            let now = sandbox.clock.now();
            sandbox.lock().authorization_page(query, host, now)
        }
        (&Method::GET, "/healthz") => ReplyContent::text(200, "ok\n"),
        (_, path) => {
            sandbox.lock().check_redirect(path);
            ReplyContent::text(404, "not found\n")
        }
    };
    Ok(response(reply, |body| FaultyBody::whole(body, None)))
}

async fn token(
    sandbox: FakeServer,
    line: Arc<ConnectionState>,
    request: Request<Incoming>,
) -> Result<Response<FaultyBody>, Cut> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(response(ReplyContent::text(413, "too long\n"), |body| {
                FaultyBody::whole(body, None)
            }));
        }
        Err(_) => return Err(Cut),
    };
    let request = ReceivedTokenRequest {
        method: head.method.as_str(),
        content_type: text(&head.headers, header::CONTENT_TYPE),
        query: head.uri.query().unwrap_or_default(),
        body: &body,
    };
    let now = sandbox.clock.now();
    let FakeResponse {
        reply,
        delivery,
        delay,
        ticket,
    } = sandbox.lock().token(&request, now);
    let pending = PendingReply::new(sandbox.clone(), line.clone(), ticket);
    wait_for(sandbox.clock, delay).await;
    match delivery {
        DeliveryFault::Closed => return Err(Cut),
        DeliveryFault::Reset => {
            line.reset.store(true, Ordering::Relaxed);
            return Err(Cut);
        }
        // This future is dropped when the client disconnects or the server is stopped.
        DeliveryFault::Never => std::future::pending().await,
        DeliveryFault::Whole
        | DeliveryFault::Truncated(_)
        | DeliveryFault::Drip(_)
        | DeliveryFault::Huge(_) => {}
    }
    Ok(response(reply, |body| {
        FaultyBody::new(body, delivery, &sandbox, pending)
    }))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn response(reply: ReplyContent, body: impl FnOnce(Vec<u8>) -> FaultyBody) -> Response<FaultyBody> {
    let mut response = Response::new(body(reply.body));
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let mut put = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(header::CONTENT_TYPE, &reply.content_type);
    put(header::CACHE_CONTROL, "no-store");
    if let Some(location) = &reply.location {
        put(header::LOCATION, location);
    }
    if let Some(secs) = reply.retry_after {
        put(header::RETRY_AFTER, &secs.to_string());
    }
    response
}
