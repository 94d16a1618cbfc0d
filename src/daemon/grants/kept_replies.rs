//! Stored responses that could not be parsed: kept unchanged, parsed again by a newer version or with another profile, and
//! stored as proven grants once they can be parsed.
//!
//! Must not store a grant whose portal has another by now, and must not show a byte of a response except on explicit
//! request.

use serde::{Deserialize, Serialize};

use crate::adapters::state::{NewGrant, RecoverOutcome, StoreOutcome};
use crate::config::App;
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::{app_of, find};
use crate::daemon::renewal::publisher::KnownState;
use crate::daemon::renewal::unreadable_reply::pair;
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::resolved;
use crate::domain::import::from_granted;
use crate::domain::kept_reply::{KeptReply, ReplyTo, SentToken, UnreadableReply};
use crate::domain::portal::{Grant, Portal};
use crate::domain::renewal::{
    Attempt, AttemptTimes, RenewalRules, Transition, apply_outcome, granted_status,
};
use refreshd_secrets::ReplyBody;
use refreshd_time::Timestamp;
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::reply::{GrantedTokens, Verdict};
use refreshd_token_client::token::Generation;

/// A stored response, without its body: as `GET /v1/portals/PORTAL/replies` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptReplyView {
    /// Number from 1, the oldest first.
    pub number: usize,
    /// Time of the request (RFC 3339).
    pub at: String,
    /// Kind of request: `renewal` or `authorization`.
    pub answers: String,
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_encoding: Option<String>,
    /// Whether it arrived completely.
    pub whole: bool,
    /// Length of the body in bytes.
    pub bytes: usize,
    /// Whether the portal still has the grant that was sent.
    pub current: bool,
    /// Whether a pair can be parsed from it now.
    pub readable: bool,
}

/// Stored responses of a portal.
///
/// # Errors
/// [`OperationError`].
pub async fn list(shared: &Context, name: &str) -> Result<Vec<KeptReplyView>, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal).ok();
    let now = shared.clock.now();
    let view = |(index, kept): (usize, KeptReply)| {
        let readable =
            app.is_some_and(|app| pair(&kept.reply, portal.grant.as_ref(), app, now).is_some());
        let UnreadableReply {
            at,
            answers,
            status,
            content_type,
            content_encoding,
            whole,
            body,
        } = kept.reply;
        KeptReplyView {
            number: index + 1,
            at: at.to_string(),
            answers: if answers == ReplyTo::Authorization {
                "authorization"
            } else {
                "renewal"
            }
            .to_owned(),
            status,
            content_type,
            content_encoding,
            whole,
            bytes: body.length(),
            current: is_current(&portal, kept.sent),
            readable,
        }
    };
    Ok(shared
        .state
        .kept_replies(portal.name.clone())
        .await?
        .into_iter()
        .enumerate()
        .map(view)
        .collect())
}

/// Bytes of a stored response, by its number from 1.
///
/// # Errors
/// [`OperationError`].
pub async fn body(
    shared: &Context,
    name: &str,
    number: usize,
) -> Result<ReplyBody, OperationError> {
    let portal = find(shared, name).await?;
    let kept = shared.state.kept_replies(portal.name.clone()).await?;
    let reply = number
        .checked_sub(1)
        .and_then(|index| kept.into_iter().nth(index));
    reply
        .map(|kept| kept.reply.body)
        .ok_or_else(|| nothing(&portal, Some(number)))
}

/// Deletes the stored responses of a portal; returns how many there were.
///
/// # Errors
/// [`OperationError`].
pub async fn discard(shared: &Context, name: &str) -> Result<usize, OperationError> {
    let portal = find(shared, name).await?;
    let discarded = shared.state.discard_replies(portal.name.clone()).await?;
    if discarded > 0 {
        tracing::info!(portal = %portal.name, discarded, "{}: kept replies were discarded", portal.name);
    }
    Ok(discarded)
}

