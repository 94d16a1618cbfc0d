//! Connection limit of a listener: decides which client is accepted, and which idle client is disconnected to make room.
//! Some connections are reserved, for requests that must be served while clients occupy all others. Must not know the
//! routes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use refreshd_time::clock::{Clock, Tick};

/// Age after which a client may be disconnected, if a read from its socket found no data: a new client is about to send.
const IDLE_AFTER: Duration = Duration::from_millis(50);
/// Age after which a client may be disconnected without such a read, since it does not read its response.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// Interval of attempts to accept a client while no other is old enough to be disconnected.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(5);

/// Maximum numbers of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// For every client.
    pub(crate) open: usize,
    /// Reserved connections, used when all others are occupied: requests that they are not reserved for get a 503.
    pub(crate) spare: usize,
}

/// One connection.
pub(crate) struct ClientConnection {
    /// Whether a request of it is being handled.
    served: AtomicBool,
    ended: AtomicBool,
    /// Whether the last read from its socket found no data.
    idle: AtomicBool,
    /// Time of the last read or write.
    touched: Mutex<Tick>,
    connected_at: Tick,
    clock: Clock,
    /// Whether the reserved connections are for this client.
    pub(crate) is_important: bool,
    /// Whether it occupies a reserved connection.
    pub(crate) is_spare: bool,
    pub(crate) leave: CancellationToken,
}

impl ClientConnection {
    fn new(clock: Clock, is_important: bool, is_spare: bool) -> Self {
        let connected_at = clock.tick();
        let [served, ended, idle] = [const { AtomicBool::new(false) }; 3];
        let touched = Mutex::new(connected_at);
        Self {
            served,
            ended,
            idle,
            touched,
            connected_at,
            clock,
            is_important,
            is_spare,
            leave: CancellationToken::new(),
        }
    }

    pub(crate) fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
    }

    /// Records whether a read from its socket found no data.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    fn is_replaceable(&self) -> bool {
        let stayed = self.clock.elapsed(self.connected_at);
        stayed >= STALLED_AFTER || stayed >= IDLE_AFTER && self.idle.load(Ordering::Relaxed)
    }

    /// Records the end of its connection.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn idle_for(&self) -> Duration {
        self.clock
            .elapsed(*self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Guard that marks a client as being served.
pub(crate) struct Served<'a>(&'a ClientConnection);

impl<'a> Served<'a> {
    pub(crate) fn begin(client: &'a ClientConnection) -> Self {
        client.served.store(true, Ordering::Relaxed);
        Self(client)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        // From now on the client has time to read the response.
        self.0.touch();
        self.0.served.store(false, Ordering::Relaxed);
    }
}

/// Result of a connection attempt.
pub(crate) enum Admission {
    Accepted(Arc<ClientConnection>),
    /// Another client is too new to be disconnected; retry in a moment.
    Wait,
    Full,
}

/// The connected clients.
pub(crate) struct ClientConnections {
    clock: Clock,
    limits: ConnectionLimits,
    all: Vec<Arc<ClientConnection>>,
}

impl ClientConnections {
    pub(crate) const fn new(clock: Clock, limits: ConnectionLimits) -> Self {
        Self {
            clock,
            limits,
            all: Vec::new(),
        }
    }

    /// Accepts a client, disconnecting the one that has been idle idle_longest if necessary. An important client is disconnected
    /// only for another important one, and a client that is being served never is.
    pub(crate) fn admit(&mut self, is_important: bool) -> Admission {
        self.all
            .retain(|client| !client.ended.load(Ordering::Relaxed));
        let mut wait = false;
        for is_spare in [false, true] {
            let limit = if is_spare {
                self.limits.spare
            } else {
                self.limits.open
            };
            let taken = self
                .all
                .iter()
                .filter(|client| client.is_spare == is_spare)
                .count();
            if limit > 0 && (taken < limit || self.make_room(is_important, is_spare, &mut wait)) {
                let client = Arc::new(ClientConnection::new(self.clock, is_important, is_spare));
                self.all.push(Arc::clone(&client));
                return Admission::Accepted(client);
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
        let idle = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, client)| may_go(client));
        let (replaceable, too_new): (Vec<_>, Vec<_>) =
            idle.partition(|(_, client)| client.is_replaceable());
        let idle_longest = replaceable
            .into_iter()
            .max_by_key(|(_, client)| (!client.is_important, client.idle_for()));
        let Some((index, _)) = idle_longest else {
            *wait |= !too_new.is_empty();
            return false;
        };
        self.all.swap_remove(index).leave.cancel();
        true
    }
}
