//! Retries writes to the state until they succeed, and reports that meanwhile.

use std::pin::pin;
use std::time::Duration;

use crate::adapters::state::StateError;
use crate::daemon::alerts::Condition;
use crate::daemon::context::Context;
use crate::daemon::renewal::carry::UnsavedCopy;
use crate::daemon::renewal::state_health;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;

/// Time after which a write is treated as failed: a disk that hangs may end with the process.
const SLOW: Duration = Duration::from_secs(5);

/// First and maximum delay before a write is retried.
const RECORD_RETRY_AFTER: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_secs(5));

/// Retries a write until it is durable. Until then, `copy` is kept in memory, and by the service manager if possible; this
/// is reported as critical.
pub(crate) async fn until_durable<T, F>(
    shared: &Context,
    portal: &PortalName,
    mut copy: Option<UnsavedCopy<'_>>,
    mut write: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, StateError>>,
{
    let (mut wait, mut unsaved) = (RECORD_RETRY_AFTER.0, false);
    loop {
        let mut writing = pin!(write());
        let written = match (shared.clock.within(SLOW, &mut writing).await, &mut copy) {
            (Some(written), _) => written,
            (None, copy) => {
                if let Some(held) = copy {
                    shared.carry.keep(held, portal, shared.clock);
                }
                writing.await
            }
        };
        match written {
            Ok(recorded) => {
                let what = copy
                    .as_ref()
                    .map_or("it is on disk now", UnsavedCopy::stored);
                if unsaved {
                    shared.metrics.unsaved_ends();
                    shared.conditions.end(Condition::Unsaved(portal), what);
                }
                if let Some(held) = copy {
                    shared.carry.release(held.slot);
                }
                state_health::write_succeeded(shared);
                return recorded;
            }
            Err(error) => {
                state_health::write_failed(shared, &error);
                if let Some(held) = &mut copy {
                    shared.carry.keep(held, portal, shared.clock);
                }
                if !unsaved && let Some(held) = &copy {
                    unsaved = true;
                    shared.metrics.unsaved_begins();
                    shared
                        .carry
                        .announce(held, portal, &shared.conditions, &error);
                } else {
                    tracing::error!(%portal, error = %error_chain(&error), "{portal}: the outcome of a renewal is still not recorded; trying again");
                }
            }
        }
        shared.clock.sleep(wait).await;
        wait = (wait * 2).min(RECORD_RETRY_AFTER.1);
    }
}
