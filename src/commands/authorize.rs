//! `refreshd authorize`: a portal's first grant, or the next after a dead one. One command, since a code expires after half a
//! minute: it shows the address, waits for the callback or pasted input, and has the code exchanged at once.
//!
//! Must not exchange the code itself: the daemon does, or the API in this process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};
use url::{Host, Url};

use super::client::Client;
use super::common::Common;
use super::connect::connect;
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::daemon::Begun;
use crate::daemon::BrowserPage;
use crate::daemon::Callback;
use crate::daemon::CallbackRequest;
use crate::daemon::CallbackResponse;
use crate::daemon::has_state;
use crate::domain::authorization::{AnswerError, Redirected, parse, starts_callback};
use refreshd_time::clock::Clock;

/// Lines that arrive within this time were pasted together.
const PASTE_WINDOW: Duration = Duration::from_millis(200);
/// Number of foreign redirects to show.
const MAX_FOREIGN_SHOWN: u32 = 3;

#[derive(Debug, Args)]
#[command(
    after_help = "Prints the authorization URL and waits for the redirect: received on this machine if redirect_uri is a loopback address, pasted here, or given by --code. The daemon renews the portal from then on, without a restart. An authorization code is valid for 30 seconds and works once.\n\nExamples:\n  refreshd authorize acme\n  refreshd authorize acme --redirected-url 'https://app.example/cb?code=…&state=…'\n  refreshd authorize acme --code 6dm7bdbh6akpc9tax2lp3fih05m5gtf2 --json\n\nExit codes: 0 authorized, 64 usage, 65 the code was refused or is another portal's, 66 unknown portal, 69 daemon unavailable, 74 output not written, 75 no answer in time, another program has the redirect's address, or the server cannot be reached, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The portal.
    portal: String,
    /// The code from the browser's address bar.
    #[arg(
        long,
        value_name = "CODE",
        allow_hyphen_values = true,
        conflicts_with = "redirected_url"
    )]
    code: Option<String>,
    /// The complete URL that the browser was redirected to.
    #[arg(long, value_name = "URL")]
    redirected_url: Option<String>,
    /// The address to listen on for the redirect, instead of that of redirect_uri.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["code", "redirected_url"])]
    listen: Option<SocketAddr>,
    /// Do not open a browser.
    #[arg(long)]
    no_browser: bool,
    /// The time to wait.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print the grant as the server's own reply has it, but for the refresh token, in JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let authorization = AuthorizationClient {
        client: connect(common).await?,
        portal: &arguments.portal,
    };
    let authorized = match arguments
        .code
        .as_ref()
        .or(arguments.redirected_url.as_ref())
    {
        Some(answer) => match authorization.answer(answer).await {
            Ok(Answered::Authorized(authorized)) => Ok(authorized),
            Ok(Answered::NotIt(why)) => Err(CommandError::new(Exit::Data, why)),
            Err(failure) => Err(failure),
        },
        None => authorization.ask(arguments).await,
    };
    let is_daemon = authorization.client.is_daemon();
    authorization.client.close().await;
    if !is_daemon && authorized.is_ok() {
        terminal::eprintln(
            "no daemon runs; the grant is in the state and is renewed when one starts",
        );
    }
    let authorized = authorized?;
    if arguments.json {
        terminal::print(&(serde_json::to_string_pretty(&authorized).unwrap_or_default() + "\n"));
    } else {
        terminal::eprintln(&sentence(&arguments.portal, &authorized));
    }
    Ok(Exit::Done)
}

fn sentence(portal: &str, authorized: &Value) -> String {
    let generation = authorized
        .get("generation")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let status = |key: &str| authorized.get("status")?.get(key)?.as_str();
    let until = status("expires_at")
        .map(|at| format!(", valid until {at}"))
        .unwrap_or_default();
    let endpoint = status("endpoint")
        .map(|endpoint| format!(" at {endpoint}"))
        .unwrap_or_default();
    let reply = |key: &str| match authorized.get("reply")?.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let identity = status("identity").map(str::to_owned);
    let user = reply("user_id").filter(|user| identity.as_ref() != Some(user));
    let whose = match (identity, user) {
        (Some(identity), Some(user)) => format!("\nIt is the grant of {identity}, user {user}."),
        (Some(identity), None) => format!("\nIt is the grant of {identity}."),
        (None, Some(user)) => format!("\nIt is the grant of user {user}."),
        (None, None) => String::new(),
    };
    format!("{portal}: authorized{endpoint} (generation {generation}){until}{whose}")
}

