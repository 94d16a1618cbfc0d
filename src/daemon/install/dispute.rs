//! Disputed installs: of another user than the one whose grant a portal has. An operator decides which grant is right.
//!
//! Must not touch the present grant. Must not send a token anywhere but to the portal that the authorization server has
//! named for it, to query whether its user is an administrator.

use std::sync::PoisonError;
use std::time::Duration;

use crate::adapters::state::{InstallOutcome, InstalledGrant, NewDispute, RecordedDispute};
use crate::config::App;
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::install::worker::{EventResult, Worker};
use crate::domain::dispute::{Dispute, needs_decision};
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::EscalationNotice;
use crate::domain::install::{EventKind, Outcome};
use crate::domain::name::PortalName;
use crate::domain::token_owner::{admin_url, read_is_admin};
use refreshd_alerting::Severity;
use refreshd_secrets::AccessToken;

/// Timeout of the query whether a user is an administrator.
const ADMIN_QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which its result, or its failure, is cached.
const ADMIN_CACHE_TTL: Duration = Duration::from_secs(600);
/// Maximum number of cached results.
const MAX_CACHED_ADMINS: usize = 1000;

impl Worker {
    /// Opens a dispute, if the outcome calls for one. `by` is the authorization server that verified the `token` of the
    /// install. `None`: there is no dispute, and the outcome is reported as it is.
    pub(crate) async fn open_dispute(
        &self,
        app: &App,
        install: &InstalledGrant,
        token: &AccessToken,
        by: &str,
        found: &InstallOutcome,
    ) -> Option<EventResult> {
        let portal = match found {
            InstallOutcome::OtherUser {
                portal,
                by_notice: true,
                ..
            }
            | InstallOutcome::OtherInstallation {
                portal,
                is_disputed: true,
                ..
            } => portal,
            _ => return None,
        };
        // The portal may respond slowly, and other events wait for this worker's slot.
        self.turn.leave();
        let place = admin_url(&app.profile, &install.owner, by);
        let place = place.as_deref();
        let who = (portal.to_string(), install.owner.user_id.clone());
        let is_admin = self.is_admin(app, place, who, token).await;
        // Most visits are of employees: no further query is made about them.
        if install.occasion == EventKind::Opened && is_admin != Some(true) {
            return None;
        }
        let holder_is_admin = self.holder_is_admin(app, place, portal).await;
        if !needs_decision(install.occasion, is_admin, holder_is_admin) {
            return None;
        }
        let noted = self
            .note(app, install, portal, (is_admin, holder_is_admin))
            .await?;
        let words = |why: &str| {
            Some((
                Outcome::OtherUser,
                format!("user {} of {portal}: {why}", install.owner.user_id),
            ))
        };
        match noted {
            RecordedDispute::New(dispute) => {
                let (reason, action) = (dispute.reason(), dispute.action(portal.as_str()));
                let notice = EscalationNotice {
                    step: "disputed".to_owned(),
                    severity: Severity::Critical,
                    reason,
                    action,
                    remaining: None,
                };
                log_escalation(EscalationSubject::Portal(portal), &notice);
                self.shared.conditions.changed.notify_one();
                words("another user's grant is kept; a person decides whose: refreshd install list")
            }
            RecordedDispute::Known => {
                words("a person has still to decide whose grant is kept: refreshd install list")
            }
            RecordedDispute::Outranked => words(
                "another user's grant is kept, and a person has still to decide about a third user: refreshd install list",
            ),
            RecordedDispute::Refused => words("a person has refused this user's installs before"),
            RecordedDispute::Moot => None,
        }
    }

    async fn note(
        &self,
        app: &App,
        install: &InstalledGrant,
        portal: &PortalName,
        (is_admin, holder_is_admin): (Option<bool>, Option<bool>),
    ) -> Option<RecordedDispute> {
        let now = self.shared.clock.now();
        let dispute = NewDispute {
            newcomer: Dispute {
                portal: portal.clone(),
                app: app.name.clone(),
                user: install.owner.user_id.clone(),
                holder: None,
                occasion: install.occasion,
                is_admin,
                holder_is_admin,
                since: now,
                is_accepted: false,
            },
            binding: install.terms.binding,
            member_id: install.owner.member_id.clone(),
            refresh: install.imported.tokens.credential.refresh()?.clone(),
            details: install.imported.tokens.details.clone(),
            server: install.imported.server.clone(),
            application_token: install.application_token.clone(),
            now,
        };
        match self
            .until_durable(|| self.shared.state.record_dispute(dispute.clone()))
            .await
        {
            Ok(noted) => Some(noted),
            Err(error) => {
                tracing::error!(portal = %portal, error = %error_chain(&error), "{portal}: an install that a person should decide about cannot be kept");
                None
            }
        }
    }

    /// Whether the user of the present grant is an administrator, if its access token is still valid.
    async fn holder_is_admin(
        &self,
        app: &App,
        place: Option<&str>,
        portal: &PortalName,
    ) -> Option<bool> {
        let grant = self
            .shared
            .state
            .portal(portal.clone())
            .await
            .ok()??
            .grant?;
        let access = grant
            .tokens
            .access
            .filter(|access| access.expires_at > self.shared.clock.now())?;
        let who = (
            portal.to_string(),
            format!("generation {}", grant.generation.0),
        );
        self.is_admin(app, place, who, &access.token).await
    }

    /// Queries the portal whether a user is an administrator; `None` if it does not respond.
    async fn is_admin(
        &self,
        app: &App,
        place: Option<&str>,
        who: (String, String),
        token: &AccessToken,
    ) -> Option<bool> {
        let (place, clock) = (place?, self.shared.clock);
        {
            let mut admins = self.admins.lock().unwrap_or_else(PoisonError::into_inner);
            admins.retain(|_, (at, _)| clock.elapsed(*at) < ADMIN_CACHE_TTL);
            if let Some((_, known)) = admins.get(&who) {
                return *known;
            }
        }
        let answer = self
            .shared
            .server(app)
            .token_owner(place, token, ADMIN_QUERY_TIMEOUT)
            .await;
        let is_admin = answer
            .ok()
            .and_then(|(status, body)| read_is_admin((status, &body)));
        let mut admins = self.admins.lock().unwrap_or_else(PoisonError::into_inner);
        if admins.len() < MAX_CACHED_ADMINS {
            admins.insert(who, (clock.tick(), is_admin));
        }
        is_admin
    }
}
