//! Has a grant prove itself before it takes the place of one that may still be good: its refresh token is exchanged, and
//! what comes of it is kept.
//!
//! Must not touch the grant that is there: whatever fails here, that one goes on.

use crate::config::App;
use crate::daemon::install::worker::{EventResult, FIRST_WAIT, TRIES, Worker};
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

/// A grant that an install brought, and whose it is by the authorization server.
#[derive(Clone, Copy)]
pub(crate) struct NewInstallation<'a> {
    pub(crate) app: &'a App,
    pub(crate) owner: &'a TokenOwner,
    pub(crate) intake: &'a ImportedGrant,
}

/// Why a newcomer is not proved, and what is told of its notice.
pub(crate) enum Unverified {
    /// The server does not take it, or it is another portal's.
    Refused(EventResult),
    /// The server cannot be asked now.
    Unanswered(EventResult),
}

impl Worker {
    /// Exchanges the newcomer's refresh token at `token_url`, one of the profile's own.
    ///
    /// # Errors
    /// What is told of the notice: refused, or not to be proved now.
    pub(crate) async fn verify(
        &self,
        newcomer: NewInstallation<'_>,
        portal: &PortalName,
        token_url: &str,
    ) -> Result<ImportedGrant, Unverified> {
        let owner = newcomer.owner;
        let stays = |why: &str| format!("{why}; the grant of {portal} stays as it was");
        let (mut wait, mut in_doubt) = (FIRST_WAIT, false);
        let mut attempt = 1;
        loop {
            let (why, sent) = match self.exchange(newcomer, portal, token_url).await {
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
                Exchanged::Granted(proven) => return Ok(*proven),
                // The server may have given out what never came: then this says nothing about the grant.
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
            if attempt >= TRIES || !self.pause(&mut wait).await {
                let why = format!("its refresh token could not be tried ({why})");
                return Err(Unverified::Unanswered((Outcome::Unverified, stays(&why))));
            }
            attempt += 1;
        }
    }

    async fn exchange(
        &self,
        newcomer: NewInstallation<'_>,
        portal: &PortalName,
        token_url: &str,
    ) -> Exchanged {
        let NewInstallation { app, owner, intake } = newcomer;
        let clock = self.shared.clock;
        let (random, sent_at) = (clock.random_token(), clock.now());
        let request_builder = app.request_builder(None, &intake.tokens.details.fields, &random);
        let request =
            request_builder.request(token_url, RequestKind::Renewal(&intake.tokens.credential));
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
        let mut secrets: Vec<_> = intake
            .tokens
            .credential
            .refresh()
            .iter()
            .map(|token| token.expose())
            .collect();
        secrets.extend(
            intake
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
        // A server that does not rotate gives no other refresh token.
        let mut granted = *granted;
        if granted.refresh.is_none() {
            granted.refresh = intake.tokens.credential.refresh().cloned();
        }
        match from_granted(granted, sent_at) {
            Some(mut proven) => {
                let known = &intake.tokens.details;
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
                proven.server = proven.server.or_else(|| intake.server.clone());
                Exchanged::Granted(Box::new(proven))
            }
            None => Exchanged::Later {
                why: "the reply has no refresh token".to_owned(),
                sent: true,
            },
        }
    }
}

/// What came of an exchange.
enum Exchanged {
    Granted(Box<ImportedGrant>),
    Refused(Problem),
    /// It may work later; `sent`: the server may have carried it out.
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