/// Result of an answer.
enum Answered {
    Authorized(Value),
    /// Not an answer to this authorization, which goes on.
    NotIt(String),
}

/// Authorization of one portal.
struct AuthorizationClient<'a> {
    client: Client,
    portal: &'a str,
}

impl AuthorizationClient<'_> {
    async fn begin(&self, loopback: Option<String>) -> Result<Begun, CommandError> {
        self.client.begin(self.portal, loopback).await
    }

    async fn answer(&self, answer: &str) -> Result<Answered, CommandError> {
        let answered = self.client.answer(self.portal, answer).await?;
        Ok(answered.map_or_else(Answered::NotIt, Answered::Authorized))
    }

    async fn poll(&self, state: &str) -> Result<Result<Value, Duration>, CommandError> {
        self.client.poll(self.portal, state).await
    }

    /// Shows the address and waits, at most for the given time.
    async fn ask(&self, arguments: &Arguments) -> Result<Value, CommandError> {
        let clock = Clock::system();
        let began = clock.tick();
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let here = arguments.listen.unwrap_or(here);
        let (own, missing) = Callback::listen(&[here]).await;
        let own = own.ok_or_else(|| {
            let why = missing.first().map(|(_, error)| error.to_string());
            let why = why.unwrap_or_default();
            CommandError::new(Exit::Usage, format!("cannot listen on {here}: {why}"))
        })?;
        let here = own.addresses.first().copied().unwrap_or(here);
        let here = match here.ip() {
            ip if ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST => {
                format!("127.0.0.1:{}", here.port())
            }
            _ => here.to_string(),
        };
        let loopback = format!("http://{here}/oauth/callback");
        let begun = self.begin(Some(loopback.clone())).await?;
        if let Some(code) = &begun.user_code {
            terminal::eprintln(&format!(
                "Open this address on any device, and type the code {code}:\n{}",
                begun.url
            ));
            return self.wait_for_device(&begun, arguments.timeout, clock).await;
        }
        let callback = match &begun.redirect_uri {
            Some(uri) if *uri == loopback || arguments.listen.is_some() => Some(own),
            Some(uri) => listen_at(uri).await?,
            None if arguments.listen.is_some() => Some(own),
            None => None,
        };
        let opening = show(&begun, callback.as_ref(), arguments.no_browser).await;
        let lines = Some(BufReader::new(tokio::io::stdin()).lines());
        let mut waiting = PromptAndCallback {
            callback,
            opening,
            lines,
            pasted: String::new(),
            clock,
        };
        let mut foreign = 0;
        let ended = loop {
            let left = arguments.timeout.saturating_sub(clock.elapsed(began));
            if left.is_zero() {
                break Err(timed_out(arguments.timeout));
            }
            let come = match clock.within(left, waiting.next()).await {
                Some(Some(come)) => come,
                Some(None) => break Err(no_input_source()),
                None => continue,
            };
            if let Some(ended) = self.submit(come, &begun, &mut foreign).await {
                break ended;
            }
        };
        if let Some(opening) = waiting.opening {
            opening.close().await;
        }
        if let Some(callback) = waiting.callback {
            let ending = match &ended {
                Ok(_) => CallbackResponse::Done(self.portal.to_owned()),
                Err(failure) => CallbackResponse::Failed(failure.message().to_owned()),
            };
            callback.close(&begun.state, ending).await;
        }
        ended
    }

    /// Submits an answer; `None` if it was none and the wait goes on.
    async fn submit(
        &self,
        come: CallbackEvent,
        begun: &Begun,
        foreign: &mut u32,
    ) -> Option<Result<Value, CommandError>> {
        let (text, arrival) = match come {
            CallbackEvent::Pasted(text) => (text, None),
            CallbackEvent::OpenedAgain => return Some(Err(opened_again())),
            // Any process on this machine can send one: without our `state` it is neither submitted nor shown.
            CallbackEvent::Redirected(arrival) if !has_state(&arrival.query, &begun.state) => {
                let why = AnswerError::OtherState.to_string();
                *foreign = foreign.saturating_add(1);
                // The address to open must stay on the screen.
                if *foreign <= MAX_FOREIGN_SHOWN {
                    let last = if *foreign == MAX_FOREIGN_SHOWN {
                        "; further ones are not shown"
                    } else {
                        ""
                    };
                    terminal::eprintln(&format!("a foreign redirect was rejected: {why}{last}"));
                }
                arrival.respond(CallbackResponse::Failed(why));
                return None;
            }
            CallbackEvent::Redirected(arrival) => (format!("?{}", arrival.query), Some(arrival)),
        };
        let (ending, ended) = match self.answer(&text).await {
            Ok(Answered::Authorized(authorized)) => (
                CallbackResponse::Done(self.portal.to_owned()),
                Some(Ok(authorized)),
            ),
            Ok(Answered::NotIt(why)) => {
                terminal::eprintln(&why);
                // A denial with our `state` is genuine.
                let is_denial = |redirected: Redirected| {
                    redirected.state.as_ref() == Some(&begun.state)
                        && matches!(redirected.code, Err(AnswerError::Refused(_)))
                };
                let over = arrival.is_some() || parse(&text).is_ok_and(is_denial);
                (
                    CallbackResponse::Failed(why.clone()),
                    over.then(|| Err(CommandError::new(Exit::Data, why))),
                )
            }
            Err(failure) => (
                CallbackResponse::Failed(failure.message().to_owned()),
                Some(Err(failure)),
            ),
        };
        if let Some(arrival) = arrival {
            arrival.respond(ending);
        }
        ended
    }

    async fn wait_for_device(
        &self,
        begun: &Begun,
        limit: Duration,
        clock: Clock,
    ) -> Result<Value, CommandError> {
        let began = clock.tick();
        let mut wait = Duration::from_secs(begun.interval.unwrap_or(5));
        loop {
            let left = limit.saturating_sub(clock.elapsed(began));
            if left.is_zero() {
                return Err(timed_out(limit));
            }
            // The last poll happens at the deadline, however soon that is.
            let wait_now = wait.min(left);
            let slept = clock.tick();
            while clock.elapsed(slept) < wait_now {
                clock
                    .sleep(wait_now.saturating_sub(clock.elapsed(slept)))
                    .await;
            }
            match self.poll(&begun.state).await? {
                Ok(authorized) => return Ok(authorized),
                Err(again_in) => wait = again_in,
            }
        }
    }
}

