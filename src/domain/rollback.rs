//! Rollback detection: a restored backup of the state holds refresh tokens that are spent.
//!
//! A pair is durable in the state before it is published, so a newer trace outside the state means that the state was rolled
//! back. Must not look for traces: `adapters` read them.

use super::name::PortalName;
use super::portal::{Grant, GrantStatus, Phase, Portal};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Class;
use refreshd_token_client::token::{Access, Details, Generation};

/// Larger numbers are not valid generations.
const MAX_GENERATION: u64 = 1 << 53;

/// Traces of a portal outside the state.
#[derive(Debug, Default)]
pub struct Trace {
    /// The generation in the record of generations.
    pub noted: Option<Generation>,
    /// Content of its token file.
    pub published: Option<PublishedGeneration>,
}

/// Content of a token file.
#[derive(Debug)]
pub struct PublishedGeneration {
    /// Generation.
    pub generation: Generation,
    /// The published access token.
    pub access: Access,
    /// Details published with it.
    pub details: Details,
}

/// Portals without a grant for which nothing is sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LostPortals {
    /// Those whose grant was lost.
    pub lost: Vec<PortalName>,
    /// Those that may be lost ones under another name.
    pub doubted: Vec<PortalName>,
}

impl LostPortals {
    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.doubted.is_empty()
    }
}

/// Status of a grant after a rollback: nothing is sent for it.
#[derive(Debug)]
pub struct RollbackCheck {
    /// The newest known generation; the next pair gets the number after it.
    pub generation: Generation,
    /// The published access token; `None` if it is not known, and the token files stay unchanged.
    pub access: Option<Access>,
    /// Details published with it.
    pub details: Details,
    /// Phase and schedule.
    pub status: GrantStatus,
}

/// The newest generation known outside the state.
#[must_use]
pub fn newest(trace: &Trace) -> Option<Generation> {
    let published = trace
        .published
        .as_ref()
        .map(|published| published.generation);
    trace
        .noted
        .max(published)
        .filter(|generation| (1..MAX_GENERATION).contains(&generation.0))
}

/// The status of a grant with newer traces; `None` if there are none.
#[must_use]
pub fn quarantined(grant: &Grant, trace: Trace, now: Timestamp) -> Option<RollbackCheck> {
    let Trace { noted, published } = trace;
    // Tokens of the client's own credentials cannot be spent.
    grant.tokens.credential.refresh()?;
    let newer =
        |generation: Generation| generation > grant.generation && generation.0 < MAX_GENERATION;
    let published = published.filter(|published| newer(published.generation));
    let noted = noted.filter(|noted| newer(*noted));
    let generation = noted.max(published.as_ref().map(|published| published.generation))?;
    let detail = format!(
        "it has generation {} of this grant, {generation} was there before",
        grant.generation
    );
    let problem = Problem::new(Class::NeedsAuthorization, detail);
    let status = GrantStatus {
        phase: Phase::OldState {
            since: now,
            problem,
        },
        renew_at: grant.status.renew_at,
        next_attempt_at: None,
    };
    let (access, details) = match published {
        Some(PublishedGeneration {
            generation: _,
            access,
            details,
        }) => (Some(access), details),
        None => (None, grant.tokens.details.clone()),
    };
    Some(RollbackCheck {
        generation,
        access,
        details,
        status,
    })
}

/// Returns whether the token files stay unchanged, since the state knows no better.
#[must_use]
pub fn keeps_token_files(portal: &Portal) -> bool {
    portal
        .grant
        .as_ref()
        .map_or(portal.lost.is_some(), |grant| {
            matches!(grant.status.phase, Phase::OldState { .. }) && grant.tokens.access.is_none()
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::portal::binding;
    use super::*;
    use refreshd_secrets::{AccessToken, RefreshToken};
    use refreshd_token_client::token::{Credential, Tokens, Validity};

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_795_000_000 + secs)
    }

    fn access(token: &str) -> Access {
        let (issued_at, expires_at) = (at(0), at(3600));
        Access {
            token: AccessToken::new(token).unwrap(),
            token_type: "Bearer".into(),
            issued_at,
            expires_at,
        }
    }

    fn grant(generation: u64) -> Grant {
        let refresh = RefreshToken::new("old-refresh").unwrap();
        Grant {
            generation: Generation(generation),
            tokens: Tokens {
                access: Some(access("old-access")),
                credential: Credential::Refresh(refresh),
                details: Details::default(),
                validity: Validity::default(),
            },
            status: GrantStatus {
                phase: Phase::Fresh,
                renew_at: Some(at(1400)),
                next_attempt_at: Some(at(1400)),
            },
            renewed_at: at(0),
            bound_to: binding("bitrix24", "local.1"),
            token_url: "https://oauth.bitrix.info/oauth/token/".into(),
            identity: None,
            notified: Vec::new(),
            claim: None,
            tried_at: None,
        }
    }

    /// Status of generation 30 with these traces: the generation, and the published token.
    fn held(noted: Option<u64>, published: Option<u64>) -> Option<(u64, Option<String>)> {
        let details = Details::default();
        let file = |generation| PublishedGeneration {
            generation: Generation(generation),
            access: access("published"),
            details: details.clone(),
        };
        let trace = Trace {
            noted: noted.map(Generation),
            published: published.map(file),
        };
        let held = quarantined(&grant(30), trace, at(0) + Duration::from_secs(9))?;
        assert!(
            matches!(held.status.phase, Phase::OldState { .. })
                && held.status.next_attempt_at.is_none()
        );
        Some((
            held.generation.0,
            held.access.map(|access| access.token.expose().to_owned()),
        ))
    }

    #[test]
    fn only_a_newer_trace_says_that_the_state_went_back() {
        assert_eq!(held(None, None), None);
        // A crash between recording and publication, or before the record of generations.
        assert_eq!(held(Some(29), Some(29)), None);
        assert_eq!(held(Some(30), Some(30)), None);
        assert_eq!(held(Some(31), None), Some((31, None)));
        assert_eq!(held(None, Some(42)), Some((42, Some("published".into()))));
        assert_eq!(
            held(Some(42), Some(41)),
            Some((42, Some("published".into())))
        );
        // Token files last written by an older state are not newer.
        assert_eq!(held(Some(42), Some(12)), Some((42, None)));
        assert_eq!(
            held(Some(u64::MAX), Some(u64::MAX)),
            None,
            "which is no generation"
        );
    }
}
