//! Candidates: grants that are to replace one that the state has, and have not proved themselves yet.
//!
//! A candidate is exchanged like any grant (`renewal::settle`) and takes the portal's place with the pair that came of
//! it, or goes. Must not send or store: `daemon::candidates` does.

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

/// What its exchange makes of a candidate.
#[derive(Debug)]
pub enum CandidateVerdict {
    /// It takes the portal's place with this pair.
    Proved(Box<Renewed>),
    /// The server refuses it: it goes.
    Refused(Problem),
    /// It is another portal's: it goes, and the pair is kept aside.
    Another {
        /// Whose it is.
        why: String,
        /// What came.
        pair: TokenPair,
    },
    /// It could not be proved now.
    Waits(GrantStatus),
}

/// A pair that is kept aside.
#[derive(Debug)]
pub struct TokenPair {
    /// The access token.
    pub access: Option<AccessToken>,
    /// The refresh token, if a new one came.
    pub refresh: Option<RefreshToken>,
    /// Whose it is.
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

/// Decides what becomes of a candidate.
#[must_use]
pub fn judge(settled: Transition) -> CandidateVerdict {
    let standing = match settled {
        Transition::Renewed(renewed) => return CandidateVerdict::Proved(renewed),
        Transition::Foreign { standing, granted } => {
            let why = standing
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
        Transition::Kept(standing) => standing,
    };
    match &standing.phase {
        Phase::NeedsAuthorization { problem, .. } | Phase::Gone { problem, .. } => {
            CandidateVerdict::Refused(problem.clone())
        }
        // A code that no table knows is the server's word about this request, and nothing is lost with a newcomer.
        Phase::Retrying { problem, .. }
            if problem.class == Class::Unknown && problem.code.is_some() =>
        {
            CandidateVerdict::Refused(problem.clone())
        }
        _ => CandidateVerdict::Waits(standing),
    }
}

/// What became of a candidate, in words for whoever handed it over.
#[derive(Debug, Clone)]
pub enum ImportResult {
    /// It took the portal's place.
    TakenIn,
    /// The server, or what it said of the owner, is against it.
    Refused(String),
    /// Not known now.
    Waits {
        /// Why not.
        problem: String,
        /// When it is tried again.
        act_at: Option<Timestamp>,
    },
    /// Something newer came first.
    SetAside,
}

/// What to do about a grant of another portal's whose refresh token was spent to learn that.
#[must_use]
pub fn superseded_hint(portal: &str) -> String {
    format!(
        "its new pair is put aside. For the portal that it belongs to: refreshd import THAT-PORTAL --aside-of {portal}; if it \
         is meant for this one: refreshd import {portal} --aside-of {portal}"
    )
}

/// What to do about a grant of another portal's, of which nothing was sent.
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
