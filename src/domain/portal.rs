//! One grant that is kept fresh: where it stands, and what the state keeps of it.
//!
//! Must not decide what happens next: that is `renewal`.

use serde::{Deserialize, Serialize};

use super::name::PortalName;
use super::settings::{OWN_APP, Settings};
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::token::{Generation, Tokens};

/// Where a grant stands. Each variant carries only what is true in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The last renewal went well, or the grant is new.
    Fresh,
    /// Renewals fail and are tried again.
    Retrying {
        /// Failures in a row, from 1.
        attempt: u32,
        /// When the first of them was.
        since: Timestamp,
        /// The last of them.
        problem: Problem,
    },
    /// A request left and its outcome is not known; the same token is sent again.
    InDoubt {
        /// Attempts without an outcome, from 1.
        attempt: u32,
        /// When the first of them was.
        since: Timestamp,
        /// The last of them.
        problem: Problem,
    },
    /// The app's client is refused; this grant is kept and left alone.
    ClientRejected {
        /// Refusals in a row, from 1.
        attempt: u32,
        /// When the first of them was.
        since: Timestamp,
        /// The last of them.
        problem: Problem,
    },
    /// Somebody must pay or allow something; polled slowly.
    Blocked {
        /// Polls so far, from 1.
        attempt: u32,
        /// When it began.
        since: Timestamp,
        /// The last answer.
        problem: Problem,
    },
    /// A person must authorize again. The server is asked again now and then for some days, in case it was wrong.
    NeedsAuthorization {
        /// When it was found out.
        since: Timestamp,
        /// The answer that said so.
        problem: Problem,
        /// The rejection came while a request was in doubt: it may have been our own reply that got lost.
        while_in_doubt: bool,
    },
    /// The app was removed from the portal; nothing is sent.
    Gone {
        /// When it was found out.
        since: Timestamp,
        /// The answer that said so.
        problem: Problem,
    },
    /// The state is older than what was published, as after a restored backup: its refresh token is probably spent,
    /// and nothing is sent.
    OldState {
        /// When it was found out.
        since: Timestamp,
        /// What said so.
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

    /// Failures in a row.
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

    /// Whether only a person can mend it.
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

    /// Its name in the status, the metrics and the state.
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

/// A phase's name, and the kinds of portals that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// Its client or server was changed in the configuration; the refresh token is kept from the new one.
    ClientChanged,
    /// A grant that the configuration does not name any more.
    Unconfigured,
    /// What the state has of it cannot be understood; it is left alone.
    Unreadable,
}

impl Kind {
    /// Every kind, for metrics that start at zero.
    pub const ALL: [Self; 12] = [
        Self::Fresh,
        Self::Retrying,
        Self::InDoubt,
        Self::ClientRejected,
        Self::Blocked,
        Self::NeedsAuthorization,
        Self::Gone,
        Self::OldState,
        Self::AwaitingAuthorization,
        Self::ClientChanged,
        Self::Unconfigured,
        Self::Unreadable,
    ];

    /// As written in the status, the metrics and the state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Retrying => "retrying",
            Self::InDoubt => "in-doubt",
            Self::ClientRejected => "client-rejected",
            Self::Blocked => "blocked",
            Self::NeedsAuthorization => "needs-authorization",
            Self::Gone => "gone",
            Self::OldState => "old-state",
            Self::AwaitingAuthorization => "awaiting-authorization",
            Self::ClientChanged => "client-changed",
            Self::Unconfigured => "unconfigured",
            Self::Unreadable => "unreadable",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Marks the durable intent to spend one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimId(pub i64);

/// When to do what with a grant.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantStatus {
    /// Where it stands.
    pub phase: Phase,
    /// When the renewal is, or was, planned; `None` while there is no access token.
    pub renew_at: Option<Timestamp>,
    /// When something is sent next: the renewal, a retry, a replay or a poll. `None`: nothing is sent.
    pub next_attempt_at: Option<Timestamp>,
}

