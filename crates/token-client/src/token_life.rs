//! Parses lifetimes of tokens in a reply: a number, a text in one of the usual formats, or an expiry.
//!
//! An ambiguous value is not guessed: it is [`TokenLife::Unreadable`], and the caller decides. Must not read a clock.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::lifetime::{LIFETIME_RANGE, believable};
use super::quirks::{JsonPath, ReplyFields, first};
use refreshd_secrets::mask::mask;
use refreshd_time::date::instant;
use refreshd_time::{Timestamp, human};

/// Maximum lifetime of an access token; a larger number of seconds is something else, such as an instant.
const MAX_LIFE: Duration = LIFETIME_RANGE.1;
/// Maximum lifetime of a refresh token: thirty years.
const MAX_REFRESH_LIFE: Duration = Duration::from_secs(30 * 365 * 86_400);
/// A number is an instant if it is not further in the past than this.
const MAX_PAST: Duration = Duration::from_secs(86_400);
/// Smaller numbers (before the year 2001) are not instants in seconds.
const FIRST_INSTANT: f64 = 1e9;
/// Latest expiry in a JWT, in seconds since 1970: the year 2200.
const MAX_EXPIRY: i64 = 7_258_118_400;
/// Maximum length of an unparsable text in messages, in characters.
const MAX_SHOWN: usize = 40;

/// Lifetime of a token by a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLife {
    /// It expires after this time, which is longer than zero.
    Reported(Duration),
    /// It has expired: a lifetime of zero or less, or an expiry in the past.
    Ended,
    /// It never expires: a refresh token's lifetime of zero or less (Keycloak's offline tokens).
    Endless,
    /// The value is unparsable. Holds its text, truncated and without secrets.
    Unreadable(String),
    /// The reply has no value.
    Absent,
}

/// Lifetimes of the tokens in a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenLives {
    /// Lifetime of the access token.
    pub access: TokenLife,
    /// Lifetime of the refresh token.
    pub refresh: TokenLife,
    /// `assumed_lifetime` of the profile: used for the access token if the reply has no value.
    pub assumed: Duration,
}

impl TokenLives {
    /// Parses the lifetimes. `secrets` are masked in the text of an unparsable value. If the reply has no lifetime of the
    /// access token, the claim `exp` of `access_token` counts (a JWT, RFC 7519 section 4.1.4).
    #[must_use]
    pub fn of(
        form: &ReplyFields,
        body: &Map<String, Value>,
        now: Timestamp,
        assumed: Duration,
        secrets: &[&str],
        access_token: Option<&str>,
    ) -> Self {
        let unit = form.unit.seconds();
        let reader = |longest, assumed| LifeParser {
            body,
            now,
            unit,
            longest,
            assumed,
            secrets,
        };
        let access = reader(MAX_LIFE, assumed);
        let access = match access.read(&form.expires_in, &form.expires_at) {
            nothing @ (ParsedLife::Nothing | ParsedLife::Unreadable(_)) => {
                access.elsewhere(TokenKind::Access, nothing, access_token)
            }
            found => found,
        };
        let refresh = reader(MAX_REFRESH_LIFE, MAX_REFRESH_LIFE);
        let refresh = match refresh.read(&form.refresh_expires_in, &form.refresh_expires_at) {
            nothing @ (ParsedLife::Nothing | ParsedLife::Unreadable(_)) => {
                refresh.elsewhere(TokenKind::Refresh, nothing, None)
            }
            found => found,
        };
        Self {
            access: match access {
                ParsedLife::Span(secs) if secs <= 0.0 => TokenLife::Ended,
                ParsedLife::Span(secs) => reported(secs, MAX_LIFE),
                ParsedLife::End(at) if at <= now => TokenLife::Ended,
                ParsedLife::End(at) => TokenLife::Reported(at.since(now)),
                ParsedLife::Unreadable(text) => TokenLife::Unreadable(text),
                ParsedLife::Nothing => TokenLife::Absent,
            },
            refresh: match refresh {
                ParsedLife::Span(secs) if secs <= 0.0 => TokenLife::Endless,
                ParsedLife::Span(secs) => reported(secs, MAX_REFRESH_LIFE),
                ParsedLife::End(at) if at <= now => TokenLife::Ended,
                ParsedLife::End(at) => TokenLife::Reported(at.since(now)),
                ParsedLife::Unreadable(text) => TokenLife::Unreadable(text),
                ParsedLife::Nothing => TokenLife::Absent,
            },
            assumed,
        }
    }

