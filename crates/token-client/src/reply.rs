//! Parses replies of a token endpoint and classifies them. The only implementation.
//!
//! Tolerant by profile, since a reply that cannot be parsed is a lost grant: numbers as strings, missing `token_type`,
//! `error` in a 200; `token_object` finds the object in any wrapping. Must not keep or show a part of a body that the
//! profile does not name.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error_reply::{self, code_in_text, with_code, without_code};
pub use super::error_reply::{ErrorContext, PresentedCredential, redirect_target};
use super::problem::Problem;
use super::provider::{Class, Profile};
use super::quirks::{JsonPath, first, means_no_error};
use super::reply_error::{error_of, standard_code_below};
use super::token::Details;
use super::token_life::TokenLives;
use super::token_object::{self, first_refresh, first_token, odd_refresh};
pub use super::verdict::{GrantedTokens, Refusal, TokenReply, Verdict};
use refreshd_secrets::mask::Cleaner;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_time::Timestamp;

/// Parses a reply by the profile's tables. `secrets` are masked in the server's texts.
#[must_use]
pub fn read(reply: &TokenReply<'_>, profile: &Profile, secrets: &[&str]) -> Verdict {
    read_in(reply, profile, secrets, ErrorContext::default())
}

/// As [`read`], with the context of the request.
#[must_use]
pub fn read_in(
    reply: &TokenReply<'_>,
    profile: &Profile,
    secrets: &[&str],
    context: ErrorContext<'_>,
) -> Verdict {
    let refuse = |problem| {
        Verdict::Refused(Refusal {
            problem,
            retry_after: reply.retry_after,
            assumed: false,
        })
    };
    let Some(body) = token_object::open(reply.body, reply.whole, profile) else {
        // A success is kept and in doubt, whatever its text is.
        let in_text = || {
            let text = error_reply::plain_text(reply.body)?;
            let code = code_in_text(text)?;
            Some((code, if text == code { "" } else { text }))
        };
        let error = if is_success(reply.status) {
            None
        } else {
            error_reply::xml_error(reply.body).or_else(in_text)
        };
        return Verdict::Refused(match error {
            Some(error) => with_code(reply, profile, &Map::new(), error, secrets, context),
            None => without_code(reply, profile, None, secrets, context),
        });
    };
    if let Some((code, description)) = error_of(&body, profile) {
        let words = (code.as_str(), description.as_str());
        let refusal = with_code(reply, profile, &body, words, secrets, context);
        // An unknown error beside a token is inconclusive: the body is kept, and the outcome is in doubt. If the
        // profile defines success, only that definition counts.
        let unknown = refusal.problem.class == Class::Unknown
            && is_success(reply.status)
            && profile.reply.success.is_empty();
        if unknown && granted(&body, profile, reply.now, secrets).is_some() {
            let code = refusal.problem.code.unwrap_or_default();
            let detail =
                format!("the server sent a token beside an error that is not known ({code})");
            return refuse(Problem::new(Class::InDoubt, detail));
        }
        return Verdict::Refused(refusal);
    }
    match granted(&body, profile, reply.now, secrets) {
        Some(granted) if is_success(reply.status) => Verdict::Granted(Box::new(granted)),
        Some(_) => {
            // A code is never sent twice.
            let next = match context.spent {
                PresentedCredential::Renewal => "; the same request is repeated",
                PresentedCredential::Code => "",
            };
            let detail = format!("the server sent a token with status {}{next}", reply.status);
            refuse(Problem::new(Class::InDoubt, detail))
        }
        None => match error_elsewhere(&body, reply.status) {
            Some((code, words)) => {
                let error = (code.as_str(), words.as_str());
                Verdict::Refused(with_code(reply, profile, &body, error, secrets, context))
            }
            None => Verdict::Refused(without_code(reply, profile, Some(&body), secrets, context)),
        },
    }
}

/// Error code of a reply without a token, outside of the profile's place: `Error` in another case, the first of a list
/// `errors`, or a code of RFC 6749 under another name. Beside a token such a list may contain warnings.
fn error_elsewhere(body: &Map<String, Value>, status: u16) -> Option<(String, String)> {
    let word = |value: &Value| match value {
        Value::String(text) if !means_no_error(value) => Some(text.clone()),
        _ => None,
    };
    let named = |wanted: &str| {
        let mut found = body
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.find_map(|(_, value)| word(value))
    };
    if let Some(code) = named("error") {
        return Some((code, named("error_description").unwrap_or_default()));
    }
    if let Some(code) = standard_code_below(body).filter(|_| !is_success(status)) {
        return Some((code.to_owned(), String::new()));
    }
    let errors = body
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("errors"))?
        .1;
    let first = match errors {
        Value::Array(errors) => errors.first()?,
        other => other,
    };
    let code = match first {
        Value::Object(error) => ["code", "error"]
            .iter()
            .find_map(|name| error.get(*name).and_then(word)),
        other => word(other),
    }?;
    // A sentence is not a code.
    (code.len() <= 64 && !code.trim().contains(' ')).then(|| (code, String::new()))
}

/// As [`read_taken`], for a text in any wrapping.
#[must_use]
pub fn read_taken_text(text: &[u8], profile: &Profile, now: Timestamp) -> Option<GrantedTokens> {
    token_object::open(text, true, profile).and_then(|body| read_taken(&body, profile, now))
}

