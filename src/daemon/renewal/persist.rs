//! Writes to the state until it is durable, and says so meanwhile.

use std::pin::pin;
use std::time::Duration;

use crate::adapters::state::StateError;
use crate::daemon::alerts::Condition;
use crate::daemon::context::Context;
use crate::daemon::renewal::carry::Held;
use crate::daemon::renewal::state_health;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;

/// A write that takes longer than this is held as if it had failed: a disk that hangs may take the process with it.
const SLOW: Duration = Duration::from_secs(5);

/// First and longest wait before a record is tried again.
const RECORD_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Tries to record until it is durable. What it `holds` lives here only meanwhile, and with the service manager if that
/// keeps it; everybody hears of it.
pub(crate) async fn until_durable<T, F>(
    shared: &Context,
    portal: &PortalName,
    mut holds: Option<Held<'_>>,
    mut write: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, StateError>>,
{
    let (mut wait, mut unsaved) = (RECORD_AGAIN.0, false);
    loop {
        let mut writing = pin!(write());
        let written = match (shared.clock.within(SLOW, &mut writing).await, &mut holds) {
            (Some(written), _) => written,
            (None, holds) => {
                if let Some(held) = holds {
                    shared.carry.keep(held, portal, shared.clock);
                }
                writing.await
            }
        };
        match written {
            Ok(recorded) => {
                let what = holds.as_ref().map_or("it is on disk now", Held::stored);
                if unsaved {
                    shared.metrics.unsaved_ends();
                    shared.conditions.end(Condition::Unsaved(portal), what);
                }
                if let Some(held) = holds {
                    shared.carry.release(held.slot);
                }
                state_health::write_succeeded(shared);
                return recorded;
            }
            Err(error) => {
                state_health::write_failed(shared, &error);
                if let Some(held) = &mut holds {
                    shared.carry.keep(held, portal, shared.clock);
                }
                if !unsaved && let Some(held) = &holds {
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
        wait = (wait * 2).min(RECORD_AGAIN.1);
    }
}
