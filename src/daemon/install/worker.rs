//! Common parts of processing an event: its slot among the others, the verification budget, and waits that end when the
//! daemon stops.
//!
//! Must not send a token anywhere but to an authorization server of the profile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::adapters::state::StateError;
use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::install::fair_queue::EventSender;
use crate::domain::install::{Outcome, ahead};
use crate::domain::install_event::{ClaimedOwner, PresentedGrant};
use crate::domain::name::PortalName;
use crate::domain::token_owner::{Verification, verify};
use crate::domain::verification_budget::VerificationBudget;
use refreshd_secrets::AccessToken;
use refreshd_time::clock::Tick;
use refreshd_time::{Timestamp, human};

/// Maximum number of attempts, for queries of the authorization server and for writes; the wait doubles each time.
pub(crate) const MAX_ATTEMPTS: u32 = 5;

pub(crate) const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Timeout of one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum change after which clock skew is logged again.
const SKEW_CHANGE: Duration = Duration::from_secs(30);

/// Slot of an event among those in progress.
pub(crate) struct QueueTurn {
    pub(crate) place: Mutex<Option<OwnedSemaphorePermit>>,
    pub(crate) again: Arc<Semaphore>,
    pub(crate) free: Arc<Notify>,
}

impl QueueTurn {
    /// Releases the slot while this event waits.
    pub(crate) fn leave(&self) {
        drop(
            self.place
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.free.notify_one();
    }

    async fn come_back(&self) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.again).acquire_owned().await.ok();
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }
}

/// Time of the last renewal request, by app, member, and whether the removal had the application token.
pub(crate) type Removals = HashMap<(String, String, bool), Tick>;

/// Cached query results, by portal and user.
pub(crate) type Admins = HashMap<(String, String), (Tick, Option<bool>)>;

/// Outcome of an event, and its log message.
pub(crate) type EventResult = (Outcome, String);

/// Processes one event.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Context>,
    /// The daemon stops: what is not verified is left for the next start.
    pub(crate) stop: CancellationToken,
    /// The time limit of the shutdown is over.
    pub(crate) enough: CancellationToken,
    /// Clock skew of the sender of events when it was last logged.
    pub(crate) ahead: Arc<Mutex<Duration>>,
    /// Renewals requested because of removals.
    pub(crate) asked: Arc<Mutex<Removals>>,
    /// Cached query results of portals about users.
    pub(crate) admins: Arc<Mutex<Admins>>,
    /// The app's verification budget, and the sender that it is charged to.
    pub(crate) questions: Arc<Mutex<VerificationBudget<EventSender>>>,
    pub(crate) sender: EventSender,
    /// Verifications that are charged and not made yet.
    pub(crate) counted: Arc<AtomicU32>,
    pub(crate) turn: Arc<QueueTurn>,
}

impl Worker {
    pub(crate) fn budget(&self) -> MutexGuard<'_, VerificationBudget<EventSender>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queries one server; `None` after the time limit of the shutdown.
    pub(crate) async fn verify_owner_at(
        &self,
        url: &str,
        app: &App,
        presented: &PresentedGrant,
    ) -> Option<Verification> {
        let secrets = secrets_of(app, presented);
        self.verify_owner((url, &presented.access), app, &presented.claims, &secrets)
            .await
    }

    /// The same for a token that the state has.
    pub(crate) async fn verify_owner_of(
        &self,
        url: &str,
        app: &App,
        token: &AccessToken,
        claims: &ClaimedOwner,
    ) -> Option<Verification> {
        self.verify_owner((url, token), app, claims, &secrets_with(app, token))
            .await
    }

    async fn verify_owner(
        &self,
        (url, token): (&str, &AccessToken),
        app: &App,
        claims: &ClaimedOwner,
        secrets: &[&str],
    ) -> Option<Verification> {
        let is_counted = self
            .counted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if !is_counted {
            self.budget().asked(&self.sender, self.shared.clock.now());
        }
        self.shared.metrics.install_verification(&app.name);
        let server = self.shared.server(app);
        let question = server.token_owner(url, token, QUERY_TIMEOUT);
        let answer = tokio::select! {
            biased;
            answer = question => answer,
            () = self.enough.cancelled() => return None,
        };
        Some(match answer {
            Ok((status, body)) => verify(
                (status, &body),
                &app.profile,
                &app.client_id,
                claims,
                secrets,
            ),
            Err(error) => Verification::Later(error),
        })
    }

    /// Logs, once for each change, that the sender's clock is ahead.
    pub(crate) fn log_skew(&self, app: &str, sent_at: Option<Timestamp>) {
        let Some(sent_at) = sent_at else { return };
        let ahead = ahead(sent_at, self.shared.clock.now()).unwrap_or_default();
        let before = std::mem::replace(
            &mut *self.ahead.lock().unwrap_or_else(PoisonError::into_inner),
            ahead,
        );
        if !ahead.is_zero() && ahead.abs_diff(before) > SKEW_CHANGE {
            let span = human(ahead);
            tracing::warn!(
                target: "refreshd::install", app, skew_seconds = ahead.as_secs(),
                "the clock of the sender of the events of {app} is {span} ahead of this machine's: they are taken as of now. \
                 Compare this machine's clock (timedatectl)"
            );
        }
    }

    pub(crate) async fn publish(&self, portal: &PortalName) {
        let failing = self.shared.publisher.publish(portal).await;
        self.shared.health.unpublished(failing);
        self.shared.escalation_wake.notify_one();
    }

    /// Writes to the state, with retries within limits.
    pub(crate) async fn until_durable<T, F>(&self, write: impl Fn() -> F) -> Result<T, StateError>
    where
        F: Future<Output = Result<T, StateError>>,
    {
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            match write().await {
                Err(_) if attempt < MAX_ATTEMPTS && self.pause(&mut wait).await => attempt += 1,
                done => return done,
            }
        }
    }

    /// Waits before a retry; false after the time limit of the shutdown.
    pub(crate) async fn pause(&self, wait: &mut Duration) -> bool {
        let span = wait.mul_f64(0.75 + self.shared.clock.random_fraction() / 2.0);
        *wait *= 2;
        self.turn.leave();
        tokio::select! {
            biased;
            () = self.enough.cancelled() => false,
            () = async {
                self.shared.clock.sleep(span).await;
                self.turn.come_back().await;
            } => true,
        }
    }
}

/// Secrets to mask in texts of the server.
pub(crate) fn secrets_of<'a>(app: &'a App, presented: &'a PresentedGrant) -> Vec<&'a str> {
    let tokens = [presented.access.expose(), presented.refresh.expose()];
    tokens
        .into_iter()
        .chain(app.client_secret.as_ref().map(|secret| secret.expose()))
        .collect()
}

/// The same, where only this token is sent.
pub(crate) fn secrets_with<'a>(app: &'a App, token: &'a AccessToken) -> Vec<&'a str> {
    std::iter::once(token.expose())
        .chain(app.client_secret.as_ref().map(|secret| secret.expose()))
        .collect()
}
