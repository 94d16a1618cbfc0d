//! What is refused, in the log: a few lines for each reason, and then a count once a minute. A flood must not fill the log.
//!
//! Must not keep more than a few reasons: what is sent is chosen by strangers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::install::Outcome;
use refreshd_time::clock::{Clock, Tick};

/// Lines of one reason in a minute.
const LINES: u32 = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// Reasons that are told apart; all others of an app are one.
const REASONS: usize = 32;

/// What was said in the last minute, by app and reason.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<(String, String), LoggedRefusal>>);

#[derive(Debug)]
struct LoggedRefusal {
    since: Tick,
    lines: u32,
    /// Not said since.
    unsaid: u64,
    outcome: Outcome,
}

/// A line that stands for many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoldedRefusals {
    pub(crate) app: String,
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    pub(crate) count: u64,
}

impl Refusals {
    /// Whether a refusal has a line of its own; if not, it is counted.
    pub(crate) fn has_line(
        &self,
        clock: Clock,
        (app, outcome, reason): (&str, Outcome, &str),
    ) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (app.to_owned(), reason.to_owned());
        if known.len() >= REASONS && !known.contains_key(&key) {
            key.1 = "several reasons".to_owned();
        }
        let said = known.entry(key).or_insert_with(|| LoggedRefusal {
            since: clock.tick(),
            lines: 0,
            unsaid: 0,
            outcome,
        });
        if said.lines < LINES {
            said.lines += 1;
            return true;
        }
        said.unsaid += 1;
        false
    }

    /// What was counted and is to be said now: of the minutes that are over, or of all.
    pub(crate) fn due(&self, clock: Clock, all: bool) -> Vec<FoldedRefusals> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        known.retain(|(app, reason), said| {
            if !all && clock.elapsed(said.since) < MINUTE {
                return true;
            }
            if said.unsaid > 0 {
                let (app, reason) = (app.clone(), reason.clone());
                due.push(FoldedRefusals {
                    app,
                    outcome: said.outcome,
                    reason,
                    count: said.unsaid,
                });
            }
            // A flood that goes on has a line a minute.
            let goes_on = said.unsaid > 0;
            (said.since, said.lines, said.unsaid) = (clock.tick(), LINES, 0);
            goes_on
        });
        due
    }
}
