//! What is wrong with this machine, as the parts of the daemon notice it: begun, and over. The log hears of it at once,
//! since the state may be what is wrong; the alerter finds it here.
//!
//! Must not wait for anybody: a renewal under way and the publisher's thread call it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::adapters::state::StateError;
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::{EscalationNotice, Step};
use crate::domain::finding::{blank, daemon_group, person_step};
use crate::domain::name::PortalName;
use refreshd_alerting::Severity;
use refreshd_alerting::incidents::Finding;
use refreshd_time::Timestamp;

/// Endings that are remembered: of more, as after an hour without a token directory, the rest ends without a reason.
const REMEMBERED: usize = 1000;

/// What can be wrong.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'a> {
    /// The state cannot be written.
    State,
    /// The state's files were removed, moved or replaced.
    Displaced,
    /// The state cannot be read.
    Unread,
    /// The state has no grant for portals of which there were grants.
    Lost,
    /// The configuration may not be all there, and token files of what it leaves out are kept.
    Incomplete,
    /// A portal's new pair is not on disk.
    Unsaved(&'a PortalName),
    /// The same, and the service manager has a copy of it.
    UnsavedButKept(&'a PortalName),
    /// A portal's token files cannot be written.
    Unpublished(&'a PortalName),
    /// Token files that are to go cannot be removed.
    Unremoved(&'a PortalName),
}

impl Condition<'_> {
    /// What is to be done about token files that cannot be written.
    pub const UNPUBLISHED: &'static str =
        "make the token directory writable for refreshd, or free space; it is retried by itself";

    /// What is to be done about token files that cannot be removed.
    pub const UNREMOVED: &'static str = "make the token directory writable for refreshd, which tries again by itself, or remove the files: tokens in them may work \
         until they expire";

    const fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Displaced => "state-displaced",
            Self::Unread => "state-unread",
            Self::Lost => "old-state",
            Self::Incomplete => "configuration-incomplete",
            Self::Unsaved(_) | Self::UnsavedButKept(_) => "unsaved",
            Self::Unpublished(_) => "unpublished",
            Self::Unremoved(_) => "unremoved",
        }
    }

    const fn portal(&self) -> Option<&PortalName> {
        match self {
            Self::State | Self::Displaced | Self::Unread | Self::Lost | Self::Incomplete => None,
            Self::Unsaved(portal)
            | Self::UnsavedButKept(portal)
            | Self::Unpublished(portal)
            | Self::Unremoved(portal) => Some(portal),
        }
    }

    /// The incident's key.
    fn key(self) -> String {
        match self.portal() {
            None => format!("daemon/{}", self.word()),
            Some(portal) => format!("portal/{portal}/{}", self.word()),
        }
    }

    const fn action(self) -> &'static str {
        match self {
            Self::Lost => {
                "is the state's volume mounted? Stop refreshd, put the right state back, and start it again; if there is none: \
                 refreshd status, then authorize or import each portal"
            }
            Self::Incomplete => {
                "is the volume of the configuration mounted, are its files whole? Put them back and reload refreshd; if the portals \
                 are to go: refreshd forget each, or take the pattern out of `include`, then reload"
            }
            Self::State => "free space or repair the disk of the state; it is retried by itself",
            Self::Displaced => "do what the reason says, and do not kill refreshd meanwhile",
            Self::Unread => {
                "look at the disk of the state (dmesg), then stop refreshd and restore the state from a backup or another disk: \
                 the current tokens are published meanwhile"
            }
            Self::Unsaved(_) => {
                "do not stop or kill refreshd; free space or repair the disk of the state; it is retried by itself"
            }
            Self::UnsavedButKept(_) => {
                "free space or repair the disk of the state; it is retried by itself, also after a restart of refreshd; do not \
                 reboot the machine before"
            }
            Self::Unpublished(_) => Self::UNPUBLISHED,
            Self::Unremoved(_) => Self::UNREMOVED,
        }
    }
}

/// What is wrong now.
#[derive(Default)]
pub struct Conditions {
    known: Mutex<ActiveConditions>,
    /// Wakes the alerter.
    pub changed: Notify,
}

/// Who reads the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadBy {
    /// Whoever writes the token files.
    Publisher,
    /// Whoever looks for incidents.
    Alerter,
    /// Anybody else, who met damage.
    Others,
}

#[derive(Default)]
struct ActiveConditions {
    /// Who cannot read the state.
    blind: BTreeSet<ReadBy>,
    lasting: BTreeMap<String, ActiveCondition>,
    /// What the end of each was.
    ended: BTreeMap<String, &'static str>,
}

struct ActiveCondition {
    word: &'static str,
    portal: Option<PortalName>,
    reason: String,
    action: &'static str,
    /// Known once the alerter has seen it: those who notice have no clock.
    since: Option<Timestamp>,
}

