//! Health of the state: recorded at every write, probed if there was none, reported when it changes.
//!
//! Must not treat a read as a write: only a commit with a change proves that the disk works.

use crate::adapters::state::{Displaced, StateError};
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::alerts::{Condition, StateReader};
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::EscalationNotice;
use refreshd_alerting::Severity;

/// Records a successful write. If the state's files are displaced, it is no sign of health.
pub fn write_succeeded(shared: &Context) {
    if shared.state.displaced().is_none() && shared.health.state_writable(true) {
        shared
            .conditions
            .end_any(Condition::State, "the state is written again");
        shared
            .conditions
            .end_any(Condition::Displaced, "the state is in its place again");
    }
}

/// Records a failed write.
pub fn write_failed(shared: &Context, error: &StateError) {
    let first = shared.health.state_writable(false);
    match shared.state.displaced() {
        Some(displaced) => report_displaced(shared, &displaced),
        None if first => {
            let reason = format!(
                "the state cannot be written, so nothing is sent: {}",
                error_chain(error)
            );
            shared.conditions.begin(Condition::State, reason);
        }
        None => {}
    }
}

/// Checks that the state's files are where a start would find them; removed files are written back.
pub async fn watch(shared: &Context) {
    if let Some(displaced) = shared.state.stand().await {
        shared.health.state_writable(false);
        report_displaced(shared, &displaced);
    } else if shared.conditions.is_active(Condition::Displaced)
        && let Err(error) = probe_if_stale(shared).await
    {
        write_failed(shared, &error);
    }
    // Pages in memory hide damage of the disk until the next write, so they are dropped. Damage elsewhere is detected by chance, but
    // its end is not, so it is verified.
    if !shared.conditions.cannot_read(StateReader::Others) {
        // Whoever reads reports damage.
        let _ = shared.state.read_anew(shared.clock.now()).await;
    } else if shared.state.verify().await.is_ok() {
        shared.conditions.reads(StateReader::Others, Ok(()));
    }
    if shared.state.was_written_back() {
        let notice = EscalationNotice {
            step: "state-written-back".to_owned(),
            severity: Severity::Warning,
            reason: format!(
                "the state {} was removed while refreshd ran, and was written back from what refreshd had open; nothing is lost",
                shared.config().paths.state.display()
            ),
            action: "find out who removes files there; a backup or a clean-up must leave state.db and state.db-wal alone".to_owned(),
            remaining: None,
        };
        log_escalation(EscalationSubject::Daemon, &notice);
    }
}

fn report_displaced(shared: &Context, displaced: &Displaced) {
    let mut reason = format!("{displaced}; nothing is renewed meanwhile");
    let says_so = matches!(displaced, Displaced::Returned { .. });
    if !says_so && shared.conditions.is_active(Condition::Lost) {
        reason.push_str(
            ". What refreshd has lacks grants that there were before: if what was put there is the state that was missing, remove \
             nothing and restart refreshd, which goes on with it",
        );
    }
    if shared.conditions.reason(Condition::Displaced).as_deref() != Some(&reason) {
        shared.conditions.begin(Condition::Displaced, reason);
    }
}

/// Writes to the state, if nothing was written for a while or the last write failed.
///
/// # Errors
/// [`StateError`]: nothing can be claimed now.
pub async fn probe_if_stale(shared: &Context) -> Result<(), StateError> {
    if shared.health.is_state_unproven() {
        shared.state.try_writing().await?;
        write_succeeded(shared);
    }
    Ok(())
}
