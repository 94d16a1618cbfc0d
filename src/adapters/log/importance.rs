//! Which lines must not be lost.

use tracing::{Level, Metadata};

use super::queue::Importance;

/// The target of every escalation.
pub const ESCALATION: &str = "refreshd::escalation";

/// The name of an escalation event of severity critical: PRIORITY=2 in the journal.
pub const CRITICAL: &str = "critical escalation";

/// Escalations, and the report of dropped lines, are not dropped with the others.
pub(super) fn importance(metadata: &Metadata<'_>) -> Importance {
    if metadata.target() == ESCALATION {
        Importance::Reserved
    } else {
        Importance::Normal
    }
}

pub(super) fn is_critical(metadata: &Metadata<'_>) -> bool {
    metadata.name() == CRITICAL && *metadata.level() == Level::ERROR
}
