//! Plausible lifetimes of access tokens.

use std::time::Duration;

/// Shortest and longest plausible lifetime, whatever `expires_in` states: one second to 400 days.
pub const LIFETIME_RANGE: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(400 * 86_400));

/// Clamps a lifetime to [`LIFETIME_RANGE`].
#[must_use]
pub fn believable(lifetime: Duration) -> Duration {
    lifetime.clamp(LIFETIME_RANGE.0, LIFETIME_RANGE.1)
}
