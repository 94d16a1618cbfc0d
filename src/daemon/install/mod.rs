//! `[install] listen`: takes in what portals tell of installed apps, answers at once, and works it off in the background.
//!
//! What is answered with 200 is in the state before, so that neither a stop nor a crash loses it; it is no portal's there until
//! it was verified. Must not believe what comes: `work` asks the authorization server.

mod dispute;
mod fair_queue;
mod page;
mod process;
mod queue_shares;
mod receive;
mod refusals;
mod removal;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;

pub use refusals::Refusals;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::adapters::state::StoredEvent;
use crate::daemon::context::Context;
use crate::daemon::http::ListenError;
use crate::daemon::publisher::chain;
use crate::domain::install::Outcome;
use crate::domain::install_event::{self, InstallEvent};

use fair_queue::EventSender;
use queue_shares::{QueueShares, QueueSlot, ShareOf};

/// Notices that may wait to be worked off; one takes about a thousand bytes.
const QUEUE: usize = 4096;

/// A notice that was taken in.
struct InstallJob {
    /// Its row in the state.
    row: i64,
    /// The app's name.
    app: String,
    notice: InstallEvent,
    /// Who sent it, if the proxy in front says so.
    source: Option<std::net::IpAddr>,
    /// Its place in the queue.
    place: QueueSlot,
}

impl InstallJob {
    /// Whose turn it takes.
    fn sender(&self) -> EventSender {
        self.place.sender().clone()
    }

    /// Whether it is of a portal that has the app.
    fn is_known(&self) -> bool {
        self.place.is_known()
    }
}

impl EventSender {
    fn of(source: Option<std::net::IpAddr>, notice: &InstallEvent) -> Self {
        match (source, notice) {
            (Some(source), _) => EventSender::Known(receive::number(source)),
            (
                None,
                InstallEvent::Opened(it)
                | InstallEvent::Installed(it)
                | InstallEvent::SystemUser(it),
            ) => EventSender::Claimed(
                it.claims
                    .host
                    .clone()
                    .unwrap_or_else(|| it.claims.member_id.clone()),
            ),
            (None, InstallEvent::Removed(removal)) => EventSender::Claimed(
                removal
                    .host
                    .clone()
                    .unwrap_or_else(|| removal.member_id.clone()),
            ),
            (None, InstallEvent::Incomplete(_) | InstallEvent::Other) => {
                EventSender::Claimed(String::new())
            }
        }
    }
}

/// Binds the listener.
///
/// # Errors
/// [`ListenError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::new("install", address, source))
}

/// Serves until `stop`, and then until what was taken in is worked off.
pub async fn run(shared: Arc<Context>, listener: TcpListener, stop: CancellationToken) {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let shares = Arc::default();
    resume_stored_events(&shared, &queue, &shares).await;
    let working = process::run(Arc::clone(&shared), jobs, stop.clone());
    tokio::join!(
        receive::serve_install_events(shared, listener, (queue, shares), stop),
        working
    );
}

/// Takes up what an earlier process had taken in.
async fn resume_stored_events(
    shared: &Context,
    queue: &mpsc::Sender<InstallJob>,
    shares: &Arc<QueueShares>,
) {
    let kept = match shared.state.waiting_events().await {
        Ok(kept) => kept,
        Err(error) => {
            return tracing::error!(error = %chain(&error), "notices of installs that wait cannot be read; the next start tries again");
        }
    };
    let count = kept.len();
    for StoredEvent {
        row,
        app,
        query,
        body,
        source,
    } in kept
    {
        let Ok(notice) = install_event::read(&query, &body) else {
            // Of another version, which understood it. Not removed now, it is at the next start.
            let _ = shared.state.event_done(row).await;
            continue;
        };
        let source = source.and_then(|source| source.parse().ok());
        let whose = whose(shared, &app, source, &notice, body.len()).await;
        // There are no more than the queue holds.
        let _ = queue.try_send(InstallJob {
            row,
            app,
            notice,
            source,
            place: shares.take(whose),
        });
    }
    if count > 0 {
        tracing::info!(target: "refreshd::install", count, "{count} notices of installs that were taken in before are worked off now");
    }
}

/// Whose share of the queue and of the questions a notice uses.
async fn whose(
    shared: &Context,
    app: &str,
    source: Option<std::net::IpAddr>,
    notice: &InstallEvent,
    bytes: usize,
) -> ShareOf {
    let binding = shared.config().apps.get(app).map(|app| app.binding(None));
    let member_id = match notice {
        InstallEvent::Opened(it) | InstallEvent::Installed(it) | InstallEvent::SystemUser(it) => {
            Some(&it.claims.member_id)
        }
        InstallEvent::Removed(removal) => Some(&removal.member_id),
        InstallEvent::Incomplete(_) | InstallEvent::Other => None,
    };
    let is_known = match binding.zip(member_id) {
        Some((binding, member_id)) => shared.state.is_installed(binding, member_id.clone()).await,
        None => Ok(false),
    };
    ShareOf {
        app: app.to_owned(),
        sender: EventSender::of(source, notice),
        // A state that cannot be read decides nothing here.
        is_known: is_known.unwrap_or_default(),
        bytes,
    }
}

/// What is told of one notice: a line in the log, and a count. Nothing of it may be secret.
struct LogContext<'t> {
    app: &'t str,
    outcome: Outcome,
    /// The host that the notice names. Nobody has verified it.
    host: Option<&'t str>,
    source: Option<std::net::IpAddr>,
    reason: &'t str,
}

impl LogContext<'_> {
    /// Of an event that should have brought a grant: other events that are left alone are common, and not worth a line.
    fn log_at_info(&self, shared: &Context) {
        self.log_result(shared);
        let Self {
            app,
            outcome,
            host,
            source,
            reason,
        } = *self;
        let domain = host.map(|host| crate::domain::mask::mask(host, &[]));
        let (word, source) = (outcome.as_str(), source.map(tracing::field::display));
        tracing::warn!(target: "refreshd::install", app, outcome = word, domain, source, "an event of {app} was left alone: {reason}");
    }

    fn log_result(&self, shared: &Context) {
        let Self {
            app,
            outcome,
            host,
            source,
            reason,
        } = *self;
        shared.metrics.install(app, outcome);
        let is_refusal = matches!(
            outcome,
            Outcome::Forged | Outcome::Replayed | Outcome::Unverified | Outcome::Malformed
        );
        if is_refusal
            && !shared
                .refusals
                .has_line(shared.clock, (app, outcome, reason))
        {
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
fn log_results(shared: &Context, all: bool) {
    for refusals::FoldedRefusals {
        app,
        outcome,
        reason,
        count,
    } in shared.refusals.due(shared.clock, all)
    {
        let word = outcome.as_str();
        tracing::warn!(target: "refreshd::install", app, outcome = word, count, "{count} more notices of {app} were refused ({word}): {reason}");
    }
}
