//! Responses that could not be parsed: judged, stored unchanged, and parsed again when the token that was sent is rejected.
//!
//! Must not show a byte of one.

use std::sync::Arc;

use crate::adapters::state::Unsaved;
use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::renewal::carry::{Slot, UNREADABLE_REPLY, UnsavedCopy};
use crate::daemon::renewal::persist::until_durable;
use crate::domain::kept_reply::{ReplyTo, SentToken, UnreadableReply};
use crate::domain::name::PortalName;
use crate::domain::portal::Grant;
use refreshd_secrets::ReplyBody;
use refreshd_time::Timestamp;
use refreshd_token_client::authorization_server::HttpResponse;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::reply::{
    ErrorContext, GrantedTokens, TokenReply, Verdict, is_unread, read, read_doubtful, read_in,
};

/// Recommended action while the outcome is in doubt and its response is stored.
pub(crate) const HINT_IN_DOUBT: &str = "look at its reply, which is kept: refreshd recover {portal}; the request is repeated by itself";

/// Recommended action once the grant is dead and a stored response may contain the pair that replaced it.
pub(crate) const HINT_DEAD: &str = "look for the newest pair in the reply that is kept: refreshd recover {portal} --show, and \
     import it: refreshd import {portal}; or authorize the app again: refreshd authorize {portal}";

/// Judges a response, and whether it must be stored.
pub(crate) fn judge(
    reply: &HttpResponse,
    profile: &Profile,
    secrets: &[&str],
    now: Timestamp,
    context: ErrorContext<'_>,
) -> (Verdict, bool) {
    let whole = TokenReply {
        status: reply.status,
        retry_after: reply.retry_after,
        now,
        body: &reply.body,
        whole: reply.whole,
    };
    let verdict = read_in(&whole, profile, secrets, context);
    let unread = is_unread(&whole, &verdict, profile);
    (verdict, unread)
}

/// Converts a response for storage.
pub(crate) fn of(reply: HttpResponse, answers: ReplyTo, at: Timestamp) -> UnreadableReply {
    let HttpResponse {
        status,
        retry_after: _,
        date: _,
        content_type,
        content_encoding,
        location: _,
        body,
        whole,
    } = reply;
    UnreadableReply {
        at,
        answers,
        status,
        content_type,
        content_encoding,
        whole,
        body: ReplyBody::new(body),
    }
}

/// Stores a response that exists nowhere else: until it is durable, it is kept in memory, and reported as critical.
pub(crate) async fn keep(shared: &Context, portal: &PortalName, reply: UnreadableReply) {
    let reply = Arc::new(reply);
    let held = UnsavedCopy {
        unsaved: Unsaved::Reply(portal, &reply),
        slot: Slot::default(),
    };
    until_durable(shared, portal, Some(held), || {
        shared.state.keep_reply(portal.clone(), Arc::clone(&reply))
    })
    .await;
    tracing::warn!(%portal, "{portal}: {UNREADABLE_REPLY} is kept; see: refreshd recover {portal}");
}

/// The pair of a stored response, if it can be parsed.
pub(crate) fn pair(
    reply: &UnreadableReply,
    grant: Option<&Grant>,
    app: &App,
    now: Timestamp,
) -> Option<Box<GrantedTokens>> {
    let secrets = known_secrets(grant, app);
    // A pair with an error status is used only on an operator's request, or if the token that was sent is rejected.
    let status = if reply.is_success() {
        reply.status
    } else {
        200
    };
    let whole = TokenReply {
        status,
        retry_after: None,
        now,
        body: reply.body.expose(),
        whole: reply.whole,
    };
    // The grant has the access token of a renewal without a refresh token: only that one is looked for.
    let wants_refresh = matches!(reply.answers, ReplyTo::WithoutRefresh(_));
    match read(&whole, &app.profile, &secrets) {
        Verdict::Granted(granted) if wants_refresh && granted.refresh.is_none() => None,
        Verdict::Granted(granted) => Some(granted),
        Verdict::Refused(_) => None,
    }
}

fn known_secrets<'a>(grant: Option<&'a Grant>, app: &'a App) -> Vec<&'a str> {
    let refresh = grant.and_then(|grant| grant.tokens.credential.refresh());
    let secrets = [
        refresh.map(|token| token.expose()),
        app.client_secret.as_ref().map(|secret| secret.expose()),
    ];
    secrets.into_iter().flatten().collect()
}

/// The one pair of a stored success beside or around which something denies that it is one.
fn doubtful_pair(
    reply: &UnreadableReply,
    grant: &Grant,
    app: &App,
    now: Timestamp,
) -> Option<Box<GrantedTokens>> {
    let whole = TokenReply {
        status: reply.status,
        retry_after: None,
        now,
        body: reply.body.expose(),
        whole: reply.whole,
    };
    read_doubtful(&whole, &app.profile, &known_secrets(Some(grant), app))
}

/// Content of the stored responses to a grant's token.
pub(crate) enum KeptPair {
    /// No response is stored.
    Nothing,
    /// Responses that cannot be parsed.
    Unread,
    /// A pair that arrived with an error status, and its time.
    Pair(Box<GrantedTokens>, Timestamp),
    /// Pairs that are in doubt, each with its time, the newest first: they must prove themselves.
    Doubtful(Vec<(Box<GrantedTokens>, Timestamp)>),
}

/// Looks for the pair that a grant's token was exchanged for, after the server has rejected the token as spent.
pub(crate) async fn pair_of_kept_reply(
    shared: &Context,
    name: &PortalName,
    grant: &Grant,
    app: &App,
) -> KeptPair {
    // If the state cannot be read now, the response stays stored: `recover` uses it.
    let kept = shared
        .state
        .kept_replies(name.clone())
        .await
        .unwrap_or_default();
    let current: Vec<_> = kept
        .iter()
        .rev()
        .filter(|kept| kept.sent == SentToken::of(grant))
        .collect();
    let now = shared.clock.now();
    let found = (current.iter())
        .find_map(|kept| Some((pair(&kept.reply, Some(grant), app, now)?, kept.reply.at)));
    if let Some((granted, at)) = found {
        return KeptPair::Pair(granted, at);
    }
    let doubtful: Vec<_> = (current.iter())
        .filter_map(|kept| Some((doubtful_pair(&kept.reply, grant, app, now)?, kept.reply.at)))
        .collect();
    if !doubtful.is_empty() {
        KeptPair::Doubtful(doubtful)
    } else if current.is_empty() {
        KeptPair::Nothing
    } else {
        KeptPair::Unread
    }
}