/// A grant as the state keeps it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Counts the pairs.
    pub generation: Generation,
    /// The newest pair.
    pub tokens: Tokens,
    /// Where it stands.
    pub standing: GrantStatus,
    /// When the newest pair came.
    pub renewed_at: Timestamp,
    /// The client and authority that may see the refresh token.
    pub bound_to: Fingerprint,
    /// The token endpoint that the next renewal goes to.
    pub token_url: String,
    /// Whose grant it is, once known.
    pub identity: Option<String>,
    /// The escalation steps that were announced.
    pub told: Vec<String>,
    /// A claim without a recorded outcome yet.
    pub claim: Option<(ClaimId, Timestamp)>,
    /// When it was last claimed, and so tried.
    pub tried_at: Option<Timestamp>,
}

/// A portal as the state keeps it.
#[derive(Clone, Debug)]
pub struct Portal {
    /// Its name.
    pub name: PortalName,
    /// What the configuration says; `None` if it does not name this portal any more.
    pub settings: Option<Settings>,
    /// The client and authority that the configuration names now.
    pub binding: Option<Fingerprint>,
    /// The token endpoint that the configuration gives its region.
    pub config_url: Option<String>,
    /// Its grant, once there is one.
    pub grant: Option<Grant>,
    /// The column of the state that cannot be understood; nothing else is known of such a portal then.
    pub unreadable: Option<&'static str>,
    /// The kind of the request that bought the newest pair, if that was a renewal: see [`refreshd_token_client::request`].
    pub bought_by: Option<Fingerprint>,
    /// The refusal of its app's client, if the server refuses that for all portals: it waits until then.
    pub client_refused: Option<ClientRefused>,
    /// The newest generation that is known of from outside, where the state has no grant: it was lost, and nothing is
    /// sent until a person hands over a new one.
    pub lost: Option<Generation>,
    /// What is to replace the grant once it has proved itself.
    pub candidate: Option<PendingCandidate>,
}

/// An app's client is refused, and one portal tries for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRefused {
    /// Since when.
    pub since: Timestamp,
    /// When it is tried again.
    pub retry_at: Timestamp,
    /// By which portal, as far as that is known.
    pub probe: Option<String>,
}

impl Portal {
    /// Its name for the status and the metrics.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match (&self.settings, &self.grant) {
            _ if self.unreadable.is_some() => Kind::Unreadable,
            (None, _) => Kind::Unconfigured,
            (Some(_), None) if self.lost.is_some() => Kind::OldState,
            (Some(_), None) => Kind::AwaitingAuthorization,
            (Some(_), Some(grant)) if self.binding != Some(grant.bound_to) => Kind::ClientChanged,
            (Some(_), Some(grant)) => grant.standing.phase.kind(),
        }
    }

    /// Until when it waits since it alone is refused: the client works for other portals.
    #[must_use]
    pub fn waits_alone(&self) -> Option<String> {
        let GrantStatus {
            phase: Phase::ClientRejected { since, problem, .. },
            next_attempt_at: Some(retry_at),
            ..
        } = &self.grant.as_ref()?.standing
        else {
            return None;
        };
        problem.works_for.map(|_| {
            format!(
                "waits: the client is refused for this portal only since {since}, next try at {retry_at}"
            )
        })
    }

    /// Why and until when it waits for its app's client, if something of it would be due before that is tried again.
    #[must_use]
    pub fn waits(&self) -> Option<String> {
        let refused = self.client_refused.as_ref()?;
        let app = self
            .settings
            .as_ref()
            .map(|settings| settings.app.as_str())?;
        // What a dead grant waits for is a person.
        let is_dead = |phase: &Phase| {
            matches!(
                phase,
                Phase::NeedsAuthorization { .. } | Phase::Gone { .. } | Phase::OldState { .. }
            )
        };
        let act_at = self
            .grant
            .as_ref()
            .filter(|grant| grant.claim.is_none() && !is_dead(&grant.standing.phase))?
            .standing
            .next_attempt_at?;
        if act_at > refused.retry_at {
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

/// The client and authority that may see a portal's refresh token, as one comparable value.
#[must_use]
pub fn binding(authority: &str, client_id: &str) -> Fingerprint {
    Fingerprint::of(format!("{authority}\n{client_id}").as_bytes())
}
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
        [Self::Import, Self::File, Self::Install]
            .into_iter()
            .find(|origin| origin.as_str() == text)
    }
}

/// What may be seen of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingCandidate {
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
