//! Faults during transmission: bodies that stop, drip or grow, and sockets that are reset.
//!
//! Must not decide on a response. Reports to the authority when a reply was sent, or could not be.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::handle::FakeServer;
use super::response::{DeliveryFault, End, Ticket};
use refreshd_time::clock::Clock;

/// White space is streamed in chunks of this size.
const FILLER: &[u8; 16 * 1024] = &[b' '; 16 * 1024];

/// The connection was closed on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the fake server closed the connection")]
pub(super) struct Cut;

/// State of a connection for the requests on it.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    /// Reply that was counted as written and is not flushed yet.
    unflushed: Mutex<Option<Ticket>>,
    /// True if closing resets the connection.
    pub(super) reset: AtomicBool,
}

impl ConnectionState {
    fn set_unflushed(&self, ticket: Option<Ticket>) -> Option<Ticket> {
        std::mem::replace(
            &mut *self
                .unflushed
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            ticket,
        )
    }
}

/// A request without a response so far; dropping it means that its connection is gone.
pub(super) struct PendingReply {
    sandbox: FakeServer,
    line: Arc<ConnectionState>,
    ticket: Option<Ticket>,
}

impl PendingReply {
    pub(super) fn new(sandbox: FakeServer, line: Arc<ConnectionState>, ticket: Ticket) -> Self {
        Self {
            sandbox,
            line,
            ticket: Some(ticket),
        }
    }

    fn finish(&mut self, end: End) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let now = self.sandbox.clock.now();
        self.sandbox.lock().finish(ticket, end, now);
        if end == End::Written {
            self.line.set_unflushed(Some(ticket));
        }
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        self.finish(End::Gone);
    }
}

/// Body of a reply.
pub(super) struct FaultyBody {
    shape: Shape,
    pending: Option<PendingReply>,
}

enum Shape {
    Whole(Bytes),
    /// Part that is sent, and the length that is announced.
    Cut {
        part: Bytes,
        announced: u64,
        flushed: bool,
    },
    Drip {
        rest: Bytes,
        sandbox: FakeServer,
        every: Duration,
        pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    },
    Huge {
        filler: u64,
        rest: Bytes,
    },
}

impl FaultyBody {
    /// A body without a fault.
    pub(super) fn whole(body: Vec<u8>, mut pending: Option<PendingReply>) -> Self {
        if body.is_empty()
            && let Some(pending) = &mut pending
        {
            pending.finish(End::Written);
        }
        Self {
            shape: Shape::Whole(body.into()),
            pending,
        }
    }

    /// A body that is sent as `delivery` specifies.
    pub(super) fn new(
        body: Vec<u8>,
        delivery: DeliveryFault,
        sandbox: &FakeServer,
        pending: PendingReply,
    ) -> Self {
        let shape = match delivery {
            DeliveryFault::Truncated(after) => {
                let announced = body.len() as u64;
                let part = Bytes::from(body).slice(..after);
                Shape::Cut {
                    part,
                    announced,
                    flushed: false,
                }
            }
            DeliveryFault::Drip(every) => Shape::Drip {
                rest: body.into(),
                sandbox: sandbox.clone(),
                every,
                pause: None,
            },
            DeliveryFault::Huge(filler) => Shape::Huge {
                filler,
                rest: body.into(),
            },
            DeliveryFault::Whole
            | DeliveryFault::Closed
            | DeliveryFault::Reset
            | DeliveryFault::Never => {
                return Self::whole(body, Some(pending));
            }
        };
        Self {
            shape,
            pending: Some(pending),
        }
    }
}

