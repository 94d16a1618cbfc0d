//! Processes install events: verifies the token's owner, stores the grant, logs the outcome. Several at a time for each
//! app, in the order of `fair_queue`.
//!
//! Must not send a token anywhere but to an authorization server of the profile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adapters::state::{InstallOutcome, InstalledGrant, Offered, OverGrant, StateError};
use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::install::fair_queue::{EventSender, FairQueue};
use crate::daemon::install::job::InstallJob;
use crate::daemon::install::queue_shares::QUEUE;
use crate::daemon::install::result_log::{LogContext, log_results};
use crate::daemon::install::worker::{EventResult, FIRST_WAIT, MAX_ATTEMPTS, QueueTurn, Worker};
use crate::domain::error_chain::error_chain;
use crate::domain::import;
use crate::domain::install::{EventKind, Outcome, OwnershipProof, is_stuck};
use crate::domain::install_event::{InstallEvent, PresentedGrant};
use refreshd_time::clock::{Clock, Tick};

use crate::domain::portal::Kind;
use crate::domain::token_owner::{
    PresentedToken, TokenOwner, Verification, VerifyError, verification_urls,
};
use crate::domain::verification_budget::{APP_BUDGET, VerificationBudget};
use refreshd_time::Timestamp;

/// Concurrent events of one app, first attempts and retries: retries have slots of their own, so that they do not delay
/// first attempts.
const WORKERS: usize = 12;
const RETRY_WORKERS: usize = 4;
/// Maximum number of events in progress, including those that wait for a retry.
const UNDER_WAY: usize = 4096;
/// Interval of the summary of rejections without a line of their own.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of the check whether an exhausted verification budget has been refilled.
const BUDGET_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Minimum interval between log lines about events that wait for the budget.
const THROTTLED_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Number of rejections by every server after which a token is rejected.
const REQUIRED_REJECTIONS: u32 = 2;
/// Time limit of verifications after the shutdown request.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// Processes events until the queue ends.
pub(crate) async fn run(
    shared: Arc<Context>,
    jobs: mpsc::Receiver<InstallJob>,
    stop: CancellationToken,
) {
    let (clock, enough) = (shared.clock, CancellationToken::new());
    let mut work = std::pin::pin!(process_one(shared, jobs, (stop.clone(), enough.clone())));
    let timeout = async {
        stop.cancelled().await;
        clock.sleep(STOP_GRACE).await;
    };
    tokio::select! {
        () = &mut work => return,
        () = timeout => enough.cancel(),
    }
    work.await;
}

/// Waiting events of an app, its concurrency limits, and its verification budget.
struct AppQueue {
    waiting: FairQueue<InstallJob>,
    first: Arc<Semaphore>,
    again: Arc<Semaphore>,
    questions: Arc<Mutex<VerificationBudget<EventSender>>>,
    /// Time of the last log line about events that wait for the budget.
    throttled_logged_at: Option<Tick>,
}

impl AppQueue {
    fn new(now: Timestamp) -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        let questions = Arc::new(Mutex::new(VerificationBudget::new(now)));
        let (first, again) = (permits(WORKERS), permits(RETRY_WORKERS));
        Self {
            waiting: FairQueue::default(),
            first,
            again,
            questions,
            throttled_logged_at: None,
        }
    }

    /// The next event that the budget permits, and the number of verifications charged for it in advance: as many as a
    /// rejection needs.
    fn take(&mut self, now: Timestamp) -> Option<(InstallJob, u32)> {
        let mut questions = self
            .questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_free = |job: &InstallJob| matches!(job.notice, InstallEvent::Removed(_));
        let may = |sender: &EventSender, job: &InstallJob| {
            is_free(job) || questions.may_request(sender, job.is_known(), now)
        };
        let job = self.waiting.take(may)?;
        let counted = if is_free(&job) {
            0
        } else {
            REQUIRED_REJECTIONS
        };
        (0..counted).for_each(|_| questions.asked(&job.sender(), now));
        Some((job, counted))
    }

    /// Logs, at most once in the interval, that events wait for the budget.
    fn log_throttled(&mut self, app: &str, clock: Clock) {
        if self
            .throttled_logged_at
            .is_some_and(|at| clock.elapsed(at) < THROTTLED_LOG_INTERVAL)
        {
            return;
        }
        self.throttled_logged_at = Some(clock.tick());
        let (count, rate) = (self.waiting.len(), APP_BUDGET.1);
        tracing::warn!(
            target: "refreshd::install", app, count,
            "{count} notices of {app} wait: questions about what turns out to be refused are held to {rate} a second. Genuine ones \
             have their turn within seconds; see [install] source_header and source_rate"
        );
    }
}

