//! `[install] listen`: takes in what portals tell of installed apps, answers at once, and works it off in the background.
//!
//! What is answered with 200 is in the state before, so that neither a stop nor a crash loses it; it is no portal's there until
//! it was verified. Must not believe what comes: `work` asks the authorization server.

mod contest;
mod door;
mod fair;
mod page;
mod prove;
mod refusals;
mod removal;
mod shares;
mod work;

use std::net::SocketAddr;
use std::sync::Arc;

pub use refusals::Refusals;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::http::ListenError;
use super::publisher::chain;
use super::shared::Shared;
use crate::adapters::state::KeptNotice;
use crate::domain::install::Outcome;
use crate::domain::notice::{self, Notice};

use fair::Sender;
use shares::{Place, Shares, Whose};

/// Notices that may wait to be worked off; one takes about a thousand bytes.
const QUEUE: usize = 4096;

/// A notice that was taken in.
struct Job {
    /// Its row in the state.
    row: i64,
    /// The app's name.
    app: String,
    notice: Notice,
    /// Who sent it, if the proxy in front says so.
    source: Option<std::net::IpAddr>,
    /// Its place in the queue.
    place: Place,
}

impl Job {
    /// Whose turn it takes.
    fn sender(&self) -> Sender {
        self.place.sender().clone()
    }

    /// Whether it is of a portal that has the app.
    fn is_known(&self) -> bool {
        self.place.is_known()
    }
}

impl Sender {
    fn of(source: Option<std::net::IpAddr>, notice: &Notice) -> Self {
        match (source, notice) {
            (Some(source), _) => Sender::Known(door::number(source)),
            (None, Notice::Opened(it) | Notice::Installed(it) | Notice::SystemUser(it)) => {
                Sender::Claimed(it.claims.host.clone().unwrap_or_else(|| it.claims.member_id.clone()))
            }
            (None, Notice::Removed(removal)) => {
                Sender::Claimed(removal.host.clone().unwrap_or_else(|| removal.member_id.clone()))
            }
            (None, Notice::Incomplete(_) | Notice::Other) => Sender::Claimed(String::new()),
        }
    }
}

/// Binds the listener.
///
/// # Errors
/// [`ListenError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::new("install", address, source))
}

/// Serves until `stop`, and then until what was taken in is worked off.
pub async fn run(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let shares = Arc::default();
    take_up(&shared, &queue, &shares).await;
    let working = work::run(Arc::clone(&shared), jobs, stop.clone());
    tokio::join!(door::serve_notices(shared, listener, (queue, shares), stop), working);
}

/// Takes up what an earlier process had taken in.
async fn take_up(shared: &Shared, queue: &mpsc::Sender<Job>, shares: &Arc<Shares>) {
    let kept = match shared.state.waiting_notices().await {
        Ok(kept) => kept,
        Err(error) => {
            return tracing::error!(error = %chain(&error), "notices of installs that wait cannot be read; the next start tries again");
        }
    };
    let count = kept.len();
    for KeptNotice { row, app, query, body, source } in kept {
        let Ok(notice) = notice::read(&query, &body) else {
            // Of another version, which understood it. Not removed now, it is at the next start.
            let _ = shared.state.notice_done(row).await;
            continue;
        };
        let source = source.and_then(|source| source.parse().ok());
        let whose = whose(shared, &app, source, &notice, body.len()).await;
        // There are no more than the queue holds.
        let _ = queue.try_send(Job { row, app, notice, source, place: shares.take(whose) });
    }
    if count > 0 {
        tracing::info!(target: "refreshd::install", count, "{count} notices of installs that were taken in before are worked off now");
    }
}

/// Whose share of the queue and of the questions a notice uses.
async fn whose(
    shared: &Shared,
    app: &str,
    source: Option<std::net::IpAddr>,
    notice: &Notice,
    bytes: usize,
) -> Whose {
    let binding = shared.config().apps.get(app).map(|app| app.binding(None));
    let member_id = match notice {
        Notice::Opened(it) | Notice::Installed(it) | Notice::SystemUser(it) => Some(&it.claims.member_id),
        Notice::Removed(removal) => Some(&removal.member_id),
        Notice::Incomplete(_) | Notice::Other => None,
    };
    let is_known = match binding.zip(member_id) {
        Some((binding, member_id)) => shared.state.is_installed(binding, member_id.clone()).await,
        None => Ok(false),
    };
    Whose {
        app: app.to_owned(),
        sender: Sender::of(source, notice),
        // A state that cannot be read decides nothing here.
        is_known: is_known.unwrap_or_default(),
        bytes,
    }
}

/// What is told of one notice: a line in the log, and a count. Nothing of it may be secret.
struct Told<'t> {
    app: &'t str,
    outcome: Outcome,
    /// The host that the notice names. Nobody has verified it.
    host: Option<&'t str>,
    source: Option<std::net::IpAddr>,
    reason: &'t str,
}

impl Told<'_> {
    /// Of an event that should have brought a grant: other events that are left alone are common, and not worth a line.
    fn tell_aloud(&self, shared: &Shared) {
        self.tell(shared);
        let Self { app, outcome, host, source, reason } = *self;
        let domain = host.map(|host| crate::domain::mask::mask(host, &[]));
        let (word, source) = (outcome.as_str(), source.map(tracing::field::display));
        tracing::warn!(target: "refreshd::install", app, outcome = word, domain, source, "an event of {app} was left alone: {reason}");
    }

    fn tell(&self, shared: &Shared) {
        let Self { app, outcome, host, source, reason } = *self;
        shared.metrics.install(app, outcome);
        let is_refusal =
            matches!(outcome, Outcome::Forged | Outcome::Replayed | Outcome::Unverified | Outcome::Malformed);
        if is_refusal && !shared.refusals.has_line(shared.clock, (app, outcome, reason)) {
            return;
        }
        let domain = host.map(|host| crate::domain::mask::mask(host, &[]));
        let (word, source) = (outcome.as_str(), source.map(tracing::field::display));
        match outcome {
            Outcome::Ignored => {
                tracing::debug!(target: "refreshd::install", app, outcome = word, domain, source, "an event of {app} was left alone: {reason}");
            }
            Outcome::Stored | Outcome::Resumed | Outcome::Uninstalled => {
                tracing::info!(target: "refreshd::install", app, outcome = word, domain, source, "{reason}");
            }
            Outcome::FreshAlready | Outcome::OtherUser => {
                tracing::info!(target: "refreshd::install", app, outcome = word, domain, source, "a notice of {app} changed nothing ({word}): {reason}");
            }
            Outcome::Forged
            | Outcome::Replayed
            | Outcome::Unverified
            | Outcome::Malformed
            | Outcome::TooMany
            | Outcome::NotStored => {
                tracing::warn!(target: "refreshd::install", app, outcome = word, domain, source, "a notice of {app} was refused ({word}): {reason}");
            }
        }
    }
}

/// Says what was refused and had no line of its own.
fn tell_many(shared: &Shared, all: bool) {
    for refusals::Many { app, outcome, reason, count } in shared.refusals.due(shared.clock, all) {
        let word = outcome.as_str();
        tracing::warn!(target: "refreshd::install", app, outcome = word, count, "{count} more notices of {app} were refused ({word}): {reason}");
    }
}
