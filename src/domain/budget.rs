//! Request budget of an authorization server: a concurrency limit and a rate limit (token bucket).
//!
//! Must not read a clock. `now` may step: a step back stops the refill until time catches up with at most one
//! bucket's worth, a step forward fills one bucket and no more, so a step never causes a storm.

use std::time::Duration;

use refreshd_time::Timestamp;

/// The limits of one authorization server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Requests in flight, at least 1.
    pub concurrency: usize,
    /// Requests per second, above 0.
    pub rate: f64,
}

/// Remaining budget of one server.
#[derive(Debug, Clone)]
pub struct Budget {
    limits: Limits,
    in_flight: usize,
    tokens: f64,
    filled_at: Timestamp,
}

impl Budget {
    /// A full budget.
    #[must_use]
    pub fn new(limits: Limits, now: Timestamp) -> Self {
        Self {
            limits,
            in_flight: 0,
            tokens: Self::capacity(limits),
            filled_at: now,
        }
    }

    /// Applies the limits of a reload. Requests in flight stay counted.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.tokens = self.tokens.min(Self::capacity(limits));
    }

    /// Number of requests that may start now.
    #[must_use]
    pub fn available(&mut self, now: Timestamp) -> usize {
        let elapsed = now.since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.limits.rate).min(Self::capacity(self.limits));
        self.filled_at = now;
        let free = self.limits.concurrency.saturating_sub(self.in_flight);
        free.min(self.tokens as usize)
    }

    /// Takes `n` requests from the budget.
    pub fn start(&mut self, n: usize) {
        self.in_flight += n;
        self.tokens -= n as f64;
    }

    /// Releases the slot of a finished request.
    pub fn finish(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Time until the rate limit allows a request; `None` if only a finished request can free a slot.
    #[must_use]
    pub fn refill_in(&self) -> Option<Duration> {
        if self.in_flight >= self.limits.concurrency {
            return None;
        }
        let missing = (1.0 - self.tokens).max(0.0);
        Some(Duration::from_secs_f64(
            (missing / self.limits.rate).min(3600.0),
        ))
    }

    /// Bucket size: the requests of one second, at least one.
    fn capacity(limits: Limits) -> f64 {
        limits.rate.max(1.0)
    }
}

/// Limits what the servers may start together to `total`, by lowering the largest shares first. If there is less than
/// one request for each server, `turn` selects the server to begin with.
pub fn share_out(capacity: &mut [(String, usize)], total: usize, turn: usize) {
    let wanted: Vec<usize> = capacity.iter().map(|(_, free)| *free).collect();
    let sum_with = |most: usize| wanted.iter().map(|free| (*free).min(most)).sum::<usize>();
    let highest = wanted.iter().copied().max().unwrap_or_default();
    let most = (0..=highest)
        .rev()
        .find(|most| sum_with(*most) <= total)
        .unwrap_or_default();
    let mut left = total.saturating_sub(sum_with(most));
    let count = capacity.len();
    for offset in 0..count {
        let (_, free) = &mut capacity[turn.wrapping_add(offset) % count];
        let more = usize::from(*free > most && left > 0);
        left -= more;
        *free = (*free).min(most + more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn neither_the_rate_nor_the_concurrency_is_exceeded() {
        let mut budget = Budget::new(
            Limits {
                concurrency: 8,
                rate: 10.0,
            },
            at(0),
        );
        assert_eq!(budget.available(at(0)), 8);
        budget.start(8);
        assert_eq!(budget.available(at(0)), 0);
        assert_eq!(
            budget.refill_in(),
            None,
            "waits for a reply, not for the clock"
        );
        (0..8).for_each(|_| budget.finish());
        assert_eq!(budget.available(at(0)), 2, "ten a second, eight are spent");
        budget.start(2);
        assert_eq!(budget.refill_in(), Some(Duration::from_millis(100)));
        assert_eq!(budget.available(at(300)), 3);
    }

    #[test]
    fn a_clock_step_of_a_year_fills_one_second_of_requests() {
        let mut budget = Budget::new(
            Limits {
                concurrency: 1000,
                rate: 10.0,
            },
            at(0),
        );
        budget.start(10);
        let year = 31_536_000_000;
        assert_eq!(budget.available(at(year)), 10);
        budget.start(10);
        assert_eq!(budget.available(at(0)), 0, "and a step back gives none");
        assert_eq!(budget.available(at(100)), 1);
    }

    #[test]
    fn servers_share_what_the_process_may_have_open() {
        let shared = |total: usize, turn: usize, wanted: &[usize]| {
            let mut capacity: Vec<_> = wanted
                .iter()
                .map(|free| ("server".to_owned(), *free))
                .collect();
            share_out(&mut capacity, total, turn);
            capacity
                .into_iter()
                .map(|(_, free)| free)
                .collect::<Vec<_>>()
        };
        assert_eq!(shared(100, 0, &[30, 30]), [30, 30], "there is enough");
        assert_eq!(
            shared(40, 0, &[256, 5, 256]),
            [18, 5, 17],
            "who wants little gets it"
        );
        assert_eq!(shared(2, 0, &[9, 9, 9]), [1, 1, 0]);
        assert_eq!(shared(2, 2, &[9, 9, 9]), [1, 0, 1], "and the turn moves on");
        assert_eq!(shared(0, 5, &[9, 9]), [0, 0]);
        assert_eq!(shared(7, 3, &[]), Vec::<usize>::new());
    }
}
