//! `refreshd check`: every problem of a configuration at once, and other conditions that would stop the daemon.
//!
//! Must not change anything: it inspects files and directories, and contacts servers only with `--online`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;

use super::check_service::Service;
use super::client::{Client, InForce};
use super::common::Common;
use super::connect::{cannot_run, daemon_of_file};
use super::exit::{CommandError, Exit};
use super::findings::Findings;
use crate::adapters::directory::{Directory, Trust, UntrustedDirectory, parent};
use crate::adapters::state::{self, CheckOutcome, Header, StateCheck, StateError};
use crate::adapters::token_files::TokenFiles;
use crate::config::{
    self, Config, ConfigError, ConfigErrors, ConfigFinding, Environment, FindingSeverity,
    PortalConfig, pending_restart,
};
use crate::daemon::{InProcess, RunError, ask_issuers, descriptor_shortage, token_space_shortage};
use crate::domain::error_chain::error_chain;
use crate::domain::name::{PortalName, some};
use crate::domain::portal::Kind;
use refreshd_http::Network;
use refreshd_time::clock::Clock;
use refreshd_token_client::authorization_server::AuthorizationServer;
use refreshd_token_client::reply::redirect_target;

/// Time limit for reading the state: a million portals take less on a current disk.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before a state that changed during the check is read again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(
    after_help = "--json prints {\"version\": 1, \"ok\": …, \"config\": …, \"portals\": …, \"apps\": …, \"findings\": [{\"severity\": \"error\" | \"warning\" | \"unchecked\", \"file\", \"line\", \"column\", \"message\"}]}; what is not about a place in a file has null there.\n\nExamples:\n  refreshd check\n  sudo refreshd check --service\n  refreshd check --config config/example.toml --without-secrets --json\n  refreshd check --online\n\nExit codes: 0 no problems, 64 usage, 69 a server does not answer, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// Also check that every authorization server answers.
    #[arg(long)]
    online: bool,
    /// Judge as the service's user: whether it can read each file and secret, and write where the daemon writes.
    #[arg(long)]
    service: bool,
    /// Check the configuration alone, on a machine without its secrets: those that are missing are listed.
    #[arg(long, conflicts_with_all = ["online", "service"])]
    without_secrets: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let mut findings = Findings::new(arguments.json);
    let done = check(common, arguments, &mut findings).await;
    findings.end(&common.config, done)
}