impl Body for FaultyBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let piece = match &mut self.shape {
            Shape::Whole(rest) => std::mem::take(rest),
            Shape::Cut { part, .. } if !part.is_empty() => std::mem::take(part),
            Shape::Cut { flushed: true, .. } => return Poll::Ready(Some(Err(Cut))),
            Shape::Cut { flushed, .. } => {
                // A body that waits is flushed, so that the part is sent before the connection ends.
                *flushed = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Shape::Drip {
                rest,
                sandbox,
                every,
                pause,
            } => {
                if !rest.is_empty() {
                    let span = *every;
                    let waiting = pause.get_or_insert_with(|| {
                        let clock = sandbox.clock;
                        Box::pin(async move { wait_for(clock, span).await })
                    });
                    ready!(waiting.as_mut().poll(cx));
                    *pause = None;
                }
                rest.split_to(rest.len().min(1))
            }
            Shape::Huge { filler: 0, rest } => std::mem::take(rest),
            Shape::Huge { filler, .. } => {
                let size = (*filler).min(FILLER.len() as u64);
                *filler -= size;
                Bytes::from_static(FILLER).slice(..size as usize)
            }
        };
        if self.is_end_stream()
            && let Some(pending) = &mut self.pending
        {
            pending.finish(End::Written);
        }
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.shape {
            Shape::Whole(rest) | Shape::Drip { rest, .. } | Shape::Huge { filler: 0, rest } => {
                rest.is_empty()
            }
            Shape::Cut { .. } | Shape::Huge { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.shape {
            Shape::Whole(rest) | Shape::Drip { rest, .. } => {
                SizeHint::with_exact(rest.len() as u64)
            }
            Shape::Cut { announced, .. } => SizeHint::with_exact(*announced),
            Shape::Huge { .. } => SizeHint::default(),
        }
    }
}

/// Socket of a connection.
pub(super) struct FaultyStream {
    stream: TcpStream,
    line: Arc<ConnectionState>,
    sandbox: FakeServer,
}

impl FaultyStream {
    pub(super) fn new(stream: TcpStream, line: Arc<ConnectionState>, sandbox: FakeServer) -> Self {
        Self {
            stream,
            line,
            sandbox,
        }
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        if self.line.reset.load(Ordering::Relaxed) {
            // A socket that is gone cannot be reset.
            let _ = self.stream.set_zero_linger();
        }
        if let Some(ticket) = self.line.set_unflushed(None) {
            self.sandbox.lock().unwritten(ticket);
        }
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called after all buffered data was written: the reply has been sent.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.line.set_unflushed(None);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sleeps the whole time; the clock's own sleep is capped.
pub(super) async fn wait_for(clock: Clock, span: Duration) {
    let began = clock.tick();
    loop {
        let left = span.saturating_sub(clock.elapsed(began));
        if left.is_zero() {
            return;
        }
        clock.sleep(left).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::authority_tests::{APP, Bench, refresh, renewal};
    use crate::{ReceivedTokenRequest, Rules};
    use refreshd_time::clock::Clock;

    #[tokio::test]
    async fn a_reply_counts_as_delivered_once_it_is_flushed_and_not_if_the_socket_ends_before() {
        for flushed in [true, false] {
            let sandbox = FakeServer::new(Clock::system(), Rules::default());
            *sandbox.lock() = Bench::new(Rules::default()).authority;
            let form = renewal(&refresh(&sandbox.install("acme.bitrix24.com", APP)));
            let content_type = Some("application/x-www-form-urlencoded");
            let request = ReceivedTokenRequest {
                method: "POST",
                content_type,
                query: "",
                body: form.as_bytes(),
            };
            let ticket = sandbox.lock().token(&request, sandbox.clock.now()).ticket;

            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let line = Arc::new(ConnectionState::default());
            let mut wire = FaultyStream::new(stream, line.clone(), sandbox.clone());
            PendingReply::new(sandbox.clone(), line, ticket).finish(End::Written);
            let delivered = || sandbox.lock().ledger.grants[0].spent(0).unwrap().delivered;
            assert!(delivered(), "before the client can be quicker");
            if flushed {
                wire.flush().await.unwrap();
            }
            drop(wire);
            assert_eq!(delivered(), flushed);
        }
    }
}
