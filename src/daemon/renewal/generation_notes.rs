//! Writes generations to the record beside the state, on a thread of its own: a record that hangs delays no publication.
//!
//! Unwritten generations are kept for each portal, the newest only. Must not block longer than [`WRITE_WAIT`].

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::adapters::generations::Generations;
use crate::adapters::token_files::FileError;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;
use refreshd_time::clock::{Clock, Tick};
use refreshd_token_client::token::Generation;

/// Wait for a write: as long as a working disk may need, so that the file reflects what was published.
const WRITE_WAIT: Duration = Duration::from_millis(100);
/// Time after which a write counts as hanging, which is logged.
const HANG_AFTER: Duration = Duration::from_secs(5);
/// Wait for a write at the end of the process.
const FINAL_WAIT: Duration = Duration::from_secs(2);

/// The newest generations; `None`: the grant was removed.
type Notes = BTreeMap<PortalName, Option<Generation>>;

/// Job for the record.
enum NoteJob {
    /// Append these.
    Note(Notes),
    /// Check that the file is still at its path.
    Check,
    /// Rewrite the file, with these and its former content.
    Rewrite(Notes),
}

/// Result of a job.
enum NoteResult {
    Noted(Result<(), FileError>),
    /// How the file was changed by another program, if it was.
    Checked(Option<&'static str>),
    Rewritten(Result<(), FileError>),
}

/// Pending generations.
pub(crate) struct GenerationNotes {
    clock: Clock,
    waiting: Notes,
    is_check_due: bool,
    /// How another program changed the file, until it is rewritten.
    displaced: Option<&'static str>,
    rewrite: Option<Notes>,
    executor: NoteExecutor,
    is_logged: bool,
}

enum NoteExecutor {
    InPlace(Box<Generations>),
    Thread {
        jobs: Sender<NoteJob>,
        done: Receiver<NoteResult>,
        busy_since: Option<Tick>,
    },
}

/// The thread's part.
pub(crate) struct GenerationNotesThread {
    generations: Generations,
    jobs: Receiver<NoteJob>,
    done: Sender<NoteResult>,
}

impl GenerationNotes {
    /// With a thread, which the caller must run; it ends when this is dropped.
    pub(crate) fn with_thread(
        generations: Generations,
        clock: Clock,
    ) -> (Self, GenerationNotesThread) {
        let (jobs, taken) = mpsc::channel();
        let (done, dones) = mpsc::channel();
        let executor = NoteExecutor::Thread {
            jobs,
            done: dones,
            busy_since: None,
        };
        let thread = GenerationNotesThread {
            generations,
            jobs: taken,
            done,
        };
        (Self::by(executor, clock), thread)
    }

    /// On the caller's thread: for a simulation.
    pub(crate) fn in_place(generations: Generations, clock: Clock) -> Self {
        Self::by(NoteExecutor::InPlace(Box::new(generations)), clock)
    }

    const fn by(executor: NoteExecutor, clock: Clock) -> Self {
        Self {
            clock,
            waiting: Notes::new(),
            is_check_due: false,
            displaced: None,
            rewrite: None,
            executor,
            is_logged: false,
        }
    }

    /// Writes a generation as soon as the record is available.
    pub(crate) fn note(&mut self, portal: &PortalName, generation: Option<Generation>) {
        self.waiting.insert(portal.clone(), generation);
        self.submit(WRITE_WAIT);
    }

    /// Submits pending jobs, if the record is available again; logs if it hangs.
    pub(crate) fn tend(&mut self) {
        self.submit(Duration::ZERO);
    }

    /// Checks that the record is still at its path.
    pub(crate) fn check(&mut self) {
        self.is_check_due = true;
        self.submit(WRITE_WAIT);
    }

    /// Whether another program removed or replaced the record; until [`Self::rewrite`].
    pub(crate) const fn is_displaced(&self) -> bool {
        self.displaced.is_some()
    }

    /// Rewrites the record, keeping its lines of other portals.
    pub(crate) fn rewrite(&mut self, all: BTreeMap<PortalName, Option<Generation>>) {
        self.rewrite = Some(all);
        self.submit(WRITE_WAIT);
    }

    /// Waits for pending writes at the end of the process.
    pub(crate) fn finish(&mut self) {
        // The job in progress, and the pending ones.
        self.submit(FINAL_WAIT);
        self.submit(FINAL_WAIT);
        if !self.waiting.is_empty() || self.is_busy() {
            self.log("it hangs, and the last ones are not in it");
        }
    }

    const fn is_busy(&self) -> bool {
        matches!(
            self.executor,
            NoteExecutor::Thread {
                busy_since: Some(_),
                ..
            }
        )
    }

    /// The next job.
    fn next(&mut self) -> Option<NoteJob> {
        if let Some(all) = self.rewrite.take() {
            return Some(NoteJob::Rewrite(all));
        }
        if std::mem::take(&mut self.is_check_due) {
            return Some(NoteJob::Check);
        }
        let waiting = std::mem::take(&mut self.waiting);
        (!waiting.is_empty()).then_some(NoteJob::Note(waiting))
    }

