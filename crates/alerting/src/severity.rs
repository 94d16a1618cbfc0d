//! Severity of an escalation step, from log-only to critical alerts.

use serde::{Deserialize, Serialize};

/// Severity of an escalation step.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Severity {
    /// Log only.
    Notice,
    /// Needs attention within the hour.
    Warning,
    /// Readers will soon get an expired token.
    Error,
    /// Readers have no valid token or are about to lose it, or the problem needs manual action.
    Critical,
}

impl Severity {
    /// Name in configurations, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
