//! Candidates: grants that are to replace one that the state has, and have not proved themselves yet.
//!
//! A candidate is exchanged like any grant (`renewal::settle`) and takes the portal's place with the pair that came of
//! it, or goes. Must not send or store: `daemon::candidates` does.

use super::identity::Another;
use super::portal::{Kind, Phase, Problem, Standing};
use super::provider::Class;
use super::renewal::{Renewed, Settled};
use super::reply::Granted;
use super::secret::{AccessToken, RefreshToken};
use super::time::Timestamp;
use super::token::Tokens;

/// Where a candidate came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `refreshd import`.
    Import,
    /// The portal's `refresh_token_file`.
    File,
    /// An install notice.
    Install,
}

impl Origin {
    /// As stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::File => "refresh_token_file",
            Self::Install => "install",
        }
    }

    /// The origin of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Import, Self::File, Self::Install].into_iter().find(|origin| origin.as_str() == text)
    }
}

/// What may be seen of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// Where it came from.
    pub origin: Origin,
    /// When it came.
    pub since: Timestamp,
    /// Where its proof stands: fresh until it was tried.
    pub kind: Kind,
    /// Why it is not proved yet; `None` until it was tried.
    pub problem: Option<Problem>,
    /// When it is tried next.
    pub act_at: Option<Timestamp>,
}

/// What its exchange makes of a candidate.
#[derive(Debug)]
pub enum Judged {
    /// It takes the portal's place with this pair.
    Proved(Box<Renewed>),
    /// The server refuses it: it goes.
    Refused(Problem),
    /// It is another portal's: it goes, and the pair is kept aside.
    Another {
        /// Whose it is.
        why: String,
        /// What came.
        pair: Pair,
    },
    /// It could not be proved now.
    Waits(Standing),
}

/// A pair that is kept aside.
#[derive(Debug)]
pub struct Pair {
    /// The access token.
    pub access: Option<AccessToken>,
    /// The refresh token, if a new one came.
    pub refresh: Option<RefreshToken>,
    /// Whose it is.
    pub identity: Option<String>,
}

impl From<Renewed> for Pair {
    fn from(renewed: Renewed) -> Self {
        let Tokens { access, credential, .. } = renewed.tokens;
        let refresh = credential.refresh().cloned();
        Self { access: access.map(|access| access.token), refresh, identity: renewed.identity }
    }
}

/// Decides what becomes of a candidate.
#[must_use]
pub fn judge(settled: Settled) -> Judged {
    let standing = match settled {
        Settled::Renewed(renewed) => return Judged::Proved(renewed),
        Settled::Foreign { standing, granted } => {
            let why = standing.phase.problem().map(Problem::text).unwrap_or_default();
            let Granted { access, refresh, identity, .. } = *granted;
            return Judged::Another { why, pair: Pair { access: Some(access), refresh, identity } };
        }
        Settled::Kept(standing) => standing,
    };
    match &standing.phase {
        Phase::NeedsAuthorization { problem, .. } | Phase::Gone { problem, .. } => {
            Judged::Refused(problem.clone())
        }
        // A code that no table knows is the server's word about this request, and nothing is lost with a newcomer.
        Phase::Retrying { problem, .. } if problem.class == Class::Unknown && problem.code.is_some() => {
            Judged::Refused(problem.clone())
        }
        _ => Judged::Waits(standing),
    }
}

/// What became of a candidate, in words for whoever handed it over.
#[derive(Debug, Clone)]
pub enum Proof {
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
pub fn way_out(portal: &str) -> String {
    format!(
        "its new pair is put aside. For the portal that it belongs to: refreshd import THAT-PORTAL --aside-of {portal}; if it \
         is meant for this one: refreshd import {portal} --aside-of {portal}"
    )
}

/// What to do about a grant of another portal's, of which nothing was sent.
#[must_use]
pub fn way_past(another: &Another, portal: &str) -> String {
    match another {
        Another::ThanPinned { .. } => {
            "if that is meant, write it into the configuration, then: systemctl reload refreshd".to_owned()
        }
        Another::ThanLiving { .. } => {
            format!("if that is meant: refreshd import {portal} --replace")
        }
        Another::ThanHost { .. } => format!(
            "if that is meant, write another `domain`, or whose grant it is (`member_id`), into the configuration, \
             or: refreshd import {portal} --replace"
        ),
    }
}