/// Input for the authorization.
enum CallbackEvent {
    Pasted(String),
    Redirected(CallbackRequest),
    /// The one-time page for the browser was requested again.
    OpenedAgain,
}

/// Sources of answers.
struct PromptAndCallback {
    callback: Option<Callback>,
    opening: Option<BrowserPage>,
    lines: Option<Lines<BufReader<Stdin>>>,
    /// Text pasted so far that is not an answer; the next line may complete it.
    pasted: String,
    clock: Clock,
}

impl PromptAndCallback {
    /// The next event; `None` if no source is left.
    async fn next(&mut self) -> Option<CallbackEvent> {
        loop {
            let Self {
                callback,
                opening,
                lines,
                ..
            } = self;
            let open = callback.is_some() || lines.is_some();
            tokio::select! {
                arrival = async { callback.as_mut()?.next().await }, if callback.is_some() => {
                    return arrival.map(CallbackEvent::Redirected);
                }
                () = async { if let Some(opening) = opening { opening.opened_again().await } }, if open && opening.is_some() => {
                    return Some(CallbackEvent::OpenedAgain);
                }
                line = async { lines.as_mut()?.next_line().await.ok().flatten() }, if lines.is_some() => match line {
                    Some(line) if line.trim().is_empty() => {}
                    Some(line) => return Some(CallbackEvent::Pasted(self.complete_lines(line).await)),
                    None => self.lines = None,
                },
                else => return None,
            }
        }
    }

    /// A pasted line with the lines that arrive with it, and after an unfinished address that a terminal has wrapped.
    async fn complete_lines(&mut self, first: String) -> String {
        let mut text = first;
        while let Some(lines) = &mut self.lines {
            match self.clock.within(PASTE_WINDOW, lines.next_line()).await {
                Some(Ok(Some(line))) => text = format!("{text}\n{line}"),
                Some(_) => self.lines = None,
                None => break,
            }
        }
        let anew = starts_callback(&text) || text.contains("://") || !starts_callback(&self.pasted);
        self.pasted = if anew {
            text
        } else {
            format!("{}\n{text}", self.pasted)
        };
        self.pasted.clone()
    }
}

