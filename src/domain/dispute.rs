//! Disputes: a verified install by another user than the owner of an installed portal's grant. The first event of an
//! installation may have come from an attacker, so an operator decides which grant is kept.
//!
//! Must not replace a working grant without that decision. Must not contain a token: disputes are displayed.

use super::install::EventKind;
use super::name::PortalName;
use refreshd_time::Timestamp;

/// An install that waits for an operator's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// The portal whose grant it would replace.
    pub portal: PortalName,
    /// The installed app.
    pub app: String,
    /// User id of the install, from the authorization server.
    pub user: String,
    /// User id of the grant in force, if known.
    pub holder: Option<String>,
    /// Event that brought the grant.
    pub occasion: EventKind,
    /// Whether the portal reports the new user as an administrator; `None`: not asked, or no answer.
    pub is_admin: Option<bool>,
    /// The same for the owner of the grant in force.
    pub holder_is_admin: Option<bool>,
    /// Time of the first event.
    pub since: Timestamp,
    /// Accepted by an operator; the grant is being verified.
    pub is_accepted: bool,
}

/// Recommended action at a dead grant while an install that replaces it is tried.
pub const HINT_TRIED: &str = "nothing yet: the install of another user, which waited for a decision, is tried in its place; if it is not \
     taken, authorize the app again: refreshd authorize {portal}";
/// Recommended action at a dead grant where a person has to decide about an install.
pub const HINT_WAITS: &str = "the install of another user waits for a decision and may take its place: refreshd install list, then refreshd \
     install accept {portal}; or authorize the app again: refreshd authorize {portal}";

/// Returns whether an install by another user needs an operator's decision. Administrators open apps that other administrators
/// installed, and employees can forge events: if the portal's answer settles it, no decision is needed.
#[must_use]
pub const fn needs_decision(
    occasion: EventKind,
    is_admin: Option<bool>,
    holder_is_admin: Option<bool>,
) -> bool {
    match occasion {
        EventKind::Opened => {
            matches!(is_admin, Some(true)) && !matches!(holder_is_admin, Some(true))
        }
        EventKind::Installed => {
            !(matches!(is_admin, Some(false)) && matches!(holder_is_admin, Some(true)))
        }
        // The event of the app's own user follows the install event, and must carry its application token.
        EventKind::SystemUser => false,
    }
}

impl Dispute {
    /// Returns whether it is taken over a grant that is dead without a decision: the authorization server has verified the
    /// installation, and nothing denies that its user may install.
    #[must_use]
    pub const fn replaces_dead(&self) -> bool {
        matches!(self.occasion, EventKind::Installed) && !matches!(self.is_admin, Some(false))
    }

    /// Priority among several disputes of a portal: an unprivileged user must not displace an administrator.
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match (self.is_admin, self.occasion) {
            (Some(true), EventKind::Installed | EventKind::SystemUser) => 3,
            (Some(true), EventKind::Opened) => 2,
            (None, _) => 1,
            (Some(false), _) => 0,
        }
    }

    /// Description for the operator.
    #[must_use]
    pub fn reason(&self) -> String {
        let Self {
            portal: _,
            app,
            user,
            holder,
            occasion,
            is_admin,
            holder_is_admin,
            ..
        } = self;
        let did = match occasion {
            EventKind::Opened => format!("has opened {app}"),
            EventKind::Installed | EventKind::SystemUser => {
                format!(
                    "has reported an installation of {app} here, with another application token"
                )
            }
        };
        let holder = holder.as_deref().unwrap_or("unknown");
        format!(
            "user {user} ({}) {did}, but the grant that is kept is that of user {holder} ({}), who came first; \
             uninstall events end nothing by themselves",
            rights(*is_admin),
            rights(*holder_is_admin)
        )
    }

    /// Commands that resolve it; `portal` is the name to use in them.
    #[must_use]
    pub fn action(&self, portal: &str) -> String {
        let user = &self.user;
        format!(
            "ask who installed the app. If it was user {user}: refreshd install accept {portal}; if not: refreshd install refuse \
             {portal}"
        )
    }
}

const fn rights(is_admin: Option<bool>) -> &'static str {
    match is_admin {
        Some(true) => "an administrator, according to the portal",
        Some(false) => "no administrator, according to the portal",
        None => "the portal did not say whether an administrator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dispute(occasion: EventKind, is_admin: Option<bool>) -> Dispute {
        Dispute {
            portal: PortalName::parse("acme").unwrap(),
            app: "crm".to_owned(),
            user: "1".to_owned(),
            holder: Some("67".to_owned()),
            occasion,
            is_admin,
            holder_is_admin: Some(false),
            since: Timestamp::default(),
            is_accepted: false,
        }
    }

    #[test]
    fn the_portals_word_settles_it_where_it_can() {
        use EventKind::{Installed, Opened, SystemUser};
        for (occasion, is_admin, holder_is_admin, asked) in [
            (Opened, Some(true), Some(false), true),
            (Opened, Some(true), None, true),
            (Opened, Some(true), Some(true), false),
            (Opened, None, Some(false), false),
            (Opened, Some(false), Some(false), false),
            (Installed, Some(true), Some(true), true),
            (Installed, None, Some(true), true),
            (Installed, Some(false), Some(false), true),
            (Installed, Some(false), None, true),
            (Installed, Some(false), Some(true), false),
            (SystemUser, Some(true), Some(false), false),
        ] {
            let is_asked = needs_decision(occasion, is_admin, holder_is_admin);
            assert_eq!(
                is_asked, asked,
                "{occasion:?} {is_admin:?} {holder_is_admin:?}"
            );
        }
    }

    #[test]
    fn an_installation_replaces_a_dead_grant_unless_its_user_may_not_install() {
        use EventKind::{Installed, Opened};
        for (occasion, is_admin, replaces) in [
            (Installed, Some(true), true),
            (Installed, None, true),
            (Installed, Some(false), false),
            (Opened, Some(true), false),
        ] {
            let dispute = dispute(occasion, is_admin);
            assert_eq!(
                dispute.replaces_dead(),
                replaces,
                "{occasion:?} {is_admin:?}"
            );
        }
    }

    #[test]
    fn whoever_is_no_administrator_does_not_displace_one() {
        let ranks = [
            dispute(EventKind::Opened, Some(false)),
            dispute(EventKind::Installed, None),
            dispute(EventKind::Opened, Some(true)),
            dispute(EventKind::Installed, Some(true)),
        ]
        .map(|dispute| dispute.rank());
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    }

    #[test]
    fn both_users_and_both_commands_are_named() {
        let dispute = dispute(EventKind::Installed, Some(true));
        let reason = dispute.reason();
        assert!(
            reason.contains("user 1 (an administrator") && reason.contains("user 67 (no admin"),
            "{reason}"
        );
        let action = dispute.action("acme");
        assert!(
            action.contains("refreshd install accept acme;")
                && action.ends_with("install refuse acme")
        );
    }
}
