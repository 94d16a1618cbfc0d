//! Formats of the log.

/// Format of the log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum LogFormat {
    /// The journal if standard error goes there, else text.
    Auto,
    /// Text for people, coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
    /// The journal's native protocol.
    Journald,
}
