//! Pairs that a previous process obtained and could not store: decides whether the state still accepts them.
//!
//! Must not replace a grant that has changed since the request was sent.

use super::kept_reply::SentToken;
use super::portal::{ClaimId, Grant, Phase};
use refreshd_secrets::Fingerprint;

/// Decision on a carried pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDecision {
    /// The claim of its renewal is still open: record the pair as the outcome.
    Record,
    /// The grant is unchanged since the request, but its claim was ended or is another one: restore the claim, then record the
    /// pair.
    ClaimAgain,
    /// The state has the pair already.
    Known,
    /// This is not the state that the pair belongs to, such as when its volume is not mounted: wait.
    Wait,
    /// The grant was replaced or deleted meanwhile: store the pair as superseded.
    Aside,
}

/// Decides on a carried pair. `grant` is the portal's present grant; `lost` means that the state has one that cannot be
/// parsed; `pair` is the pair's refresh token, if it has one.
#[must_use]
pub fn fate(
    grant: Option<&Grant>,
    lost: bool,
    (claim, sent): (ClaimId, SentToken),
    pair: Option<Fingerprint>,
) -> CopyDecision {
    let Some(grant) = grant else {
        return if lost {
            CopyDecision::Wait
        } else {
            CopyDecision::Aside
        };
    };
    if grant.claim.is_some_and(|(id, _)| id == claim) {
        return CopyDecision::Record;
    }
    if matches!(grant.status.phase, Phase::OldState { .. }) {
        return CopyDecision::Wait;
    }
    let now = SentToken::of(grant);
    if now == sent {
        return CopyDecision::ClaimAgain;
    }
    if now.token.is_some() && now.token == pair {
        return CopyDecision::Known;
    }
    // Generations never decrease: a lower one is of another state.
    if now.generation < sent.generation {
        CopyDecision::Wait
    } else {
        CopyDecision::Aside
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::portal::GrantStatus;
    use refreshd_secrets::RefreshToken;
    use refreshd_time::Timestamp;
    use refreshd_token_client::problem::Problem;
    use refreshd_token_client::provider::Class;
    use refreshd_token_client::token::{Credential, Details, Generation, Tokens, Validity};

    fn grant(generation: u64, refresh: &str, claim: Option<i64>) -> Grant {
        let credential = Credential::Refresh(RefreshToken::new(refresh).unwrap());
        let (details, validity) = (Details::default(), Validity::default());
        Grant {
            generation: Generation(generation),
            tokens: Tokens {
                access: None,
                credential,
                details,
                validity,
            },
            status: GrantStatus {
                phase: Phase::Fresh,
                renew_at: None,
                next_attempt_at: None,
            },
            renewed_at: Timestamp::default(),
            bound_to: Fingerprint::of(b"app"),
            token_url: String::new(),
            identity: None,
            notified: Vec::new(),
            claim: claim.map(|id| (ClaimId(id), Timestamp::default())),
            tried_at: None,
        }
    }

    fn token(refresh: &str) -> Option<Fingerprint> {
        Some(Fingerprint::of(refresh.as_bytes()))
    }

    #[test]
    fn only_the_grant_that_was_sent_is_replaced() {
        let sent = SentToken {
            generation: Generation(7),
            token: token("sent"),
        };
        let of = |grant: Option<&Grant>, lost| fate(grant, lost, (ClaimId(41), sent), token("got"));
        let cases = [
            (grant(7, "sent", Some(41)), CopyDecision::Record),
            (grant(7, "sent", None), CopyDecision::ClaimAgain),
            (grant(7, "sent", Some(42)), CopyDecision::ClaimAgain),
            (grant(8, "got", None), CopyDecision::Known),
            (grant(8, "imported", None), CopyDecision::Aside),
            (grant(7, "another", None), CopyDecision::Aside),
            (grant(9, "sent", None), CopyDecision::Aside),
            (grant(6, "older", None), CopyDecision::Wait),
        ];
        for (grant, fate) in &cases {
            assert_eq!(of(Some(grant), false), *fate, "{grant:?}");
        }
        let mut restored = grant(7, "older", None);
        let problem = Problem::new(Class::NeedsAuthorization, String::new());
        restored.status.phase = Phase::OldState {
            since: Timestamp::default(),
            problem,
        };
        assert_eq!(
            of(Some(&restored), false),
            CopyDecision::Wait,
            "the right state may come back"
        );
        assert_eq!(of(None, false), CopyDecision::Aside, "it was forgotten");
        assert_eq!(
            of(None, true),
            CopyDecision::Wait,
            "its state is not mounted"
        );
    }
}
