//! Escalation steps and alert channels.
//!
//! Must not keep a channel's address or secret: they are checked, and delivery is not built yet.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::ExposeSecret as _;

use super::document::Report;
use super::environment::Environment;
use super::problem::{did_you_mean, shown};
use super::secrets::{BOT_TOKEN, Found, PASSWORD, ROUTING_KEY, SecretKeys, URL};
use super::table::{Table, Text};
use super::values::{check_url, choice, percent, plain_name, span};
use crate::domain::escalation::{Moment, Part, Severity, Step, default_ladder};

/// The kinds of channels: what each needs besides its kind.
const KINDS: [(&str, Needs); 8] = [
    ("webhook", Needs(Some(&URL), &[])),
    ("command", Needs(None, &["command"])),
    ("alertmanager", Needs(Some(&URL), &[])),
    ("pagerduty", Needs(Some(&ROUTING_KEY), &[])),
    ("slack", Needs(Some(&URL), &[])),
    ("telegram", Needs(Some(&BOT_TOKEN), &["chat_id"])),
    ("email", Needs(None, &["smtp", "from", "to"])),
    ("heartbeat", Needs(Some(&URL), &[])),
];
/// Keys of channels besides `kind` and the forms of secrets.
const CHANNEL_KEYS: [&str; 7] = ["kind", "command", "to", "from", "smtp", "user", "chat_id"];

/// What stands in place of an overdue step's `share`.
const DEFAULT_SHARE: &str = "30%";

#[derive(Clone, Copy)]
struct Needs(Option<&'static SecretKeys>, &'static [&'static str]);

/// Checks the channels; their names, in order.
pub(super) fn channels(tables: &[Table<'_>], environment: &Environment, report: &mut Report) -> Vec<String> {
    for table in tables {
        let secrets = [&URL, &BOT_TOKEN, &ROUTING_KEY, &PASSWORD];
        let [url, bot_token, routing_key, password] = secrets.map(|keys| keys.all.as_slice());
        table.only(report, &[&CHANNEL_KEYS, url, bot_token, routing_key, password]);
        plain_name(report, "the channel", table.name());
        table.required(report, "kind");
        let needs = choice(*table, report, "kind", &KINDS).unwrap_or(Needs(None, &[]));
        for keys in secrets {
            let needed = needs.0.is_some_and(|needed| needed.all == keys.all);
            let found = if needed {
                keys.require(*table, environment, report)
            } else {
                keys.read(*table, environment, report)
            };
            if let (Found::Secret(secret), true) = (found, keys.all == URL.all) {
                check_address(*table, secret.expose_secret(), report);
            }
        }
        typed(*table, report);
        for key in needs.1.iter().filter(|key| !table.has(key)) {
            report.missing(table.place, format!("`{key}` is missing {table}"));
        }
        let message = "alerts are not delivered to channels by this version yet; they are written to the log";
        report.warning(table.place, message);
    }
    tables.iter().map(|table| table.name().value.to_owned()).collect()
}

/// A channel's address may be a secret as a whole, so only what is wrong with it is said.
fn check_address(table: Table<'_>, address: &str, report: &mut Report) {
    if let Err(message) = check_url(address.trim()) {
        let key = URL.all.into_iter().find(|key| table.has(key)).unwrap_or("url");
        report
            .problem(table.place_of(key).unwrap_or(table.place), format!("the address in `{key}` {message}"));
    }
}

fn typed(table: Table<'_>, report: &mut Report) {
    if let (Some([]), Some(place)) =
        (table.texts(report, "command", false).as_deref(), table.place_of("command"))
    {
        report.problem(place, "`command` is empty; write the program and its arguments");
    }
    table.texts(report, "to", true);
    for key in ["from", "smtp", "user"] {
        table.text(report, key);
    }
    if !table.is_integer("chat_id") {
        table.text_as(report, "chat_id", "a number or a string in quotes");
    }
}

/// The ladder in force.
pub(super) fn ladder(roots: &[Table<'_>], channels: &[String], report: &mut Report) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut places = BTreeMap::new();
    let channels: BTreeSet<&str> = channels.iter().map(String::as_str).collect();
    let mut written = false;
    for root in roots {
        let Some(escalation) = root.table(report, "escalation", "escalation") else { continue };
        escalation.only(report, &[&["step"]]);
        for table in escalation.list_of_tables(report, "step", "[[escalation.step]]") {
            written = true;
            let Some(step) = step(table, &channels, report) else { continue };
            if let Some(first) = places.insert(step.key.clone(), table.place) {
                let message = format!("this step is given already at {first}; name all channels in one step");
                report.problem(table.place, message);
            }
            steps.push(step);
        }
    }
    if written { steps } else { default_ladder() }
}

fn step(table: Table<'_>, channels: &BTreeSet<&str>, report: &mut Report) -> Option<Step> {
    table.only(report, &[&["when", "share", "severity", "notify"]]);
    let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
    table.required(report, "severity");
    let severity = choice(table, report, "severity", &severities);
    let notify = table.texts(report, "notify", false).unwrap_or_default();
    for name in notify.iter().filter(|name| !channels.contains(name.value)) {
        let hint = did_you_mean(name.value, channels.iter().copied());
        report.unresolved(name.place, format!("unknown channel {}{hint}", shown(name.value)));
    }
    let share = table.text_as(report, "share", "a share in quotes such as \"30%\"");
    let when = table.required(report, "when")?;
    let (key, when) = moment(when, share, report)?;
    let notify = notify.iter().map(|name| name.value.to_owned()).collect();
    Some(Step { key, when, severity: severity?, notify })
}

/// What a step waits for, and its key: the same in one spelling.
fn moment(when: Text<'_>, share: Option<Text<'_>>, report: &mut Report) -> Option<(String, Moment)> {
    let text = when.value.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(share) = share.filter(|_| text != "overdue") {
        report.problem(share.place, "`share` belongs to `when = \"overdue\"` alone");
    }
    if let Some(left) = text.strip_prefix("remaining").and_then(|rest| rest.trim_start().strip_prefix('<')) {
        let part = percent(left).map(Part::Share).or_else(|| span(left).map(Part::Span));
        if part.is_none() {
            report.problem(when.place, "`when` must be as \"remaining < 20%\" or \"remaining < 10m\"");
        }
        return part.map(|part| (format!("remaining < {}", left.trim()), Moment::Remaining(part)));
    }
    let moment = match text.as_str() {
        "failed" => Moment::Failed,
        "expired" => Moment::Expired,
        "needs-person" => Moment::NeedsPerson,
        "overdue" => {
            let share = share.map_or((DEFAULT_SHARE, when.place), |share| (share.value.trim(), share.place));
            let Some(part) = percent(share.0) else {
                report.problem(share.1, "`share` must be a share such as \"30%\"");
                return None;
            };
            return Some((format!("overdue {}", share.0), Moment::Overdue(part)));
        }
        _ => {
            let first = text.split(' ').next().unwrap_or_default();
            let hint = did_you_mean(
                first,
                ["failed", "overdue", "remaining < 20%", "remaining", "expired", "needs-person"],
            );
            let known =
                "`failed`, `overdue`, `remaining < 20%`, `remaining < 10m`, `expired`, `needs-person`";
            report.problem(when.place, format!("`when` must be one of {known}{hint}"));
            return None;
        }
    };
    Some((text, moment))
}
