//! HTTP client of the channels: sends a request and returns the beginning of the response, masked.
//!
//! Must not follow redirects or retry, nor interpret a response beyond what all receivers have in common. An address is a secret: no error contains it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, Url};

use crate::channel::Delivery;
use refreshd_http::{Network, PerNetwork, TlsError, cause, client, innermost, retry_after};
use refreshd_secrets::ChannelSecret;
use refreshd_secrets::mask::mask_answer;
use refreshd_time::Timestamp;

/// Maximum number of bytes read of a response.
const MAX_RESPONSE_BYTES: usize = 4096;
/// Shorter parts of an address may be parts of ordinary words and are not masked.
const MIN_MASKED_PART: usize = 6;

/// HTTP client. Cheap to clone.
#[derive(Clone)]
pub(super) struct HttpSender {
    network: Arc<Network>,
    clients: PerNetwork<Client>,
}

pub(super) struct ChannelRequest<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) authorization: Option<&'a ChannelSecret>,
    pub(super) content_type: &'a str,
    pub(super) body: Vec<u8>,
    /// A secret to mask besides the address and the authorization.
    pub(super) secret: Option<&'a ChannelSecret>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChannelResponse {
    pub(super) status: u16,
    /// Beginning of the body, unmasked: only for inspection.
    pub(super) body: String,
    /// Beginning of the body, masked, for output.
    pub(super) shown: String,
    pub(super) retry_after: Option<Duration>,
}

/// Address in a channel's secret. It was checked when the configuration was read.
pub(super) fn address(url: &ChannelSecret) -> Result<Url, Delivery> {
    Url::parse(url.expose()).map_err(|_| failed("the channel's address is no URL"))
}

/// Appends a path to an address, which may end with a slash and have a query.
pub(super) fn below(mut url: Url, path: &str) -> Url {
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}{path}"));
    url
}

/// A failure that is retried.
pub(super) fn failed(why: impl Into<String>) -> Delivery {
    Delivery::Failed {
        why: why.into(),
        retry_after: None,
    }
}

impl HttpSender {
    pub(super) fn new(network: Arc<Network>) -> Result<Self, TlsError> {
        let sender = Self {
            network,
            clients: PerNetwork::default(),
        };
        sender.clients.get(&sender.network, client)?;
        Ok(sender)
    }

    /// The same client over another network.
    pub(super) fn over(&self, network: &Arc<Network>) -> Self {
        Self {
            network: Arc::clone(network),
            ..self.clone()
        }
    }

    /// Posts JSON.
    pub(super) async fn post_json(
        &self,
        url: Url,
        secret: Option<&ChannelSecret>,
        body: &serde_json::Value,
        now: Timestamp,
    ) -> Result<ChannelResponse, Delivery> {
        let (method, content_type) = (Method::POST, "application/json");
        let body = body.to_string().into_bytes();
        self.send(
            ChannelRequest {
                method,
                url,
                authorization: None,
                content_type,
                body,
                secret,
            },
            now,
        )
        .await
    }

    /// Sends a request and reads the beginning of the response.
    pub(super) async fn send(
        &self,
        request: ChannelRequest<'_>,
        now: Timestamp,
    ) -> Result<ChannelResponse, Delivery> {
        let ChannelRequest {
            method,
            url,
            authorization,
            content_type,
            body,
            secret,
        } = request;
        let (mut secrets, whole) = secrets(&url, authorization, secret);
        // A plain request is the proxy's to read and to answer.
        let proxy = self.network.proxy_to(url.host_str().unwrap_or_default());
        let of_proxy = proxy.into_iter().flat_map(|proxy| proxy.secrets());
        secrets.extend(of_proxy.map(str::to_owned));
        let shown = |text: &str| masked(text, &secrets, &whole);
        let way = self.network.way_to(url.as_str());
        let client = self
            .clients
            .get(&self.network, client)
            .map_err(|error| failed(format!("cannot set up TLS: {}", innermost(&error))))?;
        let mut builder = client.request(method, url);
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization.expose())
                .map_err(|_| failed("the channel's authorization cannot be sent in a header"))?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        if !body.is_empty() {
            builder = builder.header(CONTENT_TYPE, content_type).body(body);
        }
        let mut response = builder
            .send()
            .await
            .map_err(|error| failed(shown(&why(&error, &way))))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers(), now);
        let mut body = Vec::new();
        // The status is enough; a truncated body does not matter.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_RESPONSE_BYTES - body.len())]);
            if body.len() == MAX_RESPONSE_BYTES {
                break;
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let words = shown(&body);
        let shown = if words.is_empty() {
            format!("status {status}")
        } else {
            format!("status {status}: {words}")
        };
        Ok(ChannelResponse {
            status,
            body,
            shown,
            retry_after,
        })
    }
}

impl ChannelResponse {
    pub(super) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    pub(super) fn delivered(self) -> Delivery {
        Delivery::Delivered(self.shown)
    }

    pub(super) fn rejected(self) -> Delivery {
        Delivery::Rejected(self.shown)
    }

    pub(super) fn failed(self) -> Delivery {
        let why = match self.status {
            300..400 => format!(
                "{}; redirects are not followed: write the address it leads to",
                self.shown
            ),
            _ => self.shown,
        };
        Delivery::Failed {
            why,
            retry_after: self.retry_after,
        }
    }

    /// Default meaning of a status.
    pub(super) fn usual(self) -> Delivery {
        match self.status {
            200..300 => self.delivered(),
            // The receiver does not understand this message, or it is too long.
            400 | 413 | 422 => self.rejected(),
            _ => self.failed(),
        }
    }
}

