//! Incidents: one open problem each, of a portal, an app, an authorization server or the daemon, with its whole life.
//!
//! Level-triggered. [`finding`] says what is wrong with a portal now, [`reconcile`] gathers all that is wrong and groups what
//! has one cause, and [`Incident::update`] and [`Incident::close`] decide what people are told of it. So whatever happens in
//! between, a crash or a restart, the next look finds what has not been told yet, and tells it once. Must not read a
//! clock, nor send.

pub mod finding;
mod message_context;
pub mod reconcile;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::{Event, Message};
use crate::Severity;
pub use finding::{Finding, GroupKey, ReachedStep};
pub use message_context::MessageContext;
pub use reconcile::{AlertRules, Reconciled, Reconciler};
use refreshd_time::Timestamp;

/// The first repetition comes after this time, each further one after twice the time of the one before.
const REPEAT: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
/// A problem that comes back within so many lives of a token after its end is the same one, and flaps.
const FLAP_LIVES: u32 = 2;
/// What comes back is told again when it has lasted for this part of a life, and twice that each further time.
const FLAP_HOLD: u32 = 6;
/// A clock may be corrected by so much at any time.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
/// Limits of both, for tokens that live very long.
const LONGEST_FLAP: Duration = Duration::from_secs(24 * 3600);
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// One problem, from its first sign until it has been over for some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Names it; see [`Message::key`].
    pub key: String,
    /// Open, or over.
    pub stage: Stage,
    /// The steps it has reached that are dealt with: told, or not worth telling.
    pub told: BTreeSet<String>,
    /// Each severity it has reached, and when.
    pub levels: Vec<(Severity, Timestamp)>,
    /// The channels that were told of it, and will hear of its end.
    pub heard: BTreeSet<String>,
    /// Whether anybody was told since it began, or came back.
    pub spoken: bool,
    /// The loudest that was told, also before it came back.
    pub worst: Severity,
    /// The newest message about it.
    pub latest: Message,
    /// Repetitions since something new was told.
    pub repeats: u32,
    /// How often it came back.
    pub flaps: u32,
    /// Since when so few portals are left in it that each could be told of by itself.
    pub few_since: Option<Timestamp>,
    /// How long the tokens concerned live: the measure of its times.
    pub lifetime: Duration,
}

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// People know as much as there is to know.
    Open,
    /// Somebody has taken it on: it is not repeated.
    Acknowledged,
    /// It came back soon after its end, which people know of; they hear of it if it lasts until then.
    Back {
        /// Until then it is not told again, unless it gets worse than it was.
        hold_until: Timestamp,
    },
    /// It is over since then; remembered for some time, in case it comes back.
    Over {
        /// Since when.
        at: Timestamp,
    },
}

/// A message and the channels it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What is said.
    pub message: Message,
    /// To whom; those who hear of this incident for the first time are marked.
    pub to: Vec<(String, bool)>,
}

impl Incident {
    /// A problem that is not told yet.
    #[must_use]
    pub fn new(view: &MessageContext, now: Timestamp) -> Self {
        Self {
            key: view.key.clone(),
            stage: Stage::Open,
            told: BTreeSet::new(),
            levels: Vec::new(),
            heard: BTreeSet::new(),
            spoken: false,
            worst: Severity::Notice,
            latest: view.message(Event::Opened, Severity::Notice, now),
            repeats: 0,
            flaps: 0,
            few_since: None,
            lifetime: view.lifetime,
        }
    }

