//! The way to authorization servers: one token request out, one whole reply or the lack of it back.
//!
//! Must not follow redirects, retry, log, nor judge a reply: `domain::reply` does. Whether a request may have left
//! this machine decides between "not sent" and "in doubt", so every error is sorted here, once.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use reqwest::Client;
use reqwest::header::{ACCEPT, AUTHORIZATION, DATE, HeaderMap};

use super::http::{CONNECT, cause, client, parse_date, retry_after};
use crate::domain::provider::{ClientAuthentication, Method, host_of};
use crate::domain::secret::{ClientSecret, RefreshToken};
use crate::domain::time::Timestamp;

/// Largest body read, in bytes. A token reply has about one thousand.
const LARGEST_BODY: usize = 256 * 1024;

/// A client for token requests. Cheap to clone.
#[derive(Clone)]
pub struct AuthorizationServer {
    pub(super) client: Client,
    transport: Option<Arc<dyn Transport>>,
}

/// A way for a finished request to reach a server, in place of the network: a simulation's.
pub trait Transport: Send + Sync {
    /// Carries it there and the reply back.
    fn carry(&self, request: reqwest::Request) -> Carried;
}

/// A request under way.
pub type Carried = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One exchange of a refresh token (RFC 6749 section 6).
#[derive(Debug)]
pub struct TokenRequest<'a> {
    /// The token endpoint, from the profile.
    pub url: &'a str,
    /// POST or GET.
    pub method: Method,
    /// How the client proves who it is.
    pub authentication: ClientAuthentication,
    /// The client.
    pub client_id: &'a str,
    /// Its secret, unless it is a public client.
    pub client_secret: Option<&'a ClientSecret>,
    /// What is exchanged.
    pub refresh_token: &'a RefreshToken,
    /// How long it may take, connecting included.
    pub timeout: Duration,
}

/// What came back.
#[derive(Debug)]
pub enum Answer {
    /// The request did not leave this machine.
    NotSent(String),
    /// It left, or may have, and no whole reply came.
    InDoubt(String),
    /// A whole reply.
    Whole(WholeReply),
}

/// A reply whose bytes arrived whole.
#[derive(Debug)]
pub struct WholeReply {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, both forms (RFC 9110 section 10.2.3), from `now`.
    pub retry_after: Option<Duration>,
    /// The server's own clock.
    pub date: Option<Timestamp>,
    /// The body.
    pub body: Vec<u8>,
}

impl AuthorizationServer {
    /// A client that trusts the system's certificate authorities, or those of `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// If TLS cannot be set up, as with no certificate authorities installed.
    pub fn new() -> Result<Self, reqwest::Error> {
        Ok(Self { client: client()?, transport: None })
    }

    /// The same requests by another way than the network.
    #[must_use]
    pub fn through(self, transport: Arc<dyn Transport>) -> Self {
        Self { transport: Some(transport), ..self }
    }

    /// Sends one token request and reads the whole reply. Never cancel this future once it is polled.
    pub async fn exchange(&self, request: &TokenRequest<'_>, now: Timestamp) -> Answer {
        let builder = self.build(request);
        let sent = match &self.transport {
            None => builder.send().await,
            Some(transport) => match builder.build() {
                Ok(built) => return transport.carry(built).await,
                Err(error) => Err(error),
            },
        };
        let response = match sent {
            Ok(response) => response,
            Err(error) => return without_reply(&error, request),
        };
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers(), now);
        let date = date(response.headers());
        match read_body(response).await {
            Ok(body) => Answer::Whole(WholeReply { status, retry_after, date, body }),
            Err(problem) => Answer::InDoubt(format!("status {status}, but {problem}")),
        }
    }

    /// Asks a server for anything at all, to see that it is there: `check --online`.
    ///
    /// # Errors
    /// Why there was no HTTP reply.
    pub async fn probe(&self, url: &str) -> Result<u16, String> {
        let sent = self.client.head(url).timeout(CONNECT).send().await;
        sent.map(|response| response.status().as_u16()).map_err(|error| cause(&error))
    }

    fn build(&self, request: &TokenRequest<'_>) -> reqwest::RequestBuilder {
        let TokenRequest { url, method, authentication, client_id, client_secret, refresh_token, timeout } =
            request;
        let mut parameters = vec![("grant_type", "refresh_token")];
        if *authentication != ClientAuthentication::Basic {
            parameters.push(("client_id", client_id));
        }
        if let (ClientAuthentication::Body, Some(secret)) = (authentication, client_secret) {
            parameters.push(("client_secret", secret.expose()));
        }
        parameters.push(("refresh_token", refresh_token.expose()));
        let builder = match method {
            Method::Post => self.client.post(*url).form(&parameters),
            Method::Get => self.client.get(*url).query(&parameters),
        };
        let builder = builder.timeout(*timeout).header(ACCEPT, "application/json");
        match (authentication, client_secret) {
            (ClientAuthentication::Basic | ClientAuthentication::BasicWithBody, Some(secret)) => {
                builder.header(AUTHORIZATION, basic(client_id, secret))
            }
            _ => builder,
        }
    }
}

/// RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined.
fn basic(client_id: &str, secret: &ClientSecret) -> reqwest::header::HeaderValue {
    let encode = |text: &str| {
        let mut url = reqwest::Url::parse("http://localhost/").ok()?;
        url.query_pairs_mut().append_key_only(text);
        url.query().map(str::to_owned)
    };
    let pair =
        format!("{}:{}", encode(client_id).unwrap_or_default(), encode(secret.expose()).unwrap_or_default());
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    let mut value = reqwest::header::HeaderValue::from_str(&format!("Basic {encoded}"))
        .unwrap_or_else(|_| reqwest::header::HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

/// Reads up to [`LARGEST_BODY`] bytes.
pub(super) async fn read_body(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= LARGEST_BODY => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(format!("its body is longer than {LARGEST_BODY} bytes")),
            Err(error) => return Err(format!("its body did not arrive whole: {}", cause(&error))),
        }
    }
}

fn without_reply(error: &reqwest::Error, request: &TokenRequest<'_>) -> Answer {
    let server = host_of(request.url).unwrap_or("the authorization server");
    if error.is_connect() || error.is_builder() {
        Answer::NotSent(format!("cannot connect to {server}: {}", cause(error)))
    } else if error.is_timeout() {
        let limit = humantime::format_duration(request.timeout);
        Answer::InDoubt(format!("{server} did not answer within {limit}"))
    } else {
        Answer::InDoubt(format!("{server} broke the connection before it answered: {}", cause(error)))
    }
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    parse_date(headers.get(DATE)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_authentication_encodes_before_it_joins() {
        let secret = ClientSecret::new("p:ss word").unwrap();
        assert_eq!(basic("my id", &secret), "Basic bXkraWQ6cCUzQXNzK3dvcmQ=");
        assert!(basic("my id", &secret).is_sensitive());
    }
}
