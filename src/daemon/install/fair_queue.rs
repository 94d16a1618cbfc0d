//! Order in which install events are processed. Each app has queues of its own, one for each sender (or claimed portal,
//! where the sender is unknown), and senders whose events were rejected wait behind the others.
//!
//! In a flood, genuine events cannot be recognised, so the newest and the oldest are processed in turn: one that arrives
//! behind hundreds of forged ones waits for one of them, and one that arrived before them is not starved. Must not read a
//! clock.

use std::collections::{HashMap, HashSet, VecDeque};

/// Maximum number of suspect senders.
const MAX_SUSPECTS: usize = 10_000;
/// One in so many turns is a suspect's, even if other senders wait.
const SUSPECT_TURN_INTERVAL: u32 = 8;

/// Sender of an event, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventSender {
    /// Address that the proxy in front reports.
    Known(u128),
    /// Claim of the event: anyone can make it, so it never makes a suspect.
    Claimed(String),
}

/// Waiting events of one app.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    clean: Lanes<T>,
    suspected: Lanes<T>,
    suspects: HashSet<u128>,
    turn: u32,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            clean: Lanes::default(),
            suspected: Lanes::default(),
            suspects: HashSet::new(),
            turn: 0,
        }
    }
}

impl<T> FairQueue<T> {
    pub(crate) fn put(&mut self, sender: EventSender, waiting: T) {
        let lanes = if self.is_suspect(&sender) {
            &mut self.suspected
        } else {
            &mut self.clean
        };
        lanes.put(sender, waiting);
    }

    /// Removes the next event for which `may` returns true.
    pub(crate) fn take(&mut self, mut may: impl FnMut(&EventSender, &T) -> bool) -> Option<T> {
        self.turn = self.turn.wrapping_add(1);
        let (first, second) = if self.turn.is_multiple_of(SUSPECT_TURN_INTERVAL) {
            (&mut self.suspected, &mut self.clean)
        } else {
            (&mut self.clean, &mut self.suspected)
        };
        first
            .take(self.turn, &mut may)
            .or_else(|| second.take(self.turn, &mut may))
    }

