//! What the daemon's tasks have in common: the doors to the outside, the configuration in force, and health.
//!
//! Must not hold a lock across an `await`: the configuration is an `Arc` that readers take and reloads replace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};

use crate::adapters::authorization_server::AuthorizationServer;
use crate::adapters::channels::Notifier;
use crate::adapters::clock::{Clock, Tick};
use crate::adapters::metrics::Metrics;
use crate::adapters::state::{AppFingerprint, State};
use crate::config::{App, Config};
use crate::daemon::alerts::{Conditions, Outboxes};
use crate::daemon::authorize::Authorizations;
use crate::daemon::carry::Carry;
use crate::daemon::install::Refusals;
use crate::daemon::publisher::Publisher;
use crate::domain::candidate::ImportResult;
use crate::domain::name::PortalName;
use crate::domain::provider::Class;
use crate::domain::schedule::RenewEvery;
use crate::domain::secret::Fingerprint;
use crate::domain::settings::Configured;
use crate::domain::token::Generation;

/// Live means that the scheduler made progress in this time.
const LIVE: Duration = Duration::from_secs(60);
/// Writable means that the state took something in about this time; the loop goes round at least twice a minute.
const RECENT_WRITE: Duration = Duration::from_secs(45);

/// What the daemon's tasks share.
pub struct Context {
    /// Time and chance.
    pub clock: Clock,
    /// The private store.
    pub state: State,
    /// The way to authorization servers.
    pub server: AuthorizationServer,
    /// The token files.
    pub publisher: Publisher,
    courier: Notifier,
    /// What the service manager keeps for the next process.
    pub carry: Carry,
    /// What is wrong with this machine.
    pub conditions: Arc<Conditions>,
    /// What people are told.
    pub post: Outboxes,
    /// What only the daemon can count.
    pub metrics: Metrics,
    /// Whether it is well.
    pub health: Health,
    /// Who waits for a renewal's outcome.
    pub waiters: Waiters<PortalName, RenewalReport>,
    /// Who waits for what becomes of a candidate.
    pub proofs: Waiters<(PortalName, Option<Fingerprint>), ImportResult>,
    /// What is wrong with files of first tokens, so that it is said once.
    pub file_problems: FileProblems,
    /// What is wrong with files of the secrets of refused clients, likewise.
    pub secret_problems: FileProblems,
    /// Authorizations under way.
    pub authorizations: Authorizations,
    undiscovered: Mutex<BTreeMap<String, String>>,
    /// What was said of notices that were refused.
    pub refusals: Refusals,
    /// Wakes the renewer.
    pub due: Notify,
    /// Wakes who proves candidates.
    pub candidates: Notify,
    /// Wakes the escalator.
    pub climb: Notify,
    current: watch::Sender<Arc<Config>>,
}

/// The doors to the outside, opened.
pub struct ContextParts {
    /// Time and chance.
    pub clock: Clock,
    /// The private store.
    pub state: State,
    /// The way to authorization servers.
    pub server: AuthorizationServer,
    /// The way to people.
    pub courier: Notifier,
    /// The token files.
    pub publisher: Publisher,
    /// What the service manager keeps for the next process.
    pub carry: Carry,
    /// What is wrong with this machine.
    pub conditions: Arc<Conditions>,
}

impl Context {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: ContextParts, metrics: Metrics, config: Arc<Config>) -> Self {
        let ContextParts {
            clock,
            state,
            server,
            courier,
            publisher,
            carry,
            conditions,
        } = parts;
        Self {
            clock,
            state,
            server,
            publisher,
            courier,
            carry,
            conditions,
            post: Outboxes::default(),
            metrics,
            health: Health::new(clock),
            waiters: Waiters::default(),
            proofs: Waiters::default(),
            file_problems: FileProblems::default(),
            secret_problems: FileProblems::default(),
            authorizations: Authorizations::default(),
            undiscovered: Mutex::default(),
            refusals: Refusals::default(),
            due: Notify::new(),
            candidates: Notify::new(),
            climb: Notify::new(),
            current: watch::Sender::new(config),
        }
    }

    /// The configuration in force. Its portals are in the state.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.current.borrow())
    }

    /// The way to people, under the name that the configuration in force gives.
    #[must_use]
    pub fn courier(&self) -> Notifier {
        let alerts = &self.config().alerts;
        self.courier.named(&alerts.instance, alerts.url.as_deref())
    }

    /// Notes the issuers whose metadata is not known, each with why.
    pub fn set_undiscovered(&self, issuers: BTreeMap<String, String>) {
        *self
            .undiscovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = issuers;
    }

    /// Why the metadata of an issuer is not known; `None` if it is.
    #[must_use]
    pub fn why_undiscovered(&self, issuer: &str) -> Option<String> {
        self.undiscovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(issuer)
            .cloned()
    }

    /// Whether there are issuers whose metadata is not known.
    #[must_use]
    pub fn has_undiscovered(&self) -> bool {
        !self
            .undiscovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Puts another configuration in force in place of this one; false if this one is not in force any more.
    pub fn replace_config(&self, before: &Arc<Config>, config: Arc<Config>) -> bool {
        self.current.send_if_modified(|current| {
            let same = Arc::ptr_eq(current, before);
            if same {
                *current = config;
            }
            same
        })
    }

    /// Puts another configuration in force.
    pub fn set_config(&self, config: Arc<Config>) {
        self.current.send_replace(config);
    }
}

