//! Loads files into a [`Config`]; reports every problem of every file at once.
//!
//! Must not start, create or change anything: `check` and `run` share this code.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::environment::Environment;
use super::network::Networks;
use super::problem::{ConfigError, ConfigErrors};
use super::source::{ConfigSource, Diagnostics, FileUse, Remarks, UsedFile};
use super::table::Table;
use refreshd_token_client::provider::Profile;

use super::{
    Config, DEFAULT_PATH, Paths, alerts, channels, demand, escalation, general, include, install,
    portals, provider,
};

/// A valid configuration with its warnings.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Valid, but probably not intended; logged as warnings.
    pub warnings: Vec<ConfigError>,
    /// Secrets that are probably damaged: errors for `check`, logged prominently at a start.
    pub damaged: Vec<ConfigError>,
    /// Secrets that could not be looked at.
    pub unchecked: Vec<ConfigError>,
    /// The files that it consists of and names, if they were asked for.
    pub files: Vec<UsedFile>,
}

/// Reads a configuration with its included files.
///
/// # Errors
/// Every problem of every file, by position. Files with syntax errors are checked up to the first one.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, ConfigErrors> {
    let main = ConfigSource::read(path).map_err(|problem| ConfigErrors(vec![problem]))?;
    load_source(&main, environment)
}

/// Reads the text of a configuration that is not written yet, as if it stood in that file.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    path: &Path,
    text: &str,
    environment: &Environment,
) -> Result<Loaded, ConfigErrors> {
    load_source(&ConfigSource::embedded(path, text), environment)
}

fn load_source(main: &ConfigSource, environment: &Environment) -> Result<Loaded, ConfigErrors> {
    let path = main.path();
    let mut report = Diagnostics::listing_files(environment.lists_files());
    let main_tree = main.parse(&mut report);
    report.uses(main.place(0, 0), FileUse::Configuration, path);
    let (sources, includes) = include::read(Table::root(main, &main_tree), &mut report);
    let trees: Vec<_> = sources
        .iter()
        .map(|source| source.parse(&mut report))
        .collect();
    for source in std::iter::once(main).chain(&sources) {
        source.warn_if_writable(&mut report);
    }
    let included = sources
        .iter()
        .zip(&trees)
        .map(|(source, tree)| Table::root(source, tree));
    let root = Table::root(main, &main_tree);
    let roots: Vec<_> = std::iter::once(root).chain(included).collect();

    include::check_keys(&roots, &mut report);
    let paths = general::paths(root, &mut report).unwrap_or_default();
    let log = general::log(root, &mut report);
    let http = general::http(root, &mut report);
    let install = install::listener(root, &mut report);
    let renewal = general::renewal(root, &mut report);
    let mut networks = Networks::read(root, environment, &mut report);
    let mut tables = |section| include::tables(&roots, section, &mut report);
    let [providers, apps, portals, channels] =
        ["providers", "apps", "portals", "channels"].map(&mut tables);
    if portals.is_empty() && !apps.iter().any(|app| app.has("install")) {
        report.warning(
            root.place,
            "no portals are configured: nothing is kept fresh",
        );
    }
    let used = apps
        .iter()
        .chain(&portals)
        .filter_map(|table| table.peek("provider"))
        .collect();
    let profiles = provider::profiles(&providers, &used, &mut report);
    let app_tables = apps;
    let (apps, portals) = portals::read(
        (&app_tables, &portals),
        &profiles,
        (environment, &mut networks),
        &mut report,
    );
    demand::check(root, &renewal, &apps, &portals, &mut report);
    install::check(root, &app_tables, &apps, &mut report);
    let alerts = alerts::alerts(root, &mut report);
    let (channels, names) = channels::channels(&channels, environment, &mut networks, &mut report);
    let ladder = escalation::ladder(&roots, &names, &mut report);
    let Remarks {
        warnings,
        damaged,
        unchecked,
        files,
    } = report.finish()?;
    let source = path.to_owned();
    let profiles = profiles
        .into_iter()
        .filter_map(|(name, profile)| Some((name, profile?)))
        .collect();
    let config = Config {
        source,
        includes,
        paths,
        log,
        http,
        install,
        renewal,
        network: networks.global(),
        alerts,
        profiles,
        apps,
        portals,
        ladder,
        channels,
    };
    Ok(Loaded {
        config,
        warnings,
        damaged,
        unchecked,
        files,
    })
}

/// A built-in profile without a configuration; `None` if the name is unknown.
#[must_use]
pub fn built_in_profile(name: &str) -> Option<Arc<Profile>> {
    let mut report = Diagnostics::default();
    provider::profiles(&[], &BTreeSet::from([name]), &mut report)
        .remove(name)
        .flatten()
}

/// Paths for commands that talk to a running daemon; other problems are ignored. `None` if the file has no such path. The
/// default file need not be readable by every user of the default socket; for any other file the default socket is not
/// assumed, since a mistyped name must not lead to it.
#[must_use]
pub fn load_paths(path: &Path) -> Option<Paths> {
    let Ok(source) = ConfigSource::read(path) else {
        return (path == Path::new(DEFAULT_PATH)).then(Paths::default);
    };
    let mut ignored = Diagnostics::default();
    let tree = source.parse(&mut ignored);
    general::paths(Table::root(&source, &tree), &mut ignored)
}
