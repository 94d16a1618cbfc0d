//! What the configuration says of a portal, in the form that the state keeps: memory does not grow with their number.
//!
//! Must not hold a secret: it is stored as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::PortalName;
use super::token_format::TokenFormat;
use refreshd_secrets::Fingerprint;
use refreshd_token_client::renew_every::RenewEvery;

/// What the name of a client that is a portal's own begins with: the portal's name follows. No written name has a space.
pub const OWN_APP: &str = "portal ";

/// What the configuration says of a portal, as the state keeps it: memory does not grow with the number of portals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The app (a portal with a client of its own has an app of its own name).
    pub app: String,
    /// The portal's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Renew at this age instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_every: Option<RenewSetting>,
    /// The token files to write, besides none: `json`, `raw`, `header`, `env`.
    pub formats: Vec<TokenFormat>,
    /// Names whose grant it must be, if the operator pinned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What is asked for in a first authorization.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    /// Where an authorization server sends the browser afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
    /// Where the first refresh token lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token_file: Option<std::path::PathBuf>,
}

/// A renewal age as stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewSetting {
    /// Milliseconds.
    AgeMillis(u64),
    /// A share of the life.
    Share(f64),
    /// Once it has expired.
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

/// A portal as the configuration names it, for the state to keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured {
    /// Its name.
    pub name: PortalName,
    /// What the state keeps of it.
    pub settings: Settings,
    /// The renewal age in force: the portal's own or the profile's.
    pub every: RenewSetting,
    /// The token endpoint for its region.
    pub token_url: String,
    /// Every token endpoint that its grant may be sent to.
    pub allowed_urls: std::sync::Arc<[String]>,
    /// The client and authority that may spend its grant.
    pub binding: Fingerprint,
}
