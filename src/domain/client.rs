//! Attribution of a refused client: is it refused for one portal only, or for all portals of the app?
//!
//! A server can refuse a client for one portal only, such as after the app was removed there. So another portal of the app
//! is tried before the others are suspended. Must not choose that portal, nor read the state.

use std::time::Duration;

use super::backoff::MIN_WAIT;
use refreshd_time::Timestamp;

/// Evidence of a response about the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAnswer {
    /// Accepted: there is a new pair.
    Works,
    /// The grant was refused. Most servers check the client first, but not all: this does not prove that the client works.
    GrantRefused,
    /// The client was refused.
    Refused,
}

/// Evidence about a client that was refused for a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEvidence {
    /// First of this portal's refusals.
    pub since: Timestamp,
    /// Last time the client was accepted for another portal after a refusal; `None`: never, or there was no earlier refusal,
    /// or the client no longer works for any other portal.
    pub let_in: Option<Timestamp>,
    /// Other portals that are refused, with refusals since the client was last accepted.
    pub refused_too: u64,
    /// Other portals with a usable grant that can still be tried: not refused since the first refusal.
    pub unasked: u64,
    /// Whether the attribution is open for any portal of the app.
    pub in_question: bool,
}

/// Attribution of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientDecision {
    /// To the portal: the client works for others.
    ThisPortal,
    /// Not known yet: try another portal.
    AskAnother,
    /// To the client: it is refused for all portals.
    TheClient,
}

/// Number of other portals that must be refused before the client is, while there are portals left to try.
const MIN_REFUSED: u64 = 4;

/// Attributes a refusal.
#[must_use]
pub fn decide(seen: ClientEvidence) -> ClientDecision {
    let ClientEvidence {
        since,
        let_in,
        refused_too,
        unasked,
        in_question,
    } = seen;
    let works_elsewhere = let_in.is_some_and(|let_in| let_in >= since);
    match (works_elsewhere, refused_too, unasked) {
        // No portal is left to try, and those that were tried since are refused as well.
        (true, _, 0) if in_question => ClientDecision::TheClient,
        (true, ..) => ClientDecision::ThisPortal,
        (false, MIN_REFUSED.., _) | (false, _, 0) => ClientDecision::TheClient,
        (false, _, 1..) => ClientDecision::AskAnother,
    }
}

/// Number of probes within seconds, while there are portals that were not tried yet.
const FAST_PROBES: u64 = 4;
/// Wait before the first of them; it doubles for each further one.
const FAST_PROBE_WAIT: Duration = Duration::from_secs(5);
/// Later probes wait as long as the refusal has lasted, within these limits.
const SLOW_PROBE_LIMITS: (Duration, Duration) =
    (Duration::from_secs(300), Duration::from_secs(3600));

/// Wait before the next probe of a client that is refused for several portals. The first probes follow within seconds,
/// since the refusals may concern those portals only. `lifetime` is that of their tokens.
#[must_use]
pub fn probe_wait(
    refused_for: Duration,
    refused: u64,
    unasked: u64,
    lifetime: Duration,
) -> Duration {
    if unasked > 0 && refused <= FAST_PROBES {
        let doublings = u32::try_from(refused.saturating_sub(1)).unwrap_or_default();
        let wait = FAST_PROBE_WAIT.saturating_mul(1 << doublings.min(8));
        return wait.min((lifetime / 12).max(MIN_WAIT));
    }
    refused_for.clamp(SLOW_PROBE_LIMITS.0, SLOW_PROBE_LIMITS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: ClientEvidence = ClientEvidence {
        since: Timestamp::from_secs(100),
        let_in: None,
        refused_too: 0,
        unasked: 0,
        in_question: true,
    };

    #[test]
    fn a_client_of_one_portal_is_refused_with_it() {
        assert_eq!(decide(ALONE), ClientDecision::TheClient);
    }

    #[test]
    fn another_portal_is_asked_before_a_client_is_refused() {
        assert_eq!(
            decide(ClientEvidence {
                unasked: 2,
                ..ALONE
            }),
            ClientDecision::AskAnother
        );
        for (refused_too, unasked, decision) in [
            (3, 1, ClientDecision::AskAnother),
            (3, 0, ClientDecision::TheClient),
            (4, 100, ClientDecision::TheClient),
        ] {
            let seen = ClientEvidence {
                unasked,
                refused_too,
                ..ALONE
            };
            assert_eq!(decide(seen), decision, "{refused_too} {unasked}");
        }
        let before = Some(Timestamp::from_secs(99));
        assert_eq!(
            decide(ClientEvidence {
                unasked: 1,
                let_in: before,
                ..ALONE
            }),
            ClientDecision::AskAnother,
            "it may be refused since then"
        );
    }

    #[test]
    fn a_client_that_is_let_in_for_others_is_not_refused() {
        let let_in = Some(Timestamp::from_secs(101));
        assert_eq!(
            decide(ClientEvidence {
                let_in,
                unasked: 1,
                ..ALONE
            }),
            ClientDecision::ThisPortal
        );
        let calm = ClientEvidence {
            let_in,
            in_question: false,
            ..ALONE
        };
        assert_eq!(
            decide(calm),
            ClientDecision::ThisPortal,
            "the others are not in question"
        );
        assert_eq!(
            decide(ClientEvidence {
                let_in,
                refused_too: 3,
                unasked: 1,
                ..ALONE
            }),
            ClientDecision::ThisPortal
        );
    }

    #[test]
    fn while_there_are_portals_to_ask_they_are_asked_within_seconds() {
        let wait = |refused, unasked, secs, life| {
            probe_wait(
                Duration::from_secs(secs),
                refused,
                unasked,
                Duration::from_secs(life),
            )
            .as_secs()
        };
        assert_eq!(
            [1, 2, 3, 4, 5].map(|refused| wait(refused, 9, 0, 3600)),
            [5, 10, 20, 40, 300]
        );
        assert_eq!(wait(2, 1, 0, 60), 5, "by the life of the tokens");
        assert_eq!(
            [0, 900, 9000].map(|secs| wait(1, 0, secs, 3600)),
            [300, 900, 3600]
        );
    }

    #[test]
    fn the_last_portal_that_is_refused_speaks_for_the_client() {
        let let_in = Some(Timestamp::from_secs(101));
        assert_eq!(
            decide(ClientEvidence { let_in, ..ALONE }),
            ClientDecision::TheClient
        );
    }
}