    /// Whether it is there now.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Over { .. })
    }

    /// How loud it is, or was.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.levels
            .last()
            .map_or(Severity::Notice, |(severity, _)| *severity)
    }

    /// The problem is there. What there is to say of it now, to those of `channels` that are to hear it.
    pub fn update(
        &mut self,
        view: &MessageContext,
        channels: &[String],
        now: Timestamp,
    ) -> Option<Notification> {
        self.clamp_to(now);
        self.lifetime = view.lifetime;
        self.few_since = view.few.then(|| self.few_since.unwrap_or(now).min(now));
        if let Stage::Over { at } = self.stage {
            self.reopen(at, view, now);
        }
        let new: Vec<_> = view
            .reached
            .iter()
            .filter(|step| !self.told.contains(&step.id))
            .cloned()
            .collect();
        let loudest = new.iter().map(|step| step.severity).max();
        if let Stage::Back { hold_until } = self.stage {
            if now < hold_until && loudest.is_none_or(|loudest| loudest <= self.worst) {
                return None;
            }
            self.stage = Stage::Open;
        }
        // What is not louder than it was is no news.
        if let Some(loudest) = loudest.filter(|loudest| *loudest >= self.severity()) {
            let event = if self.spoken {
                Event::Raised
            } else {
                Event::Opened
            };
            let to = recipients(&new, channels);
            self.merge(&new, loudest, now);
            if to.is_empty() {
                self.latest = self.said(view, event, now);
                return None;
            }
            self.stage = Stage::Open;
            self.repeats = 0;
            return self.notify(view, event, to, now);
        }
        self.told.extend(new.into_iter().map(|step| step.id));
        if self.repeats_at(view.count).is_some_and(|at| at <= now) {
            self.repeats += 1;
            return self.notify(view, Event::Repeated, self.heard.clone(), now);
        }
        None
    }

    /// The problem is gone, for this reason.
    pub fn close(&mut self, reason: &str, now: Timestamp) -> Option<Notification> {
        self.clamp_to(now);
        if !self.is_open() {
            return None;
        }
        self.stage = Stage::Over { at: now };
        self.repeats = 0;
        // What nobody has heard of, or believes to be over, does not end for anybody.
        if !std::mem::take(&mut self.spoken) {
            return None;
        }
        let message = Message {
            reason: reason.to_owned(),
            ..self.latest.clone()
        };
        self.address(
            Message {
                event: Event::Resolved,
                at: now,
                ..message
            },
            self.heard.clone(),
        )
    }

    /// Somebody takes it on: no repetitions until it gets worse.
    pub fn acknowledge(&mut self, now: Timestamp) -> Option<Notification> {
        if !matches!(self.stage, Stage::Open) || !self.spoken {
            return None;
        }
        self.stage = Stage::Acknowledged;
        let message = Message {
            event: Event::Acknowledged,
            at: now,
            ..self.latest.clone()
        };
        self.address(message, self.heard.clone())
    }

    /// From when on the few portals that are left are told of one by one: an outage that ends is over for them too by then.
    #[must_use]
    pub fn splits_at(&self) -> Option<Timestamp> {
        self.few_since
            .map(|since| since + (self.lifetime / FLAP_HOLD).min(LONGEST_HOLD))
    }

    /// When there may be something to say of it though nothing changes.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let at = match self.stage {
            Stage::Open => self.repeats_at(self.latest.count),
            Stage::Back { hold_until } => Some(hold_until),
            Stage::Acknowledged | Stage::Over { .. } => None,
        };
        [at, self.splits_at()].into_iter().flatten().min()
    }

    /// Whether it has been over for so long that its return would be another problem.
    #[must_use]
    pub fn is_past(&self, now: Timestamp) -> bool {
        matches!(self.stage, Stage::Over { at } if !self.is_recent(at, now))
    }

    /// It is there again, a moment or an age after its end. It begins anew, but for what people remember.
    fn reopen(&mut self, ended: Timestamp, view: &MessageContext, now: Timestamp) {
        let (worst, flaps) = (self.worst, self.flaps.saturating_add(1));
        // What nobody has heard of cannot be heard of twice.
        if self.heard.is_empty() || !self.is_recent(ended, now) {
            *self = Self::new(view, now);
            return;
        }
        let hold = (self.lifetime / FLAP_HOLD).saturating_mul(1 << (flaps - 1).min(10));
        let stage = Stage::Back {
            hold_until: now + hold.min(LONGEST_HOLD),
        };
        let (heard, number) = (std::mem::take(&mut self.heard), self.latest.number);
        *self = Self {
            stage,
            heard,
            worst,
            flaps,
            ..Self::new(view, now)
        };
        self.latest.number = number;
    }

    /// Whether an end is so recent that what comes back is the same. An end ahead of now was noted by a clock that has been
    /// set back since: nobody knows how long ago it was, and to tell twice is better than not to tell.
    fn is_recent(&self, ended: Timestamp, now: Timestamp) -> bool {
        let window = self.lifetime.saturating_mul(FLAP_LIVES).min(LONGEST_FLAP);
        ended <= now + CLOCKS_DIFFER && now < ended + window
    }

    fn merge(&mut self, new: &[ReachedStep], loudest: Severity, now: Timestamp) {
        self.told.extend(new.iter().map(|step| step.id.clone()));
        if self.levels.is_empty() || loudest > self.severity() {
            self.levels.push((loudest, now));
        }
    }

    /// Only what somebody was told of is repeated.
    fn repeats_at(&self, count: u64) -> Option<Timestamp> {
        if !matches!(self.stage, Stage::Open)
            || self.heard.is_empty()
            || self.severity() < Severity::Warning
        {
            return None;
        }
        // More portals than were told of: that is news, though no reason to hurry.
        let repeats = if count > self.latest.count {
            0
        } else {
            self.repeats
        };
        Some(self.latest.at + REPEAT.0.saturating_mul(1 << repeats.min(10)).min(REPEAT.1))
    }

    fn notify(
        &mut self,
        view: &MessageContext,
        event: Event,
        to: BTreeSet<String>,
        now: Timestamp,
    ) -> Option<Notification> {
        let message = self.said(view, event, now);
        self.address(message, to)
    }

    fn said(&self, view: &MessageContext, event: Event, now: Timestamp) -> Message {
        let mut message = view.message(event, self.severity(), now);
        message.levels.clone_from(&self.levels);
        message.number = self.latest.number;
        if self.flaps > 0 {
            let times = if self.flaps == 1 {
                "once".to_owned()
            } else {
                format!("{} times", self.flaps)
            };
            message
                .reason
                .push_str(&format!(" (it has come back {times})"));
        }
        message
    }

    fn address(&mut self, mut message: Message, to: BTreeSet<String>) -> Option<Notification> {
        if to.is_empty() {
            return None;
        }
        if !self.heard.is_empty() {
            message.number = self.latest.number.saturating_add(1);
        }
        self.latest = message.clone();
        self.spoken |= message.event != Event::Resolved;
        self.worst = self.worst.max(message.severity);
        let to: Vec<_> = to
            .into_iter()
            .map(|name| (name.clone(), self.heard.insert(name)))
            .collect();
        Some(Notification { message, to })
    }

    /// After the clock was set back no moment lies ahead of now, or nothing would be said for as long as the step.
    fn clamp_to(&mut self, now: Timestamp) {
        self.latest.at = self.latest.at.min(now);
        self.latest.since = self.latest.since.min(now);
        for (_, at) in &mut self.levels {
            *at = (*at).min(now);
        }
        match &mut self.stage {
            Stage::Back { hold_until } => *hold_until = (*hold_until).min(now + LONGEST_HOLD),
            Stage::Open | Stage::Acknowledged | Stage::Over { .. } => {}
        }
    }
}

/// Who is to hear of these steps. A step without a list is for everybody, from warning up.
fn recipients(steps: &[ReachedStep], channels: &[String]) -> BTreeSet<String> {
    let to = |step: &ReachedStep| match &step.notify {
        Some(names) => names.clone(),
        None if step.severity >= Severity::Warning => channels.to_vec(),
        None => Vec::new(),
    };
    steps
        .iter()
        .flat_map(to)
        .filter(|name| channels.contains(name))
        .collect()
}

#[cfg(test)]
mod tests;