    /// Lifetimes of a reply with this one for its access token, and none for its refresh token.
    #[must_use]
    pub const fn reported(life: Duration) -> Self {
        Self {
            access: TokenLife::Reported(life),
            refresh: TokenLife::Absent,
            assumed: life,
        }
    }

    /// Lifetime of the access token: as reported, zero if it has expired, or as assumed.
    #[must_use]
    pub fn span(&self) -> Duration {
        match self.access {
            TokenLife::Reported(span) => believable(span),
            TokenLife::Ended => Duration::ZERO,
            TokenLife::Endless | TokenLife::Unreadable(_) | TokenLife::Absent => self.assumed,
        }
    }

    /// Notice about an unparsable lifetime.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let access = match &self.access {
            TokenLife::Unreadable(text) => Some(format!(
                "the reply's life of the access token cannot be read (\"{text}\"); {} is assumed: see `expires_in_unit`, \
                 `reply` and `assumed_lifetime` of its provider",
                human(self.assumed)
            )),
            _ => None,
        };
        let refresh = match &self.refresh {
            TokenLife::Unreadable(text) => Some(format!(
                "the reply's life of the refresh token cannot be read (\"{text}\"); its end is not known: see `reply` of \
                 its provider"
            )),
            _ => None,
        };
        let notices: Vec<_> = access.into_iter().chain(refresh).collect();
        (!notices.is_empty()).then(|| notices.join("; "))
    }
}

fn reported(secs: f64, longest: Duration) -> TokenLife {
    Duration::try_from_secs_f64(secs).map_or(TokenLife::Reported(longest), |span| {
        TokenLife::Reported(span.min(longest))
    })
}

/// A value in a reply.
#[derive(Clone, Debug, PartialEq)]
enum ParsedLife {
    /// Seconds from now on.
    Span(f64),
    End(Timestamp),
    Unreadable(String),
    Nothing,
}

struct LifeParser<'a> {
    body: &'a Map<String, Value>,
    now: Timestamp,
    /// Seconds per unit of a number.
    unit: f64,
    longest: Duration,
    /// Lifetime without a readable one. It bounds an expiry beside an unreadable lifetime: a clock that is behind would make
    /// the expiry too late, and nothing confirms it.
    assumed: Duration,
    secrets: &'a [&'a str],
}

