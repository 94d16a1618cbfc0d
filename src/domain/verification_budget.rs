//! Budget of verification requests for install events: per app, with a share per sender. Requests for genuine events are
//! refunded, so only rejected or unanswered ones consume the budget.
//!
//! Must not read a clock. Memory does not grow with the number of senders.

use std::collections::HashMap;
use std::hash::Hash;

use refreshd_time::Timestamp;

/// Burst of an app, and refill per second.
pub const APP_BUDGET: (u32, u32) = (200, 40);
/// The same per sender, or per claimed portal if the sender is not known.
pub const SENDER_BUDGET: (u32, u32) = (40, 10);
/// Part of the app's budget that is reserved for known portals.
pub const RESERVED_FOR_KNOWN: u32 = 100;
/// Maximum number of tracked senders; beyond them only the app's budget applies.
const MAX_SENDERS: usize = 10_000;

/// Remaining budget of an app.
#[derive(Debug)]
pub struct VerificationBudget<K> {
    all: RequestBucket,
    senders: HashMap<K, RequestBucket>,
}

#[derive(Debug, Clone, Copy)]
struct RequestBucket {
    most: f64,
    rate: f64,
    /// Below 0 after requests that could not wait.
    left: f64,
    filled_at: Timestamp,
}

impl<K: Clone + Eq + Hash> VerificationBudget<K> {
    /// A full budget.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            all: RequestBucket::new(APP_BUDGET, now),
            senders: HashMap::new(),
        }
    }

    /// Returns whether an event of this sender may cause a request now; `is_known`: it is of a portal that has the app.
    pub fn may_request(&mut self, sender: &K, is_known: bool, now: Timestamp) -> bool {
        let kept = if is_known {
            0.0
        } else {
            f64::from(RESERVED_FOR_KNOWN)
        };
        self.all.fill(now);
        let of_sender = self.senders.get_mut(sender).is_none_or(|bucket| {
            bucket.fill(now);
            bucket.left >= 1.0
        });
        of_sender && self.all.left >= kept + 1.0
    }

    /// Counts a request.
    pub fn asked(&mut self, sender: &K, now: Timestamp) {
        self.all.fill(now);
        self.all.left -= 1.0;
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(sender) {
            self.senders.retain(|_, bucket| {
                bucket.fill(now);
                bucket.left < bucket.most
            });
            if self.senders.len() >= MAX_SENDERS {
                return;
            }
        }
        let bucket = self
            .senders
            .entry(sender.clone())
            .or_insert_with(|| RequestBucket::new(SENDER_BUDGET, now));
        bucket.fill(now);
        bucket.left -= 1.0;
    }

    /// Refunds the requests for a genuine event.
    pub fn refund(&mut self, sender: &K, count: u32) {
        self.all.refund(count);
        if let Some(bucket) = self.senders.get_mut(sender) {
            bucket.refund(count);
        }
    }
}

impl RequestBucket {
    fn new((most, rate): (u32, u32), now: Timestamp) -> Self {
        Self {
            most: most.into(),
            rate: rate.into(),
            left: most.into(),
            filled_at: now,
        }
    }

    /// A clock that is set back adds nothing.
    fn fill(&mut self, now: Timestamp) {
        self.left =
            (self.left + now.since(self.filled_at).as_secs_f64() * self.rate).min(self.most);
        self.filled_at = now;
    }

    fn refund(&mut self, count: u32) {
        self.left = (self.left + f64::from(count)).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + millis)
    }

    /// Number of requests for events of these senders, in turn, until the budget is exhausted.
    fn asked(
        budget: &mut VerificationBudget<u32>,
        senders: &[u32],
        is_known: bool,
        now: Timestamp,
    ) -> u32 {
        let mut count = 0;
        loop {
            let before = count;
            for sender in senders {
                if budget.may_request(sender, is_known, now) {
                    budget.asked(sender, now);
                    count += 1;
                }
            }
            if before == count {
                return count;
            }
        }
    }

    #[test]
    fn a_sender_has_a_share_and_the_app_a_limit() {
        let mut budget = VerificationBudget::new(at(0));
        let all: Vec<_> = (0..100).collect();
        assert_eq!(asked(&mut budget, &[7], true, at(0)), SENDER_BUDGET.0);
        assert_eq!(
            asked(&mut budget, &all, true, at(0)),
            APP_BUDGET.0 - SENDER_BUDGET.0
        );
        assert_eq!(asked(&mut budget, &[7], true, at(1000)), SENDER_BUDGET.1);
        assert_eq!(
            asked(&mut budget, &all, true, at(1000)),
            APP_BUDGET.1 - SENDER_BUDGET.1
        );
        // A clock that is set back adds nothing, and removes nothing permanently.
        assert_eq!(asked(&mut budget, &all, true, at(-5000)), 0);
        assert_eq!(asked(&mut budget, &all, true, at(-4000)), APP_BUDGET.1);
    }

    #[test]
    fn unknown_portals_leave_room_for_those_that_are_known() {
        let mut budget = VerificationBudget::new(at(0));
        let all: Vec<_> = (0..100).collect();
        assert_eq!(
            asked(&mut budget, &all, false, at(0)),
            APP_BUDGET.0 - RESERVED_FOR_KNOWN
        );
        assert_eq!(asked(&mut budget, &[1000], true, at(0)), SENDER_BUDGET.0);
    }

    #[test]
    fn what_is_genuine_costs_nothing() {
        let mut budget = VerificationBudget::new(at(0));
        for _ in 0..1000 {
            assert!(budget.may_request(&1, false, at(0)));
            budget.asked(&1, at(0));
            budget.asked(&1, at(0));
            budget.refund(&1, 2);
        }
        (0..30_000).for_each(|sender| budget.asked(&sender, at(0)));
        assert_eq!(budget.senders.len(), MAX_SENDERS);
    }
}
