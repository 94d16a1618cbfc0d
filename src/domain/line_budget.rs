//! Limits of log lines: a few lines of each kind in a window, and a count of the others, so that neither an outage of many
//! portals nor a flood fills the log.
//!
//! Must not log: `daemon::log_limits` and `daemon::install::refusals` do.

use std::collections::BTreeMap;
use std::time::Duration;

use refreshd_time::Timestamp;

/// Maximum number of names in a summary.
const MAX_NAMES: usize = 5;

/// Lines of each kind.
#[derive(Debug)]
pub struct LineBudget<K> {
    /// Lines of one kind in a window.
    lines: u32,
    window: Duration,
    /// Minimum time before a summary. What is not summarised is lost if the process is killed.
    summary_interval: Duration,
    /// Maximum number of kinds; further ones are counted as `other`.
    max_kinds: usize,
    kinds: BTreeMap<K, Window>,
}

#[derive(Debug)]
struct Window {
    since: Timestamp,
    lines: u32,
    /// Events without a line, and the first names among them.
    folded: u64,
    names: Vec<String>,
}

/// A summary of events without their own line.
#[derive(Debug, PartialEq, Eq)]
pub struct FoldedLines<K> {
    /// Their kind.
    pub kind: K,
    /// Number of events.
    pub count: u64,
    /// The first few names, and `…` if there are more.
    pub names: Vec<String>,
}

impl<K: Ord + Clone> LineBudget<K> {
    /// Without events.
    #[must_use]
    pub const fn new(
        lines: u32,
        window: Duration,
        summary_interval: Duration,
        max_kinds: usize,
    ) -> Self {
        Self {
            lines,
            window,
            summary_interval,
            max_kinds,
            kinds: BTreeMap::new(),
        }
    }

    /// Returns whether an event gets its own line; if not, it is counted. Beyond the maximum of kinds it counts as `other`.
    pub fn has_line(
        &mut self,
        kind: K,
        other: impl FnOnce() -> K,
        name: &str,
        now: Timestamp,
    ) -> bool {
        let is_new = !self.kinds.contains_key(&kind);
        let kind = if is_new && self.kinds.len() >= self.max_kinds {
            other()
        } else {
            kind
        };
        let window = self.kinds.entry(kind).or_insert_with(|| Window {
            since: now,
            lines: 0,
            folded: 0,
            names: Vec::new(),
        });
        if window.lines < self.lines {
            window.lines += 1;
            return true;
        }
        window.folded += 1;
        let known = window.names.iter().any(|known| known == name);
        if !known && window.names.len() <= MAX_NAMES {
            let is_last = window.names.len() == MAX_NAMES;
            window
                .names
                .push(if is_last { "…" } else { name }.to_owned());
        }
        false
    }

    /// Summaries that are due, or all. A kind that goes on gets one in each interval.
    pub fn due(&mut self, now: Timestamp, all: bool) -> Vec<FoldedLines<K>> {
        let (lines, length, interval) = (self.lines, self.window, self.summary_interval);
        let mut due = Vec::new();
        self.kinds.retain(|kind, window| {
            // A clock that was set back ends the window.
            let is_after = |span| now < window.since || now.since(window.since) >= span;
            if window.folded == 0 {
                return !all && !is_after(length);
            }
            if !all && !is_after(interval) {
                return true;
            }
            due.push(FoldedLines {
                kind: kind.clone(),
                count: window.folded,
                names: std::mem::take(&mut window.names),
            });
            (window.since, window.lines, window.folded) = (now, lines, 0);
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn budget() -> LineBudget<&'static str> {
        LineBudget::new(2, MINUTE, MINUTE, 2)
    }

    #[test]
    fn beyond_a_few_lines_events_are_counted_with_the_first_names() {
        let mut budget = budget();
        let lines = (0..1000).filter(|number| {
            budget.has_line("transient", || "other", &format!("p{number}"), at(0))
        });
        assert_eq!(lines.count(), 2);
        let names = ["p2", "p3", "p4", "p5", "p6", "…"]
            .map(str::to_owned)
            .to_vec();
        let summary = FoldedLines {
            kind: "transient",
            count: 998,
            names,
        };
        assert_eq!(budget.due(at(59), false), []);
        assert_eq!(budget.due(at(60), false), [summary]);
        // As long as it goes on there is one line in each window.
        assert!(!budget.has_line("transient", || "other", "p1", at(61)));
        let due = budget.due(at(120), false);
        assert_eq!(
            (due[0].count, due[0].names.as_slice()),
            (1, ["p1".to_owned()].as_slice())
        );
        assert_eq!(budget.due(at(180), false), []);
        assert!(budget.has_line("transient", || "other", "p1", at(181)));
    }

    #[test]
    fn summaries_without_an_interval_are_due_at_once_and_lines_are_not() {
        let mut budget = LineBudget::new(2, MINUTE, Duration::ZERO, 2);
        let mut line = |secs| {
            let has_line = budget.has_line("person", || "other", "p", at(secs));
            let due = budget.due(at(secs), false);
            (has_line, due.iter().map(|due| due.count).sum::<u64>())
        };
        assert_eq!(
            [line(0), line(0), line(0)],
            [(true, 0), (true, 0), (false, 1)]
        );
        assert_eq!([line(5), line(50), line(100)], [(false, 1); 3]);
        assert_eq!(budget.due(at(160), false), []);
        assert!(budget.has_line("person", || "other", "p", at(161)));
    }

    #[test]
    fn many_kinds_are_counted_as_one() {
        let mut budget = budget();
        assert!(budget.has_line("one", || "other", "p", at(0)));
        assert!(budget.has_line("two", || "other", "p", at(0)));
        let lines =
            ["three", "four", "five"].map(|kind| budget.has_line(kind, || "other", "p", at(0)));
        assert_eq!(lines, [true, true, false]);
        let due = budget.due(at(1), true);
        assert_eq!((due.len(), due[0].kind, due[0].count), (1, "other", 1));
    }

    #[test]
    fn a_clock_that_was_set_back_ends_a_window() {
        let mut budget = budget();
        for _ in 0..3 {
            budget.has_line("one", || "other", "p", at(86_400));
        }
        assert_eq!(budget.due(at(0), false).len(), 1);
    }
}
