//! Notes generations in the record beside the state, on a thread of its own: a record that hangs holds up no publication.
//!
//! What is not noted yet is kept by portal, the newest alone. Must not be waited for longer than a moment.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::adapters::clock::{Clock, Tick};
use crate::adapters::generations::Generations;
use crate::adapters::token_files::FileError;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;
use crate::domain::token::Generation;

/// How long a record is waited for: as long as one that works may take, so that the file says what was published.
const MOMENT: Duration = Duration::from_millis(100);
/// After this it hangs, and that is said.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for it.
const END: Duration = Duration::from_secs(2);

/// The newest generations, or that a grant is gone.
type Notes = BTreeMap<PortalName, Option<Generation>>;

/// What is to be noted.
pub(crate) struct GenerationNotes {
    clock: Clock,
    waiting: Notes,
    hand: Hand,
    is_said: bool,
}

enum Hand {
    InPlace(Box<Generations>),
    Thread {
        notes: Sender<Notes>,
        done: Receiver<Result<(), FileError>>,
        busy_since: Option<Tick>,
    },
}

/// The thread's part.
pub(crate) struct GenerationNotesThread {
    generations: Generations,
    notes: Receiver<Notes>,
    done: Sender<Result<(), FileError>>,
}

impl GenerationNotes {
    /// With a thread, which is to be run; it ends when this does.
    pub(crate) fn with_thread(
        generations: Generations,
        clock: Clock,
    ) -> (Self, GenerationNotesThread) {
        let (notes, noting) = mpsc::channel();
        let (done, dones) = mpsc::channel();
        let hand = Hand::Thread {
            notes,
            done: dones,
            busy_since: None,
        };
        let thread = GenerationNotesThread {
            generations,
            notes: noting,
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

    /// Gives the thread what waits, once it has done what it was given before, and waits so long for its answer.
    fn pass_on(&mut self, patience: Duration) {
        let (notes, done, busy_since) = match &mut self.hand {
            Hand::InPlace(generations) => {
                let noted = record(generations, std::mem::take(&mut self.waiting));
                return self.settle(noted);
            }
            Hand::Thread {
                notes,
                done,
                busy_since,
            } => (notes, done, busy_since),
        };
        let mut answer = None;
        if let Some(since) = *busy_since {
            // One that hangs costs whoever publishes nothing more.
            let patience = if patience > MOMENT {
                patience
            } else {
                Duration::ZERO
            };
            match done.recv_timeout(patience) {
                Ok(noted) => (*busy_since, answer) = (None, Some(noted)),
                Err(RecvTimeoutError::Timeout) => {
                    if self.clock.elapsed(since) >= LIMIT {
                        self.say("its disk hangs");
                    }
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if !self.waiting.is_empty() && notes.send(std::mem::take(&mut self.waiting)).is_ok() {
            *busy_since = Some(self.clock.tick());
            if let Ok(noted) = done.recv_timeout(patience) {
                (*busy_since, answer) = (None, Some(noted));
            }
        }
        if let Some(noted) = answer {
            self.settle(noted);
        }
    }

    fn settle(&mut self, noted: Result<(), FileError>) {
        match noted {
            Ok(()) => self.is_said = false,
            Err(error) => self.say(&error_chain(&error)),
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
        while let Ok(notes) = self.notes.recv() {
            if self
                .done
                .send(record(&mut self.generations, notes))
                .is_err()
            {
                return;
            }
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
