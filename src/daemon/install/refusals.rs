//! Log of rejected events: a few lines for each reason, and then a count once a minute. A flood must not fill the log.
//!
//! Must not store more than a few reasons: strangers choose what is sent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::install::Outcome;
use crate::domain::line_budget::LineBudget;
use refreshd_time::clock::Clock;

/// Maximum number of lines for one reason in a minute.
const LINES: u32 = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// Maximum number of distinct reasons; all others of an app are counted as one.
const REASONS: usize = 32;

/// App, outcome and reason.
type RefusalKind = (String, &'static str, String);

/// Rejections of the last minute.
#[derive(Debug)]
pub struct Refusals(Mutex<LineBudget<RefusalKind>>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(LineBudget::new(LINES, MINUTE, MINUTE, REASONS)))
    }
}

/// A line that summarises several rejections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoldedRefusals {
    pub(crate) app: String,
    pub(crate) outcome: &'static str,
    pub(crate) reason: String,
    pub(crate) count: u64,
}

impl Refusals {
    /// Whether a rejection gets a line of its own; if not, it is counted.
    pub(crate) fn has_line(
        &self,
        clock: Clock,
        (app, outcome, reason): (&str, Outcome, &str),
    ) -> bool {
        let kind = |reason: &str| (app.to_owned(), outcome.as_str(), reason.to_owned());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.has_line(kind(reason), || kind("several reasons"), app, clock.now())
    }

    /// Summaries that are due: of the elapsed minutes, or of all.
    pub(crate) fn due(&self, clock: Clock, all: bool) -> Vec<FoldedRefusals> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = known.due(clock.now(), all).into_iter();
        due.map(|folded| {
            let (app, outcome, reason) = folded.kind;
            FoldedRefusals {
                app,
                outcome,
                reason,
                count: folded.count,
            }
        })
        .collect()
    }
}
