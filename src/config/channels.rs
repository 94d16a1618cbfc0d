//! `[channels.NAME]`: the kinds, and the keys of each.
//!
//! Must not interpret a kind's keys: `receivers` does. A key of another kind has an error message of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::environment::Environment;
use super::problem::{did_you_mean, shown};
use super::receivers;
use super::secrets::{AUTHORIZATION, BOT_TOKEN, PASSWORD, ROUTING_KEY, Reported, SecretKeys, URL};
use super::source::Diagnostics;
use super::table::Table;
use super::values::{choice, duration, plain_name};
use refreshd_alerting::channel::{Channel, ChannelConfig};

/// Reads the settings of a receiver.
type ReadChannel = fn(Table<'_>, &Environment, &mut Diagnostics) -> Result<ChannelConfig, Reported>;

/// A kind of channel.
struct ChannelKind {
    name: &'static str,
    secrets: &'static [&'static SecretKeys],
    keys: &'static [&'static str],
    /// Default of `timeout`.
    timeout: &'static str,
    read: ReadChannel,
}

/// Keys of every kind.
const COMMON: [&str; 2] = ["kind", "timeout"];
const USUAL: &str = "10s";

const KINDS: [ChannelKind; 8] = [
    ChannelKind {
        name: "webhook",
        secrets: &[&URL, &AUTHORIZATION],
        keys: &["body", "body_file", "content_type"],
        timeout: USUAL,
        read: receivers::webhook,
    },
    ChannelKind {
        name: "alertmanager",
        secrets: &[&URL, &AUTHORIZATION],
        keys: &[],
        timeout: USUAL,
        read: receivers::alertmanager,
    },
    ChannelKind {
        name: "pagerduty",
        secrets: &[&ROUTING_KEY, &URL],
        keys: &[],
        timeout: USUAL,
        read: receivers::pagerduty,
    },
    ChannelKind {
        name: "slack",
        secrets: &[&URL],
        keys: &[],
        timeout: USUAL,
        read: receivers::slack,
    },
    ChannelKind {
        name: "telegram",
        secrets: &[&BOT_TOKEN, &URL],
        keys: &["chat_id"],
        timeout: USUAL,
        read: receivers::telegram,
    },
    ChannelKind {
        name: "email",
        secrets: &[&PASSWORD],
        keys: &["smtp", "tls", "user", "from", "to"],
        timeout: USUAL,
        read: receivers::email,
    },
    ChannelKind {
        name: "command",
        secrets: &[],
        keys: &["command"],
        timeout: "30s",
        read: receivers::command,
    },
    ChannelKind {
        name: "heartbeat",
        secrets: &[&URL],
        keys: &["every"],
        timeout: USUAL,
        read: receivers::heartbeat,
    },
];

/// The channels of the configuration by name, including invalid ones: whether each is notified of incidents.
pub(super) type Names<'d> = BTreeMap<&'d str, bool>;

impl ChannelKind {
    /// Its keys.
    fn all_keys(&self) -> impl Iterator<Item = &'static str> {
        let secrets = self.secrets.iter().flat_map(|keys| keys.all);
        COMMON
            .into_iter()
            .chain(self.keys.iter().copied())
            .chain(secrets)
    }

    /// Reports unknown keys: those of other kinds, and those of none.
    fn only(&self, table: Table<'_>, report: &mut Diagnostics) {
        for key in table
            .keys()
            .filter(|key| !self.all_keys().any(|known| known == key.value))
        {
            let owners: Vec<_> = KINDS
                .iter()
                .filter(|kind| kind.all_keys().any(|known| known == key.value))
                .map(|kind| format!("`{}`", kind.name))
                .collect();
            let (name, here) = (shown(key.value), self.name);
            let message = if owners.is_empty() {
                let hint = did_you_mean(key.value, self.all_keys());
                format!("unknown key {name} {table}, a channel of kind `{here}`{hint}")
            } else {
                format!(
                    "{name} {table} is a key of {}, not of `{here}`",
                    owners.join(" and ")
                )
            };
            report.problem(key.place, message);
        }
    }
}

/// Reads the channels; returns all names as well.
pub(super) fn channels<'d>(
    tables: &[Table<'d>],
    environment: &Environment,
    report: &mut Diagnostics,
) -> (Vec<Channel>, Names<'d>) {
    let kinds = KINDS.each_ref().map(|kind| (kind.name, kind));
    let mut names = Names::new();
    let mut channels = Vec::new();
    for table in tables {
        let named = plain_name(report, "the channel", table.name());
        table.required(report, "kind");
        let kind = choice(*table, report, "kind", &kinds);
        names.insert(
            table.name().value,
            kind.is_none_or(|kind| kind.name != "heartbeat"),
        );
        let Some(kind) = kind else { continue };
        kind.only(*table, report);
        let range = (Duration::from_secs(1), Duration::from_secs(120));
        let timeout = duration(*table, report, "timeout", kind.timeout, range);
        let timeout = timeout.or_else(|| humantime::parse_duration(kind.timeout).ok());
        let receiver = (kind.read)(*table, environment, report);
        if let (true, Some(timeout), Ok(kind)) = (named, timeout, receiver) {
            channels.push(Channel {
                name: table.name().value.to_owned(),
                kind,
                timeout,
            });
        }
    }
    (channels, names)
}

/// The keys of all kinds.
#[cfg(test)]
pub(super) fn every_key() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(ChannelKind::all_keys)
}
