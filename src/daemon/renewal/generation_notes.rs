//! Notes generations in the record beside the state, on a thread of its own: a record that hangs holds up no publication.
//!
//! What is not noted yet is kept by portal, the newest alone. Must not be waited for longer than a moment.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::adapters::generations::Generations;
use crate::adapters::token_files::FileError;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;
use refreshd_time::clock::{Clock, Tick};
use refreshd_token_client::token::Generation;

/// How long a record is waited for: as long as one that works may take, so that the file says what was published.
const MOMENT: Duration = Duration::from_millis(100);
/// After this it hangs, and that is said.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for it.
const END: Duration = Duration::from_secs(2);

/// The newest generations, or that a grant is gone.
type Notes = BTreeMap<PortalName, Option<Generation>>;

/// What is done to the record.
enum Job {
    /// These are noted.
    Note(Notes),
    /// It is seen whether it is where it was.
    Check,
    /// It is written anew, with these and what else it held.
    Rewrite(Notes),
}

/// What came of it.
enum Answer {
    Noted(Result<(), FileError>),
    /// What somebody did to it, if anything.
    Checked(Option<&'static str>),
    Rewritten(Result<(), FileError>),
}

/// What is to be noted.
pub(crate) struct GenerationNotes {
    clock: Clock,
    waiting: Notes,
    is_check_due: bool,
    /// What somebody did to the record, until it is written anew.
    displaced: Option<&'static str>,
    rewrite: Option<Notes>,
    hand: Hand,
    is_said: bool,
}

enum Hand {
    InPlace(Box<Generations>),
    Thread {
        jobs: Sender<Job>,
        done: Receiver<Answer>,
        busy_since: Option<Tick>,
    },
}

/// The thread's part.
pub(crate) struct GenerationNotesThread {
    generations: Generations,
    jobs: Receiver<Job>,
    done: Sender<Answer>,
}

impl GenerationNotes {
    /// With a thread, which is to be run; it ends when this does.
    pub(crate) fn with_thread(
        generations: Generations,
        clock: Clock,
    ) -> (Self, GenerationNotesThread) {
        let (jobs, taken) = mpsc::channel();
        let (done, dones) = mpsc::channel();
        let hand = Hand::Thread {
            jobs,
            done: dones,
            busy_since: None,
        };
        let thread = GenerationNotesThread {
            generations,
            jobs: taken,
            done,
        };
        (Self::by(hand, clock), thread)
    }

    /// On the thread that asks: of a simulation.
    pub(crate) fn in_place(generations: Generations, clock: Clock) -> Self {
        Self::by(Hand::InPlace(Box::new(generations)), clock)
    }

    const fn by(hand: Hand, clock: Clock) -> Self {
        Self {
            clock,
            waiting: Notes::new(),
            is_check_due: false,
            displaced: None,
            rewrite: None,
            hand,
            is_said: false,
        }
    }

    /// Notes it as soon as the record takes it.
    pub(crate) fn note(&mut self, portal: &PortalName, generation: Option<Generation>) {
        self.waiting.insert(portal.clone(), generation);
        self.pass_on(MOMENT);
    }

    /// Passes on what waits, if the record is free again; says that it hangs, if it does.
    pub(crate) fn tend(&mut self) {
        self.pass_on(Duration::ZERO);
    }

    /// Looks whether the record is still where it was.
    pub(crate) fn check(&mut self) {
        self.is_check_due = true;
        self.pass_on(MOMENT);
    }

    /// Whether somebody took the record away; until [`Self::rewrite`].
    pub(crate) const fn is_displaced(&self) -> bool {
        self.displaced.is_some()
    }

    /// Writes it anew, with what it held of others than these.
    pub(crate) fn rewrite(&mut self, all: BTreeMap<PortalName, Option<Generation>>) {
        self.rewrite = Some(all);
        self.pass_on(MOMENT);
    }

