//! A portal and its grant, as the state stores them.
//!
//! Must not decide the next action: `renewal` does.

use serde::{Deserialize, Serialize};

use super::name::PortalName;
use super::settings::{OWN_APP, Settings};
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::error_table::Class;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::token::{Generation, Tokens};

/// Phase of a grant. Each variant holds only its own data.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The last renewal succeeded, or the grant is new.
    Fresh,
    /// Renewals fail and are retried.
    Retrying {
        /// Consecutive failures, from 1.
        attempt: u32,
        /// Time of the first failure.
        since: Timestamp,
        /// The last failure.
        problem: Problem,
    },
    /// A request was sent and its outcome is unknown; the same token is sent again.
    InDoubt {
        /// Attempts without an outcome, from 1.
        attempt: u32,
        /// Time of the first of them.
        since: Timestamp,
        /// The last failure.
        problem: Problem,
    },
    /// The app's client is refused; this grant is kept and not used.
    ClientRejected {
        /// Consecutive refusals, from 1.
        attempt: u32,
        /// Time of the first refusal.
        since: Timestamp,
        /// The last refusal.
        problem: Problem,
    },
    /// A payment or a permission is missing; polled slowly.
    Blocked {
        /// Polls so far, from 1.
        attempt: u32,
        /// Time of the first refusal.
        since: Timestamp,
        /// The last response.
        problem: Problem,
    },
    /// A person must authorize again. The server is asked again occasionally for some days, in case of an error on its side.
    NeedsAuthorization {
        /// Time of detection.
        since: Timestamp,
        /// The response that caused it.
        problem: Problem,
        /// The rejection came while a request was in doubt: a lost response may have spent the token.
        while_in_doubt: bool,
    },
    /// The app was removed from the portal; nothing is sent.
    Gone {
        /// Time of detection.
        since: Timestamp,
        /// The response that caused it.
        problem: Problem,
    },
    /// The state was rolled back: it is older than the published token, as after a restored backup. Its refresh token is
    /// probably spent, and nothing is sent.
    OldState {
        /// Time of detection.
        since: Timestamp,
        /// The evidence.
        problem: Problem,
    },
}

impl Phase {
    /// The problem, unless fresh.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Fresh => None,
            Self::Retrying { problem, .. }
            | Self::InDoubt { problem, .. }
            | Self::ClientRejected { problem, .. }
            | Self::Blocked { problem, .. }
            | Self::NeedsAuthorization { problem, .. }
            | Self::Gone { problem, .. }
            | Self::OldState { problem, .. } => Some(problem),
        }
    }

    /// Since when it is not fresh.
    #[must_use]
    pub const fn since(&self) -> Option<Timestamp> {
        match self {
            Self::Fresh => None,
            Self::Retrying { since, .. }
            | Self::InDoubt { since, .. }
            | Self::ClientRejected { since, .. }
            | Self::Blocked { since, .. }
            | Self::NeedsAuthorization { since, .. }
            | Self::Gone { since, .. }
            | Self::OldState { since, .. } => Some(*since),
        }
    }

    /// Consecutive failures.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        match self {
            Self::Retrying { attempt, .. }
            | Self::InDoubt { attempt, .. }
            | Self::ClientRejected { attempt, .. }
            | Self::Blocked { attempt, .. } => *attempt,
            Self::Fresh
            | Self::NeedsAuthorization { .. }
            | Self::Gone { .. }
            | Self::OldState { .. } => 0,
        }
    }

    /// Returns whether only a person can resolve it.
    #[must_use]
    pub const fn needs_person(&self) -> bool {
        match self {
            Self::ClientRejected { .. }
            | Self::Blocked { .. }
            | Self::NeedsAuthorization { .. }
            | Self::Gone { .. }
            | Self::OldState { .. } => true,
            Self::Fresh | Self::Retrying { .. } | Self::InDoubt { .. } => false,
        }
    }

    /// Returns whether it is escalated as a problem for the operator. A grant in doubt is, too, if its replay fails with a class
    /// that needs one.
    #[must_use]
    pub fn escalates_to_person(&self) -> bool {
        self.needs_person()
            || self.problem().is_some_and(|problem| {
                matches!(problem.class, Class::Blocked | Class::ClientRejected)
            })
    }

    /// Returns whether the grant is dead: no renewal with it can succeed any more, as far as is known.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        self.kind().is_dead()
    }

    /// Name in status, metrics and state.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Fresh => Kind::Fresh,
            Self::Retrying { .. } => Kind::Retrying,
            Self::InDoubt { .. } => Kind::InDoubt,
            Self::ClientRejected { .. } => Kind::ClientRejected,
            Self::Blocked { .. } => Kind::Blocked,
            Self::NeedsAuthorization { .. } => Kind::NeedsAuthorization,
            Self::Gone { .. } => Kind::Gone,
            Self::OldState { .. } => Kind::OldState,
        }
    }
}

