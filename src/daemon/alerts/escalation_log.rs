//! The one place from which escalations reach the log, each portal's by itself. People hear of incidents: `alerts`.
//!
//! Must not decide what is said: `domain::escalation` does. What is said here was made durable before.

use crate::adapters::log::{CRITICAL, ESCALATION};
use crate::domain::escalation::EscalationNotice;
use crate::domain::name::PortalName;
use refreshd_alerting::Severity;
use refreshd_time::human;

/// What an escalation is about.
#[derive(Debug, Clone, Copy)]
pub enum EscalationSubject<'a> {
    /// One portal.
    Portal(&'a PortalName),
    /// An app: all its portals are left alone.
    App(&'a str),
    /// A channel that does not deliver.
    Channel(&'a str),
    /// This daemon itself.
    Daemon,
}

/// Says it, with the fields of the contract (4.6).
pub fn log_escalation(subject: EscalationSubject<'_>, announcement: &EscalationNotice) {
    let EscalationNotice {
        step,
        severity,
        reason,
        action,
        remaining,
    } = announcement;
    let (portal, app) = match subject {
        EscalationSubject::Portal(portal) => (Some(portal.as_str()), None),
        EscalationSubject::App(app) => (None, Some(app)),
        EscalationSubject::Channel(_) | EscalationSubject::Daemon => (None, None),
    };
    let whom = match subject {
        EscalationSubject::Portal(portal) => portal.as_str().to_owned(),
        EscalationSubject::App(app) => format!("app {app}"),
        EscalationSubject::Channel(name) => format!("channel {name}"),
        EscalationSubject::Daemon => "refreshd".to_owned(),
    };
    // The journal shows the message alone, so it says all that a person needs.
    let message = match (action.as_str(), remaining) {
        ("none", _) => format!("{whom}: {reason}"),
        (_, Some(left)) if left.is_zero() => {
            format!("{whom}: {reason}. No token works now. To do: {action}")
        }
        (_, Some(left)) => {
            format!(
                "{whom}: {reason}. The token works for {} more. To do: {action}",
                human(*left)
            )
        }
        (_, None) => format!("{whom}: {reason}. To do: {action}"),
    };
    let remaining = remaining.map(human);
    // The level is part of a call site, so there is one for each severity.
    macro_rules! say {
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
        Severity::Notice => say!(tracing::Level::INFO, "escalation"),
        Severity::Warning => say!(tracing::Level::WARN, "escalation"),
        Severity::Error => say!(tracing::Level::ERROR, "escalation"),
        Severity::Critical => say!(tracing::Level::ERROR, CRITICAL),
    }
}
