//! One line for `systemctl status`.
//!
//! Must not hide that the configuration in force is older than the files: it says so until a reload succeeds.

use crate::adapters::state::StateError;
use crate::daemon::context::Context;
use crate::daemon::summary;

/// What follows a refused reload.
pub(crate) const OLD_CONFIGURATION: &str =
    "; the last reload failed and the old configuration is in force: see refreshd check";

/// The line.
///
/// # Errors
/// [`StateError`].
pub(crate) async fn status_line(shared: &Context) -> Result<String, StateError> {
    let mut text = summary::portals(shared).await?;
    if shared.health.has_old_configuration() {
        text.push_str(OLD_CONFIGURATION);
    }
    Ok(text)
}
