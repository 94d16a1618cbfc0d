//! Checks whether a word can be a refresh token (RFC 6749 appendix A.17), and identifies other values.
//!
//! A word that is rejected here is never sent. Anything that could be a token at some provider must pass: the
//! authorization server decides. Must not quote its input.

use core::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use refreshd_secrets::RefreshToken;

/// A purely alphabetic word shorter than this is a name or a word, not a token.
const MIN_ALPHABETIC_LENGTH: usize = 10;
/// A number with fewer digits is not a token.
const MIN_DIGITS: usize = 16;

/// Outputs of programs for a missing value. Lower case, without `_` and `-`.
const MISSING_VALUES: &[&str] = &[
    "null",
    "na",
    "n/a",
    "nil",
    "<nil>",
    "none",
    "undefined",
    "nan",
    "void",
    "empty",
    "true",
    "false",
    "array",
    "object",
    "unset",
    "redacted",
    "filtered",
    "hidden",
    "masked",
    "removed",
    "omitted",
    "scrubbed",
    "censored",
    "\"\"",
    "''",
    "0",
    "1",
];

/// Placeholders for a secret. Lower case, without `_` and `-`.
const PLACEHOLDERS: &[&str] = &[
    "tbd",
    "dummy",
    "yes",
    "no",
    "refreshtoken",
    "accesstoken",
    "token",
    "mytoken",
    "secret",
    "password",
    "changeme",
    "replaceme",
    "example",
    "placeholder",
    "todo",
    "unknown",
    "string",
    "error",
];

/// Keys before a copied value. Lower case, without `_` and `-`.
const KEYS: &[&str] = &[
    "refreshtoken",
    "refreshid",
    "accesstoken",
    "authid",
    "token",
    "bearer",
    "clientsecret",
];

/// Error codes of RFC 6749 and RFC 8628 that are longer than a name.
const ERROR_CODES: &[&str] = &[
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "authorization_pending",
];

/// Reason why a word cannot be a refresh token, as a sentence with the required action; `None` if it can be one.
#[must_use]
pub fn mismatch(word: &str) -> Option<&'static str> {
    if word.starts_with('<') {
        return Some(if is_filler(word) { FILLER } else { MARKUP });
    }
    if is_filler(word) {
        return Some(FILLER);
    }
    if word.lines().nth(1).is_some() {
        return Some(several_words(word));
    }
    if word.starts_with(QUOTES) || word.ends_with(QUOTES) {
        return Some("it is in quotes; import it without the quotes");
    }
    if word.contains(char::is_whitespace) {
        return Some(several_words(word));
    }
    if !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(
            "it has characters that no refresh token has (RFC 6749 appendix A.17); is it damaged, or in another encoding?",
        );
    }
    if word.contains("://") {
        return Some(address(word));
    }
    if word.contains('&') {
        return Some("it is a form without a refresh token");
    }
    if word.starts_with("-----BEGIN") {
        return Some(KEY);
    }
    if let Some(what) = elsewhere(word) {
        return Some(what);
    }
    if is_path(word) && !is_base64(word) || word.starts_with('@') {
        return Some(
            "it looks like the name of a file, not like what is in one; give the file itself: refreshd import PORTAL FILE",
        );
    }
    if is_file_head(word) {
        return Some("it is the beginning of a file of another kind, and no refresh token");
    }
    if is_dump(word) {
        return Some(
            "it is what a program prints for a value, with brackets or a type around it; pass the value alone",
        );
    }
    if let Some(what) = scalar(word) {
        return Some(what);
    }
    if word.starts_with('?') || (word.contains('/') && word.split('/').next().is_some_and(is_host))
    {
        return Some("it is a piece of an address, and no refresh token");
    }
    if is_relative_path(word) {
        return Some("it is the name of a file, and no refresh token");
    }
    if is_shortened(word) {
        return Some(
            "it was shortened or masked by whatever printed it; pass the whole refresh token",
        );
    }
    if is_reference(word) {
        return Some("it names a place where a secret is kept; pass the secret itself");
    }
    if word.ends_with([',', ';', '&']) || is_ended_sentence(word) {
        return Some(
            "there is a sign behind it that separates it from what came next; pass the refresh token alone",
        );
    }
    let small = word
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || b"-_.".contains(&byte));
    if small && (word.len() < 16 || word.starts_with('-') || ERROR_CODES.contains(&word)) {
        return Some(
            "it is a word or a name of small letters, such as an error code, an option or a file",
        );
    }
    let body = word.trim_end_matches('=');
    let is_key = body.len() < word.len() && KEYS.contains(&plain(body).as_str());
    if body.contains('=') || is_labelled(body) || is_key {
        return Some("it is NAME=value; pass the value alone, without the name");
    }
    if has_escapes(body) {
        return Some("it is percent-encoded, or escaped with backslashes; pass the decoded value");
    }
    // eBay, Amazon and Laravel Sanctum use `^` and `|` in tokens.
    if body.contains(['"', '\'', '`', '<', '>', '{', '}', '[', ']', '\\']) {
        return Some(
            "it has brackets, quotes or backslashes in it, which no refresh token has; is it a piece of JSON or of code?",
        );
    }
    if body.len() < MIN_ALPHABETIC_LENGTH && body.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Some("it is a short word of letters, such as a name; a refresh token is longer");
    }
    another_jwt(body)
}

