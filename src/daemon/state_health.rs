//! Whether the state takes what is written: noted at every write, tried where there is none, told when it changes.
//!
//! Must not take a look for a write: only what was committed with something in it says that a disk is well.

use super::alerts::Condition;
use super::context::Context;
use super::publisher::chain;
use crate::adapters::state::StateError;

/// Something was written.
pub fn write_succeeded(shared: &Context) {
    if shared.health.state_writable(true) {
        shared.conditions.end(Condition::State, "the state is written again");
    }
}

/// Something could not be written.
pub fn write_failed(shared: &Context, error: &StateError) {
    if shared.health.state_writable(false) {
        let reason = format!("the state cannot be written, so nothing is sent: {}", chain(error));
        shared.conditions.begin(Condition::State, reason);
    }
}

/// Writes something, if nothing was written for a while or the last time failed.
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
