//! `[alerts]`: settings common to all alerts.

use std::time::Duration;

use super::configuration::AlertsConfig;
use super::source::Diagnostics;
use super::table::Table;
use super::values::{check_any_url, duration};

/// A longer name would not fit into receivers' keys with an incident's.
const MAX_INSTANCE_LENGTH: usize = 100;
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for AlertsConfig {
    fn default() -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let instance = if is_name(&host) {
            host
        } else {
            "localhost".to_owned()
        };
        Self {
            instance,
            url: None,
            group_threshold: 10,
            self_test: None,
        }
    }
}

pub(super) fn alerts(root: Table<'_>, report: &mut Diagnostics) -> AlertsConfig {
    let mut alerts = AlertsConfig::default();
    let Some(table) = root.table(report, "alerts", "alerts") else {
        return alerts;
    };
    table.only(
        report,
        &[&["instance", "url", "group_threshold", "self_test"]],
    );
    if let Some(instance) = table.text(report, "instance") {
        let name = instance.value.trim();
        if !is_name(name) {
            let message =
                format!("`instance` must be a word of at most {MAX_INSTANCE_LENGTH} characters");
            report.problem(instance.place, message);
        }
        name.clone_into(&mut alerts.instance);
    }
    if let Some(url) = table.text(report, "url") {
        match check_any_url(url.value) {
            Ok(url) => alerts.url = Some(url.into()),
            Err(message) => report.problem(url.place, format!("`url` {message}")),
        }
    }
    let group_threshold = table
        .integer(report, "group_threshold", 2..=1000)
        .and_then(|threshold| u64::try_from(threshold).ok());
    alerts.group_threshold = group_threshold.unwrap_or(alerts.group_threshold);
    alerts.self_test = duration(table, report, "self_test", "30d", (DAY, DAY * 400));
    alerts
}

/// It becomes part of keys, labels and headers.
fn is_name(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/\"<>".contains(c);
    !text.is_empty() && text.chars().count() <= MAX_INSTANCE_LENGTH && !text.contains(odd)
}
