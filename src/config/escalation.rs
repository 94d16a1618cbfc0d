//! The escalation steps, and the channels that each notifies.
//!
//! Must not check a channel's settings: it only uses its name, and whether it is notified of incidents.

use std::collections::BTreeMap;

use super::channels::Names;
use super::problem::{did_you_mean, shown};
use super::source::Diagnostics;
use super::table::{Table, TextValue};
use super::values::{choice, percent, span};
use crate::domain::escalation::{Step, Threshold, Trigger, default_steps};
use refreshd_alerting::Severity;

/// Default `share` of an overdue step.
const DEFAULT_SHARE: &str = "30%";

/// Reads the escalation steps.
pub(super) fn ladder(
    roots: &[Table<'_>],
    channels: &Names<'_>,
    report: &mut Diagnostics,
) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut places = BTreeMap::new();
    let mut written = false;
    for root in roots {
        let Some(escalation) = root.table(report, "escalation", "escalation") else {
            continue;
        };
        escalation.only(report, &[&["step"]]);
        for table in escalation.list_of_tables(report, "step", "[[escalation.step]]") {
            written = true;
            let Some(step) = step(table, channels, report) else {
                continue;
            };
            if let Some(first) = places.insert(step.key.clone(), table.place) {
                let message =
                    format!("this step is given already at {first}; name all channels in one step");
                report.problem(table.place, message);
            }
            steps.push(step);
        }
    }
    if written { steps } else { default_steps() }
}

fn step(table: Table<'_>, channels: &Names<'_>, report: &mut Diagnostics) -> Option<Step> {
    table.only(report, &[&["when", "share", "severity", "notify"]]);
    table.required(report, "severity");
    let severity: Option<Severity> = choice(table, report, "severity");
    let notify = table.texts(report, "notify", false);
    for name in notify.iter().flatten() {
        let known = shown(name.value);
        match channels.get(name.value) {
            Some(true) => {}
            Some(false) => {
                let why = "it only reports that all is well, and is not notified of incidents";
                report.problem(
                    name.place,
                    format!("the channel {known} is a heartbeat: {why}"),
                );
            }
            None => {
                let hint = did_you_mean(name.value, channels.keys().copied());
                report.unresolved(name.place, format!("unknown channel {known}{hint}"));
            }
        }
    }
    let share = table.text_as(report, "share", "a share in quotes such as \"30%\"");
    let when = table.required(report, "when")?;
    let (key, when) = trigger(when, share, report)?;
    let notify = notify.map(|names| names.iter().map(|name| name.value.to_owned()).collect());
    Some(Step {
        key,
        when,
        severity: severity?,
        notify,
    })
}

/// Trigger of a step, and its key in canonical spelling.
fn trigger(
    when: TextValue<'_>,
    share: Option<TextValue<'_>>,
    report: &mut Diagnostics,
) -> Option<(String, Trigger)> {
    let text = when.value.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(share) = share.filter(|_| text != "overdue") {
        report.problem(share.place, "`share` belongs to `when = \"overdue\"` alone");
    }
    if let Some(left) = text
        .strip_prefix("remaining")
        .and_then(|rest| rest.trim_start().strip_prefix('<'))
    {
        let part = percent(left)
            .map(Threshold::Share)
            .or_else(|| span(left).map(Threshold::Span));
        if part.is_none() {
            report.problem(
                when.place,
                "`when` must be as \"remaining < 20%\" or \"remaining < 10m\"",
            );
        }
        return part.map(|part| {
            (
                format!("remaining < {}", left.trim()),
                Trigger::Remaining(part),
            )
        });
    }
    let moment = match text.as_str() {
        "failed" => Trigger::Failed,
        "expired" => Trigger::Expired,
        "needs-person" => Trigger::NeedsPerson,
        "overdue" => {
            let share = share.map_or((DEFAULT_SHARE, when.place), |share| {
                (share.value.trim(), share.place)
            });
            let Some(part) = percent(share.0) else {
                report.problem(share.1, "`share` must be a share such as \"30%\"");
                return None;
            };
            return Some((format!("overdue {}", share.0), Trigger::Overdue(part)));
        }
        _ => {
            let first = text.split(' ').next().unwrap_or_default();
            let hint = did_you_mean(
                first,
                [
                    "failed",
                    "overdue",
                    "remaining < 20%",
                    "remaining",
                    "expired",
                    "needs-person",
                ],
            );
            let known = "`failed`, `overdue`, `remaining < 20%`, `remaining < 10m`, `expired`, `needs-person`";
            report.problem(when.place, format!("`when` must be one of {known}{hint}"));
            return None;
        }
    };
    Some((text, moment))
}
