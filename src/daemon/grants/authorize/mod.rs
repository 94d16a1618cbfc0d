//! A user's authorization, from the authorization URL to the first pair of tokens: begin, answer, and a device's poll.
//!
//! A code expires in half a minute and works once, so it is exchanged at once, and its pair is stored before anything is
//! reported. Must not store a grant of another portal than the requested one.

mod device;
mod outcome;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::{app_of, find};
use crate::daemon::renewal::unreadable_reply;
use crate::domain::authorization::{
    AnswerError, AuthorizationFlow, PENDING_TIMEOUT, PendingAuthorization, Redirected, parse,
};
use crate::domain::import::{ImportedGrant, from_granted};
use crate::domain::kept_reply::ReplyTo;
use crate::domain::portal::Portal;
pub use device::{Polled, poll};
pub use outcome::Begun;
use outcome::{no_refresh_token, of_code, refused, secrets, store, token_url};
use refreshd_secrets::CodeVerifier;
use refreshd_secrets::mask::clean;
use refreshd_time::Timestamp;
use refreshd_token_client::authorization_server::TokenResponse;
use refreshd_token_client::id_token::{is_of_another, is_openid};
use refreshd_token_client::problem::Problem;
use refreshd_token_client::quirks::{GrantType, Pkce};
use refreshd_token_client::reply::{Refusal, Verdict};
use refreshd_token_client::request::{RequestKind, TokenRequest};
use refreshd_token_client::token::Generation;
use refreshd_token_client::token_object;

/// Begins an authorization. `loopback` is the URI on which the caller listens, used if the configuration has no
/// `redirect_uri`.
///
/// # Errors
/// [`OperationError`].
pub async fn begin(
    shared: &Context,
    name: &str,
    loopback: Option<String>,
) -> Result<Begun, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let profile = &app.profile;
    if let Some(why) = profile
        .issuer
        .as_ref()
        .and_then(|issuer| shared.why_undiscovered(issuer))
    {
        let reason = format!("the metadata of its issuer is not known: {why}");
        return Err(OperationError::NotNow {
            portal: portal.name,
            reason,
        });
    }
    let no = |reason: &str| OperationError::NoAuthorization {
        portal: portal.name.clone(),
        reason: reason.to_owned(),
    };
    match profile.start {
        GrantType::ClientCredentials => Err(no(
            "its app needs no user: the client's own credentials suffice",
        )),
        GrantType::Device => device::begin(shared, &portal, app).await,
        GrantType::AuthorizationCode => {
            let verifier = match profile.pkce {
                Pkce::None => None,
                Pkce::Plain | Pkce::S256 => CodeVerifier::new(&shared.clock.random_token()),
            };
            let state = shared.clock.random_token();
            let fields = BTreeMap::new();
            let random = shared.clock.random_token();
            let mut builder = app.request_builder(portal.settings.as_ref(), &fields, &random);
            // If the provider has a registered redirect URI, only the configuration can name it.
            let sent = profile
                .request
                .authorize_parameters
                .get("redirect_uri")
                .is_none_or(|uri| !uri.is_empty());
            builder.redirect_uri = builder
                .redirect_uri
                .or(loopback.as_deref().filter(|_| sent));
            // OpenID Connect Core 1.0, section 3.1.2.1; a profile may define its own nonce.
            let own = profile.request.authorize_parameters.contains_key("nonce");
            let nonce = (is_openid(builder.scope) && !own).then(|| shared.clock.random_token());
            let url = builder
                .authorize_url(&state, verifier.as_ref(), nonce.as_deref())
                .ok_or_else(|| match profile.authorize_url {
                    Some(_) => {
                        no("its `domain` is not in the configuration, and people authorize there")
                    }
                    None => no("its provider has no `authorize_url`"),
                })?;
            let redirect_uri = builder.redirect_uri.map(str::to_owned);
            let flow = AuthorizationFlow::Redirect {
                verifier,
                redirect_uri: redirect_uri.clone(),
                nonce,
            };
            let begun_at = shared.clock.now();
            let portal = portal.name;
            let name = portal.to_string();
            shared.authorizations.add(PendingAuthorization {
                portal,
                state: state.clone(),
                begun_at,
                flow,
            });
            let expires_in = PENDING_TIMEOUT.as_secs();
            Ok(Begun {
                portal: name,
                state,
                expires_in,
                url,
                redirect_uri,
                user_code: None,
                interval: None,
            })
        }
    }
}

