//! Candidates: grants that replace the grant in force after a successful renewal.
//!
//! A candidate is renewed like any grant (`renewal::apply_outcome`). It then replaces the portal's grant, or is deleted.
//! Must not send or store: `daemon::candidates` does.

use super::identity::IdentityMismatch;
use super::portal::{GrantStatus, Phase};
pub use super::portal::{Origin, PendingCandidate};
use super::renewal::{Renewed, Transition};
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Class;
use refreshd_token_client::reply::GrantedTokens;
use refreshd_token_client::token::Tokens;

/// Outcome of a candidate's renewal.
#[derive(Debug)]
pub enum CandidateVerdict {
    /// Successful: it replaces the portal's grant with this pair.
    Proved(Box<Renewed>),
    /// Rejected by the server: the candidate is deleted.
    Refused {
        /// The response.
        problem: Problem,
        /// A reply was lost before, whose request may have spent the token.
        while_in_doubt: bool,
    },
    /// Another portal's grant: the candidate is deleted, and the pair is stored as superseded.
    Another {
        /// Description of the owner.
        why: String,
        /// The new pair.
        pair: TokenPair,
    },
    /// Not conclusive yet.
    Waits(GrantStatus),
}

/// A superseded pair.
#[derive(Debug)]
pub struct TokenPair {
    /// The access token.
    pub access: Option<AccessToken>,
    /// The refresh token, if a new one came.
    pub refresh: Option<RefreshToken>,
    /// Identity of the owner.
    pub identity: Option<String>,
}

impl From<Renewed> for TokenPair {
    fn from(renewed: Renewed) -> Self {
        let Tokens {
            access, credential, ..
        } = renewed.tokens;
        let refresh = credential.refresh().cloned();
        Self {
            access: access.map(|access| access.token),
            refresh,
            identity: renewed.identity,
        }
    }
}

/// Derives the verdict on a candidate from the outcome of its renewal.
#[must_use]
pub fn judge(transition: Transition) -> CandidateVerdict {
    let status = match transition {
        Transition::Renewed(renewed) => return CandidateVerdict::Proved(renewed),
        Transition::Foreign { status, granted } => {
            let why = status
                .phase
                .problem()
                .map(Problem::text)
                .unwrap_or_default();
            let GrantedTokens {
                access,
                refresh,
                identity,
                ..
            } = *granted;
            return CandidateVerdict::Another {
                why,
                pair: TokenPair {
                    access: Some(access),
                    refresh,
                    identity,
                },
            };
        }
        Transition::Kept(status) => status,
    };
    match &status.phase {
        Phase::NeedsAuthorization {
            problem,
            while_in_doubt,
            ..
        } => CandidateVerdict::Refused {
            problem: problem.clone(),
            while_in_doubt: *while_in_doubt,
        },
        Phase::Gone { problem, .. } => CandidateVerdict::Refused {
            problem: problem.clone(),
            while_in_doubt: false,
        },
        // An unknown error code is a rejection here: a candidate has nothing to lose.
        Phase::Retrying { problem, .. }
            if problem.class == Class::Unknown && problem.code.is_some() =>
        {
            CandidateVerdict::Refused {
                problem: problem.clone(),
                while_in_doubt: false,
            }
        }
        _ => CandidateVerdict::Waits(status),
    }
}

/// Result of an import, for the operator.
#[derive(Debug, Clone)]
pub enum ImportResult {
    /// Replaced the portal's grant.
    Imported,
    /// Rejected by the server, or its owner is another one than expected.
    Refused {
        /// Reason.
        why: String,
        /// A reply was lost before: the refusal has no meaning for the token.
        while_in_doubt: bool,
    },
    /// Not conclusive yet.
    Waits {
        /// Reason.
        problem: String,
        /// Time of the next attempt.
        next_attempt_at: Option<Timestamp>,
    },
    /// A newer pair came first.
    Superseded,
}

/// Hint for a grant of another portal whose refresh token was spent in the attempt.
#[must_use]
pub fn superseded_hint(portal: &str) -> String {
    format!(
        "its new pair is put aside. For the portal that it belongs to: refreshd import THAT-PORTAL --aside-of {portal}; if it \
         is meant for this one: refreshd import {portal} --aside-of {portal}"
    )
}

/// Hint for a grant of another portal, if nothing was sent.
#[must_use]
pub fn replace_hint(another: &IdentityMismatch, portal: &str) -> String {
    match another {
        IdentityMismatch::ThanPinned { .. } => {
            "if that is meant, write it into the configuration, then: systemctl reload refreshd"
                .to_owned()
        }
        IdentityMismatch::ThanLiving { .. } => {
            format!("if that is meant: refreshd import {portal} --replace")
        }
        IdentityMismatch::ThanHost { .. } => format!(
            "if that is meant, write another `domain`, or whose grant it is (`member_id`), into the configuration, \
             or: refreshd import {portal} --replace"
        ),
    }
}
