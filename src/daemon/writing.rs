//! Whether the state takes what is written: noted at every write, tried where there is none, told when it changes.
//!
//! Must not take a look for a write: only what was committed with something in it says that a disk is well.

use super::alerts::What;
use super::publisher::chain;
use super::shared::Shared;
use crate::adapters::state::StateError;

/// Something was written.
pub fn taken(shared: &Shared) {
    if shared.health.state_writable(true) {
        shared.conditions.end(What::State, "the state is written again");
    }
}

/// Something could not be written.
pub fn refused(shared: &Shared, error: &StateError) {
    if shared.health.state_writable(false) {
        let reason = format!("the state cannot be written, so nothing is sent: {}", chain(error));
        shared.conditions.begin(What::State, reason);
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
