//! Alert receivers of a simulation: one is unavailable at times; and the invariants of all notifications.
//!
//! No notification is repeated, except one that was being delivered when a process ended, and none too soon; in the end no
//! incident is open. Must not change anything.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::daemon::tests::world::World;
use crate::domain::portal::{Kind, Portal};
use refreshd_alerting::channel::Delivery;
use refreshd_alerting::channels::NotifierBackend;
use refreshd_alerting::incidents::Stage;
use refreshd_alerting::message::{Event, Message, MessageSubject};
use refreshd_time::Timestamp;

/// The channel that is unavailable at times, and one that never is.
pub const PEOPLE: &str = "people";
const OTHERS: &str = "others";

/// Minimum interval of repetitions.
const REPEAT: Duration = Duration::from_secs(3600);
/// Minimum delay of a notification that an incident has come back: a sixth of a token's lifetime, less a tenth, since
/// lifetimes differ a little.
const HOLD: Duration = Duration::from_secs(540);
/// Time limit of the notification of what only a person can resolve, without other faults.
const SOON: Duration = Duration::from_secs(5 * 60);

/// An incident that comes back within this time after its end is flapping,
const FLAPS: Duration = Duration::from_secs(4 * 3600);
/// and is delayed by at most this time.
const HELD: Duration = Duration::from_secs(65 * 60);

/// The received notifications, and the conditions of their delivery.
#[derive(Default)]
pub struct ReceivedAlerts {
    received: Vec<SentNotification>,
    seen: usize,
    process: u64,
    newest: BTreeMap<String, SentNotification>,
    unavailable: bool,
    /// Time since which nothing prevented notifications.
    fair_since: Timestamp,
    disk_fair_since: Timestamp,
    /// Time at which an old state was restored, which contains ends that are not recorded here.
    restored_at: Timestamp,
    /// Time since which the configuration names its present portals.
    named_since: Timestamp,
    /// Incidents of which it is unknown whether the daemon recorded the notification.
    maybe: BTreeSet<String>,
    /// Whether the other channel was notified that this one fails, and how often.
    broken: bool,
    pub broke: u64,
    /// Number of messages, without duplicates.
    pub count: u64,
}

/// A received message.
#[derive(Clone, Debug)]
struct SentNotification {
    at: Timestamp,
    process: u64,
    message: Message,
    /// Whether the daemon may have failed to record the delivery: after a restart it may repeat it.
    unkept: bool,
}

impl ReceivedAlerts {
    /// Makes the receiver unavailable, or available.
    pub fn set_unavailable(&mut self, unavailable: bool) {
        self.unavailable = unavailable;
    }

    /// Begins another process lifetime.
    pub fn begin(&mut self, now: Timestamp) {
        self.process += 1;
        let unkept = self
            .newest
            .extract_if(.., |_, notification| notification.unkept);
        self.maybe.extend(unkept.map(|(key, _)| key));
        self.disturb(now);
    }

    /// Records that something prevented notifications until now.
    pub fn disturb(&mut self, now: Timestamp) {
        self.fair_since = now;
    }

    /// Records that the disk works again.
    pub fn disk_is_fair(&mut self, now: Timestamp) {
        self.disk_fair_since = now;
        self.disturb(now);
    }

    /// Records that the configuration names other portals.
    pub fn named(&mut self, now: Timestamp) {
        self.named_since = now;
    }

    /// Records that an old state was restored, which lacks later notifications.
    pub fn forget(&mut self, now: Timestamp) {
        self.restored_at = now;
        self.maybe
            .extend(std::mem::take(&mut self.newest).into_keys());
        self.seen = self.received.len();
    }

    /// Records a message on the other channel; relevant are those about the first channel.
    fn others(&mut self, message: &Message) {
        if message.subject == MessageSubject::Channel(PEOPLE.to_owned()) {
            self.broken = message.event != Event::Resolved;
            self.broke += u64::from(message.event == Event::Opened);
        }
    }

    /// Checks the messages since the last check.
    pub fn check_now(&mut self, clock_moved_at: Timestamp) -> Result<(), String> {
        while let Some(notification) = self.received.get(self.seen).cloned() {
            self.seen += 1;
            let key = notification.message.key.clone();
            if let Some(last) = self.newest.get(&key) {
                if notification.message == last.message {
                    if notification.process == last.process {
                        return Err(format!(
                            "people were notified twice: {}",
                            notification.message.title()
                        ));
                    }
                    continue;
                }
                check(last, &notification, clock_moved_at)?;
            } else if notification.message.event == Event::Resolved && !self.maybe.contains(&key) {
                return Err(format!(
                    "a resolution was sent without a problem: {}",
                    notification.message.title()
                ));
            }
            self.count += 1;
            self.newest.insert(key, notification);
        }
        Ok(())
    }

