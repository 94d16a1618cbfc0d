//! Connections of token requests, which keep what they received since the request was sent: where the HTTP library gives up on an
//! answer, its bytes are still there.
//!
//! Must not read an answer: `domain::raw_http` does. What is recorded may hold tokens, and is shown to nobody.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::Uri;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use refreshd_http::{CONNECT, HEADERS, IDLE};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::body_decoding::LARGEST;
use refreshd_time::clock::Clock;

/// Most bytes that are recorded of one answer: its head and its body.
const MAX_RECORDED_BYTES: usize = LARGEST + (256 << 10);
/// Most bytes of one read.
const PIECE: usize = 8 << 10;

/// A client for token requests: as [`refreshd_http::client`], but what a connection received can be had where it is no HTTP.
pub(super) fn token_client(tls: ClientConfig) -> Client<RecordingConnector, reqwest::Body> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    let connector = RecordingConnector(https.enable_http1().wrap_connector(tcp));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_headers(HEADERS)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .build(connector)
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects over TCP, and TLS for `https`, within [`CONNECT`].
#[derive(Clone)]
pub(super) struct RecordingConnector(pub(super) HttpsConnector<HttpConnector>);

impl Service<Uri> for RecordingConnector {
    type Response = RecordingStream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<RecordingStream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match Clock::system().within(CONNECT, connecting).await {
                Some(stream) => Ok(RecordingStream(Recorder::of(stream?))),
                None => Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long").into()),
            }
        })
    }
}

/// A connection as the HTTP library has it.
pub(super) struct RecordingStream(Recorder);

/// What a connection received since the last request was sent, and the connection itself.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Mutex<RecordedBytes>>);

struct RecordedBytes {
    stream: Stream,
    /// Since the last write after a read.
    received: Vec<u8>,
    /// Whether something was received after the last write.
    answered: bool,
    /// Whether an answer is awaited: the connection is not shut down then, so that the rest of a broken one can be read.
    awaited: bool,
    /// Whether the recorder reads by itself, and the HTTP library no longer.
    taken: bool,
    /// Whether reading failed: what came before is not all that was sent, whatever a later read says.
    broken: bool,
    /// Who of the HTTP library waits for something to read.
    reader: Option<Waker>,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOn {
    /// Bytes.
    More,
    /// The end: the server closed the connection in order.
    Closed,
    /// No more, and perhaps not all: the connection broke, or [`MAX_RECORDED_BYTES`] is reached.
    Broken,
}

impl Recorder {
    fn of(stream: Stream) -> Self {
        let recorded = RecordedBytes {
            stream,
            received: Vec::new(),
            answered: false,
            awaited: false,
            taken: false,
            broken: false,
            reader: None,
        };
        Self(Arc::new(Mutex::new(recorded)))
    }

    fn lock(&self) -> MutexGuard<'_, RecordedBytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was received since the request was sent.
    pub(super) fn received(&self) -> Vec<u8> {
        self.lock().received.clone()
    }

    /// The answer was read: the connection may carry the next request.
    pub(super) fn is_read(&self) {
        let mut recorded = self.lock();
        recorded.awaited = false;
        recorded.received = Vec::new();
    }

    /// How many bytes were received, and how many of them are a head.
    pub(super) fn with_received<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.lock().received)
    }

    /// Takes the connection from the HTTP library, for good.
    pub(super) fn take(&self) {
        let mut recorded = self.lock();
        recorded.taken = true;
        if let Some(reader) = recorded.reader.take() {
            reader.wake();
        }
    }

    /// Reads more of the answer.
    pub(super) async fn more(&self) -> ReadOn {
        poll_fn(|context| {
            let recorded = &mut *self.lock();
            if recorded.received.len() >= MAX_RECORDED_BYTES {
                return Poll::Ready(ReadOn::Broken);
            }
            let mut piece = [0; PIECE];
            let mut buffer = ReadBuf::new(&mut piece);
            Pin::new(&mut recorded.stream)
                .poll_read(context, buffer.unfilled())
                .map(|read| {
                    recorded.received.extend_from_slice(buffer.filled());
                    recorded.broken |= read.is_err();
                    match buffer.filled() {
                        _ if recorded.broken => ReadOn::Broken,
                        [] => ReadOn::Closed,
                        _ => ReadOn::More,
                    }
                })
        })
        .await
    }
}

impl RecordedBytes {
    fn sent(&mut self, written: &Poll<io::Result<usize>>) {
        if !matches!(written, Poll::Ready(Ok(_))) {
            return;
        }
        if std::mem::take(&mut self.answered) || !self.awaited {
            self.received = Vec::new();
        }
        self.awaited = true;
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        if self.taken {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection is not used again",
            ));
        }
        Ok(Pin::new(&mut self.stream))
    }
}

impl Read for RecordingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let recorded = &mut *self.0.lock();
        let mut piece = [0; PIECE];
        let room = cursor.remaining().min(PIECE);
        let mut buffer = ReadBuf::new(&mut piece[..room]);
        let read = recorded.stream()?.poll_read(context, buffer.unfilled());
        match &read {
            Poll::Pending => recorded.reader = Some(context.waker().clone()),
            Poll::Ready(outcome) => {
                recorded.broken |= outcome.is_err();
                let new = buffer.filled();
                let left = MAX_RECORDED_BYTES.saturating_sub(recorded.received.len());
                recorded
                    .received
                    .extend_from_slice(&new[..new.len().min(left)]);
                recorded.answered |= !new.is_empty();
                cursor.put_slice(new);
            }
        }
        read
    }
}

impl Write for RecordingStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let recorded = &mut *self.0.lock();
        let written = recorded.stream()?.poll_write(context, bytes);
        recorded.sent(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().stream()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let recorded = &mut *self.0.lock();
        if recorded.awaited || recorded.taken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut recorded.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let recorded = &mut *self.0.lock();
        let written = recorded.stream()?.poll_write_vectored(context, slices);
        recorded.sent(&written);
        written
    }
}

impl Connection for RecordingStream {
    fn connected(&self) -> Connected {
        let recorder = self.0.clone();
        self.0.lock().stream.connected().extra(recorder)
    }
}