    /// At the end.
    pub(crate) fn finish(&mut self) {
        // What it has, and what waits.
        self.pass_on(END);
        self.pass_on(END);
        if !self.waiting.is_empty() || self.is_busy() {
            self.say("it hangs, and the last ones are not in it");
        }
    }

    const fn is_busy(&self) -> bool {
        matches!(
            self.hand,
            Hand::Thread {
                busy_since: Some(_),
                ..
            }
        )
    }

    /// What is to be done next.
    fn next(&mut self) -> Option<Job> {
        if let Some(all) = self.rewrite.take() {
            return Some(Job::Rewrite(all));
        }
        if std::mem::take(&mut self.is_check_due) {
            return Some(Job::Check);
        }
        let waiting = std::mem::take(&mut self.waiting);
        (!waiting.is_empty()).then_some(Job::Note(waiting))
    }

    /// Gives the thread what waits, once it has done what it was given before, and waits so long for each answer.
    fn pass_on(&mut self, patience: Duration) {
        // One that hangs costs whoever publishes nothing more.
        let mut patience = if self.is_busy() && patience <= MOMENT {
            Duration::ZERO
        } else {
            patience
        };
        loop {
            if let Hand::Thread {
                done,
                busy_since: Some(since),
                ..
            } = &self.hand
            {
                match done.recv_timeout(patience) {
                    Ok(answer) => self.settle(answer),
                    Err(RecvTimeoutError::Timeout) => {
                        if self.clock.elapsed(*since) >= LIMIT {
                            self.say("its disk hangs");
                        }
                        return;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                patience = patience.max(MOMENT);
            }
            let Some(job) = self.next() else { return };
            let tick = self.clock.tick();
            match &mut self.hand {
                Hand::InPlace(generations) => {
                    let answer = carry_out(generations, job);
                    self.settle(answer);
                }
                Hand::Thread {
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

    fn settle(&mut self, answer: Answer) {
        if let Hand::Thread { busy_since, .. } = &mut self.hand {
            *busy_since = None;
        }
        match answer {
            Answer::Noted(Ok(())) => self.is_said = false,
            Answer::Noted(Err(error)) => self.say(&error_chain(&error)),
            Answer::Checked(displaced) => self.displaced = displaced,
            Answer::Rewritten(written) => {
                let what = self.displaced.take().unwrap_or("removed");
                match written {
                    Ok(()) => tracing::warn!(
                        "the record of generations beside the state was {what} by somebody, and is written anew; by it a lost state is \
                         noticed: find out who removes files there"
                    ),
                    Err(error) if !std::mem::replace(&mut self.is_said, true) => tracing::warn!(
                        error = %error_chain(&error),
                        "the record of generations beside the state was {what} by somebody, and cannot be written anew: an old state may \
                         not be noticed"
                    ),
                    Err(_) => {}
                }
            }
        }
    }

    /// Once, until it works again.
    fn say(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_said, true) {
            tracing::warn!(
                error = why,
                "an old state may not be noticed: its generations are not noted"
            );
        }
    }
}

impl GenerationNotesThread {
    /// Serves until nobody asks any more.
    pub(crate) fn run(mut self) {
        while let Ok(job) = self.jobs.recv() {
            let answer = carry_out(&mut self.generations, job);
            if self.done.send(answer).is_err() {
                return;
            }
        }
    }
}

fn carry_out(generations: &mut Generations, job: Job) -> Answer {
    match job {
        Job::Note(notes) => Answer::Noted(record(generations, notes)),
        Job::Check => Answer::Checked(generations.displaced()),
        Job::Rewrite(all) => {
            // What lies there may be the record of a volume that was mounted: its lines are traces too.
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
            Answer::Rewritten(generations.replace(&noted))
        }
    }
}

/// Notes each; the last failure, if one failed.
fn record(generations: &mut Generations, notes: Notes) -> Result<(), FileError> {
    let mut done = Ok(());
    for (name, generation) in notes {
        // One that fails does not keep the others from it.
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
        // Until it runs, its thread is one that hangs.
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
