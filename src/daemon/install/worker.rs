//! What working a notice off needs, whatever it is: its turn among the others, questions that are counted, and waits that end
//! when the daemon stops.
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

/// The authorization server is asked so often, and the state too, with the first wait doubled each time.
pub(crate) const TRIES: u32 = 5;

pub(crate) const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// A clock that is ahead is said again when this changes.
const SKEW_CHANGE: Duration = Duration::from_secs(30);

/// The place of a notice among those that are asked about.
pub(crate) struct QueueTurn {
    pub(crate) place: Mutex<Option<OwnedSemaphorePermit>>,
    pub(crate) again: Arc<Semaphore>,
    pub(crate) free: Arc<Notify>,
}

impl QueueTurn {
    /// Lets others go first while this one waits.
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

/// By app, member, and whether the removal had its proof.
pub(crate) type Removals = HashMap<(String, String, bool), Tick>;

/// By portal and user.
pub(crate) type Admins = HashMap<(String, String), (Tick, Option<bool>)>;

/// What became of a notice, and the sentence that is told of it.
pub(crate) type EventResult = (Outcome, String);

/// Works one notice off.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Context>,
    /// The daemon stops: what is not verified is left for the next start.
    pub(crate) stop: CancellationToken,
    /// Nothing is waited for any more.
    pub(crate) enough: CancellationToken,
    /// By how much the clock of whoever sends events was ahead when it was said last.
    pub(crate) ahead: Arc<Mutex<Duration>>,
    /// When a renewal was asked for because of a removal: of which app's member, and whether it had its proof.
    pub(crate) asked: Arc<Mutex<Removals>>,
    /// What portals said of users: of which, when, and whether he is an administrator.
    pub(crate) admins: Arc<Mutex<Admins>>,
    /// The app's budget of questions, and whose share of it is used.
    pub(crate) questions: Arc<Mutex<VerificationBudget<EventSender>>>,
    pub(crate) sender: EventSender,
    /// Questions that are counted and not asked yet.
    pub(crate) counted: Arc<AtomicU32>,
    pub(crate) turn: Arc<QueueTurn>,
}

impl Worker {
    pub(crate) fn budget(&self) -> MutexGuard<'_, VerificationBudget<EventSender>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What one server says; `None` if nothing is waited for any more.
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

    /// The same of a token that the state has.
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
        self.shared.metrics.install_question(&app.name);
        let question = self.shared.server.token_owner(url, token, QUESTION);
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

    /// Says once for each change of it that the clock of whoever sends events is ahead.
    pub(crate) fn say_skew(&self, app: &str, sent_at: Option<Timestamp>) {
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
                "the clock of whoever sends the events of {app} is {span} ahead of this machine's: they are taken as of now. \
                 Compare this machine's clock (timedatectl)"
            );
        }
    }

    pub(crate) async fn publish(&self, portal: &PortalName) {
        let failing = self.shared.publisher.publish(portal).await;
        self.shared.health.unpublished(failing);
        self.shared.climb.notify_one();
    }

    /// Writes to the state, again and again within bounds.
    pub(crate) async fn until_durable<T, F>(&self, write: impl Fn() -> F) -> Result<T, StateError>
    where
        F: Future<Output = Result<T, StateError>>,
    {
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            match write().await {
                Err(_) if attempt < TRIES && self.pause(&mut wait).await => attempt += 1,
                done => return done,
            }
        }
    }

    /// False if nothing is to be waited for any more.
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

/// What a server must not be let repeat of what it was sent.
pub(crate) fn secrets_of<'a>(app: &'a App, presented: &'a PresentedGrant) -> Vec<&'a str> {
    let tokens = [presented.access.expose(), presented.refresh.expose()];
    tokens
        .into_iter()
        .chain(app.client_secret.as_ref().map(|secret| secret.expose()))
        .collect()
}

/// The same, where nothing but this token is sent.
pub(crate) fn secrets_with<'a>(app: &'a App, token: &'a AccessToken) -> Vec<&'a str> {
    std::iter::once(token.expose())
        .chain(app.client_secret.as_ref().map(|secret| secret.expose()))
        .collect()
}
