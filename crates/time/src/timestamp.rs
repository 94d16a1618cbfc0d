//! Wall-clock instants as plain numbers. Must not read a clock: that is `clock`.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Last second that RFC 3339 can express: 9999-12-31T23:59:59Z.
const LAST_SECOND: i64 = 253_402_300_799;

/// A wall-clock instant in milliseconds since 1970-01-01T00:00:00Z. Displays as RFC 3339 with whole seconds.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch; saturates.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Time since `earlier`; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Time from `now` to this; zero if it has passed.
    #[must_use]
    pub fn until(self, now: Self) -> Duration {
        self.since(now)
    }

    /// Shifted by a signed number of milliseconds, as after a clock step; saturates.
    #[must_use]
    pub const fn shifted(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = u64::try_from(self.secs().clamp(0, LAST_SECOND)).unwrap_or(0);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(secs)).fmt(f)
    }
}

/// Seconds by which a server's clock is ahead, from the date of its reply. Bounded by the time between sending and
/// reading: a reply that was read late, as by a stopped process, must not look old.
#[must_use]
pub fn skew(date: Timestamp, sent_at: Timestamp, read_at: Timestamp) -> i64 {
    let (earliest, latest) = (sent_at.secs(), read_at.secs().max(sent_at.secs()));
    let date = date.secs();
    date.saturating_sub(date.clamp(earliest, latest))
}

/// A duration for people: at most two units, whole seconds, `0s` for zero. (`24m 40s`, `3days 2h`)
#[must_use]
pub fn human(span: Duration) -> String {
    let secs = span.as_secs();
    let rounded = match secs {
        0..3_600 => secs,
        3_600..86_400 => secs - secs % 60,
        _ => secs - secs % 3_600,
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

/// `share` of a duration, for shares from 0 to a few.
#[must_use]
pub fn share_of(span: Duration, share: f64) -> Duration {
    span.mul_f64(share.clamp(0.0, 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc3339_and_never_panics_at_the_ends() {
        assert_eq!(
            Timestamp::from_secs(1_795_194_000).to_string(),
            "2026-11-20T17:00:00Z"
        );
        assert_eq!(
            Timestamp::from_millis(i64::MAX).to_string(),
            "9999-12-31T23:59:59Z"
        );
        assert_eq!(
            Timestamp::from_millis(i64::MIN).to_string(),
            "1970-01-01T00:00:00Z"
        );
    }

    #[test]
    fn a_reply_that_was_read_late_says_nothing_of_the_clocks() {
        let (sent, read) = (1_795_000_000, 1_795_000_036);
        let skew = |date| {
            let at = Timestamp::from_secs;
            skew(at(date), at(sent), at(read))
        };
        assert_eq!((skew(sent), skew(sent + 1), skew(read)), (0, 0, 0));
        assert_eq!((skew(sent - 40), skew(read + 40)), (-40, 40));
    }

    #[test]
    fn durations_for_people_have_two_units_at_most() {
        assert_eq!(human(Duration::from_secs(1_480)), "24m 40s");
        assert_eq!(human(Duration::from_secs(3_725)), "1h 2m");
        assert_eq!(human(Duration::from_millis(400)), "0s");
    }
}
