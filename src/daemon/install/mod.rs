//! `[install] listen`: takes in what portals tell of installed apps, answers at once, and works it off in the background.
//!
//! What is answered with 200 is in the state before, so that neither a stop nor a crash loses it; it is no portal's there until
//! it was verified. Must not believe what comes: `work` asks the authorization server.

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

use job::{InstallJob, whose};
use queue_shares::{QUEUE, QueueShares};

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
