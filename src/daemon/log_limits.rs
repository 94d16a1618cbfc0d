//! Log of renewals and of portals' escalations, bounded however many portals there are: routine renewals are logged at debug
//! level, an outage of many portals is a few lines and a count each minute, and each hour has a summary.
//!
//! Must not decide what is escalated. The journal's own rate limit (10,000 lines in 30 s by default, journald.conf(5)) drops
//! lines whatever their content, so it must never be reached.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::daemon::alerts::escalation_log::{
    EscalationSubject, log_escalation, log_folded_escalations,
};
use crate::domain::conclusion::News;
use crate::domain::escalation::EscalationNotice;
use crate::domain::line_budget::{FoldedLines, LineBudget};
use crate::domain::name::PortalName;
use refreshd_alerting::Severity;
use refreshd_time::Timestamp;
use refreshd_token_client::provider::Class;
use refreshd_token_client::token::Generation;

/// Lines of one kind of renewal in a window.
const RENEWAL_LINES: u32 = 10;
/// Lines of one escalation step in a window.
const ESCALATION_LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of kinds; see [`LineBudget`].
const MAX_KINDS: usize = 64;
/// Interval of the summary.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(3600);

/// A finished renewal, as it is logged.
pub(crate) struct RenewalLine<'r> {
    pub(crate) portal: &'r PortalName,
    /// `None`: renewed.
    pub(crate) class: Option<Class>,
    pub(crate) detail: Option<&'r str>,
    pub(crate) generation: Generation,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) next: Option<Timestamp>,
    pub(crate) took: Duration,
    pub(crate) news: News,
}

/// Lines of the last minute, and totals of the last hour.
pub struct LogLimits {
    renewals: Mutex<LineBudget<&'static str>>,
    escalations: Mutex<LineBudget<(String, Severity)>>,
    totals: Mutex<Totals>,
}

/// Renewals since the last summary.
pub(crate) struct Totals {
    pub(crate) since: Timestamp,
    pub(crate) renewed: u64,
    pub(crate) failed: u64,
    pub(crate) slowest: Option<(Duration, PortalName)>,
}

impl Totals {
    const fn since(since: Timestamp) -> Self {
        Self {
            since,
            renewed: 0,
            failed: 0,
            slowest: None,
        }
    }
}

impl LogLimits {
    /// Without events.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self {
            renewals: Mutex::new(LineBudget::new(RENEWAL_LINES, WINDOW, WINDOW, MAX_KINDS)),
            // Counted escalations are logged at the next occasion: they were recorded as notified, and a kill would lose them.
            escalations: Mutex::new(LineBudget::new(
                ESCALATION_LINES,
                WINDOW,
                Duration::ZERO,
                MAX_KINDS,
            )),
            totals: Mutex::new(Totals::since(now)),
        }
    }

    /// Logs a renewal, with its documented fields.
    pub(crate) fn renewal(&self, line: &RenewalLine<'_>, now: Timestamp) {
        let RenewalLine {
            portal,
            class,
            detail,
            generation,
            expires_at,
            next,
            took,
            news,
        } = *line;
        self.count(line);
        let outcome = class.map_or("renewed", Class::as_str);
        let generation = generation.0;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let expires_at = expires_at.map(tracing::field::display);
        let next = next.map(tracing::field::display);
        // The journal shows the message alone.
        let suffix = detail
            .map(|detail| format!(", {detail}"))
            .unwrap_or_default();
        let is_line = news == News::Changed && {
            let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
            renewals.has_line(outcome, || "other", portal.as_str(), now)
        };
        // The level is part of a call site.
        macro_rules! log {
            ($level:expr) => {
                tracing::event!(
                    target: "refreshd::renewal",
                    $level,
                    %portal, generation, outcome, took_ms, expires_at, next_renewal = next, detail,
                    "{portal}: {outcome}{suffix}"
                )
            };
        }
        if is_line {
            log!(tracing::Level::INFO);
        } else {
            log!(tracing::Level::DEBUG);
        }
    }

    fn count(&self, line: &RenewalLine<'_>) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        match line.class {
            None => totals.renewed += 1,
            Some(_) => totals.failed += 1,
        }
        let is_slowest = totals
            .slowest
            .as_ref()
            .is_none_or(|(slowest, _)| *slowest < line.took);
        if is_slowest {
            totals.slowest = Some((line.took, line.portal.clone()));
        }
    }

    /// Logs a portal's escalation, or counts it if many portals have the same one.
    pub(crate) fn escalation(
        &self,
        portal: &PortalName,
        notice: &EscalationNotice,
        now: Timestamp,
    ) {
        let kind = (notice.step.clone(), notice.severity);
        let has_line = {
            let mut escalations = self
                .escalations
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let other = || ("other".to_owned(), notice.severity);
            escalations.has_line(kind, other, portal.as_str(), now)
        };
        if has_line {
            log_escalation(EscalationSubject::Portal(portal), notice);
        }
    }

    /// Logs the counts of lines that are due, and returns the totals if their summary is. At the end all of them are.
    pub(crate) fn tend(&self, now: Timestamp, is_end: bool) -> Option<Totals> {
        let escalations = {
            let mut escalations = self
                .escalations
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            escalations.due(now, is_end)
        };
        for folded in escalations {
            log_folded_escalations(&folded);
        }
        let renewals = {
            let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
            renewals.due(now, is_end)
        };
        for FoldedLines { kind, count, names } in renewals {
            let names = names.join(", ");
            tracing::info!(
                target: "refreshd::renewal", outcome = kind, count,
                "{count} more portals: {kind} ({names}); see refreshd status"
            );
        }
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = is_end || now < totals.since || now.since(totals.since) >= SUMMARY_INTERVAL;
        is_due.then(|| std::mem::replace(&mut *totals, Totals::since(now)))
    }
}
