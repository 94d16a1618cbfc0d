//! When a refresh token ends of itself, whether renewals move that end, and when people are told of it.
//!
//! Where each renewal brings a later end (Keycloak), nothing is told. Where none does (LinkedIn's year), the grant ends
//! then whatever refreshd does, and people hear of it in time to authorize again. Must not tell anybody itself.

use std::time::Duration;

use super::token_life::TokenLife;
use refreshd_time::Timestamp;

/// A server that counts in whole seconds may say an end that differs by one from the same end before.
const ROUNDING: Duration = Duration::from_millis(500);
/// A server that counts an end down says nothing, or zero, from its last second on.
const COUNTED_DOWN: Duration = Duration::from_secs(1);

/// The end of a refresh token, as its server says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshEnd {
    /// When it ends.
    pub at: Timestamp,
    /// Since when this end is known: the whole life is from here to [`Self::at`].
    pub since: Timestamp,
    /// What renewals do to it.
    pub motion: Motion,
}

/// What renewals do to a refresh token's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// There has been none since the end was said first.
    Unknown,
    /// The last one brought a later end.
    Moves,
    /// The last one left it where it was.
    Fixed,
    /// It is said to end before the next renewal may come, or to have ended when it came.
    Short,
}

impl Motion {
    /// Its name in the state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Moves => "moves",
            Self::Fixed => "fixed",
            Self::Short => "short",
        }
    }

    /// The one of that name; a name that is none says nothing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        [Self::Moves, Self::Fixed, Self::Short]
            .into_iter()
            .find(|motion| motion.as_str() == text)
            .unwrap_or(Self::Unknown)
    }
}

/// When a reply came, and when the one before it did.
#[derive(Clone, Copy, Debug)]
pub struct RenewalTimes {
    /// The pair before came then.
    pub before_at: Timestamp,
    /// The request of this one left then.
    pub sent_at: Timestamp,
    /// The least time from then until the next: an end before that cannot be kept ahead of.
    pub soonest: Duration,
}

/// What is known of the end after a reply that says `life` of the refresh token. `rotated`: it brought a new one, of
/// which nothing is known if it says nothing.
#[must_use]
pub fn after(
    before: Option<RefreshEnd>,
    life: &TokenLife,
    rotated: bool,
    asked: RenewalTimes,
) -> Option<RefreshEnd> {
    let RenewalTimes {
        before_at,
        sent_at,
        soonest,
    } = asked;
    let has_come = |end: &RefreshEnd| end.at <= sent_at + COUNTED_DOWN;
    let at = match life {
        // An end that was counted down to nothing has come: that is neither a new end, nor none.
        TokenLife::Ended | TokenLife::Endless
            if before.as_ref().is_some_and(has_come)
                && before
                    .is_some_and(|end| matches!(end.motion, Motion::Fixed | Motion::Unknown)) =>
        {
            return before.map(|end| RefreshEnd {
                motion: Motion::Fixed,
                ..end
            });
        }
        TokenLife::Said(span) => sent_at + *span,
        TokenLife::Ended => sent_at,
        TokenLife::Endless => return None,
        TokenLife::Absent | TokenLife::Unreadable(_) => return before.filter(|_| !rotated),
    };
    let is_short = at <= sent_at + soonest;
    let Some(before) = before else {
        return Some(RefreshEnd {
            at,
            since: sent_at,
            motion: if is_short {
                Motion::Short
            } else {
                Motion::Unknown
            },
        });
    };
    // One that moves moves by the time between; one that is counted down does not.
    let moved = at.since(before.at) > sent_at.since(before_at) / 2 + ROUNDING;
    Some(if is_short && (moved || before.motion == Motion::Short) {
        let since = match before.motion {
            Motion::Short => before.since,
            Motion::Unknown | Motion::Moves | Motion::Fixed => sent_at,
        };
        RefreshEnd {
            at,
            since,
            motion: Motion::Short,
        }
    } else if moved {
        RefreshEnd {
            at,
            since: sent_at,
            motion: Motion::Moves,
        }
    } else {
        RefreshEnd {
            at,
            since: before.since,
            motion: Motion::Fixed,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_795_000_000 + secs)
    }

    fn said(secs: u64) -> TokenLife {
        TokenLife::Said(Duration::from_secs(secs))
    }

    /// What is known after replies of these times and lives.
    fn known(replies: &[(i64, u64)]) -> Option<RefreshEnd> {
        let mut end = None;
        let mut before_at = at(0);
        for (sent, life) in replies {
            end = after(
                end,
                &said(*life),
                true,
                RenewalTimes {
                    before_at,
                    sent_at: at(*sent),
                    soonest: Duration::ZERO,
                },
            );
            before_at = at(*sent);
        }
        end
    }

    #[test]
    fn a_server_that_rounds_does_not_move_its_end() {
        let mut end = None;
        let mut before_at = at(0);
        for tenth in 0..40 {
            let sent_at = at(0) + Duration::from_millis(1300 * tenth);
            let left = (60_000 - 1300 * tenth) / 1000;
            end = after(
                end,
                &said(left),
                false,
                RenewalTimes {
                    before_at,
                    sent_at,
                    soonest: Duration::ZERO,
                },
            );
            before_at = sent_at;
            assert_ne!(end.unwrap().motion, Motion::Moves, "after {tenth} renewals");
        }
    }

    #[test]
    fn an_end_that_stops_moving_is_fixed_and_one_that_moves_again_is_not() {
        // Keycloak: half an hour idle, until the session's own end comes near.
        let end = known(&[(0, 1800), (1200, 1800), (2400, 900), (2700, 600)]).unwrap();
        assert_eq!((end.motion, end.at), (Motion::Fixed, at(3300)));
        let end = after(
            Some(end),
            &said(1800),
            true,
            RenewalTimes {
                before_at: at(2700),
                sent_at: at(2800),
                soonest: Duration::ZERO,
            },
        )
        .unwrap();
        assert_eq!((end.motion, end.since), (Motion::Moves, at(2800)));
    }

    #[test]
    fn what_a_reply_does_not_say_holds_for_the_token_that_it_was_said_of() {
        let asked = RenewalTimes {
            before_at: at(0),
            sent_at: at(10),
            soonest: Duration::ZERO,
        };
        let known = known(&[(0, 100)]);
        assert_eq!(after(known, &TokenLife::Absent, false, asked), known);
        assert_eq!(
            after(known, &TokenLife::Unreadable(String::new()), false, asked),
            known
        );
        assert_eq!(
            after(known, &TokenLife::Absent, true, asked),
            None,
            "of the new one nothing is known"
        );
        assert_eq!(after(known, &TokenLife::Endless, false, asked), None);
        assert_eq!(
            after(None, &TokenLife::Ended, true, asked).unwrap().at,
            at(10)
        );
    }

    #[test]
    fn an_end_that_was_counted_down_to_zero_has_come_and_is_not_forgotten() {
        for last in [TokenLife::Endless, TokenLife::Ended] {
            for counted in [known(&[(0, 20), (10, 10), (19, 1)]), known(&[(0, 20)])] {
                let asked = RenewalTimes {
                    before_at: at(19),
                    sent_at: at(20),
                    soonest: Duration::from_secs(1),
                };
                let end = after(counted, &last, true, asked).expect("an end");
                assert_eq!((end.motion, end.at), (Motion::Fixed, at(20)), "{last:?}");
            }
        }
    }
}
