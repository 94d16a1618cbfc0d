//! Portals whose token files cannot be written, and what the log says of them: one line for each cause with a count and a
//! few names, at most one a minute while it lasts, and one when it is over.
//!
//! The incidents are each portal's own; the alerter folds them. Must not write files, nor wait for anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use crate::adapters::token_files::FileError;
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::alerts::{Condition, Conditions};
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::EscalationNotice;
use crate::domain::name::PortalName;
use refreshd_alerting::Severity;
use refreshd_time::clock::{Clock, Tick};

/// Between two lines about one cause.
const PAUSE: Duration = Duration::from_secs(60);
/// Names in a line.
const NAMED: usize = 5;
/// Causes that are told apart; what else there is counts as one.
const CAUSES: usize = 8;
const MANY_CAUSES: &str = "several causes";

/// The portals whose files fail.
pub(crate) struct FileFailures {
    clock: Clock,
    conditions: Arc<Conditions>,
    failing: BTreeSet<PortalName>,
    causes: BTreeMap<String, FailureCause>,
    /// Portals that have failed since all were well, and the first of them.
    concerned: u64,
    first: Option<PortalName>,
    is_said: bool,
}

#[derive(Default)]
struct FailureCause {
    said_at: Option<Tick>,
    /// Since the last line: how many portals, the first of them, and why the first.
    count: u64,
    names: Vec<PortalName>,
    why: String,
}

impl FileFailures {
    pub(crate) fn new(clock: Clock, conditions: Arc<Conditions>) -> Self {
        Self {
            clock,
            conditions,
            failing: BTreeSet::new(),
            causes: BTreeMap::new(),
            concerned: 0,
            first: None,
            is_said: false,
        }
    }

    /// The portals whose files fail now.
    pub(crate) const fn failing(&self) -> &BTreeSet<PortalName> {
        &self.failing
    }

    /// At the end: says whose files are not as they should be.
    pub(crate) fn say_left(&self) {
        if self.failing.is_empty() {
            return;
        }
        let mut names: Vec<_> = self.failing.iter().map(PortalName::as_str).collect();
        let count = names.len();
        names.truncate(NAMED);
        if count > NAMED {
            names.push("…");
        }
        let of = if count == 1 { "portal" } else { "portals" };
        tracing::error!(
            "the token files of {count} {of} are not written ({}); the state has the tokens, and the next start writes them",
            names.join(", ")
        );
    }

    /// Notes whether a portal's files could be written. Nothing is said before [`Self::say`].
    pub(crate) fn note(&mut self, portal: &PortalName, done: Result<(), FileError>) {
        match done {
            Ok(()) => {
                if self.failing.remove(portal) {
                    self.conditions
                        .end_unsaid(Condition::Unpublished(portal), WRITTEN);
                }
            }
            Err(error) => {
                if self.failing.insert(portal.clone()) {
                    let why = format!("readers do not get the new token: {}", error_chain(&error));
                    self.conditions
                        .begin_unsaid(Condition::Unpublished(portal), why.clone());
                    self.count(portal, &error, why);
                }
            }
        }
    }

    fn count(&mut self, portal: &PortalName, error: &FileError, why: String) {
        self.concerned += 1;
        self.first.get_or_insert_with(|| portal.clone());
        let root = root(error);
        let known = self.causes.contains_key(&root) || self.causes.len() < CAUSES;
        let cause = self
            .causes
            .entry(if known { root } else { MANY_CAUSES.to_owned() })
            .or_default();
        cause.count += 1;
        if cause.names.len() < NAMED {
            cause.names.push(portal.clone());
        }
        if cause.count == 1 {
            cause.why = why;
        }
    }

