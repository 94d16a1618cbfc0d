//! The only access to clocks and randomness. All other code takes `now` and randomness as arguments.

#![expect(clippy::disallowed_methods, reason = "the only access to clocks")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Timestamp;

/// Maximum length of a sleep, so that suspend and clock steps are noticed.
pub const MAX_SLEEP: Duration = Duration::from_secs(30);

/// Minimum difference between wall clock and monotonic clock that counts as a clock step.
pub const CLOCK_STEP_MILLIS: i64 = 5_000;

/// Two clocks read within this time count as read simultaneously.
const MAX_READING_GAP: Duration = Duration::from_millis(100);
/// Attempts to read both clocks simultaneously. A machine too busy for that has no exact reading.
const MAX_READINGS: usize = 10;

/// Wall clock, monotonic clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(TimeSource);

#[derive(Clone, Copy, Debug, Default)]
enum TimeSource {
    #[default]
    Machine,
    Other(&'static dyn WallClock),
}

/// Wall clock and randomness of a simulation. The monotonic clock is tokio's in either case, which a simulation pauses.
pub trait WallClock: std::fmt::Debug + Send + Sync {
    /// Current time.
    fn now(&self) -> Timestamp;
    /// A number in [0, 1).
    fn jitter(&self) -> f64;
}

/// Simultaneous reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    /// The wall clock.
    pub wall: Timestamp,
    running: RunningTime,
}

/// A clock that cannot be set and that continues while the process is stopped or the machine sleeps.
#[derive(Clone, Copy, Debug)]
enum RunningTime {
    SinceBoot(Duration),
    Simulated(Tick),
}

impl RunningTime {
    fn since(self, before: Self) -> Duration {
        match (self, before) {
            (Self::SinceBoot(now), Self::SinceBoot(before)) => now.saturating_sub(before),
            (Self::Simulated(now), Self::Simulated(before)) => now.0.duration_since(before.0),
            // A process uses one of the two only.
            (Self::SinceBoot(_), Self::Simulated(_)) | (Self::Simulated(_), Self::SinceBoot(_)) => {
                Duration::ZERO
            }
        }
    }
}

impl ClockReading {
    /// Milliseconds by which the wall clock was set since an earlier reading. A suspend is no step: both clocks
    /// continue.
    #[must_use]
    pub fn step_since(&self, before: Self) -> i64 {
        let elapsed = i64::try_from(self.passed_since(before).as_millis()).unwrap_or(i64::MAX);
        let moved = self.wall.millis().saturating_sub(before.wall.millis());
        moved.saturating_sub(elapsed)
    }

    /// Time since an earlier reading, including a suspend of the machine.
    #[must_use]
    pub fn passed_since(&self, before: Self) -> Duration {
        self.running.since(before.running)
    }

    /// The reading before a clock step of this length.
    #[must_use]
    pub const fn before_step(self, millis: i64) -> Self {
        Self {
            wall: Timestamp::from_millis(self.wall.millis().saturating_sub(millis)),
            running: self.running,
        }
    }
}

