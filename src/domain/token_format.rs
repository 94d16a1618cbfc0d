//! Formats of a token file.

use serde::{Deserialize, Serialize};

/// A format of a token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Json, Self::Raw, Self::Header, Self::Env];

    /// Name in the configuration and in `refreshd token --format`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Raw => "raw",
            Self::Header => "header",
            Self::Env => "env",
        }
    }

    /// The format with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
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
