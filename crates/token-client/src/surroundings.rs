//! Interprets the surroundings of a token object: words, names and values that report a failure, or mark the object as
//! something else than the reply.
//!
//! A failure counts if it concerns the token or the request: in text, if the same line names one of `SUBJECTS`;
//! in an object, in the members and envelopes that are for the outcome. Must not search for tokens.

use std::slice::from_ref;

use serde_json::{Map, Value};

use super::lenient::parse;
use super::markup::{VOID, attributes, without_notices};
use super::quirks::means_no_error;

/// Statement of a text about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Failure,
    Success,
    Nothing,
}

/// Words for a failure, also as prefix or suffix of a word (`invalidgrant`, `TypeError`).
const FAILURES: [&str; 20] = [
    "error",
    "invalid",
    "expired",
    "revoked",
    "denied",
    "fail",
    "reject",
    "refused",
    "unauthori",
    "unauthenticated",
    "forbidden",
    "exception",
    "inactive",
    "suspended",
    "incorrect",
    "malformed",
    "unavailable",
    "unreachable",
    "unrecogni",
    "unsuccessful",
];
/// Words for a failure that occur inside harmless words.
const EXACT_FAILURES: [&str; 23] = [
    "ko", "err", "fault", "unable", "cannot", "cant", "couldnt", "wrong", "bad", "aborted",
    "illegal", "missing", "mismatch", "disabled", "blocked", "banned", "declined", "tampered",
    "replayed", "reused", "corrupt", "nok", "required",
];
/// Beginnings and ends of words for what a failure must be about.
const SUBJECTS: [&str; 8] = [
    "token",
    "grant",
    "refresh",
    "client",
    "session",
    "login",
    "authorization",
    "credential",
];
/// States of a replaced token as well as of a rejected one; the last two after `not`.
const END_STATES: [&str; 7] = [
    "revoked",
    "expired",
    "invalidated",
    "inactive",
    "invalid",
    "valid",
    "active",
];
const SUCCESSES: [&str; 14] = [
    "ok",
    "success",
    "successful",
    "successfully",
    "succeeded",
    "refreshed",
    "renewed",
    "granted",
    "issued",
    "completed",
    "done",
    "valid",
    "active",
    "authorized",
];
/// Success words that mean a failure after `not`, and nothing alone.
const SUCCESS_WORDS: [&str; 12] = [
    "found",
    "allowed",
    "accepted",
    "authenticated",
    "recognized",
    "recognised",
    "permitted",
    "possible",
    "supported",
    "exist",
    "known",
    "available",
];
const NEGATIONS: [&str; 16] = [
    "no", "not", "without", "zero", "0", "never", "nothing", "isnt", "wasnt", "arent", "doesnt",
    "didnt", "non", "cannot", "couldnt", "hasnt",
];
/// Words that may stand between `no` and the word it negates.
const FILLER_WORDS: [&str; 14] = [
    "any", "be", "been", "an", "a", "the", "known", "such", "more", "new", "further", "longer",
    "yet", "is",
];
const STATUS_WORDS: [&str; 4] = ["http", "status", "code", "error"];

/// Words of a text or a name, in lower case, with `camelCase` split.
fn words(text: &str) -> Vec<String> {
    let is_address = |part: &&str| part.contains("://");
    let parts: Vec<_> = (text.split_whitespace())
        .filter(|part| !is_address(part))
        .collect();
    let text: String = (parts.join(" ").chars())
        .filter(|c| !matches!(c, '\'' | '’'))
        .collect();
    let mut words = Vec::new();
    for word in text.split(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric()) {
        let (mut from, mut before) = (0, ' ');
        // Capitals within digits are Base64.
        let is_name = !word.bytes().any(|byte| byte.is_ascii_digit());
        for (at, c) in word.char_indices().filter(|_| is_name) {
            if before.is_lowercase() && c.is_uppercase() {
                words.push(word[from..at].to_lowercase());
                from = at;
            }
            before = c;
        }
        if from < word.len() {
            words.push(word[from..].to_lowercase());
        }
    }
    words
}

fn is_failure_word(word: &str) -> bool {
    EXACT_FAILURES.contains(&word)
        || (FAILURES
            .iter()
            .any(|failure| word.starts_with(failure) || word.ends_with(failure))
            && !word.starts_with("unex")
            && !word.starts_with("unre"))
}

