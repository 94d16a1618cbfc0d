//! Whether the portals of a configuration fit the request rate of each authorization server.
//!
//! Must not count portals of installs: the configuration does not name them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::configuration::{App, PortalConfig, RenewalConfig};
use super::source::Diagnostics;
use super::table::Table;
use crate::domain::demand::{Demand, Shortage};
use refreshd_token_client::provider::host_of;
use refreshd_token_client::renew_every::RenewEvery;

/// Warns of each server for which `rate` is too low.
pub(super) fn check(
    root: Table<'_>,
    renewal: &RenewalConfig,
    apps: &BTreeMap<String, App>,
    portals: &[PortalConfig],
    report: &mut Diagnostics,
) {
    let mut servers: BTreeMap<String, Demand> = BTreeMap::new();
    for portal in portals {
        let Some(app) = apps.get(&portal.settings.app) else {
            continue;
        };
        let own = portal.settings.renew_every.map(RenewEvery::from);
        let mut server = portal.renewal_url(app);
        if server.is_empty() {
            // Its metadata is not known yet: one provider is one server.
            server.clone_from(&app.profile.name);
        }
        servers.entry(server).or_insert_with(Demand::none).add(
            own.unwrap_or(app.profile.renew_every),
            app.profile.assumed_lifetime,
        );
    }
    // What is wrong with the table has been reported.
    let table = root.table(&mut Diagnostics::default(), "renewal", "renewal");
    let place = table
        .and_then(|table| table.place_of("rate").or(Some(table.place)))
        .unwrap_or(root.place);
    for (server, demand) in servers {
        let Some(shortage) = demand.shortage(renewal.limits) else {
            continue;
        };
        let server = host_of(&server).unwrap_or(&server).to_owned();
        report.warning(
            place,
            sentence(&server, &demand, shortage, renewal.limits.rate),
        );
    }
}

fn sentence(server: &str, demand: &Demand, shortage: Shortage, rate: f64) -> String {
    let Demand {
        portals,
        per_second,
        ..
    } = demand;
    match shortage {
        Shortage::Always {
            rate: needed,
            renew_every,
        } => {
            let or = renew_every.map_or_else(String::new, |age| {
                format!(", or a `renew_every` of {} or more", minutes(age))
            });
            format!(
                "{portals} portals at {server} ask for {} renewals a second, and `rate` is {rate}: they will be renewed late, or not \
                 before they expire; write `rate = {}` or more if the server takes it{or}",
                number(*per_second),
                up(needed)
            )
        }
        Shortage::AtOnce {
            rate: needed,
            takes,
            window,
        } => format!(
            "{portals} portals at {server} that are due at once, as after an outage, take {} with a `rate` of {rate}, and their tokens \
             live for {} after they are due; write `rate = {}` or more if the server takes it, or an earlier `renew_every`",
            minutes(takes),
            minutes(window),
            up(needed)
        ),
    }
}

/// Whole minutes, rounded up; seconds below that.
fn minutes(span: Duration) -> String {
    let seconds = span.as_secs_f64().ceil();
    if seconds < 120.0 {
        format!("{seconds}s")
    } else {
        format!("{}m", (seconds / 60.0).ceil())
    }
}

/// Two digits that matter.
fn number(value: f64) -> String {
    if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Rounded up, so that it is enough.
fn up(value: f64) -> String {
    if value >= 10.0 {
        format!("{}", value.ceil())
    } else {
        format!("{:.2}", (value * 100.0).ceil() / 100.0)
    }
}