async fn process_one(
    shared: Arc<Context>,
    mut jobs: mpsc::Receiver<InstallJob>,
    (stop, enough): (CancellationToken, CancellationToken),
) {
    let mut under_way = JoinSet::new();
    let mut apps: BTreeMap<String, AppQueue> = BTreeMap::new();
    let free = Arc::new(Notify::new());
    let (ahead, asked, admins) = (Arc::default(), Arc::default(), Arc::default());
    let mut is_open = true;
    let mut left = 0;
    while !enough.is_cancelled() {
        let mut is_held = false;
        for (name, of_app) in &mut apps {
            while under_way.len() < UNDER_WAY && of_app.waiting.len() > 0 {
                let Ok(place) = Arc::clone(&of_app.first).try_acquire_owned() else {
                    break;
                };
                let Some((job, counted)) = of_app.take(shared.clock.now()) else {
                    of_app.log_throttled(name, shared.clock);
                    is_held = true;
                    break;
                };
                let turn = QueueTurn {
                    place: Mutex::new(Some(place)),
                    again: Arc::clone(&of_app.again),
                    free: Arc::clone(&free),
                };
                let worker = Worker {
                    shared: Arc::clone(&shared),
                    stop: stop.clone(),
                    enough: enough.clone(),
                    ahead: Arc::clone(&ahead),
                    asked: Arc::clone(&asked),
                    admins: Arc::clone(&admins),
                    questions: Arc::clone(&of_app.questions),
                    sender: job.sender(),
                    counted: Arc::new(AtomicU32::new(counted)),
                    turn: Arc::new(turn),
                };
                under_way.spawn(async move { worker.work(job).await });
            }
        }
        let waiting: usize = apps.values().map(|of_app| of_app.waiting.len()).sum();
        if !is_open && waiting == 0 && under_way.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            () = enough.cancelled() => {}
            Some(done) = under_way.join_next() => match done {
                Ok((app, sender, outcome)) => {
                    left += usize::from(stop.is_cancelled() && outcome == Outcome::Unverified);
                    if let Some(of_app) = apps.get_mut(&app) {
                        of_app.waiting.judge(&sender, outcome == Outcome::Forged);
                    }
                }
                Err(error) => {
                    // Ends the listener, and thereby the daemon, with a reason.
                    return tracing::error!(%error, "working an install off panicked");
                }
            },
            job = jobs.recv(), if is_open && waiting < QUEUE => match job {
                Some(job) => {
                    let sender = job.sender();
                    let of_app = apps.entry(job.app.clone());
                    of_app.or_insert_with(|| AppQueue::new(shared.clock.now())).waiting.put(sender, job);
                }
                None => is_open = false,
            },
            () = free.notified() => {}
            () = shared.clock.sleep(if is_held { BUDGET_CHECK_INTERVAL } else { SUMMARY_INTERVAL }) => {}
        }
        log_results(&shared, false);
    }
    left += apps
        .values()
        .map(|of_app| of_app.waiting.len())
        .sum::<usize>();
    while jobs.try_recv().is_ok() {
        left += 1;
    }
    while let Some(done) = under_way.join_next().await {
        left += usize::from(done.is_ok_and(|(.., outcome)| outcome == Outcome::Unverified));
    }
    log_results(&shared, true);
    if left > 0 {
        tracing::warn!(
            target: "refreshd::install", count = left,
            "{left} notices of installs are not worked off yet; they are in the state, and the next start goes on with them"
        );
    }
}

/// Recommended action for a grant that does not work and is not replaced.
fn advice_for(kind: Kind) -> String {
    if !is_stuck(kind) {
        return String::new();
    }
    format!(
        ", and it does not work ({}): the user who installed the app opens it, or an administrator installs it again",
        kind.as_str()
    )
}

/// Replaces claims of the event, which would be published, with the authorization server's values: the server, the token's
/// scope, and its expiry. `by` is the queried URL.
fn adopt(presented: &mut PresentedGrant, by: &str, token: PresentedToken) {
    let directory = by.rfind('/').map(|end| by[..=end].to_owned());
    presented.claims.server = directory;
    presented.scope = token.scope;
    presented.expires = token.ends_at.map(|at| at.secs().to_string());
}

fn unverified(why: &str) -> EventResult {
    let text = format!(
        "the authorization server did not say whose it is ({why}); the portal brings it again when the app is opened"
    );
    (Outcome::Unverified, text)
}

