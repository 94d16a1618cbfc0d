//! How loud something is, from the log alone to the loudest alert.

use serde::{Deserialize, Serialize};

/// How loud a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// For the log only.
    Notice,
    /// Somebody should look within the hour.
    Warning,
    /// Soon a reader will meet an expired token.
    Error,
    /// Readers are, or are about to be, without a token; or only a person can mend it.
    Critical,
}

impl Severity {
    /// Every severity, lowest first.
    pub const ALL: [Self; 4] = [Self::Notice, Self::Warning, Self::Error, Self::Critical];

    /// As written in configurations, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    /// The severity of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|severity| severity.as_str() == text)
    }
}
