//! Parses the strings of a configuration: durations, shares, URLs, hosts, paths, choices.
//!
//! Must not quote its input: a URL may contain a password, and anything may have been pasted by mistake.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;
use strum::VariantArray;

use super::problem::{did_you_mean, shown};
use super::source::Diagnostics;
use super::table::{Table, TextValue};
use crate::domain::token_format::TokenFormat;
use refreshd_token_client::renew_every::RenewEvery;

const RENEW_EVERY: &str = "a duration such as \"25m\" or a share of the lifetime such as \"67%\"";

/// A share such as `67%`, in (0, 1).
pub(super) fn percent(text: &str) -> Option<f64> {
    let share = text
        .trim()
        .strip_suffix('%')?
        .trim_end()
        .parse::<f64>()
        .ok()?
        / 100.0;
    (share > 0.0 && share < 1.0).then_some(share)
}

/// A duration such as `25m`, above zero.
pub(super) fn span(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim())
        .ok()
        .filter(|span| !span.is_zero())
}

/// A duration in a range.
pub(super) fn duration(
    table: Table<'_>,
    report: &mut Diagnostics,
    key: &str,
    example: &str,
    (least, most): (Duration, Duration),
) -> Option<Duration> {
    let expected = format!("a duration in quotes such as \"{example}\"");
    let text = table.text_as(report, key, &expected)?;
    let Some(span) = span(text.value) else {
        report.problem(text.place, format!("`{key}` must be {expected}"));
        return None;
    };
    if span < least || span > most {
        let (least, most) = (format_span(least), format_span(most));
        report.problem(
            text.place,
            format!("`{key}` must be between {least} and {most}"),
        );
        return None;
    }
    Some(span)
}

/// A limit as people write it: humantime would make months of days.
fn format_span(span: Duration) -> String {
    match span.as_secs() {
        secs if secs > 0 && secs.is_multiple_of(86_400) => format!("{}d", secs / 86_400),
        _ => humantime::format_duration(span).to_string(),
    }
}

/// Renewal age.
pub(super) fn renew_every(table: Table<'_>, report: &mut Diagnostics) -> Option<RenewEvery> {
    let text = table.text_as(report, "renew_every", RENEW_EVERY)?;
    let every = match percent(text.value) {
        Some(share) => Some(RenewEvery::Share(share)),
        None => span(text.value).map(RenewEvery::Age),
    };
    if every.is_none() {
        report.problem(text.place, format!("`renew_every` must be {RENEW_EVERY}"));
    }
    every
}

/// An enum whose variants have words in a configuration.
pub(super) trait VariantNames: Copy + Into<&'static str> + FromStr + VariantArray {}

impl<T: Copy + Into<&'static str> + FromStr + VariantArray> VariantNames for T {}

/// The words of an enum, in the order of its variants.
pub(super) fn words<T: VariantNames>() -> impl Iterator<Item = &'static str> + Clone {
    T::VARIANTS.iter().map(|variant| (*variant).into())
}

/// One of an enum's words.
pub(super) fn one_of<T: VariantNames>(
    report: &mut Diagnostics,
    key: &str,
    text: TextValue<'_>,
) -> Option<T> {
    let found = text.value.parse().ok();
    if found.is_none() {
        report_unknown(report, key, text, words::<T>());
    }
    found
}

/// Reports a text that is none of the words.
pub(super) fn report_unknown<'w>(
    report: &mut Diagnostics,
    key: &str,
    text: TextValue<'_>,
    words: impl Iterator<Item = &'w str> + Clone,
) {
    let hint = did_you_mean(text.value, words.clone());
    let all = words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ");
    report.problem(text.place, format!("`{key}` must be one of {all}{hint}"));
}

/// A key with one of an enum's words.
pub(super) fn choice<T: VariantNames>(
    table: Table<'_>,
    report: &mut Diagnostics,
    key: &str,
) -> Option<T> {
    let text = table.text(report, key)?;
    one_of(report, key, text)
}

/// A name that is safe in labels and messages: the characters of a portal's name.
pub(super) fn plain_name(report: &mut Diagnostics, what: &str, name: TextValue<'_>) -> bool {
    match crate::domain::name::PortalName::parse(name.value) {
        Ok(_) => true,
        Err(error) => {
            report.problem(name.place, format!("{what} needs another name: {error}"));
            false
        }
    }
}

/// A path, relative to the directory of its file.
pub(super) fn path(table: Table<'_>, report: &mut Diagnostics, key: &str) -> Option<PathBuf> {
    table
        .text(report, key)
        .map(|text| table.source().directory().join(text.value))
}