/// Statement of a text, by its words.
pub(super) fn statement(text: &str) -> Statement {
    let words = words(text);
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
    // `Rotated; the old token was revoked.`
    let replaced = has(&["old", "previous", "prior", "former"]);
    let mut result = Statement::Nothing;
    for (at, word) in words.iter().enumerate() {
        let word = word.as_str();
        let before = |skipped: &[&str]| {
            let mut before = words[..at].iter().rev().map(String::as_str);
            before.find(|word| !skipped.contains(word))
        };
        let denied = || before(&FILLER_WORDS).is_some_and(|word| NEGATIONS.contains(&word));
        let next = words.get(at + 1).map(String::as_str);
        let is_status = word.len() == 3
            && word
                .parse()
                .is_ok_and(|status: u16| (400..600).contains(&status))
            && before(&["0", "1", "2", "3"]).is_some_and(|word| STATUS_WORDS.contains(&word));
        let good = SUCCESSES.contains(&word);
        let phrase = matches!(
            (word, next),
            ("timed", Some("out"))
                | (
                    "try" | "in" | "login" | "authenticate" | "authorize",
                    Some("again")
                )
                | ("already", Some("used" | "spent" | "redeemed" | "consumed"))
                | (
                    "unknown",
                    Some("grant" | "token" | "refresh" | "client" | "session" | "user" | "code")
                )
        );
        if is_status || phrase {
            return Statement::Failure;
        }
        let is_end = replaced && END_STATES.contains(&word);
        if is_failure_word(word) {
            let nothing = ["0", "none", "null", "false", "nil", "ok", "success", "free"];
            if denied() || next.is_some_and(|next| nothing.contains(&next)) {
                result = Statement::Success;
            } else if !is_end {
                return Statement::Failure;
            }
        } else if (good || SUCCESS_WORDS.contains(&word)) && denied() {
            if !is_end {
                return Statement::Failure;
            }
        } else if good {
            result = Statement::Success;
        }
    }
    result
}

/// Returns whether a text names the token, the grant or the like.
fn names_subject(text: &str) -> bool {
    let is_subject = |word: &String| {
        let mut subjects = SUBJECTS.iter();
        subjects.any(|subject| word.starts_with(subject) || word.ends_with(subject))
    };
    words(text).iter().any(is_subject)
}

/// Returns whether a text states that the request failed: about the token, or in words for a failure only, such as
/// `failed`, but not in `trial_expired`.
fn is_failure_of_request(text: &str) -> bool {
    let is_outcome = |word: &String| {
        let word = word.as_str();
        is_failure_word(word)
            || word == "request"
            || word.bytes().all(|byte| byte.is_ascii_digit())
            || [
                &NEGATIONS[..],
                &FILLER_WORDS,
                &SUCCESSES,
                &SUCCESS_WORDS,
                &STATUS_WORDS,
            ]
            .iter()
            .any(|list| list.contains(&word))
    };
    statement(text) == Statement::Failure
        && (names_subject(text) || words(text).iter().all(is_outcome))
}

/// Returns whether a name marks its value as something else than the reply: a request, an example, an earlier state, a
/// place to get tokens, or a lifetime.
pub(super) fn is_something_else(name: &str) -> bool {
    const BEGINNINGS: [&str; 13] = [
        "old",
        "previous",
        "prevtoken",
        "former",
        "expired",
        "revoked",
        "deleted",
        "invalid",
        "stale",
        "example",
        "sample",
        "cache",
        "original",
    ];
    const WORDS: [&str; 51] = [
        "form",
        "last",
        "prev",
        "old",
        "expected",
        "got",
        "given",
        "input",
        "echo",
        "request",
        "requested",
        "sent",
        "query",
        "history",
        "superseded",
        "backup",
        "params",
        "parameters",
        "param",
        "links",
        "link",
        "urls",
        "url",
        "endpoints",
        "ttl",
        "ttls",
        "expires",
        "lifetime",
        "lifetimes",
        "policy",
        "policies",
        "supported",
        "schema",
        "properties",
        "definitions",
        "template",
        "placeholder",
        "config",
        "settings",
        "features",
        "permissions",
        "scopes",
        "docs",
        "documentation",
        "before",
        "earlier",
        "submitted",
        "provided",
        "supplied",
        "replaced",
        "used",
    ];
    let plain = name.trim_start_matches('_').to_ascii_lowercase();
    BEGINNINGS.iter().any(|word| plain.starts_with(word))
        || statement(name) == Statement::Failure
        || words(name)
            .iter()
            .any(|word| WORDS.contains(&word.as_str()))
}