impl Conditions {
    /// It is wrong from now on.
    pub fn begin(&self, what: Condition<'_>, reason: String) {
        say(
            what,
            what.word(),
            Severity::Critical,
            &reason,
            what.action(),
        );
        self.begin_unsaid(what, reason);
    }

    /// The same for the alerter alone: whoever notices says it, with what else it noticed.
    pub fn begin_unsaid(&self, what: Condition<'_>, reason: String) {
        let lasting = ActiveCondition {
            word: what.word(),
            portal: what.portal().cloned(),
            reason,
            action: what.action(),
            since: None,
        };
        self.known().lasting.insert(what.key(), lasting);
        self.changed.notify_one();
    }

    /// Notes whether one of those who read the state could do so; it is wrong while one of them cannot.
    pub fn reads(&self, who: ReadBy, read: Result<(), &StateError>) {
        let (was, is) = {
            let mut known = self.known();
            let was = !known.blind.is_empty();
            match read {
                Ok(()) => drop(known.blind.remove(&who)),
                // The daemon ends, and nobody reads.
                Err(StateError::Stopped) => {}
                Err(_) => drop(known.blind.insert(who)),
            }
            (was, !known.blind.is_empty())
        };
        match (was, is, read) {
            (false, true, Err(error)) => {
                let reason = format!(
                    "the state cannot be read, though it may still be written: {}",
                    error_chain(error)
                );
                self.begin(Condition::Unread, reason);
            }
            (true, false, _) => self.end(Condition::Unread, "the state is read again"),
            _ => {}
        }
    }

    /// Whether this one could not read the state.
    pub fn is_blind(&self, who: ReadBy) -> bool {
        self.known().blind.contains(&who)
    }

    /// Whether it is wrong now.
    pub fn is_active(&self, what: Condition<'_>) -> bool {
        self.known().lasting.contains_key(&what.key())
    }

    /// Why it is wrong now; `None` if it is not.
    pub fn reason(&self, what: Condition<'_>) -> Option<String> {
        self.known()
            .lasting
            .get(&what.key())
            .map(|lasting| lasting.reason.clone())
    }

    /// Of how many portals token files that are to go cannot be removed.
    pub fn count_unremoved(&self) -> u64 {
        let known = self.known();
        let unremoved = known
            .lasting
            .values()
            .filter(|lasting| lasting.word == "unremoved");
        unremoved.count() as u64
    }

    /// It is well again, if it was wrong.
    pub fn end_any(&self, what: Condition<'_>, reason: &'static str) {
        if self.is_active(what) {
            self.end(what, reason);
        }
    }

    /// It is well again.
    pub fn end(&self, what: Condition<'_>, reason: &'static str) {
        say(what, "resolved", Severity::Notice, reason, "none");
        self.end_unsaid(what, reason);
    }

    /// The same for the alerter alone.
    pub fn end_unsaid(&self, what: Condition<'_>, reason: &'static str) {
        let key = what.key();
        let mut known = self.known();
        known.lasting.remove(&key);
        if known.ended.len() < REMEMBERED {
            known.ended.insert(key, reason);
        }
        drop(known);
        self.changed.notify_one();
    }

    /// What is wrong, as troubles.
    pub fn findings(&self, ladder: &[Step], now: Timestamp) -> Vec<Finding> {
        let trouble = |(key, lasting): (&String, &mut ActiveCondition)| {
            let ActiveCondition {
                word,
                portal,
                reason,
                action,
                since,
            } = lasting;
            let since = *since.get_or_insert(now);
            Finding {
                key: key.clone(),
                group: portal.as_ref().map(|_| daemon_group(word)),
                reached: vec![person_step(ladder, word)],
                reason: reason.clone(),
                action: (*action).to_owned(),
                action_for_all: (*action).to_owned(),
                since: since.min(now),
                ..blank(portal.as_ref(), now)
            }
        };
        self.known().lasting.iter_mut().map(trouble).collect()
    }

    /// How it ended, if it ended while this process ran. Told once.
    pub fn ending(&self, key: &str) -> Option<&'static str> {
        self.known().ended.remove(key)
    }

    fn known(&self) -> MutexGuard<'_, ActiveConditions> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(what: Condition<'_>, step: &str, severity: Severity, reason: &str, action: &str) {
    let announcement = EscalationNotice {
        step: step.to_owned(),
        severity,
        reason: reason.to_owned(),
        action: action.to_owned(),
        remaining: None,
    };
    log_escalation(
        what.portal()
            .map_or(EscalationSubject::Daemon, EscalationSubject::Portal),
        &announcement,
    );
}