impl Worker {
    async fn work(&self, job: InstallJob) -> (String, EventSender, Outcome) {
        let sender = job.sender();
        // The slot is released at the end of this function.
        let InstallJob {
            row,
            app: name,
            notice,
            source,
            place: _place,
        } = job;
        let config = self.shared.config();
        let host = match &notice {
            InstallEvent::Opened(it)
            | InstallEvent::Installed(it)
            | InstallEvent::SystemUser(it) => it.claims.host.clone(),
            InstallEvent::Removed(removal) => removal.host.clone(),
            InstallEvent::Incomplete(it) => it.host.clone(),
            InstallEvent::Other => None,
        };
        let (outcome, reason) = match config.apps.get(&name).filter(|app| app.install.is_some()) {
            None => (
                Outcome::Ignored,
                "the configuration does not take this app's installs in any more".to_owned(),
            ),
            Some(app) => match notice {
                InstallEvent::Opened(it) => self.keep(app, EventKind::Opened, it).await,
                InstallEvent::Installed(it) => self.keep(app, EventKind::Installed, it).await,
                InstallEvent::SystemUser(it) => self.keep(app, EventKind::SystemUser, it).await,
                InstallEvent::Removed(removal) => self.remove(app, removal).await,
                InstallEvent::Incomplete(_) | InstallEvent::Other => {
                    (Outcome::Ignored, "it says nothing about grants".to_owned())
                }
            },
        };
        self.budget()
            .refund(&self.sender, self.counted.swap(0, Ordering::Relaxed));
        // An event that was not verified because the daemon stops is processed after the next start.
        let is_left =
            self.stop.is_cancelled() && matches!(outcome, Outcome::Unverified | Outcome::NotStored);
        if is_left {
            return (name, sender, Outcome::Unverified);
        }
        LogContext {
            app: &name,
            outcome,
            host: host.as_deref(),
            source,
            reason: &reason,
        }
        .log_result(&self.shared);
        if let Err(error) = self.shared.state.event_done(row).await {
            tracing::warn!(error = %error_chain(&error), "a notice of {name} that is done with is still in the state; the next start looks at it again");
        }
        (name, sender, outcome)
    }

    async fn keep(&self, app: &App, occasion: EventKind, presented: PresentedGrant) -> EventResult {
        let (owner, token, by) = match self.owner(app, &presented).await {
            Ok(owner) => owner,
            Err(ended) => return ended,
        };
        let mut presented = presented;
        adopt(&mut presented, &by, token);
        self.log_skew(&app.name, presented.sent_at);
        let Some(terms) = app.install_context() else {
            return (Outcome::Ignored, String::new());
        };
        let now = self.shared.clock.now();
        let imported = match import::from_install_event(&presented, &owner, &app.profile, now) {
            Ok(imported) => imported,
            Err(error) => return (Outcome::Malformed, error.to_string()),
        };
        let install = InstalledGrant {
            terms,
            occasion,
            owner,
            imported,
            application_token: presented.application_token,
            sent_at: presented.sent_at,
            over: OverGrant::Report,
            now,
        };
        match self.store(install.clone()).await {
            Ok(InstallOutcome::Unproven { portal, may_live }) => {
                self.verify(app, install, (portal, may_live)).await
            }
            Ok(found) => match self
                .open_dispute(app, &install, &presented.access, &by, &found)
                .await
            {
                Some(ended) => ended,
                None => self.end(app, &install.owner.member_id, Ok(found)).await,
            },
            Err(error) => self.end(app, &install.owner.member_id, Err(error)).await,
        }
    }

    pub(crate) async fn store(
        &self,
        install: InstalledGrant,
    ) -> Result<InstallOutcome, StateError> {
        self.until_durable(|| self.shared.state.install(install.clone()))
            .await
    }