/// Words around a value that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextScope {
    /// Names of the value, and statements of a failure.
    All,
    /// Names that mark the value as something else: `old =`, `<request>`.
    Names,
}

/// Returns whether the text around JSON values denies that they are a pair. A form has no surroundings.
pub(super) fn is_refused_by_text(text: &[u8], exact: &[&str], counts: TextScope) -> bool {
    // Maximum number of bytes parsed, as a multiple of the text's length: failed values are read again.
    const MAX_STEPS: usize = 16;
    const MAX_OPEN: usize = 200;
    /// Elements within a sentence.
    const INLINE: [&str; 8] = ["a", "b", "code", "em", "i", "small", "span", "strong"];
    let (mut around, mut at, mut values) = (String::new(), 0, false);
    // Comments inside of values. They stay apart: they are not on the line of a value, and give it no name.
    let mut comments = String::new();
    // Open elements whose values are something else.
    let mut open: Vec<String> = Vec::new();
    let mut patience = text.len().saturating_mul(MAX_STEPS);
    while let Some(byte) = text.get(at) {
        let rest = &text[at..];
        match byte {
            b'<' => {
                if let Some((length, name)) = tag(rest) {
                    let small = name.to_ascii_lowercase();
                    // A space: no status line begins in an element.
                    let is_inline = INLINE.contains(&small.as_str());
                    around.push_str(if is_inline { " " } else { "\n " });
                    if rest[1] == b'/' {
                        let from = open.iter().rposition(|open| *open == small);
                        open.truncate(from.unwrap_or(open.len()));
                    } else if !VOID.contains(&small.as_str()) && is_something_else(&name) {
                        if open.len() == MAX_OPEN {
                            return true;
                        }
                        open.push(small);
                    }
                    at += length;
                    continue;
                }
            }
            b'{' | b'[' | b'"' if *byte != b'"' || holds_json(rest) => match parse(rest, exact) {
                Ok(parsed) => {
                    if !open.is_empty() || is_something_else(called(&around)) {
                        return true;
                    }
                    around.push(' ');
                    comments.push_str(&parsed.comments);
                    at += parsed.end;
                    values = true;
                    continue;
                }
                Err(read) => match patience.checked_sub(read) {
                    Some(left) => patience = left,
                    None => return true,
                },
            },
            _ => {}
        }
        around.push(if byte.is_ascii() {
            char::from(*byte)
        } else {
            '·'
        });
        at += 1;
    }
    // The last head counts: a recorded conversation contains those of its requests too.
    let mut of_request = false;
    for line in around.lines().chain(comments.lines()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_version = |word: &str| word.starts_with("HTTP/");
        let method = |word: &str| ["GET", "POST", "PUT", "PATCH"].contains(&word);
        if words
            .windows(3)
            .any(|words| method(words[0]) && is_version(words[2]))
        {
            of_request = true;
        } else if words.iter().any(|word| is_version(word)) {
            of_request = false;
        }
        let text = without_notices(line);
        if values
            && counts == TextScope::All
            && (is_denial(&text)
                || statement(&text) == Statement::Failure
                    && (names_subject(&text) || is_status_line(line)))
        {
            return true;
        }
    }
    values && of_request
}

/// Returns whether a whole line is a denial, which needs no subject.
fn is_denial(line: &str) -> bool {
    const DENIALS: [&str; 18] = [
        "access denied",
        "access forbidden",
        "access refused",
        "authentication failed",
        "authentication required",
        "bad request",
        "denied",
        "error",
        "expired",
        "forbidden",
        "invalid",
        "invalid request",
        "not authorized",
        "not logged in",
        "permission denied",
        "rejected",
        "revoked",
        "unauthorized",
    ];
    let words = words(line).join(" ");
    DENIALS.contains(&words.trim())
}

/// `HTTP/1.1 400 Bad Request`, `Status: 400`, `401 Unauthorized`, or the name of an event.
fn is_status_line(line: &str) -> bool {
    let first = line.split(' ').next().unwrap_or_default();
    let is_failed = |status: u16| (400..600).contains(&status);
    line.starts_with("event:")
        || line.starts_with("Status:")
        || first.parse().is_ok_and(is_failed)
        || line.split(' ').any(|word| word.starts_with("HTTP/"))
}

