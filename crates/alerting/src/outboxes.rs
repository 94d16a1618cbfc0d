//! State shared by the alerter and the delivery tasks: an outbox for each channel, and a snapshot of the incidents.
//!
//! Must not hold a lock across an `await`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strum::VariantArray as _;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::Severity;
use crate::incidents::Incident;
use crate::outbox::{AlertQueue, QueuedAlert};
use refreshd_time::Timestamp;

/// Maximum number of queued commands.
const MAX_COMMANDS: usize = 64;

/// Command to the alerter.
#[derive(Debug)]
pub enum AlertCommand {
    /// Acknowledges this incident, or the incidents of this portal. Replies with their number.
    Acknowledge(String, oneshot::Sender<usize>),
}

/// Outboxes, snapshot of the incidents, and command queue of the alerter.
pub struct Outboxes {
    /// Wakes the alerter: a finding may have appeared or disappeared.
    pub wake: Notify,
    boxes: Mutex<BTreeMap<String, Arc<Outbox>>>,
    /// Delivered or dropped alerts that are still in the state.
    done: Mutex<Vec<i64>>,
    snapshot: watch::Sender<AlertsSnapshot>,
    commands: (
        mpsc::Sender<AlertCommand>,
        Mutex<Option<mpsc::Receiver<AlertCommand>>>,
    ),
}

/// All incidents, including recently resolved ones.
pub type AlertsSnapshot = Arc<Vec<Incident>>;

/// Undelivered alerts of one channel.
#[derive(Default)]
pub struct Outbox {
    queue: Mutex<AlertQueue>,
    /// Wakes the delivery task.
    pub filled: Notify,
}

impl Outbox {
    /// Locks the queue. Must not be held across an `await`.
    pub fn queue(&self) -> MutexGuard<'_, AlertQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an alert.
    pub fn put(&self, queued_alert: QueuedAlert) {
        self.queue().push(queued_alert);
        self.filled.notify_one();
    }
}

impl Default for Outboxes {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_COMMANDS);
        Self {
            wake: Notify::new(),
            boxes: Mutex::default(),
            done: Mutex::default(),
            snapshot: watch::Sender::new(AlertsSnapshot::default()),
            commands: (sender, Mutex::new(Some(receiver))),
        }
    }
}

impl Outboxes {
    /// Outbox of a channel.
    #[must_use]
    pub fn outbox(&self, channel: &str) -> Arc<Outbox> {
        let mut boxes = self.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = boxes.get(channel) {
            return Arc::clone(known);
        }
        Arc::clone(boxes.entry(channel.to_owned()).or_default())
    }

    /// Retries all channels now, as after a change of the configuration.
    pub fn retry_now(&self) {
        for outbox in self
            .boxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            outbox.queue().retry_now();
            outbox.filled.notify_one();
        }
        self.wake.notify_one();
    }

    /// When the next failing channel becomes a finding.
    #[must_use]
    pub fn next_break(&self, now: Timestamp) -> Option<Timestamp> {
        let boxes = self.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        boxes
            .values()
            .filter_map(|outbox| outbox.queue().breaks_at())
            .filter(|at| *at > now)
            .min()
    }

    /// Number and age of the undelivered alerts of these channels.
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

    /// Records delivered or dropped alerts.
    pub fn done(&self, ids: impl IntoIterator<Item = i64>) {
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(ids);
    }

    /// Takes the recorded alerts.
    #[must_use]
    pub fn take_done(&self) -> Vec<i64> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes a snapshot of the incidents.
    pub fn publish(&self, incidents: Vec<Incident>) {
        self.snapshot.send_replace(Arc::new(incidents));
    }

    /// Latest snapshot of the incidents.
    #[must_use]
    pub fn snapshot(&self) -> AlertsSnapshot {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Receiver of changes of the snapshot.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<AlertsSnapshot> {
        self.snapshot.subscribe()
    }

    /// Open incidents by severity.
    #[must_use]
    pub fn by_severity(&self) -> Vec<(Severity, u64)> {
        let snapshot = self.snapshot();
        let count = |severity| {
            let open = snapshot
                .iter()
                .filter(|incident| incident.is_open() && incident.severity() == severity);
            (severity, open.count() as u64)
        };
        Severity::VARIANTS.iter().copied().map(count).collect()
    }

    /// Command queue of the alerter.
    #[must_use]
    pub fn commands(&self) -> mpsc::Sender<AlertCommand> {
        self.commands.0.clone()
    }

    /// Receiving end of the command queue; there is one alerter.
    pub(crate) fn take_commands(&self) -> Option<mpsc::Receiver<AlertCommand>> {
        self.commands
            .1
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
