//! Warnings about the end of a refresh token: times and texts.
//!
//! Must not compute the end: `refreshd_token_client::refresh_end` does.

use std::time::Duration;

use refreshd_time::{Timestamp, human};
use refreshd_token_client::refresh_end::{Motion, RefreshEnd};

use refreshd_alerting::Severity;

const DAY: Duration = Duration::from_secs(86_400);

/// A warning before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshEndStep {
    /// Name among the notified steps.
    pub key: &'static str,
    /// Time before the end.
    pub ahead: Duration,
    /// At most this fraction (one in `part`) of the whole lifetime before the end, for shorter lifetimes.
    pub part: u32,
    /// Severity.
    pub severity: Severity,
}

/// A month, a week and a day before.
pub const STEPS: [RefreshEndStep; 3] = [
    RefreshEndStep {
        key: "refresh-month",
        ahead: DAY.saturating_mul(30),
        part: 3,
        severity: Severity::Warning,
    },
    RefreshEndStep {
        key: "refresh-week",
        ahead: DAY.saturating_mul(7),
        part: 10,
        severity: Severity::Error,
    },
    RefreshEndStep {
        key: "refresh-day",
        ahead: DAY,
        part: 30,
        severity: Severity::Critical,
    },
];

/// Returns whether this step is one of [`STEPS`].
#[must_use]
pub fn is_step(key: &str) -> bool {
    STEPS.iter().any(|step| step.key == key)
}

/// Time of the warning; `None` if renewals move the end, or none has shown yet whether they do.
#[must_use]
pub fn reached_at(end: &RefreshEnd, step: &RefreshEndStep) -> Option<Timestamp> {
    match end.motion {
        Motion::Unknown | Motion::Moves => None,
        // There is nothing to warn of in advance: notified once, with the lowest severity.
        Motion::Short => (step.key == STEPS[0].key).then_some(end.since),
        Motion::Fixed => Some(end.at - step.ahead.min(end.at.since(end.since) / step.part)),
    }
}

/// Description for the operator.
#[must_use]
pub fn reason(end: &RefreshEnd, now: Timestamp) -> String {
    let at = end.at;
    if end.motion == Motion::Short {
        return format!(
            "the server reports that its refresh token expires at {at}, before the next renewal is allowed; it is renewed as soon as possible"
        );
    }
    if at <= now {
        return format!("its refresh token ended at {at}, and renewals did not move that end");
    }
    format!(
        "its refresh token ends in {} ({at}), and renewals do not move that end",
        human(at.until(now))
    )
}

/// Task of the operator; `PORTAL` may stand for the name.
#[must_use]
pub fn action(end: &RefreshEnd, portal: &str) -> String {
    if end.motion == Motion::Short {
        return format!(
            "see which life of refresh tokens the server is set to, and whether the reply's field means that: `reply` of the \
             provider names another; should the grant end: refreshd authorize {portal}"
        );
    }
    format!(
        "authorize again before {}: refreshd authorize {portal}",
        end.at
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS: u64 = 86_400;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_795_000_000 + secs)
    }

    /// An end after so many seconds, known since the first of them.
    fn end(secs: u64, motion: Motion) -> RefreshEnd {
        RefreshEnd {
            at: at(0) + Duration::from_secs(secs),
            since: at(0),
            motion,
        }
    }

    #[test]
    fn an_end_that_each_renewal_moves_is_told_to_nobody() {
        for motion in [Motion::Unknown, Motion::Moves] {
            let end = end(1800, motion);
            assert!(
                STEPS.iter().all(|step| reached_at(&end, step).is_none()),
                "{motion:?}"
            );
        }
    }

    #[test]
    fn an_end_that_is_counted_down_is_told_a_month_a_week_and_a_day_ahead() {
        let ahead = |secs| {
            let end = end(secs, Motion::Fixed);
            STEPS.map(|step| end.at.since(reached_at(&end, &step).unwrap()).as_secs())
        };
        assert_eq!(ahead(365 * DAYS), [30 * DAYS, 7 * DAYS, DAYS]);
        // A shorter lifetime is warned of by fractions, and never at once.
        assert_eq!(ahead(50), [16, 5, 1]);
    }

    #[test]
    fn an_end_that_no_renewal_can_keep_ahead_of_is_told_once() {
        let short = end(1, Motion::Short);
        let reached = STEPS.map(|step| reached_at(&short, &step));
        assert_eq!(reached, [Some(at(0)), None, None]);
    }
}
