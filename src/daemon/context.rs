//! Data shared by the daemon's tasks: the adapters, the configuration in force, and health.
//!
//! Must not hold a lock across an `await`: the configuration is an `Arc` that readers clone and reloads replace.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::adapters::metrics::Metrics;
use crate::adapters::state::State;
use crate::config::{App, Config};
use crate::daemon::alerts::Conditions;
use crate::daemon::grants::pending_authorizations::Authorizations;
use crate::daemon::health::Health;
use crate::daemon::install::Refusals;
use crate::daemon::log_limits::LogLimits;
use crate::daemon::renewal::carry::Carry;
use crate::daemon::renewal::publisher::Publisher;
use crate::daemon::waiters::{RenewalReport, Waiters};
use crate::domain::candidate::ImportResult;
use crate::domain::name::PortalName;
use refreshd_alerting::Outboxes;
use refreshd_alerting::channels::Notifier;
use refreshd_secrets::Fingerprint;
use refreshd_time::clock::Clock;
use refreshd_token_client::authorization_server::AuthorizationServer;

/// Data shared by the daemon's tasks.
pub struct Context {
    /// Time and randomness.
    pub clock: Clock,
    /// The private store.
    pub state: State,
    server: AuthorizationServer,
    /// Publisher of the token files.
    pub publisher: Publisher,
    notifier: Notifier,
    /// Copies of unsaved pairs at the service manager, for the next process.
    pub carry: Carry,
    /// Conditions of this machine.
    pub conditions: Arc<Conditions>,
    /// There were traces of unconfigured portals at the start.
    pub has_orphaned_traces: bool,
    /// Queued notifications.
    pub outboxes: Outboxes,
    /// Counters of this process.
    pub metrics: Metrics,
    /// Health of the daemon.
    pub health: Health,
    /// Callers that await a renewal's outcome.
    pub waiters: Waiters<PortalName, RenewalReport>,
    /// Callers that await a candidate's outcome.
    pub proofs: Waiters<(PortalName, Option<Fingerprint>), ImportResult>,
    /// Last logged problems with files of first tokens, so that each is logged once.
    pub file_problems: FileProblems,
    /// Last logged problems with secret files of rejected clients.
    pub secret_problems: FileProblems,
    /// Authorizations under way.
    pub authorizations: Authorizations,
    undiscovered: Mutex<BTreeMap<String, String>>,
    /// Log of rejected install events.
    pub refusals: Refusals,
    /// Log of renewals and escalations.
    pub log_limits: LogLimits,
    /// Wakes the renewer.
    pub due: Notify,
    /// Wakes the task that proves candidates.
    pub candidates: Notify,
    /// Wakes the escalator.
    pub escalation_wake: Notify,
    current: watch::Sender<Arc<Config>>,
}

/// The opened adapters.
pub struct ContextParts {
    /// Time and randomness.
    pub clock: Clock,
    /// The private store.
    pub state: State,
    /// HTTP client of authorization servers.
    pub server: AuthorizationServer,
    /// Client of the alert channels.
    pub notifier: Notifier,
    /// Publisher of the token files.
    pub publisher: Publisher,
    /// Copies of unsaved pairs at the service manager, for the next process.
    pub carry: Carry,
    /// Conditions of this machine.
    pub conditions: Arc<Conditions>,
    /// There are traces of unconfigured portals.
    pub has_orphaned_traces: bool,
}

impl Context {
    /// Creates the context.
    #[must_use]
    pub fn new(parts: ContextParts, metrics: Metrics, config: Arc<Config>) -> Self {
        let ContextParts {
            clock,
            state,
            server,
            notifier,
            publisher,
            carry,
            conditions,
            has_orphaned_traces,
        } = parts;
        Self {
            clock,
            state,
            server,
            publisher,
            notifier,
            carry,
            conditions,
            has_orphaned_traces,
            outboxes: Outboxes::default(),
            metrics,
            health: Health::new(clock),
            waiters: Waiters::default(),
            proofs: Waiters::default(),
            file_problems: FileProblems::default(),
            secret_problems: FileProblems::default(),
            authorizations: Authorizations::default(),
            undiscovered: Mutex::default(),
            refusals: Refusals::default(),
            log_limits: LogLimits::new(clock.now()),
            due: Notify::new(),
            candidates: Notify::new(),
            escalation_wake: Notify::new(),
            current: watch::Sender::new(config),
        }
    }

    /// The configuration in force. Its portals are in the state.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.current.borrow())
    }

    /// HTTP client of the servers of an app.
    #[must_use]
    pub fn server(&self, app: &App) -> AuthorizationServer {
        self.server.over(&app.network)
    }

    /// HTTP client to be used [over](AuthorizationServer::over) the network of a configuration that is not in force yet.
    pub(crate) const fn any_server(&self) -> &AuthorizationServer {
        &self.server
    }

    /// Client of the alert channels, with the instance name of the configuration in force.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        let alerts = &self.config().alerts;
        self.notifier.named(&alerts.instance, alerts.url.as_deref())
    }

    /// Records the issuers without metadata, each with the reason.
    pub fn set_undiscovered(&self, issuers: BTreeMap<String, String>) {
        *self
            .undiscovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = issuers;
    }

    /// Reason why the metadata of an issuer is missing; `None` if it is known.
    #[must_use]
    pub fn why_undiscovered(&self, issuer: &str) -> Option<String> {
        self.undiscovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(issuer)
            .cloned()
    }

    /// Returns whether the metadata of an issuer is missing.
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

/// Lasting problems with files, by the portal or the app that needs the file.
#[derive(Default)]
pub struct FileProblems(Mutex<HashMap<String, String>>);

impl FileProblems {
    /// Records the present problem; true if it is new.
    #[must_use]
    pub fn is_new(&self, owner: &str, problem: Option<&str>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => {
                known
                    .insert(owner.to_owned(), problem.to_owned())
                    .as_deref()
                    != Some(problem)
            }
            None => {
                known.remove(owner);
                false
            }
        }
    }

    /// Last recorded problem.
    #[must_use]
    pub fn of(&self, owner: &str) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(owner)
            .cloned()
    }
}