/// `way` names the proxy, if there is one.
fn why(error: &reqwest::Error, way: &str) -> String {
    if error.is_builder() {
        return "the channel's address cannot be used".to_owned();
    }
    if error.is_connect() {
        return format!("cannot connect{way}: {}", cause(error));
    }
    format!(
        "the connection broke before an answer came: {}",
        cause(error)
    )
}

fn masked(text: &str, secrets: &[String], whole: &[String]) -> String {
    let secrets: Vec<_> = secrets.iter().map(String::as_str).collect();
    let whole: Vec<_> = whole.iter().map(String::as_str).collect();
    mask_answer(text, &secrets, &whole)
}

/// Secrets that a response must not repeat in parts, and those that it must not repeat as a whole. Receivers often
/// quote an unknown path.
fn secrets(
    url: &Url,
    authorization: Option<&ChannelSecret>,
    other: Option<&ChannelSecret>,
) -> (Vec<String>, Vec<String>) {
    let mut whole = vec![
        url.as_str().to_owned(),
        url.as_str().trim_end_matches('/').to_owned(),
    ];
    if url.path().len() > 1 {
        whole.push(url.path().to_owned());
    }
    let mut secrets = Vec::new();
    whole.extend(url.query().map(str::to_owned));
    let query = url.query_pairs().map(|(_, value)| value.into_owned());
    // Also in the spelling of the address, which a receiver may repeat verbatim.
    let written = url.query().into_iter().flat_map(|query| query.split('&'));
    let written = written.map(|pair| {
        pair.split_once('=')
            .map_or(pair, |(_, value)| value)
            .to_owned()
    });
    let segments = url.path_segments().into_iter().flatten().map(str::to_owned);
    let parts = segments
        .chain(query)
        .chain(written)
        .filter(|part| part.len() >= MIN_MASKED_PART);
    // A word of the address such as `services` is no secret; a digit or a capital makes it one.
    secrets.extend(parts.filter(|part| part.contains(|c: char| !c.is_ascii_lowercase())));
    for secret in authorization.into_iter().chain(other) {
        secrets.push(secret.expose().to_owned());
        secrets.extend(
            secret
                .expose()
                .split_whitespace()
                .skip(1)
                .map(str::to_owned),
        );
    }
    (secrets, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> ChannelResponse {
        let (body, shown) = ("no".to_owned(), format!("status {status}: no"));
        ChannelResponse {
            status,
            body,
            shown,
            retry_after: Some(Duration::from_secs(7)),
        }
    }

    #[test]
    fn a_status_means_what_it_usually_does() {
        assert_eq!(
            answer(202).usual(),
            Delivery::Delivered("status 202: no".into())
        );
        for status in [400, 413, 422] {
            assert_eq!(
                answer(status).usual(),
                Delivery::Rejected(format!("status {status}: no"))
            );
        }
        for status in [401, 403, 404, 408, 410, 429, 500, 503] {
            let (why, retry_after) = (format!("status {status}: no"), Some(Duration::from_secs(7)));
            assert_eq!(
                answer(status).usual(),
                Delivery::Failed { why, retry_after }
            );
        }
        let Delivery::Failed { why, .. } = answer(301).usual() else {
            panic!()
        };
        assert!(why.contains("redirects are not followed"), "{why}");
    }

    #[test]
    fn parts_of_an_address_are_secrets_and_its_words_are_not() {
        let url = Url::parse("https://hooks.example.org/services/T0AAAA/xoxbsecret1?key=hunter2x")
            .unwrap();
        let authorization = ChannelSecret::new("Bearer abcdef").unwrap();
        let (secrets, whole) = secrets(&url, Some(&authorization), None);
        let mask = |text: &str| masked(text, &secrets, &whole);
        for part in [
            "T0AAAA",
            "xoxbsecret1",
            "hunter2x",
            "abcdef",
            "/services/T0AAAA/xoxbsecret1",
        ] {
            assert_eq!(mask(&format!("no {part}!")), "no …!", "{part}");
        }
        assert_eq!(mask("no such services"), "no such services");
    }

    #[test]
    fn an_answer_repeats_no_secret_however_it_is_spelt() {
        let url =
            Url::parse("https://hooks.example.org/bot123456:AAbbCC-dd/send?token=q/w%2Be%3Ar%261")
                .unwrap();
        let bot = ChannelSecret::new("123456:AAbbCC-dd").unwrap();
        let (secrets, whole) = secrets(&url, None, Some(&bot));
        for part in [
            "/?token=q/w%2Be%3Ar%261",
            "q%2Fw%2Be%3Ar%261",
            "q/w+e:r&1",
            "/bot123456%3AAAbbCC-dd/",
            "123456\\u003aAAbbCC",
        ] {
            let shown = masked(&format!("no such path {part}"), &secrets, &whole);
            let left = ["w%2B", "w+e", "AAbb", "123456"]
                .iter()
                .any(|part| shown.contains(part));
            assert!(
                shown.starts_with("no such path ") && !left,
                "{part}: {shown}"
            );
        }
    }

    #[test]
    fn a_way_below_an_address_keeps_its_query() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert_eq!(
            below(url("https://a.example/x/?b=1"), "/fail"),
            url("https://a.example/x/fail?b=1")
        );
        assert_eq!(
            below(url("https://a.example"), "/fail"),
            url("https://a.example/fail")
        );
    }
}