/// Returns whether a word is another secret: most of it, its hexadecimal form, another case, or Base64 that contains it
/// (the header of a client's password).
#[must_use]
pub fn contains_secret(word: &str, secret: &str) -> bool {
    const MIN_LENGTH: usize = 12;
    let within = |part: &str, whole: &str| part.len() >= MIN_LENGTH && whole.contains(part);
    let bytes = word.trim_end_matches('=');
    let decoded = STANDARD_NO_PAD
        .decode(bytes)
        .or_else(|_| URL_SAFE_NO_PAD.decode(bytes))
        .unwrap_or_default();
    let inside = || {
        let secret = secret.as_bytes();
        secret.len() >= MIN_LENGTH && decoded.windows(secret.len()).any(|part| part == secret)
    };
    let in_hex = || {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        word.eq_ignore_ascii_case(&hex)
    };
    let long = secret.len() >= MIN_LENGTH;
    word == secret
        || within(word, secret)
        || within(secret, word)
        || inside()
        || long && (word.eq_ignore_ascii_case(secret) || in_hex())
}

/// As [`mismatch`], for words whose characters a token could have but that no server issues.
#[must_use]
pub fn misplaced(word: &str) -> Option<&'static str> {
    if word.contains("://") {
        return Some(address(word));
    }
    let is_form = |part: &str| {
        part.split_once('=')
            .is_some_and(|(name, value)| is_name(name) && !value.is_empty())
    };
    if word.contains('&') && word.split('&').all(is_form) {
        return Some("it is a form; pass the value of its refresh token alone");
    }
    if word.len() > 1 && word.starts_with(QUOTES) && word.ends_with(QUOTES) {
        return Some("it has quotes of its own inside the quotes; import it without them");
    }
    let is_assignment = word
        .split_once('=')
        .is_some_and(|(name, _)| KEYS.contains(&plain(name).as_str()));
    if is_assignment {
        return Some("it is NAME=value; pass the value alone, without the name");
    }
    // Base64 may begin with a slash, and has capitals and digits.
    let plain = |byte: u8| byte.is_ascii_lowercase() || b"/._-~".contains(&byte);
    (is_path(word) && word.bytes().all(plain))
        .then_some("it is the name of a file, and no refresh token")
}

/// Returns whether a word is a placeholder: `null`, `${TOKEN}`, `<your token>`, `REFRESH_TOKEN`, `********`.
#[must_use]
pub fn is_filler(word: &str) -> bool {
    let word = word.trim_end_matches([';', ',']);
    let bare = word.trim_matches(|c| "()[]*".contains(c));
    stands_for_nothing(word) || (!bare.is_empty() && stands_for_nothing(bare))
}

/// Returns whether a word is `null`, `changeme`, `********` or the like. A possible user-defined name is not.
#[must_use]
pub fn is_nothing(word: &str) -> bool {
    is_missing_value(word) || PLACEHOLDERS.contains(&plain(word).as_str())
}

/// Returns whether a word is a program's output for a missing token: `null`, `undefined`, `[object Object]`,
/// `********`, or empty.
#[must_use]
pub fn is_missing_value(word: &str) -> bool {
    let masked = word.chars().all(|c| "*•.#?-_…".contains(c))
        || ((3..=32).contains(&word.len()) && word.bytes().all(|byte| b"xX".contains(&byte)));
    let bare = plain(word.trim_matches(|c| "()[]<>*".contains(c)));
    masked
        || MISSING_VALUES.contains(&plain(word).as_str())
        || MISSING_VALUES.contains(&bare.as_str())
        || bare == "object object"
}

