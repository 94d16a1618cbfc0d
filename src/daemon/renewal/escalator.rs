//! Climbs the ladder with time: steps that come because nothing happened. Must not send anything to anybody itself.
//!
//! What a failed or finished renewal makes due at once is said by `exchange`; both remember it in the state first, so
//! a restart neither forgets nor repeats.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::adapters::state::StateError;
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::context::Context;
use crate::daemon::grants::unreadable_state::report_unreadable;
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::evaluate;
use crate::domain::hint::HintContext;
use crate::domain::portal::Portal;
use refreshd_time::clock::{CLOCK_STEP_MILLIS, MAX_SLEEP};
use refreshd_token_client::provider::Class;

/// Grants looked at together.
const BATCH: usize = 256;
/// After a start the renewals that fell due meanwhile come first: what they mend is not worth an alarm.
const SETTLING: Duration = Duration::from_secs(3);
/// Steps are not looked for more often.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
/// A wait that is over so late has stood still, and so has the renewer.
const STANDSTILL: Duration = Duration::from_secs(5);
/// After a clock step, or a sleep of the machine, the renewer comes first: what looks overdue has had no chance yet.
const PATIENCE: Duration = Duration::from_secs(10);

/// Announces steps as they come, until `stop`.
pub async fn run(shared: Arc<Context>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => return,
        () = shared.clock.sleep(SETTLING) => {}
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
                () = shared.clock.sleep(PATIENCE) => continue,
            }
        }
        let wait = match climb_all(&shared).await {
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
            () = shared.climb.notified() => shared.clock.sleep(SHORTEST_WAIT).await,
        }
    }
}

/// Announces what is due and says how long nothing will be.
async fn climb_all(shared: &Context) -> Result<Duration, StateError> {
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
                    announce: None,
                    told: grant.told.clone(),
                    next: None,
                }
            };
            // A renewal that ends at this moment may have told the same step.
            let seen = (grant.standing.clone(), grant.told.clone());
            let told = shared
                .state
                .set_notified(
                    portal.name.clone(),
                    grant.generation,
                    seen,
                    evaluation.told,
                    evaluation.next,
                )
                .await?;
            if let Some(announcement) = evaluation.announce.filter(|_| told) {
                // That a client is refused for all was said of its app.
                if !is_of_app(portal) {
                    log_escalation(EscalationSubject::Portal(&portal.name), &announcement);
                }
                shared.outboxes.wake.notify_one();
            }
        }
        if due.len() < BATCH {
            let next = shared.state.next_escalation().await?;
            return Ok(next
                .map_or(MAX_SLEEP, |next| next.until(now))
                .max(SHORTEST_WAIT));
        }
    }
}

/// Whether what is wrong with a portal is that its app's client is refused for all.
fn is_of_app(portal: &Portal) -> bool {
    let problem = portal
        .grant
        .as_ref()
        .and_then(|grant| grant.standing.phase.problem());
    portal.client_refused.is_some()
        && problem.is_some_and(|problem| problem.class == Class::ClientRejected)
}
