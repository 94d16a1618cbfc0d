//! Portals that come by themselves, because an app was installed there: what they are called, and whose grant is kept.
//!
//! Must not believe a notice: what is decided here is decided of an [`TokenOwner`] that the authorization server named.

use std::sync::Arc;
use std::time::Duration;

use super::name::PortalName;
use super::portal::Phase;
use super::settings::{Configured, RenewSetting, Settings};
use super::token_format::TokenFormat;
use super::token_owner::TokenOwner;
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::host::region_of;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::renew_every::RenewEvery;

/// The names that a naming rule may leave open, in braces.
pub const PLACEHOLDERS: [&str; 4] = ["domain", "member_id", "user_id", "app"];
/// An event that is older says nothing about now.
const MAX_EVENT_AGE: Duration = Duration::from_secs(86_400);
/// The sender's clock may be ahead by this much without a word.
const AHEAD: Duration = Duration::from_secs(30);

/// What an app's installs become.
#[derive(Clone, Debug, PartialEq)]
pub struct InstallRule {
    /// Where its portals post to.
    pub path: String,
    /// What a portal is called.
    pub names: NameRule,
    /// How many grants of a portal are kept.
    pub users: Users,
    /// The token files to write.
    pub formats: Vec<TokenFormat>,
    /// Renew at this age instead of the profile's.
    pub renew_every: Option<RenewSetting>,
}

/// Whose grants are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// One for each portal: its installer's, or the app's own user's.
    Installer,
    /// One for each user.
    Each,
}

/// What a portal is called: a text with [`PLACEHOLDERS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule(String);

/// What is wrong with a naming rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameTemplateError {
    /// A brace that is not one of a pair.
    #[error("has a brace without its other half")]
    Brace,
    /// A gap that nothing can fill.
    #[error("holds a name in braces that nothing fills in")]
    Gap(String),
    /// All portals would be called the same.
    #[error("must hold {{domain}} or {{member_id}}: all portals would have one name")]
    Same,
    /// What is written between the gaps is not safe as a file name.
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

    /// Whether a gap is in it.
    #[must_use]
    pub fn has(&self, gap: &str) -> bool {
        self.0.contains(&format!("{{{gap}}}"))
    }

    /// The rule with the app's name filled in: two apps with the same text would call a portal the same.
    #[must_use]
    pub fn of_app(&self, app: &str) -> String {
        self.0.replace("{app}", app)
    }

    /// What the portal of this owner may be called, best first: by the rule, or by ids that are its own.
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

/// What the state needs to know of an app to keep its installs.
#[derive(Clone, Debug)]
pub struct InstallTerms {
    /// The app's name.
    pub app: String,
    /// What its installs become.
    pub rule: InstallRule,
    /// The provider's profile with the app's overrides.
    pub profile: Arc<Profile>,
    /// Which grants its client may spend.
    pub binding: Fingerprint,
}

impl InstallTerms {
    /// A portal of this app as if the configuration named it.
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

/// What brought a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Somebody opened the app.
    Opened,
    /// The event of an installation.
    Installed,
    /// The event that gives the app a user of its own.
    SystemUser,
}

impl EventKind {
    /// As stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Installed => "installed",
            Self::SystemUser => "system-user",
        }
    }

    /// The occasion of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Opened, Self::Installed, Self::SystemUser]
            .into_iter()
            .find(|occasion| occasion.as_str() == text)
    }
}

/// What is kept of the portal so far.
#[derive(Clone, Copy, Debug)]
pub struct CurrentGrant<'a> {
    /// Where its grant stands; `None`: there is no grant that this client may use.
    pub phase: Option<&'a Phase>,
    /// The configuration names this portal.
    pub listed: bool,
    /// The user of the grant, if known.
    pub user: Option<&'a str>,
    /// Who installed the app, if known.
    pub installer: Option<&'a str>,
    /// What the notice's application token proves.
    pub proof: OwnershipProof,
}