/// Returns whether a token was abbreviated in output. Microsoft's long tokens contain asterisks themselves.
#[must_use]
pub fn is_shortened(word: &str) -> bool {
    const MAX_MASKED_LENGTH: usize = 40;
    let masked = word.contains("***") && word.len() < MAX_MASKED_LENGTH;
    masked || word.contains("...") || word.contains('…')
}

/// Returns whether a word reports an error in place of a token: an error code, or such a word alone.
#[must_use]
pub fn is_error_word(word: &str) -> bool {
    const WORDS: [&str; 31] = [
        "error",
        "errors",
        "fail",
        "failed",
        "failure",
        "expired",
        "invalid",
        "revoked",
        "denied",
        "refused",
        "rejected",
        "unauthorized",
        "forbidden",
        "unavailable",
        "notfound",
        "badrequest",
        "accessdenied",
        "invalidgrant",
        "invalidtoken",
        "invalidclient",
        "invalidrequest",
        "invalidscope",
        "invalidrefreshtoken",
        "expiredtoken",
        "tokenexpired",
        "tokeninvalid",
        "tokenrevoked",
        "servererror",
        "internalservererror",
        "temporarilyunavailable",
        "wrongtoken",
    ];
    const PARTS: [&str; 12] = [
        "invalid",
        "expired",
        "error",
        "err",
        "required",
        "denied",
        "revoked",
        "failed",
        "unauthorized",
        "unsupported",
        "missing",
        "not",
    ];
    // `session_expired`, `login_required`: plain words, the first or last of which reports the error.
    let parts: Vec<_> = word.split(['_', '-', ':', '=', '.']).collect();
    let is_code = parts.len() > 1
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphabetic()))
        && [parts.first(), parts.last()]
            .into_iter()
            .flatten()
            .any(|part| PARTS.contains(&part.to_ascii_lowercase().as_str()));
    is_code
        || ERROR_CODES
            .iter()
            .any(|code| code.eq_ignore_ascii_case(word))
        || WORDS.contains(&plain(word).as_str())
}

fn plain(word: &str) -> String {
    word.chars()
        .filter(|c| !"_-".contains(*c))
        .collect::<String>()
        .to_ascii_lowercase()
}

fn stands_for_nothing(word: &str) -> bool {
    let lower = plain(word);
    let between =
        |start: &str, end: &str| word.len() > 2 && word.starts_with(start) && word.ends_with(end);
    let queued_alerts = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
    };
    let shouted = word.len() > 2
        && word
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let plain = !word.contains(|c: char| c.is_ascii_digit());
    is_nothing(word)
        || (lower.starts_with("your") && plain)
        || (lower.ends_with("token") && plain && lower.len() < 24)
        || lower.starts_with("[object")
        || between("${", "}")
        || between("$(", ")")
        || between("{{", "}}")
        || between("%", "%") && queued_alerts(word.trim_matches('%'))
        || word.strip_prefix('$').is_some_and(queued_alerts)
        || (between("<", ">") && !word.starts_with("<!") && !word[1..].contains(['<', '/', '=']))
        || (shouted && (word.contains('_') || word.len() < 16) && !is_uppercase_token(word))
}

/// Returns whether a text in capitals can be a token: a part is longer than a word, or it has the prefix `RT_`.
fn is_uppercase_token(word: &str) -> bool {
    const MAX_WORD_LENGTH: usize = 16;
    const MIN_LENGTH_AFTER_PREFIX: usize = 8;
    let is_random = |part: &str| {
        !["TOKEN", "SECRET", "REFRESH", "PASSWORD"]
            .iter()
            .any(|word| part.contains(word))
    };
    let after_sign = word
        .strip_prefix("RT_")
        .is_some_and(|rest| rest.len() >= MIN_LENGTH_AFTER_PREFIX && !rest.contains('_'));
    let is_long = || word.split('_').any(|part| part.len() > MAX_WORD_LENGTH);
    is_random(word) && (after_sign || is_long())
}

const FILLER: &str = "it is a word that stands where a value is missing; the program that printed it found no refresh token, \
    or the value was never filled in";
const MARKUP: &str = "it is a page of HTML or XML, and no refresh token";
const KEY: &str = "it is a key or a certificate, and no refresh token";
const QUOTES: [char; 9] = ['"', '\'', '`', '“', '”', '„', '«', '»', '’'];