    /// Submits pending jobs once the thread has finished the one before, and waits up to `timeout` for each result.
    fn submit(&mut self, timeout: Duration) {
        // A record that hangs must not delay each publication again.
        let mut timeout = if self.is_busy() && timeout <= WRITE_WAIT {
            Duration::ZERO
        } else {
            timeout
        };
        loop {
            if let NoteExecutor::Thread {
                done,
                busy_since: Some(since),
                ..
            } = &self.executor
            {
                match done.recv_timeout(timeout) {
                    Ok(answer) => self.apply(answer),
                    Err(RecvTimeoutError::Timeout) => {
                        if self.clock.elapsed(*since) >= HANG_AFTER {
                            self.log("its disk hangs");
                        }
                        return;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                timeout = timeout.max(WRITE_WAIT);
            }
            let Some(job) = self.next() else { return };
            let tick = self.clock.tick();
            match &mut self.executor {
                NoteExecutor::InPlace(generations) => {
                    let answer = execute(generations, job);
                    self.apply(answer);
                }
                NoteExecutor::Thread {
                    jobs, busy_since, ..
                } => {
                    if jobs.send(job).is_err() {
                        return;
                    }
                    *busy_since = Some(tick);
                }
            }
        }
    }

    fn apply(&mut self, answer: NoteResult) {
        if let NoteExecutor::Thread { busy_since, .. } = &mut self.executor {
            *busy_since = None;
        }
        match answer {
            NoteResult::Noted(Ok(())) => self.is_logged = false,
            NoteResult::Noted(Err(error)) => self.log(&error_chain(&error)),
            NoteResult::Checked(displaced) => self.displaced = displaced,
            NoteResult::Rewritten(written) => {
                let what = self.displaced.take().unwrap_or("removed");
                match written {
                    Ok(()) => tracing::warn!(
                        "the record of generations beside the state was {what} by another program, and is written anew; by it a lost state is \
                         noticed: find out who removes files there"
                    ),
                    Err(error) if !std::mem::replace(&mut self.is_logged, true) => tracing::warn!(
                        error = %error_chain(&error),
                        "the record of generations beside the state was {what} by another program, and cannot be written anew: an old state may \
                         not be noticed"
                    ),
                    Err(_) => {}
                }
            }
        }
    }

    /// Logs a failure once, until a write succeeds again.
    fn log(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_logged, true) {
            tracing::warn!(
                error = why,
                "an old state may not be noticed: its generations are not noted"
            );
        }
    }
}

impl GenerationNotesThread {
    /// Serves until the last sender is dropped.
    pub(crate) fn run(mut self) {
        while let Ok(job) = self.jobs.recv() {
            let answer = execute(&mut self.generations, job);
            if self.done.send(answer).is_err() {
                return;
            }
        }
    }
}

fn execute(generations: &mut Generations, job: NoteJob) -> NoteResult {
    match job {
        NoteJob::Note(notes) => NoteResult::Noted(record(generations, notes)),
        NoteJob::Check => NoteResult::Checked(generations.displaced()),
        NoteJob::Rewrite(all) => {
            // The file may be the record of a volume that was mounted: its lines are traces too.
            let there = generations.read();
            let mut noted = generations.read_open();
            for (name, newest) in there {
                if !matches!(all.get(&name), Some(None)) {
                    let known = noted.entry(name).or_insert(newest);
                    *known = newest.max(*known);
                }
            }
            for (name, newest) in all {
                match newest {
                    Some(newest) => {
                        let known = noted.entry(name).or_insert(newest);
                        *known = newest.max(*known);
                    }
                    None => drop(noted.remove(&name)),
                }
            }
            NoteResult::Rewritten(generations.replace(&noted))
        }
    }
}

/// Writes each; returns the last failure, if any.
fn record(generations: &mut Generations, notes: Notes) -> Result<(), FileError> {
    let mut done = Ok(());
    for (name, generation) in notes {
        // A failure does not prevent the other writes.
        done = generations.record(&name, generation).and(done);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::token_files::write_whole;

    #[test]
    fn a_record_that_was_put_in_place_keeps_its_lines_as_it_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.db");
        let [acme, beta, gone] =
            ["acme", "beta", "gone"].map(|name| PortalName::parse(name).unwrap());
        let mut notes = GenerationNotes::in_place(Generations::beside(&state), Clock::system());
        notes.note(&acme, Some(Generation(3)));
        notes.note(&gone, Some(Generation(9)));
        notes.check();
        assert!(!notes.is_displaced());
        let mounted = folder.path().join("mounted.db");
        let mut others = GenerationNotes::in_place(Generations::beside(&mounted), Clock::system());
        for (name, number) in [(&acme, 2), (&beta, 7), (&gone, 8)] {
            others.note(name, Some(Generation(number)));
        }
        let record = std::fs::read(folder.path().join("mounted.db.generations")).unwrap();
        let path = folder.path().join("state.db.generations");
        write_whole(folder.path(), &path, &record, 0o600).unwrap();
        notes.check();
        assert!(notes.is_displaced());
        notes.rewrite([(acme.clone(), Some(Generation(3))), (gone, None)].into());
        let noted = Generations::beside(&state).read();
        assert_eq!(noted, [(acme, Generation(3)), (beta, Generation(7))].into());
        notes.check();
        assert!(!notes.is_displaced());
    }

    #[test]
    fn a_record_that_hangs_is_not_waited_for_and_misses_nothing_once_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.db");
        let acme = PortalName::parse("acme").unwrap();
        let beta = PortalName::parse("beta").unwrap();
        // Until the thread runs, it behaves like one that hangs.
        let (mut notes, thread) =
            GenerationNotes::with_thread(Generations::beside(&state), Clock::system());
        for number in 1..=500 {
            notes.note(&acme, Some(Generation(number)));
        }
        notes.note(&beta, Some(Generation(7)));
        assert_eq!(notes.waiting.len(), 2, "the newest of each");
        assert!(Generations::beside(&state).read().is_empty());
        let thread = std::thread::Builder::new()
            .spawn(move || thread.run())
            .unwrap();
        notes.finish();
        drop(notes);
        thread.join().unwrap();
        let noted = Generations::beside(&state).read();
        assert_eq!(
            (noted.get(&acme), noted.get(&beta)),
            (Some(&Generation(500)), Some(&Generation(7)))
        );
    }
}
