//! What waits for a channel: in order, with its own back-off, and without what is out of date.
//!
//! Must not send, nor know how long a delivery takes: it says what comes next, and is told what became of it.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::channel::Delivery;
use super::message::{Event, Message};
use super::time::Timestamp;

/// First and longest wait after a failed delivery; each is twice the one before.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// A channel that delivers nothing for so long is a problem itself.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nobody is told of what is so old.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// Nobody is woken for what is over and began longer ago than this.
const OVER: Duration = Duration::from_secs(900);

/// A message on its way to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number; later letters have higher ones.
    pub id: i64,
    /// The channel.
    pub channel: String,
    /// Whether the channel hears of this incident for the first time.
    pub first: bool,
    /// What is said.
    pub message: Message,
}

/// What waits for one channel.
#[derive(Debug, Default)]
pub struct Queue {
    letters: VecDeque<Letter>,
    failures: u32,
    failing: Option<Failing>,
    next_at: Timestamp,
    tried_at: Timestamp,
}

/// A channel that delivers nothing at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Timestamp,
    /// Why, most recently.
    pub why: String,
}

/// What a queue comes to after a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The letter of this number is done with, delivered or not: forget it.
    Done(i64),
    /// It is tried again then.
    Again(Timestamp),
}

impl Queue {
    /// Puts a letter in line. One that was in line before, as after a reload, is not doubled.
    pub fn push(&mut self, letter: Letter) {
        if self.letters.back().is_none_or(|last| last.id < letter.id) {
            self.letters.push_back(letter);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// When the oldest was written.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.letters.iter().map(|letter| letter.message.at).min()
    }

    /// All that wait, in order.
    pub fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.letters.iter()
    }

    /// What is to be delivered now, if it is time.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<&Letter> {
        self.letters.front().filter(|_| self.next_at(now) <= now)
    }

    /// When the next delivery may be tried.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Timestamp {
        // What was tried in the future was tried by a clock that has been set back since.
        if self.tried_at > now { now } else { self.next_at }
    }

    /// Takes out what is out of date.
    pub fn tidy(&mut self, now: Timestamp) -> Vec<Letter> {
        let over: HashSet<_> = self.about(|letter| letter.message.event == Event::Resolved);
        let unheard: HashSet<_> = self.about(|letter| letter.first);
        let stale = |letter: &Letter, has_later: bool| {
            let age = now.since(letter.message.at);
            match letter.message.event {
                // A repetition says nothing that what comes after it does not say.
                Event::Repeated if has_later => true,
                // Whoever never heard that it began need not hear that it ended; the beginning goes too, below.
                Event::Resolved => {
                    unheard.contains(&letter.message.key) && now.since(letter.message.since) >= OVER
                }
                _ => age >= OLDEST || over.contains(&letter.message.key) && age >= OVER,
            }
        };
        let letters = std::mem::take(&mut self.letters);
        let mut later: HashSet<String> = HashSet::new();
        let mut out = Vec::new();
        for letter in letters.into_iter().rev() {
            if stale(&letter, !later.insert(letter.message.key.clone())) {
                out.push(letter);
            } else {
                self.letters.push_front(letter);
            }
        }
        out.reverse();
        out
    }

    /// The incidents of the letters for which this holds.
    fn about(&self, holds: impl Fn(&Letter) -> bool) -> HashSet<String> {
        self.letters.iter().filter(|letter| holds(letter)).map(|letter| letter.message.key.clone()).collect()
    }

    /// Notes what became of the first letter.
    pub fn ended(&mut self, delivery: &Delivery, now: Timestamp) -> Option<Ended> {
        self.noted(delivery, now);
        if let Delivery::Failed { .. } = delivery {
            return (!self.is_empty()).then_some(Ended::Again(self.next_at));
        }
        self.letters.pop_front().map(|letter| Ended::Done(letter.id))
    }

    /// Notes how the receiver is, without a letter: a repetition of what it was told, or a ping.
    pub fn noted(&mut self, delivery: &Delivery, now: Timestamp) {
        self.tried_at = now;
        match delivery {
            // What is refused is refused by somebody who is there.
            Delivery::Delivered(_) | Delivery::Rejected(_) => {
                (self.failures, self.failing, self.next_at) = (0, None, now);
            }
            Delivery::Failed { why, retry_after } => {
                let wait = AGAIN.0.saturating_mul(1 << self.failures.min(10)).min(AGAIN.1);
                self.failures = self.failures.saturating_add(1);
                self.next_at = now + wait.max(retry_after.unwrap_or_default()).min(OLDEST);
                let since = self.failing.take().map_or(now, |failing| failing.since.min(now));
                self.failing = Some(Failing { since, why: why.clone() });
            }
        }
    }

    /// The channel was known not to deliver when refreshd ended, and nobody has seen it deliver since.
    pub fn was_failing(&mut self, since: Timestamp) {
        let why = "it did not deliver before refreshd was restarted".to_owned();
        self.failing.get_or_insert(Failing { since, why });
    }

    /// Since when and why it delivers nothing, if it does not.
    #[must_use]
    pub const fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// The same, if that is for too long.
    #[must_use]
    pub fn broken(&self, now: Timestamp) -> Option<&Failing> {
        self.failing.as_ref().filter(|failing| now.since(failing.since) >= PATIENCE)
    }

    /// When it will have been failing for too long, if it goes on.
    #[must_use]
    pub fn breaks_at(&self) -> Option<Timestamp> {
        self.failing.as_ref().map(|failing| failing.since + PATIENCE)
    }

    /// Tries at once, as after the configuration changed.
    pub fn hurry(&mut self) {
        self.next_at = self.tried_at;
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
