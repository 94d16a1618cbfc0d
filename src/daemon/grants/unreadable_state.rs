//! Reports portals whose row in the state cannot be parsed.

use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::grants::portal_view::action_for;
use crate::domain::escalation::EscalationNotice;
use crate::domain::portal::Portal;
use refreshd_alerting::Severity;

/// Logs the portal and the recommended action.
pub fn report_unreadable(portal: &Portal) {
    let notice = EscalationNotice {
        step: "unreadable".to_owned(),
        severity: Severity::Critical,
        reason: format!(
            "what the state has of it cannot be understood ({}); it is left alone, the others go on",
            portal.unreadable.unwrap_or("row")
        ),
        action: action_for(portal),
        remaining: None,
    };
    log_escalation(EscalationSubject::Portal(&portal.name), &notice);
}
