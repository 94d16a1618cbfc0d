//! Connects over TCP, directly or through a proxy (CONNECT or SOCKS 5). TLS to the origin lies above it.
//!
//! Must not log. Nothing of a request has left when connecting fails, so each failure here means "not sent".

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::network::{Network, Proxy};
use crate::{CONNECT_TIMEOUT, innermost};

/// Error of a connection.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Stream = TokioIo<TcpStream>;

/// Wait for the first address family before the other one is tried too (RFC 8305).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

/// Length of the start of a response that contains its status.
const STATUS_LINE: usize = 16;

/// Connects according to a [`Network`].
#[derive(Clone)]
pub struct Connector {
    tcp: HttpConnector,
    network: Arc<Network>,
}

impl Connector {
    /// A connector of this network.
    #[must_use]
    pub fn new(network: Arc<Network>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
        Self { tcp, network }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, origin: Uri) -> Self::Future {
        let proxy = self.network.proxy_to(origin.host().unwrap_or_default());
        let Some(proxy) = proxy.map(Arc::clone) else {
            let connecting = self.tcp.call(origin);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let reaching = self.tcp.call(proxy.intercept().uri().clone());
        Box::pin(async move {
            let reached = reaching.await.map_err(|error| {
                io::Error::other(format!(
                    "the proxy cannot be reached: {}",
                    innermost(&error)
                ))
            })?;
            through(&proxy, reached, with_port(origin)?).await
        })
    }
}

/// Has the proxy connect to the origin.
async fn through(proxy: &Proxy, reached: Stream, origin: Uri) -> Result<Stream, BoxError> {
    let intercept = proxy.intercept();
    if proxy.is_socks() {
        let socks = SocksV5::new(intercept.uri().clone(), Reached(Some(reached)));
        let mut socks = match intercept.raw_auth() {
            Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
            None => socks,
        };
        return socks.call(origin).await.map_err(|error| {
            io::Error::other(format!("the proxy does not connect: {error}")).into()
        });
    }
    let (peeked, start) = Peeked::new(reached);
    let tunnel = Tunnel::new(intercept.uri().clone(), peeked);
    let mut tunnel = match intercept.basic_auth() {
        Some(login) => tunnel.with_auth(login.clone()),
        None => tunnel,
    };
    match tunnel.call(origin).await {
        Ok(peeked) => Ok(peeked.stream),
        Err(error) => Err(match status(&start) {
            // 407 has an error of its own.
            Some(status) if !(200..300).contains(&status) && status != 407 => {
                io::Error::other(format!("the proxy refuses to connect (status {status})")).into()
            }
            _ => error.into(),
        }),
    }
}

/// The libraries take 443 for the port of any URL without one.
fn with_port(origin: Uri) -> Result<Uri, BoxError> {
    if origin.port().is_some() || origin.scheme_str() != Some("http") {
        return Ok(origin);
    }
    let host = origin.host().unwrap_or_default();
    Ok(Uri::builder()
        .scheme("http")
        .authority(format!("{host}:80"))
        .path_and_query("/")
        .build()?)
}

/// Connects to the proxy for the libraries: returns the connection that exists already.
struct Reached<S>(Option<S>);

impl<S> Service<Uri> for Reached<S> {
    type Response = S;
    type Error = io::Error;
    type Future = Ready<io::Result<S>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or(io::ErrorKind::NotConnected.into()))
    }
}

/// Start of a proxy's response.
type ResponseStart = Arc<Mutex<Vec<u8>>>;

/// A connection that records the start of the proxy's response: the library's error does not contain the status.
struct Peeked {
    stream: Stream,
    start: ResponseStart,
}

impl Peeked {
    fn new(stream: Stream) -> (Reached<Self>, ResponseStart) {
        let start = ResponseStart::default();
        let peeked = Self {
            stream,
            start: Arc::clone(&start),
        };
        (Reached(Some(peeked)), start)
    }
}

/// Status of a response that starts like this.
fn status(start: &ResponseStart) -> Option<u16> {
    let start = start.lock().unwrap_or_else(PoisonError::into_inner);
    let line = start.strip_prefix(b"HTTP/1.")?.get(1..5)?;
    std::str::from_utf8(line.strip_prefix(b" ")?)
        .ok()?
        .parse()
        .ok()
}

impl Read for Peeked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut piece = [0; 1024];
        let room = cursor.remaining().min(piece.len());
        let mut buffer = ReadBuf::new(&mut piece[..room]);
        let read = Pin::new(&mut self.stream).poll_read(context, buffer.unfilled());
        let new = buffer.filled();
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let left = STATUS_LINE.saturating_sub(start.len());
        start.extend_from_slice(&new[..new.len().min(left)]);
        drop(start);
        cursor.put_slice(new);
        read
    }
}

impl Write for Peeked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_a_response() {
        for (start, expected) in [
            ("HTTP/1.1 403 Forbidden", Some(403)),
            ("HTTP/1.0 502", Some(502)),
            ("HTTP/1.1 4", None),
            ("HTTP/2 403", None),
            ("", None),
        ] {
            assert_eq!(
                status(&Arc::new(Mutex::new(start.into()))),
                expected,
                "{start}"
            );
        }
    }
}