async fn check(
    common: &Common,
    arguments: &Arguments,
    findings: &mut Findings,
) -> Result<Exit, CommandError> {
    let service = if arguments.service {
        Some(Service::find(findings).await?)
    } else {
        None
    };
    let environment = match &service {
        Some(service) => service.environment(),
        None if arguments.without_secrets => Environment::of_process().without_secrets(),
        None => Environment::of_process(),
    };
    let mut loaded = config::load(&common.config, &environment)
        .map_err(|problems| findings.refuse(&problems))?;
    findings.count(&loaded.config);
    let at = |severity| move |problem: &ConfigError| ConfigFinding::at(severity, problem);
    for finding in loaded.warnings.iter().map(at(FindingSeverity::Warning)) {
        findings.tell(finding);
    }
    for finding in loaded.unchecked.iter().map(at(FindingSeverity::Unchecked)) {
        findings.tell(finding);
    }
    let mut problems = std::mem::take(&mut loaded.damaged);
    if let Some(service) = &service {
        if let Some(other) = service.other_file(&common.config) {
            findings.warn(other);
        }
        problems.extend(service.problems(&loaded)?.0);
    }
    if !problems.is_empty() {
        return Err(findings.refuse(&ConfigErrors(problems)));
    }
    let (unchecked, mut config) = (loaded.unchecked.len(), loaded.config);
    if arguments.without_secrets {
        findings.say(&format!(
            "{}: no problems; {}, {}; {} not checked",
            common.config.display(),
            count(config.portals.len(), "portal"),
            count(config.apps.len(), "app"),
            count(unchecked, "secret"),
        ));
        return Ok(Exit::Done);
    }
    let path = &config.paths.state;
    let version = match state::check_files(path).and_then(|()| state::inspect(path)) {
        Ok(Header::Absent) => "is not there yet".to_owned(),
        Ok(Header::Version(version)) => {
            format!("is schema version {version}{}", read_all(path).await?)
        }
        Err(error) if stops_the_daemon(path, &error) => {
            return Err(cannot_run(&RunError::State(error)));
        }
        Err(error) => format!("could not be looked at ({})", error_chain(&error)),
    };
    reject_foreign_directories(&config)?;
    let old = old_or_lost(&config).await;
    let restart = waiting_for_a_restart(common, &config).await;
    let verdict = if old.is_some() {
        "no problems of the configuration"
    } else {
        "no problems"
    };
    for warning in directories(&config)
        .into_iter()
        .chain(state::oddities(path))
        .chain(old)
        .chain(restart)
        .chain(descriptor_shortage(0))
        .chain(token_space_shortage(&config))
    {
        findings.warn(warning);
    }
    let whose = service.map_or_else(String::new, |service| format!(" for {}", service.who()));
    findings.say(&format!(
        "{}: {verdict}{whose}; {}, {}; the state {} {version}",
        common.config.display(),
        count(config.portals.len(), "portal"),
        count(config.apps.len(), "app"),
        config.paths.state.display(),
    ));
    if arguments.online {
        online(&mut config, findings).await
    } else {
        Ok(Exit::Done)
    }
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Reads the whole state within the limit; returns a description. Damage is an error.
async fn read_all(path: &Path) -> Result<&'static str, CommandError> {
    let clock = Clock::system();
    let began = clock.tick();
    let damaged = |error| Err(cannot_run(&RunError::State(error)));
    loop {
        let check = match StateCheck::begin(path) {
            Ok(Some(check)) => check,
            Err(error) if error.is_damage() => return damaged(error),
            Ok(None) | Err(_) => return Ok(", and could not be read to its end"),
        };
        let interrupt = check.interrupt();
        let mut checking = JoinSet::new();
        checking.spawn_blocking(move || check.run());
        let left = READ_TIMEOUT.saturating_sub(clock.elapsed(began));
        let done = match clock.within(left, checking.join_next()).await {
            Some(done) => done,
            None => {
                interrupt.interrupt();
                checking.join_next().await
            }
        };
        match done {
            Some(Ok(Ok(CheckOutcome::Sound))) => return Ok(", and whole"),
            Some(Ok(Err(error))) if error.is_damage() => return damaged(error),
            Some(Ok(Ok(CheckOutcome::Changing))) if clock.elapsed(began) < READ_TIMEOUT => {
                clock.sleep(RETRY_AFTER).await;
            }
            _ => return Ok(", and was not read to its end"),
        }
    }
}

/// Warning if a start would find the state older than its traces, or without grants of which there are traces. `None` also where
/// that cannot be seen: a running daemon has the state and has reported it, or this user may not read it.
async fn old_or_lost(config: &Config) -> Option<String> {
    let copy = InProcess::open_read_only(config.clone()).await.ok()?;
    let client = Client::in_process(copy);
    let listed = client.list(None).await;
    client.close().await;
    let portals = listed.ok()?.into_iter();
    let held: Vec<_> = portals
        .filter(|portal| portal.phase == Kind::OldState)
        .filter_map(|portal| PortalName::parse(&portal.portal).ok())
        .collect();
    (!held.is_empty()).then(|| {
        format!(
            "state: {} is older than what was published from it, or lacks grants that there were before, as when its volume is \
             not mounted or a backup was restored; nothing will be sent for {}: {}. If there is a newer state, put that back; if \
             not, refreshd status shows the action for each portal",
            config.paths.state.display(),
            count(held.len(), "portal"),
            some(&held).join(", ")
        )
    })
}

/// The keys whose values differ from those of the running daemon, and that a reload does not change. None also where that cannot
/// be seen: this user may not use the control socket.
async fn waiting_for_a_restart(common: &Common, config: &Config) -> Vec<String> {
    let Ok(Some(client)) = daemon_of_file(common).await else {
        return Vec::new();
    };
    let Ok(InForce {
        config: file,
        restart_values,
    }) = client.in_force().await
    else {
        return Vec::new();
    };
    let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let whose = if canonical(&file) == canonical(&common.config) {
        String::new()
    } else {
        format!(" (its own file is {})", file.display())
    };
    let pending = pending_restart(&restart_values, config).into_iter();
    pending.map(|key| format!("{key}{whose}")).collect()
}

/// Returns whether the daemon would not start for the same reason. `check` may run as another user: a permission error stops it
/// only if this user owns the state's directory.
fn stops_the_daemon(state: &Path, error: &StateError) -> bool {
    let is_own = || {
        std::fs::metadata(parent(state))
            .is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw())
    };
    match error {
        StateError::Newer { .. } | StateError::NotOurs { .. } | StateError::Trap { .. } => true,
        StateError::Denied { .. } | StateError::File { .. } => is_own(),
        _ => false,
    }
}

