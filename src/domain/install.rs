//! Installed portals: naming, and the decision which grant is kept.
//!
//! Must not trust an install event: decisions are based on a [`TokenOwner`] from the authorization server.

use std::sync::Arc;
use std::time::Duration;

use super::name::PortalName;
use super::portal::{Kind, Phase};
use super::settings::{Configured, RenewSetting, Settings};
use super::token_format::TokenFormat;
use super::token_owner::TokenOwner;
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::host::region_of;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::renew_every::RenewEvery;

/// The placeholders of a naming rule, in braces.
pub const PLACEHOLDERS: [&str; 4] = ["domain", "member_id", "user_id", "app"];
/// Older events are stale.
const MAX_EVENT_AGE: Duration = Duration::from_secs(86_400);
/// Clock skew that is tolerated without a warning.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);

/// Rule for the installs of an app.
#[derive(Clone, Debug, PartialEq)]
pub struct InstallRule {
    /// Path of the install URL.
    pub path: String,
    /// Naming rule of its portals.
    pub names: NameRule,
    /// Users whose grants are kept for a portal.
    pub users: Users,
    /// The token files to write.
    pub formats: Vec<TokenFormat>,
    /// Renewal age instead of the profile's.
    pub renew_every: Option<RenewSetting>,
}

/// Users whose grants are kept.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Users {
    /// One per portal: its installer's, or the app's own user's.
    Installer,
    /// One per user.
    Each,
}

/// Naming rule: a text with [`PLACEHOLDERS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule(String);

/// Error in a naming rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameTemplateError {
    /// Unpaired brace.
    #[error("has a brace without its other half")]
    Brace,
    /// Unknown placeholder.
    #[error("holds a name in braces that nothing fills in")]
    Gap(String),
    /// All portals would get the same name.
    #[error("must hold {{domain}} or {{member_id}}: all portals would have one name")]
    Same,
    /// A character that is not safe in a file name.
    #[error("holds {0:?}, which is not safe in a file name")]
    Unsafe(char),
}

impl NameRule {
    /// Parses a rule.
    ///
    /// # Errors
    /// [`NameTemplateError`].
    pub fn parse(text: &str) -> Result<Self, NameTemplateError> {
        let (mut rest, mut gaps) = (text, Vec::new());
        while let Some(at) = rest.find(['{', '}']) {
            let inside = rest[at..]
                .strip_prefix('{')
                .ok_or(NameTemplateError::Brace)?;
            let (gap, after) = inside.split_once('}').ok_or(NameTemplateError::Brace)?;
            if !PLACEHOLDERS.contains(&gap) {
                return Err(NameTemplateError::Gap(gap.to_owned()));
            }
            gaps.push(gap);
            rest = after;
        }
        let between = |c: &char| !(c.is_ascii_alphanumeric() || "._-{}".contains(*c));
        if let Some(bad) = text.chars().find(between) {
            return Err(NameTemplateError::Unsafe(bad));
        }
        if !gaps.contains(&"domain") && !gaps.contains(&"member_id") {
            return Err(NameTemplateError::Same);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns whether the rule has this placeholder.
    #[must_use]
    pub fn has(&self, gap: &str) -> bool {
        self.0.contains(&format!("{{{gap}}}"))
    }

    /// The rule with the app's name filled in: two apps with the same result would produce the same names.
    #[must_use]
    pub fn of_app(&self, app: &str) -> String {
        self.0.replace("{app}", app)
    }

    /// Names for the portal of this owner, in order of preference: by the rule, or by unique ids.
    #[must_use]
    pub fn names(&self, app: &str, owner: &TokenOwner, users: Users) -> Vec<PortalName> {
        let TokenOwner {
            member_id,
            user_id,
            host,
            endpoint: _,
            status: _,
        } = owner;
        let by_rule = (self.of_app(app))
            .replace("{domain}", host)
            .replace("{member_id}", member_id)
            .replace("{user_id}", user_id);
        let own = match users {
            Users::Installer => member_id.clone(),
            Users::Each => format!("{member_id}-{user_id}"),
        };
        let of_app = format!("{own}-{app}");
        [by_rule, own, of_app]
            .iter()
            .filter_map(|name| PortalName::parse(name).ok())
            .collect()
    }
}

/// Install settings of an app, for the state.
#[derive(Clone, Debug)]
pub struct InstallContext {
    /// Name of the app.
    pub app: String,
    /// Its install rule.
    pub rule: InstallRule,
    /// The provider's profile with the app's overrides.
    pub profile: Arc<Profile>,
    /// The client that may use the grants.
    pub binding: Fingerprint,
}

impl InstallContext {
    /// A portal of this app, in the form of a configured one.
    #[must_use]
    pub fn configured(&self, name: PortalName, host: Option<&str>, member_id: &str) -> Configured {
        let Self {
            app,
            rule,
            profile,
            binding,
        } = self;
        Configured {
            name,
            settings: Settings {
                app: app.clone(),
                domain: host.map(str::to_owned),
                renew_every: rule.renew_every,
                formats: rule.formats.clone(),
                identity: Some(member_id.to_owned()),
                scope: Vec::new(),
                redirect_uri: None,
                refresh_token_file: None,
            },
            every: self.every().into(),
            token_url: profile.renewal_url_for(host.and_then(region_of), host),
            allowed_urls: profile.renewal_urls().map(str::to_owned).collect(),
            binding: *binding,
        }
    }

    /// The renewal age in force.
    #[must_use]
    pub fn every(&self) -> RenewEvery {
        self.rule
            .renew_every
            .map_or(self.profile.renew_every, RenewEvery::from)
    }
}

/// Event that brought a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "kebab-case")]
pub enum EventKind {
    /// A user opened the app.
    Opened,
    /// The install event.
    Installed,
    /// The event that creates the app's own user.
    SystemUser,
}

impl EventKind {
    /// Name in the state and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The portal as stored.
#[derive(Clone, Copy, Debug)]
pub struct CurrentGrant<'a> {
    /// Phase of its grant; `None`: there is no grant that this client may use.
    pub phase: Option<&'a Phase>,
    /// The configuration names this portal.
    pub listed: bool,
    /// User of the grant, if known.
    pub user: Option<&'a str>,
    /// User who installed the app, if known.
    pub installer: Option<&'a str>,
    /// Result of the application token's check.
    pub proof: OwnershipProof,
}

/// Result of the application token's check. A user with a token of the app may have forged the event around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnershipProof {
    /// It matches the installation's.
    Proven,
    /// None is known to compare it with.
    Unknown,
    /// It differs, or is missing.
    Other,
}

/// Decision on a presented grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallDecision {
    /// Store it.
    Take,
    /// The present grant works.
    FreshAlready,
    /// The present grant is another user's.
    OtherUser,
    /// Its application token is not this installation's.
    OtherInstallation,
}

