//! Custom webhook body: inline or in a file, and tested with samples when it is loaded.
//!
//! Must not show the template: it may contain a receiver's key.

use std::path::Path;

use reqwest::header::HeaderValue;

use super::problem::{ConfigError, did_you_mean};
use super::regular_file;
use super::secrets::Reported;
use super::source::{Diagnostics, FileUse};
use super::table::Table;
use refreshd_alerting::template::{Template, VARIABLES, WebhookTemplateError};

/// Maximum size of a template.
const MAX_TEMPLATE_BYTES: u64 = 64 * 1024;
const JSON: &str = "application/json";

/// The template of a webhook; `None` if it has none.
pub(super) fn template(
    table: Table<'_>,
    report: &mut Diagnostics,
) -> Result<Option<Template>, Reported> {
    let content_type = content_type(table, report);
    if let (true, Some(place)) = (table.has("body"), table.place_of("body_file")) {
        report.problem(
            place,
            format!("`body` and `body_file` {table} mean the same; keep one of them"),
        );
        return Err(Reported);
    }
    if table.has("body") {
        let body = table.text(report, "body").ok_or(Reported)?;
        let template = Template::new(body.value, &content_type?);
        return match template.check() {
            Ok(()) => Ok(Some(template)),
            Err(fault) => {
                let (line, why) = describe(&fault);
                report.problem(body.place, format!("`body`, its line {line}: {why}"));
                Err(Reported)
            }
        };
    }
    if table.has("body_file") {
        let name = table.text(report, "body_file").ok_or(Reported)?;
        let path = table.source().directory().join(name.value);
        report.uses(name.place, FileUse::Template, &path);
        let body = read(&path).map_err(|why| {
            report.problem(name.place, format!("`body_file`: the file {why}"));
            Reported
        })?;
        let template = Template::new(&body, &content_type?);
        return match template.check() {
            Ok(()) => Ok(Some(template)),
            Err(fault) => {
                let (line, why) = describe(&fault);
                report.in_file(ConfigError {
                    line,
                    ..ConfigError::of_file(&path, why)
                });
                Err(Reported)
            }
        };
    }
    content_type?;
    if let Some(place) = table.place_of("content_type") {
        report.problem(place, "`content_type` is that of `body`, which is missing");
        return Err(Reported);
    }
    Ok(None)
}

fn content_type(table: Table<'_>, report: &mut Diagnostics) -> Result<String, Reported> {
    if !table.has("content_type") {
        return Ok(JSON.to_owned());
    }
    let text = table.text(report, "content_type").ok_or(Reported)?;
    let value = text.value.trim();
    if !value.contains('/') || HeaderValue::from_str(value).is_err() {
        report.problem(
            text.place,
            format!("`content_type` must be as \"{JSON}\" or \"text/plain\""),
        );
        return Err(Reported);
    }
    Ok(value.to_owned())
}

fn describe(fault: &WebhookTemplateError) -> (usize, String) {
    match fault {
        WebhookTemplateError::Unknown { name, line } => {
            let hint = did_you_mean(name, VARIABLES);
            let known = if hint.is_empty() {
                format!(" (there are {})", VARIABLES.join(", "))
            } else {
                hint
            };
            (
                *line,
                format!("no message has a {}{known}", super::problem::shown(name)),
            )
        }
        WebhookTemplateError::Other { line, why } => (*line, why.clone()),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let (bytes, _) = regular_file::read(path, MAX_TEMPLATE_BYTES).map_err(|why| why.reason())?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    if text.trim().is_empty() {
        Err("is empty".to_owned())
    } else {
        Ok(text)
    }
}