impl LifeParser<'_> {
    /// A lifetime takes precedence over an expiry; an unparsable one counts only if the expiry is unparsable too.
    fn read(&self, spans: &[JsonPath], ends: &[JsonPath]) -> ParsedLife {
        let span = first(spans, self.body)
            .map_or(ParsedLife::Nothing, |value| self.found(value, Self::span));
        if matches!(span, ParsedLife::Span(_) | ParsedLife::End(_)) {
            return span;
        }
        let end = first(ends, self.body)
            .map_or(ParsedLife::Nothing, |value| self.found(value, Self::end));
        match (span, end) {
            (span, ParsedLife::Nothing) => span,
            (ParsedLife::Unreadable(text), ParsedLife::Unreadable(_)) => {
                ParsedLife::Unreadable(text)
            }
            (ParsedLife::Unreadable(_), ParsedLife::End(at)) => {
                ParsedLife::End(at.min(self.now + self.assumed))
            }
            (_, end) => end,
        }
    }

    /// Lifetime of a token under another name, or in the access token itself. The shortest counts: a renewal too early loses
    /// nothing. A value that looks like a lifetime and is unparsable is reported.
    fn elsewhere(
        &self,
        of: TokenKind,
        nothing: ParsedLife,
        access_token: Option<&str>,
    ) -> ParsedLife {
        let mut odd = None;
        let mut shortest: Option<f64> = None;
        for (name, value) in self.body {
            let Some(named) = NamedLife::of(name, of) else {
                continue;
            };
            if !matches!(value, Value::Number(_) | Value::String(_)) {
                continue;
            }
            let parsed = match named {
                NamedLife::In(unit) => Self { unit, ..*self }.either(value),
                NamedLife::End => self.end(value),
                NamedLife::Any => self.either(value),
                NamedLife::Unknown => None,
            };
            // Zero means "never" to some: not under a name that is only probable.
            let secs = match parsed {
                Some(ParsedLife::Span(secs)) if secs > 0.0 => secs,
                Some(ParsedLife::End(at)) if at > self.now => at.since(self.now).as_secs_f64(),
                _ => {
                    if let ParsedLife::Unreadable(text) = self.found(value, |_, _| None) {
                        let name: String =
                            mask(name, self.secrets).chars().take(MAX_SHOWN).collect();
                        odd.get_or_insert(ParsedLife::Unreadable(format!("{name}: {text}")));
                    }
                    continue;
                }
            };
            shortest = Some(shortest.map_or(secs, |known| known.min(secs)));
        }
        let in_token = || {
            let end = access_token.and_then(expiry_of_jwt)?;
            let is_plausible = self.now < end && end <= self.now + self.longest;
            is_plausible.then_some(ParsedLife::End(end))
        };
        match (shortest.map(ParsedLife::Span).or_else(in_token), nothing) {
            (Some(ParsedLife::Span(secs)), ParsedLife::Unreadable(_)) => {
                ParsedLife::Span(secs.min(self.assumed.as_secs_f64()))
            }
            (Some(ParsedLife::End(at)), ParsedLife::Unreadable(_)) => {
                ParsedLife::End(at.min(self.now + self.assumed))
            }
            (Some(found), _) => found,
            (None, ParsedLife::Nothing) => odd.unwrap_or(ParsedLife::Nothing),
            (None, nothing) => nothing,
        }
    }

    /// A lifetime or an expiry, for a name that both have.
    fn either(&self, value: &Value) -> Option<ParsedLife> {
        self.span(value).or_else(|| self.end(value))
    }

    fn found(&self, value: &Value, read: fn(&Self, &Value) -> Option<ParsedLife>) -> ParsedLife {
        read(self, value).unwrap_or_else(|| {
            let text = match value {
                Value::String(text) => mask(text, self.secrets),
                Value::Number(_) | Value::Bool(_) | Value::Null => {
                    mask(&value.to_string(), self.secrets)
                }
                // A secret in it would be encoded differently from its known form.
                Value::Array(_) => "[…]".to_owned(),
                Value::Object(_) => "{…}".to_owned(),
            };
            ParsedLife::Unreadable(text.chars().take(MAX_SHOWN).collect())
        })
    }

    fn span(&self, value: &Value) -> Option<ParsedLife> {
        match value {
            Value::Number(number) => self.number(number.as_f64()?),
            Value::String(text) => {
                let text = bare(text);
                if text.is_empty() {
                    return Some(ParsedLife::Nothing);
                }
                let number = text.parse::<f64>().ok();
                match number {
                    Some(number) => self.number(number),
                    None => duration(text)
                        .map(ParsedLife::Span)
                        .or_else(|| instant_of(text).map(ParsedLife::End)),
                }
            }
            Value::Array(values) => self.span(only(values)?),
            Value::Object(parts) => parts_of(parts).map(ParsedLife::Span),
            Value::Null | Value::Bool(_) => None,
        }
    }

    /// A number: seconds (or the profile's unit) up to the maximum lifetime, an instant above.
    fn number(&self, number: f64) -> Option<ParsedLife> {
        if !number.is_finite() {
            return None;
        }
        if number * self.unit <= self.longest.as_secs_f64() {
            return Some(ParsedLife::Span(number * self.unit));
        }
        self.epoch(number, self.now - MAX_PAST)
    }

    fn end(&self, value: &Value) -> Option<ParsedLife> {
        match value {
            Value::Number(number) => self.epoch(number.as_f64()?, Timestamp::default()),
            Value::String(text) => {
                let text = bare(text);
                if text.is_empty() {
                    return Some(ParsedLife::Nothing);
                }
                match text.parse::<f64>() {
                    Ok(number) => self.epoch(number, Timestamp::default()),
                    Err(_) => instant_of(text).map(ParsedLife::End),
                }
            }
            Value::Array(values) => self.end(only(values)?),
            Value::Object(_) | Value::Null | Value::Bool(_) => None,
        }
    }

    /// Seconds or milliseconds since 1970, whichever is a plausible expiry.
    fn epoch(&self, number: f64, from: Timestamp) -> Option<ParsedLife> {
        let latest = self.now + self.longest;
        let plausible = |secs: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a float's conversion saturates"
            )]
            let at = Timestamp::from_millis((secs * 1000.0) as i64);
            (secs >= FIRST_INSTANT && from <= at && at <= latest).then_some(ParsedLife::End(at))
        };
        plausible(number).or_else(|| plausible(number / 1000.0))
    }
}

/// Token whose lifetime is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    Access,
    Refresh,
}