    /// Outcome and log message of an install after the attempt to store its grant.
    pub(crate) async fn end(
        &self,
        app: &App,
        member_id: &str,
        kept: Result<InstallOutcome, StateError>,
    ) -> EventResult {
        match kept {
            Err(error) => (
                Outcome::NotStored,
                format!("the state does not take it: {}", error_chain(&error)),
            ),
            Ok(InstallOutcome::Stored {
                portal,
                generation,
                resumed,
            }) => {
                self.publish(&portal).await;
                self.forget_removals(app, member_id);
                self.shared.due.notify_one();
                let words = if resumed {
                    "has a new grant"
                } else {
                    "was accepted"
                };
                let text = format!(
                    "{portal}: a portal of {} {words} by an install (generation {generation})",
                    app.name
                );
                (
                    if resumed {
                        Outcome::Resumed
                    } else {
                        Outcome::Stored
                    },
                    text,
                )
            }
            Ok(InstallOutcome::FreshAlready(portal)) => (
                Outcome::FreshAlready,
                format!("the grant of {portal} lives"),
            ),
            Ok(InstallOutcome::Unproven { portal, .. }) => (
                Outcome::NotStored,
                format!("the grant of {portal} changed meanwhile; nothing was done to it"),
            ),
            Ok(InstallOutcome::Offered(Offered::Unknown)) => (
                Outcome::NotStored,
                "the configuration does not name the portal any more".to_owned(),
            ),
            // Of the others the worker waits for the proof.
            Ok(InstallOutcome::Offered(_)) => (
                Outcome::Replayed,
                "its refresh token came before".to_owned(),
            ),
            Ok(InstallOutcome::OtherUser {
                portal,
                kind,
                known,
                by_notice: _,
            }) => {
                let whose = if known {
                    "is another user's"
                } else {
                    "may be another user's"
                };
                (
                    Outcome::OtherUser,
                    format!("the grant of {portal} {whose}{}", advice_for(kind)),
                )
            }
            Ok(InstallOutcome::OtherInstallation {
                portal,
                kind,
                proof,
                is_disputed: _,
            }) => {
                let why = match proof {
                    OwnershipProof::Unknown => {
                        "nothing proves yet that it is of the installation of"
                    }
                    OwnershipProof::Proven | OwnershipProof::Other => {
                        "its application token is not that of the installation of"
                    }
                };
                let grant = kind.map_or_else(
                    || ", whose grant is gone".to_owned(),
                    |kind| format!(", whose grant is another user's and {}", kind.as_str()),
                );
                (Outcome::Forged, format!("{why} {portal}{grant}"))
            }
            Ok(InstallOutcome::Replayed) => (
                Outcome::Replayed,
                "its refresh token came before, or the event is of another day".to_owned(),
            ),
            Ok(InstallOutcome::NoName) => {
                let text = "every name that the portal could have is taken; change `name` in [apps.NAME.install]";
                (Outcome::NotStored, text.to_owned())
            }
        }
    }

    /// Verifies the token's owner; returns the server that confirmed it. Retries within limits: a rejection counts once
    /// every server has repeated it, and "not installed" only after enough time for the installation to complete.
    async fn owner(
        &self,
        app: &App,
        presented: &PresentedGrant,
    ) -> Result<(TokenOwner, PresentedToken, String), EventResult> {
        let urls = verification_urls(&app.profile, &presented.claims);
        if urls.is_empty() {
            return Err((
                Outcome::Ignored,
                "the provider has no `install_check`".to_owned(),
            ));
        }
        let mut wait = FIRST_WAIT;
        let (mut rejections, mut refused, mut why, mut asked) = (0, None, String::new(), 0);
        for attempt in 1..=MAX_ATTEMPTS {
            refused = None;
            let mut all_refuse = true;
            for url in &urls {
                asked += 1;
                let Some(verification) = self.verify_owner_at(url, app, presented).await else {
                    return Err(unverified(&why));
                };
                match verification {
                    Verification::Owner(owner, token) => {
                        // Verifications that were charged in advance and not made are refunded at the end of processing.
                        self.budget().refund(&self.sender, asked);
                        return Ok((owner, token, url.clone()));
                    }
                    Verification::Forged(forgery) if forgery.is_final() => {
                        return Err((Outcome::Forged, forgery.to_string()));
                    }
                    Verification::Forged(forgery) => {
                        // Only a server that knows the token reports that the app is not installed.
                        if refused.is_none() || forgery == VerifyError::NotInstalled {
                            refused = Some(forgery);
                        }
                    }
                    Verification::Later(later) => {
                        all_refuse = false;
                        why = later;
                    }
                }
            }
            rejections += u32::from(all_refuse);
            if all_refuse
                && rejections >= REQUIRED_REJECTIONS
                && refused != Some(VerifyError::NotInstalled)
            {
                break;
            }
            if attempt < MAX_ATTEMPTS && !self.pause(&mut wait).await {
                break;
            }
        }
        match refused {
            Some(forgery) if rejections >= REQUIRED_REJECTIONS => {
                Err((Outcome::Forged, forgery.to_string()))
            }
            Some(forgery) if why.is_empty() => Err(unverified(&format!(
                "it was asked once only, and said: {forgery}"
            ))),
            _ => Err(unverified(&why)),
        }
    }
}
