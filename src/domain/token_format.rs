//! Formats of a token file.

use serde::{Deserialize, Serialize};
use strum::VariantArray as _;

/// A format of a token file.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum TokenFormat {
    /// `token.json`.
    Json,
    /// `token`: the access token alone.
    Raw,
    /// `header`: `Authorization: Bearer …`, for `curl -H @header`.
    Header,
    /// `env`: for `EnvironmentFile=` and shells.
    Env,
}

impl TokenFormat {
    /// Name in the configuration and in `refreshd token --format`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The names, for messages: `json, raw`.
    #[must_use]
    pub fn names() -> String {
        let names: Vec<_> = Self::VARIANTS
            .iter()
            .map(|format| format.as_str())
            .collect();
        names.join(", ")
    }

    /// File name.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Json => "token.json",
            Self::Raw => "token",
            Self::Header => "header",
            Self::Env => "env",
        }
    }
}
