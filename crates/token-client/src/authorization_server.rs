//! Client for authorization servers: sends one token request and returns one complete reply, or the reason why there is
//! none.
//!
//! Must not follow redirects, retry, log, nor interpret a reply: [`crate::reply`] does. Whether a request may have left
//! this machine decides between "not sent" and "in doubt", so all errors are classified here.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::Extensions;
use hyper_util::client::legacy::Client as TokenClient;
use hyper_util::client::legacy::connect::{Connected, capture_connection};
use reqwest::Client;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap,
    HeaderName, HeaderValue, LOCATION, USER_AGENT,
};

use super::recording::{ReadResult, Recorder, RecordingConnector, token_client};
use crate::body_decoding::MAX_BODY_BYTES;
use crate::provider::{Method, host_of};
use crate::quirks::BodyEncoding;
use crate::raw_http::{self, BodyEnd, RawHttpResponse};
use crate::request::TokenRequest;
use refreshd_http::{
    CONNECT_TIMEOUT, Network, PerNetwork, TlsError, cause, client, innermost, parse_date,
    retry_after,
};
use refreshd_secrets::mask::line;
use refreshd_time::Timestamp;
use refreshd_time::clock::{Clock, RunningLimit};

/// Maximum number of bytes read of a body. A token reply has about one thousand.
const MAX_RESPONSE_BYTES: usize = MAX_BODY_BYTES;
/// A response with broken framing is complete when no data arrives for this time.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

/// A client for token requests. Cheap to clone.
#[derive(Clone)]
pub struct AuthorizationServer {
    pub(crate) network: Arc<Network>,
    clients: PerNetwork<Clients>,
    transport: Option<Arc<dyn Transport>>,
}

/// The clients of one network.
#[derive(Clone)]
struct Clients {
    client: Client,
    token_client: TokenClient<RecordingConnector, reqwest::Body>,
}

impl Clients {
    fn new(network: &Arc<Network>) -> Result<Self, TlsError> {
        Ok(Self {
            client: client(network)?,
            token_client: token_client(network)?,
        })
    }
}

/// Replacement for the network, for simulations.
pub trait Transport: Send + Sync {
    /// Sends the request and returns the reply.
    fn send(&self, request: reqwest::Request) -> TransportFuture;
}

/// A request in progress.
pub type TransportFuture = Pin<Box<dyn Future<Output = TokenResponse> + Send>>;

/// Outcome of a request.
#[derive(Debug)]
pub enum TokenResponse {
    /// The request did not leave this machine.
    NotSent(String),
    /// The request was sent, or may have been, and no reply arrived.
    InDoubt(String),
    /// A truncated reply: the part that arrived, and the reason.
    Cut(HttpResponse, String),
    /// A complete reply.
    Whole(HttpResponse),
}

/// A reply: its head, and its body as far as it arrived.
#[derive(Debug)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// Delay in `Retry-After`, in both forms (RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
    /// `Date`: the server's clock.
    pub date: Option<Timestamp>,
    /// `Content-Type`, truncated.
    pub content_type: Option<String>,
    /// `Content-Encoding`, truncated.
    pub content_encoding: Option<String>,
    /// `Location`, unmodified: shown, never followed.
    pub location: Option<String>,
    /// Body, up to 1 MiB.
    pub body: Vec<u8>,
    /// True if the body is known to be complete. A truncated response may have its complete body all the same.
    pub whole: bool,
}

impl AuthorizationServer {
    /// A client that reaches servers over this network.
    ///
    /// # Errors
    /// If TLS cannot be set up, as with no certificate authorities installed.
    pub fn new(network: Arc<Network>) -> Result<Self, TlsError> {
        let server = Self {
            network,
            clients: PerNetwork::default(),
            transport: None,
        };
        server.clients.get(&server.network, Clients::new)?;
        Ok(server)
    }

    /// The same client over another network. Its connections are kept as long as the network is.
    #[must_use]
    pub fn over(&self, network: &Arc<Network>) -> Self {
        Self {
            network: Arc::clone(network),
            ..self.clone()
        }
    }

    fn clients(&self) -> Result<Clients, String> {
        self.clients
            .get(&self.network, Clients::new)
            .map_err(|error| format!("cannot set up TLS: {}", innermost(&error)))
    }

