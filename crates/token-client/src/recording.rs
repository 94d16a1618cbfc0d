//! Connections of token requests that record the received bytes since the request: if the HTTP library rejects a
//! response, its bytes are still available.
//!
//! Must not parse a response: [`crate::raw_http`] does. A recording may contain tokens and must not be shown.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::Uri;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use refreshd_http::{
    BoxError, CONNECT_TIMEOUT, Connector, IDLE_TIMEOUT, MAX_HEADERS, Network, TlsError,
    https_connector,
};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::body_decoding::MAX_BODY_BYTES;
use refreshd_time::clock::Clock;

/// Maximum number of recorded bytes of a response: its head and its body.
const MAX_RECORDED_BYTES: usize = MAX_BODY_BYTES + (256 << 10);
/// Maximum number of bytes of one read.
const READ_BYTES: usize = 8 << 10;

/// A client for token requests: as [`refreshd_http::client`], with access to the received bytes if they are not valid
/// HTTP.
pub(super) fn token_client(
    network: &Arc<Network>,
) -> Result<Client<RecordingConnector, reqwest::Body>, TlsError> {
    let connector = RecordingConnector(https_connector(network)?);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http1_max_headers(MAX_HEADERS)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .build(connector))
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Connects, through a proxy if there is one, and with TLS for `https`, all within [`CONNECT_TIMEOUT`].
#[derive(Clone)]
pub(super) struct RecordingConnector(pub(super) HttpsConnector<Connector>);

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
            match Clock::system().within(CONNECT_TIMEOUT, connecting).await {
                Some(stream) => Ok(RecordingStream(Recorder::of(stream?))),
                None => Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long").into()),
            }
        })
    }
}

/// A connection as the HTTP library sees it.
pub(super) struct RecordingStream(Recorder);

/// Recorded bytes of a connection since the last request, and the connection itself.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Mutex<RecordedBytes>>);

struct RecordedBytes {
    stream: Stream,
    /// Bytes since the last write that followed a read.
    received: Vec<u8>,
    /// True if bytes were received after the last write.
    answered: bool,
    /// True while a response is expected. The connection is not shut down then, so that the rest of a malformed one can
    /// be read.
    awaited: bool,
    /// True if the recorder reads itself, instead of the HTTP library.
    taken: bool,
    /// True if a read failed: the received bytes are incomplete, whatever a later read returns.
    broken: bool,
    /// Waker of the HTTP library's reading task.
    reader: Option<Waker>,
}

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadResult {
    /// Bytes were received.
    More,
    /// The server closed the connection in order.
    Closed,
    /// The connection failed, or [`MAX_RECORDED_BYTES`] is reached: data may be missing.
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

    /// Bytes received since the request was sent.
    pub(super) fn received(&self) -> Vec<u8> {
        self.lock().received.clone()
    }

    /// Marks the response as read: the connection may be reused.
    pub(super) fn is_read(&self) {
        let mut recorded = self.lock();
        recorded.awaited = false;
        recorded.received = Vec::new();
    }

    /// Applies `inspect` to the received bytes.
    pub(super) fn with_received<T>(&self, inspect: impl FnOnce(&[u8]) -> T) -> T {
        inspect(&self.lock().received)
    }

    /// Takes the connection from the HTTP library permanently.
    pub(super) fn take(&self) {
        let mut recorded = self.lock();
        recorded.taken = true;
        if let Some(reader) = recorded.reader.take() {
            reader.wake();
        }
    }

    /// Reads more of the response.
    pub(super) async fn more(&self) -> ReadResult {
        poll_fn(|context| {
            let recorded = &mut *self.lock();
            if recorded.received.len() >= MAX_RECORDED_BYTES {
                return Poll::Ready(ReadResult::Broken);
            }
            let mut piece = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut piece);
            Pin::new(&mut recorded.stream)
                .poll_read(context, buffer.unfilled())
                .map(|read| {
                    recorded.received.extend_from_slice(buffer.filled());
                    recorded.broken |= read.is_err();
                    match buffer.filled() {
                        _ if recorded.broken => ReadResult::Broken,
                        [] => ReadResult::Closed,
                        _ => ReadResult::More,
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
        let mut piece = [0; READ_BYTES];
        let room = cursor.remaining().min(READ_BYTES);
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
