//! The people of a simulation: a receiver of alerts that is sometimes away, and what must hold of all that it is told.
//!
//! Nothing is told twice but what was under way when a life ended, nothing is repeated too soon, and in the end people
//! know that everything is well. Must not change anything.

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

/// The channel that is away now and then, and one that never is.
pub const PEOPLE: &str = "people";
const OTHERS: &str = "others";

/// Repetitions come no sooner.
const REPEAT: Duration = Duration::from_secs(3600);
/// What comes back is told no sooner: a sixth of a life, and a tenth less, since lives differ a little.
const HOLD: Duration = Duration::from_secs(540);
/// People hear within this time of what only they can mend, if everything else is fair.
const SOON: Duration = Duration::from_secs(5 * 60);

/// What comes back within this time of its end flaps,
const FLAPS: Duration = Duration::from_secs(4 * 3600);
/// and is held for so long at most.
const HELD: Duration = Duration::from_secs(65 * 60);

/// What was told, and what is known of how it could be told.
#[derive(Default)]
pub struct Mail {
    told: Vec<Told>,
    seen: usize,
    life: u64,
    newest: BTreeMap<String, Told>,
    away: bool,
    /// Since when nothing kept the daemon from telling.
    fair_since: Timestamp,
    disk_fair_since: Timestamp,
    /// When an old state was put back, with ends in it that nobody here remembers.
    restored_at: Timestamp,
    /// Since when the configuration names the portals it names.
    named_since: Timestamp,
    /// Incidents of which nobody can know whether the daemon knows that they were told.
    maybe: BTreeSet<String>,
    /// Others were told that the receiver does not take anything, and how often.
    broken: bool,
    pub broke: u64,
    /// Messages, without those that came twice.
    pub count: u64,
}

/// A message that arrived.
#[derive(Clone, Debug)]
struct Told {
    at: Timestamp,
    life: u64,
    message: Message,
    /// The disk did not take in that it was told: a restart may have forgotten it.
    unkept: bool,
}

impl Mail {
    /// The receiver goes away, or comes back.
    pub fn set_away(&mut self, away: bool) {
        self.away = away;
    }

    /// Another life of the daemon begins.
    pub fn begin(&mut self, now: Timestamp) {
        self.life += 1;
        let unkept = self.newest.extract_if(.., |_, told| told.unkept);
        self.maybe.extend(unkept.map(|(key, _)| key));
        self.disturb(now);
    }

    /// Something kept the daemon from telling until now.
    pub fn disturb(&mut self, now: Timestamp) {
        self.fair_since = now;
    }

    /// The disk is well again.
    pub fn disk_is_fair(&mut self, now: Timestamp) {
        self.disk_fair_since = now;
        self.disturb(now);
    }

    /// The configuration names other portals.
    pub fn named(&mut self, now: Timestamp) {
        self.named_since = now;
    }

    /// An old state was put back: it knows nothing of what was told since.
    pub fn forget(&mut self, now: Timestamp) {
        self.restored_at = now;
        self.maybe
            .extend(std::mem::take(&mut self.newest).into_keys());
        self.seen = self.told.len();
    }

    /// The other channel is told, of the first one above all.
    fn others(&mut self, message: &Message) {
        if message.subject == MessageSubject::Channel(PEOPLE.to_owned()) {
            self.broken = message.event != Event::Resolved;
            self.broke += u64::from(message.event == Event::Opened);
        }
    }

    /// Looks at what was told since the last look.
    pub fn look(&mut self, clock_moved_at: Timestamp) -> Result<(), String> {
        while let Some(told) = self.told.get(self.seen).cloned() {
            self.seen += 1;
            let key = told.message.key.clone();
            if let Some(last) = self.newest.get(&key) {
                if told.message == last.message {
                    if told.life == last.life {
                        return Err(format!("people were told twice: {}", told.message.title()));
                    }
                    continue;
                }
                check(last, &told, clock_moved_at)?;
            } else if told.message.event == Event::Resolved && !self.maybe.contains(&key) {
                return Err(format!(
                    "people heard of an end without a beginning: {}",
                    told.message.title()
                ));
            }
            self.count += 1;
            self.newest.insert(key, told);
        }
        Ok(())
    }