    pub(crate) fn client(&self) -> Result<Client, String> {
        Ok(self.clients()?.client)
    }

    /// The same client with another transport than the network.
    #[must_use]
    pub fn with_transport(self, transport: Arc<dyn Transport>) -> Self {
        Self {
            transport: Some(transport),
            ..self
        }
    }

    /// Sends one request and reads the reply. `timeout` includes connecting, and counts only time in which this process
    /// can run. Not cancel safe: once polled, a request that spends a token must not be dropped.
    pub async fn exchange(
        &self,
        request: &TokenRequest,
        timeout: Duration,
        now: Timestamp,
    ) -> TokenResponse {
        let clients = match self.clients() {
            Ok(clients) => clients,
            Err(why) => return self.not_sent(request, &why),
        };
        let built = match build(&clients.client, request).timeout(timeout).build() {
            Ok(built) => built,
            Err(error) => return self.not_sent(request, &cause(&error)),
        };
        match &self.transport {
            Some(transport) => transport.send(built).await,
            None => {
                let client = &clients.token_client;
                self.send((client, request), built, timeout, now).await
            }
        }
    }

    async fn send(
        &self,
        (client, request): (
            &TokenClient<RecordingConnector, reqwest::Body>,
            &TokenRequest,
        ),
        built: reqwest::Request,
        timeout: Duration,
        now: Timestamp,
    ) -> TokenResponse {
        let mut limit = Clock::system().running_limit(timeout);
        let mut built = match hyper::Request::<reqwest::Body>::try_from(built) {
            Ok(built) => built,
            Err(error) => return self.not_sent(request, &cause(&error)),
        };
        built
            .headers_mut()
            .entry(USER_AGENT)
            .or_insert_with(|| self.network.settings().user_agent.clone());
        let connection = capture_connection(&mut built);
        let sent = limit.wait(client.request(built)).await;
        let recorder = connection
            .connection_metadata()
            .as_ref()
            .and_then(recorder_of);
        let server = host_of(&request.url).unwrap_or("the authorization server");
        let why = match sent {
            Some(Ok(response)) => {
                let response = response.map(reqwest::Body::wrap).into();
                return read_answer(response, recorder, &mut limit, now).await;
            }
            Some(Err(error)) if error.is_connect() => {
                return self.not_sent(request, &innermost(&error));
            }
            Some(Err(error)) => format!(
                "{server} broke the connection, or gave an answer that is not HTTP: {}",
                innermost(&error)
            ),
            None if recorder.is_none() => {
                let limit = humantime::format_duration(timeout);
                return self.not_sent(request, &format!("no connection within {limit}"));
            }
            None => format!(
                "{server} did not answer within {}",
                humantime::format_duration(timeout)
            ),
        };
        let Some(recorder) = recorder else {
            return TokenResponse::InDoubt(why);
        };
        let closed = read_to_end(&recorder, &mut limit).await;
        answer_of(raw_http::read(&recorder.received()), closed, why, now)
    }

    /// Checks that a server responds, for `check --online`. Returns the status, and the target of a redirect.
    ///
    /// # Errors
    /// The reason why there was no HTTP response.
    pub async fn probe(&self, url: &str) -> Result<(u16, Option<String>), String> {
        let client = self.client()?;
        let sent = client.head(url).timeout(CONNECT_TIMEOUT).send().await;
        let response = sent.map_err(|error| cause(&error))?;
        Ok((response.status().as_u16(), location(response.headers())))
    }

    /// Fetches a document: its status, and up to 1 MiB.
    ///
    /// # Errors
    /// The reason why there was no complete response.
    pub async fn fetch(&self, url: &str, limit: Duration) -> Result<(u16, Vec<u8>), String> {
        let host = host_of(url).unwrap_or("the authorization server");
        let sent = self
            .client()?
            .get(url)
            .timeout(limit)
            .header(ACCEPT, "application/json")
            .send()
            .await;
        let response = sent.map_err(|error| {
            let way = self.network.way_to(url);
            format!("{host} does not answer{way}: {}", cause(&error))
        })?;
        let status = response.status().as_u16();
        let body = read_body(response).await;
        body.map(|body| (status, body))
            .map_err(|why| format!("{host} answered {status}, but {why}"))
    }