/// Name of a phase, or of the condition of a portal without one.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// See [`Phase::Fresh`].
    Fresh,
    /// See [`Phase::Retrying`].
    Retrying,
    /// See [`Phase::InDoubt`].
    InDoubt,
    /// See [`Phase::ClientRejected`].
    ClientRejected,
    /// See [`Phase::Blocked`].
    Blocked,
    /// See [`Phase::NeedsAuthorization`].
    NeedsAuthorization,
    /// See [`Phase::Gone`].
    Gone,
    /// See [`Phase::OldState`].
    OldState,
    /// Configured, without a grant.
    AwaitingAuthorization,
    /// Its client or server was changed in the configuration; the refresh token is not sent to the new one.
    ClientChanged,
    /// A grant whose portal is not in the configuration.
    Unconfigured,
    /// Its data in the state cannot be parsed; nothing is sent.
    Unreadable,
}

impl Kind {
    /// See [`Phase::is_dead`].
    #[must_use]
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::NeedsAuthorization | Self::Gone | Self::OldState)
    }

    /// Returns whether requests are sent for a portal of this kind.
    #[must_use]
    pub const fn sends(self) -> bool {
        match self {
            Self::Fresh
            | Self::Retrying
            | Self::InDoubt
            | Self::ClientRejected
            | Self::Blocked
            | Self::NeedsAuthorization => true,
            Self::Gone
            | Self::AwaitingAuthorization
            | Self::OldState
            | Self::ClientChanged
            | Self::Unconfigured
            | Self::Unreadable => false,
        }
    }

    /// Name in status, metrics and state.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Identifies a claim, the durable intent to spend one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimId(pub i64);

/// Phase and schedule of a grant.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantStatus {
    /// Current phase.
    pub phase: Phase,
    /// Planned time of the renewal; `None` while there is no access token.
    pub renew_at: Option<Timestamp>,
    /// Next request: renewal, retry, replay or poll. `None`: nothing is sent.
    pub next_attempt_at: Option<Timestamp>,
}

/// A grant as the state keeps it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Generation of the newest pair.
    pub generation: Generation,
    /// The newest pair.
    pub tokens: Tokens,
    /// Phase and schedule.
    pub status: GrantStatus,
    /// Time of the newest pair.
    pub renewed_at: Timestamp,
    /// The client and authority that may receive the refresh token.
    pub bound_to: Fingerprint,
    /// Token endpoint of the next renewal.
    pub token_url: String,
    /// Identity of the owner, once known.
    pub identity: Option<String>,
    /// Names of the notified escalation steps.
    pub notified: Vec<String>,
    /// Open claim: no outcome recorded yet.
    pub claim: Option<(ClaimId, Timestamp)>,
    /// Time of the last claim, and so of the last attempt.
    pub tried_at: Option<Timestamp>,
}

/// A portal as the state keeps it.
#[derive(Clone, Debug)]
pub struct Portal {
    /// Its name.
    pub name: PortalName,
    /// Its settings; `None` if the configuration no longer names this portal.
    pub settings: Option<Settings>,
    /// The client and authority that the configuration names.
    pub binding: Option<Fingerprint>,
    /// The configured token endpoint of its region.
    pub config_url: Option<String>,
    /// Its grant, if it has one.
    pub grant: Option<Grant>,
    /// The column of the state that cannot be parsed; then nothing else is known of the portal.
    pub unreadable: Option<&'static str>,
    /// The kind of the request that obtained the newest pair, if that was a renewal: see [`refreshd_token_client::request`].
    pub bought_by: Option<Fingerprint>,
    /// Set if the server refuses its app's client for all portals: the portal waits.
    pub client_refused: Option<ClientRefused>,
    /// Set if the state has no grant though there may have been one: nothing is sent until an operator imports a new one.
    pub lost: Option<Lost>,
    /// The grant that replaces the present one after a successful renewal.
    pub candidate: Option<PendingCandidate>,
}

