//! HTTP server for clients that may be slow, many or hostile: bounded in connections, memory and time; no client delays
//! another.
//!
//! A client has [`IO_TIMEOUT`] for a request, and for each step of reading its response. When all connections are occupied,
//! the client that has been idle max_bytes is disconnected, but never one whose request is being handled. When all are being
//! served, there are reserved connections ([`Reservation`]). Must not know the routes.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::serve::Listener;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::daemon::http::connection_limits::{
    Admission, ClientConnection, ClientConnections, ConnectionLimits, RETRY_AFTER, Served,
};
use refreshd_time::clock::Clock;

/// Timeout of a request's arrival, of an idle connection, and of a response without progress.
pub(crate) const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after a shutdown request in which clients that are not being served can read their responses.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Maximum size of a request's head, in bytes and in lines.
const MAX_HEAD_BYTES: (usize, usize) = (16 * 1024, 64);
/// Limit up to which an oversized body is read and discarded, so that its sender receives the response.
const MAX_DISCARDED: usize = 1024 * 1024;

/// Response when all connections are occupied.
pub(crate) fn busy() -> Response<Body> {
    let message =
        "refreshd is busy: all connections of this listener are in use; try again in a moment\n";
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, "1")],
        message,
    )
        .into_response()
}

/// Configuration of a listener.
pub(crate) struct Server<I> {
    /// The routes.
    pub(crate) routes: Router,
    /// Maximum numbers of connections.
    pub(crate) limits: ConnectionLimits,
    /// Requests that the reserved connections are for.
    pub(crate) reserved_for: Option<Reservation<I>>,
    /// Maximum length of a body in bytes; of a longer one, the routes receive one byte more than that.
    pub(crate) max_body_bytes: fn(&Parts) -> usize,
    /// Request extensions that describe the peer.
    pub(crate) peer_extensions_of: fn(&I) -> PeerExtensions,
    /// Response on a reserved connection to any other request.
    pub(crate) busy: fn() -> Response<Body>,
    /// Clock of the timeouts.
    pub(crate) clock: Clock,
}

/// Requests that are served on a reserved connection.
pub(crate) enum Reservation<I> {
    /// Requests of these clients.
    ClientConnections(fn(&I) -> bool),
    /// Requests for these paths, by any client.
    Paths(&'static [&'static str]),
}

impl<I> Clone for Reservation<I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I> Copy for Reservation<I> {}

impl<I> Reservation<I> {
    fn is_for(&self, stream: &I) -> bool {
        match self {
            Self::ClientConnections(is_one) => is_one(stream),
            Self::Paths(_) => false,
        }
    }

    fn serves(&self, is_important: bool, path: &str) -> bool {
        match self {
            Self::ClientConnections(_) => is_important,
            Self::Paths(paths) => paths.contains(&path),
        }
    }
}

/// Extensions that each request of a connection carries.
pub(crate) type PeerExtensions = axum::http::Extensions;

/// Serves until `stop`, then finishes the requests under way.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    server: Server<L::Io>,
    stop: CancellationToken,
) {
    let (clock, limits) = (server.clock, server.limits);
    let server = Arc::new(server);
    let mut clients = ClientConnections::new(clock, limits);
    let mut connections = JoinSet::new();
    // One descriptor more than the connections: a disconnected client occupies it until the connection is closed.
    let permits = Arc::new(Semaphore::new(limits.open + limits.spare + 1));
    loop {
        let arrival = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await.0, permit)
        };
        let (stream, permit) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            arrived = arrival => arrived,
        };
        let is_important = server
            .reserved_for
            .is_some_and(|reserved| reserved.is_for(&stream));
        let client = loop {
            match clients.admit(is_important) {
                Admission::Accepted(client) => break Some(client),
                Admission::Full => break None,
                Admission::Wait => clock.sleep(RETRY_AFTER).await,
            }
        };
        let Some(client) = client else { continue };
        let connection = serve_connection(stream, Arc::clone(&server), client, stop.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection to its end.
async fn serve_connection<I>(
    stream: I,
    server: Arc<Server<I>>,
    client: Arc<ClientConnection>,
    stop: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let clock = server.clock;
    let extensions = (server.peer_extensions_of)(&stream);
    let socket = TimeoutStream {
        stream,
        client: Arc::clone(&client),
        clock,
        stalled: None,
    };
    let service = service_fn(|request| answer(&server, &client, extensions.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IO_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES.0)
        .max_headers(MAX_HEAD_BYTES.1)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    // Errors of a connection concern only its client.
    tokio::select! {
        _ = &mut connection => {}
        () = client.leave.cancelled() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            while tokio::select! {
                _ = &mut connection => false,
                () = clock.sleep(SHUTDOWN_GRACE) => client.is_served(),
            } {}
        }
    }
    client.end();
}

/// Handles a request once it has arrived completely.
async fn answer<I>(
    server: &Server<I>,
    client: &ClientConnection,
    extensions: PeerExtensions,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if client.is_spare {
        let is_reserved_for = server
            .reserved_for
            .is_some_and(|reserved| reserved.serves(client.is_important, request.uri().path()));
        let mut answer = if is_reserved_for {
            handle(server, client, extensions, request).await
        } else {
            (server.busy)()
        };
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Ok(answer);
    }
    Ok(handle(server, client, extensions, request).await)
}

async fn handle<I>(
    server: &Server<I>,
    client: &ClientConnection,
    extensions: PeerExtensions,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    head.extensions.extend(extensions);
    let max_bytes = (server.max_body_bytes)(&head);
    let Some(Ok(body)) = server.clock.within(IO_TIMEOUT, read(body, max_bytes)).await else {
        let message = "the body of the request did not arrive in time\n";
        return (StatusCode::REQUEST_TIMEOUT, message).into_response();
    };
    let served = Served::begin(client);
    let routes = TowerToHyperService::new(server.routes.clone());
    let Ok(answer) = routes
        .call(Request::from_parts(head, Body::from(body)))
        .await;
    drop(served);
    answer
}

/// Reads a body, at most one byte more of it than is allowed.
async fn read(mut body: Incoming, max_bytes: usize) -> Result<Bytes, hyper::Error> {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        read += data.len();
        kept.extend_from_slice(&data[..data.len().min(max_bytes + 1 - kept.len())]);
        if read > max_bytes + MAX_DISCARDED {
            break;
        }
    }
    Ok(kept.into())
}

/// A connection's socket, which fails when its client does not read the response.
struct TimeoutStream<S> {
    stream: S,
    client: Arc<ClientConnection>,
    clock: Clock,
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> TimeoutStream<S> {
    /// Applies the timeout to a write.
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.stalled = None;
            self.client.touch();
            return step;
        }
        let clock = self.clock;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(async move { clock.sleep(IO_TIMEOUT).await }));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimeoutStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.client.set_idle(read.is_pending());
        if read.is_ready() {
            self.client.touch();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimeoutStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.progress(cx, step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.progress(cx, step)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
