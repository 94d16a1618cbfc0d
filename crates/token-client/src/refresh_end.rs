//! Expiry of a refresh token, whether renewals extend it, and when operators are notified.
//!
//! If each renewal extends the expiry (Keycloak), there is no notification. If none does (LinkedIn's year), the grant
//! ends then in any case, and operators are notified in time to authorize again. Must not notify itself.

use std::time::Duration;

use super::token_life::TokenLife;
use refreshd_time::Timestamp;

/// Tolerance for servers that count in whole seconds: the same expiry may differ by one.
const ROUNDING: Duration = Duration::from_millis(500);
/// A server with a countdown omits the value, or sends zero, in its last second.
const COUNTED_DOWN: Duration = Duration::from_secs(1);

/// Expiry of a refresh token, as reported by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshEnd {
    /// Expiry.
    pub at: Timestamp,
    /// Start of the lifetime: since when this expiry is known.
    pub since: Timestamp,
    /// Effect of renewals on the expiry.
    pub motion: Motion,
}

/// Effect of renewals on a refresh token's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "kebab-case")]
pub enum Motion {
    /// No renewal yet since the expiry was first reported.
    Unknown,
    /// The last renewal extended it.
    Moves,
    /// The last renewal left it unchanged.
    Fixed,
    /// It is reported to precede the next possible renewal, or preceded the last one.
    Short,
}

impl Motion {
    /// Name in the state.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Value with this name; an unknown name is [`Self::Unknown`].
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.parse().unwrap_or(Self::Unknown)
    }
}

/// Times of a reply and of the one before it.
#[derive(Clone, Copy, Debug)]
pub struct RenewalTimes {
    /// Arrival of the pair before.
    pub before_at: Timestamp,
    /// Sending of this pair's request.
    pub sent_at: Timestamp,
    /// Minimum delay from then to the next renewal: an earlier expiry cannot be prevented.
    pub soonest: Duration,
}

/// Expiry after a reply that reports `life` for the refresh token. `rotated`: the reply has a new refresh token, whose
/// expiry is unknown if it is not reported.
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
        // An expired countdown is neither a new expiry, nor none.
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
        TokenLife::Reported(span) => sent_at + *span,
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
    // A moving expiry moves by the time between the replies; a countdown does not.
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

    fn reported(secs: u64) -> TokenLife {
        TokenLife::Reported(Duration::from_secs(secs))
    }

    /// Expiry after replies with these times and lifetimes.
    fn known(replies: &[(i64, u64)]) -> Option<RefreshEnd> {
        let mut end = None;
        let mut before_at = at(0);
        for (sent, life) in replies {
            end = after(
                end,
                &reported(*life),
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
                &reported(left),
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
        // Keycloak: half an hour of idle time, until the session's own end is near.
        let end = known(&[(0, 1800), (1200, 1800), (2400, 900), (2700, 600)]).unwrap();
        assert_eq!((end.motion, end.at), (Motion::Fixed, at(3300)));
        let end = after(
            Some(end),
            &reported(1800),
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

    /// The motion after responses with these lifetimes, if a renewal is allowed every four seconds.
    fn motion_of(lives: &[TokenLife]) -> Motion {
        let mut end = None;
        for (number, life) in (0_i64..).zip(lives) {
            let asked = RenewalTimes {
                before_at: at((number - 1).max(0) * 4),
                sent_at: at(number * 4),
                soonest: Duration::from_secs(4),
            };
            end = after(end, life, true, asked);
        }
        end.map_or(Motion::Unknown, |end| end.motion)
    }

    #[test]
    fn each_renewal_that_moves_the_end_is_seen_to() {
        for (replies, motion) in [
            (&[(0, 1800)][..], Motion::Unknown),
            (&[(0, 1800), (1200, 1800)], Motion::Moves),
            (&[(0, 12), (8, 12), (16, 12), (18, 12)], Motion::Moves),
        ] {
            assert_eq!(known(replies).unwrap().motion, motion, "{replies:?}");
        }
    }

    #[test]
    fn an_end_that_is_counted_down_is_fixed_since_it_was_first_known() {
        let days = |days: u64| days * 86_400;
        let sent = |days: i64| days * 86_400;
        let yearly = [
            (0, days(365)),
            (sent(40), days(325)),
            (sent(80), days(285) + 1),
        ];
        for replies in [&yearly, &[(0, 50), (5, 45), (10, 40)]] {
            let end = known(replies).unwrap();
            assert_eq!(
                (end.motion, end.since),
                (Motion::Fixed, at(0)),
                "{replies:?}"
            );
        }
    }

    #[test]
    fn an_end_that_no_renewal_can_keep_ahead_of_is_short() {
        let ended = TokenLife::Ended;
        for lives in [
            vec![reported(1)],
            vec![reported(1), reported(1)],
            vec![ended.clone()],
            vec![ended.clone(), ended],
            vec![reported(40), reported(1)],
        ] {
            let motion = if lives == [reported(40), reported(1)] {
                Motion::Fixed
            } else {
                Motion::Short
            };
            assert_eq!(motion_of(&lives), motion, "{lives:?}");
        }
        assert_eq!(
            motion_of(&[reported(1), reported(40)]),
            Motion::Moves,
            "mended"
        );
        assert_eq!(Motion::parse(Motion::Short.as_str()), Motion::Short);
    }
}
