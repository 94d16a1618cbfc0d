//! Device authorization (RFC 8628): codes for the user, and polls for the token.
//!
//! Must not poll faster than the server allows: each poll is requested by the caller, whose result contains the next
//! interval.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::grants::authorize::outcome::{
    Begun, correction, is_passing, no_refresh_token, of_code, refused, secrets, store, token_url,
};
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::{app_of, find};
use crate::daemon::renewal::unreadable_reply;
use crate::domain::authorization::{
    AnswerError, AuthorizationFlow, DeviceCodesError, PendingAuthorization, device_codes,
    ends_polling, next_poll_interval,
};
use crate::domain::import::from_granted;
use crate::domain::kept_reply::ReplyTo;
use crate::domain::portal::Portal;
use refreshd_token_client::authorization_server::TokenResponse;
use refreshd_token_client::provider::Class;
use refreshd_token_client::reply::{TokenReply, Verdict, read_in};
use refreshd_token_client::request::RequestKind;
use refreshd_token_client::token::Generation;

/// Result of a poll.
#[derive(Debug)]
pub enum Polled {
    /// The user has not entered the code yet; poll again after this time.
    Pending(Duration),
    /// A grant was stored.
    Authorized(Generation),
}

/// Requests the codes, and returns the user's instructions.
pub(crate) async fn begin(
    shared: &Context,
    portal: &Portal,
    app: &App,
) -> Result<Begun, OperationError> {
    let now = shared.clock.now();
    let Some(url) = &app.profile.device_url else {
        let reason = "its provider has no `device_url`".to_owned();
        return Err(OperationError::NoAuthorization {
            portal: portal.name.clone(),
            reason,
        });
    };
    let (fields, random) = (BTreeMap::new(), shared.clock.random_token());
    let builder = app.request_builder(portal.settings.as_ref(), &fields, &random);
    let request = builder.request(url, RequestKind::DeviceCodes);
    let not_now = |reason: String| OperationError::NotNow {
        portal: portal.name.clone(),
        reason,
    };
    let whole = match shared
        .server(app)
        .exchange(&request, shared.config().renewal.timeout, now)
        .await
    {
        TokenResponse::NotSent(why) | TokenResponse::InDoubt(why) | TokenResponse::Cut(_, why) => {
            return Err(not_now(why));
        }
        TokenResponse::Whole(whole) => whole,
    };
    let codes = match device_codes(&whole.body) {
        Ok(codes) => codes,
        Err(flaw @ (DeviceCodesError::UserCode | DeviceCodesError::Address)) => {
            return Err(not_now(flaw.to_string()));
        }
        Err(DeviceCodesError::Other) => {
            let reply = TokenReply {
                status: whole.status,
                retry_after: whole.retry_after,
                now,
                body: &whole.body,
                whole: whole.whole,
            };
            return match read_in(
                &reply,
                &app.profile,
                &secrets(app, &[]),
                of_code(&request, &whole),
            ) {
                Verdict::Refused(refusal) => Err(refused(portal, &refusal.problem)),
                Verdict::Granted(_) => Err(not_now(DeviceCodesError::Other.to_string())),
            };
        }
    };
    let state = shared.clock.random_token();
    let flow = AuthorizationFlow::Device {
        code: codes.device_code,
        interval: codes.interval,
        ends_at: now + codes.expires_in,
        last: None,
    };
    let pending = PendingAuthorization {
        portal: portal.name.clone(),
        state: state.clone(),
        begun_at: now,
        flow,
    };
    shared.authorizations.add(pending);
    Ok(Begun {
        portal: portal.name.to_string(),
        state,
        expires_in: codes.expires_in.as_secs(),
        url: codes
            .verification_uri_complete
            .unwrap_or(codes.verification_uri),
        redirect_uri: None,
        user_code: Some(codes.user_code),
        interval: Some(codes.interval.as_secs()),
    })
}

