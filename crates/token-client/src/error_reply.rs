//! Classifies a refusal by status and error table, and words it: our meaning, with the server's description beside it.
//!
//! Must not read a pair, nor decide what happens next. An error code of a failing server is not trusted: 5xx, 408, 425
//! and 429 take precedence over it.

use serde_json::{Map, Value};
use url::Url;

use super::problem::Problem;
use super::provider::{Class, ErrorRule, Profile};
use super::quirks::JsonPath;
use super::verdict::{Refusal, TokenReply};
use refreshd_secrets::mask::{link, mask, server_text};

/// Credential that a request spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PresentedCredential {
    /// A refresh token, or the client's own credentials.
    #[default]
    Renewal,
    /// An authorization code or a device code.
    Code,
}

/// Context of the request that a reply answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorContext<'a> {
    /// Credential that it spent.
    pub spent: PresentedCredential,
    /// Address, without parameters.
    pub sent_to: &'a str,
    /// `Location` of the reply (RFC 9110 section 10.2.2), unmodified.
    pub location: Option<&'a str>,
    /// True if a request of the same kind (client, endpoint, parameters) returned the pair that is in force.
    pub worked_before: bool,
}

/// Members with a link to a page about the error (RFC 6749 section 5.2).
const ERROR_URI: [&str; 2] = ["error_uri", "more_info"];
/// Members with a sentence for people, besides the profile's own place.
const DESCRIPTIONS: [&str; 12] = [
    "error_description",
    "errorDescription",
    "error.message",
    "error.error_description",
    "message",
    "error_message",
    "errorMessage",
    "error_msg",
    "errors.0.message",
    "errors.0.detail",
    "detail",
    "title",
];
/// Members with a second sentence.
const SECONDARY_DESCRIPTIONS: [&str; 5] = [
    "hint",
    "error_hint",
    "errors.refresh_token.0",
    "errors.refresh_token",
    "errors.0",
];

/// Error codes of RFC 6749 section 5.2 and RFC 8628 section 3.5. They are never masked, even if a secret has the same
/// text.
pub(super) const STANDARD_CODES: [&str; 10] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "authorization_pending",
    "slow_down",
    "access_denied",
    "expired_token",
];

/// Maximum length of a body that is read as a plain text, in bytes.
const MAX_PLAIN: usize = 500;

/// Replaces a description that mentions a refresh token although a code was refused.
const CODE_REFUSED: &str = "the code is not valid: it was used already, has expired, or is for another client or redirect_uri";

/// Classifies a reply with an error code.
pub fn with_code(
    reply: &TokenReply<'_>,
    profile: &Profile,
    body: &Map<String, Value>,
    (code, description): (&str, &str),
    secrets: &[&str],
    context: ErrorContext<'_>,
) -> Refusal {
    let words = words(body, description);
    let row = |code: &str| {
        let matches = |rule: &&ErrorRule| rule.matches(reply.status, code, description, Some(body));
        profile.errors.iter().find(matches)
    };
    let spelt = spelt_as_usual(code);
    let (rule, code) = match (row(code), row(&spelt)) {
        (None, Some(rule)) => (Some(rule), spelt.as_str()),
        (rule, _) => (rule, code),
    };
    let believed = rule.filter(|rule| is_trusted(rule, reply.status));
    let shown = server_text(&words, secrets);
    let mut problem = match (believed, rule) {
        (Some(rule), _) => by_rule(rule, shown.as_deref().unwrap_or_default(), context.spent),
        (None, Some(_)) => {
            let detail = format!(
                "the server answered with status {}, so its error code is not believed",
                reply.status
            );
            Problem::new(by_status(reply.status), detail)
        }
        (None, None) => Problem::new(by_status(reply.status), shown.clone().unwrap_or_default()),
    };
    let general = believed.is_none_or(|rule| rule.description.is_empty() && rule.also.is_empty());
    let assumed = general
        && context.worked_before
        && may_be_dead(problem.class, reply.status)
        && (is_dead_grant_code(&spelt)
            || problem.class == Class::Unknown && reports_dead_grant(&words, reply.status))
        && !is_of_something_else(&words);
    if assumed {
        problem = dead(&format!("said {}", mask(&spelt, secrets)), reply.status);
    }
    let is_known = rule.is_some_and(|rule| {
        rule.error
            .iter()
            .any(|known| known.eq_ignore_ascii_case(code))
    });
    problem.code = if is_known || STANDARD_CODES.contains(&code) {
        Some(code.to_owned())
    } else {
        Some(mask(code, secrets)).filter(|code| !code.is_empty())
    };
    with_words(problem, shown, body, secrets).into_refusal(reply, assumed)
}

