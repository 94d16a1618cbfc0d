//! Whether a refusal of an app's client is one portal's own or the client's: asked each time a server refuses it.
//!
//! A server can refuse a client for one portal only, as where the app was removed there. So the question goes to another
//! portal of the app before the others are left alone. Must not choose that portal, nor read the state.

use std::time::Duration;

use super::backoff::FLOOR;
use refreshd_time::Timestamp;

/// What an answer says of the client that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAnswer {
    /// It was let in: there is a new pair.
    Works,
    /// The refusal is about the grant. Most servers look at the client first, not all do: no proof that the client works.
    GrantRefused,
    /// It was refused.
    Refused,
}

/// What is known of a client when it is refused for a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEvidence {
    /// When the refusals of this portal began.
    pub since: Timestamp,
    /// When the client was last let in for a portal that had been asked since some refusal; `None`: never, or nobody was
    /// refused before, or it works for none of the others any more.
    pub let_in: Option<Timestamp>,
    /// Other portals that are refused, and whose refusals began after the client was let in last.
    pub refused_too: u64,
    /// Other portals with a usable grant that could still be asked: they were not refused since the question came up.
    pub unasked: u64,
    /// Whether the question is open for any portal of the app.
    pub in_question: bool,
}

/// Whose a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientDecision {
    /// The portal's own: the client works for others.
    ThisPortal,
    /// Not known yet: another portal is to be asked.
    AskAnother,
    /// The client's: it is refused for all portals.
    TheClient,
}

/// So many other portals must be refused before the client is, as long as there is one more to ask.
const ASKED: u64 = 4;

/// Decides whose a refusal is.
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
        // Nobody is left to ask, and those who were asked since are refused as well.
        (true, _, 0) if in_question => ClientDecision::TheClient,
        (true, ..) => ClientDecision::ThisPortal,
        (false, ASKED.., _) | (false, _, 0) => ClientDecision::TheClient,
        (false, _, 1..) => ClientDecision::AskAnother,
    }
}

/// Probes that follow each other within seconds, while there are portals that were not asked yet.
const QUICK: u64 = 4;
/// The first of them comes after this time, each further one after twice the time of the one before.
const QUICK_WAIT: Duration = Duration::from_secs(5);
/// Later probes come after as long a time as the refusal has lasted, within these limits.
const SLOW_WAIT: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));

/// How long a client that is refused for several portals waits for its next try, by another of them: seconds at first,
/// since the refusals may be those portals' own. `lifetime` is that of their tokens.
#[must_use]
pub fn probe_wait(
    refused_for: Duration,
    refused: u64,
    unasked: u64,
    lifetime: Duration,
) -> Duration {
    if unasked > 0 && refused <= QUICK {
        let doublings = u32::try_from(refused.saturating_sub(1)).unwrap_or_default();
        let wait = QUICK_WAIT.saturating_mul(1 << doublings.min(8));
        return wait.min((lifetime / 12).max(FLOOR));
    }
    refused_for.clamp(SLOW_WAIT.0, SLOW_WAIT.1)
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
