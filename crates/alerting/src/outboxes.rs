//! What the alerter and the channels' tasks share: a box for each channel, and a board that shows what is open.
//!
//! Must not hold a lock across an `await`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::Severity;
use crate::incidents::Incident;
use crate::outbox::{AlertQueue, QueuedAlert};
use refreshd_time::Timestamp;

/// Orders that may wait.
const ORDERS: usize = 64;

/// What somebody asks of the alerter.
#[derive(Debug)]
pub enum AlertCommand {
    /// This incident, or the incidents of this portal, are taken on: how many there were.
    Acknowledge(String, oneshot::Sender<usize>),
}

/// The boxes, the board, and the way to the alerter.
pub struct Outboxes {
    /// Wakes the alerter: something may be wrong, or over.
    pub wake: Notify,
    boxes: Mutex<BTreeMap<String, Arc<Outbox>>>,
    /// Alerts that are done with and still in the state.
    done: Mutex<Vec<i64>>,
    board: watch::Sender<AlertsSnapshot>,
    orders: (
        mpsc::Sender<AlertCommand>,
        Mutex<Option<mpsc::Receiver<AlertCommand>>>,
    ),
}

/// All incidents, those included that ended a while ago.
pub type AlertsSnapshot = Arc<Vec<Incident>>;

/// What waits for one channel.
#[derive(Default)]
pub struct Outbox {
    queue: Mutex<AlertQueue>,
    /// Wakes the channel's task.
    pub filled: Notify,
}

impl Outbox {
    /// The queue; not to be held across an `await`.
    pub fn queue(&self) -> MutexGuard<'_, AlertQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an alert in.
    pub fn put(&self, queued_alert: QueuedAlert) {
        self.queue().push(queued_alert);
        self.filled.notify_one();
    }
}

impl Default for Outboxes {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(ORDERS);
        Self {
            wake: Notify::new(),
            boxes: Mutex::default(),
            done: Mutex::default(),
            board: watch::Sender::new(AlertsSnapshot::default()),
            orders: (sender, Mutex::new(Some(receiver))),
        }
    }
}

impl Outboxes {
    /// A channel's box.
    #[must_use]
    pub fn outbox(&self, channel: &str) -> Arc<Outbox> {
        let mut boxes = self.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = boxes.get(channel) {
            return Arc::clone(known);
        }
        Arc::clone(boxes.entry(channel.to_owned()).or_default())
    }

    /// Every channel is tried at once, as after the configuration changed.
    pub fn hurry(&self) {
        for outbox in self
            .boxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            outbox.queue().hurry();
            outbox.filled.notify_one();
        }
        self.wake.notify_one();
    }

    /// When the next channel that fails will have failed for too long.
    #[must_use]
    pub fn next_break(&self, now: Timestamp) -> Option<Timestamp> {
        let boxes = self.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        boxes
            .values()
            .filter_map(|outbox| outbox.queue().breaks_at())
            .filter(|at| *at > now)
            .min()
    }

    /// What waits for these channels: how many alerts, and since when.
    pub fn waiting<'a>(
        &self,
        channels: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(String, usize, Option<Timestamp>)> {
        let of = |name: &str| {
            let outbox = self.outbox(name);
            let queue = outbox.queue();
            (name.to_owned(), queue.len(), queue.oldest())
        };
        channels.into_iter().map(of).collect()
    }

    /// Notes alerts that are done with.
    pub fn done(&self, ids: impl IntoIterator<Item = i64>) {
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(ids);
    }

    /// Takes what was noted.
    #[must_use]
    pub fn take_done(&self) -> Vec<i64> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows what is open.
    pub fn show(&self, incidents: Vec<Incident>) {
        self.board.send_replace(Arc::new(incidents));
    }

    /// What is open, and what ended a while ago.
    #[must_use]
    pub fn board(&self) -> AlertsSnapshot {
        Arc::clone(&self.board.borrow())
    }

    /// Hears of each change of the board.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<AlertsSnapshot> {
        self.board.subscribe()
    }

    /// Open incidents by severity.
    #[must_use]
    pub fn by_severity(&self) -> Vec<(Severity, u64)> {
        let board = self.board();
        let count = |severity| {
            let open = board
                .iter()
                .filter(|incident| incident.is_open() && incident.severity() == severity);
            (severity, open.count() as u64)
        };
        Severity::ALL.into_iter().map(count).collect()
    }

    /// The way to the alerter.
    #[must_use]
    pub fn orders(&self) -> mpsc::Sender<AlertCommand> {
        self.orders.0.clone()
    }

    /// The alerter's end of it; there is one alerter.
    pub(crate) fn take_orders(&self) -> Option<mpsc::Receiver<AlertCommand>> {
        self.orders
            .1
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