    /// Records whether an event of this sender was rejected or genuine.
    pub(crate) fn judge(&mut self, sender: &EventSender, refused: bool) {
        let EventSender::Known(number) = sender else {
            return;
        };
        if !refused {
            self.suspects.remove(number);
        } else if self.suspects.len() < MAX_SUSPECTS && self.suspects.insert(*number) {
            for waiting in self.clean.take_lane(sender) {
                self.suspected.put(sender.clone(), waiting);
            }
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.clean.len + self.suspected.len
    }

    fn is_suspect(&self, sender: &EventSender) -> bool {
        matches!(sender, EventSender::Known(number) if self.suspects.contains(number))
    }
}

#[derive(Debug)]
struct Lanes<T> {
    lanes: HashMap<EventSender, VecDeque<T>>,
    /// Senders without a processed event, and those that were served before.
    fresh: VecDeque<EventSender>,
    served: VecDeque<EventSender>,
    len: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            fresh: VecDeque::new(),
            served: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> Lanes<T> {
    fn put(&mut self, sender: EventSender, waiting: T) {
        if !self.lanes.contains_key(&sender) {
            self.fresh.push_back(sender.clone());
        }
        self.lanes.entry(sender).or_default().push_back(waiting);
        self.len += 1;
    }

    fn take(&mut self, turn: u32, may: &mut impl FnMut(&EventSender, &T) -> bool) -> Option<T> {
        // Bits that the choice of the sender does not use.
        let newest = (turn / 4).is_multiple_of(2);
        let mut may = |sender: &EventSender| {
            let lane = self.lanes.get(sender);
            let next = lane.and_then(|lane| if newest { lane.back() } else { lane.front() });
            next.is_some_and(|next| may(sender, next))
        };
        let (fresh, served) = (&self.fresh, &self.served);
        let at = match turn % 4 {
            1 | 3 => fresh.iter().rposition(&mut may).map(|at| (true, at)),
            2 => fresh.iter().position(&mut may).map(|at| (true, at)),
            _ => None,
        };
        let at = at.or_else(|| served.iter().position(&mut may).map(|at| (false, at)));
        let (is_fresh, at) = at.or_else(|| fresh.iter().position(&mut may).map(|at| (true, at)))?;
        let sender = if is_fresh {
            &mut self.fresh
        } else {
            &mut self.served
        }
        .remove(at)?;
        let lane = self.lanes.get_mut(&sender)?;
        let taken = if newest {
            lane.pop_back()
        } else {
            lane.pop_front()
        }?;
        self.len -= 1;
        if lane.is_empty() {
            self.lanes.remove(&sender);
        } else {
            self.served.push_back(sender);
        }
        Some(taken)
    }

    fn take_lane(&mut self, sender: &EventSender) -> VecDeque<T> {
        self.fresh.retain(|known| known != sender);
        self.served.retain(|known| known != sender);
        let lane = self.lanes.remove(sender).unwrap_or_default();
        self.len -= lane.len();
        lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(number: u128) -> EventSender {
        EventSender::Known(number)
    }

    fn claimed(name: &str) -> EventSender {
        EventSender::Claimed(name.to_owned())
    }

    /// Number of other events that are processed before this one.
    fn place_of(fair: &mut FairQueue<&str>, wanted: &str) -> usize {
        (0..)
            .find(|_| fair.take(|_, _| true) == Some(wanted))
            .unwrap()
    }

    #[test]
    fn one_that_comes_behind_hundreds_waits_for_few() {
        for sender in [known(1), claimed("globex")] {
            let mut fair = FairQueue::default();
            (0..900).for_each(|_| fair.put(sender.clone(), "forged"));
            fair.put(claimed("acme"), "genuine");
            assert!(place_of(&mut fair, "genuine") < 8);
        }
        // Each claims to be another portal, or all claim to be the genuine one.
        for same in [false, true] {
            let mut fair = FairQueue::default();
            (0..900).for_each(|n| {
                fair.put(
                    claimed(
                        if same {
                            "acme".to_owned()
                        } else {
                            format!("p{n}")
                        }
                        .as_str(),
                    ),
                    "forged",
                );
            });
            fair.put(claimed("acme"), "genuine");
            assert!(place_of(&mut fair, "genuine") < 8, "{same}");
        }
    }

    #[test]
    fn who_may_not_be_asked_about_now_keeps_his_place() {
        let mut fair = FairQueue::default();
        (0..3).for_each(|_| fair.put(claimed("flood"), "forged"));
        fair.put(claimed("acme"), "genuine");
        let others = |sender: &EventSender, _: &&str| *sender != claimed("flood");
        assert_eq!(fair.take(others), Some("genuine"));
        assert_eq!((fair.take(others), fair.len()), (None, 3));
        assert_eq!(fair.take(|_, _| true), Some("forged"));
    }

    #[test]
    fn one_that_came_before_a_flood_is_not_forgotten() {
        let mut fair = FairQueue::default();
        fair.put(claimed("acme"), "genuine");
        (0..900).for_each(|n| fair.put(claimed(&format!("p{n}")), "forged"));
        assert!(place_of(&mut fair, "genuine") < 8);
    }

    #[test]
    fn whoever_was_refused_waits_behind_the_others_and_still_comes_to_his_turn() {
        let mut fair = FairQueue::default();
        (0..20).for_each(|_| fair.put(known(1), "suspect"));
        fair.judge(&known(1), true);
        (0..100).for_each(|n| fair.put(known(100 + n), "clean"));
        let taken: Vec<_> = (0..40).filter_map(|_| fair.take(|_, _| true)).collect();
        let suspects = taken.iter().filter(|taken| **taken == "suspect").count();
        assert_eq!(suspects, 5, "one in eight");
        fair.judge(&known(1), false);
        fair.put(known(1), "again");
        assert!(place_of(&mut fair, "again") < 8);
        while fair.take(|_, _| true).is_some() {}
        assert_eq!(fair.len(), 0);
    }
}
