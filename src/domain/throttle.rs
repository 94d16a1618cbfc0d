//! Rate limit of incoming requests: overall and per sender. Token buckets.
//!
//! Must not read a clock. Memory does not grow with the number of senders.

use std::collections::HashMap;
use std::time::Duration;

use refreshd_time::Timestamp;

/// Burst, in seconds' worth of requests.
const BURST: f64 = 20.0;
/// Maximum number of tracked senders; beyond them only the overall limit applies.
const MAX_SENDERS: usize = 10_000;

/// The limits and their buckets.
#[derive(Debug)]
pub struct Throttle {
    all: SenderBucket,
    sender_rate: f64,
    senders: HashMap<u128, SenderBucket>,
}

#[derive(Debug, Clone, Copy)]
struct SenderBucket {
    rate: f64,
    left: f64,
    filled_at: Timestamp,
}

impl Throttle {
    /// Admits `rate` requests a second, and `sender_rate` per sender; both above 0.
    #[must_use]
    pub fn new(rate: f64, sender_rate: f64, now: Timestamp) -> Self {
        Self {
            all: SenderBucket::new(rate, now),
            sender_rate,
            senders: HashMap::new(),
        }
    }

    /// Applies the limits of a reload.
    pub fn set_rates(&mut self, rate: f64, sender_rate: f64) {
        self.all.rate = rate;
        self.sender_rate = sender_rate;
        self.senders
            .values_mut()
            .for_each(|bucket| bucket.rate = sender_rate);
    }

    /// Admits a request, of a sender if known.
    ///
    /// # Errors
    /// The time to wait.
    pub fn admit(&mut self, sender: Option<u128>, now: Timestamp) -> Result<(), Duration> {
        if let Some(sender) = sender
            && let Some(bucket) = self.of(sender, now)
        {
            bucket.take(now)?;
        }
        self.all.take(now)
    }

    fn of(&mut self, sender: u128, now: Timestamp) -> Option<&mut SenderBucket> {
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&sender) {
            // A sender with a full bucket needs no entry.
            self.senders.retain(|_, bucket| !bucket.is_full(now));
            if self.senders.len() >= MAX_SENDERS {
                return None;
            }
        }
        Some(
            self.senders
                .entry(sender)
                .or_insert_with(|| SenderBucket::new(self.sender_rate, now)),
        )
    }
}

impl SenderBucket {
    fn new(rate: f64, now: Timestamp) -> Self {
        Self {
            rate,
            left: (rate * BURST).max(1.0),
            filled_at: now,
        }
    }

    fn fill(&mut self, now: Timestamp) {
        let most = (self.rate * BURST).max(1.0);
        self.left = (self.left + now.since(self.filled_at).as_secs_f64() * self.rate).min(most);
        self.filled_at = now;
    }

    fn is_full(&mut self, now: Timestamp) -> bool {
        self.fill(now);
        self.left >= (self.rate * BURST).max(1.0)
    }

    fn take(&mut self, now: Timestamp) -> Result<(), Duration> {
        self.fill(now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64(
                ((1.0 - self.left) / self.rate).clamp(1.0, 3600.0),
            ));
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + millis)
    }

    fn admitted(throttle: &mut Throttle, sender: Option<u128>, now: Timestamp) -> usize {
        (0..10_000)
            .take_while(|_| throttle.admit(sender, now).is_ok())
            .count()
    }

    #[test]
    fn a_burst_is_taken_in_and_then_the_rate() {
        let mut throttle = Throttle::new(50.0, 10.0, at(0));
        assert_eq!(admitted(&mut throttle, None, at(0)), 1000);
        assert_eq!(throttle.admit(None, at(0)), Err(Duration::from_secs(1)));
        assert_eq!(admitted(&mut throttle, None, at(1000)), 50);
        // A clock that is set back adds nothing, and removes nothing permanently.
        assert_eq!(admitted(&mut throttle, None, at(-5000)), 0);
        assert_eq!(admitted(&mut throttle, None, at(-4000)), 50);
    }

    #[test]
    fn one_sender_does_not_use_up_what_is_left_for_others() {
        let mut throttle = Throttle::new(50.0, 10.0, at(0));
        assert_eq!(admitted(&mut throttle, Some(1), at(0)), 200);
        assert_eq!(admitted(&mut throttle, Some(2), at(0)), 200);
        assert_eq!(admitted(&mut throttle, None, at(0)), 600);
        throttle.set_rates(50.0, 1.0);
        assert_eq!(admitted(&mut throttle, Some(1), at(60_000)), 20);
    }

    #[test]
    fn memory_does_not_grow_with_the_senders() {
        let mut throttle = Throttle::new(1e6, 1.0, at(0));
        (0..30_000_u128).for_each(|sender| throttle.admit(Some(sender), at(0)).unwrap());
        assert_eq!(throttle.senders.len(), MAX_SENDERS);
        throttle.admit(Some(40_000), at(60_000)).unwrap();
        assert_eq!(throttle.senders.len(), 1, "all others have been quiet");
    }
}
