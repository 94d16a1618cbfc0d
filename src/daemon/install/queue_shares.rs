//! Who has how much of the queue of notices that wait: each app, portals that are not known, and each sender have a share,
//! so that a flood leaves room for others.
//!
//! Must not refuse what was answered before: what an earlier process took in is counted, whatever it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::daemon::install::fair_queue::EventSender;

/// Notices that may wait to be worked off; one takes about a thousand bytes.
pub(crate) const QUEUE: usize = 4096;
/// Bytes of forms that may wait; what the state keeps of them is bounded by as much.
const BYTES: usize = 32 * 1024 * 1024;

/// What waits, by app.
#[derive(Debug, Default)]
pub(crate) struct QueueShares(Mutex<HashMap<String, AppShare>>);

#[derive(Debug, Default)]
struct AppShare {
    all: Load,
    unknown: Load,
    senders: HashMap<EventSender, Load>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Load {
    count: usize,
    bytes: usize,
}

/// Whose share it is.
#[derive(Debug, Clone)]
pub(crate) struct ShareOf {
    pub(crate) app: String,
    pub(crate) sender: EventSender,
    /// It is of a portal that has the app.
    pub(crate) is_known: bool,
    pub(crate) bytes: usize,
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub(crate) struct QueueSlot {
    shares: Arc<QueueShares>,
    whose: ShareOf,
}

impl QueueShares {
    /// A place, where there are so many apps that take installs; `None` if a share is used up.
    pub(crate) fn place(self: &Arc<Self>, whose: ShareOf, apps: usize) -> Option<QueueSlot> {
        {
            let mut of_apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let of_app = of_apps.entry(whose.app.clone()).or_default();
            let share = Load {
                count: QUEUE,
                bytes: BYTES,
            }
            .part(1, apps.max(1));
            let of_sender = of_app
                .senders
                .get(&whose.sender)
                .copied()
                .unwrap_or_default();
            let fits = of_app.all.fits(whose.bytes, share)
                && (whose.is_known || of_app.unknown.fits(whose.bytes, share.part(3, 4)))
                && of_sender.fits(whose.bytes, share.part(1, 4));
            if !fits {
                return None;
            }
        }
        Some(self.take(whose))
    }

    /// A place, whatever is taken.
    pub(crate) fn take(self: &Arc<Self>, whose: ShareOf) -> QueueSlot {
        let mut of_apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        of_apps
            .entry(whose.app.clone())
            .or_default()
            .change(&whose, |load| {
                load.count += 1;
                load.bytes += whose.bytes;
            });
        drop(of_apps);
        QueueSlot {
            shares: Arc::clone(self),
            whose,
        }
    }
}

impl AppShare {
    fn change(&mut self, whose: &ShareOf, change: impl Fn(&mut Load)) {
        change(&mut self.all);
        if !whose.is_known {
            change(&mut self.unknown);
        }
        let of_sender = self.senders.entry(whose.sender.clone()).or_default();
        change(of_sender);
        if of_sender.count == 0 {
            self.senders.remove(&whose.sender);
        }
    }
}

impl Load {
    const fn part(self, part: usize, of: usize) -> Self {
        Self {
            count: self.count * part / of,
            bytes: self.bytes * part / of,
        }
    }

    const fn fits(self, bytes: usize, share: Self) -> bool {
        self.count < share.count && self.bytes + bytes <= share.bytes
    }
}

impl QueueSlot {
    pub(crate) const fn sender(&self) -> &EventSender {
        &self.whose.sender
    }

    pub(crate) const fn is_known(&self) -> bool {
        self.whose.is_known
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        let mut of_apps = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_app) = of_apps.get_mut(&self.whose.app) {
            of_app.change(&self.whose, |load| {
                load.count = load.count.saturating_sub(1);
                load.bytes = load.bytes.saturating_sub(self.whose.bytes);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(app: &str, sender: &str, is_known: bool, bytes: usize) -> ShareOf {
        ShareOf {
            app: app.to_owned(),
            sender: EventSender::Claimed(sender.to_owned()),
            is_known,
            bytes,
        }
    }

    /// The places that are had of these, in turn, until one is refused.
    fn places(
        shares: &Arc<QueueShares>,
        next: impl Fn(usize) -> ShareOf,
        apps: usize,
    ) -> Vec<QueueSlot> {
        (0..).map_while(|n| shares.place(next(n), apps)).collect()
    }

    #[test]
    fn a_sender_an_unknown_portal_and_an_app_have_a_share() {
        let shares = Arc::new(QueueShares::default());
        let one = places(&shares, |_| whose("crm", "acme", true, 1), 1);
        assert_eq!(one.len(), QUEUE / 4);
        let unknown = places(&shares, |n| whose("crm", &format!("p{n}"), false, 1), 1);
        assert_eq!(unknown.len(), QUEUE / 4 * 3);
        assert!(
            shares.place(whose("crm", "globex", true, 1), 1).is_none(),
            "all of it is taken"
        );
        drop(one);
        assert!(shares.place(whose("crm", "new", false, 1), 1).is_none());
        assert!(shares.place(whose("crm", "globex", true, 1), 1).is_some());
        drop(unknown);
        assert_eq!(shares.0.lock().unwrap()["crm"].all, Load::default());
        assert!(shares.0.lock().unwrap()["crm"].senders.is_empty());
    }

    #[test]
    fn one_app_leaves_the_other_its_part_in_notices_and_in_bytes() {
        for bytes in [1, 64 * 1024] {
            let shares = Arc::new(QueueShares::default());
            let flood = places(&shares, |n| whose("crm", &format!("p{n}"), true, bytes), 2);
            assert_eq!(flood.len(), (QUEUE / 2).min(BYTES / 2 / bytes));
            assert!(
                shares
                    .place(whose("shop", "acme", false, bytes), 2)
                    .is_some()
            );
        }
    }
}
