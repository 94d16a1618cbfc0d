//! Parses dates of servers: ISO 8601 with a zone, and the formats of HTTP (RFC 9110 section 5.6.7) and mail.
//!
//! A date without a zone is rejected: its instant is unknown. Must not read a clock.

use crate::Timestamp;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// Parses an instant; `None` if the text has none, or is ambiguous.
#[must_use]
pub fn instant(text: &str) -> Option<Timestamp> {
    iso(text).or_else(|| words(text))
}

/// `2026-11-28T20:00:00Z`, also with a blank for the T, with a fraction, or with an offset.
fn iso(text: &str) -> Option<Timestamp> {
    let extended = extended(text);
    let text = extended.as_deref().unwrap_or(text);
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if (year.len(), month.len(), day.len()) != (4, 2, 2) {
        return None;
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone_at = rest.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'))?;
    let (time, zone) = rest.split_at(zone_at);
    at(
        (number(year)?, number(month)?, number(day)?),
        time,
        offset(zone.trim_start())?,
    )
}

/// Converts the basic format of ISO 8601, `20261128T200000Z`, to the extended one.
fn extended(text: &str) -> Option<String> {
    let part = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(part)
    };
    let separator = text.get(8..9).filter(|sign| matches!(*sign, "T" | "t"))?;
    Some(format!(
        "{}-{}-{}{separator}{}:{}:{}{}",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(9, 11)?,
        part(11, 13)?,
        part(13, 15)?,
        text.get(15..)?
    ))
}

/// `Sat, 28 Nov 2026 20:00:00 GMT`, the two obsolete forms of RFC 9110, and JavaScript's format.
fn words(text: &str) -> Option<Timestamp> {
    let (mut year, mut month, mut day, mut time, mut zone) = (None, None, None, None, None);
    let mut kinds = Vec::new();
    let text = text.split('(').next()?;
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        let parts: Vec<_> = word.split('-').collect();
        if let ([of_month, name, of_year], true) = (
            parts.as_slice(),
            word.starts_with(|c: char| c.is_ascii_digit()),
        ) {
            set(&mut day, number(of_month)?)?;
            set(&mut month, position(&MONTHS, name)?)?;
            set(&mut year, full(number(of_year)?, of_year.len())?)?;
            kinds.push('d');
        } else if word.contains(':') && word.starts_with(|c: char| c.is_ascii_digit()) {
            set(&mut time, word)?;
            kinds.push('t');
        } else if let Some(name) = position(&MONTHS, word) {
            set(&mut month, name)?;
            kinds.push('m');
        } else if position(&DAYS, word).is_some() {
            kinds.push('w');
        } else if let Some(value) = number(word) {
            match word.len() {
                4 => set(&mut year, value)?,
                1 | 2 => set(&mut day, value)?,
                _ => return None,
            }
            kinds.push(if word.len() == 4 { 'y' } else { 'd' });
        } else {
            let word = word
                .strip_prefix("GMT")
                .filter(|rest| !rest.is_empty())
                .unwrap_or(word);
            set(&mut zone, offset(word)?)?;
            kinds.push('z');
        }
    }
    // The format of C's asctime has no zone, and means GMT.
    let zone = zone.or_else(|| (kinds == ['w', 'm', 'd', 't', 'y']).then_some(0))?;
    at((year?, month?, day?), time?, zone)
}

/// A part that occurs twice is an error.
fn set<T>(part: &mut Option<T>, value: T) -> Option<()> {
    part.replace(value).is_none().then_some(())
}

fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// Two digits are a year of this century: RFC 850's format was obsolete before it.
const fn full(year: i64, digits: usize) -> Option<i64> {
    match digits {
        4 => Some(year),
        2 if year < 70 => Some(2000 + year),
        2 => Some(1900 + year),
        _ => None,
    }
}

/// Position of a name, from 1; needs at least three letters of it.
fn position(names: &[&str], word: &str) -> Option<i64> {
    let word = word.to_ascii_lowercase();
    let at = names
        .iter()
        .position(|name| word.len() >= 3 && name.starts_with(&word))?;
    i64::try_from(at + 1).ok()
}

/// Offset in seconds: `Z`, `GMT`, `+03:00`, `-0730`, `+03`.
fn offset(zone: &str) -> Option<i64> {
    if ["Z", "GMT", "UTC", "UT"]
        .iter()
        .any(|name| zone.eq_ignore_ascii_case(name))
    {
        return Some(0);
    }
    let (sign, rest) = match (zone.strip_prefix('+'), zone.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (None, Some(rest)) => (-1, rest),
        (None, None) => return None,
    };
    let digits = rest.replacen(':', "", 1);
    let (hours, minutes) = match digits.len() {
        2 => (number(&digits)?, 0),
        4 => (number(digits.get(..2)?)?, number(digits.get(2..)?)?),
        _ => return None,
    };
    (hours <= 14 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn at((year, month, day): (i64, i64, i64), time: &str, east: i64) -> Option<Timestamp> {
    let mut parts = time.split(':');
    let (hour, minute) = (number(parts.next()?)?, number(parts.next()?)?);
    let second = match parts.next() {
        None => 0,
        // Fractions of a second are dropped.
        Some(second) => number(second.split('.').next()?)?,
    };
    let days_in_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let valid = (1..=days_in_month).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || parts.next().is_some() {
        return None;
    }
    Some(Timestamp::from_secs(
        days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - east,
    ))
}

/// Days since 1970-01-01 in the Gregorian calendar, counted from 1 March of year 0.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_with_a_zone_is_an_instant_in_any_of_the_usual_forms() {
        for text in [
            "2026-11-28T20:00:00Z",
            "2026-11-28t20:00:00z",
            "20261128T200000Z",
            "20261128T230000+0300",
            "2026-11-28T20:00:00.123456Z",
            "2026-11-28T20:00Z",
            "2026-11-28 20:00:00 UTC",
            "2026-11-28T23:00:00+03:00",
            "2026-11-28T12:30:00-0730",
            "2026-11-29T01:00:00+05",
            "Sat, 28 Nov 2026 20:00:00 GMT",
            "Saturday, 28-Nov-26 20:00:00 GMT",
            "Sat Nov 28 20:00:00 2026",
            "Sat, 28 Nov 2026 23:00:00 +0300",
            "28 November 2026 20:00:00 UTC",
            "Sat Nov 28 2026 23:00:00 GMT+0300 (Moscow Standard Time)",
        ] {
            assert_eq!(
                instant(text),
                Some(Timestamp::from_secs(1_795_896_000)),
                "{text}"
            );
        }
        assert_eq!(instant("1970-01-01T00:00:00Z"), Some(Timestamp::default()));
        assert_eq!(
            instant("2028-02-29T00:00:00Z").map(Timestamp::secs),
            Some(1_835_395_200)
        );
    }

    #[test]
    fn what_may_be_one_of_several_instants_is_none() {
        for text in [
            "2026-11-28T20:00:00",
            "20261128T200000",
            "20261128T2000Z",
            "2026-11-28",
            "28 Nov 2026",
            "28 Nov 2026 20:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-28T24:00:00Z",
            "2026-11-28T20:60:00Z",
            "11/28/2026 20:00:00 GMT",
            "Sat, 28 Nov 2026 20:00:00 EST",
            "28 28 Nov 2026 20:00:00 GMT",
            "soon",
            "tomorrow at 20:00",
            "",
            "ééééééééééééé",
        ] {
            assert_eq!(instant(text), None, "{text}");
        }
    }
}