    /// Whether people know of a portal that only they can mend.
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
            .and_then(|grant| grant.standing.phase.since())
            .unwrap_or(wall);
        if !person || self.away || now.since(self.fair_since) < SOON || wall.since(since) < SOON {
            return Ok(());
        }
        let known = |told: &Told| {
            let Message {
                key,
                event,
                portals,
                count,
                ..
            } = &told.message;
            let named =
                *key == format!("portal/{name}") || portals.iter().any(|portal| portal == name);
            // Of many not all are named.
            *event != Event::Resolved && (named || *count > portals.len() as u64)
        };
        if self.newest.values().any(known) || self.maybe.contains(&format!("portal/{name}")) {
            return Ok(());
        }
        // What came back soon after people heard of its end is held for an hour at most.
        let ended = self
            .newest
            .values()
            .filter(|told| told.message.event == Event::Resolved);
        let ended = ended
            .map(|told| told.at)
            .max()
            .unwrap_or_default()
            .max(self.restored_at);
        if now.since(ended) < FLAPS && wall.since(since).min(now.since(self.named_since)) < HELD {
            return Ok(());
        }
        Err(format!(
            "{name}: it is {} since {since} and nobody was told",
            portal.kind().as_str()
        ))
    }

    /// Where all is well, people know it.
    pub fn all_is_well(&self) -> Result<(), String> {
        if self.broken {
            return Err("others still believe that the channel is broken".to_owned());
        }
        match self
            .newest
            .values()
            .find(|told| told.message.event != Event::Resolved)
        {
            Some(told) => Err(format!("people still believe: {}", told.message.title())),
            None => Ok(()),
        }
    }
}

/// Whether one message may follow another of the same incident.
fn check(last: &Told, told: &Told, clock_moved_at: Timestamp) -> Result<(), String> {
    let (before, after) = (&last.message, &told.message);
    let wrong = |what: &str| {
        let (one, other) = ((last.at, before), (told.at, after));
        Err(format!("{what}:\n  {one:?}\n  {other:?}"))
    };
    let anew = before.event == Event::Resolved && after.number == 1;
    if after.number <= before.number && !anew {
        return wrong("messages of an incident came out of order");
    }
    // On a clock that stepped, times say nothing.
    if clock_moved_at >= Timestamp::from_millis(last.at.millis() - 60_000) {
        return Ok(());
    }
    let gap = after.at.since(before.at);
    if after.event == Event::Repeated && gap < REPEAT {
        return wrong("people were told again too soon");
    }
    let flaps = before.event == Event::Resolved && !anew && after.severity <= before.severity;
    if flaps && gap < HOLD {
        return wrong("people were told at once of what comes and goes");
    }
    Ok(())
}

/// Incidents and alerts that the state still has, where all is well.
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
        Err(format!("letters wait at the end: {waiting:?}"))
    }
}

/// The way to the receiver.
pub struct Postman(pub Arc<World>);

impl NotifierBackend for Postman {
    fn deliver(
        &self,
        channel: &str,
        message: Message,
    ) -> Pin<Box<dyn Future<Output = Delivery> + Send>> {
        let world = Arc::clone(&self.0);
        let others = channel == OTHERS;
        Box::pin(async move {
            world.fuse.step().await;
            world.pause(world.millis(1..500)).await;
            if others {
                world.mail.lock().unwrap().others(&message);
                return Delivery::Delivered("200".to_owned());
            }
            if world.mail.lock().unwrap().away {
                return Delivery::Failed {
                    why: "connection refused".to_owned(),
                    retry_after: None,
                };
            }
            // A daemon that has ended sends nothing.
            if !world.fuse.is_burnt() {
                let at = world.truth.now();
                let mut mail = world.mail.lock().unwrap();
                let life = mail.life;
                let unkept = !world.is_disk_fair() || at.since(mail.disk_fair_since) < SOON;
                mail.told.push(Told {
                    at,
                    life,
                    message,
                    unkept,
                });
            }
            world.fuse.step().await;
            Delivery::Delivered("200".to_owned())
        })
    }
}

/// As the world keeps it.
pub type Shelf = Mutex<Mail>;