/// Classifies a reply without an error code by its status. An unparsable success has probably spent the token.
pub fn without_code(
    reply: &TokenReply<'_>,
    profile: &Profile,
    body: Option<&Map<String, Value>>,
    secrets: &[&str],
    context: ErrorContext<'_>,
) -> Refusal {
    let status = reply.status;
    let content = match body {
        Some(body) => words(body, ""),
        None => plain_text(reply.body).unwrap_or_default().to_owned(),
    };
    let shown = server_text(&content, secrets);
    let with_words = |problem: Problem| match body {
        Some(body) => with_words(problem, shown.clone(), body, secrets),
        None => with_words(problem, shown.clone(), &Map::new(), secrets),
    };
    let matches = |rule: &&ErrorRule| rule.error.is_empty() && rule.matches(status, "", "", body);
    if let Some(rule) = profile
        .errors
        .iter()
        .find(matches)
        .filter(|rule| is_trusted(rule, status))
    {
        let problem = by_rule(
            rule,
            &format!("the server answered with status {status}"),
            context.spent,
        );
        return with_words(problem).into_refusal(reply, false);
    }
    if context.worked_before && (400..=499).contains(&status) {
        if matches!(status, 400 | 401) && is_blank(reply.body) {
            let what = format!("answered {status} with nothing else");
            return dead(&what, status).into_refusal(reply, true);
        }
        if may_be_dead(Class::Unknown, status)
            && reports_dead_grant(&content, status)
            && !is_of_something_else(&content)
        {
            let what = format!("answered {status} with a sentence about the token");
            return with_words(dead(&what, status)).into_refusal(reply, true);
        }
    }
    let start = reply
        .body
        .iter()
        .copied()
        .find(|byte| !byte.is_ascii_whitespace());
    let problem = match (status, start) {
        (200..=299, start) => {
            let what = match (body, start) {
                (Some(_), _) => "a body that has neither an access token nor an error",
                (None, Some(b'<')) => "a page of HTML instead of JSON",
                (None, Some(_)) => "a body in which no token can be read",
                (None, None) => "an empty body",
            };
            let problem = Problem::new(
                Class::InDoubt,
                format!("the server answered {status} with {what}"),
            );
            // Without its words: any of them may be a token, which no mask knows. `recover` shows the kept body.
            return problem.into_refusal(reply, false);
        }
        (300..=399, _) => redirected(status, context),
        _ => Problem::new(
            by_status(status),
            format!("the server answered with status {status} and no error code"),
        ),
    };
    with_words(problem).into_refusal(reply, false)
}

/// Class of a status alone.
pub const fn by_status(status: u16) -> Class {
    match status {
        // A gateway timed out: the server behind it may have spent the token.
        502 | 504 => Class::InDoubt,
        408 | 425 | 429 | 500..=599 => Class::Transient,
        _ => Class::Unknown,
    }
}

/// Returns whether the server is failing or overloaded, so that its error code does not concern the grant.
const fn is_server_failure(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// Returns whether a row applies at this status. For a failing server a row applies only if it lists the status, or
/// states no more than the status does; and it never ends a grant or rejects a client.
fn is_trusted(rule: &ErrorRule, status: u16) -> bool {
    if !is_server_failure(status) {
        return true;
    }
    let final_word = matches!(
        rule.class,
        Class::NeedsAuthorization | Class::Gone | Class::ClientRejected
    );
    !final_word && (rule.status.contains(&status) || rule.class == by_status(status))
}

/// Problem by a row of the profile's table; `words` replace a missing meaning.
fn by_rule(rule: &ErrorRule, words: &str, spent: PresentedCredential) -> Problem {
    let meaning = rule.meaning.as_deref().map(|meaning| match spent {
        PresentedCredential::Code if meaning.to_lowercase().contains("refresh token") => {
            CODE_REFUSED
        }
        PresentedCredential::Code | PresentedCredential::Renewal => meaning,
    });
    Problem {
        remedy: rule.remedy.clone(),
        ..Problem::new(rule.class, meaning.unwrap_or(words).to_owned())
    }
}

/// Appends the server's description to our meaning, unless it is the meaning.
fn with_words(
    problem: Problem,
    shown: Option<String>,
    body: &Map<String, Value>,
    secrets: &[&str],
) -> Problem {
    let uri = ERROR_URI.iter().find_map(|name| body.get(*name)?.as_str());
    Problem {
        server_text: shown.filter(|shown| *shown != problem.detail),
        error_uri: uri.and_then(|uri| link(uri, secrets)),
        ..problem
    }
}

/// The server's sentences, without duplicates.
fn words(body: &Map<String, Value>, description: &str) -> String {
    let text = |name: &&str| match JsonPath::new(name).find(body)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        _ => None,
    };
    let own = Some(description.to_owned()).filter(|words| !words.trim().is_empty());
    let first = own.or_else(|| DESCRIPTIONS.iter().find_map(text));
    let more = SECONDARY_DESCRIPTIONS
        .iter()
        .find_map(text)
        .filter(|more| first.as_ref() != Some(more));
    let parts: Vec<_> = [first, more].into_iter().flatten().collect();
    parts.join("; ")
}

