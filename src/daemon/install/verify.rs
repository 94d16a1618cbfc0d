//! Verifies a grant before it replaces one that may still work: it is offered as the portal's candidate, and the
//! authorization server decides.
//!
//! Must not touch the present grant: on any failure, that one stays in force.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::adapters::state::{InstallOutcome, InstalledGrant, Offered, OverGrant, StateError};
use crate::config::App;
use crate::daemon::install::worker::{EventResult, FIRST_WAIT, MAX_ATTEMPTS, Worker};
use crate::domain::candidate::ImportResult;
use crate::domain::install::Outcome;
use crate::domain::name::PortalName;
use refreshd_secrets::{Fingerprint, RefreshToken};
use refreshd_time::human;

/// Time for the state, beyond the request's timeout.
const GRACE: Duration = Duration::from_secs(10);

impl Worker {
    /// Offers the grant of an event as the portal's candidate, and waits for the outcome. If the server does not respond,
    /// the grant replaces one that does not work, and waits as a candidate beside one that may.
    pub(crate) async fn verify(
        &self,
        app: &App,
        install: InstalledGrant,
        (portal, may_live): (PortalName, bool),
    ) -> EventResult {
        let refresh = install.imported.tokens.credential.refresh();
        let key = (portal.clone(), refresh.map(RefreshToken::fingerprint));
        let member_id = install.owner.member_id.clone();
        let stays = |why: &str| format!("{why}; the grant of {portal} stays as it was");
        let as_candidate = || InstalledGrant {
            over: OverGrant::Candidate,
            now: self.shared.clock.now(),
            ..install.clone()
        };
        let mut wait = FIRST_WAIT;
        let (mut attempt, mut was_offered) = (1, false);
        let why = loop {
            let ended = self.shared.proofs.wait_for(&key);
            let why = match self.store(as_candidate()).await {
                Ok(InstallOutcome::Offered(Offered::Stored | Offered::Known)) => {
                    was_offered = true;
                    self.shared.candidates.notify_one();
                    match self.proof(ended).await {
                        ImportResult::Imported => {
                            return self.verified(app, &member_id, &portal).await;
                        }
                        ImportResult::Refused {
                            why,
                            while_in_doubt,
                        } => {
                            let outcome = if while_in_doubt {
                                Outcome::Unverified
                            } else {
                                Outcome::Forged
                            };
                            return (
                                outcome,
                                stays(&format!("its refresh token was tried: {why}")),
                            );
                        }
                        ImportResult::Superseded => {
                            return (Outcome::Replayed, stays("a newer grant came first"));
                        }
                        ImportResult::Waits { problem, .. } => problem,
                    }
                }
                Ok(InstallOutcome::Offered(Offered::Busy | Offered::Waiting(_))) => {
                    "another candidate grant of it is not verified yet".to_owned()
                }
                // Its own candidate was tried again and ended, between two attempts of this loop.
                Ok(InstallOutcome::Replayed) if was_offered => {
                    return match self.was_refused(&key).await {
                        Ok(false) => self.verified(app, &member_id, &portal).await,
                        Ok(true) => (
                            Outcome::Forged,
                            stays("the authorization server refuses its refresh token"),
                        ),
                        Err(error) => self.end(app, &member_id, Err(error)).await,
                    };
                }
                other => return self.end(app, &member_id, other).await,
            };
            // The event is processed again after the next start.
            if self.stop.is_cancelled() {
                return (Outcome::Unverified, stays(&why));
            }
            if attempt >= MAX_ATTEMPTS || !self.pause(&mut wait).await {
                break why;
            }
            attempt += 1;
        };
        if may_live {
            let why = format!("its refresh token could not be tried yet ({why})");
            return (Outcome::Unverified, stays(&why));
        }
        // A server that does not respond proves nothing, and the present grant does not work.
        let unverified = InstalledGrant {
            over: OverGrant::Dead,
            now: self.shared.clock.now(),
            ..install
        };
        let stored = self.store(unverified).await;
        self.end(app, &member_id, stored).await
    }

    async fn was_refused(
        &self,
        (portal, refresh): &(PortalName, Option<Fingerprint>),
    ) -> Result<bool, StateError> {
        match refresh {
            Some(refresh) => {
                self.shared
                    .state
                    .was_refused(portal.clone(), *refresh)
                    .await
            }
            None => Ok(false),
        }
    }

    /// Waits for the outcome of the candidate's exchange, at most until the daemon stops: it is recorded then all the same.
    async fn proof(&self, ended: oneshot::Receiver<ImportResult>) -> ImportResult {
        let limit = self.shared.config().renewal.timeout + GRACE;
        let ended = tokio::select! {
            biased;
            ended = self.shared.clock.within(limit, ended) => ended,
            () = self.stop.cancelled() => None,
        };
        ended.and_then(Result::ok).unwrap_or_else(|| {
            let problem = format!("there is no outcome after {}", human(limit));
            ImportResult::Waits {
                problem,
                next_attempt_at: None,
            }
        })
    }

    /// Outcome of an event whose grant has replaced the portal's.
    async fn verified(&self, app: &App, member_id: &str, portal: &PortalName) -> EventResult {
        self.forget_removals(app, member_id);
        let generation = match self.shared.state.portal(portal.clone()).await {
            Ok(Some(portal)) => portal.grant.map(|grant| grant.generation.0),
            Ok(None) | Err(_) => None,
        };
        let generation = generation
            .map(|generation| format!(" (generation {generation})"))
            .unwrap_or_default();
        let text = format!(
            "{portal}: a portal of {} has a new grant by an install{generation}",
            app.name
        );
        (Outcome::Resumed, text)
    }
}
