//! Public view of a portal: for the status, the page and the control socket. Must not contain a secret.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adapters::state::StateError;
use crate::config::Config;
use crate::daemon::context::Context;
use crate::domain::candidate::PendingCandidate;
use crate::domain::display_level::DisplayLevel;
use crate::domain::escalation::{
    OVERDUE_SHARE, action, action_now, overdue_at, refresh_end_of, still_notified,
};
use crate::domain::hint::HintContext;
use crate::domain::kept_reply::KeptCount;
use crate::domain::portal::{Kind, Lost, Phase, Portal};
use crate::domain::refresh_warning;
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;

/// A portal as `GET /v1/portals` shows it. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortalView {
    /// Name of the portal.
    pub portal: String,
    /// Name of the provider.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider: Option<String>,
    /// Its app.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub app: Option<String>,
    /// Present phase.
    pub phase: Kind,
    /// Whether readers have a valid token and there is no problem.
    pub fresh: bool,
    /// Number of its pairs.
    pub generation: u64,
    /// Expiry of the access token (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<String>,
    /// Seconds until then; 0 once expired.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_in: Option<u64>,
    /// Expiry of the refresh token (RFC 3339), if the server reports it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refresh_expires_at: Option<String>,
    /// Seconds until then; 0 once it has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refresh_expires_in: Option<u64>,
    /// Effect of renewals on that expiry: `moves`, `fixed`, or `unknown` before the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refresh_end: Option<String>,
    /// Time of the newest pair.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub renewed_at: Option<String>,
    /// Seconds since then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub renewed_ago: Option<u64>,
    /// Time of the next request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_renewal: Option<String>,
    /// Seconds until then; 0 if it is due.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_renewal_in: Option<u64>,
    /// Whether the renewal is late by 30 % of its available time.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub overdue: bool,
    /// URL of its API.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<String>,
    /// Most recent error, unless fresh.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<Problem>,
    /// Identity of the grant's owner, once known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<String>,
    /// An imported grant that is not proved yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub candidate: Option<CandidateView>,
    /// Logged escalation steps that are not resolved yet.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub incident: Vec<String>,
    /// Further notice: an unparsable lifetime in the response.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub notice: Option<String>,
    /// Recommended action of the operator, unless nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub action: Option<String>,
    /// Reason why nothing is sent, and until when: its app's client is rejected, or rejected for this portal alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits: Option<String>,
    /// Stored responses that may contain a pair and could not be parsed; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unread_replies: Option<UnreadReplies>,
}

/// Stored responses that could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadReplies {
    /// Number of them.
    pub count: u64,
    /// Time of the newest one's request (RFC 3339).
    pub newest: String,
    /// Command that parses them again.
    pub action: String,
}

/// A candidate as [`PortalView`] shows it. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateView {
    /// Origin: `import` or `refresh_token_file`.
    pub origin: String,
    /// Time of the import (RFC 3339).
    pub since: String,
    /// Status of its verification, with the values of [`PortalView::phase`]: `fresh` until the first attempt.
    pub phase: Kind,
    /// Time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_try: Option<String>,
    /// Seconds until then; 0 if it is due.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_try_in: Option<u64>,
    /// Reason why it is not proved yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<Problem>,
}

impl CandidateView {
    fn of(pending: &PendingCandidate, now: Timestamp) -> Self {
        let PendingCandidate {
            origin,
            since,
            kind,
            problem,
            next_attempt_at,
        } = pending;
        Self {
            origin: origin.as_str().to_owned(),
            since: since.to_string(),
            phase: *kind,
            next_try: next_attempt_at.map(|at| at.to_string()),
            next_try_in: next_attempt_at.map(|at| at.until(now).as_secs()),
            last_error: problem.as_ref().map(|problem| Problem {
                remedy: None,
                ..problem.clone()
            }),
        }
    }

    /// One-line text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            origin,
            since,
            next_try,
            last_error,
            ..
        } = self;
        let why = last_error
            .as_ref()
            .map(|problem| format!(", not proved yet: {}", problem.text()))
            .unwrap_or_default();
        let next = next_try
            .as_ref()
            .map(|at| format!("; tried again at {at}"))
            .unwrap_or_default();
        format!("received ({origin}) at {since}{why}{next}")
    }
}

