//! Reasons why the daemon is not ready, for `/readyz` and `refreshd health`.

use crate::daemon::alerts::Condition;
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;

/// The reasons, in words; none if it is ready.
pub(crate) async fn problems(shared: &Context) -> Vec<String> {
    let mut problems = Vec::new();
    if shared.health.is_stopping() {
        problems.push("refreshd is stopping".to_owned());
    }
    if let Some(displaced) = shared.conditions.reason(Condition::Displaced) {
        problems.push(displaced);
    } else if !shared.health.is_state_writable() {
        problems.push("the state cannot be written".to_owned());
    }
    let is_unread = shared.conditions.is_active(Condition::Unread);
    if is_unread {
        problems.push("the state cannot be read".to_owned());
    }
    problems.extend(shared.conditions.reason(Condition::Incomplete));
    let unsaved = shared.metrics.unsaved();
    if unsaved > 0 {
        problems.push(match unsaved {
            1 => "1 new pair is not on disk".to_owned(),
            _ => format!("{unsaved} new pairs are not on disk"),
        });
    }
    let unremoved = shared.conditions.count_unremoved();
    let unwritten = shared.health.count_unpublished().saturating_sub(unremoved);
    for (count, what) in [(unwritten, "written"), (unremoved, "removed")] {
        match count {
            0 => {}
            1 => problems.push(format!("the token files of 1 portal cannot be {what}")),
            _ => problems.push(format!(
                "the token files of {count} portals cannot be {what}"
            )),
        }
    }
    match shared.state.census(shared.clock.now()).await {
        Ok(census) if census.overdue == 1 => problems.push("1 portal is overdue".to_owned()),
        Ok(census) if census.overdue > 0 => {
            problems.push(format!("{} portals are overdue", census.overdue));
        }
        Ok(_) => {}
        Err(_) if is_unread => {}
        Err(error) => problems.push(format!("the state cannot be read: {}", error_chain(&error))),
    }
    problems
}
