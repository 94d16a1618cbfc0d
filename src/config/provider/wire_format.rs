//! The keys of a profile about the form of requests and replies.
//!
//! Must not let a profile reach what is not its own: a header that HTTP itself needs, or a secret field for readers.

use std::collections::BTreeMap;

use reqwest::header::{HeaderName, HeaderValue};

use super::super::problem::{did_you_mean, shown};
use super::super::source::Diagnostics;
use super::super::table::Table;
use super::super::values::choice;
use super::super::values::set;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::quirks::{BasicEncoding, BodyEncoding, JsonPath};
use refreshd_token_client::reply::SECRET_FIELDS;

/// The keys of `[…reply]`.
const REPLY: [&str; 11] = [
    "access_token",
    "refresh_token",
    "token_type",
    "scope",
    "expires_in",
    "expires_at",
    "refresh_expires_in",
    "refresh_expires_at",
    "error",
    "error_description",
    "success",
];
/// The parameters that `names` may give other names.
const NAMES: [&str; 12] = [
    "grant_type",
    "client_id",
    "client_secret",
    "refresh_token",
    "code",
    "code_verifier",
    "code_challenge",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "device_code",
];
/// The headers that are the request's own.
const NOT_OURS: [&str; 6] = [
    "authorization",
    "content-type",
    "content-length",
    "host",
    "connection",
    "transfer-encoding",
];

pub(super) fn apply(table: Table<'_>, profile: &mut Profile, report: &mut Diagnostics) {
    let form = &mut profile.request;
    set(
        &mut form.body,
        choice(
            table,
            report,
            "body",
            &[("form", BodyEncoding::Form), ("json", BodyEncoding::Json)],
        ),
    );
    let encodings = [("form", BasicEncoding::Form), ("raw", BasicEncoding::Raw)];
    set(
        &mut form.basic_encoding,
        choice(table, report, "basic_encoding", &encodings),
    );
    set(
        &mut form.scope_in_renewal,
        table.boolean(report, "scope_in_renewal"),
    );
    if let Some(names) = table.table(report, "parameter_names", "[parameter_names]") {
        names.only(report, &[&NAMES]);
        form.names = texts(names, report);
    }
    if let Some(headers) = table.table(report, "headers", "[headers]") {
        form.headers = texts(headers, report);
        check_headers(headers, report);
    }
    for (key, parameters) in [
        ("authorize_parameters", &mut form.authorize_parameters),
        ("code_parameters", &mut form.code_parameters),
        ("renewal_parameters", &mut form.renewal_parameters),
    ] {
        if let Some(given) = table.table(report, key, "[parameters]") {
            // One more parameter on an app leaves the provider's as they are.
            parameters.extend(texts(given, report));
        }
    }
    if let Some(fields) = table.texts(report, "redirect_fields", false) {
        for field in fields.iter().filter(|field| is_secret(field.value)) {
            report.problem(
                field.place,
                "`redirect_fields` names a field that is never handed to readers",
            );
        }
        form.redirect_fields = fields.iter().map(|field| field.value.to_owned()).collect();
    }
    set(
        &mut form.redirect_server,
        table
            .text(report, "redirect_server")
            .map(|text| Some(text.value.to_owned())),
    );
    let units = [("s", false), ("ms", true)];
    set(
        &mut profile.reply.in_milliseconds,
        choice(table, report, "expires_in_unit", &units),
    );
    reply(table, profile, report);
}

fn reply(table: Table<'_>, profile: &mut Profile, report: &mut Diagnostics) {
    let Some(table) = table.table(report, "reply", "[reply]") else {
        return;
    };
    table.only(report, &[&REPLY]);
    let form = &mut profile.reply;
    for (key, places) in [
        ("access_token", &mut form.access_token),
        ("refresh_token", &mut form.refresh_token),
        ("token_type", &mut form.token_type),
        ("scope", &mut form.scope),
        ("expires_in", &mut form.expires_in),
        ("expires_at", &mut form.expires_at),
        ("refresh_expires_in", &mut form.refresh_expires_in),
        ("refresh_expires_at", &mut form.refresh_expires_at),
        ("error", &mut form.error),
        ("error_description", &mut form.error_description),
    ] {
        if let Some(given) = table.texts(report, key, true) {
            *places = given.iter().map(|text| JsonPath::new(text.value)).collect();
        }
    }
    if let Some(given) = table.table(report, "success", "reply.success") {
        form.success = values(given, report);
    }
}

/// Places of a reply and the values that are wanted there.
pub(super) fn values(table: Table<'_>, report: &mut Diagnostics) -> Vec<(JsonPath, Vec<String>)> {
    let read = |key: super::super::table::TextValue<'_>| {
        let wanted = table.texts(report, key.value, true)?;
        Some((
            JsonPath::new(key.value),
            wanted.iter().map(|text| text.value.to_owned()).collect(),
        ))
    };
    table.keys().filter_map(read).collect()
}

fn check_headers(headers: Table<'_>, report: &mut Diagnostics) {
    for key in headers.keys() {
        if HeaderName::from_bytes(key.value.as_bytes()).is_err() {
            report.problem(
                key.place,
                format!("{} is no name of a header", shown(key.value)),
            );
        } else if NOT_OURS.contains(&key.value.to_ascii_lowercase().as_str()) {
            let hint = did_you_mean(key.value, ["Accept", "User-Agent"]);
            report.problem(
                key.place,
                format!("`headers` must not set {}{hint}", shown(key.value)),
            );
        }
        if let Some(value) = headers.text_as(report, key.value, "a string in quotes")
            && HeaderValue::from_str(value.value).is_err()
        {
            report.problem(
                value.place,
                "the value of a header must be one line without control characters",
            );
        }
    }
}

/// Every key with its string, which may be empty.
fn texts(table: Table<'_>, report: &mut Diagnostics) -> BTreeMap<String, String> {
    let read = |key: super::super::table::TextValue<'_>| {
        let text = table.text_as(report, key.value, "a string in quotes")?;
        Some((key.value.to_owned(), text.value.to_owned()))
    };
    table.keys().filter_map(read).collect()
}

/// Whether the last part of a field's place is a secret's name.
pub(super) fn is_secret(field: &str) -> bool {
    field
        .rsplit('.')
        .next()
        .is_some_and(|last| SECRET_FIELDS.contains(&last))
}
