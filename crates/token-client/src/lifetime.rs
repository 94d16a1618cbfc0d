//! The lifetimes of access tokens that are believed.

use std::time::Duration;

/// Shortest and longest life believed of a token, whatever `expires_in` says: one second to 400 days.
pub const LIFETIME_RANGE: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(400 * 86_400));

/// Holds a lifetime within [`LIFETIME_RANGE`].
#[must_use]
pub fn believable(lifetime: Duration) -> Duration {
    lifetime.clamp(LIFETIME_RANGE.0, LIFETIME_RANGE.1)
}
