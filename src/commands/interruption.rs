//! Signals that end a command: at once, or once the request that it has sent is answered and the answer is stored.
//!
//! A refresh token works once: a command that ends before the reply to its request loses the grant.

use std::fs;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI32, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::exit::{CommandError, Exit};
use super::terminal;
use crate::adapters::signals::Signals;

/// Number of requests in progress that must be finished.
static IN_PROGRESS: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));
/// Number of the signal that has come; 0 is none.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

/// A request in progress. Until it is dropped, a signal waits.
pub(super) struct InProgress(());

impl InProgress {
    /// Begins a request.
    ///
    /// # Errors
    /// A signal has come: nothing new is sent.
    pub(super) fn begin() -> Result<Self, CommandError> {
        match INTERRUPTED.load(Ordering::Relaxed) {
            0 => Ok(Self::finish()),
            signal => Err(CommandError::new(
                Exit::Interrupted(signal),
                "interrupted: nothing more is sent",
            )),
        }
    }

    /// Starts waiting for the end of sent requests, after a signal, too.
    pub(super) fn finish() -> Self {
        IN_PROGRESS.send_modify(|count| *count += 1);
        Self(())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        IN_PROGRESS.send_modify(|count| *count -= 1);
    }
}

/// Waits for a signal that asks for an end, and then for requests in progress. Logs and ignores signals without a meaning.
///
/// # Errors
/// The signals cannot be received.
pub(super) async fn interrupted() -> io::Result<Exit> {
    let mut signals = Signals::listen()?;
    // If it is ignored, as nohup does, the command shall outlive its terminal.
    let mut hangup = if ignores(SignalKind::hangup()) {
        None
    } else {
        Some(signal(SignalKind::hangup())?)
    };
    let number = loop {
        let received = tokio::select! {
            received = signals.next() => received,
            () = received(hangup.as_mut()) => break SignalKind::hangup().as_raw_value(),
        };
        if received.stops {
            break received.number;
        }
        terminal::eprintln(&format!(
            "{} has no meaning for refreshd and is ignored; SIGTERM stops",
            received.name
        ));
    };
    INTERRUPTED.store(number, Ordering::Relaxed);
    let mut in_progress = IN_PROGRESS.subscribe();
    if *in_progress.borrow_and_update() > 0 {
        terminal::eprintln(
            "interrupted; waiting for the request that was sent, so that no grant is lost with its reply",
        );
        // The sender is never dropped.
        let _ = in_progress.wait_for(|count| *count == 0).await;
    }
    Ok(Exit::Interrupted(number))
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Returns whether this process was started with the signal ignored.
fn ignores(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (kind.as_raw_value() - 1)) != 0)
}