fn several_words(text: &str) -> &'static str {
    let lower = text.to_ascii_lowercase();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    if lower.starts_with("bearer ") || lower.starts_with("authorization:") {
        "it is the header that an access token is sent in; the refresh token is another"
    } else if text.starts_with("-----BEGIN") {
        KEY
    } else if lines.all(|line| {
        line.starts_with('#') || line.split_once('=').is_some_and(|(name, _)| is_name(name))
    }) {
        "it is lines of NAME=value; pass the value of the refresh token alone"
    } else {
        "it is neither JSON nor a bare refresh token (one word)"
    }
}

fn is_name(text: &str) -> bool {
    let text = text.strip_prefix("export ").unwrap_or(text).trim();
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn address(word: &str) -> &'static str {
    let query = word.split_once(['?', '#']).map_or("", |(_, query)| query);
    let has = |name: &str| query.split(['&', '#']).any(|pair| pair.starts_with(name));
    if has("code=") {
        "it is the address that a browser was sent back to; that is for: refreshd authorize PORTAL --redirected-url ADDRESS"
    } else if has("response_type=") || (has("client_id=") && word.contains("auth")) {
        "it is the address where a person authorizes; open it with: refreshd authorize PORTAL"
    } else {
        "it is an address, and no refresh token"
    }
}

/// Returns whether a text can be Base64 with a leading slash, rather than a path: it mixes character classes, and no
/// part is a word.
fn is_base64(word: &str) -> bool {
    const MAX_WORD_LENGTH: usize = 3;
    let body = word.trim_end_matches('=');
    let has = |kind: fn(&u8) -> bool| body.bytes().any(|byte| kind(&byte));
    let is_word = |part: &str| {
        part.len() > MAX_WORD_LENGTH && part.bytes().skip(1).all(|byte| byte.is_ascii_lowercase())
    };
    body.starts_with('/')
        && body
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/+".contains(&byte))
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
        && !body.split('/').any(is_word)
}

fn is_path(word: &str) -> bool {
    let drive = word.as_bytes().get(1..3) == Some(b":\\");
    drive
        || ["/", "./", "../", "~/", "\\\\"]
            .iter()
            .any(|start| word.starts_with(start))
}

/// `a/b/c` in lower case only: Base64 has capitals. Google's tokens begin with `1//`, older ones with `1/`.
fn is_relative_path(word: &str) -> bool {
    const MAX_LENGTH: usize = 64;
    const MIN_GOOGLE_LENGTH: usize = 20;
    let is_google = |rest: &str| rest.len() >= MIN_GOOGLE_LENGTH && !rest.contains(['/', '.']);
    if word.strip_prefix("1/").is_some_and(is_google) {
        return false;
    }
    let small =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"/._~-".contains(&byte);
    word.contains('/') && !word.contains("//") && word.len() < MAX_LENGTH && word.bytes().all(small)
}

/// Returns whether a text begins like a file of another kind.
fn is_file_head(word: &str) -> bool {
    const FILE_HEADS: [&str; 3] = ["%PDF-", "#!/", "{\\rtf"];
    FILE_HEADS.iter().any(|head| word.starts_with(head)) || ["GIF87a", "GIF89a"].contains(&word)
}

/// `(5bad)`, `bool(false)`, `string(4)`.
fn is_dump(word: &str) -> bool {
    const TYPES: [&str; 6] = ["", "bool", "int", "float", "string", "resource"];
    word.split_once('(')
        .is_some_and(|(kind, rest)| TYPES.contains(&kind) && rest.ends_with(')'))
}

/// Returns whether a full stop was copied along. An unsigned JWT ends with one of its own.
fn is_ended_sentence(word: &str) -> bool {
    word.ends_with('.') && word.matches('.').count() != 2
}

