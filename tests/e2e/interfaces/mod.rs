//! The interfaces of the real binary: commands, the control socket, metrics and health, the demo.
//!
//! All in one binary: these tests wait more than they compute, and take as long as the longest, the demo.

mod access;
mod authorize;
mod browser_page;
mod budget;
mod check;
mod check_service;
mod connections;
mod control;
mod demo;
mod forget;
mod health;
mod help;
mod http;
mod import;
mod import_over;
mod init;
mod install;
mod install_disputed;
mod install_events;
mod install_flood;
mod install_forged;
mod install_verified;
mod late_success;
mod lifetimes;
mod listing;
mod metadata;
mod network;
mod overload;
mod provider;
mod providers;
mod read_only;
mod recover;
mod reload;
mod renew;
mod status;
mod token;
mod untrusted_text;

use std::time::Duration;

use crate::common::strict::Strict;
use crate::common::{Daemon, Rig};
use refreshd_fake_server::Fault;

/// A rig in which nothing happens by itself once a grant was renewed for the first time: tokens live an hour.
fn calm<const N: usize>(portals: [&str; N]) -> Rig {
    let hour = Duration::from_secs(3600);
    let mut rig = Rig::with_lifetime(portals, hour);
    rig.config.app().renew_every = Duration::from_secs(25 * 60);
    rig
}

/// A portal `news` at a server of any profile: `kind` holds the lines of its provider.
fn news(server: &Strict, secret: &str, kind: &str) -> Rig {
    let mut rig = Rig::new([]);
    rig.secret("news.secret", secret);
    rig.config.apps.clear();
    rig.config.more = format!(
        "[portals.news]\nprovider = 'own'\nclient_id = 'svc'\nclient_secret_file = 'news.secret'\n\
         [providers.own]\ntoken_url = '{}/token'\n{kind}",
        server.origin
    );
    rig
}

/// A calm rig with a daemon whose portals are all fresh, at generation 2.
fn fresh<const N: usize>(portals: [&str; N]) -> (Rig, Daemon) {
    let mut rig = calm(portals);
    portals.iter().for_each(|portal| rig.grant(portal));
    let daemon = rig.start();
    for portal in portals {
        rig.wait_for_generation(portal, 2);
        rig.wait_for_phase(portal, "fresh");
    }
    (rig, daemon)
}

/// A server that fails every request with an error.
fn broken() -> Fault {
    let (error, description) = (
        "INTERNAL_SERVER_ERROR".to_owned(),
        "out of order".to_owned(),
    );
    Fault::Refuse {
        status: 500,
        error,
        description,
    }
}

/// Asserts that `text` contains all of these.
#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}