/// Rejects directories of other users, with which the daemon would not start. `check` may run as another user: the owner of the
/// state counts as the daemon's user.
fn reject_foreign_directories(config: &Config) -> Result<(), CommandError> {
    let trust = Trust::by_configuration(&config.source).and_owner_of(&config.paths.state);
    for (what, path) in [
        ("state", parent(&config.paths.state)),
        ("token_dir", config.paths.token_dir.as_path()),
        ("control_socket", parent(&config.paths.control_socket)),
    ] {
        match Directory::open_trusted(path, &trust, None) {
            Ok(_) | Err(UntrustedDirectory::Io { .. }) => {}
            Err(refused) => {
                return Err(CommandError::new(
                    Exit::Configuration,
                    format!("{what}: {}", error_chain(&refused)),
                ));
            }
        }
    }
    Ok(())
}

/// Directories that the daemon would create, or that have the wrong permissions.
fn directories(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for (what, path) in [
        ("state", config.paths.state.parent()),
        ("control_socket", config.paths.control_socket.parent()),
        ("token_dir", Some(config.paths.token_dir.as_path())),
    ] {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            continue;
        };
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => warnings.push(format!("{what}: {} is not a directory", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                warnings.push(format!(
                    "{what}: the directory {} does not exist; the daemon makes it if it may",
                    path.display()
                ));
            }
            Err(error) => warnings.push(format!(
                "{what}: cannot look at {}: {error}",
                path.display()
            )),
        }
    }
    // `check` may run as another user.
    let trust = Trust::by_configuration(&config.source).and_owner_of(&config.paths.state);
    let foreign = TokenFiles::new(&config.paths.token_dir, trust).foreign();
    let is_configured =
        |name: &PortalName| config.portals.iter().any(|portal| portal.name == *name);
    let foreign = foreign.into_iter().filter(|(name, _)| is_configured(name));
    warnings.extend(foreign.map(|(_, text)| format!("token_dir: {text}")));
    warnings
}

async fn online(config: &mut Config, findings: &mut Findings) -> Result<Exit, CommandError> {
    let server = AuthorizationServer::new(Arc::clone(&config.network)).map_err(|error| {
        CommandError::new(
            Exit::Unavailable,
            format!("cannot set up TLS: {}", error_chain(&error)),
        )
    })?;
    let mut exit = Exit::Done;
    for (issuer, result) in ask_issuers(config, &server).await {
        match result {
            Ok(way) => findings.say(&format!("{issuer}: serves its metadata{way}")),
            Err(why) => {
                let message = format!("{issuer}: its metadata is not known: {why}");
                findings.tell(ConfigFinding::of_machine(FindingSeverity::Error, message));
                exit = Exit::Unavailable;
            }
        }
    }
    let of = |portal: &PortalConfig| {
        let app = config.apps.get(&portal.settings.app)?;
        Some((portal.renewal_url(app), &app.network))
    };
    let urls = config.portals.iter().filter_map(of);
    let mut asked: BTreeMap<String, Vec<&Arc<Network>>> = BTreeMap::new();
    for (url, network) in urls.filter(|(url, _)| !url.is_empty()) {
        let networks = asked.entry(url).or_default();
        if !networks.iter().any(|known| Arc::ptr_eq(known, network)) {
            networks.push(network);
        }
    }
    let each = |(url, networks): (String, Vec<_>)| {
        networks
            .into_iter()
            .map(move |network| (url.clone(), network))
    };
    for (url, network) in asked.into_iter().flat_map(each) {
        let way = network.way_to(&url);
        match server.over(network).probe(&url).await {
            Ok((status, location)) => {
                let leads = location.and_then(|location| redirect_target(&url, &location));
                let leads = leads
                    .map(|leads| format!(", a redirect {leads}"))
                    .unwrap_or_default();
                findings.say(&format!(
                    "{url}: answers{way} (status {status} to HEAD{leads})"
                ));
            }
            Err(why) => {
                let message = format!("{url}: does not answer{way}: {why}");
                findings.tell(ConfigFinding::of_machine(FindingSeverity::Error, message));
                exit = Exit::Unavailable;
            }
        }
    }
    Ok(exit)
}