/// Parses the stored responses of a portal again and stores the grant of the newest that can be parsed.
///
/// # Errors
/// [`OperationError`]: nothing is stored, none can be parsed, or the portal has another grant by now.
pub async fn recover(shared: &Context, name: &str) -> Result<Generation, OperationError> {
    let (portal, kept, granted) = recoverable(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    store_recovered(shared, &portal, app, &kept, granted).await
}

/// The newest stored response of a portal that can be parsed, and its tokens.
///
/// # Errors
/// [`OperationError`]: nothing is stored, none can be parsed, or the portal has another grant by now.
pub async fn recoverable(
    shared: &Context,
    name: &str,
) -> Result<(Portal, KeptReply, Box<GrantedTokens>), OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let kept = shared.state.kept_replies(portal.name.clone()).await?;
    if kept.is_empty() {
        return Err(nothing(&portal, None));
    }
    let refuse = |reason: String| {
        Err(OperationError::Refused {
            portal: portal.name.clone(),
            reason,
        })
    };
    let current: Vec<_> = kept
        .into_iter()
        .filter(|kept| is_current(&portal, kept.sent))
        .collect();
    if current.is_empty() {
        return refuse(format!(
            "the portal has another grant by now than the one that the kept replies answer; to remove them: \
             refreshd recover {name} --discard"
        ));
    }
    for kept in current.into_iter().rev() {
        if let Some(granted) = pair(&kept.reply, portal.grant.as_ref(), app, shared.clock.now()) {
            return Ok((portal, kept, granted));
        }
    }
    refuse(format!(
        "no new token can be read out of what is kept. It stays: a newer refreshd or another profile may read it, or a person: \
         refreshd recover {name} --show; what a person finds there: refreshd import {name}"
    ))
}

/// Parses every stored response again, as after an upgrade, and stores the grants found. Problems are logged: the other
/// portals are processed.
pub async fn parse_again(shared: &Context) {
    let portals = match shared.state.kept_counts(None).await {
        Ok(portals) => portals,
        Err(error) => {
            return tracing::error!(error = %error_chain(&error), "cannot look for kept replies");
        }
    };
    for name in portals.into_keys() {
        let (config, now) = (shared.config(), shared.clock.now());
        let Ok(portal) = find(shared, &name).await else {
            continue;
        };
        let Ok(app) = app_of(&config, &portal) else {
            continue;
        };
        let Ok(kept) = shared.state.kept_replies(portal.name.clone()).await else {
            continue;
        };
        for kept in kept
            .iter()
            .rev()
            .filter(|kept| kept.reply.is_success() && is_current(&portal, kept.sent))
        {
            let Some(granted) = pair(&kept.reply, portal.grant.as_ref(), app, now) else {
                continue;
            };
            if let Err(error) = store_recovered(shared, &portal, app, kept, granted).await {
                tracing::warn!(portal = %name, error = %error_chain(&error), "{name}: a kept reply can be read now, but its grant is not stored");
            }
            break;
        }
    }
}

fn is_current(portal: &Portal, sent: SentToken) -> bool {
    portal.grant.as_ref().map_or(
        SentToken {
            generation: Generation(0),
            token: None,
        },
        SentToken::of,
    ) == sent
}

fn nothing(portal: &Portal, number: Option<usize>) -> OperationError {
    let what = number.map_or_else(
        || "no reply is kept".to_owned(),
        |number| format!("no reply {number} is kept"),
    );
    OperationError::NothingKept {
        portal: portal.name.clone(),
        what,
    }
}

