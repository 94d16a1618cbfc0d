//! Registry of the conditions of this machine, as the parts of the daemon detect them: begun, ended. Each change is logged
//! at once, since the state may be what fails; the alerter collects the conditions here.
//!
//! Must not block: a renewal under way and the publisher's thread call it.

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

/// Limit of remembered end reasons. Further conditions, as after an hour without a token directory, end without a reason.
const MAX_END_REASONS: usize = 1000;

/// A fault of this machine.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'a> {
    /// The state cannot be written.
    State,
    /// The state's files were removed, moved or replaced.
    Displaced,
    /// The state cannot be read.
    Unread,
    /// The state lacks the grants of portals that had one.
    Lost,
    /// The configuration may be incomplete; token files of omitted portals are kept.
    Incomplete,
    /// A portal's new pair is not on disk.
    Unsaved(&'a PortalName),
    /// A portal's new pair is not on disk, but the service manager has a copy of it.
    UnsavedButKept(&'a PortalName),
    /// A portal's token files cannot be written.
    Unpublished(&'a PortalName),
    /// Obsolete token files cannot be removed.
    Unremoved(&'a PortalName),
}

impl Condition<'_> {
    /// Word and recommended action when token files cannot be written.
    pub const UNPUBLISHED: (&'static str, &'static str) = (
        "unpublished",
        "make the token directory writable for refreshd, or free space; it is retried by itself",
    );

    /// Word and recommended action when token files cannot be removed.
    pub const UNREMOVED: (&'static str, &'static str) = (
        "unremoved",
        "make the token directory writable for refreshd, which tries again by itself, or remove the files: tokens in them may work \
         until they expire",
    );

    const fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Displaced => "state-displaced",
            Self::Unread => "state-unread",
            Self::Lost => "old-state",
            Self::Incomplete => "configuration-incomplete",
            Self::Unsaved(_) | Self::UnsavedButKept(_) => "unsaved",
            Self::Unpublished(_) => Self::UNPUBLISHED.0,
            Self::Unremoved(_) => Self::UNREMOVED.0,
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

    /// Key of the incident.
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
            Self::Displaced => {
                "follow the instructions in the reason, and do not kill refreshd meanwhile"
            }
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
            Self::Unpublished(_) => Self::UNPUBLISHED.1,
            Self::Unremoved(_) => Self::UNREMOVED.1,
        }
    }
}

/// The active conditions.
#[derive(Default)]
pub struct Conditions {
    known: Mutex<ActiveConditions>,
    /// Wakes the alerter.
    pub changed: Notify,
}

/// Component that reads the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateReader {
    /// The publisher of the token files.
    Publisher,
    /// The alerter.
    Alerter,
    /// Any other component that met damage.
    Others,
}

#[derive(Default)]
struct ActiveConditions {
    /// Components that cannot read the state.
    failing_readers: BTreeSet<StateReader>,
    active: BTreeMap<String, ActiveCondition>,
    /// Reason of each end, until the alerter collects it.
    ended: BTreeMap<String, &'static str>,
}

struct ActiveCondition {
    word: &'static str,
    portal: Option<PortalName>,
    reason: String,
    action: &'static str,
    /// Set by the alerter: the components that detect conditions have no clock.
    since: Option<Timestamp>,
}

impl Conditions {
    /// Begins a condition and logs it.
    pub fn begin(&self, what: Condition<'_>, reason: String) {
        log(
            what,
            what.word(),
            Severity::Critical,
            &reason,
            what.action(),
        );
        self.begin_unlogged(what, reason);
    }

    /// Begins a condition without logging it: the caller logs it together with what else it found.
    pub fn begin_unlogged(&self, what: Condition<'_>, reason: String) {
        let active = ActiveCondition {
            word: what.word(),
            portal: what.portal().cloned(),
            reason,
            action: what.action(),
            since: None,
        };
        self.known().active.insert(what.key(), active);
        self.changed.notify_one();
    }

    /// Records whether a component could read the state. The condition `Unread` lasts while one of them cannot.
    pub fn reads(&self, reader: StateReader, read: Result<(), &StateError>) {
        let (was, is) = {
            let mut known = self.known();
            let was = !known.failing_readers.is_empty();
            match read {
                Ok(()) => drop(known.failing_readers.remove(&reader)),
                // The daemon is shutting down.
                Err(StateError::Stopped) => {}
                Err(_) => drop(known.failing_readers.insert(reader)),
            }
            (was, !known.failing_readers.is_empty())
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

    /// Returns whether this component cannot read the state.
    pub fn cannot_read(&self, reader: StateReader) -> bool {
        self.known().failing_readers.contains(&reader)
    }

    /// Returns whether the condition is active.
    pub fn is_active(&self, what: Condition<'_>) -> bool {
        self.known().active.contains_key(&what.key())
    }

    /// Reason of an active condition.
    pub fn reason(&self, what: Condition<'_>) -> Option<String> {
        self.known()
            .active
            .get(&what.key())
            .map(|active| active.reason.clone())
    }

    /// Number of portals whose obsolete token files cannot be removed.
    pub fn count_unremoved(&self) -> u64 {
        let known = self.known();
        let unremoved = known
            .active
            .values()
            .filter(|active| active.word == "unremoved");
        unremoved.count() as u64
    }

    /// Ends a condition if it is active.
    pub fn end_any(&self, what: Condition<'_>, reason: &'static str) {
        if self.is_active(what) {
            self.end(what, reason);
        }
    }

    /// Ends a condition and logs it.
    pub fn end(&self, what: Condition<'_>, reason: &'static str) {
        log(what, "resolved", Severity::Notice, reason, "none");
        self.end_unlogged(what, reason);
    }

    /// Ends a condition without logging it.
    pub fn end_unlogged(&self, what: Condition<'_>, reason: &'static str) {
        let key = what.key();
        let mut known = self.known();
        known.active.remove(&key);
        if known.ended.len() < MAX_END_REASONS {
            known.ended.insert(key, reason);
        }
        drop(known);
        self.changed.notify_one();
    }

    /// Active conditions as findings.
    pub fn findings(&self, ladder: &[Step], now: Timestamp) -> Vec<Finding> {
        let finding = |(key, active): (&String, &mut ActiveCondition)| {
            let ActiveCondition {
                word,
                portal,
                reason,
                action,
                since,
            } = active;
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
        self.known().active.iter_mut().map(finding).collect()
    }

    /// Reason why a condition ended, if it ended while this process ran. Returned once.
    pub fn ending(&self, key: &str) -> Option<&'static str> {
        self.known().ended.remove(key)
    }

    fn known(&self) -> MutexGuard<'_, ActiveConditions> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(what: Condition<'_>, step: &str, severity: Severity, reason: &str, action: &str) {
    let notice = EscalationNotice {
        step: step.to_owned(),
        severity,
        reason: reason.to_owned(),
        action: action.to_owned(),
        remaining: None,
    };
    log_escalation(
        what.portal()
            .map_or(EscalationSubject::Daemon, EscalationSubject::Portal),
        &notice,
    );
}
