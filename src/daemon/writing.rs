//! Whether the state takes what is written: noted at every write, tried where there is none, told when it changes.
//!
//! Must not take a look for a write: only what was committed with something in it says that a disk is well.

use super::announce::{Subject, announce};
use super::publisher::chain;
use super::shared::Shared;
use crate::adapters::state::StateError;
use crate::domain::escalation::{Announcement, Severity};

/// Something was written.
pub fn taken(shared: &Shared) {
    if shared.health.state_writable(true) {
        say("resolved", Severity::Notice, "the state is written again".to_owned(), "none");
    }
}

/// Something could not be written.
pub fn refused(shared: &Shared, error: &StateError) {
    if shared.health.state_writable(false) {
        let reason = format!("the state cannot be written, so nothing is sent: {}", chain(error));
        say(
            "state",
            Severity::Critical,
            reason,
            "free space or repair the disk of the state; it is retried by itself",
        );
    }
}

/// Writes something, if nothing was written for a while or the last time failed.
///
/// # Errors
/// [`StateError`]: nothing can be claimed now.
pub async fn try_if_in_doubt(shared: &Shared) -> Result<(), StateError> {
    if shared.health.doubts_the_state() {
        shared.state.try_writing().await?;
        taken(shared);
    }
    Ok(())
}

fn say(step: &str, severity: Severity, reason: String, action: &str) {
    let announcement = Announcement {
        step: step.to_owned(),
        severity,
        reason,
        action: action.to_owned(),
        remaining: None,
        notify: Vec::new(),
    };
    announce(Subject::Daemon, &announcement);
}
