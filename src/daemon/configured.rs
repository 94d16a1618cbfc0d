//! Converts a configuration for the state: its portals, its clients, and the endpoints that it allows.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::adapters::state::AppFingerprint;
use crate::config::{App, Config};
use crate::domain::settings::Configured;
use refreshd_secrets::Fingerprint;
use refreshd_token_client::renew_every::RenewEvery;

/// Moves the portals out of a configuration, converted for the state: they are not kept in memory.
#[must_use]
pub fn configured_portals(config: &mut Config) -> Vec<Configured> {
    let mut urls: HashMap<&str, Arc<[String]>> = HashMap::new();
    for app in config.apps.values() {
        urls.insert(&app.name, app.renewal_urls().into_iter().collect());
    }
    let portals = std::mem::take(&mut config.portals);
    portals
        .into_iter()
        .filter_map(|portal| {
            let app = config.apps.get(&portal.settings.app)?;
            let every = portal
                .settings
                .renew_every
                .map_or(app.profile.renew_every, RenewEvery::from);
            Some(Configured {
                every: every.into(),
                token_url: portal.renewal_url(app),
                allowed_urls: urls.get(app.name.as_str()).cloned().unwrap_or_default(),
                binding: app.binding(portal.settings.domain.as_deref()),
                name: portal.name,
                settings: portal.settings,
            })
        })
        .collect()
}

/// Fingerprints of all clients, by which a change is detected.
#[must_use]
pub fn app_fingerprints(config: &Config) -> Vec<AppFingerprint> {
    config.apps.values().map(app_fingerprint).collect()
}

/// Fingerprint of a client's id, secret and token endpoint.
#[must_use]
pub fn app_fingerprint(app: &App) -> AppFingerprint {
    let secret = app
        .client_secret
        .as_ref()
        .map(|secret| Fingerprint::of(secret.expose().as_bytes()));
    let secret = secret.map(|secret| *secret.bytes()).unwrap_or_default();
    let mut what = format!("{}\n{}\n", app.client_id, app.profile.token_url).into_bytes();
    what.extend_from_slice(&secret);
    AppFingerprint {
        name: app.name.clone(),
        fingerprint: Fingerprint::of(&what),
        install: app.install_context(),
    }
}

/// Every token endpoint that the configuration may send to.
#[must_use]
pub fn token_urls(config: &Config) -> BTreeSet<String> {
    config.apps.values().flat_map(App::renewal_urls).collect()
}
