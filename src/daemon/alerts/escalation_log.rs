//! Writes escalations to the log, each portal's by itself. People are notified of incidents instead: `alerts`.
//!
//! Must not decide what to log: `domain::escalation` does. The step was persisted before it is logged.

use crate::adapters::log::{CRITICAL, ESCALATION};
use crate::domain::escalation::EscalationNotice;
use crate::domain::line_budget::FoldedLines;
use crate::domain::name::PortalName;
use refreshd_alerting::Severity;
use refreshd_time::human;

/// Subject of an escalation.
#[derive(Debug, Clone, Copy)]
pub enum EscalationSubject<'a> {
    /// One portal.
    Portal(&'a PortalName),
    /// An app: no portal of it is renewed.
    App(&'a str),
    /// A channel that does not deliver.
    Channel(&'a str),
    /// This daemon itself.
    Daemon,
}

/// Logs one line for the same escalation of many portals.
pub(crate) fn log_folded_escalations(folded: &FoldedLines<(String, Severity)>) {
    let FoldedLines { kind, count, names } = folded;
    let (step, severity) = kind;
    let names = names.join(", ");
    macro_rules! log {
        ($level:expr, $name:expr) => {
            tracing::event!(
                name: $name,
                target: ESCALATION,
                $level,
                severity = severity.as_str(),
                step = step.as_str(),
                count,
                "{count} more portals: {step} ({names}). To do: see refreshd status"
            )
        };
    }
    match severity {
        Severity::Notice => log!(tracing::Level::INFO, "escalation"),
        Severity::Warning => log!(tracing::Level::WARN, "escalation"),
        Severity::Error => log!(tracing::Level::ERROR, "escalation"),
        Severity::Critical => log!(tracing::Level::ERROR, CRITICAL),
    }
}

/// Logs an escalation, with the fields documented for `refreshd.escalation`.
pub fn log_escalation(subject: EscalationSubject<'_>, notice: &EscalationNotice) {
    let EscalationNotice {
        step,
        severity,
        reason,
        action,
        remaining,
    } = notice;
    let (portal, app) = match subject {
        EscalationSubject::Portal(portal) => (Some(portal.as_str()), None),
        EscalationSubject::App(app) => (None, Some(app)),
        EscalationSubject::Channel(_) | EscalationSubject::Daemon => (None, None),
    };
    let name = match subject {
        EscalationSubject::Portal(portal) => portal.as_str().to_owned(),
        EscalationSubject::App(app) => format!("app {app}"),
        EscalationSubject::Channel(name) => format!("channel {name}"),
        EscalationSubject::Daemon => "refreshd".to_owned(),
    };
    // The journal shows the message alone, so the message must be complete without the fields.
    let message = match (action.as_str(), remaining) {
        ("none", _) => format!("{name}: {reason}"),
        (_, Some(left)) if left.is_zero() => {
            format!("{name}: {reason}. No token works now. To do: {action}")
        }
        (_, Some(left)) => {
            format!(
                "{name}: {reason}. The token works for {} more. To do: {action}",
                human(*left)
            )
        }
        (_, None) => format!("{name}: {reason}. To do: {action}"),
    };
    let remaining = remaining.map(human);
    // The level is part of a call site, so there is one for each severity.
    macro_rules! log {
        ($level:expr, $name:expr) => {
            tracing::event!(
                name: $name,
                target: ESCALATION,
                $level,
                severity = severity.as_str(),
                portal,
                app,
                step = step.as_str(),
                reason = reason.as_str(),
                action = action.as_str(),
                remaining = remaining.as_deref(),
                "{message}"
            )
        };
    }
    match severity {
        Severity::Notice => log!(tracing::Level::INFO, "escalation"),
        Severity::Warning => log!(tracing::Level::WARN, "escalation"),
        Severity::Error => log!(tracing::Level::ERROR, "escalation"),
        Severity::Critical => log!(tracing::Level::ERROR, CRITICAL),
    }
}