    /// Checks that there was a notification about a portal that only a person can repair.
    pub fn knows_of(
        &self,
        name: &str,
        portal: &Portal,
        now: Timestamp,
        wall: Timestamp,
    ) -> Result<(), String> {
        let person = matches!(
            portal.kind(),
            Kind::NeedsAuthorization | Kind::Gone | Kind::Blocked | Kind::OldState
        );
        let since = portal
            .grant
            .as_ref()
            .and_then(|grant| grant.status.phase.since())
            .unwrap_or(wall);
        if !person
            || self.unavailable
            || now.since(self.fair_since) < SOON
            || wall.since(since) < SOON
        {
            return Ok(());
        }
        let known = |notification: &SentNotification| {
            let Message {
                key,
                event,
                portals,
                count,
                ..
            } = &notification.message;
            let named =
                *key == format!("portal/{name}") || portals.iter().any(|portal| portal == name);
            // A message about many portals names only some of them.
            *event != Event::Resolved && (named || *count > portals.len() as u64)
        };
        if self.newest.values().any(known) || self.maybe.contains(&format!("portal/{name}")) {
            return Ok(());
        }
        // An incident that came back soon after its end is delayed by an hour at most.
        let ended = self
            .newest
            .values()
            .filter(|notification| notification.message.event == Event::Resolved);
        let ended = ended
            .map(|notification| notification.at)
            .max()
            .unwrap_or_default()
            .max(self.restored_at);
        if now.since(ended) < FLAPS && wall.since(since).min(now.since(self.named_since)) < HELD {
            return Ok(());
        }
        Err(format!(
            "{name}: it is {} since {since} and there was no notification",
            portal.kind().as_str()
        ))
    }

    /// Checks that no open incident is left once all faults have ended.
    pub fn all_is_well(&self) -> Result<(), String> {
        if self.broken {
            return Err("others still believe that the channel is broken".to_owned());
        }
        match self
            .newest
            .values()
            .find(|notification| notification.message.event != Event::Resolved)
        {
            Some(notification) => Err(format!(
                "people still believe: {}",
                notification.message.title()
            )),
            None => Ok(()),
        }
    }
}

/// Checks whether one message may follow another of the same incident.
fn check(
    last: &SentNotification,
    notification: &SentNotification,
    clock_moved_at: Timestamp,
) -> Result<(), String> {
    let (before, after) = (&last.message, &notification.message);
    let wrong = |what: &str| {
        let (one, other) = ((last.at, before), (notification.at, after));
        Err(format!("{what}:\n  {one:?}\n  {other:?}"))
    };
    let anew = before.event == Event::Resolved && after.number == 1;
    if after.number <= before.number && !anew {
        return wrong("messages of an incident came out of order");
    }
    // If the clock stepped, times prove nothing.
    if clock_moved_at >= Timestamp::from_millis(last.at.millis() - 60_000) {
        return Ok(());
    }
    let gap = after.at.since(before.at);
    if after.event == Event::Repeated && gap < REPEAT {
        return wrong("people were notified again too soon");
    }
    let flaps = before.event == Event::Resolved && !anew && after.severity <= before.severity;
    if flaps && gap < HOLD {
        return wrong("people were notified at once of a flapping problem");
    }
    Ok(())
}

/// Checks that the state has no open incidents and no queued alerts once all faults have ended.
pub fn nothing_is_left(world: &World) -> Result<(), String> {
    let path = world.place.path().join("state.db");
    let connection = rusqlite::Connection::open(path).map_err(|error| error.to_string())?;
    let texts = |query: &str| -> rusqlite::Result<Vec<String>> {
        connection
            .prepare(query)?
            .query_map([], |row| row.get(0))?
            .collect()
    };
    for body in texts("SELECT body FROM incident").map_err(|error| error.to_string())? {
        let incident: refreshd_alerting::incidents::Incident =
            serde_json::from_str(&body).map_err(|error| error.to_string())?;
        if !matches!(incident.stage, Stage::Over { .. }) {
            return Err(format!("an incident is open at the end: {incident:?}"));
        }
    }
    let waiting = texts("SELECT body FROM outbox").map_err(|error| error.to_string())?;
    if waiting.is_empty() {
        Ok(())
    } else {
        Err(format!("alerts are queued at the end: {waiting:?}"))
    }
}

/// Connection to the receiver.
pub struct SimulatedReceivers(pub Arc<World>);

impl NotifierBackend for SimulatedReceivers {
    fn deliver(
        &self,
        channel: &str,
        message: Message,
    ) -> Pin<Box<dyn Future<Output = Delivery> + Send>> {
        let world = Arc::clone(&self.0);
        let others = channel == OTHERS;
        Box::pin(async move {
            world.kill_switch.step().await;
            world.pause(world.millis(1..500)).await;
            if others {
                world.alerts.lock().unwrap().others(&message);
                return Delivery::Delivered("200".to_owned());
            }
            if world.alerts.lock().unwrap().unavailable {
                return Delivery::Failed {
                    why: "connection refused".to_owned(),
                    retry_after: None,
                };
            }
            // A daemon that has ended sends nothing.
            if !world.kill_switch.is_killed() {
                let at = world.truth.now();
                let mut alerts = world.alerts.lock().unwrap();
                let process = alerts.process;
                let unkept = !world.is_disk_fair() || at.since(alerts.disk_fair_since) < SOON;
                alerts.received.push(SentNotification {
                    at,
                    process,
                    message,
                    unkept,
                });
            }
            world.kill_switch.step().await;
            Delivery::Delivered("200".to_owned())
        })
    }
}

/// Shared with the world.
pub type SharedAlerts = Mutex<ReceivedAlerts>;
