//! Works notices off: asks whose the token is, keeps the grant, tells of it. Some at a time, in no order.
//!
//! Must not send a token anywhere but to an authorization server of the profile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Job, Told};
use crate::adapters::state::{Install, Installed, StateError, Uninstall, Uninstalled};
use crate::config::App;
use crate::daemon::publisher::chain;
use crate::daemon::shared::Shared;
use crate::domain::install::{Occasion, Outcome};
use crate::domain::intake;
use crate::domain::name::PortalName;
use crate::domain::notice::{Notice, Presented, Removal};
use crate::domain::portal::Problem;
use crate::domain::provider::Class;
use crate::domain::whose::{Heard, Owner, hear, place};

/// Notices worked off at a time.
const WORKERS: usize = 16;
/// The authorization server is asked so often, and the state too, with the first wait doubled each time.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// After the daemon was told to stop, servers have this long to answer for what was taken in.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Works off what comes until the queue ends.
pub(super) async fn run(shared: Arc<Shared>, jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
    let (clock, enough) = (shared.clock, CancellationToken::new());
    let mut work = std::pin::pin!(work_off(shared, jobs, enough.clone()));
    let patience = async {
        stop.cancelled().await;
        clock.sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        () = &mut work => return,
        () = patience => enough.cancel(),
    }
    work.await;
}

async fn work_off(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>, enough: CancellationToken) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            job = jobs.recv(), if under_way.len() < WORKERS => match job {
                Some(job) => {
                    let worker = Worker { shared: Arc::clone(&shared), enough: enough.clone() };
                    under_way.spawn(async move { worker.work(job).await });
                }
                None => break,
            },
            Some(done) = under_way.join_next() => {
                if let Err(error) = done {
                    // Ends the listener, and so the daemon with a reason.
                    return tracing::error!(%error, "working an install off panicked");
                }
            }
        }
    }
    while under_way.join_next().await.is_some() {}
}

/// What became of a notice, and the sentence that is told of it.
type Ended = (Outcome, String);

struct Worker {
    shared: Arc<Shared>,
    /// Nothing is waited for any more.
    enough: CancellationToken,
}

impl Worker {
    async fn work(&self, job: Job) {
        let Job { app: name, notice, source } = job;
        let config = self.shared.config();
        let host = match &notice {
            Notice::Opened(it) | Notice::Installed(it) | Notice::SystemUser(it) => it.claims.host.clone(),
            Notice::Removed(removal) => removal.host.clone(),
            Notice::Other => None,
        };
        let (outcome, reason) = match config.apps.get(&name).filter(|app| app.install.is_some()) {
            None => (
                Outcome::Ignored,
                "the configuration does not take this app's installs in any more".to_owned(),
            ),
            Some(app) => match notice {
                Notice::Opened(it) => self.keep(app, Occasion::Opened, it).await,
                Notice::Installed(it) => self.keep(app, Occasion::Installed, it).await,
                Notice::SystemUser(it) => self.keep(app, Occasion::SystemUser, it).await,
                Notice::Removed(removal) => self.remove(app, removal).await,
                Notice::Other => (Outcome::Ignored, "it says nothing about grants".to_owned()),
            },
        };
        Told { app: &name, outcome, host: host.as_deref(), source, reason: &reason }.tell(&self.shared);
    }

    async fn keep(&self, app: &App, occasion: Occasion, presented: Presented) -> Ended {
        let owner = match self.owner(app, &presented).await {
            Ok(owner) => owner,
            Err(ended) => return ended,
        };
        let Some(terms) = app.install_terms() else { return (Outcome::Ignored, String::new()) };
        let now = self.shared.clock.now();
        let intake = match intake::from_notice(&presented, &owner, &app.profile, now) {
            Ok(intake) => intake,
            Err(error) => return (Outcome::Malformed, error.to_string()),
        };
        let Presented { application_token, sent_at, .. } = presented;
        let store = || {
            let (terms, owner, intake) = (terms.clone(), owner.clone(), intake.clone());
            let application_token = application_token.clone();
            self.shared.state.install(Install {
                terms,
                occasion,
                owner,
                intake,
                application_token,
                sent_at,
                now,
            })
        };
        match self.durably(store).await {
            Err(error) => (Outcome::NotStored, format!("the state does not take it: {}", chain(&error))),
            Ok(Installed::Stored { portal, generation, resumed }) => {
                self.publish(&portal).await;
                self.shared.due.notify_one();
                let words = if resumed { "has a new grant" } else { "was taken in" };
                let text = format!(
                    "{portal}: a portal of {} {words} by an install (generation {generation})",
                    app.name
                );
                (if resumed { Outcome::Resumed } else { Outcome::Stored }, text)
            }
            Ok(Installed::FreshAlready(portal)) => {
                (Outcome::FreshAlready, format!("the grant of {portal} lives"))
            }
            Ok(Installed::OtherUser(portal)) => {
                (Outcome::OtherUser, format!("the grant of {portal} is another user's"))
            }
            Ok(Installed::OtherInstallation(portal)) => {
                let text = format!(
                    "its application token is not that of the installation of {portal}, whose grant lives"
                );
                (Outcome::Forged, text)
            }
            Ok(Installed::Replayed) => (
                Outcome::Replayed,
                "its refresh token came before, or the event is of another day".to_owned(),
            ),
            Ok(Installed::NoName) => {
                let text =
                    "every name that the portal could have is taken; change `name` in [apps.NAME.install]";
                (Outcome::NotStored, text.to_owned())
            }
        }
    }

