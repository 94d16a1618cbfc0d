//! Client of the API: of a running daemon over its control socket, or in this process if none runs. Must not use more of HTTP
//! than curl could.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::exit::{CommandError, Exit};
use super::interruption::InProgress;
use super::terminal;
use crate::config::{ConfigFinding, RestartValue};
use crate::daemon::Begun;
use crate::daemon::ErrorCode;
use crate::daemon::HealthView;
use crate::daemon::InProcess;
use crate::daemon::KeptReplyView;
use crate::daemon::Reloaded;
use crate::daemon::alerts::alert_views::AlertsView;
use crate::daemon::grants::disputes::DisputeView;
use crate::daemon::grants::portal_view::PortalView;
use refreshd_alerting::channel_test::TestResult;
use refreshd_time::clock::Clock;
use refreshd_token_client::introspection::Introspection;

/// Longer than any renewal takes, so that the daemon's own response comes first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(360);
/// Timeout of read-only requests: as long as the daemon queues a listing.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer requests check after each interval whether the daemon responds at all.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// A path that every daemon answers at once with "not found".
const PROBE_PATH: &str = "/v1";

/// The grant to import.
pub(super) enum ImportInput {
    /// A grant in any format.
    Grant(Vec<u8>),
    /// The newest superseded pair of this portal.
    AsideOf(String),
}

/// Client of the API of a daemon, or of this process.
pub(super) struct Client {
    transport: Connection,
}

enum Connection {
    /// The control socket of a running daemon.
    Socket {
        http: reqwest::Client,
        /// The daemon's process id.
        pid: Option<i32>,
    },
    /// The API in this process, if no daemon runs.
    InProcess(Box<InProcess>),
}

#[derive(Deserialize)]
struct PortalPageView {
    portals: Vec<PortalView>,
    #[serde(default)]
    next: Option<String>,
}

/// Result of `forget`.
#[derive(Deserialize)]
pub(super) struct ForgottenView {
    /// Whether there was a grant.
    pub(super) forgotten: bool,
    /// Token files that could not be removed, and why.
    #[serde(default)]
    pub(super) left: Option<String>,
}

#[derive(Deserialize)]
struct KeptReplies {
    replies: Vec<KeptReplyView>,
}

#[derive(Deserialize)]
struct Disputes {
    waiting: Vec<DisputeView>,
}

#[derive(Deserialize)]
struct TestResults {
    tests: Vec<TestResult>,
}

/// The configuration of a daemon, as far as a reload does not change it.
#[derive(Deserialize)]
pub(super) struct InForce {
    /// The file that it was started with.
    pub(super) config: PathBuf,
    /// The keys that only a restart changes.
    pub(super) restart_values: Vec<RestartValue>,
}

/// Why a reload changed nothing.
pub(super) struct NotReloaded {
    /// The error.
    pub(super) error: CommandError,
    /// The problems of the configuration, each with its place.
    pub(super) findings: Vec<ConfigFinding>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: RefusalError,
}

#[derive(Deserialize)]
struct RefusalError {
    code: ErrorCode,
    message: String,
    #[serde(default)]
    findings: Vec<ConfigFinding>,
}