/// Parses what the browser brought back, the URI or the bare code, and exchanges the code at once.
///
/// # Errors
/// [`OperationError`]. Only after [`OperationError::NotAnAnswer`] may the same authorization still be answered.
pub async fn answer(
    shared: &Context,
    name: &str,
    text: &str,
) -> Result<Generation, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let not_it = |source| OperationError::NotAnAnswer {
        portal: portal.name.clone(),
        source,
    };
    let redirected = parse(text).map_err(not_it)?;
    // Nothing of a redirect is trusted, or reported, before its `state` is known to be one of this process.
    let now = shared.clock.now();
    if redirected
        .state
        .as_ref()
        .is_some_and(|state| !shared.authorizations.has(&portal, state, now))
    {
        return Err(not_it(AnswerError::OtherState));
    }
    check_issuer(app, &portal, &redirected).map_err(not_it)?;
    let Redirected {
        code,
        state,
        issuer: _,
        parameters,
    } = redirected;
    let code = code.map_err(not_it)?;
    let pending = shared.authorizations.take(&portal, state.as_deref(), now);
    let (verifier, redirect_uri, nonce) = match pending.map(|pending| pending.flow) {
        Some(AuthorizationFlow::Redirect {
            verifier,
            redirect_uri,
            nonce,
        }) => (verifier, redirect_uri, nonce),
        Some(AuthorizationFlow::Device { .. }) => return Err(not_it(AnswerError::OtherState)),
        None if state.is_some() => return Err(not_it(AnswerError::OtherState)),
        None if app.profile.pkce != Pkce::None => return Err(not_it(AnswerError::NoVerifier)),
        // A bare code, as of a link that another program created.
        None => (None, None, None),
    };
    let fields: BTreeMap<String, Value> = (app.profile.request.redirect_fields.iter())
        .filter_map(|field| {
            Some((
                field.clone(),
                Value::from(clean(parameters.get(field)?, &[code.expose()])),
            ))
        })
        .collect();
    let random = shared.clock.random_token();
    let mut builder = app.request_builder(portal.settings.as_ref(), &fields, &random);
    builder.redirect_uri = redirect_uri.as_deref().or(builder.redirect_uri);
    let url = token_url(app, &portal, &parameters);
    let request = builder.request(&url, RequestKind::Code(&code, verifier.as_ref()));
    let proof = verifier.as_ref().map_or("", |verifier| verifier.expose());
    let sent_at = shared.clock.now();
    let verdict = exchange(
        shared,
        &portal,
        app,
        (&request, &[code.expose(), proof], nonce.as_deref()),
        sent_at,
    )
    .await?;
    match verdict {
        Ok(imported) => store(shared, &portal, with_fields(imported, app, fields)).await,
        Err(problem) => Err(refused(&portal, &problem)),
    }
}

/// RFC 9207 section 2.4. Where no issuer is configured, the host of the named issuer must be one of the provider's: a code
/// of another server must not be sent to this one.
fn check_issuer(app: &App, portal: &Portal, redirected: &Redirected) -> Result<(), AnswerError> {
    let domain = portal
        .settings
        .as_ref()
        .and_then(|settings| settings.domain.as_deref());
    let Some(issuer) = &app.profile.issuer else {
        let own = redirected
            .issuer
            .as_ref()
            .is_none_or(|named| app.profile.is_own_host(named, domain));
        return if own {
            Ok(())
        } else {
            Err(AnswerError::OtherIssuer)
        };
    };
    match &redirected.issuer {
        Some(named) if named != issuer => Err(AnswerError::OtherIssuer),
        None if app.profile.names_issuer_in_redirect && redirected.state.is_some() => {
            Err(AnswerError::OtherIssuer)
        }
        Some(_) | None => Ok(()),
    }
}

/// Exchanges a code. It is never sent twice: a server may treat that as an attack (RFC 6749 section 4.1.2).
async fn exchange(
    shared: &Context,
    portal: &Portal,
    app: &App,
    (request, sent, nonce): (&TokenRequest, &[&str], Option<&str>),
    sent_at: Timestamp,
) -> Result<Result<ImportedGrant, Problem>, OperationError> {
    let timeout = shared.config().renewal.timeout;
    let not_now = |reason| OperationError::NotNow {
        portal: portal.name.clone(),
        reason,
    };
    let (reply, cut) = match shared.server(app).exchange(request, timeout, sent_at).await {
        TokenResponse::NotSent(why) => return Err(not_now(why)),
        TokenResponse::InDoubt(why) => {
            return Err(not_now(format!(
                "{why}. The code may be spent; authorize again"
            )));
        }
        TokenResponse::Cut(reply, why) => (reply, Some(why)),
        TokenResponse::Whole(reply) => (reply, None),
    };
    let other = |nonce| {
        token_object::open(&reply.body, reply.whole, &app.profile)
            .is_some_and(|reply| is_of_another(&reply, nonce))
    };
    if nonce.is_some_and(other) {
        return Err(OperationError::CodeRefused {
            portal: portal.name.clone(),
            reason: "the ID token of the reply is of another authorization (its nonce differs); begin again"
                .to_owned(),
        });
    }
    let secrets = secrets(app, sent);
    let (verdict, unread) = unreadable_reply::judge(
        &reply,
        &app.profile,
        &secrets,
        sent_at,
        of_code(request, &reply),
    );
    if unread {
        let reply = unreadable_reply::of(reply, ReplyTo::Authorization, sent_at);
        unreadable_reply::keep(shared, &portal.name, reply).await;
    }
    let kept = || {
        if unread {
            format!(". The reply is kept: refreshd recover {}", portal.name)
        } else {
            String::new()
        }
    };
    match (verdict, cut) {
        (Verdict::Granted(granted), _) => {
            Ok(from_granted(*granted, sent_at).ok_or_else(no_refresh_token))
        }
        (Verdict::Refused(_), Some(why)) => Err(not_now(format!(
            "{why}{}. The code may be spent; authorize again",
            kept()
        ))),
        (Verdict::Refused(Refusal { mut problem, .. }), None) => {
            problem.detail.push_str(&kept());
            Ok(Err(problem))
        }
    }
}

/// Adds fields that only the redirect contains to the grant. One of them may be the identity.
fn with_fields(
    mut imported: ImportedGrant,
    app: &App,
    fields: BTreeMap<String, Value>,
) -> ImportedGrant {
    let named = app
        .profile
        .identity_field
        .as_ref()
        .and_then(|field| fields.get(field))
        .and_then(Value::as_str);
    imported.identity = imported.identity.or_else(|| named.map(str::to_owned));
    imported.tokens.details.fields.extend(fields);
    imported
}
