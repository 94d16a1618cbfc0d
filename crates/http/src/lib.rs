//! Settings and helpers that all HTTP requests share: client, error causes, `Retry-After`.
//!
//! Must not send anything. No error text contains an address, which may be a secret as a whole.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hyper_rustls::ConfigBuilderExt as _;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, redirect, retry};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

use refreshd_secrets::mask::short;
use refreshd_time::Timestamp;

/// Idle connections are closed before a server would, so that a request never meets a closing one.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum number of header lines of a response. hyper's limit of 100 would reject a token reply behind a proxy that
/// adds many.
pub const MAX_HEADERS: usize = 512;

/// Time limit for connecting; a request's own limit may be shorter.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// User agent of all requests.
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

/// TLS configuration that trusts the system's certificate authorities, or those of `SSL_CERT_FILE`.
pub fn tls() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.try_with_platform_verifier()?.with_no_client_auth())
}

/// A client that sends each request once: no redirect, no retry, no proxy of the environment.
pub fn client(tls: ClientConfig) -> Result<Client, TlsError> {
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        // One damaged header line must not discard the lines after it.
        .http1_max_headers(MAX_HEADERS)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .user_agent(USER_AGENT)
        .build()?)
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
    short(&cause.to_string())
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
