//! A device's authorization (RFC 8628): codes for a person, and the polls that ask whether they were typed.
//!
//! Must not ask faster than the server wants: each poll is asked for by whoever waits, who is told when the next may be.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::grants::authorize::outcome::{
    Begun, is_passing, no_refresh_token, of_code, refused, secrets, take_in, token_url,
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

/// How a device's poll ended.
#[derive(Debug)]
pub enum Polled {
    /// Nobody has typed the code yet; ask again after so long.
    Pending(Duration),
    /// There is a grant.
    Authorized(Generation),
}

/// Asks for codes, and says what a person does with them.
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
    let request_builder = app.request_builder(portal.settings.as_ref(), &fields, &random);
    let request = request_builder.request(url, RequestKind::DeviceCodes);
    let not_now = |reason: String| OperationError::NotNow {
        portal: portal.name.clone(),
        reason,
    };
    let whole = match shared
        .server
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

/// Asks once whether a person has typed a device's code.
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
        let reason = format!("nobody typed the code in time{last}; begin again");
        return Err(OperationError::CodeRefused {
            portal: portal.name,
            reason,
        });
    }
    let (fields, random) = (BTreeMap::new(), shared.clock.random_token());
    let request_builder = app.request_builder(portal.settings.as_ref(), &fields, &random);
    let request = request_builder.request(
        &token_url(app, &portal, &BTreeMap::new()),
        RequestKind::DeviceToken(&code),
    );
    let (reply, cut) = match shared
        .server
        .exchange(&request, config.renewal.timeout, now)
        .await
    {
        // RFC 8628 section 3.5: slower, where the server does not answer.
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
            let intake =
                from_granted(*granted, now).ok_or_else(|| refused(&portal, &no_refresh_token()))?;
            take_in(shared, &portal, intake)
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
                    // A reply that was kept may hold what the code bought.
                    let before = before.filter(|before| before.contains("refreshd recover"));
                    let before = before
                        .map(|before| format!(" (the answer before was: {before})"))
                        .unwrap_or_default();
                    let reason = format!(
                        "{}{is_kept}{before}; begin again",
                        problem.text().trim_end_matches('.')
                    );
                    Err(OperationError::CodeRefused {
                        portal: portal.name,
                        reason,
                    })
                }
                // The page of a proxy, or an error that no device is told: it may be gone at the next poll.
                _ => Ok(again(
                    slower(interval),
                    Some(format!("{}{is_kept}", problem.text().trim_end_matches('.'))),
                )),
            }
        }
    }
}

/// Whether a refused poll is the end: by its code, or because the provider's table knows that it lasts.
fn is_over(code: &str, class: Class) -> bool {
    let lasts = matches!(
        class,
        Class::ClientRejected | Class::Blocked | Class::NeedsAuthorization | Class::Gone
    );
    lasts || ends_polling(code)
}

/// Twice as long, up to a minute; never sooner than the server has asked for.
fn slower(interval: Duration) -> Duration {
    (interval * 2).min(Duration::from_secs(60)).max(interval)
}
