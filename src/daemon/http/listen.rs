//! Binds the TCP listeners that the configuration names.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Error of a listener.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on [{table}] listen = \"{address}\"")]
pub struct ListenError {
    table: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds the address that a `table` of the configuration names.
///
/// # Errors
/// [`ListenError`].
pub async fn bind(table: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError {
            table,
            address,
            source,
        })
}