/// Returns whether a string with JSON in it begins here, rather than a quoted word.
fn holds_json(text: &[u8]) -> bool {
    matches!(text[1..].trim_ascii_start(), [b'{' | b'[' | b'\\', ..])
}

/// Name of the function, variable or label of a value: of `onError(`, `old =` or `Request:`.
fn called(around: &str) -> &str {
    let Some(before) = around.trim_end().strip_suffix(['(', '=', ':']) else {
        return "";
    };
    let before = before.trim_end();
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.');
    &before[before.trim_end_matches(is_part).len()..]
}

/// Length and name of a tag, including the content of a script, a style or a title; `None` if there is none here. The
/// text of a comment counts.
fn tag(rest: &[u8]) -> Option<(usize, String)> {
    let start = if rest.get(1) == Some(&b'/') { 2 } else { 1 };
    let name: Vec<u8> = rest
        .get(start..)?
        .iter()
        .copied()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"-:_".contains(byte))
        .collect();
    if !name.first()?.is_ascii_alphabetic() {
        return None;
    }
    let after = start + name.len();
    let mut length = after + attributes(&rest[after..]);
    let name = String::from_utf8(name).ok()?;
    let small = name.to_ascii_lowercase();
    if start == 1 && ["script", "style", "title"].contains(&small.as_str()) {
        let ends = |window: &[u8]| {
            window[..2] == *b"</" && window[2..].eq_ignore_ascii_case(name.as_bytes())
        };
        let inside = &rest[length..];
        length += inside
            .windows(name.len() + 2)
            .position(ends)
            .unwrap_or(inside.len());
    }
    Some((length, name))
}

/// Returns whether a member of this name is about the request, so that its content must be inspected.
pub(super) fn is_about_the_request(name: &str) -> bool {
    const ENVELOPES: [&str; 8] = [
        "error", "errors", "status", "meta", "result", "response", "header", "outcome",
    ];
    ENVELOPES.contains(&name.to_ascii_lowercase().as_str())
}

/// Returns whether the members of an object report a failure in any usual way. `is_code` knows error codes, which do so
/// under any name; in an object `beside` the token, such as `meta`, free text is ignored.
pub(super) fn is_refused_by_members(
    map: &Map<String, Value>,
    beside: bool,
    is_code: impl Fn(&str) -> bool,
) -> bool {
    let kinds: Vec<_> = map.keys().map(|name| MemberKind::of(name)).collect();
    let all = || kinds.iter().zip(map.values());
    let has_code = all().any(|(kind, value)| match kind {
        MemberKind::Code => !value.is_object(),
        MemberKind::Error { sentence } => !sentence,
        _ => false,
    });
    let succeeds = |value: &Value| {
        let text = value.as_str();
        text.is_some_and(|text| statement(text) == Statement::Success)
    };
    let says_success = all().any(|(kind, value)| match kind {
        MemberKind::Message => succeeds(value),
        MemberKind::Flag => is_yes(value),
        _ => false,
    });
    let fails = |value: &Value, is_failure: fn(&str) -> bool| {
        let texts = value.as_array().map_or(from_ref(value), Vec::as_slice);
        texts.iter().filter_map(Value::as_str).any(is_failure)
    };
    all().any(|(kind, value)| match kind {
        MemberKind::Warning => false,
        _ if value.as_str().is_some_and(&is_code) => true,
        MemberKind::Flag => is_no(value),
        MemberKind::Error { sentence } => {
            let meaning = value
                .as_str()
                .filter(|_| *sentence)
                .map_or(Statement::Nothing, statement);
            // A code decides. Without one the sentence has to be trusted.
            let decisive = !*sentence || !has_code || meaning == Statement::Failure;
            !means_no_error(value) && !succeeds(value) && decisive
        }
        MemberKind::State => is_yes(value) || fails(value, is_failure_of_request),
        MemberKind::Code => {
            value == &Value::Bool(false)
                || is_failed_status(value, says_success)
                || fails(value, |text| {
                    is_failure_of_request(text) || names_error(text)
                })
        }
        // Usually repeats the request.
        MemberKind::Label => value
            .as_str()
            .is_some_and(|text| is_failure_word(text.trim())),
        MemberKind::Message => !beside && fails(value, is_failure_of_request),
        MemberKind::Other => false,
    })
}

/// Kind of a member, by its name.
enum MemberKind {
    /// Success of the request.
    Flag,
    /// Error, as a code or a sentence.
    Error {
        sentence: bool,
    },
    /// State of the token: `revoked`.
    State,
    /// Number or word for the outcome.
    Code,
    Label,
    Message,
    /// Of a request that went well.
    Warning,
    Other,
}

