//! Verifies a grant before it replaces one that may still be valid: its refresh token is exchanged, and the resulting pair
//! is used.
//!
//! Must not touch the present grant: on any failure, that one stays in force.

use serde_json::Value;

use crate::config::App;
use crate::daemon::install::worker::{EventResult, FIRST_WAIT, MAX_ATTEMPTS, Worker};
use crate::daemon::renewal::unreadable_reply;
use crate::domain::import::{ImportedGrant, from_granted};
use crate::domain::install::Outcome;
use crate::domain::kept_reply::ReplyTo;
use crate::domain::name::PortalName;
use crate::domain::token_owner::TokenOwner;
use refreshd_token_client::authorization_server::TokenResponse;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Class;
use refreshd_token_client::reply::{ErrorContext, Verdict};
use refreshd_token_client::request::RequestKind;

/// A grant of an install event, and its verified owner.
#[derive(Clone, Copy)]
pub(crate) struct NewInstallation<'a> {
    pub(crate) app: &'a App,
    pub(crate) owner: &'a TokenOwner,
    pub(crate) imported: &'a ImportedGrant,
}

/// Reason why a grant is not verified, and the outcome of its event.
pub(crate) enum Unverified {
    /// The server rejects it, or it is another portal's.
    Refused(EventResult),
    /// The server does not respond now.
    Unanswered(EventResult),
}

impl Worker {
    /// Exchanges the new grant's refresh token at `token_url`, one of the profile's own.
    ///
    /// # Errors
    /// Outcome of the event: rejected, or not verifiable now.
    pub(crate) async fn verify(
        &self,
        installation: NewInstallation<'_>,
        portal: &PortalName,
        token_url: &str,
    ) -> Result<ImportedGrant, Unverified> {
        let owner = installation.owner;
        let stays = |why: &str| format!("{why}; the grant of {portal} stays as it was");
        let (mut wait, mut in_doubt) = (FIRST_WAIT, false);
        let mut attempt = 1;
        loop {
            let (why, sent) = match self.exchange(installation, portal, token_url).await {
                Exchanged::Granted(proven)
                    if proven
                        .identity
                        .as_ref()
                        .is_some_and(|id| *id != owner.member_id) =>
                {
                    return Err(Unverified::Refused((
                        Outcome::Forged,
                        stays("its refresh token is of another portal"),
                    )));
                }
                // Its access token is one user's, and its refresh token may be another's.
                Exchanged::Granted(proven) if !is_of_user(&proven, &owner.user_id) => {
                    return Err(Unverified::Refused((
                        Outcome::Forged,
                        stays("its refresh token is of another user than its access token"),
                    )));
                }
                Exchanged::Granted(proven) => return Ok(*proven),
                // The server may have issued a pair that was lost: then this proves nothing about the grant.
                Exchanged::Refused(problem) if in_doubt => {
                    let why = format!(
                        "its refresh token was refused after an answer was lost ({})",
                        problem.text()
                    );
                    return Err(Unverified::Refused((Outcome::Unverified, stays(&why))));
                }
                Exchanged::Refused(problem) => {
                    let why = format!(
                        "the authorization server does not take its refresh token ({})",
                        problem.text()
                    );
                    return Err(Unverified::Refused((Outcome::Forged, stays(&why))));
                }
                Exchanged::Later { why, sent } => (why, sent),
            };
            in_doubt |= sent;
            if attempt >= MAX_ATTEMPTS || !self.pause(&mut wait).await {
                let why = format!("its refresh token could not be tried ({why})");
                return Err(Unverified::Unanswered((Outcome::Unverified, stays(&why))));
            }
            attempt += 1;
        }
    }

    async fn exchange(
        &self,
        installation: NewInstallation<'_>,
        portal: &PortalName,
        token_url: &str,
    ) -> Exchanged {
        let NewInstallation {
            app,
            owner,
            imported,
        } = installation;
        let clock = self.shared.clock;
        let (random, sent_at) = (clock.random_token(), clock.now());
        let builder = app.request_builder(None, &imported.tokens.details.fields, &random);
        let request = builder.request(token_url, RequestKind::Renewal(&imported.tokens.credential));
        let timeout = self.shared.config().renewal.timeout;
        let (reply, cut) = match self
            .shared
            .server
            .exchange(&request, timeout, sent_at)
            .await
        {
            TokenResponse::NotSent(why) => return Exchanged::Later { why, sent: false },
            TokenResponse::InDoubt(why) => return Exchanged::Later { why, sent: true },
            TokenResponse::Cut(reply, why) => (reply, Some(why)),
            TokenResponse::Whole(reply) => (reply, None),
        };
        let mut secrets: Vec<_> = imported
            .tokens
            .credential
            .refresh()
            .iter()
            .map(|token| token.expose())
            .collect();
        secrets.extend(
            imported
                .tokens
                .access
                .as_ref()
                .map(|access| access.token.expose()),
        );
        secrets.extend(app.client_secret.as_ref().map(|secret| secret.expose()));
        let location = reply.location.clone();
        let context = ErrorContext {
            sent_to: token_url,
            location: location.as_deref(),
            ..ErrorContext::default()
        };
        let (verdict, unread) =
            unreadable_reply::judge(&reply, &app.profile, &secrets, sent_at, context);
        if unread {
            let reply = unreadable_reply::of(reply, ReplyTo::Authorization, sent_at);
            unreadable_reply::keep(&self.shared, portal, reply).await;
        }
        let granted = match (verdict, cut) {
            (Verdict::Granted(granted), _) => granted,
            (Verdict::Refused(_), Some(why)) => return Exchanged::Later { why, sent: true },
            (Verdict::Refused(refusal), None) => return Exchanged::of(refusal.problem),
        };
        // A server that does not rotate returns no new refresh token.
        let mut granted = *granted;
        if granted.refresh.is_none() {
            granted.refresh = imported.tokens.credential.refresh().cloned();
        }
        match from_granted(granted, sent_at) {
            Some(mut proven) => {
                let known = &imported.tokens.details;
                for (field, value) in &known.fields {
                    proven
                        .tokens
                        .details
                        .fields
                        .entry(field.clone())
                        .or_insert_with(|| value.clone());
                }
                if proven.tokens.details.endpoint.is_none() {
                    proven.tokens.details.endpoint = Some(owner.endpoint.clone());
                }
                proven.server = proven.server.or_else(|| imported.server.clone());
                Exchanged::Granted(Box::new(proven))
            }
            None => Exchanged::Later {
                why: "the reply has no refresh token".to_owned(),
                sent: true,
            },
        }
    }
}

/// Whether the reply to the exchange names this user, or none.
fn is_of_user(proven: &ImportedGrant, user: &str) -> bool {
    match proven.tokens.details.fields.get("user_id") {
        Some(Value::String(named)) => named == user,
        Some(Value::Number(named)) => named.to_string() == user,
        _ => true,
    }
}

/// Result of an exchange.
enum Exchanged {
    Granted(Box<ImportedGrant>),
    Refused(Problem),
    /// A temporary failure; `sent`: the server may have processed the request.
    Later {
        why: String,
        sent: bool,
    },
}

impl Exchanged {
    fn of(problem: Problem) -> Self {
        match problem.class {
            Class::NotSent | Class::Transient | Class::TooEarly => Self::Later {
                why: problem.text(),
                sent: false,
            },
            Class::InDoubt => Self::Later {
                why: problem.text(),
                sent: true,
            },
            Class::Unknown
            | Class::ClientRejected
            | Class::Blocked
            | Class::NeedsAuthorization
            | Class::Gone => Self::Refused(problem),
        }
    }
}