/// Why nothing is sent for a portal without a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its grant was lost: the newest generation recorded outside the state.
    Grant(Generation),
    /// There is no trace of it, but the state lacks grants of others: it may be one of them under another name, and its first token
    /// that one's spent token.
    Doubt,
}

impl Lost {
    /// The newest known generation.
    #[must_use]
    pub const fn generation(self) -> Option<Generation> {
        match self {
            Self::Grant(newest) => Some(newest),
            Self::Doubt => None,
        }
    }
}

/// A refused client; one portal probes for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRefused {
    /// Since when.
    pub since: Timestamp,
    /// Time of the next probe.
    pub retry_at: Timestamp,
    /// The probing portal, if known.
    pub probe: Option<String>,
}

impl Portal {
    /// Name for status and metrics.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match (&self.settings, &self.grant) {
            _ if self.unreadable.is_some() => Kind::Unreadable,
            (None, _) => Kind::Unconfigured,
            (Some(_), None) if self.lost.is_some() => Kind::OldState,
            (Some(_), None) => Kind::AwaitingAuthorization,
            (Some(_), Some(grant)) if self.binding != Some(grant.bound_to) => Kind::ClientChanged,
            (Some(_), Some(grant)) => grant.status.phase.kind(),
        }
    }

    /// Until when it waits because only it is refused: the client works for other portals.
    #[must_use]
    pub fn waits_alone(&self) -> Option<String> {
        let GrantStatus {
            phase: Phase::ClientRejected { since, problem, .. },
            next_attempt_at: Some(retry_at),
            ..
        } = &self.grant.as_ref()?.status
        else {
            return None;
        };
        problem.works_for.map(|_| {
            format!(
                "waits: the client is refused for this portal only since {since}, next try at {retry_at}"
            )
        })
    }

    /// Why and until when it waits for its app's client, if it would be due before the next probe.
    #[must_use]
    pub fn waits(&self) -> Option<String> {
        let refused = self.client_refused.as_ref()?;
        let app = self
            .settings
            .as_ref()
            .map(|settings| settings.app.as_str())?;
        // A dead grant waits for a person, not for the client.
        let next_attempt_at = self
            .grant
            .as_ref()
            .filter(|grant| grant.claim.is_none() && !grant.status.phase.is_dead())?
            .status
            .next_attempt_at?;
        if next_attempt_at > refused.retry_at {
            return None;
        }
        let app = app.strip_prefix(OWN_APP).unwrap_or(app);
        let ClientRefused {
            since,
            retry_at,
            probe,
        } = refused;
        let by = probe
            .as_ref()
            .map(|probe| format!(" by {probe}"))
            .unwrap_or_default();
        Some(format!(
            "waits: the client of app {app} is refused since {since}, next try at {retry_at}{by}"
        ))
    }
}

/// The client and authority that may receive a portal's refresh token, as one comparable value.
#[must_use]
pub fn binding(authority: &str, client_id: &str) -> Fingerprint {
    Fingerprint::of(format!("{authority}\n{client_id}").as_bytes())
}

/// Origin of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "kebab-case")]
pub enum Origin {
    /// `refreshd import`.
    Import,
    /// The portal's `refresh_token_file`.
    #[strum(serialize = "refresh_token_file")]
    File,
    /// An install event.
    Install,
    /// A stored response to a renewal whose token was refused later.
    KeptReply,
}

impl Origin {
    /// Name in the state and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The displayable part of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingCandidate {
    /// Origin.
    pub origin: Origin,
    /// Time of the import.
    pub since: Timestamp,
    /// Phase of the candidate; fresh until its first attempt.
    pub kind: Kind,
    /// Why it is not verified yet; `None` before its first attempt.
    pub problem: Option<Problem>,
    /// Time of the next attempt.
    pub next_attempt_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::token_format::TokenFormat;
    use refreshd_alerting::Severity;
    use refreshd_alerting::message::Event;
    use strum::VariantArray;

    #[test]
    fn json_has_the_words_that_are_displayed() {
        fn check<T: VariantArray + Copy + Serialize + Into<&'static str>>() {
            for variant in T::VARIANTS {
                let word: &'static str = (*variant).into();
                assert_eq!(serde_json::to_value(variant).unwrap(), word);
            }
        }
        check::<Kind>();
        check::<TokenFormat>();
        check::<Severity>();
        check::<Event>();
        check::<Class>();
    }
}
