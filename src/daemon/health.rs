//! Health of the daemon, for `/livez`, `/readyz` and the heartbeat.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use refreshd_time::clock::{Clock, Tick};

/// Live means that the scheduler made progress within this time.
const LIVE_WITHIN: Duration = Duration::from_secs(60);

/// Writable means that the state was written within about this time; the housekeeping probes it at least twice a minute.
const RECENT_WRITE: Duration = Duration::from_secs(45);

/// Health of the daemon.
pub struct Health {
    clock: Clock,
    progress: Mutex<Tick>,
    written: Mutex<Tick>,
    unwritable: AtomicBool,
    unpublished: AtomicU64,
    stopping: AtomicBool,
    old_configuration: AtomicBool,
}

impl Health {
    /// Initially healthy.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            progress: Mutex::new(clock.tick()),
            written: Mutex::new(clock.tick()),
            unwritable: AtomicBool::new(false),
            unpublished: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            old_configuration: AtomicBool::new(false),
        }
    }

    /// Records an iteration of the scheduler.
    pub fn progress(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
    }

    /// Returns whether the scheduler made progress within the last minute.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.clock.elapsed(progress) < LIVE_WITHIN
    }

    /// Records whether the state could be written; true if that changed.
    pub fn state_writable(&self, writable: bool) -> bool {
        if writable {
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
        }
        self.unwritable.swap(!writable, Ordering::Relaxed) == writable
    }

    /// Returns whether the last write to the state succeeded.
    #[must_use]
    pub fn is_state_writable(&self) -> bool {
        !self.unwritable.load(Ordering::Relaxed)
    }

    /// Returns whether a write to the state must be probed: the last one failed, or nothing was written for a while.
    #[must_use]
    pub fn is_state_unproven(&self) -> bool {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_state_writable() || self.clock.elapsed(written) >= RECENT_WRITE
    }

    /// Records the number of portals whose files could not be written.
    pub fn unpublished(&self, portals: u64) {
        self.unpublished.store(portals, Ordering::Relaxed);
    }

    /// Number of portals whose files could not be written.
    #[must_use]
    pub fn count_unpublished(&self) -> u64 {
        self.unpublished.load(Ordering::Relaxed)
    }

    /// Records whether the last reload was refused, so that an older configuration than the files' is in force.
    pub fn old_configuration(&self, refused: bool) {
        self.old_configuration.store(refused, Ordering::Relaxed);
    }

    /// Whether the last reload was refused.
    #[must_use]
    pub fn has_old_configuration(&self) -> bool {
        self.old_configuration.load(Ordering::Relaxed)
    }

    /// Records that the daemon is about to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns whether the daemon is about to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
