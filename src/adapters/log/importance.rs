//! Which log events have a reserve in the queue.

use tracing::{Level, Metadata};

use super::queue::Importance;

/// Target of every escalation event.
pub const ESCALATION: &str = "refreshd::escalation";

/// The name of an escalation event of severity critical: PRIORITY=2 in the journal.
pub const CRITICAL: &str = "critical escalation";

/// Escalations, and the report of dropped lines, have a reserve in the queue.
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