impl PortalView {
    /// Public view of a portal now.
    #[must_use]
    pub fn of(portal: &Portal, config: &Config, now: Timestamp) -> Self {
        let kind = portal.kind();
        let grant = portal.grant.as_ref();
        let access = grant.and_then(|grant| grant.tokens.access.as_ref());
        let next_attempt_at = grant
            .and_then(|grant| grant.status.next_attempt_at)
            .filter(|_| kind.sends());
        let app = portal
            .settings
            .as_ref()
            .map(|settings| settings.app.clone());
        let seconds = |span: Duration| span.as_secs();
        let usable = access.is_some_and(|access| access.expires_at > now);
        let waits = portal.waits().filter(|_| kind.sends());
        let kept_waiting = waits.is_some() && next_attempt_at.is_some_and(|at| at <= now);
        let fresh = kind == Kind::Fresh && usable && !kept_waiting;
        let retry_at = portal
            .client_refused
            .as_ref()
            .map(|refused| refused.retry_at);
        // A dead grant awaits an operator, and is retried automatically only once its client may be used again.
        let is_held = waits.is_some() || kind == Kind::NeedsAuthorization;
        let next_attempt_at = next_attempt_at.map(|at| {
            if is_held {
                retry_at.map_or(at, |retry| at.max(retry))
            } else {
                at
            }
        });
        let end = grant.and_then(|grant| grant.tokens.validity.refresh);
        let overdue = grant
            .and_then(|grant| overdue_at(grant, OVERDUE_SHARE))
            .is_some_and(|at| at <= now);
        // Its readers have no known token.
        let overdue = overdue || grant.is_some() && kind == Kind::OldState && access.is_none();
        Self {
            portal: portal.name.to_string(),
            provider: app
                .as_ref()
                .and_then(|app| config.apps.get(app))
                .map(|app| app.profile.name.clone()),
            app,
            phase: kind,
            fresh,
            generation: grant.map_or(0, |grant| grant.generation.0),
            expires_at: access.map(|access| access.expires_at.to_string()),
            expires_in: access.map(|access| seconds(access.expires_at.until(now))),
            refresh_expires_at: end.map(|end| end.at.to_string()),
            refresh_expires_in: end.map(|end| seconds(end.at.until(now))),
            refresh_end: end.map(|end| end.motion.as_str().to_owned()),
            renewed_at: grant.map(|grant| grant.renewed_at.to_string()),
            renewed_ago: grant.map(|grant| seconds(now.since(grant.renewed_at))),
            next_renewal: next_attempt_at.map(|at| at.to_string()),
            next_renewal_in: next_attempt_at.map(|at| seconds(at.until(now))),
            overdue: overdue && portal.settings.is_some(),
            endpoint: grant.and_then(|grant| grant.tokens.details.endpoint.clone()),
            // The remedy is part of the action, with its placeholders filled in.
            last_error: grant
                .and_then(|grant| grant.status.phase.problem())
                .map(|problem| Problem {
                    remedy: None,
                    ..problem.clone()
                }),
            identity: grant.and_then(|grant| grant.identity.clone()),
            candidate: portal
                .candidate
                .as_ref()
                .map(|pending| CandidateView::of(pending, now)),
            incident: grant
                .map(|grant| grant.notified.clone())
                .unwrap_or_default(),
            notice: grant.and_then(|grant| grant.tokens.validity.notice.clone()),
            action: match (kind, grant) {
                (Kind::Fresh, Some(grant)) if !still_notified(grant, now).is_empty() => {
                    refresh_end_of(grant)
                        .map(|end| refresh_warning::action(end, portal.name.as_str()))
                }
                (Kind::Fresh, _) => None,
                (Kind::InDoubt | Kind::NeedsAuthorization, Some(grant)) => {
                    Some(action_now(hint_context(portal), grant, now))
                }
                _ => Some(action_for(portal)),
            },
            unread_replies: None,
            waits: waits.or_else(|| portal.waits_alone()),
        }
    }

    /// Its display level.
    #[must_use]
    pub fn level(&self) -> DisplayLevel {
        let is_valid = self.expires_in.is_some_and(|left| left > 0);
        DisplayLevel::of_portal(self.phase, self.fresh, is_valid)
    }

