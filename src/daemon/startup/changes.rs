//! What a reload changes, by name.
//!
//! Must not keep a reload from its end: where the state cannot be listed, the counts remain.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::adapters::state::{PortalChanges, State};
use crate::config::{Config, ConfigFinding, PendingRestart};
use crate::daemon::configured::app_fingerprint;
use crate::domain::portal::Portal;

/// Names in one list; the count goes on.
const MAX_NAMES: usize = 1000;

/// What a reload did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
// A daemon of an older version says only that it reloaded.
#[serde(default)]
pub struct Reloaded {
    /// The file that was read.
    pub config: PathBuf,
    /// Number of configured portals, without those of installs.
    pub portals: usize,
    /// Portals that were not configured before.
    pub added: ChangedNames,
    /// Portals with other settings than before.
    pub changed: ChangedNames,
    /// Portals that are not configured any more.
    pub dropped: ChangedNames,
    /// Apps that are new, or have other settings or another secret, or are not configured any more.
    pub apps: Vec<String>,
    /// Keys that wait for a restart.
    pub restart: Vec<PendingRestart>,
    /// What is probably not intended.
    pub findings: Vec<ConfigFinding>,
}

/// Some names, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedNames {
    /// How many.
    pub count: usize,
    /// The first of them by name.
    pub names: Vec<String>,
}

impl ChangedNames {
    fn of(mut names: Vec<String>, count: usize) -> Self {
        names.sort();
        let count = count.max(names.len());
        names.truncate(MAX_NAMES);
        Self { count, names }
    }
}

/// The configured portals at one time, each with a hash of its settings.
pub(crate) struct Listed(Option<HashMap<String, u64>>);

impl Listed {
    /// Lists the state's portals under the configuration by which they were reconciled.
    pub(crate) async fn now(state: &State, config: &Config) -> Self {
        let mut portals = HashMap::new();
        let mut pages = state.portals();
        loop {
            match pages.next().await {
                Ok(Some(page)) => portals.extend(page.portals.iter().filter_map(|portal| {
                    Some((portal.name.to_string(), settings_hash(portal, config)?))
                })),
                Ok(None) => return Self(Some(portals)),
                Err(_) => return Self(None),
            }
        }
    }
}

/// Hash of a portal's settings; `None` if it is not configured.
fn settings_hash(portal: &Portal, config: &Config) -> Option<u64> {
    let settings = portal.settings.as_ref()?;
    let every = config
        .apps
        .get(&settings.app)
        .map(|app| &app.profile.renew_every);
    let mut hash = DefaultHasher::new();
    serde_json::to_string(settings).ok().hash(&mut hash);
    format!("{every:?}").hash(&mut hash);
    portal.config_url.hash(&mut hash);
    portal
        .binding
        .map(|binding| *binding.bytes())
        .hash(&mut hash);
    Some(hash.finish())
}

/// The portals that were added, changed and dropped. The counts are the state's where it could not be listed.
pub(crate) fn portals(
    before: &Listed,
    after: &Listed,
    counted: &PortalChanges,
) -> [ChangedNames; 3] {
    let (Listed(Some(before)), Listed(Some(after))) = (before, after) else {
        return [counted.added, counted.changed, counted.dropped]
            .map(|count| ChangedNames::of(Vec::new(), count));
    };
    let names = |of: &HashMap<String, u64>, wanted: &dyn Fn(&String, &u64) -> bool| {
        let found = of.iter().filter(|(name, hash)| wanted(name, hash));
        ChangedNames::of(found.map(|(name, _)| name.clone()).collect(), 0)
    };
    [
        names(after, &|name, _| !before.contains_key(name)),
        names(after, &|name, hash| {
            before.get(name).is_some_and(|was| was != hash)
        }),
        names(before, &|name, _| !after.contains_key(name)),
    ]
}

/// The apps that differ, without the clients of single portals.
pub(crate) fn apps(before: &Config, after: &Config) -> Vec<String> {
    let names: BTreeSet<_> = before.apps.keys().chain(after.apps.keys()).collect();
    let seen = |config: &Config, name: &String| {
        let app = config.apps.get(name)?;
        let settings = (&app.redirect_uri, &app.scope, &app.install);
        Some((
            *app_fingerprint(app).fingerprint.bytes(),
            format!("{:?} {settings:?}", app.profile),
            app.network.settings().clone(),
        ))
    };
    let differ = |name: &&String| !name.contains(' ') && seen(before, name) != seen(after, name);
    names.into_iter().filter(differ).cloned().collect()
}
