//! Interprets the surroundings of a token object: words, names and values that report a failure, or mark the object as
//! something else than the reply.
//!
//! One predicate for text before and after, names of wrappers, and members beside the tokens. Must not search for
//! tokens.

use serde_json::{Map, Value};

use super::lenient::parse;
use super::quirks::means_no_error;

/// Statement of a text about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Failure,
    Success,
    Nothing,
}

/// Words for a failure, also as prefix or suffix of a word (`invalidgrant`, `TypeError`).
const FAILURES: [&str; 16] = [
    "error",
    "errors",
    "invalid",
    "expired",
    "revoked",
    "denied",
    "failed",
    "failure",
    "rejected",
    "refused",
    "unauthorized",
    "unauthorised",
    "unauthenticated",
    "forbidden",
    "exception",
    "inactive",
];
/// Words for a failure that occur inside harmless words.
const EXACT_FAILURES: [&str; 44] = [
    "err",
    "errno",
    "errcode",
    "errmsg",
    "fail",
    "fails",
    "failing",
    "failures",
    "fault",
    "fatal",
    "panic",
    "traceback",
    "unable",
    "cannot",
    "cant",
    "couldnt",
    "incorrect",
    "wrong",
    "bad",
    "aborted",
    "illegal",
    "missing",
    "mismatch",
    "unavailable",
    "unreachable",
    "unsupported",
    "unsuccessful",
    "disabled",
    "blocked",
    "suspended",
    "banned",
    "declined",
    "tampered",
    "replayed",
    "reused",
    "malformed",
    "unrecognized",
    "unrecognised",
    "corrupt",
    "corrupted",
    "nok",
    "exceeded",
    "reject",
    "required",
];
/// Nouns among the failure words; the others are states.
const NOUNS: [&str; 7] = [
    "error",
    "err",
    "errno",
    "exception",
    "fault",
    "failure",
    "fail",
];
/// States of a replaced token as well as of a rejected one.
const END_STATES: [&str; 4] = ["revoked", "expired", "invalidated", "inactive"];
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
    // `Refreshed; the old token was revoked.`
    let replaced =
        has(&["old", "previous", "prior", "former"]) && (has(&["new"]) || has(&SUCCESSES));
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
        if is_failure_word(word) {
            let nothing = ["0", "none", "null", "false", "nil", "ok", "success", "free"];
            if denied() || next.is_some_and(|next| nothing.contains(&next)) {
                result = Statement::Success;
            } else if !(replaced && END_STATES.contains(&word)) {
                return Statement::Failure;
            }
        } else if (good || SUCCESS_WORDS.contains(&word)) && denied() {
            return Statement::Failure;
        } else if good {
            result = Statement::Success;
        }
    }
    result
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
    const WORDS: [&str; 50] = [
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

/// Returns whether the text around JSON values denies that they are a pair. A form has no surroundings.
pub(super) fn is_refused_by_text(text: &[u8], exact: &[&str]) -> bool {
    // Maximum number of bytes parsed, as a multiple of the text's length: failed values are read again.
    const MAX_STEPS: usize = 16;
    let (mut around, mut at, mut values) = (String::new(), 0, false);
    let mut patience = text.len().saturating_mul(MAX_STEPS);
    while let Some(byte) = text.get(at) {
        let rest = &text[at..];
        match byte {
            b'<' => {
                if let Some((length, name)) = tag(rest) {
                    if is_something_else(&name) {
                        return true;
                    }
                    around.push(if name == "br" { '\n' } else { ' ' });
                    at += length;
                    continue;
                }
            }
            b'{' | b'[' | b'"' if *byte != b'"' || holds_json(rest) => match parse(rest, exact) {
                Ok(parsed) => {
                    if is_something_else(called(&around)) {
                        return true;
                    }
                    around.push(' ');
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
    for line in around.lines() {
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
        if values && statement(&without_notices(line)) == Statement::Failure {
            return true;
        }
    }
    values && of_request
}

/// Returns whether a string with JSON in it begins here, rather than a quoted word.
fn holds_json(text: &[u8]) -> bool {
    matches!(text[1..].trim_ascii_start(), [b'{' | b'[' | b'\\', ..])
}

/// Name of the function or variable that a value is passed to: of `onError(`, or of `old =`.
fn called(around: &str) -> &str {
    let Some(before) = around.trim_end().strip_suffix(['(', '=']) else {
        return "";
    };
    let before = before.trim_end();
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.');
    &before[before.trim_end_matches(is_part).len()..]
}

/// Length and name of a tag, including the content of a script or a style; `None` if there is none here. The text of a
/// comment counts.
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
    if start == 1 && ["script", "style"].contains(&small.as_str()) {
        let ends = |window: &[u8]| {
            window[..2] == *b"</" && window[2..].eq_ignore_ascii_case(name.as_bytes())
        };
        let inside = &rest[length..];
        length += inside
            .windows(name.len() + 2)
            .position(ends)
            .unwrap_or(inside.len());
    }
    Some((length, if small == "br" { small } else { name }))
}

/// Length of the rest of a tag, including its `>`; quoted values may contain one.
pub(super) fn attributes(rest: &[u8]) -> usize {
    let mut quote = None;
    for (index, byte) in rest.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return index + 1,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    rest.len()
}

/// A line without PHP's notices: they are about its program, not about the token.
fn without_notices(line: &str) -> String {
    const KINDS: [&str; 4] = ["Notice", "Warning", "Deprecated", "Strict Standards"];
    const PLACE: &str = " on line ";
    let mut rest = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let notice = |text: &str| {
        let begins = |kind: &&str| {
            let at = text.find(*kind)?;
            let after = text[at + kind.len()..].trim_start();
            after.starts_with(':').then_some(at)
        };
        let from = KINDS.iter().filter_map(begins).min()?;
        let place = from + text[from..].find(PLACE)? + PLACE.len();
        let digits = text[place..].bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0).then_some(from..place + digits)
    };
    while let Some(range) = notice(&rest) {
        rest.replace_range(range, "");
    }
    rest
}

/// Objects about a person or another thing: their errors and states are not about the request.
const OTHER_OBJECTS: [&str; 26] = [
    "user",
    "users",
    "owner",
    "account",
    "accounts",
    "identity",
    "identities",
    "profile",
    "team",
    "company",
    "organization",
    "organisation",
    "workspace",
    "tenant",
    "member",
    "customer",
    "merchant",
    "shop",
    "bot",
    "app",
    "application",
    "client",
    "subscription",
    "plan",
    "authed_user",
    "scope",
];

/// Returns whether a member may be about the request, so that its content must be inspected.
pub(super) fn is_about_the_request(name: &str) -> bool {
    !OTHER_OBJECTS.contains(&name.to_ascii_lowercase().as_str()) && !is_something_else(name)
}

/// Returns whether the members of an object report a failure in any usual way. `codes` are error codes that do so under
/// any name; in an object `beside` the token, such as `meta`, free text is ignored.
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
    let fails = |value: &Value| match value {
        Value::String(text) => statement(text) == Statement::Failure,
        Value::Array(list) => list.iter().any(|value| {
            value
                .as_str()
                .is_some_and(|text| statement(text) == Statement::Failure)
        }),
        _ => false,
    };
    all().any(|(kind, value)| {
        let refused = match kind {
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
            MemberKind::State => is_yes(value) || fails(value),
            MemberKind::Code => {
                value == &Value::Bool(false)
                    || is_failed_status(value, says_success)
                    || fails(value)
            }
            // Usually repeats the request: only a single word counts.
            MemberKind::Label => value
                .as_str()
                .is_some_and(|text| !text.trim().contains(' ') && fails(value)),
            MemberKind::Message => !beside && fails(value),
            MemberKind::Other => false,
        };
        refused || value.as_str().is_some_and(&is_code)
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
    /// State of something: `revoked`.
    State,
    /// Number or word for the outcome.
    Code,
    Label,
    Message,
    Other,
}

impl MemberKind {
    fn of(name: &str) -> Self {
        const FLAGS: [&str; 12] = [
            "success",
            "ok",
            "succeeded",
            "successful",
            "active",
            "valid",
            "authorized",
            "authenticated",
            "refreshed",
            "renewed",
            "granted",
            "accepted",
        ];
        const LABELS: [&str; 6] = ["state", "type", "kind", "level", "severity", "event"];
        const SENTENCES: [&str; 18] = [
            "message",
            "messages",
            "msg",
            "description",
            "desc",
            "detail",
            "details",
            "reason",
            "title",
            "text",
            "info",
            "hint",
            "explanation",
            "cause",
            "problem",
            "problems",
            "warning",
            "warnings",
        ];
        // Of such a member, only its time or count.
        const MEASURES: [&str; 11] = [
            "at",
            "in",
            "on",
            "time",
            "date",
            "timestamp",
            "until",
            "after",
            "count",
            "total",
            "attempts",
        ];
        let words = words(name);
        let plain = words.concat();
        let last = words.last().map_or("", String::as_str);
        let bare = plain
            .strip_prefix("is")
            .or_else(|| plain.strip_prefix("was"))
            .unwrap_or(&plain);
        if FLAGS.contains(&bare) {
            return Self::Flag;
        }
        if statement(name) == Statement::Failure {
            let is_noun = |word: &String| {
                NOUNS.contains(&word.as_str())
                    || word.starts_with("error")
                    || word.starts_with("err")
                    || word.ends_with("error")
                    || word.ends_with("errors")
            };
            return if MEASURES.contains(&last) {
                Self::Other
            } else if words.iter().any(is_noun) {
                let sentence = SENTENCES.iter().any(|word| plain.ends_with(word));
                Self::Error { sentence }
            } else {
                Self::State
            };
        }
        if is_code_name(&plain) {
            Self::Code
        } else if LABELS.contains(&plain.as_str()) {
            Self::Label
        } else if SENTENCES.contains(&last) {
            Self::Message
        } else {
            Self::Other
        }
    }
}

/// Returns whether a name consists of words for a code only: `code`, `http_status`, `ret`, `resultCode`, but not
/// `country_code`.
fn is_code_name(plain: &str) -> bool {
    const PARTS: [&str; 14] = [
        "response", "return", "result", "status", "outcome", "reply", "http", "resp", "code",
        "ret", "sub", "api", "rc", "biz",
    ];
    let mut rest = plain;
    while let Some(after) = PARTS.iter().find_map(|part| rest.strip_prefix(part)) {
        rest = after;
    }
    rest.is_empty() && !plain.is_empty() && !["sub", "api", "biz", "http", "reply"].contains(&plain)
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