    fn not_sent(&self, request: &TokenRequest, why: &str) -> TokenResponse {
        let server = host_of(&request.url).unwrap_or("the authorization server");
        let way = self.network.way_to(&request.url);
        TokenResponse::NotSent(format!("cannot connect to {server}{way}: {why}"))
    }
}

fn build(client: &Client, request: &TokenRequest) -> reqwest::RequestBuilder {
    let TokenRequest {
        url,
        method,
        body,
        parameters,
        headers,
        authorization,
    } = request;
    let builder = match (method, body) {
        (Method::Get, _) => client.get(url).query(parameters),
        (Method::Post, BodyEncoding::Form) => client.post(url).form(parameters),
        (Method::Post, BodyEncoding::Json) => client
            .post(url)
            .json(&parameters.iter().cloned().collect::<BTreeMap<_, _>>()),
    };
    let own = |header: HeaderName| {
        headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(header.as_str()))
    };
    let builder = if own(ACCEPT) {
        builder
    } else {
        builder.header(ACCEPT, "application/json")
    };
    let builder = if own(ACCEPT_ENCODING) {
        builder
    } else {
        builder.header(ACCEPT_ENCODING, "identity")
    };
    let builder = headers.iter().fold(builder, |builder, (name, value)| {
        builder.header(name, value)
    });
    match authorization.as_deref().map(HeaderValue::from_str) {
        Some(Ok(mut value)) => {
            value.set_sensitive(true);
            builder.header(AUTHORIZATION, value)
        }
        // Base64 is always valid in a header.
        Some(Err(_)) | None => builder,
    }
}

/// Reads a complete body of up to [`MAX_RESPONSE_BYTES`] bytes.
pub(crate) async fn read_body(response: reqwest::Response) -> Result<Vec<u8>, String> {
    match arrived(response, None).await {
        (body, None) => Ok(body),
        (_, Some(problem)) => Err(problem),
    }
}

/// Reads up to [`MAX_RESPONSE_BYTES`] bytes of a body, with the reason if it is not complete. `limit` is `None` if the
/// response has a limit of its own.
async fn arrived(
    mut response: reqwest::Response,
    mut limit: Option<&mut RunningLimit>,
) -> (Vec<u8>, Option<String>) {
    let mut body = Vec::new();
    loop {
        let chunk = match &mut limit {
            None => response.chunk().await,
            Some(limit) => match limit.wait(response.chunk()).await {
                Some(chunk) => chunk,
                None => {
                    return (
                        body,
                        Some("its body did not arrive whole: it took too long".to_owned()),
                    );
                }
            },
        };
        match chunk {
            Ok(None) => return (body, None),
            Ok(Some(chunk)) => {
                let room = MAX_RESPONSE_BYTES - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return (
                        body,
                        Some(format!(
                            "its body is longer than {MAX_RESPONSE_BYTES} bytes"
                        )),
                    );
                }
            }
            Err(error) => {
                return (
                    body,
                    Some(format!("its body did not arrive whole: {}", cause(&error))),
                );
            }
        }
    }
}

/// A header's value, masked and of bounded length.
fn named(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned();
    Some(line(&text).chars().take(100).collect())
}

