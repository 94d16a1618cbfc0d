//! The forms of a token file: which there are, and how each is named.

use serde::{Deserialize, Serialize};

/// One form of a token file.
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
    /// Every form.
    pub const ALL: [Self; 4] = [Self::Json, Self::Raw, Self::Header, Self::Env];

    /// As the configuration and `refreshd token --format` name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Raw => "raw",
            Self::Header => "header",
            Self::Env => "env",
        }
    }

    /// The form of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
    }

    /// Its file's name.
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
