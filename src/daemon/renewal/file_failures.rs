//! Portals whose token files cannot be written or removed, and what the log says of them: one line for each cause with a count and a
//! few names, at most one a minute while it lasts, and one when it is over.
//!
//! The incidents are each portal's own; the alerter folds them. Must not write files, nor wait for anybody.

use std::collections::BTreeMap;
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

/// What was to be done with a portal's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileTask {
    /// Readers are to have the newest token.
    Write,
    /// They are to have none any more.
    Remove,
}

impl FileTask {
    const fn condition(self, portal: &PortalName) -> Condition<'_> {
        match self {
            Self::Write => Condition::Unpublished(portal),
            Self::Remove => Condition::Unremoved(portal),
        }
    }

    const fn step(self) -> (&'static str, &'static str) {
        match self {
            Self::Write => ("unpublished", Condition::UNPUBLISHED),
            Self::Remove => ("unremoved", Condition::UNREMOVED),
        }
    }

    const fn of_one(self) -> &'static str {
        match self {
            Self::Write => "readers do not get the new token",
            Self::Remove => "token files that are to go are still there",
        }
    }

    fn of_many(self, count: u64) -> String {
        match self {
            Self::Write => format!("readers of {count} portals do not get the new tokens"),
            Self::Remove => {
                format!("token files of {count} portals that are to go are still there")
            }
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Write => "the token files are written again",
            Self::Remove => "the token files are removed",
        }
    }

    /// What it means that they are left so at the end.
    const fn left(self) -> &'static str {
        match self {
            Self::Write => "not written: the state has the tokens, and the next start writes them",
            Self::Remove => {
                "not removed, and tokens in them may work until they expire: remove them"
            }
        }
    }
}

/// The portals whose files fail.
pub(crate) struct FileFailures {
    clock: Clock,
    conditions: Arc<Conditions>,
    failing: BTreeMap<PortalName, FileTask>,
    causes: BTreeMap<(FileTask, String), FailureCause>,
    /// Portals that have failed since all were well, and the first of them.
    concerned: u64,
    first: Option<(FileTask, PortalName)>,
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
            failing: BTreeMap::new(),
            causes: BTreeMap::new(),
            concerned: 0,
            first: None,
            is_said: false,
        }
    }

    /// The portals whose files fail now.
    pub(crate) const fn failing(&self) -> &BTreeMap<PortalName, FileTask> {
        &self.failing
    }

    /// At the end: says whose files are not as they should be.
    pub(crate) fn say_left(&self) {
        for task in [FileTask::Write, FileTask::Remove] {
            let left = self.failing.iter().filter(|(_, failing)| **failing == task);
            let mut names: Vec<_> = left.map(|(portal, _)| portal.as_str()).collect();
            let count = names.len();
            if count == 0 {
                continue;
            }
            names.truncate(NAMED);
            if count > NAMED {
                names.push("…");
            }
            let of = if count == 1 { "portal" } else { "portals" };
            let (names, left) = (names.join(", "), task.left());
            tracing::error!("the token files of {count} {of} ({names}) are {left}");
        }
    }

    /// Notes whether it could be done with a portal's files. Nothing is said before [`Self::say`].
    pub(crate) fn note(
        &mut self,
        portal: &PortalName,
        task: FileTask,
        done: Result<(), FileError>,
    ) {
        match done {
            Ok(()) => {
                if let Some(failed) = self.failing.remove(portal) {
                    self.conditions
                        .end_unlogged(failed.condition(portal), task.done());
                }
            }
            Err(error) => {
                let failed = self.failing.insert(portal.clone(), task);
                if failed == Some(task) {
                    return;
                }
                if let Some(other) = failed {
                    self.conditions
                        .end_unlogged(other.condition(portal), task.of_one());
                }
                let why = format!("{}: {}", task.of_one(), error_chain(&error));
                self.conditions
                    .begin_unlogged(task.condition(portal), why.clone());
                self.count(portal, task, &error, why);
            }
        }
    }

    fn count(&mut self, portal: &PortalName, task: FileTask, error: &FileError, why: String) {
        self.concerned += 1;
        self.first.get_or_insert_with(|| (task, portal.clone()));
        let root = (task, root(error));
        let known = self.causes.contains_key(&root) || self.causes.len() < CAUSES;
        let cause = self
            .causes
            .entry(if known {
                root
            } else {
                (task, MANY_CAUSES.to_owned())
            })
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
        for ((task, root), cause) in &mut self.causes {
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
                    Some(*task),
                    std::mem::take(why),
                ),
                (count, names) => {
                    let mut shown: Vec<_> = names.iter().map(PortalName::as_str).collect();
                    if count > shown.len() as u64 {
                        shown.push("…");
                    }
                    let names = shown.join(", ");
                    let reason = format!("{} ({names}): {root}", task.of_many(count));
                    say(EscalationSubject::Daemon, Some(*task), reason);
                }
            }
            self.is_said = true;
        }
        if !self.failing.is_empty() || self.concerned == 0 {
            return;
        }
        match (self.is_said, self.concerned, &self.first) {
            (false, ..) => {}
            (true, 1, Some((task, portal))) => say(
                EscalationSubject::Portal(portal),
                None,
                task.done().to_owned(),
            ),
            (true, count, first) => {
                let done = first
                    .as_ref()
                    .map_or(FileTask::Write, |(task, _)| *task)
                    .done();
                say(
                    EscalationSubject::Daemon,
                    None,
                    format!("{done}, those of all {count} portals"),
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

/// What fails; or that nothing does any more.
fn say(subject: EscalationSubject<'_>, failing: Option<FileTask>, reason: String) {
    let (step, action) = failing.map_or(("resolved", "none"), FileTask::step);
    let severity = failing.map_or(Severity::Notice, |_| Severity::Critical);
    let announcement = EscalationNotice {
        step: step.to_owned(),
        severity,
        reason,
        action: action.to_owned(),
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
                .for_each(|portal| unpublished.note(portal, FileTask::Write, fails(portal)));
            unpublished.say();
            // Others in the same minute wait.
            let late = PortalName::parse("late").unwrap();
            unpublished.note(&late, FileTask::Write, fails(&late));
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
                .keys()
                .for_each(|portal| unpublished.note(portal, FileTask::Write, Ok(())));
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
            unpublished.note(&acme, FileTask::Write, fails(&acme));
            unpublished.say();
            unpublished.note(&acme, FileTask::Write, Ok(()));
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