/// Decides which grant of a portal is kept. An employee who opens the app must not replace the installer's grant with one of
/// fewer rights. A new installation ends the grants of the one before, however fresh they look: its grant is taken, after it
/// has proved itself.
#[must_use]
pub fn decide(occasion: EventKind, held: CurrentGrant<'_>, user: &str) -> InstallDecision {
    let CurrentGrant {
        phase,
        listed,
        user: known,
        installer,
        proof,
    } = held;
    let Some(phase) = phase.filter(|phase| !matches!(phase, Phase::Gone { .. })) else {
        return if proof == OwnershipProof::Other && occasion == EventKind::SystemUser {
            InstallDecision::OtherInstallation
        } else {
            InstallDecision::Take
        };
    };
    let same = known == Some(user);
    let fresh = matches!(phase, Phase::Fresh);
    let stuck = is_stuck(phase.kind());
    match occasion {
        EventKind::SystemUser if listed && fresh => InstallDecision::FreshAlready,
        // A new installation repairs the grant; the server has verified that the user may install.
        EventKind::Installed if stuck => InstallDecision::Take,
        EventKind::Installed | EventKind::SystemUser if !same && !replaces(proof, stuck) => {
            InstallDecision::OtherInstallation
        }
        EventKind::Installed | EventKind::SystemUser => InstallDecision::Take,
        EventKind::Opened if fresh && (same || known.is_none()) => InstallDecision::FreshAlready,
        EventKind::Opened if same => InstallDecision::Take,
        EventKind::Opened if stuck && (known.is_none() || installer == Some(user)) => {
            InstallDecision::Take
        }
        EventKind::Opened => InstallDecision::OtherUser,
    }
}

/// Returns whether a grant of this phase does not work, and an installation may repair it.
#[must_use]
pub const fn is_stuck(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NeedsAuthorization | Kind::OldState | Kind::Blocked
    )
}

/// Returns whether the present grant may still work, so that another one is a candidate first.
#[must_use]
pub const fn may_live(phase: &Phase) -> bool {
    !phase.is_dead()
}

/// Returns whether an event may replace another user's grant. That user may have forged it; but if the grant does not work and
/// there is no application token to compare with, there is nothing left to protect.
const fn replaces(proof: OwnershipProof, stuck: bool) -> bool {
    match proof {
        OwnershipProof::Proven => true,
        OwnershipProof::Unknown => stuck,
        OwnershipProof::Other => false,
    }
}

/// Returns whether an event is stale. One from the future is not: clocks differ.
#[must_use]
pub fn is_stale(sent_at: Timestamp, now: Timestamp) -> bool {
    now.since(sent_at) > MAX_EVENT_AGE
}

/// Clock skew of the sender, if it is worth a warning.
#[must_use]
pub fn ahead(sent_at: Timestamp, now: Timestamp) -> Option<Duration> {
    Some(sent_at.since(now)).filter(|ahead| *ahead > MAX_CLOCK_SKEW)
}

/// Outcome of an install event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Outcome {
    /// A new portal was stored.
    Stored,
    /// A known portal has a new grant.
    Resumed,
    /// The present grant works; unchanged.
    FreshAlready,
    /// The present grant is another user's; unchanged.
    OtherUser,
    /// The portal's grant was deleted.
    Uninstalled,
    /// Verification failed.
    Forged,
    /// Already processed, or stale.
    Replayed,
    /// The authorization server could not be asked.
    Unverified,
    /// Not an install event.
    Malformed,
    /// Over the rate limit.
    TooMany,
    /// An event of another kind.
    Ignored,
    /// Verified, but not stored.
    NotStored,
}

impl Outcome {
    /// Name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
