//! Evaluates escalation steps that become due with time. Must not send notifications itself.
//!
//! Steps that a failed or finished renewal makes due at once are logged by `exchange`. Both persist a step before they log
//! it, so a restart neither forgets nor repeats one.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::adapters::state::StateError;
use crate::daemon::context::Context;
use crate::daemon::grants::unreadable_state::report_unreadable;
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::evaluate;
use crate::domain::hint::HintContext;
use crate::domain::portal::Portal;
use refreshd_time::clock::{CLOCK_STEP_MILLIS, MAX_SLEEP};
use refreshd_token_client::provider::Class;

/// Grants evaluated together.
const BATCH: usize = 256;
/// Delay after a start, in which renewals that became due meanwhile are tried first: what they resolve needs no alert.
const START_DELAY: Duration = Duration::from_secs(3);
/// Minimum interval of evaluations.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Delay of a wake-up that indicates that this process was suspended, and the renewal loop with it.
const STANDSTILL: Duration = Duration::from_secs(5);
/// Delay after a clock step or a suspension, in which renewals are tried first: overdue renewals have had no chance yet.
const RESUME_DELAY: Duration = Duration::from_secs(10);

/// Logs steps as they become due, until `stop`.
pub async fn run(shared: Arc<Context>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        () = shared.clock.sleep(START_DELAY) => {}
    }
    let mut before = shared.clock.reading();
    loop {
        let now = shared.clock.reading();
        let is_step = now.step_since(before).abs() >= CLOCK_STEP_MILLIS;
        let has_slept = now.passed_since(before) >= MAX_SLEEP + STANDSTILL;
        before = now;
        if is_step || has_slept {
            shared.due.notify_one();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = shared.clock.sleep(RESUME_DELAY) => continue,
            }
        }
        let wait = match evaluate_due(&shared).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(error = %error_chain(&error), "cannot look for escalations; trying again");
                MAX_SLEEP
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = shared.clock.sleep(wait) => {}
            () = shared.escalation_wake.notified() => shared.clock.sleep(MIN_INTERVAL).await,
        }
    }
}

/// Logs the steps that are due, and returns the time until the next one.
async fn evaluate_due(shared: &Context) -> Result<Duration, StateError> {
    let config = shared.config();
    loop {
        let now = shared.clock.now();
        let due = shared.state.escalations_due(now, BATCH).await?;
        for portal in &due {
            if portal.unreadable.is_some() {
                if shared
                    .state
                    .quarantine_unreadable(portal.name.clone())
                    .await?
                {
                    report_unreadable(portal);
                }
                continue;
            }
            let Some(grant) = &portal.grant else { continue };
            let evaluation = if portal.settings.is_some() {
                evaluate(
                    &config.ladder,
                    HintContext::of(&portal.name, portal.settings.as_ref()),
                    grant,
                    now,
                )
            } else {
                crate::domain::escalation::Evaluation {
                    notice: None,
                    notified: grant.notified.clone(),
                    next: None,
                }
            };
            // A renewal that ends at this moment may have notified the same step.
            let seen = (grant.status.clone(), grant.notified.clone());
            let is_stored = shared
                .state
                .set_notified(
                    portal.name.clone(),
                    grant.generation,
                    seen,
                    evaluation.notified,
                    evaluation.next,
                )
                .await?;
            if let Some(notice) = evaluation.notice.filter(|_| is_stored) {
                // The rejection of a client was logged for its app.
                if !is_of_app(portal) {
                    shared.log_limits.escalation(&portal.name, &notice, now);
                }
                shared.outboxes.wake.notify_one();
            }
        }
        if due.len() < BATCH {
            let next = shared.state.next_escalation().await?;
            return Ok(next
                .map_or(MAX_SLEEP, |next| next.until(now))
                .max(MIN_INTERVAL));
        }
    }
}

/// Whether the problem of a portal is that its app's client is rejected for all portals.
fn is_of_app(portal: &Portal) -> bool {
    let problem = portal
        .grant
        .as_ref()
        .and_then(|grant| grant.status.phase.problem());
    portal.client_refused.is_some()
        && problem.is_some_and(|problem| problem.class == Class::ClientRejected)
}