    /// Adds the stored responses.
    #[must_use]
    pub fn with_kept(mut self, kept: Option<&KeptCount>) -> Self {
        self.unread_replies = kept.map(|KeptCount { count, newest }| UnreadReplies {
            count: *count,
            newest: newest.to_string(),
            action: format!("refreshd recover {}", self.portal),
        });
        self
    }

    /// Adds the reason why the portal's `refresh_token_file` is not used, if it is needed.
    #[must_use]
    pub fn with_file_problem(mut self, portal: &Portal, problem: Option<&str>) -> Self {
        let file = portal
            .settings
            .as_ref()
            .and_then(|settings| settings.refresh_token_file.as_ref());
        let is_wanted = matches!(
            self.phase,
            Kind::AwaitingAuthorization | Kind::NeedsAuthorization
        );
        if let (true, Some(file), Some(problem)) = (is_wanted, file, problem) {
            let notice = format!(
                "refresh_token_file {} is not used: {problem}",
                file.display()
            );
            self.notice.get_or_insert(notice);
        }
        self
    }
}

impl UnreadReplies {
    /// One sentence for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            count,
            newest,
            action,
        } = self;
        let what = if *count == 1 {
            "a reply that could not be read is kept".to_owned()
        } else {
            format!("{count} replies that could not be read are kept")
        };
        format!("{what}, of {newest}; it may hold the new pair: {action}")
    }
}

/// Recommended action of the operator.
#[must_use]
pub fn action_for(portal: &Portal) -> String {
    let name = &portal.name;
    match portal.kind() {
        Kind::OldState if portal.lost == Some(Lost::Doubt) => {
            let file = portal
                .settings
                .as_ref()
                .and_then(|settings| settings.refresh_token_file.as_ref());
            let file = file.map_or_else(|| "FILE".to_owned(), |file| file.display().to_string());
            format!(
                "the state lacks grants that there were before, or is older than what it published: is its volume mounted? \
                 If it is, and this portal is new, not another one's new name: refreshd import {name} {file}; if not: \
                 refreshd authorize {name}"
            )
        }
        Kind::OldState if portal.grant.is_none() => format!(
            "the state has lost its grant: is the state's volume mounted? If it is, and no newer state is to be had: \
             refreshd authorize {name}, or import its newest grant: refreshd import {name}"
        ),
        Kind::AwaitingAuthorization => {
            format!(
                "authorize it in a browser: refreshd authorize {name}, or import an existing grant: refreshd import {name}"
            )
        }
        Kind::ClientChanged => format!(
            "its client or server changed in the configuration, so its refresh token is kept from the new one; change it \
             back, or authorize the new client: refreshd authorize {name}"
        ),
        Kind::Unconfigured => {
            format!(
                "name it in the configuration again, or forget its grant: refreshd forget {name}"
            )
        }
        Kind::Unreadable => format!(
            "put a good state back, or authorize it anew: refreshd authorize {name}, or forget it: refreshd forget {name}"
        ),
        Kind::Fresh
        | Kind::Retrying
        | Kind::InDoubt
        | Kind::ClientRejected
        | Kind::Blocked
        | Kind::NeedsAuthorization
        | Kind::Gone
        | Kind::OldState => action(
            hint_context(portal),
            portal
                .grant
                .as_ref()
                .map_or(&Phase::Fresh, |grant| &grant.status.phase),
        ),
    }
}

fn hint_context(portal: &Portal) -> HintContext<'_> {
    let about = HintContext::of(&portal.name, portal.settings.as_ref());
    portal.grant.as_ref().map_or(about, |grant| about.at(grant))
}

/// Views of these portals, which are ordered by name.
///
/// # Errors
/// If the state cannot be read.
pub async fn views(shared: &Context, portals: &[Portal]) -> Result<Vec<PortalView>, StateError> {
    let (Some(first), Some(last)) = (portals.first(), portals.last()) else {
        return Ok(Vec::new());
    };
    let kept = shared
        .state
        .kept_counts(Some((first.name.clone(), last.name.clone())))
        .await?;
    let (config, now) = (shared.config(), shared.clock.now());
    let view = |portal: &Portal| {
        let file_problem = shared.file_problems.of(portal.name.as_str());
        PortalView::of(portal, &config, now)
            .with_kept(kept.get(portal.name.as_str()))
            .with_file_problem(portal, file_problem.as_deref())
    };
    Ok(portals.iter().map(view).collect())
}
