//! Portals whose token files cannot be written or removed, and their log: one line for each cause with a count and a few
//! names, at most one a minute while it lasts, and one when it is resolved.
//!
//! The incidents are each portal's own; the alerter groups them. Must not write files, nor block.

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

/// Minimum interval between two lines about one cause.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of names in a line.
const MAX_NAMES: usize = 5;
/// Maximum number of distinct causes; all others are counted as one.
const MAX_CAUSES: usize = 8;
const MANY_CAUSES: &str = "several causes";

/// Task for a portal's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileTask {
    /// Write the newest token.
    Write,
    /// Remove the files.
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
            Self::Write => Condition::UNPUBLISHED,
            Self::Remove => Condition::UNREMOVED,
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

    /// Consequence if the files remain so at the end.
    const fn left(self) -> &'static str {
        match self {
            Self::Write => "not written: the state has the tokens, and the next start writes them",
            Self::Remove => {
                "not removed, and tokens in them may work until they expire: remove them"
            }
        }
    }
}

/// Portals with failing files.
pub(crate) struct FileFailures {
    clock: Clock,
    conditions: Arc<Conditions>,
    failing: BTreeMap<PortalName, FileTask>,
    causes: BTreeMap<(FileTask, String), FailureCause>,
    /// Number of portals that have failed since the last time without failures, and the first of them.
    concerned: u64,
    first: Option<(FileTask, PortalName)>,
    is_logged: bool,
}

#[derive(Default)]
struct FailureCause {
    logged_at: Option<Tick>,
    /// Since the last line: number of portals, the first names, and the error of the first.
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
            is_logged: false,
        }
    }

    /// Portals with failing files.
    pub(crate) const fn failing(&self) -> &BTreeMap<PortalName, FileTask> {
        &self.failing
    }

    /// Logs at the end of the process the portals whose files are not up to date.
    pub(crate) fn log_remaining(&self) {
        for task in [FileTask::Write, FileTask::Remove] {
            let left = self.failing.iter().filter(|(_, failing)| **failing == task);
            let mut names: Vec<_> = left.map(|(portal, _)| portal.as_str()).collect();
            let count = names.len();
            if count == 0 {
                continue;
            }
            names.truncate(MAX_NAMES);
            if count > MAX_NAMES {
                names.push("…");
            }
            let of = if count == 1 { "portal" } else { "portals" };
            let (names, left) = (names.join(", "), task.left());
            tracing::error!("the token files of {count} {of} ({names}) are {left}");
        }
    }

    /// Records the result of a task. Nothing is logged before [`Self::log`].
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
        let known = self.causes.contains_key(&root) || self.causes.len() < MAX_CAUSES;
        let cause = self
            .causes
            .entry(if known {
                root
            } else {
                (task, MANY_CAUSES.to_owned())
            })
            .or_default();
        cause.count += 1;
        if cause.names.len() < MAX_NAMES {
            cause.names.push(portal.clone());
        }
        if cause.count == 1 {
            cause.why = why;
        }
    }

    /// Logs new failures, if the interval has elapsed, and the end of all failures.
    pub(crate) fn log(&mut self) {
        for ((task, root), cause) in &mut self.causes {
            let pauses = cause
                .logged_at
                .is_some_and(|at| self.clock.elapsed(at) < LOG_INTERVAL);
            if cause.count == 0 || pauses {
                continue;
            }
            cause.logged_at = Some(self.clock.tick());
            let FailureCause {
                count, names, why, ..
            } = cause;
            let names = std::mem::take(names);
            match (std::mem::take(count), names.as_slice()) {
                (1, [portal]) => log(
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
                    log(EscalationSubject::Daemon, Some(*task), reason);
                }
            }
            self.is_logged = true;
        }
        if !self.failing.is_empty() || self.concerned == 0 {
            return;
        }
        match (self.is_logged, self.concerned, &self.first) {
            (false, ..) => {}
            (true, 1, Some((task, portal))) => log(
                EscalationSubject::Portal(portal),
                None,
                task.done().to_owned(),
            ),
            (true, count, first) => {
                let done = first
                    .as_ref()
                    .map_or(FileTask::Write, |(task, _)| *task)
                    .done();
                log(
                    EscalationSubject::Daemon,
                    None,
                    format!("{done}, those of all {count} portals"),
                );
            }
        }
        (self.concerned, self.first, self.is_logged) = (0, None, false);
        self.causes.retain(|_, cause| cause.logged_at.is_some());
        self.causes
            .values_mut()
            .for_each(|cause| (cause.count, cause.names) = (0, Vec::new()));
    }
}

/// Logs a failure, or the end of all failures.
fn log(subject: EscalationSubject<'_>, failing: Option<FileTask>, reason: String) {
    let (step, action) = failing.map_or(("resolved", "none"), FileTask::step);
    let severity = failing.map_or(Severity::Notice, |_| Severity::Critical);
    let notice = EscalationNotice {
        step: step.to_owned(),
        severity,
        reason,
        action: action.to_owned(),
        remaining: None,
    };
    log_escalation(subject, &notice);
}

/// Cause without paths, which differ for each portal; a library may have put one into the error.
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
        // Like the error of a library that includes the path.
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

    /// The lines that `work` logs.
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
        let logged = lines(|| {
            portals
                .iter()
                .for_each(|portal| unpublished.note(portal, FileTask::Write, fails(portal)));
            unpublished.log();
            // Further failures in the same minute wait.
            let late = PortalName::parse("late").unwrap();
            unpublished.note(&late, FileTask::Write, fails(&late));
            unpublished.log();
        });
        let [line] = logged.as_slice() else {
            panic!("{} lines", logged.len())
        };
        assert!(
            line.contains("readers of 20000 portals") && line.contains("p000000, p000001"),
            "{line}"
        );
        assert!(line.len() < 600 && line.contains('…'), "{line}");
        assert_eq!(unpublished.failing().len(), 20_001);
        let logged = lines(|| {
            let failing = unpublished.failing().clone();
            failing
                .keys()
                .for_each(|portal| unpublished.note(portal, FileTask::Write, Ok(())));
            unpublished.log();
            unpublished.log();
        });
        let [line] = logged.as_slice() else {
            panic!("{} lines", logged.len())
        };
        assert!(line.contains("those of all 20001 portals"), "{line}");
    }

    #[test]
    fn one_portal_is_named_and_its_end_is_said() {
        let mut unpublished = FileFailures::new(Clock::system(), Arc::default());
        let acme = PortalName::parse("acme").unwrap();
        let logged = lines(|| {
            unpublished.note(&acme, FileTask::Write, fails(&acme));
            unpublished.log();
            unpublished.note(&acme, FileTask::Write, Ok(()));
            unpublished.log();
        });
        let [begin, end] = logged.as_slice() else {
            panic!("{logged:?}")
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
