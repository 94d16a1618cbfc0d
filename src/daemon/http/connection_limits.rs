//! The limit on connections of a listener: which client is accepted, and which is disconnected in its favour. Some places are
//! spare, for requests that must be answered while clients have taken all the others. Must not know what is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use refreshd_time::clock::{Clock, Tick};

/// A client may be disconnected after this time, if its socket was looked at and held nothing: whoever connects is about to ask.
const SETTLED: Duration = Duration::from_millis(50);
/// One that was not looked at, since it does not take its answer, after this time.
const STALLED: Duration = Duration::from_secs(1);
/// While nobody has been there for so long, it is looked again after this time.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(5);

/// How many clients there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// For everybody.
    pub(crate) open: usize,
    /// Once those are taken: only what is kept for is served there, and anything else is told to come again.
    pub(crate) spare: usize,
}

/// One connection.
pub(crate) struct ClientConnection {
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

impl ClientConnection {
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

/// Marks a client as being served for as long as it lives.
pub(crate) struct Served<'a>(&'a ClientConnection);

impl<'a> Served<'a> {
    pub(crate) fn begin(client: &'a ClientConnection) -> Self {
        client.served.store(true, Ordering::Relaxed);
        Self(client)
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
    In(Arc<ClientConnection>),
    /// Somebody has come only now, and may be disconnected in a moment.
    Wait,
    Full,
}

/// Who is there.
pub(crate) struct ClientConnections {
    clock: Clock,
    places: ConnectionLimits,
    all: Vec<Arc<ClientConnection>>,
}

impl ClientConnections {
    pub(crate) const fn new(clock: Clock, places: ConnectionLimits) -> Self {
        Self {
            clock,
            places,
            all: Vec::new(),
        }
    }

    /// Lets somebody in, in place of the one who has been silent longest if need be. An important one is disconnected for
    /// another important one alone, and nobody who is being served is.
    pub(crate) fn admit(&mut self, is_important: bool) -> Admission {
        self.all
            .retain(|client| !client.gone.load(Ordering::Relaxed));
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
                .filter(|client| client.is_spare == is_spare)
                .count();
            if most > 0 && (taken < most || self.make_room(is_important, is_spare, &mut wait)) {
                let client = Arc::new(ClientConnection::new(self.clock, is_important, is_spare));
                self.all.push(Arc::clone(&client));
                return Admission::In(client);
            }
        }
        if wait {
            Admission::Wait
        } else {
            Admission::Full
        }
    }

    fn make_room(&mut self, is_important: bool, is_spare: bool, wait: &mut bool) -> bool {
        let may_go = |client: &ClientConnection| {
            client.is_spare == is_spare
                && !client.is_served()
                && (is_important || !client.is_important)
        };
        let silent = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, client)| may_go(client));
        let (ripe, young): (Vec<_>, Vec<_>) =
            silent.partition(|(_, client)| client.has_had_its_time());
        let longest = ripe
            .into_iter()
            .max_by_key(|(_, client)| (!client.is_important, client.silence()));
        let Some((index, _)) = longest else {
            *wait |= !young.is_empty();
            return false;
        };
        self.all.swap_remove(index).leave.cancel();
        true
    }
}