impl Client {
    pub(super) fn new(socket: &Path, pid: Option<i32>) -> Result<Self, CommandError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build();
        let http = http.map_err(|_| {
            CommandError::new(
                Exit::Unavailable,
                "cannot set up a client for the control socket",
            )
        })?;
        Ok(Self {
            transport: Connection::Socket { http, pid },
        })
    }

    /// Client of the API in this process.
    pub(super) fn in_process(api: InProcess) -> Self {
        Self {
            transport: Connection::InProcess(Box::new(api)),
        }
    }

    /// Returns whether it is connected to a daemon.
    pub(super) const fn is_daemon(&self) -> bool {
        matches!(self.transport, Connection::Socket { .. })
    }

    /// Finishes requests in progress, and closes the state of this process.
    pub(super) async fn close(self) {
        match self.transport {
            Connection::Socket { .. } => {}
            Connection::InProcess(api) => {
                let _in_progress = InProgress::finish();
                api.close().await;
            }
        }
    }

    /// All portals, or one.
    pub(super) async fn list(&self, portal: Option<&str>) -> Result<Vec<PortalView>, CommandError> {
        if let Some(portal) = portal {
            let one = self.ask(Method::GET, &path(portal, ""), None).await?;
            return Ok(vec![parse(&one)?]);
        }
        let (mut portals, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = self.page(after.as_deref()).await?;
            portals.extend(page);
            match next {
                Some(next) => after = Some(next),
                None => return Ok(portals),
            }
        }
    }

    /// A page of portals after this one; and the last name, if there are more.
    pub(super) async fn page(
        &self,
        after: Option<&str>,
    ) -> Result<(Vec<PortalView>, Option<String>), CommandError> {
        // A portal's name needs no escaping in a query.
        let path = after.map_or_else(
            || "/v1/portals".to_owned(),
            |after| format!("/v1/portals?after={after}"),
        );
        let PortalPageView { portals, next } = parse(&self.ask(Method::GET, &path, None).await?)?;
        Ok((portals, next))
    }

    /// The access token in one format.
    pub(super) async fn token(
        &self,
        portal: &str,
        min_valid: Duration,
        format: &str,
    ) -> Result<String, CommandError> {
        let min_valid = humantime::format_duration(min_valid)
            .to_string()
            .replace(' ', "");
        let path = format!(
            "{}?min_valid={min_valid}&format={format}",
            path(portal, "/token")
        );
        self.ask(Method::GET, &path, None).await
    }

    /// The token from a copy of the state; `None`: it must be renewed first.
    pub(super) async fn token_if_valid(
        &self,
        portal: &str,
        min_valid: Duration,
        format: &str,
    ) -> Result<Option<String>, CommandError> {
        match self.token(portal, min_valid, format).await {
            Err(error) if error.code() == Some(ErrorCode::NeedsRenewal) => Ok(None),
            token => token.map(Some),
        }
    }

    /// Renews a portal. A failed renewal is a result, not an error of the request.
    pub(super) async fn renew(&self, portal: &str) -> Result<Value, CommandError> {
        let (status, body) = self
            .send(Method::POST, &path(portal, "/renew"), None)
            .await?;
        match serde_json::from_str::<Value>(&body) {
            Ok(outcome) if outcome.get("outcome").is_some() => Ok(outcome),
            _ => Err(refusal(status, &body)),
        }
    }

    /// Imports a grant. A rejected or unverified one is a result, not an error of the request.
    pub(super) async fn import(
        &self,
        portal: &str,
        grant: ImportInput,
        replace: bool,
    ) -> Result<Value, CommandError> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("replace", if replace { "true" } else { "false" });
        let body = match grant {
            ImportInput::Grant(grant) => grant,
            ImportInput::AsideOf(at) => {
                query.append_pair("aside_of", &at);
                Vec::new()
            }
        };
        let path = path(portal, &format!("/grant?{}", query.finish()));
        let (status, body) = self.bytes(Method::POST, &path, body).await?;
        let body = String::from_utf8_lossy(&body).into_owned();
        match serde_json::from_str::<Value>(&body) {
            Ok(outcome) if outcome.get("outcome").is_some() => Ok(outcome),
            _ => Err(refusal(status, &body)),
        }
    }

    /// Begins an authorization.
    pub(super) async fn begin(
        &self,
        portal: &str,
        loopback: Option<String>,
    ) -> Result<Begun, CommandError> {
        let body = json!({ "redirect_uri": loopback }).to_string();
        parse(
            &self
                .ask(Method::POST, &path(portal, "/authorization"), Some(body))
                .await?,
        )
    }

    /// Submits a callback; the inner `Err` is the reason for which it is not valid.
    pub(super) async fn answer(
        &self,
        portal: &str,
        answer: &str,
    ) -> Result<Result<Value, String>, CommandError> {
        let body = json!({ "answer": answer }).to_string();
        let path = path(portal, "/authorization/answer");
        let (status, body) = self.send(Method::POST, &path, Some(body)).await?;
        if status.is_success() {
            return parse(&body).map(Ok);
        }
        let refused = refusal(status, &body);
        match refused.code() {
            Some(ErrorCode::NotAnAnswer) => Ok(Err(refused.message().to_owned())),
            _ => Err(refused),
        }
    }

    /// Polls a device authorization; the inner `Err` is the wait before the next poll.
    pub(super) async fn poll(
        &self,
        portal: &str,
        state: &str,
    ) -> Result<Result<Value, Duration>, CommandError> {
        let body = json!({ "state": state }).to_string();
        let polled: Value = parse(
            &self
                .ask(
                    Method::POST,
                    &path(portal, "/authorization/poll"),
                    Some(body),
                )
                .await?,
        )?;
        let again_in = polled.get("again_in").and_then(Value::as_u64);
        Ok(again_in.map_or(Ok(polled), |secs| Err(Duration::from_secs(secs))))
    }

    /// Introspection of the access token at the authorization server.
    pub(super) async fn introspect(&self, portal: &str) -> Result<Introspection, CommandError> {
        parse(
            &self
                .ask(Method::POST, &path(portal, "/introspect"), None)
                .await?,
        )
    }

    /// The open disputes.
    pub(super) async fn installs(&self) -> Result<Vec<DisputeView>, CommandError> {
        parse::<Disputes>(&self.ask(Method::GET, "/v1/installs", None).await?).map(|it| it.waiting)
    }

    /// Accepts a dispute. A rejected or unverified grant is a result, not an error of the request.
    pub(super) async fn accept_install(
        &self,
        portal: &str,
        user: Option<&str>,
    ) -> Result<Value, CommandError> {
        let path = decide(portal, "accept", user);
        let (status, body) = self.send(Method::POST, &path, None).await?;
        match serde_json::from_str::<Value>(&body) {
            Ok(outcome) if outcome.get("outcome").is_some() => Ok(outcome),
            _ => Err(refusal(status, &body)),
        }
    }

    /// Refuses a dispute.
    pub(super) async fn refuse_install(
        &self,
        portal: &str,
        user: Option<&str>,
    ) -> Result<DisputeView, CommandError> {
        parse(
            &self
                .ask(Method::POST, &decide(portal, "refuse", user), None)
                .await?,
        )
    }

    /// Parses stored responses again and stores the recovered pairs.
    pub(super) async fn recover(&self, portal: &str) -> Result<Value, CommandError> {
        parse(
            &self
                .ask(Method::POST, &path(portal, "/replies/recover"), None)
                .await?,
        )
    }

    /// The stored responses of a portal.
    pub(super) async fn kept(&self, portal: &str) -> Result<Vec<KeptReplyView>, CommandError> {
        let body = self
            .ask(Method::GET, &path(portal, "/replies"), None)
            .await?;
        parse::<KeptReplies>(&body).map(|kept| kept.replies)
    }

    /// The bytes of a stored response.
    pub(super) async fn kept_body(
        &self,
        portal: &str,
        number: usize,
    ) -> Result<Vec<u8>, CommandError> {
        let (status, body) = self
            .bytes(
                Method::GET,
                &path(portal, &format!("/replies/{number}")),
                Vec::new(),
            )
            .await?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(refusal(status, &String::from_utf8_lossy(&body)))
        }
    }

    /// Deletes the stored responses of a portal; returns how many.
    pub(super) async fn discard(&self, portal: &str) -> Result<usize, CommandError> {
        let body: Value = parse(
            &self
                .ask(Method::DELETE, &path(portal, "/replies"), None)
                .await?,
        )?;
        let discarded = body
            .get("discarded")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        Ok(usize::try_from(discarded).unwrap_or_default())
    }

    /// Deletes a grant, revoked first if requested; false if there was none.
    pub(super) async fn forget(
        &self,
        portal: &str,
        revoke: bool,
    ) -> Result<ForgottenView, CommandError> {
        let path = path(
            portal,
            if revoke {
                "/grant?revoke=true"
            } else {
                "/grant"
            },
        );
        parse(&self.ask(Method::DELETE, &path, None).await?)
    }

    /// Silences a portal, or everything, for a span; without one, ends its silence. Returns the end.
    pub(super) async fn silence(
        &self,
        portal: Option<&str>,
        span: Option<&str>,
    ) -> Result<Option<String>, CommandError> {
        let path = portal.map_or_else(
            || "/v1/silence".to_owned(),
            |portal| path(portal, "/silence"),
        );
        let body: Value = match span {
            Some(span) => parse(
                &self
                    .ask(Method::POST, &path, Some(json!({"for": span}).to_string()))
                    .await?,
            )?,
            None => parse(&self.ask(Method::DELETE, &path, None).await?)?,
        };
        Ok(body.get("until").and_then(Value::as_str).map(str::to_owned))
    }

    /// Open incidents, silences and queued notifications.
    pub(super) async fn alerts(&self) -> Result<AlertsView, CommandError> {
        parse(&self.ask(Method::GET, "/v1/alerts", None).await?)
    }

    /// Health of the daemon.
    pub(super) async fn health(&self) -> Result<HealthView, CommandError> {
        parse(&self.ask(Method::GET, "/v1/health", None).await?)
    }

    /// Acknowledges an incident, or those of a portal; returns how many.
    pub(super) async fn acknowledge(&self, incident: &str) -> Result<u64, CommandError> {
        let body = json!({"incident": incident}).to_string();
        let body: Value = parse(
            &self
                .ask(Method::POST, "/v1/alerts/acknowledge", Some(body))
                .await?,
        )?;
        Ok(body
            .get("acknowledged")
            .and_then(Value::as_u64)
            .unwrap_or_default())
    }

    /// Sends a test notification to a channel, or to all.
    pub(super) async fn test(
        &self,
        channel: Option<&str>,
    ) -> Result<Vec<TestResult>, CommandError> {
        let body = channel
            .map_or_else(|| json!({}), |channel| json!({ "channel": channel }))
            .to_string();
        let answer = self
            .ask(Method::POST, "/v1/alerts/test", Some(body))
            .await?;
        parse::<TestResults>(&answer).map(|answer| answer.tests)
    }

    /// Reloads the configuration of the daemon.
    pub(super) async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        let bare = |error| NotReloaded {
            error,
            findings: Vec::new(),
        };
        let sent = self.send(Method::POST, "/v1/reload", None).await;
        let (status, body) = sent.map_err(bare)?;
        if status.is_success() {
            return parse(&body).map_err(bare);
        }
        let findings = serde_json::from_str::<ErrorBody>(&body)
            .map(|body| body.error.findings)
            .unwrap_or_default();
        Err(NotReloaded {
            error: refusal(status, &body),
            findings,
        })
    }

    /// The configuration of the daemon.
    pub(super) async fn in_force(&self) -> Result<InForce, CommandError> {
        parse(&self.ask(Method::GET, "/v1/configuration", None).await?)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<String, CommandError> {
        let (status, body) = self.send(method, path, body).await?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(refusal(status, &body))
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(StatusCode, String), CommandError> {
        let body = body.unwrap_or_default().into_bytes();
        let (status, body) = self.bytes(method, path, body).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), CommandError> {
        match &self.transport {
            Connection::Socket { http, pid } => {
                // A token may have to be renewed first.
                let is_read = method == Method::GET && !path.contains("/token?");
                let request = http.request(method, address(path)).body(body);
                let answered = async move {
                    let response = request.send().await?;
                    let status = response.status();
                    Ok((status, response.bytes().await?.to_vec()))
                };
                let answered = if is_read {
                    Clock::system()
                        .running_limit(READ_TIMEOUT)
                        .wait(answered)
                        .await
                } else {
                    wait(http, *pid, answered).await
                };
                match answered {
                    Some(answer) => answer.map_err(|_: reqwest::Error| {
                        of_stranger(*pid).unwrap_or_else(|| {
                            CommandError::new(
                                Exit::Unavailable,
                                "the daemon broke the connection; is it stopping?",
                            )
                        })
                    }),
                    None => Err(silent(*pid, is_read)),
                }
            }
            Connection::InProcess(api) => {
                let _in_progress = InProgress::begin()?;
                let answered = api.request(method, path, body).await;
                answered.map_err(|why| CommandError::new(Exit::Unavailable, why))
            }
        }
    }
}

fn address(path: &str) -> String {
    format!("http://refreshd{path}")
}

/// Waits for a response as long as the daemon responds to probes; `None` if it does not.
async fn wait<T>(
    http: &reqwest::Client,
    pid: Option<i32>,
    answered: impl Future<Output = T>,
) -> Option<T> {
    let clock = Clock::system();
    let mut answered = std::pin::pin!(answered);
    let mut is_said = false;
    loop {
        if let Some(answer) = clock
            .running_limit(PROBE_INTERVAL)
            .wait(&mut answered)
            .await
        {
            return Some(answer);
        }
        let mut patience = clock.running_limit(PROBE_INTERVAL);
        let probe = patience.wait(http.get(address(PROBE_PATH)).send());
        // The response may arrive meanwhile.
        tokio::select! {
            biased;
            answer = &mut answered => return Some(answer),
            // A stopping daemon accepts no new connections, and still answers open ones.
            probed = probe => drop(probed?),
        }
        if !std::mem::replace(&mut is_said, true) && terminal::is_stderr_terminal() {
            terminal::eprintln(&format!(
                "waiting for {}, which is there: an answer of an authorization server may take minutes",
                daemon(pid)
            ));
        }
    }
}

fn daemon(pid: Option<i32>) -> String {
    pid.map_or_else(
        || "the daemon".to_owned(),
        |pid| format!("the daemon (process {pid})"),
    )
}

/// Name of the process that listens, if it is visible and no refreshd.
fn stranger(pid: Option<i32>) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid?)).ok()?;
    let name = name.trim_end();
    (!name.starts_with("refreshd")).then(|| name.to_owned())
}

