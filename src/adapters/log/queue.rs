//! The log's queue: bounded, drained by one thread.
//!
//! Logging never waits: a line that does not fit is dropped and counted. Escalations have a reserve of their own. Must not
//! depend on a line's content or encoding.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Capacity of the queue, in lines and bytes.
const CAPACITY: Limit = Limit {
    lines: 8192,
    bytes: 4 * 1024 * 1024,
};
/// Additional capacity for escalations.
const RESERVE: Limit = Limit {
    lines: 1024,
    bytes: 1024 * 1024,
};

#[derive(Clone, Copy)]
struct Limit {
    lines: usize,
    bytes: usize,
}

/// Importance of a line if the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Importance {
    /// Dropped if the queue is full.
    Normal,
    /// Has a reserve: an escalation.
    Reserved,
}

/// Destination of the lines: standard error, or the journal's socket. May block.
pub(super) trait Sink: Send {
    /// Writes one line; a rejected line is lost.
    ///
    /// # Errors
    /// [`LineLost`]; the next line may succeed.
    fn deliver(&mut self, line: &[u8]) -> Result<(), LineLost>;
}

/// A line that could not be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineLost;

/// The queue. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct LogQueue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread is writing lines that it has removed from the queue.
    delivering: bool,
    /// Number of lines dropped since the start, and of these the number not reported yet.
    dropped: u64,
    unreported: u64,
    /// The last line could not be written, so a report could not be either.
    failing: bool,
}

impl LogQueue {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line, or drops it.
    pub(super) fn push(&self, line: Vec<u8>, importance: Importance) {
        let mut waiting = self.lock();
        let reserve = if importance == Importance::Reserved {
            RESERVE
        } else {
            Limit { lines: 0, bytes: 0 }
        };
        let fits = waiting.lines.len() < CAPACITY.lines + reserve.lines
            && waiting.bytes + line.len() <= CAPACITY.bytes + reserve.bytes;
        if fits {
            waiting.bytes += line.len();
            waiting.lines.push_back(line);
        } else {
            waiting.dropped += 1;
            waiting.unreported += 1;
        }
        drop(waiting);
        self.0.changed.notify_all();
    }

    /// Number of lines dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Waits until every line is written, but no longer than `limit`; returns whether all are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let pending = |waiting: &mut Pending| waiting.delivering || !waiting.lines.is_empty();
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.lock(), limit, pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes lines for the lifetime of the process. Calls `report` with the number of dropped and lost lines as soon as the
    /// reader
    /// accepts lines again.
    pub(super) fn serve(&self, sink: &mut dyn Sink, report: fn(u64)) {
        loop {
            let (lines, unreported) = {
                let idle = |waiting: &mut Pending| {
                    waiting.lines.is_empty() && (waiting.unreported == 0 || waiting.failing)
                };
                let waiting = self.0.changed.wait_while(self.lock(), idle);
                let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
                waiting.delivering = true;
                waiting.bytes = 0;
                let unreported = std::mem::take(&mut waiting.unreported);
                (std::mem::take(&mut waiting.lines), unreported)
            };
            let (mut lost, mut failing) = (0, false);
            for line in &lines {
                failing = sink.deliver(line).is_err();
                lost += u64::from(failing);
            }
            let mut waiting = self.lock();
            waiting.dropped += lost;
            waiting.failing = failing;
            waiting.delivering = false;
            if failing {
                waiting.unreported += unreported + lost;
            } else if unreported + lost > 0 {
                drop(waiting);
                report(unreported + lost);
            }
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(queue: &LogQueue, count: usize, importance: Importance) {
        for number in 0..count {
            queue.push(format!("{number}\n").into_bytes(), importance);
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stopped_and_escalations_have_a_reserve() {
        let queue = LogQueue::default();
        filled(&queue, CAPACITY.lines + 7, Importance::Normal);
        assert_eq!(queue.dropped(), 7);
        filled(&queue, RESERVE.lines, Importance::Reserved);
        assert_eq!(queue.dropped(), 7, "escalations fit all the same");
        filled(&queue, 2, Importance::Reserved);
        assert_eq!(queue.dropped(), 9, "and are bounded too");
        assert!(!queue.flush(Duration::from_millis(1)), "no line was taken");
    }

    #[test]
    fn large_lines_are_bounded_by_their_bytes() {
        let queue = LogQueue::default();
        for _ in 0..9 {
            queue.push(vec![b'x'; CAPACITY.bytes / 8], Importance::Normal);
        }
        assert_eq!((queue.dropped(), queue.lock().lines.len()), (1, 8));
    }
}
