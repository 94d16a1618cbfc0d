//! Settings of a portal, in the form that the state stores: memory does not grow with the number of portals.
//!
//! Must not contain a secret: stored as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::PortalName;
use super::token_format::TokenFormat;
use refreshd_secrets::Fingerprint;
use refreshd_token_client::renew_every::RenewEvery;

/// Prefix of the app name of a portal with its own client; the portal's name follows. Configured names have no spaces.
pub const OWN_APP: &str = "portal ";

/// Settings of a portal, as the state stores them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The app (a portal with a client of its own has an app of its own name).
    pub app: String,
    /// The portal's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Renewal age instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_every: Option<RenewSetting>,
    /// The token files to write: `json`, `raw`, `header`, `env`.
    pub formats: Vec<TokenFormat>,
    /// Pinned identity of the grant's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Scope of an authorization.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    /// Redirect URI of an authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
    /// File with the first refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token_file: Option<std::path::PathBuf>,
}

/// A renewal age as stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewSetting {
    /// Age in milliseconds.
    AgeMillis(u64),
    /// A share of the lifetime.
    Share(f64),
    /// After the expiry.
    Expiry,
}

impl From<RenewEvery> for RenewSetting {
    fn from(every: RenewEvery) -> Self {
        match every {
            RenewEvery::Age(age) => {
                Self::AgeMillis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
            }
            RenewEvery::Share(share) => Self::Share(share),
            RenewEvery::Expiry => Self::Expiry,
        }
    }
}

impl From<RenewSetting> for RenewEvery {
    fn from(setting: RenewSetting) -> Self {
        match setting {
            RenewSetting::AgeMillis(millis) => Self::Age(Duration::from_millis(millis)),
            RenewSetting::Share(share) => Self::Share(share),
            RenewSetting::Expiry => Self::Expiry,
        }
    }
}

/// A configured portal, for the state.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured {
    /// Its name.
    pub name: PortalName,
    /// Its settings.
    pub settings: Settings,
    /// The renewal age in force: the portal's own or the profile's.
    pub every: RenewSetting,
    /// The token endpoint for its region.
    pub token_url: String,
    /// Every token endpoint that its grant may be sent to.
    pub allowed_urls: std::sync::Arc<[String]>,
    /// The client and authority that may use its grant.
    pub binding: Fingerprint,
}
