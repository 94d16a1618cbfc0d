//! Shares of the event queue: each app, unknown portals, and each sender have a limit, so that a flood leaves room for
//! others.
//!
//! Must not reject what was acknowledged before: events that an earlier process stored are counted without a limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::daemon::install::fair_queue::EventSender;

/// Maximum number of waiting events; one occupies about a thousand bytes.
pub(crate) const QUEUE: usize = 4096;
/// Maximum bytes of waiting forms; the state stores at most as many.
const BYTES: usize = 32 * 1024 * 1024;

/// Waiting events by app.
#[derive(Debug, Default)]
pub(crate) struct QueueShares(Mutex<HashMap<String, AppShare>>);

#[derive(Debug, Default)]
struct AppShare {
    all: QueueUse,
    unknown: QueueUse,
    senders: HashMap<EventSender, QueueUse>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct QueueUse {
    count: usize,
    bytes: usize,
}

/// Owner of a share.
#[derive(Debug, Clone)]
pub(crate) struct ShareOf {
    pub(crate) app: String,
    pub(crate) sender: EventSender,
    /// Whether the event is of a portal that has the app.
    pub(crate) is_known: bool,
    pub(crate) bytes: usize,
}

/// A slot in the queue, released when it is dropped.
#[derive(Debug)]
pub(crate) struct QueueSlot {
    shares: Arc<QueueShares>,
    owner: ShareOf,
}

impl QueueShares {
    /// Acquires a slot, where `apps` apps receive installs; `None` if a share is used up.
    pub(crate) fn place(self: &Arc<Self>, owner: ShareOf, apps: usize) -> Option<QueueSlot> {
        {
            let mut of_apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let of_app = of_apps.entry(owner.app.clone()).or_default();
            let share = QueueUse {
                count: QUEUE,
                bytes: BYTES,
            }
            .part(1, apps.max(1));
            let of_sender = of_app
                .senders
                .get(&owner.sender)
                .copied()
                .unwrap_or_default();
            let fits = of_app.all.fits(owner.bytes, share)
                && (owner.is_known || of_app.unknown.fits(owner.bytes, share.part(3, 4)))
                && of_sender.fits(owner.bytes, share.part(1, 4));
            if !fits {
                return None;
            }
        }
        Some(self.take(owner))
    }

    /// Acquires a slot without a limit.
    pub(crate) fn take(self: &Arc<Self>, owner: ShareOf) -> QueueSlot {
        let mut of_apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        of_apps
            .entry(owner.app.clone())
            .or_default()
            .change(&owner, |load| {
                load.count += 1;
                load.bytes += owner.bytes;
            });
        drop(of_apps);
        QueueSlot {
            shares: Arc::clone(self),
            owner,
        }
    }
}

impl AppShare {
    fn change(&mut self, owner: &ShareOf, change: impl Fn(&mut QueueUse)) {
        change(&mut self.all);
        if !owner.is_known {
            change(&mut self.unknown);
        }
        let of_sender = self.senders.entry(owner.sender.clone()).or_default();
        change(of_sender);
        if of_sender.count == 0 {
            self.senders.remove(&owner.sender);
        }
    }
}

impl QueueUse {
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
        &self.owner.sender
    }

    pub(crate) const fn is_known(&self) -> bool {
        self.owner.is_known
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        let mut of_apps = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_app) = of_apps.get_mut(&self.owner.app) {
            of_app.change(&self.owner, |load| {
                load.count = load.count.saturating_sub(1);
                load.bytes = load.bytes.saturating_sub(self.owner.bytes);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of(app: &str, sender: &str, is_known: bool, bytes: usize) -> ShareOf {
        ShareOf {
            app: app.to_owned(),
            sender: EventSender::Claimed(sender.to_owned()),
            is_known,
            bytes,
        }
    }

    /// The slots that are acquired for these, in turn, until one is refused.
    fn slots(
        shares: &Arc<QueueShares>,
        next: impl Fn(usize) -> ShareOf,
        apps: usize,
    ) -> Vec<QueueSlot> {
        (0..).map_while(|n| shares.place(next(n), apps)).collect()
    }

    #[test]
    fn a_sender_an_unknown_portal_and_an_app_have_a_share() {
        let shares = Arc::new(QueueShares::default());
        let one = slots(&shares, |_| share_of("crm", "acme", true, 1), 1);
        assert_eq!(one.len(), QUEUE / 4);
        let unknown = slots(&shares, |n| share_of("crm", &format!("p{n}"), false, 1), 1);
        assert_eq!(unknown.len(), QUEUE / 4 * 3);
        assert!(
            shares
                .place(share_of("crm", "globex", true, 1), 1)
                .is_none(),
            "all of it is taken"
        );
        drop(one);
        assert!(shares.place(share_of("crm", "new", false, 1), 1).is_none());
        assert!(
            shares
                .place(share_of("crm", "globex", true, 1), 1)
                .is_some()
        );
        drop(unknown);
        assert_eq!(shares.0.lock().unwrap()["crm"].all, QueueUse::default());
        assert!(shares.0.lock().unwrap()["crm"].senders.is_empty());
    }

    #[test]
    fn one_app_leaves_the_other_its_part_in_notices_and_in_bytes() {
        for bytes in [1, 64 * 1024] {
            let shares = Arc::new(QueueShares::default());
            let flood = slots(
                &shares,
                |n| share_of("crm", &format!("p{n}"), true, bytes),
                2,
            );
            assert_eq!(flood.len(), (QUEUE / 2).min(BYTES / 2 / bytes));
            assert!(
                shares
                    .place(share_of("shop", "acme", false, bytes), 2)
                    .is_some()
            );
        }
    }
}