    /// Says what is new, where the pause is over; and that it is over, if it is.
    pub(crate) fn say(&mut self) {
        for (root, cause) in &mut self.causes {
            let pauses = cause
                .said_at
                .is_some_and(|at| self.clock.elapsed(at) < PAUSE);
            if cause.count == 0 || pauses {
                continue;
            }
            cause.said_at = Some(self.clock.tick());
            let FailureCause {
                count, names, why, ..
            } = cause;
            let names = std::mem::take(names);
            match (std::mem::take(count), names.as_slice()) {
                (1, [portal]) => say(
                    EscalationSubject::Portal(portal),
                    "unpublished",
                    std::mem::take(why),
                ),
                (count, names) => {
                    let mut shown: Vec<_> = names.iter().map(PortalName::as_str).collect();
                    if count > shown.len() as u64 {
                        shown.push("…");
                    }
                    let names = shown.join(", ");
                    let reason = format!(
                        "readers of {count} portals do not get the new tokens ({names}): {root}"
                    );
                    say(EscalationSubject::Daemon, "unpublished", reason);
                }
            }
            self.is_said = true;
        }
        if !self.failing.is_empty() || self.concerned == 0 {
            return;
        }
        match (self.is_said, self.concerned, &self.first) {
            (false, ..) => {}
            (true, 1, Some(portal)) => say(
                EscalationSubject::Portal(portal),
                RESOLVED,
                WRITTEN.to_owned(),
            ),
            (true, count, _) => {
                say(
                    EscalationSubject::Daemon,
                    RESOLVED,
                    format!("{WRITTEN}, those of all {count} portals"),
                );
            }
        }
        (self.concerned, self.first, self.is_said) = (0, None, false);
        self.causes.retain(|_, cause| cause.said_at.is_some());
        self.causes
            .values_mut()
            .for_each(|cause| (cause.count, cause.names) = (0, Vec::new()));
    }
}

const WRITTEN: &str = "the token files are written again";
const RESOLVED: &str = "resolved";

fn say(subject: EscalationSubject<'_>, step: &str, reason: String) {
    let over = step == RESOLVED;
    let announcement = EscalationNotice {
        step: step.to_owned(),
        severity: if over {
            Severity::Notice
        } else {
            Severity::Critical
        },
        reason,
        action: if over { "none" } else { Condition::UNPUBLISHED }.to_owned(),
        remaining: None,
    };
    log_escalation(subject, &announcement);
}

/// The cause without any path, which is each portal's own, also where a library has put it into the error.
fn root(error: &FileError) -> String {
    let mut kind = None;
    let mut next = error.source();
    while let Some(error) = next {
        kind = error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
            .or(kind);
        next = error.source();
    }
    kind.map_or_else(
        || "they cannot be written".to_owned(),
        |kind| kind.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};
    use std::path::Path;
    use std::sync::Mutex;

    fn names(count: usize) -> Vec<PortalName> {
        (0..count)
            .map(|n| PortalName::parse(&format!("p{n:06}")).unwrap())
            .collect()
    }

    fn fails(portal: &PortalName) -> Result<(), FileError> {
        let path = format!("/tokens/{portal}/token.json");
        // As of a library that names the path itself.
        let error = Error::new(ErrorKind::StorageFull, format!("no space at {path}"));
        Err(FileError::at("write", Path::new(&path))(error))
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that are logged meanwhile.
    fn lines(work: impl FnOnce()) -> Vec<String> {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_full_directory_is_one_line_however_many_portals_there_are() {
        let mut unpublished = FileFailures::new(Clock::system(), Arc::default());
        let portals = names(20_000);
        let said = lines(|| {
            portals
                .iter()
                .for_each(|portal| unpublished.note(portal, fails(portal)));
            unpublished.say();
            // Others in the same minute wait.
            let late = PortalName::parse("late").unwrap();
            unpublished.note(&late, fails(&late));
            unpublished.say();
        });
        let [line] = said.as_slice() else {
            panic!("{} lines", said.len())
        };
        assert!(
            line.contains("readers of 20000 portals") && line.contains("p000000, p000001"),
            "{line}"
        );
        assert!(line.len() < 600 && line.contains('…'), "{line}");
        assert_eq!(unpublished.failing().len(), 20_001);
        let said = lines(|| {
            let failing = unpublished.failing().clone();
            failing
                .iter()
                .for_each(|portal| unpublished.note(portal, Ok(())));
            unpublished.say();
            unpublished.say();
        });
        let [line] = said.as_slice() else {
            panic!("{} lines", said.len())
        };
        assert!(line.contains("those of all 20001 portals"), "{line}");
    }

    #[test]
    fn one_portal_is_named_and_its_end_is_said() {
        let mut unpublished = FileFailures::new(Clock::system(), Arc::default());
        let acme = PortalName::parse("acme").unwrap();
        let said = lines(|| {
            unpublished.note(&acme, fails(&acme));
            unpublished.say();
            unpublished.note(&acme, Ok(()));
            unpublished.say();
        });
        let [begin, end] = said.as_slice() else {
            panic!("{said:?}")
        };
        assert!(
            begin.contains("acme: readers do not get the new token")
                && begin.contains("/tokens/acme"),
            "{begin}"
        );
        assert!(
            end.contains("acme: the token files are written again"),
            "{end}"
        );
    }
}
