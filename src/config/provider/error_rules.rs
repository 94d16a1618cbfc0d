//! The rows of `[[errors]]`: what a refusal means, and the recommended action.

use super::super::problem::{did_you_mean, shown};
use super::super::source::Diagnostics;
use super::super::table::{Table, TextValue};
use super::super::values::choice;
use super::wire_format::values;
use crate::domain::hint::{COMMANDS, PLACEHOLDERS, TemplateError, template_error};
use refreshd_token_client::provider::{Class, ErrorRule};

/// The rows of `[[errors]]`.
pub(super) fn rows(table: Table<'_>, report: &mut Diagnostics) -> Vec<ErrorRule> {
    let rows = table.list_of_tables(report, "errors", "[[errors]]");
    rows.into_iter()
        .filter_map(|row| rule(row, report))
        .collect()
}

fn rule(row: Table<'_>, report: &mut Diagnostics) -> Option<ErrorRule> {
    row.only(
        report,
        &[&[
            "status",
            "error",
            "description",
            "match",
            "class",
            "meaning",
            "remedy",
        ]],
    );
    if !["status", "error", "description", "match"]
        .into_iter()
        .any(|key| row.has(key))
    {
        report.missing(
            row.place,
            "a row of [[errors]] must have `status`, `error`, `description` or `match`: it would match every reply",
        );
    }
    let status = row
        .integers(report, "status", 100..=599)
        .unwrap_or_default();
    let error = row.texts(report, "error", true).unwrap_or_default();
    let description = row
        .text(report, "description")
        .map(|text| text.value.to_owned());
    let also = match row.table(report, "match", "errors.match") {
        Some(table) => values(table, report),
        None => Vec::new(),
    };
    let meaning = row
        .text(report, "meaning")
        .map(|text| text.value.to_owned());
    let remedy = row
        .text(report, "remedy")
        .filter(|text| is_fit(*text, report));
    row.required(report, "class")?;
    let class: Class = choice(row, report, "class")?;
    Some(ErrorRule {
        status: status
            .into_iter()
            .filter_map(|status| u16::try_from(status).ok())
            .collect(),
        error: error.iter().map(|code| code.value.to_owned()).collect(),
        description: description.unwrap_or_default(),
        also,
        class,
        meaning,
        remedy: remedy.map(|text| text.value.to_owned()),
    })
}

/// Returns whether the recommended action can be filled in and done.
fn is_fit(remedy: TextValue<'_>, report: &mut Diagnostics) -> bool {
    let gaps = PLACEHOLDERS.map(|gap| format!("{{{gap}}}")).join(", ");
    let message = match template_error(remedy.value) {
        None => return true,
        Some(TemplateError::Control) => {
            "`remedy` must be one line without control characters".to_owned()
        }
        Some(TemplateError::Brace) => {
            format!("`remedy` has a brace without its other half (there are {gaps})")
        }
        Some(TemplateError::Gap(name)) => {
            let (hint, name) = (
                did_you_mean(name, PLACEHOLDERS),
                shown(&format!("{{{name}}}")),
            );
            format!("`remedy` holds {name}, which nothing fills in{hint} (there are {gaps})")
        }
        Some(TemplateError::Command(word)) => {
            let (hint, word) = (did_you_mean(word, COMMANDS), shown(word));
            let commands = COMMANDS.join(", ");
            format!(
                "`remedy` names refreshd's command {word}, which does not exist{hint} (there are {commands})"
            )
        }
    };
    report.problem(remedy.place, message);
    false
}