/// Names of files, hosts and people, addresses and dates, which often stand next to a token.
fn elsewhere(word: &str) -> Option<&'static str> {
    const ENDINGS: [&str; 25] = [
        ".json", ".txt", ".toml", ".yaml", ".yml", ".env", ".ini", ".conf", ".cfg", ".xml", ".csv",
        ".log", ".php", ".js", ".py", ".sh", ".db", ".pem", ".key", ".crt", ".bak", ".token",
        ".rt", ".refresh", ".secret",
    ];
    let lower = word.to_ascii_lowercase();
    if ENDINGS.iter().any(|ending| lower.ends_with(ending)) && word.len() < 64 {
        return Some(
            "it looks like the name of a file, not like what is in one; give the file itself: refreshd import PORTAL FILE",
        );
    }
    if is_host(word) || word.parse::<IpAddr>().is_ok() || word.parse::<SocketAddr>().is_ok() {
        return Some("it is the name or the address of a host, and no refresh token");
    }
    if word
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && is_host(host))
    {
        return Some("it is an e-mail address, and no refresh token");
    }
    let date = |text: &str| {
        let shape: String = text
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        shape == "0000-00-00" || shape == "0000/00/00" || shape == "00.00.0000"
    };
    let day = word.split_once(['T', 't']).map_or(
        word,
        |(day, time)| if time.contains(':') { day } else { word },
    );
    date(day).then_some("it is a date, and no refresh token")
}

/// Returns whether a text is a host name, with or without a port.
fn is_host(text: &str) -> bool {
    const DOMAINS: [&str; 16] = [
        "com",
        "net",
        "org",
        "ru",
        "de",
        "info",
        "io",
        "eu",
        "uk",
        "local",
        "localhost",
        "example",
        "test",
        "tech",
        "kz",
        "by",
    ];
    let whole = text;
    let text = text.split_once(':').map_or(text, |(host, port)| {
        if port.len() < 6 && port.bytes().all(|byte| byte.is_ascii_digit()) {
            host
        } else {
            text
        }
    });
    let labels: Vec<&str> = text.split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    (labels.len() > 1 || whole.len() > text.len())
        && labels.len() < 6
        && labels.iter().all(is_label)
        && labels.last().is_some_and(|last| {
            DOMAINS
                .iter()
                .any(|domain| domain.eq_ignore_ascii_case(last))
        })
}

/// JSON scalars. A number that is long enough may be a token.
fn scalar(word: &str) -> Option<&'static str> {
    match serde_json::from_str::<Value>(word) {
        Ok(Value::Number(_)) if word.len() < MIN_DIGITS => {
            Some("it is a number, and no refresh token")
        }
        _ => None,
    }
}

/// `refresh_token:abc`, as in YAML or a header.
fn is_labelled(word: &str) -> bool {
    let Some((name, _)) = word.split_once(':') else {
        return false;
    };
    let name: String = name
        .chars()
        .filter(|c| !"_-".contains(*c))
        .collect::<String>()
        .to_ascii_lowercase();
    KEYS.contains(&name.as_str())
}

fn has_escapes(word: &str) -> bool {
    let is_hex = |bytes: &[u8]| bytes.len() == 2 && bytes.iter().all(u8::is_ascii_hexdigit);
    let encoded = word
        .match_indices('%')
        .any(|(at, _)| word.as_bytes().get(at + 1..at + 3).is_some_and(is_hex));
    encoded || word.contains("\\/") || word.contains("\\u")
}

/// Returns whether a text references a secret elsewhere: `arn:aws:…`, `vault:secret/x#token`.
fn is_reference(word: &str) -> bool {
    const SECRET_STORES: [&str; 10] = [
        "arn", "vault", "op", "env", "file", "ssm", "aws", "gcp", "azure", "secret",
    ];
    word.split_once(':').is_some_and(|(keeper, _)| {
        SECRET_STORES
            .iter()
            .any(|known| known.eq_ignore_ascii_case(keeper))
    })
}

