//! Log of rejected events: a few lines for each reason, and then a count once a minute. A flood must not fill the log.
//!
//! Must not store more than a few reasons: strangers choose what is sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::install::Outcome;
use refreshd_time::clock::{Clock, Tick};

/// Maximum number of lines for one reason in a minute.
const LINES: u32 = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// Maximum number of distinct reasons; all others of an app are counted as one.
const REASONS: usize = 32;

/// Rejections of the last minute, by app and reason.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<(String, String), LoggedRefusal>>);

#[derive(Debug)]
struct LoggedRefusal {
    since: Tick,
    lines: u32,
    /// Rejections without a line since then.
    unlogged: u64,
    outcome: Outcome,
}

/// A line that summarises several rejections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoldedRefusals {
    pub(crate) app: String,
    pub(crate) outcome: Outcome,
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
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (app.to_owned(), reason.to_owned());
        if known.len() >= REASONS && !known.contains_key(&key) {
            key.1 = "several reasons".to_owned();
        }
        let logged = known.entry(key).or_insert_with(|| LoggedRefusal {
            since: clock.tick(),
            lines: 0,
            unlogged: 0,
            outcome,
        });
        if logged.lines < LINES {
            logged.lines += 1;
            return true;
        }
        logged.unlogged += 1;
        false
    }

    /// Summaries that are due: of the elapsed minutes, or of all.
    pub(crate) fn due(&self, clock: Clock, all: bool) -> Vec<FoldedRefusals> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        known.retain(|(app, reason), logged| {
            if !all && clock.elapsed(logged.since) < MINUTE {
                return true;
            }
            if logged.unlogged > 0 {
                let (app, reason) = (app.clone(), reason.clone());
                due.push(FoldedRefusals {
                    app,
                    outcome: logged.outcome,
                    reason,
                    count: logged.unlogged,
                });
            }
            // A flood that goes on gets one line a minute.
            let goes_on = logged.unlogged > 0;
            (logged.since, logged.lines, logged.unlogged) = (clock.tick(), LINES, 0);
            goes_on
        });
        due
    }
}