/// Parses a token reply that another program received, for `import`: there is no status.
#[must_use]
pub fn read_taken(
    body: &Map<String, Value>,
    profile: &Profile,
    now: Timestamp,
) -> Option<GrantedTokens> {
    if error_of(body, profile).is_some() {
        None
    } else {
        granted(body, profile, now, &[])
    }
}

/// The one pair of a success that is in doubt: something beside or around it denies that it is one. For the time when the
/// token that was sent is known to be spent; the pair must be verified before it is used. A refusal has none, nor has a
/// sentence, nor an object without its own refresh token.
#[must_use]
pub fn read_doubtful(
    reply: &TokenReply<'_>,
    profile: &Profile,
    secrets: &[&str],
) -> Option<Box<GrantedTokens>> {
    let body = token_object::open_doubtful(reply.body, reply.whole, profile)?;
    granted(&body, profile, reply.now, secrets)
        .filter(|granted| is_success(reply.status) && granted.refresh.is_some())
        .map(Box::new)
}

/// Returns whether a body must be stored for an operator or a newer version: a success from which no pair was parsed
/// although nothing denies that there is one, or a pair with another status.
#[must_use]
pub fn is_unread(reply: &TokenReply<'_>, verdict: &Verdict, profile: &Profile) -> bool {
    let Verdict::Refused(Refusal { problem, .. }) = verdict else {
        return false;
    };
    let is_pair = || {
        let body = token_object::open(reply.body, reply.whole, profile);
        body.is_some_and(|body| granted(&body, profile, reply.now, &[]).is_some())
    };
    problem.class == Class::InDoubt
        && problem.code.is_none()
        && !token_object::is_empty(reply.body)
        && (is_success(reply.status) || is_pair())
}

/// Builds the result. Secrets that the server repeats, including the new tokens, are masked in everything that readers
/// and logs get.
fn granted(
    body: &Map<String, Value>,
    profile: &Profile,
    now: Timestamp,
    secrets: &[&str],
) -> Option<GrantedTokens> {
    let form = &profile.reply;
    let access = AccessToken::new(&token_object::token(
        first_token(&form.access_token, body)?,
        profile,
    )?)?;
    let odd_refresh = odd_refresh(&form.refresh_token, body);
    let refresh = match first_refresh(&form.refresh_token, body) {
        None => None,
        // A value that is present but unparsable must not be treated as missing: the old refresh token would stay in
        // force.
        Some(value) => Some(RefreshToken::new(&token_object::token(value, profile)?)?),
    };
    let new = [
        Some(access.expose()),
        refresh.as_ref().map(RefreshToken::expose),
    ];
    let tokens: Vec<_> = secrets
        .iter()
        .copied()
        .chain(new.into_iter().flatten())
        .collect();
    let cleaner = Cleaner::of(&tokens);
    let clean = |text: &str| cleaner.clean(text);
    let scope = match first(&form.scope, body) {
        Some(Value::String(scope)) => scope
            .split([',', ' '])
            .filter(|word| !word.is_empty())
            .map(clean)
            .collect(),
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).map(clean).collect(),
        _ => Vec::new(),
    };
    let named = |field: &Option<String>| {
        let value = field
            .as_ref()
            .and_then(|field| JsonPath::new(field).find(body))?;
        match value {
            Value::String(text) => Some(clean(text)),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    };
    let fields: BTreeMap<_, _> = (profile.fields.iter())
        .filter(|field| !SECRET_FIELDS.contains(&field.as_str()))
        .filter_map(|field| JsonPath::new(field).find(body).map(|value| (field, value)))
        .filter(|(_, value)| is_flat(value, MAX_NESTING))
        .map(|(field, value)| (field.clone(), cleaner.clean_value(value)))
        .collect();
    let lives = TokenLives::of(
        form,
        body,
        now,
        profile.assumed_lifetime,
        &tokens,
        Some(access.expose()),
    );
    let api = profile
        .endpoint_field
        .as_ref()
        .and_then(|field| JsonPath::new(field).find(body)?.as_str());
    let api = api.and_then(|api| cleaner.endpoint(api));
    Some(GrantedTokens {
        token_type: token_type(&clean(
            first(&form.token_type, body)
                .and_then(Value::as_str)
                .unwrap_or_default(),
        )),
        lives,
        identity: named(&profile.identity_field).filter(|identity| !identity.is_empty()),
        server: named(&profile.server_field),
        details: Details {
            scope,
            endpoint: api,
            fields,
        },
        access,
        odd_refresh: odd_refresh.filter(|_| refresh.is_none()),
        refresh,
    })
}

/// Never published to readers, whatever a profile lists.
pub const SECRET_FIELDS: [&str; 4] = ["refresh_token", "client_secret", "access_token", "id_token"];

/// Fields with deeper nesting are dropped: their consumers, above all the state, allow 127 levels in total.
const MAX_NESTING: usize = 32;

fn is_flat(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(values) => levels > 0 && values.iter().all(|value| is_flat(value, levels - 1)),
        Value::Object(map) => levels > 0 && map.values().all(|value| is_flat(value, levels - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// Case-insensitive (RFC 6749 section 7.1), so normalised to one spelling.
fn token_type(text: &str) -> String {
    match text {
        "" => "Bearer".to_owned(),
        text if text.eq_ignore_ascii_case("bearer") => "Bearer".to_owned(),
        text => text.to_owned(),
    }
}

const fn is_success(status: u16) -> bool {
    matches!(status, 200..=299)
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