/// Polls once for the token of a device.
///
/// # Errors
/// [`OperationError`]; the authorization is over then.
pub async fn poll(shared: &Context, name: &str, state: &str) -> Result<Polled, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let now = shared.clock.now();
    let pending = shared.authorizations.take(&portal, Some(state), now);
    let Some(PendingAuthorization {
        flow:
            AuthorizationFlow::Device {
                code,
                interval,
                ends_at,
                last,
            },
        begun_at,
        ..
    }) = pending
    else {
        return Err(OperationError::NotAnAnswer {
            portal: portal.name,
            source: AnswerError::OtherState,
        });
    };
    let before = last.clone();
    let again = |interval: Duration, last: Option<String>| {
        let flow = AuthorizationFlow::Device {
            code: code.clone(),
            interval,
            ends_at,
            last,
        };
        let pending = PendingAuthorization {
            portal: portal.name.clone(),
            state: state.to_owned(),
            begun_at,
            flow,
        };
        shared.authorizations.add(pending);
        Polled::Pending(interval)
    };
    if now >= ends_at {
        let last = last
            .map(|last| format!(" (the last answer was: {last})"))
            .unwrap_or_default();
        let reason = format!("the code was not entered in time{last}; begin again");
        return Err(OperationError::CodeRefused {
            portal: portal.name,
            reason,
        });
    }
    let (fields, random) = (BTreeMap::new(), shared.clock.random_token());
    let builder = app.request_builder(portal.settings.as_ref(), &fields, &random);
    let request = builder.request(
        &token_url(app, &portal, &BTreeMap::new()),
        RequestKind::DeviceToken(&code),
    );
    let (reply, cut) = match shared
        .server(app)
        .exchange(&request, config.renewal.timeout, now)
        .await
    {
        // RFC 8628 section 3.5: back off when the server does not respond.
        TokenResponse::NotSent(why) | TokenResponse::InDoubt(why) => {
            return Ok(again(slower(interval), Some(why)));
        }
        TokenResponse::Cut(reply, _) => (reply, true),
        TokenResponse::Whole(reply) => (reply, false),
    };
    let secrets = secrets(app, &[code.expose()]);
    let (verdict, unread) = unreadable_reply::judge(
        &reply,
        &app.profile,
        &secrets,
        now,
        of_code(&request, &reply),
    );
    if unread {
        unreadable_reply::keep(
            shared,
            &portal.name,
            unreadable_reply::of(reply, ReplyTo::Authorization, now),
        )
        .await;
    }
    let is_kept = if unread {
        format!(
            "; its reply is kept: refreshd recover {} --show",
            portal.name
        )
    } else {
        String::new()
    };
    match verdict {
        Verdict::Granted(granted) => {
            let imported =
                from_granted(*granted, now).ok_or_else(|| refused(&portal, &no_refresh_token()))?;
            store(shared, &portal, imported)
                .await
                .map(Polled::Authorized)
        }
        Verdict::Refused(refusal) => {
            let problem = refusal.problem;
            let code = problem.code.as_deref();
            match next_poll_interval(code, interval) {
                Some(interval) if !cut => Ok(again(interval, before)),
                None if !cut
                    && !is_passing(&problem)
                    && code.is_some_and(|code| is_over(code, problem.class)) =>
                {
                    // A stored response may contain what the code was exchanged for.
                    let before = before.filter(|before| before.contains("refreshd recover"));
                    let before = before
                        .map(|before| format!(" (the answer before was: {before})"))
                        .unwrap_or_default();
                    let next = correction(&problem)
                        .map_or_else(|| "; begin again".to_owned(), |next| format!(". {next}"));
                    let reason = format!(
                        "{}{is_kept}{before}{next}",
                        problem.text().trim_end_matches('.')
                    );
                    Err(OperationError::CodeRefused {
                        portal: portal.name,
                        reason,
                    })
                }
                // The page of a proxy, or an error that RFC 8628 does not define: the next poll may succeed.
                _ => Ok(again(
                    slower(interval),
                    Some(format!("{}{is_kept}", problem.text().trim_end_matches('.'))),
                )),
            }
        }
    }
}

/// Returns whether a rejected poll is final: by its code, or because the provider's table classifies it as permanent.
fn is_over(code: &str, class: Class) -> bool {
    let lasts = matches!(
        class,
        Class::ClientRejected | Class::Blocked | Class::NeedsAuthorization | Class::Gone
    );
    lasts || ends_polling(code)
}

/// Doubles the interval, up to a minute; never less than the server demands.
fn slower(interval: Duration) -> Duration {
    (interval * 2).min(Duration::from_secs(60)).max(interval)
}
