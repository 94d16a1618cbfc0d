//! How long a reply says that its tokens live: a number, a text in one of the usual forms, or an end.
//!
//! What can be meant in two ways is not guessed: it is [`TokenLife::Unreadable`], and the caller decides. Must not read a clock.

use std::time::Duration;

use serde_json::{Map, Value};

use super::lifetime::{LIFETIME_RANGE, believable};
use super::quirks::{JsonPath, ReplyFields, first};
use refreshd_secrets::mask::mask;
use refreshd_time::date::instant;
use refreshd_time::{Timestamp, human};

/// An access token may live so long; a larger number of seconds is another thing, such as an instant.
const MAX_LIFE: Duration = LIFETIME_RANGE.1;
/// The same of a refresh token: thirty years.
const MAX_REFRESH_LIFE: Duration = Duration::from_secs(30 * 365 * 86_400);
/// A number is taken for an instant if that is no further back.
const LOOK_BACK: Duration = Duration::from_secs(86_400);
/// Numbers below this (the year 2001) are no instants in seconds.
const FIRST_INSTANT: f64 = 1e9;
/// Characters that are shown of a text that cannot be read.
const MAX_SHOWN: usize = 40;

/// What a reply says of a token's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLife {
    /// It ends after this time, which is longer than zero.
    Said(Duration),
    /// It has ended already: a life of zero or less, or an end in the past.
    Ended,
    /// It never ends: a refresh token's life of zero or less (Keycloak's offline tokens).
    Endless,
    /// The reply says something of it that cannot be read. Holds that text, cut and without secrets.
    Unreadable(String),
    /// The reply does not say.
    Absent,
}

/// What a reply says of the lives of its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenLives {
    /// The access token's.
    pub access: TokenLife,
    /// The refresh token's.
    pub refresh: TokenLife,
    /// The access token's, where the reply does not say: `assumed_lifetime` of the profile.
    pub assumed: Duration,
}

impl TokenLives {
    /// Reads them. `secrets` are taken out of what is shown of a text that cannot be read.
    #[must_use]
    pub fn of(
        form: &ReplyFields,
        body: &Map<String, Value>,
        now: Timestamp,
        assumed: Duration,
        secrets: &[&str],
    ) -> Self {
        let unit = if form.in_milliseconds { 0.001 } else { 1.0 };
        let reader = |longest| LifeParser {
            body,
            now,
            unit,
            longest,
            secrets,
        };
        let access = reader(MAX_LIFE).read(&form.expires_in, &form.expires_at);
        let refresh =
            reader(MAX_REFRESH_LIFE).read(&form.refresh_expires_in, &form.refresh_expires_at);
        Self {
            access: match access {
                ParsedLife::Span(secs) if secs <= 0.0 => TokenLife::Ended,
                ParsedLife::Span(secs) => said(secs, MAX_LIFE),
                ParsedLife::End(at) if at <= now => TokenLife::Ended,
                ParsedLife::End(at) => TokenLife::Said(at.since(now)),
                ParsedLife::Unreadable(text) => TokenLife::Unreadable(text),
                ParsedLife::Nothing => TokenLife::Absent,
            },
            refresh: match refresh {
                ParsedLife::Span(secs) if secs <= 0.0 => TokenLife::Endless,
                ParsedLife::Span(secs) => said(secs, MAX_REFRESH_LIFE),
                ParsedLife::End(at) if at <= now => TokenLife::Ended,
                ParsedLife::End(at) => TokenLife::Said(at.since(now)),
                ParsedLife::Unreadable(text) => TokenLife::Unreadable(text),
                ParsedLife::Nothing => TokenLife::Absent,
            },
            assumed,
        }
    }

    /// A reply that says this of its access token, and nothing of its refresh token.
    #[must_use]
    pub const fn said(life: Duration) -> Self {
        Self {
            access: TokenLife::Said(life),
            refresh: TokenLife::Absent,
            assumed: life,
        }
    }

    /// The access token's life: as it was said, zero if it has ended, or as it is assumed.
    #[must_use]
    pub fn span(&self) -> Duration {
        match self.access {
            TokenLife::Said(span) => believable(span),
            TokenLife::Ended => Duration::ZERO,
            TokenLife::Endless | TokenLife::Unreadable(_) | TokenLife::Absent => self.assumed,
        }
    }

    /// What people should know of a life that could not be read.
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

fn said(secs: f64, longest: Duration) -> TokenLife {
    Duration::try_from_secs_f64(secs).map_or(TokenLife::Said(longest), |span| {
        TokenLife::Said(span.min(longest))
    })
}

/// What stands in a reply.
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
    /// Seconds in one of a number's units.
    unit: f64,
    longest: Duration,
    secrets: &'a [&'a str],
}

impl LifeParser<'_> {
    /// A life counts before an end; one that cannot be read counts only where the end cannot be read either.
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
            (_, end) => end,
        }
    }

    fn found(&self, value: &Value, read: fn(&Self, &Value) -> Option<ParsedLife>) -> ParsedLife {
        read(self, value).unwrap_or_else(|| {
            let text = match value {
                Value::String(text) => mask(text, self.secrets),
                Value::Number(_) | Value::Bool(_) | Value::Null => {
                    mask(&value.to_string(), self.secrets)
                }
                // A secret within would be written in another way than it is known.
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

    /// Seconds (or what the profile says) up to the longest life, an instant from then on.
    fn number(&self, number: f64) -> Option<ParsedLife> {
        if !number.is_finite() {
            return None;
        }
        if number * self.unit <= self.longest.as_secs_f64() {
            return Some(ParsedLife::Span(number * self.unit));
        }
        self.epoch(number, self.now - LOOK_BACK)
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

    /// Seconds or milliseconds since 1970, whichever is an instant that a token could end at.
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

/// The one value of a list, be it there more than once.
fn only(values: &[Value]) -> Option<&Value> {
    let (first, rest) = values.split_first()?;
    (!first.is_array() && rest.iter().all(|other| other == first)).then_some(first)
}

/// A text out of quotes of its own, and without a sign behind it.
fn bare(text: &str) -> &str {
    let text = text.trim().trim_end_matches([';', ',']);
    ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(text)
        .trim()
}

/// An instant as a text; Microsoft's JSON writes `/Date(MILLISECONDS)/`.
fn instant_of(text: &str) -> Option<Timestamp> {
    let milliseconds = || {
        let digits = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
        // With an offset, which is for showing it only.
        let end = digits.find(['+', '-']).unwrap_or(digits.len());
        digits[..end].parse().ok().map(Timestamp::from_millis)
    };
    instant(text).or_else(milliseconds)
}

/// An object of named parts: `{"seconds": 20}`, `{"value": 20, "unit": "seconds"}`.
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

/// Seconds in a unit; none for months and years, which have no length of their own.
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

/// Seconds of a text that says a time with its unit: `20s`, `1 hour 30 minutes`, `PT20S`, `00:00:20`.
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

/// Takes a number off the front, with a fraction at most.
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
        // A capital M alone is a month to some.
        if &after[..end] == "M" {
            return None;
        }
        sum = Some(sum.unwrap_or(0.0) + number * unit(&after[..end].to_ascii_lowercase())?);
        rest = after[end..].trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
    }
    sum
}

/// A duration of ISO 8601 after its `P`; years and months have no length of their own.
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

/// Hours, minutes and seconds; `1.00:00:00` has days before them.
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