/// What an application token proves. Whoever has a token of the app may have made up the event around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnershipProof {
    /// It is the one that is known of the installation.
    Proven,
    /// None is known that it could be compared with.
    Unknown,
    /// It is another, or there is none.
    Other,
}

/// What to do with a grant that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallDecision {
    /// Keep it from now on.
    Take,
    /// There is one that lives.
    FreshAlready,
    /// There is one of another user.
    OtherUser,
    /// It comes with an application token that is not this installation's.
    OtherInstallation,
}

/// Decides which grant of a portal is kept. An employee who opens the app must not put a grant of few rights in the
/// place of the installer's.
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
    let stuck = needs_a_person(phase);
    match occasion {
        EventKind::Installed | EventKind::SystemUser if listed && fresh => {
            InstallDecision::FreshAlready
        }
        // Whoever installs the app anew mends it; the server has said that he may.
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

/// Whether only a person can get this grant to work again.
const fn needs_a_person(phase: &Phase) -> bool {
    matches!(
        phase,
        Phase::NeedsAuthorization { .. } | Phase::OldState { .. } | Phase::Blocked { .. }
    )
}

/// Whether a grant that stands there may still be good, so that another must prove itself before it takes its place.
#[must_use]
pub const fn may_live(phase: &Phase) -> bool {
    !matches!(
        phase,
        Phase::NeedsAuthorization { .. } | Phase::OldState { .. } | Phase::Gone { .. }
    )
}

/// Whether an event may put another user's grant in the place of the one that is there. Its user may have written it
/// himself; where the grant does not work and nothing is known to compare it with, there is nothing left to guard.
const fn replaces(proof: OwnershipProof, stuck: bool) -> bool {
    match proof {
        OwnershipProof::Proven => true,
        OwnershipProof::Unknown => stuck,
        OwnershipProof::Other => false,
    }
}

/// Whether an event is too old to be about now. One from ahead is about now: clocks differ.
#[must_use]
pub fn is_stale(sent_at: Timestamp, now: Timestamp) -> bool {
    now.since(sent_at) > MAX_EVENT_AGE
}

/// By how much the sender's clock is ahead, if that is worth a word.
#[must_use]
pub fn ahead(sent_at: Timestamp, now: Timestamp) -> Option<Duration> {
    Some(sent_at.since(now)).filter(|ahead| *ahead > AHEAD)
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A portal that was not known is kept fresh from now on.
    Stored,
    /// A portal that was known has a new grant.
    Resumed,
    /// Its grant lives; nothing was changed.
    FreshAlready,
    /// Its grant is another user's; nothing was changed.
    OtherUser,
    /// The portal's grant is gone.
    Uninstalled,
    /// It is not what it says.
    Forged,
    /// It came before, or is of another time.
    Replayed,
    /// The authorization server could not be asked.
    Unverified,
    /// It is no notice.
    Malformed,
    /// More came than is taken in.
    TooMany,
    /// An event that is about something else.
    Ignored,
    /// It was right, and could not be kept.
    NotStored,
}

impl Outcome {
    /// Every outcome, for metrics that start at zero.
    pub const ALL: [Self; 12] = [
        Self::Stored,
        Self::Resumed,
        Self::FreshAlready,
        Self::OtherUser,
        Self::Uninstalled,
        Self::Forged,
        Self::Replayed,
        Self::Unverified,
        Self::Malformed,
        Self::TooMany,
        Self::Ignored,
        Self::NotStored,
    ];

    /// As written in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Resumed => "resumed",
            Self::FreshAlready => "fresh-already",
            Self::OtherUser => "other-user",
            Self::Uninstalled => "uninstalled",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Unverified => "unverified",
            Self::Malformed => "malformed",
            Self::TooMany => "too-many",
            Self::Ignored => "ignored",
            Self::NotStored => "not-stored",
        }
    }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