/// A JWT of another kind than a refresh token: an access token by its header (RFC 9068 section 2.1) or by Keycloak's
/// `typ`, an ID token (OpenID Connect Core 1.0 section 2), a client assertion (RFC 7523 section 3).
fn another_jwt(word: &str) -> Option<&'static str> {
    const ACCESS: &str =
        "it is an access token (by the type in the JWT); the refresh token is another";
    let mut parts = word.split('.');
    let (Some(header), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let object =
        |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let text = |object: &Option<Value>, name: &str| {
        object
            .as_ref()
            .and_then(|object| Some(object.get(name)?.as_str()?.to_ascii_lowercase()))
    };
    let (header, payload) = (object(header), object(payload));
    let has = |name: &str| {
        payload
            .as_ref()
            .is_some_and(|payload| payload.get(name).is_some())
    };
    // Kind of token, as named by Keycloak, Amazon Cognito and others.
    let kind = ["typ", "token_use", "token_type"]
        .iter()
        .find_map(|name| text(&payload, name));
    // ForgeRock adds the type of use: `"tokenName":"refresh_token","token_type":"Bearer"`.
    let is_refresh = |name: &&str| {
        [&header, &payload]
            .into_iter()
            .any(|part| text(part, name).is_some_and(|kind| kind.contains("refresh")))
    };
    const KINDS: [&str; 7] = [
        "tokenName",
        "token_name",
        "token_use",
        "token_type",
        "typ",
        "type",
        "use",
    ];
    if KINDS.iter().any(is_refresh) || text(&header, "typ").as_deref() == Some("rt+jwt") {
        return None;
    }
    let about_a_person = || {
        [
            "email",
            "name",
            "preferred_username",
            "given_name",
            "picture",
            "auth_time",
        ]
        .iter()
        .any(|claim| has(claim))
    };
    match (text(&header, "typ").as_deref(), kind.as_deref()) {
        (Some("at+jwt" | "application/at+jwt"), _) | (_, Some("bearer" | "access")) => Some(ACCESS),
        (_, Some("id")) => Some("it is an ID token (by the type in the JWT), and no refresh token"),
        // Microsoft, Okta and Auth0: their refresh tokens are not JWTs.
        (_, None) if has("scp") || has("scope") && has("azp") => Some(ACCESS),
        (_, None) if has("iss") && has("aud") && has("exp") && about_a_person() => {
            Some("it is an ID token (a JWT about a person), and no refresh token")
        }
        _ if has("at_hash") || has("nonce") && has("aud") && !has("typ") => {
            Some("it is an ID token (by the type in the JWT), and no refresh token")
        }
        _ => match (text(&payload, "iss"), text(&payload, "sub")) {
            (Some(issuer), Some(subject)) if issuer == subject => Some(
                "it is the assertion of a client (a JWT by and about itself), and no refresh token",
            ),
            _ => None,
        },
    }
}

