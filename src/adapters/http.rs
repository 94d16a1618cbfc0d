//! What all requests over HTTP have in common, and every answer: the client, a reason for an absence, when to ask again.
//!
//! Must not send anything. No reason holds an address, which may be a secret as a whole.

use std::error::Error as _;
use std::time::{Duration, UNIX_EPOCH};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, redirect, retry};

use crate::domain::mask::short;
use crate::domain::time::Timestamp;

/// An idle connection is given up before any server would, so that a request never meets one that is closing.
const IDLE: Duration = Duration::from_secs(4);
/// Longest wait for a connection; a request's own limit may be shorter.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// Most header lines of an answer. hyper's own limit of 100 would throw away a token reply behind a proxy that adds many.
const HEADERS: usize = 512;

/// A client that sends what it is given once, to where it is told: no redirect, no retry, no proxy of the environment.
pub(super) fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
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
        .user_agent(concat!("refreshd/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The innermost cause. reqwest's own text holds the URL, and under GET the URL holds secrets.
pub(super) fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    let mut cause: &dyn std::error::Error = match error.source() {
        Some(source) => source,
        None => return "no reason given".to_owned(),
    };
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // It may quote what the server sent, as the names in its certificate.
    short(&cause.to_string())
}

/// `Retry-After`, both forms (RFC 9110 section 10.2.3), from `now`.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => parse_date(value).map(|at| at.until(now)),
    }
}

/// A date as headers have it.
pub(super) fn parse_date(text: &str) -> Option<Timestamp> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_secs(i64::try_from(since.as_secs()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = Timestamp::from_secs(784_111_777);
        let read = |value: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now)
                .map(|span| span.as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(read("soon"), None);
    }
}
