//! Replies that could not be read: judged, kept as they came, and read again when the token that was sent is refused.
//!
//! Must not show a byte of one.

use std::sync::Arc;

use crate::adapters::state::Unsaved;
use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::renewal::carry::{Held, Slot, UNREADABLE_REPLY};
use crate::daemon::renewal::persist::until_durable;
use crate::domain::kept_reply::{ReplyTo, SentToken, UnreadableReply};
use crate::domain::name::PortalName;
use crate::domain::portal::Grant;
use refreshd_secrets::ReplyBody;
use refreshd_time::Timestamp;
use refreshd_token_client::authorization_server::HttpResponse;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::reply::{
    ErrorContext, GrantedTokens, TokenReply, Verdict, is_unread, read, read_in,
};

/// What to do while the outcome is not known and its reply is kept.
pub(crate) const HINT_IN_DOUBT: &str = "look at its reply, which is kept: refreshd recover {portal}; the request is repeated by itself";

/// What to do once the grant is dead and a reply is kept that may hold the pair which replaced it.
pub(crate) const HINT_DEAD: &str = "look for the newest pair in the reply that is kept: refreshd recover {portal} --show, and \
     hand it over: refreshd import {portal}; or authorize the app again: refreshd authorize {portal}";

/// Judges what arrived of a reply; and whether it is to be kept.
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

/// What is kept of a reply.
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

/// Keeps a reply that is nowhere else: until the state has it, it is held, and everybody hears of it.
pub(crate) async fn keep(shared: &Context, portal: &PortalName, reply: UnreadableReply) {
    let reply = Arc::new(reply);
    let held = Held {
        unsaved: Unsaved::Reply(portal, &reply),
        slot: Slot::default(),
    };
    until_durable(shared, portal, Some(held), || {
        shared.state.keep_reply(portal.clone(), Arc::clone(&reply))
    })
    .await;
    tracing::warn!(%portal, "{portal}: {UNREADABLE_REPLY} is kept; see: refreshd recover {portal}");
}

/// The pair of a kept reply, if it can be read.
pub(crate) fn pair(
    reply: &UnreadableReply,
    grant: Option<&Grant>,
    app: &App,
    now: Timestamp,
) -> Option<Box<GrantedTokens>> {
    let refresh = grant.and_then(|grant| grant.tokens.credential.refresh());
    let secrets = [
        refresh.map(|token| token.expose()),
        app.client_secret.as_ref().map(|secret| secret.expose()),
    ];
    let secrets: Vec<_> = secrets.into_iter().flatten().collect();
    // A pair with a status that is no success is taken once a person says so, or the token that was sent is refused.
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
    match read(&whole, &app.profile, &secrets) {
        Verdict::Granted(granted) => Some(granted),
        Verdict::Refused(_) => None,
    }
}

/// What the kept replies to a grant's token hold.
pub(crate) enum KeptPair {
    /// None is kept.
    Nothing,
    /// Replies that cannot be read.
    Unread,
    /// A pair that came with a status that is no success, and when.
    Pair(Box<GrantedTokens>, Timestamp),
}

/// What came for a grant's token that the server has refused since: it was spent for this.
pub(crate) async fn pair_of_kept_reply(
    shared: &Context,
    name: &PortalName,
    grant: &Grant,
    app: &App,
) -> KeptPair {
    // A state that cannot be read now keeps the reply: `recover` takes it.
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
    match found {
        Some((granted, at)) => KeptPair::Pair(granted, at),
        None if current.is_empty() => KeptPair::Nothing,
        None => KeptPair::Unread,
    }
}