impl Problem {
    fn into_refusal(self, reply: &TokenReply<'_>, assumed: bool) -> Refusal {
        Refusal {
            problem: self,
            retry_after: reply.retry_after,
            assumed,
        }
    }
}

/// Some servers report a dead grant only as an invalid request. A request of the same kind returned the pair before.
fn dead(what: &str, status: u16) -> Problem {
    let detail = format!(
        "the server {what} to the same kind of request that worked before; assumed: the grant is dead"
    );
    // The only other cause of this status is the client.
    let remedy = "authorize the app {app} again: refreshd authorize {portal}; if its client_secret was changed at the provider, \
                  correct that in the configuration first, then: systemctl reload refreshd";
    Problem {
        remedy: (status == 401).then(|| remedy.to_owned()),
        ..Problem::new(Class::NeedsAuthorization, detail)
    }
}

/// Normalises a code to the spelling of RFC 6749: `Invalid Grant`, `invalid-grant`, `InvalidGrant`.
fn spelt_as_usual(code: &str) -> String {
    let code = code.trim();
    let mut spelt = String::with_capacity(code.len());
    let mut before = ' ';
    for c in code.chars() {
        if before.is_ascii_lowercase() && c.is_ascii_uppercase() {
            spelt.push('_');
        }
        spelt.push(match c {
            ' ' | '-' => '_',
            c => c.to_ascii_lowercase(),
        });
        before = c;
    }
    spelt
}

/// Returns whether a code, besides `invalid_grant`, reports a dead grant: Spring's `invalid_token`, fosite's
/// `token_inactive`, and the many that name the token and its state.
fn is_dead_grant_code(code: &str) -> bool {
    matches!(code, "invalid_request" | "access_denied") || reports_dead_token(code)
}

/// Returns whether a code or a sentence reports that a token is no longer valid.
fn reports_dead_token(text: &str) -> bool {
    const DEAD: [&str; 18] = [
        "does not exist",
        "doesn't exist",
        "no longer",
        "removed",
        "deleted",
        "expired",
        "revoked",
        "inactive",
        "not active",
        "not_active",
        "invalid",
        "not valid",
        "not_valid",
        "not found",
        "not_found",
        "unknown",
        "already used",
        "already_used",
    ];
    let text = text.to_lowercase();
    let is_named = text.contains("token")
        || text.contains("grant") && !text.contains("grant_type") && !text.contains("grant type");
    is_named && DEAD.iter().any(|dead| text.contains(dead))
}

/// As [`reports_dead_token`]. At a status that other causes have more often, the sentence must name the refresh token;
/// 403 is a firewall's.
fn reports_dead_grant(text: &str, status: u16) -> bool {
    let is_named = match status {
        400 | 401 => true,
        403 => false,
        _ => ["refresh", "grant"]
            .iter()
            .any(|subject| text.to_lowercase().contains(subject)),
    };
    is_named && reports_dead_token(text)
}

/// A short body that is neither JSON nor markup: some servers answer with a code or a sentence alone.
#[must_use]
pub fn plain_text(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let text = text.trim_start_matches('\u{feff}').trim();
    let is_plain = !text.is_empty() && text.len() <= MAX_PLAIN && !text.contains(['<', '{', '[']);
    is_plain.then_some(text)
}

/// Error code and description of a reply in XML (`<OAuth><error>…</error>`), which some servers send whatever is accepted.
#[must_use]
pub fn xml_error(body: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(body).ok()?;
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inside, _) = rest.split_once(&format!("</{name}>"))?;
        Some(inside.trim()).filter(|inside| !inside.contains('<'))
    };
    let code = element("error").filter(|code| code.len() <= 64 && !code.contains(' '))?;
    Some((code, element("error_description").unwrap_or_default()))
}

/// The code of RFC 6749 that is a word of a plain text.
pub(super) fn code_in_text(text: &str) -> Option<&'static str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_word(c));
    let mut codes = words.filter_map(standard_code);
    let code = codes.next()?;
    codes.all(|other| other == code).then_some(code)
}