impl MemberKind {
    fn of(name: &str) -> Self {
        const FLAGS: [&str; 10] = [
            "success",
            "ok",
            "succeeded",
            "successful",
            "valid",
            "authorized",
            "authenticated",
            "refreshed",
            "renewed",
            "accepted",
        ];
        const STATES: [&str; 8] = [
            "revoked", "expired", "invalid", "failed", "rejected", "refused", "denied", "inactive",
        ];
        let plain = words(name).concat();
        let bare = ["is", "has", "was"]
            .iter()
            .find_map(|word| plain.strip_prefix(word))
            .unwrap_or(&plain);
        // `is_active` is a property of users.
        if FLAGS.contains(&bare) || plain == "active" {
            Self::Flag
        } else if NOUNS.iter().any(|noun| bare.contains(noun))
            && consists_of(bare, &[&NOUNS[..], &CODE_PARTS, &SENTENCES, &SUBJECT_PARTS])
        {
            let sentence = SENTENCES.iter().any(|word| plain.ends_with(word));
            Self::Error { sentence }
        } else if STATES.contains(&bare) {
            Self::State
        } else if consists_of(&plain, &[&CODE_PARTS]) && !PREFIXES.contains(&plain.as_str()) {
            Self::Code
        } else if ["type", "level", "event", "state"].contains(&plain.as_str()) {
            Self::Label
        } else if SENTENCES.iter().any(|word| plain.ends_with(word))
            && consists_of(&plain, &[&CODE_PARTS, &SENTENCES])
        {
            Self::Message
        } else if plain.starts_with("warning") {
            Self::Warning
        } else {
            Self::Other
        }
    }
}

/// Parts of a name for a code: `code`, `http_status`, `ret`, `resultCode`, but not of `country_code`.
const CODE_PARTS: [&str; 14] = [
    "response", "return", "result", "status", "outcome", "reply", "http", "resp", "code", "ret",
    "sub", "api", "rc", "biz",
];
/// Those that are no code alone.
const PREFIXES: [&str; 5] = ["sub", "api", "biz", "http", "reply"];
/// Parts of a name for an error, with those for a code and a sentence; longest first. Not of `last_error`.
const NOUNS: [&str; 6] = ["exception", "errors", "errno", "error", "err", "fault"];
const SUBJECT_PARTS: [&str; 6] = ["type", "refresh", "token", "grant", "oauth", "s"];
/// Names of a text for people; longest first.
const SENTENCES: [&str; 11] = [
    "messages",
    "message",
    "msg",
    "description",
    "desc",
    "details",
    "detail",
    "reason",
    "title",
    "text",
    "info",
];

fn consists_of(plain: &str, parts: &[&[&str]]) -> bool {
    let mut rest = plain;
    let parts = || parts.iter().copied().flatten();
    while let Some(after) = parts().find_map(|part| rest.strip_prefix(part)) {
        rest = after;
    }
    rest.is_empty() && !plain.is_empty()
}

/// `internal_error`
fn names_error(text: &str) -> bool {
    statement(text) == Statement::Failure && words(text).iter().any(|word| word == "error")
}

/// Returns whether a number reports a failure. A success in words takes precedence over an unregistered number.
fn is_failed_status(value: &Value, says_success: bool) -> bool {
    const REGISTERED: [i64; 14] = [
        400, 401, 402, 403, 404, 405, 409, 410, 422, 429, 500, 502, 503, 504,
    ];
    let number = value
        .as_i64()
        .or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
    number.is_some_and(|number| {
        let fails =
            number < 0 || (400..600).contains(&number) || (40_000..60_000).contains(&number);
        fails && (!says_success || number < 0 || REGISTERED.contains(&number))
    })
}

fn is_yes(value: &Value) -> bool {
    is_one_of(value, true, 1.0, &["true", "1", "yes"])
}

fn is_no(value: &Value) -> bool {
    is_one_of(value, false, 0.0, &["false", "0", "no"])
}

fn is_one_of(value: &Value, yes: bool, number: f64, words: &[&str]) -> bool {
    match value {
        Value::Bool(value) => *value == yes,
        Value::Number(value) => value.as_f64() == Some(number),
        Value::String(text) => words
            .iter()
            .any(|word| word.eq_ignore_ascii_case(text.trim())),
        _ => false,
    }
}
