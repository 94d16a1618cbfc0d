//! Who sends an alert, as every receiver is told.

use std::time::Duration;

use refreshd_time::Timestamp;

/// How long an alert of Alertmanager holds unless it is sent again, and for how long its end is sent again.
pub const HOLDS: Duration = Duration::from_secs(300);

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender<'a> {
    /// This refreshd among others.
    pub(super) instance: &'a str,
    /// Where people can open the status page.
    pub(super) url: Option<&'a str>,
    /// Now.
    pub(super) now: Timestamp,
}