/// Parses a bare refresh token.
///
/// # Errors
/// Identification of another value.
pub fn refresh_token(word: &str) -> Result<RefreshToken, &'static str> {
    match mismatch(word) {
        Some(what) => Err(what),
        None => RefreshToken::new(word).ok_or("there is nothing in it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_refresh_token_is_named() {
        for (word, expected) in [
            ("null", "stands where a value is missing"),
            ("None", "stands where a value is missing"),
            ("false", "stands where a value is missing"),
            ("Array", "stands where a value is missing"),
            ("undefined", "stands where a value is missing"),
            ("REFRESH_TOKEN", "stands where a value is missing"),
            ("your-refresh-token", "stands where a value is missing"),
            ("${REFRESH_TOKEN}", "stands where a value is missing"),
            ("$REFRESH_TOKEN", "stands where a value is missing"),
            ("{{ refresh_token }}", "stands where a value is missing"),
            ("%REFRESH_TOKEN%", "stands where a value is missing"),
            ("<your token>", "stands where a value is missing"),
            ("********", "stands where a value is missing"),
            ("xxxxxxxx", "stands where a value is missing"),
            ("4711", "it is a number"),
            ("-1.5e3", "it is a number"),
            ("\"5bad2d67006e\"", "in quotes"),
            ("'5bad2d67006e'", "in quotes"),
            ("“5bad2d67006e”", "in quotes"),
            ("<!DOCTYPE html>", "HTML"),
            ("<html><body>x</body></html>", "HTML"),
            ("a=b&c=d", "a form"),
            ("REFRESH_TOKEN=5bad2d67006e", "NAME=value"),
            ("refresh_token:5bad2d67006e", "NAME=value"),
            ("A=1\nB=2\n", "lines of NAME=value"),
            ("Bearer 5bad2d67006e", "header"),
            ("-----BEGIN PRIVATE KEY-----\nabc", "key"),
            ("two words", "neither JSON nor a bare refresh token"),
            ("/etc/hostname", "name of a file"),
            ("./token.json", "name of a file"),
            ("/home/User1/token", "name of a file"),
            ("/Users/Ivan2/rt", "name of a file"),
            ("1/b", "name of a file"),
            ("MY_REFRESH_TOKEN", "stands where a value is missing"),
            ("RT_TOKEN_HERE", "stands where a value is missing"),
            ("C:\\token.txt", "name of a file"),
            ("https://app.example/cb?code=1&state=2", "--redirected-url"),
            (
                "https://acme.example/oauth/authorize/?client_id=local.1",
                "where a person authorizes",
            ),
            ("https://acme.example/", "an address"),
            ("1%2F%2F0gabcdefgh12345", "percent-encoded"),
            ("5bad\\/2d67006e1234", "percent-encoded, or escaped"),
            ("5bad2d67]", "brackets"),
            ("debian", "small letters"),
            ("?refresh_token=", "a piece of an address"),
            ("acme.bitrix24.com/rest/", "a piece of an address"),
            ("invalid_grant", "small letters"),
            ("--help", "small letters"),
            ("-r", "small letters"),
            ("acme.refresh", "name of a file"),
            (
                "arn:aws:secretsmanager:eu-1:1:secret:x-1",
                "a place where a secret is kept",
            ),
            (
                "vault:secret/refreshd#token1",
                "a place where a secret is kept",
            ),
            ("5bad2d67...", "shortened or masked"),
            ("abcd****wxyz", "shortened or masked"),
            ("5bad2d67006e,", "a sign behind it"),
            ("5bad2d67006e;", "a sign behind it"),
            (
                "eyJhbGciOiJub25lIn0.eyJ0eXAiOiJCZWFyZXIifQ.x",
                "an access token",
            ),
            ("eyJhbGciOiJub25lIn0.eyJ0eXAiOiJJRCJ9.x", "an ID token"),
            (
                "eyJhbGciOiJub25lIn0.eyJpc3MiOiJjcm0iLCJzdWIiOiJjcm0ifQ.x",
                "the assertion of a client",
            ),
            ("refresh_token=", "NAME=value"),
            ("REFRESH_TOKEN=", "NAME=value"),
            ("foo/bar", "name of a file"),
            ("a/b/c", "name of a file"),
            ("@/etc/refreshd/x", "name of a file"),
            ("@file", "name of a file"),
            ("p1.rt", "name of a file"),
            ("(5bad2d67006e0001)", "what a program prints"),
            ("bool(false)", "what a program prints"),
            ("5bad2d67006e0001.", "a sign behind it"),
            ("%PDF-1.4", "a file of another kind"),
            ("GIF89a", "a file of another kind"),
            ("#!/bin/sh", "a file of another kind"),
            // {"scp":"a b"}, {"scope":"a","azp":"c"}, {"token_use":"access"}
            (
                "eyJhbGciOiJub25lIn0.eyJzY3AiOiJhIGIifQ.x",
                "an access token",
            ),
            (
                "eyJhbGciOiJub25lIn0.eyJzY29wZSI6ImEiLCJhenAiOiJjIn0.x",
                "an access token",
            ),
            (
                "eyJhbGciOiJub25lIn0.eyJ0b2tlbl91c2UiOiJhY2Nlc3MifQ.x",
                "an access token",
            ),
            // {"iss":"x","aud":"c","exp":1,"email":"a"}
            (
                "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4IiwiYXVkIjoiYyIsImV4cCI6MSwiZW1haWwiOiJhIn0.x",
                "an ID token",
            ),
            ("-", "stands where a value is missing"),
            ("n/a", "stands where a value is missing"),
            ("(null)", "stands where a value is missing"),
            ("***REDACTED***", "stands where a value is missing"),
            (
                "state = \"/var/lib/x\"\n[portals.a]\napp = \"crm\"",
                "neither JSON nor a bare refresh token",
            ),
            ("NULL;", "stands where a value is missing"),
            ("-----BEGIN", "a key or a certificate"),
            ("token.json", "name of a file"),
            ("server.pem", "name of a file"),
            ("acme.bitrix24.com", "of a host"),
            ("localhost:8080", "of a host"),
            ("192.0.2.1", "of a host"),
            ("2001:db8::1", "of a host"),
            ("admin@acme.example", "an e-mail address"),
            ("2026-11-28", "a date"),
            ("2026-11-28T10:00:00Z", "a date"),
            ("tökën-5bad2d67", "characters that no refresh token has"),
            ("5bad2d67\u{200b}", "characters that no refresh token has"),
            (
                "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln",
                "an access token",
            ),
        ] {
            let what = mismatch(word).unwrap_or_default();
            assert!(what.contains(expected), "{word}: {what:?}");
        }
    }

    #[test]
    fn another_secret_is_known_in_parts_and_in_base64() {
        let secret = "s3cretS3cret0123456789";
        let header = STANDARD_NO_PAD.encode(format!("local.123:{secret}"));
        for word in [
            secret,
            &secret[..20],
            &format!("{secret}="),
            &header,
            &format!("{header}=="),
            &secret.to_uppercase(),
            "733363726574533363726574303132333435363738 39"
                .replace(' ', "")
                .as_str(),
        ] {
            assert!(contains_secret(word, secret), "{word}");
        }
        for word in [
            "s3cret",
            "5bad2d67006e0001",
            &STANDARD_NO_PAD.encode("nothing of it, but long"),
        ] {
            assert!(!contains_secret(word, secret), "{word}");
        }
        assert!(!contains_secret("5bad2d67006e0001s", "s"));
    }

    #[test]
    fn what_was_put_beside_the_name_of_a_token_is_named() {
        for (word, expected) in [
            ("https://acme.example/", "an address"),
            ("a=b&c=d", "a form"),
            ("/etc/hostname", "name of a file"),
            ("\"5bad2d67\"", "quotes of its own"),
            ("REFRESH_TOKEN=x", "NAME=value"),
            ("refresh_token=5bad2d67", "NAME=value"),
        ] {
            assert!(
                misplaced(word).is_some_and(|what| what.contains(expected)),
                "{word}"
            );
        }
        for word in [
            "/8Kd0q+Zz3A==",
            "1//0gabcDEF-ghi_jkl",
            "a&b",
            "YWJjZGVmZw==",
            "AQBdoij3-4f(x)!$*,;:@?",
        ] {
            assert_eq!(misplaced(word), None, "{word}");
        }
    }

    #[test]
    fn what_providers_hand_out_passes() {
        for word in [
            "5bad2d67",
            "r0",
            "1//0gabcDEF-ghi_jkl",
            "TmttM1dGWklQbnFmVUlOdVVBcFMxb3lSbTdTZ0xIMXhZ",
            "def50200f3a1c9",
            "YWJjZGVm/+ghijk=",
            "YWJjZGVmZw==",
            "eyJhbGciOiJIUzUxMiIsInR5cCIgOiAiSldUIn0.eyJ0eXAiOiJSZWZyZXNoIn0.c2ln",
            "vk2.a.5bad2d67_x",
            "1234567890123456789",
            "0.AXoA~5bad.AgABAAEAAAD",
            "AQBdoij3-4f(x)!$*,;:@?",
            "xoxe-1-My0xLTEyMzQ1",
            "6f1a5c1e-7c1d-4f5a-9d2b-000000000000",
            "quite-long-without-digits-abcd",
            "1000.8cb99dxxxx.9be93xxxxfa",
            "M.C507_BAY.0.U.-Cq!x***yZ0123456789abcdefghijklmnop$$",
            "0.AX4A.B/c+d",
            "rt.1.5bad2d67",
            "v1.abcdef0123",
            "ab/Cd/ef0123456789",
            // {"typ":"Refresh","scope":"a","azp":"c"}, {"iss":"x","aud":"c","exp":1,"sub":"1"}
            "eyJhbGciOiJub25lIn0.eyJ0eXAiOiJSZWZyZXNoIiwic2NvcGUiOiJhIiwiYXpwIjoiYyJ9.x",
            "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4IiwiYXVkIjoiYyIsImV4cCI6MSwic3ViIjoiMSJ9.x",
            "2026-11-28T-abcdef0123",
            "/8Kd0q+Zz3A==",
            "/8Kd0qZz3A9fQw7Lm/aB2c+Xy",
            "RT_ABCDEFGHIJKLMNOP",
            "ABCDEFGHIJKLMNOPQR_STU",
            "1/fhdgsyekfnsbxiqpwoeirutyalskdj",
            "1/f9dgsyekfnsb-iqp_oeirutyalskdj",
            // {"tokenName":"refresh_token","token_type":"Bearer","sub":"u","auth_time":1,"iss":"x","aud":"c","exp":1}
            "eyJhbGciOiJub25lIn0.eyJ0b2tlbk5hbWUiOiJyZWZyZXNoX3Rva2VuIiwidG9rZW5fdHlwZSI6IkJlYXJlciIsInN1YiI6InUiLCJhdXRoX3RpbWUiOjEsImlzcyI6IngiLCJhdWQiOiJjIiwiZXhwIjoxfQ.x",
        ] {
            assert_eq!(mismatch(word), None, "{word}");
        }
    }
}
