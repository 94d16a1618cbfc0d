//! Wait after a failure: exponential backoff with full jitter, scaled to the token's lifetime.
//!
//! Must not count attempts itself: the count is part of the stored phase, so a restart does not reset it.

use std::time::Duration;

/// First ceiling for a token with a lifetime of an hour.
const FIRST: Duration = Duration::from_secs(5);
/// Highest ceiling while the access token lives.
const CAP: Duration = Duration::from_secs(300);
/// Highest ceiling once it has expired.
const CAP_EXPIRED: Duration = Duration::from_secs(900);
/// Minimum wait: a failure always moves the next attempt into the future.
pub const MIN_WAIT: Duration = Duration::from_millis(500);
/// Longer values of `Retry-After` are capped here.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// The wait before attempt `attempt + 1`, counted from 1 for the first failure.
///
/// The ceiling doubles from 5 s to 5 min (15 min once the token has expired). Tokens that live under an hour get
/// proportionally lower ceilings, or there would be no time for a second attempt. `jitter` is in [0, 1).
#[must_use]
pub fn wait(attempt: u32, lifetime: Duration, expired: bool, jitter: f64) -> Duration {
    let cap = if expired {
        CAP_EXPIRED.min(lifetime / 4)
    } else {
        CAP.min(lifetime / 12)
    };
    let doublings = attempt.saturating_sub(1).min(16);
    let ceiling = FIRST.saturating_mul(1 << doublings).min(cap);
    ceiling.mul_f64(jitter.clamp(0.0, 1.0)).max(MIN_WAIT)
}

/// Wait after a refusal with an unknown error code. The same request is likely to be refused again, so the ceiling is a
/// quarter of the lifetime from the first attempt on, and the minimum is half of that.
#[must_use]
pub fn wait_after_unknown(
    attempt: u32,
    lifetime: Duration,
    expired: bool,
    jitter: f64,
) -> Duration {
    let cap = if expired { CAP_EXPIRED } else { CAP }.min(lifetime / 4);
    let doublings = attempt.saturating_sub(1).min(16);
    let ceiling = FIRST.saturating_mul(1 << doublings).min(cap);
    ceiling
        .mul_f64(jitter.clamp(0.0, 1.0).midpoint(1.0))
        .max(MIN_WAIT)
}

/// [`wait`], or the server's `Retry-After` if that is longer.
#[must_use]
pub fn wait_at_least(own: Duration, asked: Option<Duration>) -> Duration {
    own.max(asked.unwrap_or_default().min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn doubles_from_five_seconds_to_five_minutes_and_fifteen_once_expired() {
        let ceiling = |attempt, expired| wait(attempt, HOUR, expired, 1.0).as_secs();
        assert_eq!(
            [1, 2, 3, 6, 7, 99].map(|n| ceiling(n, false)),
            [5, 10, 20, 160, 300, 300]
        );
        assert_eq!(
            [7, 8, 9, 99].map(|n| ceiling(n, true)),
            [320, 640, 900, 900]
        );
    }

    #[test]
    fn a_refusal_that_nobody_knows_is_not_repeated_every_other_second() {
        let short = Duration::from_secs(40);
        for attempt in 2..40 {
            for expired in [false, true] {
                let wait = wait_after_unknown(attempt, short, expired, 0.0).as_secs_f64();
                assert!(wait >= 5.0, "{attempt} {expired}: {wait}");
            }
        }
        assert_eq!(wait_after_unknown(9, HOUR, false, 1.0).as_secs(), 300);
    }

    #[test]
    fn a_server_that_asks_for_more_time_gets_it_up_to_a_day() {
        let own = Duration::from_secs(7);
        assert_eq!(
            wait_at_least(own, Some(Duration::from_secs(60))).as_secs(),
            60
        );
        assert_eq!(
            wait_at_least(own, Some(Duration::from_secs(1))).as_secs(),
            7
        );
        assert_eq!(wait_at_least(own, Some(Duration::MAX)), MAX_RETRY_AFTER);
    }

    proptest! {
        #[test]
        fn every_failure_moves_the_next_attempt_into_the_future(
            attempt in 0u32.., life in 0u64..400_000_000, expired: bool, jitter in 0.0f64..1.0
        ) {
            let wait = wait(attempt, Duration::from_secs(life), expired, jitter);
            prop_assert!(wait >= MIN_WAIT && wait <= CAP_EXPIRED);
        }
    }
}