/// Reads the response whose head has arrived. If its body is truncated, or longer than announced, the other bytes of
/// the connection belong to it.
async fn read_answer(
    response: reqwest::Response,
    recorder: Option<Recorder>,
    limit: &mut RunningLimit,
    now: Timestamp,
) -> TokenResponse {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    if let (101, Some(recorder)) = (status, &recorder) {
        // An unrequested protocol switch: the response follows it.
        let closed = read_to_end(recorder, limit).await;
        return answer_of(
            raw_http::read(&recorder.received()),
            closed,
            "switched protocols unasked".to_owned(),
            now,
        );
    }
    let (mut body, mut problem) = arrived(response, Some(limit)).await;
    let mut all_came = problem.is_none();
    if let Some(recorder) = recorder {
        let is_success = (200..300).contains(&status);
        let whole = problem.is_none();
        if body.len() < MAX_RESPONSE_BYTES && (!whole || may_continue(&body, is_success, &recorder))
        {
            let closed = read_to_end(&recorder, limit).await;
            let RawHttpResponse {
                body: mut all, end, ..
            } = raw_http::read(&recorder.received());
            let ended = is_all(end, closed) && all.len() <= MAX_RESPONSE_BYTES;
            all_came |= ended;
            if whole {
                all.truncate(raw_http::without_next_answer(&all, body.len()).len());
            }
            if all.len() > body.len() {
                body = all;
                body.truncate(MAX_RESPONSE_BYTES);
                all_came = ended;
                problem.get_or_insert("its body is longer than its head announces".to_owned());
            }
        } else {
            recorder.is_read();
        }
    }
    let reply = reply(status, &headers, (body, all_came), now);
    match problem {
        None => TokenResponse::Whole(reply),
        Some(problem) => TokenResponse::Cut(reply, format!("status {status}, but {problem}")),
    }
}

/// Returns whether a body may be longer than the HTTP library reports. The body of an error is only waited for if it
/// came with the head, as after 304.
fn may_continue(body: &[u8], is_success: bool, recorder: &Recorder) -> bool {
    let goes_on = |received: &[u8]| {
        let all = raw_http::read(received).body;
        raw_http::without_next_answer(&all, body.len()).len() > body.len()
    };
    (is_success && raw_http::may_have_more(body))
        || ((is_success || body.is_empty()) && recorder.with_received(goes_on))
}

/// Returns whether a body is complete, where the HTTP library did not check it.
fn is_all(end: BodyEnd, closed: bool) -> bool {
    match end {
        BodyEnd::Reached => true,
        BodyEnd::Missing => false,
        BodyEnd::Unknown => closed,
    }
}

/// Takes the connection and reads until the server closes it or sends nothing for [`QUIET_PERIOD`]. Returns whether it was
/// closed in order.
async fn read_to_end(recorder: &Recorder, limit: &mut RunningLimit) -> bool {
    recorder.take();
    let more = || async {
        let mut quiet = Clock::system().running_limit(QUIET_PERIOD);
        quiet.wait(recorder.more()).await
    };
    loop {
        match limit.wait(more()).await.flatten() {
            Some(ReadResult::More) => {}
            Some(ReadResult::Closed) => return true,
            Some(ReadResult::Broken) | None => return false,
        }
    }
}

/// A response that the HTTP library could not parse, with the reason.
fn answer_of(
    received: RawHttpResponse,
    closed: bool,
    why: String,
    now: Timestamp,
) -> TokenResponse {
    let RawHttpResponse {
        status,
        headers,
        head: _,
        mut body,
        end,
    } = received;
    if body.is_empty() {
        return TokenResponse::InDoubt(why);
    }
    let whole = is_all(end, closed) && body.len() <= MAX_RESPONSE_BYTES;
    body.truncate(MAX_RESPONSE_BYTES);
    let headers = headers.into_iter().filter_map(|(name, value)| {
        Some((
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_bytes(&value).ok()?,
        ))
    });
    let why = match status {
        Some(status) => format!("status {status}, but {why}"),
        None => why,
    };
    // Without a status, the body alone decides.
    TokenResponse::Cut(
        reply(
            status.unwrap_or(200),
            &headers.collect(),
            (body, whole),
            now,
        ),
        why,
    )
}

fn reply(
    status: u16,
    headers: &HeaderMap,
    (body, whole): (Vec<u8>, bool),
    now: Timestamp,
) -> HttpResponse {
    HttpResponse {
        status,
        retry_after: retry_after(headers, now),
        date: date(headers),
        content_type: named(headers, &CONTENT_TYPE),
        content_encoding: named(headers, &CONTENT_ENCODING),
        location: location(headers),
        body,
        whole,
    }
}

fn location(headers: &HeaderMap) -> Option<String> {
    headers
        .get(LOCATION)
        .map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned())
}

/// Recorder of a connection; each connection has one.
fn recorder_of(connected: &Connected) -> Option<Recorder> {
    let mut extensions = Extensions::new();
    connected.get_extras(&mut extensions);
    extensions.remove()
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    parse_date(headers.get(DATE)?.to_str().ok()?)
}
