//! The places of a listener: who is let in, and who is shown out for those who come. Some are spare, for what must be
//! answered while guests have taken all the others. Must not know what is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::adapters::clock::{Clock, Tick};

/// A guest may be shown out after this time, if its socket was looked at and held nothing: whoever connects is about to ask.
const SETTLED: Duration = Duration::from_millis(50);
/// One that was not looked at, since it does not take its answer, after this time.
const STALLED: Duration = Duration::from_secs(1);
/// While nobody has been there for so long, it is looked again after this time.
pub(crate) const AGAIN: Duration = Duration::from_millis(5);

/// How many guests there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// For everybody.
    pub(crate) open: usize,
    /// Once those are taken: only what is kept for is served there, and anything else is told to come again.
    pub(crate) spare: usize,
}

/// One connection.
pub(crate) struct Guest {
    /// A request of it is being carried out.
    served: AtomicBool,
    gone: AtomicBool,
    /// Its socket was looked at, and held nothing.
    waits: AtomicBool,
    /// When it last sent or took something.
    heard: Mutex<Tick>,
    came: Tick,
    clock: Clock,
    /// Places are kept for it.
    pub(crate) is_important: bool,
    /// It has a spare place.
    pub(crate) is_spare: bool,
    pub(crate) leave: CancellationToken,
}

impl Guest {
    fn new(clock: Clock, is_important: bool, is_spare: bool) -> Self {
        let came = clock.tick();
        let [served, gone, waits] = [const { AtomicBool::new(false) }; 3];
        let heard = Mutex::new(came);
        Self {
            served,
            gone,
            waits,
            heard,
            came,
            clock,
            is_important,
            is_spare,
            leave: CancellationToken::new(),
        }
    }

    pub(crate) fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
    }

    /// Its socket was looked at: whether it held nothing.
    pub(crate) fn wait(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    fn has_had_its_time(&self) -> bool {
        let stayed = self.clock.elapsed(self.came);
        stayed >= STALLED || stayed >= SETTLED && self.waits.load(Ordering::Relaxed)
    }

    /// Its connection has ended.
    pub(crate) fn go(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.clock
            .elapsed(*self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Marks a guest as being served for as long as it lives.
pub(crate) struct Served<'a>(&'a Guest);

impl<'a> Served<'a> {
    pub(crate) fn begin(guest: &'a Guest) -> Self {
        guest.served.store(true, Ordering::Relaxed);
        Self(guest)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        // From now on it has time to take the answer.
        self.0.hear();
        self.0.served.store(false, Ordering::Relaxed);
    }
}

/// What is done with somebody who comes.
pub(crate) enum Admission {
    In(Arc<Guest>),
    /// Somebody has come only now, and may be shown out in a moment.
    Wait,
    Full,
}

/// Who is there.
pub(crate) struct Guests {
    clock: Clock,
    places: Places,
    all: Vec<Arc<Guest>>,
}

impl Guests {
    pub(crate) const fn new(clock: Clock, places: Places) -> Self {
        Self {
            clock,
            places,
            all: Vec::new(),
        }
    }

    /// Lets somebody in, in place of the one who has been silent longest if need be. An important one is shown out for
    /// another important one alone, and nobody who is being served is.
    pub(crate) fn admit(&mut self, is_important: bool) -> Admission {
        self.all.retain(|guest| !guest.gone.load(Ordering::Relaxed));
        let mut wait = false;
        for is_spare in [false, true] {
            let most = if is_spare {
                self.places.spare
            } else {
                self.places.open
            };
            let taken = self
                .all
                .iter()
                .filter(|guest| guest.is_spare == is_spare)
                .count();
            if most > 0 && (taken < most || self.make_room(is_important, is_spare, &mut wait)) {
                let guest = Arc::new(Guest::new(self.clock, is_important, is_spare));
                self.all.push(Arc::clone(&guest));
                return Admission::In(guest);
            }
        }
        if wait {
            Admission::Wait
        } else {
            Admission::Full
        }
    }

    fn make_room(&mut self, is_important: bool, is_spare: bool, wait: &mut bool) -> bool {
        let may_go = |guest: &Guest| {
            guest.is_spare == is_spare
                && !guest.is_served()
                && (is_important || !guest.is_important)
        };
        let silent = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, guest)| may_go(guest));
        let (ripe, young): (Vec<_>, Vec<_>) =
            silent.partition(|(_, guest)| guest.has_had_its_time());
        let longest = ripe
            .into_iter()
            .max_by_key(|(_, guest)| (!guest.is_important, guest.silence()));
        let Some((index, _)) = longest else {
            *wait |= !young.is_empty();
            return false;
        };
        self.all.swap_remove(index).leave.cancel();
        true
    }
}
