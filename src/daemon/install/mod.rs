//! `[install] listen`: webhook receiver for install events of portals. Acknowledges an event at once, and processes it in
//! the background.
//!
//! An event is stored before it is acknowledged with 200, so that neither a stop nor a crash loses it; it changes no portal
//! until it was verified. Must not trust an event: `process` queries the authorization server.

mod dispute;
mod fair_queue;
mod job;
mod page;
mod process;
mod queue_shares;
mod receive;
mod refusals;
mod removal;
mod result_log;
mod verify;
mod worker;

use std::sync::Arc;

pub use refusals::Refusals;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::adapters::state::StoredEvent;
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use crate::domain::install_event;

use job::{InstallJob, share_of};
use queue_shares::{QUEUE, QueueShares};

/// Serves until `stop`, and then until the stored events are processed.
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

/// Resumes the events that an earlier process had stored.
async fn resume_stored_events(
    shared: &Context,
    queue: &mpsc::Sender<InstallJob>,
    shares: &Arc<QueueShares>,
) {
    let kept = match shared.state.waiting_events().await {
        Ok(kept) => kept,
        Err(error) => {
            return tracing::error!(error = %error_chain(&error), "notices of installs that wait cannot be read; the next start tries again");
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
            // An event of another version, which could parse it. If it cannot be removed now, the next start removes it.
            let _ = shared.state.event_done(row).await;
            continue;
        };
        let source = source.and_then(|source| source.parse().ok());
        let share = share_of(shared, &app, source, &notice, body.len()).await;
        // The queue has room for all stored events.
        let _ = queue.try_send(InstallJob {
            row,
            app,
            notice,
            source,
            place: shares.take(share),
        });
    }
    if count > 0 {
        tracing::info!(target: "refreshd::install", count, "{count} notices of installs that were stored before are processed now");
    }
}
