//! The keys of a profile that say how its portals install apps.

use super::super::source::Diagnostics;
use super::super::table::Table;
use super::super::values::{url, url_path};
use refreshd_token_client::quirks::InstallFields;

/// Reads the keys of a profile that say how its portals install apps.
pub(super) fn read(table: Table<'_>, form: &mut InstallFields, report: &mut Diagnostics) {
    if let Some(text) = table.text(report, "install_check")
        && let Some(check) = url_path("install_check", text, report)
    {
        form.check = Some(check);
    }
    if let Some(text) = table.text(report, "install_admin") {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !text.value.is_empty() && text.value.chars().all(plain) {
            form.admin = Some(text.value.to_owned());
        } else {
            report.problem(
                text.place,
                "`install_admin` must hold letters, digits and . _ - only",
            );
        }
    }
    if let Some(text) = table.text(report, "install_script")
        && let Some(script) = url(report, "install_script", text, false)
    {
        form.script = Some(script);
    }
    if let Some(text) = table.text(report, "install_run") {
        if text.value.contains("</") {
            report.problem(
                text.place,
                "`install_run` must not hold </, which would end it",
            );
        }
        form.run = Some(text.value.to_owned());
    }
}
