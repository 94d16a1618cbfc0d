//! What systemd is told: ready, reloading, stopping, a status line, and that the loop makes progress.
//!
//! Must not fail: without systemd every call does nothing. Must not keep time: `alive` is called by the loop itself.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that the daemon serves (`Type=notify`).
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that a reload began (`Type=notify-reload`; ignored by `notify`). [`ready`] ends it.
pub fn reloading() {
    // The crate stamps MONOTONIC_USEC, which systemd compares with the signal's time.
    let stamp = NotifyState::monotonic_usec_now().ok();
    let states: Vec<_> = std::iter::once(NotifyState::Reloading).chain(stamp).collect();
    tell(&states);
}

/// Says that the daemon is about to end.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// The line that `systemctl status` shows.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that stopping is under way and needs a little longer, so that neither the watchdog nor `TimeoutStopSec=` cuts
/// off what was sent.
pub fn still_stopping(more: Duration) {
    let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Watchdog, NotifyState::ExtendTimeoutUsec(more)]);
}

/// Feeds the watchdog.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be called at least, if systemd watches: half of `WatchdogSec`, of which 0 means that it does not.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| limit / 2)
}

/// Whether anybody hears what is told.
#[must_use]
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Whether standard error goes to the journal.
#[must_use]
pub fn has_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    // Nobody listening, or a full socket: the watchdog is what notices if it matters.
    let _ = sd_notify::notify(states);
}
