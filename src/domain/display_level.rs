//! Display level of a portal or an incident: one rule for the status page and for the terminal.

use super::portal::Kind;
use refreshd_alerting::Severity;

/// Level of a display, the most conspicuous first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DisplayLevel {
    /// An operator must act, or readers have no valid token.
    Bad,
    /// The token works, and something may need attention.
    Warning,
    /// Nothing is expected of refreshd.
    Idle,
    /// Fresh.
    Good,
}

impl DisplayLevel {
    /// Level of a portal. `is_fresh`: fresh in every respect; `is_valid`: the published token has not expired.
    #[must_use]
    pub const fn of_portal(kind: Kind, is_fresh: bool, is_valid: bool) -> Self {
        match kind {
            Kind::Fresh if is_fresh => Self::Good,
            Kind::Fresh | Kind::Retrying | Kind::InDoubt if is_valid => Self::Warning,
            Kind::AwaitingAuthorization | Kind::Unconfigured => Self::Idle,
            Kind::Fresh
            | Kind::Retrying
            | Kind::InDoubt
            | Kind::ClientRejected
            | Kind::Blocked
            | Kind::NeedsAuthorization
            | Kind::Gone
            | Kind::OldState
            | Kind::ClientChanged
            | Kind::Unreadable => Self::Bad,
        }
    }

    /// Level of an incident.
    #[must_use]
    pub const fn of_severity(severity: Severity) -> Self {
        match severity {
            Severity::Notice => Self::Idle,
            Severity::Warning => Self::Warning,
            Severity::Error | Severity::Critical => Self::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_token_is_bad_whatever_the_phase_promises() {
        for kind in [Kind::Fresh, Kind::Retrying, Kind::InDoubt] {
            let level = |is_valid| DisplayLevel::of_portal(kind, false, is_valid);
            assert_eq!(
                (level(true), level(false)),
                (DisplayLevel::Warning, DisplayLevel::Bad),
                "{kind:?}"
            );
        }
    }
}
