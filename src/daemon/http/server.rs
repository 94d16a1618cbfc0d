//! HTTP for clients who may be slow, many or hostile: bounded in connections, memory and time, and nobody waits for another.
//!
//! A client is given [`IO_TIMEOUT`] for a request, and for each step of taking its answer. Where every place is taken, the
//! client that has been silent longest gives up its own; one whose request is being carried out never does. Where all are
//! being served, there are spare places ([`Kept`]). Must not know what is served.

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

/// How long a request may take to arrive, a connection to stay idle, and an answer to make no progress.
pub(crate) const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// After the daemon was told to stop, clients who are not being served have this long to take their answers.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// The longest head of a request, in bytes and in lines.
const MAX_HEAD_BYTES: (usize, usize) = (16 * 1024, 64);
/// A body that is too long is read and thrown away up to here, so that its sender gets to see the answer.
const MAX_DISCARDED: usize = 1024 * 1024;

/// Told to whoever finds every place taken.
pub(crate) fn busy() -> Response<Body> {
    let message =
        "refreshd is busy: every place of this listener is taken; try again in a moment\n";
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, "1")],
        message,
    )
        .into_response()
}

/// What a listener serves.
pub(crate) struct Server<I> {
    /// What answers.
    pub(crate) routes: Router,
    /// The most connections at a time.
    pub(crate) places: ConnectionLimits,
    /// What the spare places are for.
    pub(crate) kept: Option<Kept<I>>,
    /// The longest body of a request that the routes get to see, in bytes; they are handed one byte more of a longer one.
    pub(crate) longest_body: fn(&Parts) -> usize,
    /// What the routes are told of who is at the other end, as an extension of the request.
    pub(crate) peer_extensions_of: fn(&I) -> PeerExtensions,
    /// What is answered in a spare place to whoever it is not kept for.
    pub(crate) busy: fn() -> Response<Body>,
    /// For time limits.
    pub(crate) clock: Clock,
}

/// What is served in a spare place.
pub(crate) enum Kept<I> {
    /// Requests of these clients.
    ClientConnections(fn(&I) -> bool),
    /// Requests for these paths, whoever makes them.
    Paths(&'static [&'static str]),
}

impl<I> Clone for Kept<I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I> Copy for Kept<I> {}

impl<I> Kept<I> {
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
    house: Server<L::Io>,
    stop: CancellationToken,
) {
    let (clock, places) = (house.clock, house.places);
    let house = Arc::new(house);
    let mut clients = ClientConnections::new(clock, places);
    let mut connections = JoinSet::new();
    // One descriptor more than there are places: whoever was disconnected has it until the connection is closed.
    let seats = Arc::new(Semaphore::new(places.open + places.spare + 1));
    loop {
        let arrival = async {
            let seat = Arc::clone(&seats).acquire_owned().await;
            (listener.accept().await.0, seat)
        };
        let (stream, seat) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            arrived = arrival => arrived,
        };
        let is_important = house.kept.is_some_and(|kept| kept.is_for(&stream));
        let client = loop {
            match clients.admit(is_important) {
                Admission::In(client) => break Some(client),
                Admission::Full => break None,
                Admission::Wait => clock.sleep(RETRY_AFTER).await,
            }
        };
        let Some(client) = client else { continue };
        let attended = serve_connection(stream, Arc::clone(&house), client, stop.clone());
        connections.spawn(async move {
            attended.await;
            drop(seat);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection to its end.
async fn serve_connection<I>(
    stream: I,
    house: Arc<Server<I>>,
    client: Arc<ClientConnection>,
    stop: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let clock = house.clock;
    let introduction = (house.peer_extensions_of)(&stream);
    let wire = TimeoutStream {
        stream,
        client: Arc::clone(&client),
        clock,
        stalled: None,
    };
    let service = service_fn(|request| answer(&house, &client, introduction.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IO_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES.0)
        .max_headers(MAX_HEAD_BYTES.1)
        .serve_connection(TokioIo::new(wire), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is its client's business.
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
    client.go();
}

/// Has a request answered once it is there as a whole.
async fn answer<I>(
    house: &Server<I>,
    client: &ClientConnection,
    introduction: PeerExtensions,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if client.is_spare {
        let is_kept_for = house
            .kept
            .is_some_and(|kept| kept.serves(client.is_important, request.uri().path()));
        let mut answer = if is_kept_for {
            carry_out(house, client, introduction, request).await
        } else {
            (house.busy)()
        };
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Ok(answer);
    }
    Ok(carry_out(house, client, introduction, request).await)
}

async fn carry_out<I>(
    house: &Server<I>,
    client: &ClientConnection,
    introduction: PeerExtensions,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    head.extensions.extend(introduction);
    let longest = (house.longest_body)(&head);
    let Some(Ok(body)) = house.clock.within(IO_TIMEOUT, read(body, longest)).await else {
        let message = "the body of the request did not arrive in time\n";
        return (StatusCode::REQUEST_TIMEOUT, message).into_response();
    };
    let served = Served::begin(client);
    let routes = TowerToHyperService::new(house.routes.clone());
    let Ok(answer) = routes
        .call(Request::from_parts(head, Body::from(body)))
        .await;
    drop(served);
    answer
}

/// Reads a body, at most one byte more of it than is allowed.
async fn read(mut body: Incoming, longest: usize) -> Result<Bytes, hyper::Error> {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        read += data.len();
        kept.extend_from_slice(&data[..data.len().min(longest + 1 - kept.len())]);
        if read > longest + MAX_DISCARDED {
            break;
        }
    }
    Ok(kept.into())
}

/// A connection's socket, which breaks when its client does not take what it asked for.
struct TimeoutStream<S> {
    stream: S,
    client: Arc<ClientConnection>,
    clock: Clock,
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> TimeoutStream<S> {
    /// Watches over the progress of a write.
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.stalled = None;
            self.client.hear();
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
        self.client.wait(read.is_pending());
        if read.is_ready() {
            self.client.hear();
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
