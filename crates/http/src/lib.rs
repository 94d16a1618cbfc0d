//! What all requests over HTTP have in common, and every answer: the client, a reason for an absence, when to ask again.
//!
//! Must not send anything. No reason holds an address, which may be a secret as a whole.

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

/// An idle connection is given up before any server would, so that a request never meets one that is closing.
pub const IDLE: Duration = Duration::from_secs(4);

/// Most header lines of an answer. hyper's own limit of 100 would throw away a token reply behind a proxy that adds many.
pub const HEADERS: usize = 512;

/// Longest wait for a connection; a request's own limit may be shorter.
pub const CONNECT: Duration = Duration::from_secs(10);

/// How this program names itself to servers.
pub const USER_AGENT: &str = concat!("refreshd/", env!("CARGO_PKG_VERSION"));

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate authority, or none that can be read.
    #[error(transparent)]
    Verifier(#[from] rustls::Error),
    /// The client cannot be made.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// TLS that trusts the system's certificate authorities, or those of `SSL_CERT_FILE`.
pub fn tls() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.try_with_platform_verifier()?.with_no_client_auth())
}

/// A client that sends what it is given once, to where it is told: no redirect, no retry, no proxy of the environment.
pub fn client(tls: ClientConfig) -> Result<Client, TlsError> {
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        // A header line that is damaged must not cost what follows it.
        .http1_max_headers(HEADERS)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .user_agent(USER_AGENT)
        .build()?)
}

/// The innermost cause. reqwest's own text holds the URL, and under GET the URL holds secrets.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    match error.source() {
        Some(source) => innermost(source),
        None => "no reason given".to_owned(),
    }
}

/// The innermost cause of an error.
pub fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // It may quote what the server sent, as the names in its certificate.
    short(&cause.to_string())
}

/// `Retry-After`, both forms (RFC 9110 section 10.2.3), from `now`.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => parse_date(value).map(|at| at.until(now)),
    }
}

/// A date as headers have it.
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
