//! Settings and helpers that all HTTP requests share: networks and their clients, error causes, `Retry-After`.
//!
//! Must not send anything. No error text contains an address, which may be a secret as a whole.

mod connector;
mod network;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, redirect, retry};

pub use self::connector::{BoxError, Connector};
pub use self::network::{
    Authorities, AuthoritiesError, DirectHostError, DirectHosts, Network, NetworkSettings,
    PerNetwork, Proxy, ProxyAddressError, direct_host,
};
use refreshd_secrets::mask::short;
use refreshd_time::Timestamp;

/// Idle connections are closed before a server would, so that a request never meets a closing one.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum number of header lines of a response. hyper's limit of 100 would reject a token reply behind a proxy that
/// adds many.
pub const MAX_HEADERS: usize = 512;

/// Time limit for connecting; a request's own limit may be shorter.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// User agent of all requests, unless the configuration names another.
pub const USER_AGENT: &str = concat!("refreshd/", env!("CARGO_PKG_VERSION"));

/// Error in setting up TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate authority, or none that is readable.
    #[error(transparent)]
    Verifier(#[from] rustls::Error),
    /// The client cannot be built.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// A client of this network that sends each request once: no redirect, no retry, no proxy of the environment.
///
/// # Errors
/// If TLS cannot be set up, as with no certificate authorities installed.
pub fn client(network: &Arc<Network>) -> Result<Client, TlsError> {
    let builder = Client::builder()
        .tls_backend_preconfigured(network.tls()?)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        // It must precede `proxy`, which it would remove.
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        // One damaged header line must not discard the lines after it.
        .http1_max_headers(MAX_HEADERS)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .user_agent(network.settings().user_agent.clone());
    let builder = if network.settings().proxy.is_some() {
        let network = Arc::clone(network);
        builder.proxy(reqwest::Proxy::custom(move |url| {
            let proxy = network.proxy_to(url.host_str()?)?;
            Some(proxy.address().expose().to_owned())
        }))
    } else {
        builder
    };
    Ok(builder.build()?)
}

/// Connector of this network with TLS for `https`.
///
/// # Errors
/// As for [`client`].
pub fn https_connector(network: &Arc<Network>) -> Result<HttpsConnector<Connector>, TlsError> {
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(network.tls()?)
        .https_or_http();
    Ok(builder
        .enable_http1()
        .wrap_connector(Connector::new(Arc::clone(network))))
}

/// The innermost cause. reqwest's own text contains the URL, which contains secrets in GET requests.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    match error.source() {
        Some(source) => innermost(source),
        None => "no reason given".to_owned(),
    }
}

/// The innermost cause of an error, masked.
pub fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // It may quote the server, such as the names in its certificate.
    short(&explained(cause.to_string()))
}

/// Replaces texts of libraries for errors that an operator can correct; their error types are private.
#[must_use]
pub fn explained(cause: String) -> String {
    match cause.as_str() {
        "tunnel error: proxy authorization required" => {
            "the proxy requires a user and a password, or rejects the configured ones (status 407)".to_owned()
        }
        "tunnel error: unsuccessful" => "the proxy refuses to connect".to_owned(),
        "tunnel error: unexpected end of file" => {
            "the proxy closed the connection before it had connected".to_owned()
        }
        // https://docs.rs/rustls/latest/rustls/enum.CertificateError.html
        text if text.contains("UnknownIssuer") => {
            "its certificate was issued by an untrusted authority (UnknownIssuer); configure a private authority with `ca_file`"
                .to_owned()
        }
        _ => cause,
    }
}

/// Delay in `Retry-After`, in both forms (RFC 9110 section 10.2.3), relative to `now`.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => parse_date(value).map(|at| at.until(now)),
    }
}

/// Parses a date in a header.
pub fn parse_date(text: &str) -> Option<Timestamp> {
    let since = httpdate::parse_http_date(text)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    Some(Timestamp::from_secs(i64::try_from(since.as_secs()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = Timestamp::from_secs(784_111_777);
        let read = |value: &'static str| {
            retry_after(
                &HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]),
                now,
            )
            .map(|span| span.as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(read("soon"), None);
    }
}