    /// Whose the token is, asked as often as it takes within bounds.
    async fn owner(&self, app: &App, presented: &Presented) -> Result<Owner, Ended> {
        let Some(url) = place(&app.profile, &presented.claims) else {
            return Err((Outcome::Ignored, "the provider has no `install_check`".to_owned()));
        };
        let mut wait = FIRST_WAIT;
        let mut why = String::new();
        for attempt in 1..=TRIES {
            let question = self.shared.server.whose(&url, &presented.access, QUESTION);
            let answer = tokio::select! {
                biased;
                answer = question => answer,
                () = self.enough.cancelled() => break,
            };
            match answer
                .map(|(status, body)| hear(status, &body, &app.profile, &app.client_id, &presented.claims))
            {
                Ok(Heard::Owner(owner)) => return Ok(owner),
                Ok(Heard::Forged(forgery)) => return Err((Outcome::Forged, forgery.to_string())),
                Ok(Heard::Later(later)) => why = later,
                Err(error) => why = error,
            }
            if attempt < TRIES && !self.pause(&mut wait).await {
                break;
            }
        }
        let text = format!(
            "the authorization server did not say whose it is ({why}); the portal brings it again when the app is opened"
        );
        Err((Outcome::Unverified, text))
    }

    async fn remove(&self, app: &App, removal: Removal) -> Ended {
        let Removal { member_id, host: _, application_token, sent_at } = removal;
        let remedy = app
            .profile
            .errors
            .iter()
            .find(|rule| rule.class == Class::Gone)
            .and_then(|rule| rule.remedy.clone());
        let detail = "the portal told that the app was removed from it".to_owned();
        let problem = Problem { remedy, ..Problem::new(Class::Gone, detail) };
        let now = self.shared.clock.now();
        let store = || {
            self.shared.state.uninstall(Uninstall {
                app: app.name.clone(),
                binding: app.binding(None),
                member_id: member_id.clone(),
                application_token: application_token.clone(),
                sent_at,
                now,
                problem: problem.clone(),
            })
        };
        match self.durably(store).await {
            Err(error) => (Outcome::NotStored, format!("the state does not take it: {}", chain(&error))),
            Ok(Uninstalled::Unknown) => {
                (Outcome::Forged, "no application token of such an installation is known".to_owned())
            }
            Ok(Uninstalled::OtherToken) => {
                (Outcome::Forged, "its application token is not that of the installation".to_owned())
            }
            Ok(Uninstalled::Replayed) => (
                Outcome::Replayed,
                "the removal came before, is older than the last install, or of another day".to_owned(),
            ),
            Ok(Uninstalled::Gone(portals)) => {
                for portal in &portals {
                    self.publish(portal).await;
                }
                let names: Vec<_> = portals.iter().map(PortalName::as_str).collect();
                let names = if names.is_empty() { "no living grant".to_owned() } else { names.join(", ") };
                (Outcome::Uninstalled, format!("{} was removed from a portal: {names} is gone", app.name))
            }
        }
    }

    async fn publish(&self, portal: &PortalName) {
        let failing = self.shared.publisher.publish(portal).await;
        self.shared.health.unpublished(failing);
        self.shared.climb.notify_one();
    }

    /// Writes to the state, again and again within bounds.
    async fn durably<T, F>(&self, write: impl Fn() -> F) -> Result<T, StateError>
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
    async fn pause(&self, wait: &mut Duration) -> bool {
        let span = wait.mul_f64(0.75 + self.shared.clock.chance() / 2.0);
        *wait *= 2;
        tokio::select! {
            biased;
            () = self.enough.cancelled() => false,
            () = self.shared.clock.sleep(span) => true,
        }
    }
}