/// Meaning of a member's name that is not the profile's.
enum NamedLife {
    /// A lifetime in this unit, in seconds.
    In(f64),
    /// An expiry.
    End,
    /// A lifetime or an expiry.
    Any,
    /// Probably a lifetime or an expiry.
    Unknown,
}

impl NamedLife {
    fn of(name: &str, kind: TokenKind) -> Option<Self> {
        const OTHERS: [&str; 5] = ["idtoken", "session", "scope", "password", "expired"];
        const PREFIXES: [&str; 4] = ["oauth", "access", "token", "at"];
        const REFRESH_PREFIXES: [&str; 5] = ["x", "oauth", "refresh", "token", "rt"];
        const ENDS: [&str; 8] = [
            "expat",
            "expireat",
            "expiresat",
            "expireon",
            "expireson",
            "expirydate",
            "expirationdate",
            "validuntil",
        ];
        const NAMES: [&str; 19] = [
            "validity",
            "validfor",
            "maxage",
            "exp",
            "expin",
            "expire",
            "expires",
            "expirein",
            "expiresin",
            "expiretime",
            "expirestime",
            "expiry",
            "expiryin",
            "expirytime",
            "expiration",
            "expirationtime",
            "ttl",
            "lifetime",
            "timetolive",
        ];
        let plain: String = (name.chars())
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let of = if plain.contains("refresh") || plain.starts_with("rt") {
            TokenKind::Refresh
        } else {
            TokenKind::Access
        };
        if of != kind || OTHERS.iter().any(|other| plain.contains(other)) {
            return None;
        }
        let mut rest = plain.as_str();
        let prefixes = match kind {
            TokenKind::Access => &PREFIXES[..],
            TokenKind::Refresh => &REFRESH_PREFIXES,
        };
        for prefix in prefixes {
            rest = rest.strip_prefix(prefix).unwrap_or(rest);
        }
        let unit_of = |suffix: &str| {
            let suffix = suffix.strip_prefix("in").unwrap_or(suffix);
            unit(suffix).filter(|_| suffix.len() > 1 || suffix == "s")
        };
        if ENDS.contains(&rest) {
            return Some(Self::End);
        }
        let suffixes: Vec<_> = (NAMES.iter())
            .filter_map(|known| rest.strip_prefix(known))
            .collect();
        if suffixes.contains(&"") {
            return Some(Self::Any);
        }
        let unit = suffixes.iter().find_map(|suffix| unit_of(suffix));
        let is_probable = ["expir", "ttl", "lifetime"]
            .iter()
            .any(|start| rest.starts_with(start));
        unit.map(Self::In).or(is_probable.then_some(Self::Unknown))
    }
}

/// Claim `exp` of a JWT whose signature is not verified: a hint when to renew, nothing more.
fn expiry_of_jwt(token: &str) -> Option<Timestamp> {
    let [_, claims, _] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&claims).ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float's conversion saturates"
    )]
    let secs = claims.get("exp")?.as_f64()? as i64;
    (0..=MAX_EXPIRY)
        .contains(&secs)
        .then(|| Timestamp::from_secs(secs))
}

/// The one distinct value of a list.
fn only(values: &[Value]) -> Option<&Value> {
    let (first, rest) = values.split_first()?;
    (!first.is_array() && rest.iter().all(|other| other == first)).then_some(first)
}

/// A text without quotes of its own and without trailing punctuation.
fn bare(text: &str) -> &str {
    let text = text.trim().trim_end_matches([';', ',']);
    ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(text)
        .trim()
}

/// An instant as a text; Microsoft's JSON format is `/Date(MILLISECONDS)/`.
fn instant_of(text: &str) -> Option<Timestamp> {
    let milliseconds = || {
        let digits = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
        // An offset, which is for display only.
        let end = digits.find(['+', '-']).unwrap_or(digits.len());
        digits[..end].parse().ok().map(Timestamp::from_millis)
    };
    instant(text).or_else(milliseconds)
}