/// A URL that secrets may be sent to, in the sender's syntax; it may contain `{domain}` if `templated`.
pub(super) fn url(
    report: &mut Diagnostics,
    key: &str,
    text: TextValue<'_>,
    templated: bool,
) -> Option<String> {
    let concrete = if templated {
        text.value.replace("{domain}", "domain.example")
    } else {
        text.value.to_owned()
    };
    match check_url(&concrete) {
        Ok(url) => Some(if concrete == text.value {
            url.into()
        } else {
            text.value.to_owned()
        }),
        Err(message) => {
            report.problem(text.place, format!("`{key}` {message}"));
            None
        }
    }
}

/// Why a text is not a URL that secrets may be sent to.
pub(super) fn check_url(text: &str) -> Result<Url, &'static str> {
    let url = check_any_url(text)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err("must begin with https://; plain http is for loopback addresses only");
    }
    Ok(url)
}

/// Why a text is not a URL; traffic to it may be unencrypted.
pub(super) fn check_any_url(text: &str) -> Result<Url, &'static str> {
    // The parser accepts white space and backslashes; the stored URL must be the one that is used.
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("must be a URL without white space and backslashes");
    }
    let url = Url::parse(text)
        .map_err(|_| "must be a whole URL such as \"https://host.example/path\"")?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("must be a URL that begins with https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password");
    }
    if url.fragment().is_some() {
        return Err("must not hold a fragment (#…)");
    }
    Ok(url)
}

/// Returns whether the URL is on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    is_loopback_host(url.host_str().unwrap_or_default())
}

/// Returns whether the host is this machine.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let v6 = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<Ipv6Addr>();
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || v6.is_ok_and(|ip| ip == Ipv6Addr::LOCALHOST)
}

/// A bare `host` or `host:port`, in canonical spelling.
pub(super) fn host(report: &mut Diagnostics, key: &str, text: TextValue<'_>) -> Option<String> {
    let authority = |url: &Url| {
        let host = url.host_str()?;
        Some(
            url.port()
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        )
    };
    let bare = !text
        .value
        .contains(|c: char| c.is_whitespace() || c.is_control() || "/\\@?#{}".contains(c));
    let parsed = Url::parse(&format!("https://{}/", text.value)).ok();
    if let Some(host) = parsed.as_ref().and_then(authority).filter(|_| bare) {
        return Some(host);
    }
    let with_scheme = if text.value.contains("://") {
        text.value.to_owned()
    } else {
        format!("https://{}", text.value)
    };
    let instead = Url::parse(&with_scheme)
        .ok()
        .filter(|_| !bare)
        .as_ref()
        .and_then(authority);
    let advice = instead.map_or_else(
        || "such as `acme.bitrix24.com`".to_owned(),
        |host| format!("without scheme and path: write {}", shown(&host)),
    );
    report.problem(
        text.place,
        format!("`{key}` must be a bare host name {advice}"),
    );
    None
}

/// The formats of a portal's token files.
pub(super) fn formats(table: Table<'_>, report: &mut Diagnostics) -> Vec<TokenFormat> {
    let Some(given) = table.texts(report, "formats", false) else {
        return vec![TokenFormat::Json, TokenFormat::Raw];
    };
    if let (true, Some(place)) = (given.is_empty(), table.place_of("formats")) {
        report.problem(place, "`formats` is empty: no reader would get a token");
    }
    let mut formats = Vec::with_capacity(given.len());
    for text in given {
        match text.value.parse::<TokenFormat>() {
            Ok(format) if formats.contains(&format) => {}
            Ok(format) => formats.push(format),
            Err(_) => {
                let hint = did_you_mean(text.value, words::<TokenFormat>());
                let message = format!(
                    "unknown format {}{hint} (there are {})",
                    shown(text.value),
                    TokenFormat::names()
                );
                report.problem(text.place, message);
            }
        }
    }
    formats
}

/// Reports a renewal age that leaves less than a tenth of the lifetime.
pub(super) fn check_age(
    table: Table<'_>,
    every: RenewEvery,
    lifetime: Duration,
    report: &mut Diagnostics,
) {
    if !every.fits(lifetime) {
        let place = table
            .place_of("renew_every")
            .or_else(|| table.place_of("assumed_lifetime"));
        let life = humantime::format_duration(lifetime);
        let age = match every {
            RenewEvery::Age(age) => humantime::format_duration(age).to_string(),
            RenewEvery::Share(share) => format!("{}%", (share * 100.0).round()),
            RenewEvery::Expiry => "expiry".to_owned(),
        };
        let message = format!(
            "`renew_every` of {age} is beyond 90 % of the lifetime, {life} (`assumed_lifetime`)"
        );
        report.problem(place.unwrap_or(table.place), message);
    }
}

/// Replaces a field if there is a value.
pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// A URL path of plain characters.
pub(super) fn url_path(key: &str, text: TextValue<'_>, report: &mut Diagnostics) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._~-".contains(c);
    let fits = text.value.starts_with('/') && text.value.chars().all(plain);
    if !fits {
        let message =
            format!("`{key}` must begin with / and hold letters, digits and / . _ ~ - only");
        report.problem(text.place, message);
    }
    fits.then(|| text.value.to_owned())
}