/// An instant of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Tick(tokio::time::Instant);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(TimeSource::Machine)
    }

    /// A clock with this wall clock and its randomness.
    #[must_use]
    pub const fn of(wall: &'static dyn WallClock) -> Self {
        Self(TimeSource::Other(wall))
    }

    /// Current wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        if let TimeSource::Other(wall) = self.0 {
            return wall.now();
        }
        let now = SystemTime::now();
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(match now.duration_since(UNIX_EPOCH) {
            Ok(since) => millis(since),
            Err(before) => -millis(before.duration()),
        })
    }

    /// Current time of the monotonic clock.
    #[must_use]
    pub fn tick(&self) -> Tick {
        Tick(tokio::time::Instant::now())
    }

    /// Time since a tick, unaffected by clock steps.
    #[must_use]
    pub fn elapsed(&self, since: Tick) -> Duration {
        since.0.elapsed()
    }

    /// Reads both clocks simultaneously.
    #[must_use]
    pub fn reading(&self) -> ClockReading {
        let mut running = self.running();
        for _ in 0..MAX_READINGS {
            let wall = self.now();
            let after = self.running();
            // If the process was stopped between the two readings, they would show a step.
            if after.since(running) < MAX_READING_GAP {
                return ClockReading { wall, running };
            }
            running = after;
        }
        let wall = self.now();
        ClockReading { wall, running }
    }

    fn running(&self) -> RunningTime {
        match self.0 {
            TimeSource::Machine => {
                let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                RunningTime::SinceBoot(Duration::try_from(boot).unwrap_or_default())
            }
            TimeSource::Other(_) => RunningTime::Simulated(self.tick()),
        }
    }

    /// Sleeps, at most [`MAX_SLEEP`].
    pub async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span.min(MAX_SLEEP)).await;
    }

    /// Sleeps until a wall-clock time, at most [`MAX_SLEEP`]: the caller has to check the time again.
    pub async fn sleep_until(&self, at: Timestamp) {
        self.sleep(at.until(self.now())).await;
    }

    /// Waits for `work` up to a time limit; `None` if it took longer.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(limit, work).await.ok()
    }

    /// A time limit that counts only time in which this process can run.
    #[must_use]
    pub const fn running_limit(&self, limit: Duration) -> RunningLimit {
        RunningLimit {
            left: limit,
            final_grace: RunningLimit::FINAL_GRACE,
        }
    }

    /// 43 unpredictable URL-safe characters (256 bits, as RFC 7636 section 4.1 demands).
    #[must_use]
    pub fn random_token(&self) -> String {
        let mut bytes = [0; 32];
        match self.0 {
            TimeSource::Machine => {
                // Without the system's random source TLS would not work either.
                if aws_lc_rs::rand::fill(&mut bytes).is_err() {
                    return String::new();
                }
            }
            TimeSource::Other(wall) => bytes[..8].copy_from_slice(&wall.jitter().to_le_bytes()),
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// A random number in [0, 1).
    #[must_use]
    pub fn random_fraction(&self) -> f64 {
        match self.0 {
            TimeSource::Machine => fastrand::f64(),
            TimeSource::Other(wall) => wall.jitter(),
        }
    }
}

/// A time limit that counts only time in which this process could run. A process that was stopped (SIGSTOP, a frozen
/// cgroup, a paused machine) or starved still gets time to read what arrived meanwhile.
#[derive(Debug)]
pub struct RunningLimit {
    left: Duration,
    final_grace: Duration,
}

impl RunningLimit {
    /// Granularity: a standstill costs one step at most.
    const STEP: Duration = Duration::from_secs(1);
    /// Extra time at the end for tasks that read sockets to deliver received data.
    const FINAL_GRACE: Duration = Duration::from_millis(250);

    /// Waits for `work`; `None` if the limit is exceeded.
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        while !self.left.is_zero() {
            let step = self.left.min(Self::STEP);
            let began = tokio::time::Instant::now();
            // Results that are ready take precedence over the limit.
            tokio::select! {
                biased;
                done = &mut work => {
                    self.left -= began.elapsed().min(step);
                    return Some(done);
                }
                () = tokio::time::sleep(step) => self.left -= step,
            }
        }
        let began = tokio::time::Instant::now();
        let done = tokio::time::timeout(self.final_grace, work).await.ok();
        self.final_grace = self.final_grace.saturating_sub(began.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_no_step_and_a_clock_that_is_set_is_one() {
        let at = |wall, running| ClockReading {
            wall: Timestamp::from_secs(wall),
            running: RunningTime::SinceBoot(Duration::from_secs(running)),
        };
        let before = at(1_795_000_000, 100);
        assert_eq!(at(1_795_000_036, 136).step_since(before), 0);
        assert_eq!(at(1_795_000_036, 101).step_since(before), 35_000);
        let set_back = at(1_794_999_000, 101);
        assert_eq!(set_back.step_since(before), -1_001_000);
        assert_eq!(set_back.before_step(-1_001_000).step_since(before), 0);
        let clock = Clock::system();
        let first = clock.reading();
        assert!(clock.reading().step_since(first).abs() < CLOCK_STEP_MILLIS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_does_not_use_up_a_limit() {
        let clock = Clock::system();
        let mut limit = clock.running_limit(Duration::from_secs(3));
        assert_eq!(
            limit
                .wait(async { tokio::time::sleep(Duration::from_secs(2)).await })
                .await,
            Some(())
        );
        // As after SIGCONT: the time is over, and the work was not polled.
        let stopped = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tokio::time::advance(Duration::from_secs(60)).await;
            tokio::task::yield_now().await;
            "read"
        };
        assert_eq!(limit.wait(stopped).await, Some("read"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_spent_by_all_waits_together() {
        let clock = Clock::system();
        let began = clock.tick();
        let mut limit = clock.running_limit(Duration::from_secs(5));
        for _ in 0..4 {
            assert!(
                limit
                    .wait(clock.sleep(Duration::from_millis(1100)))
                    .await
                    .is_some()
            );
        }
        assert!(
            limit
                .wait(clock.sleep(Duration::from_secs(9)))
                .await
                .is_none()
        );
        // The limit is not extended by each arrival.
        assert!(
            limit
                .wait(clock.sleep(Duration::from_millis(1)))
                .await
                .is_none()
        );
        assert!(
            clock.elapsed(began) < Duration::from_millis(5500),
            "{:?}",
            clock.elapsed(began)
        );
    }
}
