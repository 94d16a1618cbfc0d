//! Signals of this process: what ends it in good order, and what would end it in the middle of a request and is ignored.
//!
//! One list for the daemon and for commands. Faults of the program itself (SIGSEGV, SIGABRT and their like) are not listed.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// `SIGRTMIN` of glibc, which keeps two real-time signals for itself.
const FIRST_REAL_TIME: i32 = 34;
/// The first that this program may handle: musl keeps three, and numbers them from the same one.
const FIRST_FREE: i32 = if cfg!(target_env = "musl") {
    FIRST_REAL_TIME + 1
} else {
    FIRST_REAL_TIME
};
/// `SIGRTMAX`.
const LAST_REAL_TIME: i32 = 64;
/// `SIGRTMIN+3`: a container's manager asks for a halt with it.
const CONTAINER_STOP: i32 = FIRST_REAL_TIME + 3;

/// Signals that ask for an end.
const STOPPING: [(&str, Number); 4] = [
    ("SIGTERM", Number::TERM),
    ("SIGINT", Number::INT),
    ("SIGQUIT", Number::QUIT),
    // A power failure.
    ("SIGPWR", Number::POWER),
];

/// Signals without a meaning, which end a process that does not handle them.
const MEANINGLESS: [(&str, Number); 8] = [
    ("SIGUSR1", Number::USR1),
    ("SIGUSR2", Number::USR2),
    ("SIGALRM", Number::ALARM),
    ("SIGVTALRM", Number::VTALARM),
    ("SIGPROF", Number::PROF),
    ("SIGXCPU", Number::XCPU),
    ("SIGIO", Number::IO),
    ("SIGSTKFLT", Number::STKFLT),
];

/// A signal that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: i32,
    /// Whether it asks for an end. Otherwise it has no meaning.
    pub stops: bool,
}

/// The listeners for all of these signals.
#[derive(Debug)]
pub struct Signals(Vec<(Received, Signal)>);

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// A signal cannot be received.
    pub fn listen() -> io::Result<Self> {
        all()
            .map(|received| Ok((signal(SignalKind::from_raw(received.number))?, received)))
            .map(|listener| listener.map(|(signal, received)| (received, signal)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Received {
        poll_fn(|context| {
            self.0
                .iter_mut()
                .find_map(|(received, signal)| {
                    signal
                        .poll_recv(context)
                        .is_ready()
                        .then(|| received.clone())
                })
                .map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Every signal of the list, those that stop first.
fn all() -> impl Iterator<Item = Received> {
    let named = |stops| {
        move |(name, number): (&str, Number)| Received {
            name: name.to_owned(),
            number: number.as_raw(),
            stops,
        }
    };
    let real_time = (FIRST_FREE..=LAST_REAL_TIME).map(|number| Received {
        name: format!("SIGRTMIN+{}", number - FIRST_REAL_TIME),
        number,
        stops: number == CONTAINER_STOP,
    });
    STOPPING
        .into_iter()
        .map(named(true))
        .chain(MEANINGLESS.into_iter().map(named(false)))
        .chain(real_time)
}