/// An object with named parts: `{"seconds": 20}`, `{"value": 20, "unit": "seconds"}`.
fn parts_of(parts: &Map<String, Value>) -> Option<f64> {
    if let (Some(value), Some(Value::String(name)), 2) =
        (parts.get("value"), parts.get("unit"), parts.len())
    {
        let number = match value {
            Value::Number(number) => number.as_f64()?,
            Value::String(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        return Some(number * unit(&name.trim().to_ascii_lowercase())?)
            .filter(|secs| secs.is_finite());
    }
    let part = |(name, value): (&String, &Value)| {
        let number = match value {
            Value::Number(number) => number.as_f64()?,
            Value::String(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        Some(number * unit(&name.to_ascii_lowercase())?)
    };
    if parts.is_empty() {
        None
    } else {
        parts
            .iter()
            .map(part)
            .sum::<Option<f64>>()
            .filter(|secs| secs.is_finite())
    }
}

/// Seconds of a unit; `None` for months and years, whose length varies.
fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "ns" | "nanos" | "nanosecond" | "nanoseconds" => 1e-9,
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 0.001,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "week" | "weeks" => 604_800.0,
        _ => return None,
    })
}

/// Seconds of a text with units: `20s`, `1 hour 30 minutes`, `PT20S`, `00:00:20`.
fn duration(text: &str) -> Option<f64> {
    let text = text
        .get(..3)
        .filter(|start| start.eq_ignore_ascii_case("in "))
        .map_or(text, |start| text[start.len()..].trim_start());
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let secs = if text.starts_with(['P', 'p']) {
        iso(&text[1..])
    } else if let Some((days, time)) = text.split_once(", ").filter(|(_, time)| time.contains(':'))
    {
        // Python's `str(timedelta)`: `1 day, 0:00:00`.
        Some(words(days).filter(|_| days.contains("day"))? + clock(time)?)
    } else if text.contains(':') {
        clock(text)
    } else {
        words(text)
    };
    secs.map(|secs| if negative { -secs } else { secs })
}

/// Splits a number, optionally with a fraction, off the front.
fn take_number<'t>(text: &'t str, points: &[char]) -> Option<(f64, &'t str)> {
    let digits = |text: &str| {
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len())
    };
    let mut end = digits(text);
    if end == 0 {
        return None;
    }
    if text[end..].starts_with(points) {
        let fraction = digits(&text[end + 1..]);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    let number = text[..end].replace(',', ".").parse().ok()?;
    Some((number, &text[end..]))
}

/// `20s`, `20 seconds`, `1h30m`, `1 hour, 30 minutes`.
fn words(text: &str) -> Option<f64> {
    let mut rest = text.trim_end_matches('.');
    let mut sum = None;
    while !rest.is_empty() {
        let (number, after) = take_number(rest, &['.'])?;
        let after = after.trim_start();
        let end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        // A single capital M means a month to some.
        if &after[..end] == "M" {
            return None;
        }
        sum = Some(sum.unwrap_or(0.0) + number * unit(&after[..end].to_ascii_lowercase())?);
        rest = after[end..].trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
    }
    sum
}

/// An ISO 8601 duration after its `P`; years and months are rejected, as their length varies.
fn iso(text: &str) -> Option<f64> {
    let mut rest = text;
    let (mut sum, mut in_time) = (None, false);
    while !rest.is_empty() {
        if let (false, Some(time)) = (in_time, rest.strip_prefix(['T', 't'])) {
            (in_time, rest) = (true, time);
            if rest.is_empty() {
                return None;
            }
            continue;
        }
        let (number, after) = take_number(rest, &['.', ','])?;
        let designator = after.chars().next()?.to_ascii_uppercase();
        let secs = match (in_time, designator) {
            (false, 'W') => 604_800.0,
            (false, 'D') => 86_400.0,
            (false, 'Y' | 'M') if number == 0.0 => 0.0,
            (true, 'H') => 3600.0,
            (true, 'M') => 60.0,
            (true, 'S') => 1.0,
            _ => return None,
        };
        sum = Some(sum.unwrap_or(0.0) + number * secs);
        rest = &after[1..];
    }
    sum
}

/// Hours, minutes and seconds; `1.00:00:00` has days in front.
fn clock(text: &str) -> Option<f64> {
    let [hours, minutes, seconds] = text.split(':').collect::<Vec<_>>().try_into().ok()?;
    let whole = |text: &str| text.parse::<u32>().ok().map(f64::from);
    let (days, hours) = match hours.split_once('.') {
        Some((days, hours)) => (whole(days)?, whole(hours)?),
        None => (0.0, whole(hours)?),
    };
    let (seconds, rest) = take_number(seconds, &['.'])?;
    let minutes = whole(minutes)?;
    (rest.is_empty() && minutes < 60.0 && seconds < 60.0)
        .then_some(((days * 24.0 + hours) * 60.0 + minutes) * 60.0 + seconds)
}

#[cfg(test)]
#[path = "token_life_tests.rs"]
mod tests;