/// Listens at the redirect URI, if that is on this machine.
///
/// # Errors
/// Another program listens there: the browser would send the code to it.
async fn listen_at(redirect_uri: &str) -> Result<Option<Callback>, CommandError> {
    let Some(addresses) = loopbacks(redirect_uri) else {
        return Ok(None);
    };
    let (callback, missing) = Callback::listen(&addresses).await;
    let taken = |(_, error): &&(SocketAddr, io::Error)| error.kind() == io::ErrorKind::AddrInUse;
    if let Some((address, _)) = missing.iter().find(taken) {
        let message = format!(
            "another program listens on {address}, where the browser is sent to {redirect_uri} and may hand it the code: end that \
             program, such as another refreshd authorize, and begin again. If it shall receive the code, use --listen ADDRESS"
        );
        return Err(CommandError::new(Exit::TryAgain, message));
    }
    // On a machine without one of the two loopbacks no browser can reach it.
    if let (None, Some((address, error))) = (&callback, missing.first()) {
        terminal::eprintln(&format!(
            "cannot listen on {address} for the browser ({error}); paste the address instead"
        ));
    }
    Ok(callback)
}

/// Local addresses of the redirect URI: a browser may resolve `localhost` to either loopback.
fn loopbacks(redirect_uri: &str) -> Option<Vec<SocketAddr>> {
    let url = Url::parse(redirect_uri)
        .ok()
        .filter(|url| url.scheme() == "http")?;
    let (v4, v6) = (
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    );
    let ips = match url.host()? {
        Host::Ipv4(ip) => vec![IpAddr::V4(ip)],
        Host::Ipv6(ip) => vec![IpAddr::V6(ip)],
        Host::Domain(name) if name.trim_end_matches('.') == "localhost" => vec![v4, v6],
        Host::Domain(_) => return None,
    };
    let port = url.port_or_known_default()?;
    let is_here = ips.iter().all(IpAddr::is_loopback);
    is_here.then(|| {
        let at = |ip| SocketAddr::new(ip, port);
        ips.into_iter().map(at).collect()
    })
}

/// Shows the address, and opens a browser at a local page that redirects there: a browser's arguments are visible to every user
/// of this machine.
async fn show(begun: &Begun, callback: Option<&Callback>, no_browser: bool) -> Option<BrowserPage> {
    terminal::eprintln("Open this address in a browser, as the user for whom the app shall act:");
    terminal::eprintln(&begun.url);
    let opening = if !no_browser && terminal::is_desktop() {
        open_browser(&begun.url).await
    } else {
        None
    };
    let paste = "paste the address that it was sent to, within 30 seconds:";
    terminal::eprintln(&match callback {
        Some(callback) => {
            let addresses: Vec<_> = callback
                .addresses
                .iter()
                .map(|it| format!("http://{it}"))
                .collect();
            format!(
                "Waiting for the browser on {}. Or {paste}",
                addresses.join(" and ")
            )
        }
        None => format!("Then {paste}"),
    });
    opening
}

async fn open_browser(url: &str) -> Option<BrowserPage> {
    match BrowserPage::listen(url).await {
        Ok(opening) if open::that_detached(&opening.url).is_ok() => {
            terminal::eprintln("(It was opened in the default browser.)");
            Some(opening)
        }
        Ok(opening) => {
            opening.close().await;
            None
        }
        Err(error) => {
            terminal::eprintln(&format!(
                "(No browser was opened: there is no page on this machine to open it at ({error}), and its arguments would \
                 show the address to every user of this machine.)"
            ));
            None
        }
    }
}

fn opened_again() -> CommandError {
    let message = "the one-time page for the browser was opened twice: the first request may have come from another user of this \
                   machine, who could answer with a grant of his own. Nothing was stored. Begin again; with --no-browser you \
                   open the address yourself";
    CommandError::new(Exit::TryAgain, message)
}

fn timed_out(limit: Duration) -> CommandError {
    let limit = humantime::format_duration(limit);
    let message = format!(
        "no answer within {limit}. Some providers, Bitrix24 among them, show a failure in the browser and send it \
         nowhere: see what it shows"
    );
    CommandError::new(Exit::TryAgain, message)
}

fn no_input_source() -> CommandError {
    let message = "nothing can be pasted here, and the browser is not sent to this machine: hand the address over with \
                   --redirected-url, to the daemon that began it, which must run meanwhile";
    CommandError::new(Exit::Usage, message)
}
