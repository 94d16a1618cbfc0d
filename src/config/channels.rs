//! `[channels.NAME]`: the channels, each with the keys of its kind.
//!
//! Must not know a kind's keys: `receivers` does. A key of another kind has an error message of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use strum::VariantArray as _;

use super::environment::Environment;
use super::network::Networks;
use super::problem::{did_you_mean, shown};
use super::receivers::{ChannelKeys, keys_of};
use super::source::Diagnostics;
use super::table::Table;
use super::values::{choice, duration, plain_name};
use refreshd_alerting::channel::{Channel, ChannelKind};

/// Keys of every kind.
const COMMON: [&str; 2] = ["kind", "timeout"];

/// The channels of the configuration by name, including invalid ones: whether each is notified of incidents.
pub(super) type Names<'d> = BTreeMap<&'d str, bool>;

impl ChannelKeys {
    /// Its keys.
    fn all_keys(&self) -> impl Iterator<Item = &'static str> {
        let secrets = self.secrets.iter().flat_map(|keys| keys.all);
        COMMON
            .into_iter()
            .chain(self.keys.iter().copied())
            .chain(secrets)
    }

    /// Reports unknown keys: those of other kinds than `here`, and those of none.
    fn only(&self, here: ChannelKind, table: Table<'_>, report: &mut Diagnostics) {
        for key in table
            .keys()
            .filter(|key| !self.all_keys().any(|known| known == key.value))
        {
            let owners: Vec<_> = ChannelKind::VARIANTS
                .iter()
                .filter(|kind| keys_of(**kind).all_keys().any(|known| known == key.value))
                .map(|kind| format!("`{}`", <&str>::from(kind)))
                .collect();
            let (name, here) = (shown(key.value), <&str>::from(here));
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
    networks: &mut Networks,
    report: &mut Diagnostics,
) -> (Vec<Channel>, Names<'d>) {
    let mut names = Names::new();
    let mut channels = Vec::new();
    for table in tables {
        let named = plain_name(report, "the channel", table.name());
        table.required(report, "kind");
        let kind: Option<ChannelKind> = choice(*table, report, "kind");
        names.insert(
            table.name().value,
            kind.is_none_or(ChannelKind::receives_incidents),
        );
        let Some(kind) = kind else { continue };
        let keys = keys_of(kind);
        keys.only(kind, *table, report);
        let range = (Duration::from_secs(1), Duration::from_secs(120));
        let timeout = duration(*table, report, "timeout", keys.timeout, range);
        let timeout = timeout.or_else(|| humantime::parse_duration(keys.timeout).ok());
        let receiver = (keys.read)(*table, environment, report);
        let network = networks.of(*table, environment, report);
        if let (true, Some(timeout), Ok(kind)) = (named, timeout, receiver) {
            channels.push(Channel {
                name: table.name().value.to_owned(),
                kind,
                timeout,
                network,
            });
        }
    }
    (channels, names)
}

/// The keys of all kinds.
#[cfg(test)]
pub(super) fn every_key() -> impl Iterator<Item = &'static str> {
    let keys = |kind: &ChannelKind| keys_of(*kind).all_keys().collect::<Vec<_>>();
    ChannelKind::VARIANTS.iter().flat_map(keys)
}