async fn store_recovered(
    shared: &Context,
    portal: &Portal,
    app: &App,
    kept: &KeptReply,
    granted: Box<GrantedTokens>,
) -> Result<Generation, OperationError> {
    let name = &portal.name;
    let refuse = |reason: String| OperationError::Refused {
        portal: name.clone(),
        reason,
    };
    let now = shared.clock.now();
    let grant = grant_from(portal, app, kept, granted, now).map_err(refuse)?;
    let before = portal
        .grant
        .as_ref()
        .map(|grant| (grant.notified.clone(), grant.status.phase.since()));
    let is_renewal = kept.reply.answers != ReplyTo::Authorization;
    let tokens = grant.tokens.clone();
    let generation = match shared.state.recover(grant, kept.sent, is_renewal).await? {
        RecoverOutcome::Stored(generation) => generation,
        RecoverOutcome::UnderWay => {
            let reason = "a renewal is under way; try again when it has ended".to_owned();
            return Err(OperationError::NotNow {
                portal: name.clone(),
                reason,
            });
        }
        RecoverOutcome::MovedOn => {
            return Err(refuse("the portal has another grant by now".to_owned()));
        }
        RecoverOutcome::Refused(StoreOutcome::HeldBy(other)) => {
            return Err(refuse(format!("the same refresh token belongs to {other}")));
        }
        RecoverOutcome::Refused(_) => {
            return Err(refuse("its refresh token was stored before".to_owned()));
        }
    };
    tracing::info!(portal = %name, generation = generation.0, "{name}: the grant of a kept reply was accepted");
    let newest = KnownState::pair(portal.settings.as_ref(), generation, &tokens);
    let failing = shared.publisher.publish_knowing(name, newest).await;
    shared.health.unpublished(failing);
    if let Some((notified, since)) = before
        && let Some(notice) = resolved(&notified, since, now)
    {
        log_escalation(EscalationSubject::Portal(name), &notice);
    }
    shared.outboxes.wake.notify_one();
    shared.due.notify_one();
    shared.escalation_wake.notify_one();
    Ok(generation)
}

/// The grant of a stored response, as if it had been parsed on arrival.
fn grant_from(
    portal: &Portal,
    app: &App,
    kept: &KeptReply,
    granted: Box<GrantedTokens>,
    now: Timestamp,
) -> Result<NewGrant, String> {
    let name = &portal.name;
    let settings = portal.settings.as_ref();
    let domain = settings.and_then(|settings| settings.domain.as_deref());
    let every = settings
        .and_then(|settings| settings.renew_every)
        .map_or(app.profile.renew_every, RenewEvery::from);
    let at = kept.reply.at.min(now);
    let foreign =
        |got: &str, known: &str| format!("it is the grant of {got}, the portal's is of {known}");
    let bound_to = app.binding(domain);
    let (tokens, identity, token_url, status) = match (&portal.grant, kept.reply.answers) {
        (Some(grant), ReplyTo::Renewal(_) | ReplyTo::WithoutRefresh(_)) => {
            if grant.bound_to != bound_to {
                return Err(
                    "its client or server changed in the configuration; change it back first"
                        .to_owned(),
                );
            }
            let rules = RenewalRules {
                profile: &app.profile,
                every,
            };
            let attempt = Attempt::Answered(Verdict::Granted(granted));
            match apply_outcome(
                name,
                grant,
                rules,
                attempt,
                AttemptTimes { sent_at: at, now },
                0.0,
            ) {
                Transition::Renewed(renewed) => {
                    let url = renewed.token_url.unwrap_or_else(|| grant.token_url.clone());
                    (renewed.tokens, renewed.identity, url, renewed.status)
                }
                Transition::Foreign { granted, .. } => {
                    let got = granted.identity.unwrap_or_default();
                    return Err(foreign(&got, grant.identity.as_deref().unwrap_or_default()));
                }
                Transition::Kept(_) => return Err("no token can be read out of it".to_owned()),
            }
        }
        (before, _) => {
            let imported = from_granted(*granted, at).ok_or("it has no refresh token")?;
            let known = before
                .as_ref()
                .and_then(|grant: &Grant| grant.identity.as_ref());
            let known = known.or_else(|| settings.and_then(|settings| settings.identity.as_ref()));
            if let (Some(known), Some(got)) = (known, &imported.identity)
                && known != got
            {
                return Err(foreign(got, known));
            }
            let named = imported.server.and_then(|server| {
                app.profile
                    .renewal_url_on_host_of(&server)
                    .map(str::to_owned)
            });
            let url = named
                .or_else(|| portal.config_url.clone())
                .unwrap_or_else(|| app.profile.renewal_url_for(None, domain));
            imported
                .tokens
                .access
                .as_ref()
                .ok_or("it has no access token")?;
            let status = granted_status(name, &imported.tokens, every, now);
            let identity = imported.identity.clone().or_else(|| known.cloned());
            (imported.tokens, identity, url, status)
        }
    };
    let proven = Some(app.name.clone());
    Ok(NewGrant {
        portal: name.clone(),
        tokens,
        identity,
        bound_to,
        token_url,
        status,
        proven,
        now,
    })
}
