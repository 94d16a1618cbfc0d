//! The settings of the main file: paths, log, HTTP, limits.

use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::configuration::{HttpConfig, LogConfig, Paths, RenewalConfig};
use super::source::Diagnostics;
use super::table::Table;
use super::values::{choice, duration, path, report_unknown};
use crate::domain::budget::Limits;
use crate::domain::log_format::LogFormat;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: "/var/lib/refreshd/state.db".into(),
            token_dir: "/run/refreshd/tokens".into(),
            control_socket: "/run/refreshd/control.sock".into(),
        }
    }
}

impl Default for RenewalConfig {
    fn default() -> Self {
        Self {
            limits: Limits {
                concurrency: 256,
                rate: 50.0,
            },
            timeout: Duration::from_secs(30),
        }
    }
}

/// Reads the paths; `None` for an invalid one.
pub(super) fn paths(root: Table<'_>, report: &mut Diagnostics) -> Option<Paths> {
    let default = Paths::default();
    let mut or_default = |key: &str, default: PathBuf| {
        if root.has(key) {
            path(root, report, key)
        } else {
            Some(default)
        }
    };
    let (token_dir, control_socket) = (
        or_default("token_dir", default.token_dir),
        or_default("control_socket", default.control_socket),
    );
    let state = or_default("state", default.state)?;
    is_local(root, report).then_some(())?;
    Some(Paths {
        state,
        token_dir: token_dir?,
        control_socket: control_socket?,
    })
}

/// Rejects the URL of a database server: a path is expected.
fn is_local(root: Table<'_>, report: &mut Diagnostics) -> bool {
    let Some(text) = root.text(report, "state") else {
        return true;
    };
    let message = match text.value.split_once("://") {
        None => return true,
        Some(("postgres" | "postgresql", _)) => {
            "`state` must be a path: several machines on PostgreSQL are not supported by this version"
        }
        Some(_) => "`state` must be a path, not a URL",
    };
    report.problem(text.place, message);
    false
}

pub(super) fn log(root: Table<'_>, report: &mut Diagnostics) -> LogConfig {
    let mut log = LogConfig {
        level: "info".to_owned(),
        format: LogFormat::Auto,
    };
    let Some(table) = root.table(report, "log", "log") else {
        return log;
    };
    table.only(report, &[&["level", "format"]]);
    if let Some(level) = table.text(report, "level") {
        // A misspelt level would be parsed as a module name.
        if !level.value.contains(['=', ',']) {
            if !LEVELS.contains(&level.value) {
                report_unknown(report, "level", level, LEVELS.into_iter());
            }
        } else if EnvFilter::try_new(level.value).is_err() {
            report.problem(
                level.place,
                "`level` must be a level or directives such as \"info,refreshd=debug\"",
            );
        }
        level.value.clone_into(&mut log.level);
    }
    log.format = choice(table, report, "format").unwrap_or(log.format);
    log
}

pub(super) fn http(root: Table<'_>, report: &mut Diagnostics) -> Option<HttpConfig> {
    let table = root.table(report, "http", "http")?;
    table.only(
        report,
        &[&["listen", "per_portal_metrics_limit", "allowed_hosts"]],
    );
    let series = table.integer(report, "per_portal_metrics_limit", 0..=10_000_000);
    let listen = table.required(report, "listen")?;
    let Ok(address) = listen.value.parse() else {
        report.problem(
            listen.place,
            "`listen` must be an IP address and a port such as \"127.0.0.1:9470\"",
        );
        return None;
    };
    let hosts = table
        .texts(report, "allowed_hosts", true)
        .unwrap_or_default();
    Some(HttpConfig {
        listen: address,
        hosts: hosts
            .into_iter()
            .map(|host| host.value.to_owned())
            .collect(),
        per_portal_metrics_limit: series.and_then(|n| usize::try_from(n).ok()).unwrap_or(1000),
    })
}

pub(super) fn renewal(root: Table<'_>, report: &mut Diagnostics) -> RenewalConfig {
    let mut renewal = RenewalConfig::default();
    let Some(table) = root.table(report, "renewal", "renewal") else {
        return renewal;
    };
    table.only(report, &[&["concurrency", "rate", "timeout"]]);
    let concurrency = table
        .integer(report, "concurrency", 1..=10_000)
        .and_then(|n| usize::try_from(n).ok());
    renewal.limits.concurrency = concurrency.unwrap_or(renewal.limits.concurrency);
    renewal.limits.rate = table
        .number(report, "rate", 100_000.0)
        .unwrap_or(renewal.limits.rate);
    let range = (Duration::from_secs(1), Duration::from_secs(300));
    renewal.timeout = duration(table, report, "timeout", "30s", range).unwrap_or(renewal.timeout);
    renewal
}