/// The portals of a configuration in the state's words, taken out of it: memory does not keep them.
#[must_use]
pub fn configured_portals(config: &mut Config) -> Vec<Configured> {
    let mut urls: HashMap<&str, Arc<[String]>> = HashMap::new();
    for app in config.apps.values() {
        urls.insert(&app.name, app.renewal_urls().into_iter().collect());
    }
    let portals = std::mem::take(&mut config.portals);
    portals
        .into_iter()
        .filter_map(|portal| {
            let app = config.apps.get(&portal.settings.app)?;
            let every = portal
                .settings
                .renew_every
                .map_or(app.profile.renew_every, RenewEvery::from);
            Some(Configured {
                every: every.into(),
                token_url: portal.renewal_url(app),
                allowed_urls: urls.get(app.name.as_str()).cloned().unwrap_or_default(),
                binding: app.binding(portal.settings.domain.as_deref()),
                name: portal.name,
                settings: portal.settings,
            })
        })
        .collect()
}

/// What each client is, so that a change of it is noticed.
#[must_use]
pub fn app_fingerprints(config: &Config) -> Vec<AppFingerprint> {
    config.apps.values().map(app_fingerprint).collect()
}

/// What a client is.
#[must_use]
pub fn app_fingerprint(app: &App) -> AppFingerprint {
    let secret = app
        .client_secret
        .as_ref()
        .map(|secret| Fingerprint::of(secret.expose().as_bytes()));
    let secret = secret.map(|secret| *secret.bytes()).unwrap_or_default();
    let mut what = format!("{}\n{}\n", app.client_id, app.profile.token_url).into_bytes();
    what.extend_from_slice(&secret);
    AppFingerprint {
        name: app.name.clone(),
        fingerprint: Fingerprint::of(&what),
        install: app.install_terms(),
    }
}

/// Whether the daemon is well. Everything here can be ill.
pub struct Health {
    clock: Clock,
    progress: Mutex<Tick>,
    written: Mutex<Tick>,
    unwritable: AtomicBool,
    unpublished: AtomicU64,
    stopping: AtomicBool,
}

impl Health {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            progress: Mutex::new(clock.tick()),
            written: Mutex::new(clock.tick()),
            unwritable: AtomicBool::new(false),
            unpublished: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// The scheduler went round once more.
    pub fn progress(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
    }

    /// Whether the scheduler went round within the last minute.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.clock.elapsed(progress) < LIVE
    }

    /// Notes whether the state could be written; true if that changed.
    pub fn state_writable(&self, writable: bool) -> bool {
        if writable {
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
        }
        self.unwritable.swap(!writable, Ordering::Relaxed) == writable
    }

    /// Whether the last write to the state went well.
    #[must_use]
    pub fn is_state_writable(&self) -> bool {
        !self.unwritable.load(Ordering::Relaxed)
    }

    /// Whether it must be seen that the state can be written: it could not, or nothing was written for a while.
    #[must_use]
    pub fn is_state_unproven(&self) -> bool {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_state_writable() || self.clock.elapsed(written) >= RECENT_WRITE
    }

    /// Notes how many portals' files could not be written.
    pub fn unpublished(&self, portals: u64) {
        self.unpublished.store(portals, Ordering::Relaxed);
    }

    /// How many portals' files could not be written.
    #[must_use]
    pub fn count_unpublished(&self) -> u64 {
        self.unpublished.load(Ordering::Relaxed)
    }

    /// Notes that the daemon is about to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether it is about to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// How a renewal ended, for whoever asked for it.
#[derive(Debug, Clone)]
pub struct RenewalReport {
    /// `None`: renewed.
    pub failure: Option<(Class, String)>,
    /// The generation in force.
    pub generation: Generation,
    /// The generation whose refresh token was sent.
    pub sent: Generation,
    /// Whether an import or `forget` came first, so that this outcome does not count.
    pub set_aside: bool,
}

/// Who waits for the outcome of what: of a portal's renewal, or of a candidate's proof.
pub struct Waiters<K, T>(Mutex<HashMap<K, Vec<oneshot::Sender<T>>>>);

impl<K, T> Default for Waiters<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Waiters<K, T> {
    /// Waits for the next outcome. Take this before it is asked for.
    #[must_use]
    pub fn wait_for(&self, what: &K) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = waiting.entry(what.clone()).or_default();
        queue.retain(|waiter| !waiter.is_closed());
        queue.push(sender);
        receiver
    }

    /// Tells all who wait for it.
    pub fn tell(&self, what: &K, report: &T) {
        let waiting = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(what);
        for waiter in waiting.into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = waiter.send(report.clone());
        }
    }

    /// Tells all who wait for one of these.
    pub fn tell_each(&self, is_meant: impl Fn(&K) -> bool, report: &T) {
        let keys: Vec<K> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .filter(|key| is_meant(key))
            .cloned()
            .collect();
        keys.iter().for_each(|key| self.tell(key, report));
    }

    /// Forgets those who gave up.
    pub fn tidy(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, queue| {
            queue.retain(|waiter| !waiter.is_closed());
            !queue.is_empty()
        });
    }
}

/// Problems of files that last, by the portal or the app that needs the file.
#[derive(Default)]
pub struct FileProblems(Mutex<HashMap<String, String>>);

impl FileProblems {
    /// Notes what is wrong now; true if that was not known.
    #[must_use]
    pub fn is_new(&self, whose: &str, problem: Option<&str>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => {
                known
                    .insert(whose.to_owned(), problem.to_owned())
                    .as_deref()
                    != Some(problem)
            }
            None => {
                known.remove(whose);
                false
            }
        }
    }

    /// What was found wrong last.
    #[must_use]
    pub fn of(&self, whose: &str) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(whose)
            .cloned()
    }
}

/// Every token endpoint that the configuration may send to.
#[must_use]
pub fn token_urls(config: &Config) -> BTreeSet<String> {
    config.apps.values().flat_map(App::renewal_urls).collect()
}
