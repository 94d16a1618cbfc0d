//! Identity of the sender of an alert.

use std::time::Duration;

use refreshd_time::Timestamp;

/// Duration of an Alertmanager alert that is not resent, and of resending its end.
pub const HOLDS: Duration = Duration::from_secs(300);

/// Sender and time of a delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender<'a> {
    /// Name of this instance.
    pub(super) instance: &'a str,
    /// Address of the status page.
    pub(super) url: Option<&'a str>,
    /// Current time.
    pub(super) now: Timestamp,
}