/// Error if a process that is no refreshd does not answer as one.
fn of_stranger(pid: Option<i32>) -> Option<CommandError> {
    let (name, pid) = (stranger(pid)?, pid?);
    let message = format!(
        "another process listens on the control socket (process {pid}, {name}), which is no refreshd and does not answer as one: \
         look who made that socket (ss -xlp); once it is gone, a running daemon makes its own anew"
    );
    Some(CommandError::new(Exit::Unavailable, message))
}

fn silent(pid: Option<i32>, is_read: bool) -> CommandError {
    if let Some(error) = of_stranger(pid) {
        return error;
    }
    let left = if is_read {
        ""
    } else {
        "; what was asked of it may still be done when it goes on"
    };
    let message = format!(
        "{} does not answer: is it stopped (SIGSTOP, a frozen cgroup), or out of processor or disk?{left}",
        daemon(pid)
    );
    CommandError::new(Exit::Unavailable, message)
}

/// A portal's path; an invalid name becomes one that the daemon does not know.
fn path(portal: &str, rest: &str) -> String {
    let mut url = String::from("/v1/portals/");
    for byte in portal.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                url.push(char::from(byte));
            }
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url + rest
}

fn decide(portal: &str, what: &str, user: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    user.map(|user| query.append_pair("user", user));
    path(portal, &format!("/install/{what}?{}", query.finish()))
}

fn parse<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, CommandError> {
    serde_json::from_str(body).map_err(|_| {
        CommandError::new(
            Exit::Unavailable,
            "the daemon's answer is not understood; is it another version?",
        )
    })
}

fn refusal(status: StatusCode, body: &str) -> CommandError {
    let Ok(ErrorBody { error }) = serde_json::from_str::<ErrorBody>(body) else {
        return CommandError::new(
            Exit::Unavailable,
            format!("the daemon answered with status {status}"),
        );
    };
    CommandError::of_api(error.code, error.message)
}
