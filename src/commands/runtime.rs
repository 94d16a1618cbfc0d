//! Process setup: memory protection, threads, file descriptors.
//!
//! Must not depend on the number of processors, and must not continue without the threads that it needs: such a daemon would
//! look ready and never renew.

use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::runtime::{Builder, Runtime};

use crate::adapters::directory::is_shortage;

/// Number of threads.
#[derive(Clone, Copy)]
pub(super) struct Threads {
    /// Maximum number of worker threads; never more than the machine has processors.
    workers: usize,
    /// Blocking threads: the state's two, the publisher's, the five whose files may hang, name resolution, standard input.
    blocking: usize,
}

/// Of the daemon. With the log's and the main thread it has at most 22.
pub(super) const DAEMON: Threads = Threads {
    workers: 4,
    blocking: 16,
};
/// Of other commands: most do the daemon's work if none runs. At most 13 with the main thread.
pub(super) const COMMAND: Threads = Threads {
    workers: 2,
    blocking: 10,
};

/// File descriptors that must be free at the start: those of the runtime, and those to open the state, send a request and
/// publish its token. With fewer, a token would be spent whose successor cannot be stored.
const MIN_DESCRIPTORS: usize = 32;

/// Time limit for a thread to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Blocking threads do not time out: later there may be no more.
const KEEP_ALIVE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Protects this process's memory from core dumps and from other processes of the same user: it holds refresh tokens and client
/// secrets. Failures are ignored: the unit file forbids the same.
pub(super) fn protect_memory() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
}

/// Raises the limit of open file descriptors to the hard limit.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// Creates the runtime with its threads.
///
/// # Errors
/// A message for the operator, if this process may not have enough threads or file descriptors.
pub(super) fn runtime(threads: Threads) -> Result<Runtime, String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = threads.workers.min(processors);
    // tokio panics without its descriptors or a worker, and continues without a blocking thread: neither gives a usable message.
    try_descriptors(MIN_DESCRIPTORS).map_err(|error| too_few_descriptors(&error))?;
    try_threads(workers + threads.blocking).map_err(|error| too_few_threads(&error))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(threads.blocking)
        .thread_keep_alive(KEEP_ALIVE)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    make_blocking(&runtime, threads.blocking).map_err(|error| too_few_threads(&error))?;
    Ok(runtime)
}

fn too_few_descriptors(error: &str) -> String {
    format!(
        "cannot start: this process may not have the file descriptors that it needs ({error}); raise LimitNOFILE= of the unit, or \
         ulimit -n"
    )
}

/// Opens this many descriptors at once for a moment.
fn try_descriptors(count: usize) -> Result<(), String> {
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        match std::io::stderr().as_fd().try_clone_to_owned() {
            Ok(descriptor) => open.push(descriptor),
            // Standard error may be closed; this is not about it.
            Err(error) if !is_shortage(&error) => return Ok(()),
            Err(error) => return Err(format!("it got {} of {count}: {error}", open.len())),
        }
    }
    Ok(())
}

fn too_few_threads(error: &str) -> String {
    format!(
        "cannot start: this process may not have the threads that it needs ({error}); raise TasksMax= of the unit, the \
         pids limit of the container, or ulimit -u"
    )
}

/// Starts this many threads at once for a moment.
fn try_threads(count: usize) -> Result<(), String> {
    let (hold, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let mut running = Vec::with_capacity(count);
    let mut done = Ok(());
    for made in 0..count {
        let held = Arc::clone(&held);
        // Each waits until `hold` is dropped.
        let wait = move || {
            held.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv()
                .is_ok()
        };
        match std::thread::Builder::new().spawn(wait) {
            Ok(thread) => running.push(thread),
            Err(error) => {
                done = Err(format!("it got {made} of {count}: {error}"));
                break;
            }
        }
    }
    drop(hold);
    running.into_iter().for_each(|thread| drop(thread.join()));
    done
}

/// Starts every blocking thread of the runtime: each waits until all exist.
fn make_blocking(runtime: &Runtime, count: usize) -> Result<(), String> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (begun, begins): (Sender<()>, Receiver<()>) = mpsc::channel();
    for _ in 0..count {
        let (gate, begun) = (Arc::clone(&gate), begun.clone());
        runtime.spawn_blocking(move || {
            // The receiver waits for all of these.
            let _ = begun.send(());
            let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(gate.1.wait_while(open, |open| !*open));
        });
    }
    let made = (0..count)
        .take_while(|_| begins.recv_timeout(START_TIMEOUT).is_ok())
        .count();
    *gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    gate.1.notify_all();
    if made == count {
        Ok(())
    } else {
        Err(format!("it got {made} of {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_has_all_of_its_threads_from_the_start() {
        let runtime = runtime(DAEMON).unwrap();
        assert_eq!(
            runtime.metrics().num_workers(),
            DAEMON
                .workers
                .min(std::thread::available_parallelism().unwrap().get())
        );
        runtime.shutdown_background();
    }
}
