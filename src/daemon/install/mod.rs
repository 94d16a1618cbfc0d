//! `[install] listen`: takes in what portals tell of installed apps, answers at once, and works it off in the background.
//!
//! Must not believe what comes: `work` asks the authorization server. Must not store what was not verified: what a crash
//! loses, the provider brings again when the app is opened next.

mod door;
mod page;
mod prove;
mod work;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::http::ListenError;
use super::shared::Shared;
use crate::domain::install::Outcome;
use crate::domain::notice::Notice;

/// Notices that may wait to be worked off; one takes about a thousand bytes.
const QUEUE: usize = 4096;

/// A notice that was taken in.
struct Job {
    /// The app's name.
    app: String,
    notice: Notice,
    /// Who sent it, if the proxy in front says so.
    source: Option<std::net::IpAddr>,
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
    let working = work::run(Arc::clone(&shared), jobs, stop.clone());
    tokio::join!(door::serve_notices(shared, listener, queue, stop), working);
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