/// The code of RFC 6749 that a text is, in whatever spelling.
pub(super) fn standard_code(text: &str) -> Option<&'static str> {
    let spelt = spelt_as_usual(text);
    STANDARD_CODES.into_iter().find(|code| *code == spelt)
}

/// Returns whether a refusal is so unspecific that it may be about a dead grant.
const fn may_be_dead(class: Class, status: u16) -> bool {
    matches!(class, Class::ClientRejected | Class::Unknown)
        && matches!(status, 200..=299 | 400 | 401 | 403 | 404 | 409 | 410 | 422)
}

/// Sentence of RFC 6749 section 5.2 for every `invalid_request`: many servers send it whatever the cause.
const STANDARD: &str = "the request is missing a required parameter, includes an";

/// Returns whether a sentence is about another part of the request than the refresh token, or about the server itself.
fn is_of_something_else(words: &str) -> bool {
    const OTHER_CAUSES: [&str; 41] = [
        "csrf",
        "xsrf",
        "captcha",
        "redirect_uri",
        "redirect uri",
        "scope",
        "client_id",
        "client id",
        "client_secret",
        "client secret",
        "client_assertion",
        "client authentication",
        "client credential",
        "grant_type",
        "grant type",
        "content-type",
        "content type",
        "http method",
        "method not",
        "response_type",
        "code_verifier",
        "code_challenge",
        "audience",
        "resource",
        "device_id",
        "username",
        "password",
        "dpop",
        "missing",
        "required",
        "duplicate",
        "repeated",
        "header",
        "rate limit",
        "too many",
        "temporar",
        "try again",
        "maintenance",
        "timeout",
        "timed out",
        "https",
    ];
    let words = words.to_lowercase();
    let special = match words.find(STANDARD) {
        // The standard sentence ends with its own full stop.
        Some(at) => {
            let rest = words[at..].split_once('.').map_or("", |(_, rest)| rest);
            format!("{} {rest}", &words[..at])
        }
        None => words,
    };
    OTHER_CAUSES.iter().any(|other| special.contains(other))
}

/// Returns whether a body is empty: only white space, or an empty JSON value.
fn is_blank(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text: Vec<u8> = body
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace() && *byte != 0)
        .collect();
    matches!(text.as_slice(), b"" | b"{}" | b"[]" | b"null" | b"\"\"")
}

/// A redirect is not followed, but its target helps to correct the configuration.
fn redirected(status: u16, context: ErrorContext<'_>) -> Problem {
    let leads = context
        .location
        .and_then(|location| redirect_target(context.sent_to, location))
        .map(|leads| format!(" {leads}"))
        .unwrap_or_default();
    let detail = format!(
        "the server answered {status}, a redirect{leads}; secrets are not sent to another address"
    );
    let remedy = "see whether the redirect leads to the provider's own token endpoint, then write that address as token_url \
                  of the app {app} in the configuration, and: systemctl reload refreshd; it is retried by itself";
    Problem {
        remedy: Some(remedy.to_owned()),
        ..Problem::new(Class::Unknown, detail)
    }
}

/// Target of a redirect: the host, and the difference if the host is the same.
#[must_use]
pub fn redirect_target(sent_to: &str, location: &str) -> Option<String> {
    let from = Url::parse(sent_to).ok()?;
    let to = from.join(location.trim()).ok()?;
    let host = to
        .host_str()
        .filter(|_| matches!(to.scheme(), "http" | "https"))?;
    let port = |url: &Url| url.port_or_known_default();
    let shown = match to.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let path = |url: &Url| url.path().to_owned();
    let how = if Some(host) != from.host_str() {
        String::new()
    } else if to.scheme() != from.scheme() {
        format!(" (the same host by {})", to.scheme())
    } else if port(&to) != port(&from) {
        " (another port of the same host)".to_owned()
    } else if path(&to) == format!("{}/", path(&from)) {
        " (only the path differs: the slash at its end is missing in the configured address)"
            .to_owned()
    } else if format!("{}/", path(&to)) == path(&from) {
        " (only the path differs: the slash at its end is too much in the configured address)"
            .to_owned()
    } else if path(&to) == path(&from) {
        " (the same address)".to_owned()
    } else {
        // A path may contain a secret, such as one sent in it.
        " (only the path differs)".to_owned()
    };
    Some(format!("to {}{how}", mask(&shown, &[])))
}

#[cfg(test)]
#[path = "error_reply_tests.rs"]
mod tests;
