//! `refreshd check --service`: whether the user that the unit names can read each file of the configuration and each secret, and
//! write where the daemon writes.
//!
//! Must not change anything: what is not usable is named with its owner, its mode and the command that mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use glob::Pattern;

use super::exit::{CommandError, Exit};
use super::findings::Findings;
use crate::adapters::access::{Obstacle, Want, obstacles, ownership};
use crate::adapters::directory::parent;
use crate::adapters::service_manager::{Account, FoundUnit, UNIT, account, unit};
use crate::adapters::state::beside;
use crate::config::{
    Config, ConfigError, ConfigErrors, CredentialSource, Environment, FileUse, Loaded,
};
use crate::domain::service_unit::{Sandbox, ServiceUnit, UnitCredential};

/// Where systemd looks for credentials that a unit names without a path.
const STORES: [&str; 3] = ["/etc/credstore", "/run/credstore", "/usr/lib/credstore"];
/// The same for encrypted ones.
const ENCRYPTED_STORES: [&str; 3] = [
    "/etc/credstore.encrypted",
    "/run/credstore.encrypted",
    "/usr/lib/credstore.encrypted",
];

/// What is added to the state's name for the files beside it.
const STATE_FILES: [&str; 6] = ["", "-wal", "-shm", "-journal", ".lock", ".generations"];

/// The service whose user is asked for.
pub(super) struct Service {
    unit: FoundUnit,
    account: Account,
}

/// A directory in which the daemon makes files.
struct Written<'c> {
    key: &'static str,
    path: &'c Path,
    /// What the key names: the directory itself, or a file in it.
    file: &'c Path,
    mode: &'static str,
}

impl Service {
    /// The service of this machine. This process must be able to act as its user.
    pub(super) async fn find(findings: &mut Findings) -> Result<Self, CommandError> {
        let unit = unit().await;
        if unit.settings.value("DynamicUser") == Some("yes") {
            let message = format!(
                "{UNIT} has DynamicUser=yes: its user is made at each start, so nobody can say now what it may read"
            );
            return Err(CommandError::new(Exit::Configuration, message));
        }
        if !unit.is_installed {
            findings.say(&format!(
                "systemd has no {UNIT} here: this is judged by the unit that the packages install"
            ));
        }
        let account = account(&unit.settings)
            .await
            .map_err(|why| CommandError::new(Exit::Configuration, why))?;
        let own = rustix::process::geteuid();
        if own.is_root() || own.as_raw() == account.uid {
            return Ok(Self { unit, account });
        }
        let message = format!(
            "only root, or the user {} itself, can see what that user may read: sudo refreshd check --service",
            account.user
        );
        Err(CommandError::new(Exit::NoPermission, message))
    }

    /// Who it is, for the summary.
    pub(super) fn who(&self) -> String {
        let Account { user, group, .. } = &self.account;
        format!("{UNIT} as user {user}, group {group}")
    }

    /// The unit's own file, if it is another than the one that is checked.
    pub(super) fn other_file(&self, checked: &Path) -> Option<String> {
        let own = self.unit.settings.configuration()?;
        let canonical =
            |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        (canonical(&own) != canonical(checked)).then(|| {
            format!(
                "{UNIT} is started with {}, not with {}",
                own.display(),
                checked.display()
            )
        })
    }

    /// Its environment: the variables and credentials of the unit.
    pub(super) fn environment(&self) -> Environment {
        let mut variables = self.unit.settings.variables();
        for file in self.unit.settings.environment_files() {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            variables.extend(ServiceUnit::parse(&assignments(&text)).variables());
        }
        Environment::of(variables)
            .with_credentials(self.credentials())
            .listing_files()
    }

    fn credentials(&self) -> BTreeMap<String, CredentialSource> {
        let in_stores = |stores: &[&str], name: &str| {
            let mut paths = stores.iter().map(|store| Path::new(store).join(name));
            paths.find(|path| path.is_file())
        };
        let mut found = BTreeMap::new();
        for pattern in self.unit.written.imported_credentials() {
            let Ok(pattern) = Pattern::new(&pattern) else {
                continue;
            };
            let stores = STORES.iter().map(|store| (store, true));
            let encrypted = ENCRYPTED_STORES.iter().map(|store| (store, false));
            for (store, is_plain) in stores.chain(encrypted) {
                for entry in std::fs::read_dir(store).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if pattern.matches(&name) && !found.contains_key(&name) {
                        let source = if is_plain {
                            CredentialSource::File(entry.path())
                        } else {
                            CredentialSource::Opaque
                        };
                        found.insert(name, source);
                    }
                }
            }
        }
        for (name, from) in self.unit.written.credentials() {
            let source = match from {
                UnitCredential::File(path) => CredentialSource::File(path),
                UnitCredential::Opaque => CredentialSource::Opaque,
                UnitCredential::Store => match in_stores(&STORES, &name) {
                    Some(path) => CredentialSource::File(path),
                    None if in_stores(&ENCRYPTED_STORES, &name).is_some() => {
                        CredentialSource::Opaque
                    }
                    None => CredentialSource::File(Path::new(STORES[0]).join(&name)),
                },
            };
            found.insert(name, source);
        }
        found
    }

    /// What this user cannot read or write.
    pub(super) fn problems(&self, loaded: &Loaded) -> Result<ConfigErrors, CommandError> {
        let mut wanted = Vec::new();
        let mut problems = Vec::new();
        for file in &loaded.files {
            let Ok(path) = std::fs::canonicalize(&file.path) else {
                // Of a file that is missing the configuration has said what is to be said.
                continue;
            };
            if let Sandbox::Hidden(setting) = self.unit.settings.sandbox(&path) {
                let message = format!(
                    "{} is not there for {UNIT} ({setting}): keep it in /etc/refreshd",
                    path.display()
                );
                problems.push(file.problem(message));
                continue;
            }
            let want = match file.of {
                FileUse::Directory => Want::List,
                FileUse::Configuration
                | FileUse::Secret
                | FileUse::Template
                | FileUse::Authorities => Want::Read,
            };
            wanted.push((path, want, Subject::Named(file)));
        }
        let (config, source) = (&loaded.config, &loaded.config.source);
        for written in written(config) {
            match self.directory(&written) {
                Ok(paths) => wanted.extend(
                    paths
                        .into_iter()
                        .map(|(path, want)| (path, want, Subject::Written(written.mode))),
                ),
                Err(message) => problems.push(ConfigError::of_file(source, message)),
            }
        }
        let asked: Vec<_> = wanted
            .iter()
            .map(|(path, want, _)| (path.clone(), *want))
            .collect();
        let found = obstacles(&self.account, &asked).map_err(|error| {
            let why = format!("cannot act as the user {}: {error}", self.account.user);
            CommandError::new(Exit::NoPermission, why)
        })?;
        let mut on_the_way = BTreeSet::new();
        for ((path, _, subject), obstacle) in wanted.iter().zip(found) {
            let Some(obstacle) = obstacle else { continue };
            let is_on_the_way = matches!(obstacle.want, Want::Pass | Want::List);
            if is_on_the_way && !on_the_way.insert(obstacle.path.clone()) {
                // One directory is in the way of everything in it.
                continue;
            }
            let problem = match subject {
                Subject::Named(file) => file.problem(self.unreadable(path, &obstacle)),
                Subject::Written(mode) => {
                    ConfigError::of_file(source, self.unwritable(path, &obstacle, mode))
                }
            };
            problems.push(problem);
        }
        problems.sort();
        problems.dedup_by(|one, other| one.message == other.message);
        Ok(ConfigErrors(problems))
    }

    /// What must be possible in a directory that the daemon writes; an error if the unit's sandbox forbids it.
    fn directory(&self, written: &Written<'_>) -> Result<Vec<(PathBuf, Want)>, String> {
        let path = absolute(written.path);
        let key = written.key;
        let shown = path.display();
        match self.unit.settings.sandbox(&path) {
            Sandbox::Open => {}
            Sandbox::Hidden(setting) => {
                return Err(format!(
                    "{key}: what {UNIT} writes to {shown} is seen by nobody else ({setting}): choose a directory below \
                     /var/lib/refreshd or /run/refreshd"
                ));
            }
            Sandbox::ReadOnly(setting) => {
                return Err(format!(
                    "{key}: {UNIT} cannot write to {shown} ({setting}): systemctl edit refreshd, and write [Service] and \
                     ReadWritePaths={shown}"
                ));
            }
        }
        // Before the service starts, systemd makes these, and gives them to its user with all that is in them.
        let own = self.unit.settings.own_directories();
        let own = own.iter().find(|own| path.starts_with(own));
        let is_given = |own: &PathBuf| {
            std::fs::metadata(own).map_or(true, |found| found.uid() != self.account.uid)
        };
        if own.is_some_and(is_given) {
            return Ok(Vec::new());
        }
        let Some(there) = path.ancestors().find(|path| path.exists()) else {
            return Ok(Vec::new());
        };
        let there = std::fs::canonicalize(there).unwrap_or_else(|_| there.to_owned());
        let mut wanted = vec![(there.clone(), Want::Fill)];
        if key == "state" && there == path {
            // A command of root's may have made them.
            let files = STATE_FILES.map(|suffix| beside(written.file, suffix));
            let files = files.into_iter().filter(|file| file.is_file());
            wanted.extend(files.map(|file| (file, Want::Change)));
        }
        Ok(wanted)
    }

    fn unreadable(&self, path: &Path, obstacle: &Obstacle) -> String {
        let Account { user, group, .. } = &self.account;
        let (shown, at) = (path.display(), obstacle.path.display());
        let about = ownership(&obstacle.path).unwrap_or_else(|| "not to be looked at".to_owned());
        let is_private = ["/root", "/home", "/run/user"]
            .iter()
            .any(|root| obstacle.path.starts_with(root));
        match obstacle.want {
            Want::Pass if is_private => format!(
                "the user {user} cannot read {shown}: it cannot enter {at} ({about}): keep the file in /etc/refreshd: install -g \
                 {group} -m 640 {shown} /etc/refreshd/"
            ),
            Want::Pass | Want::List => format!(
                "the user {user} cannot read {shown}: it cannot enter {at} ({about}): chgrp {group} {at} && chmod g+rx {at}"
            ),
            Want::Read | Want::Change | Want::Fill => format!(
                "the user {user} cannot read {shown} ({about}): chgrp {group} {shown} && chmod 640 {shown}"
            ),
        }
    }

    fn unwritable(&self, path: &Path, obstacle: &Obstacle, mode: &str) -> String {
        let Account { user, group, .. } = &self.account;
        let (shown, at) = (path.display(), obstacle.path.display());
        let about = ownership(&obstacle.path).unwrap_or_else(|| "not to be looked at".to_owned());
        match obstacle.want {
            Want::Pass if obstacle.path != path => format!(
                "the user {user} cannot write to {shown}: it cannot enter {at} ({about}): chmod o+x {at}"
            ),
            Want::Change => format!(
                "the user {user} cannot change {shown} ({about}): chown {user}:{group} {shown} && chmod 600 {shown}"
            ),
            _ => format!(
                "the user {user} cannot write to {shown} ({about}): chown {user}:{group} {shown} && chmod {mode} {shown}"
            ),
        }
    }
}

/// What a problem is about.
enum Subject<'f> {
    /// A file that the configuration names.
    Named(&'f crate::config::UsedFile),
    /// What the daemon writes, and the mode of its directory.
    Written(&'static str),
}

fn written(config: &Config) -> [Written<'_>; 3] {
    [
        Written {
            key: "state",
            path: parent(&config.paths.state),
            file: &config.paths.state,
            mode: "700",
        },
        Written {
            key: "token_dir",
            path: &config.paths.token_dir,
            file: &config.paths.token_dir,
            mode: "751",
        },
        Written {
            key: "control_socket",
            path: parent(&config.paths.control_socket),
            file: &config.paths.control_socket,
            mode: "751",
        },
    ]
}

/// A path as the service sees it; its own directory is `/`.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The lines of a file of variables as values of `Environment=`.
fn assignments(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .map(|line| match line.split_once('=') {
            // A value in quotes is one word already.
            Some((_, value)) if !value.starts_with(['"', '\'']) => {
                format!("Environment=\"{}\"\n", line.replace('"', "\\\""))
            }
            _ => format!("Environment={line}\n"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_home_is_to_be_moved_and_not_opened_to_the_service() {
        let service = Service {
            unit: FoundUnit {
                settings: ServiceUnit::default(),
                written: ServiceUnit::default(),
                is_installed: false,
            },
            account: Account {
                user: "refreshd".to_owned(),
                group: "refreshd".to_owned(),
                uid: 990,
                gid: 990,
                groups: Vec::new(),
            },
        };
        let message = |at: &str, want: Want| {
            let obstacle = Obstacle {
                path: at.into(),
                want,
            };
            service.unreadable(Path::new("/root/crm.secret"), &obstacle)
        };
        let moved = message("/root", Want::Pass);
        assert!(
            moved.contains(
                "keep the file in /etc/refreshd: install -g refreshd -m 640 /root/crm.secret"
            ),
            "{moved}"
        );
        assert!(!moved.contains("chmod"), "{moved}");
        let opened = message("/root/crm.secret", Want::Read);
        assert!(
            opened.ends_with("chgrp refreshd /root/crm.secret && chmod 640 /root/crm.secret"),
            "{opened}"
        );
    }

    #[test]
    fn a_file_of_variables_is_read_as_systemd_reads_it() {
        let text = "# a comment\nA=one two\nB=\"three four\"\n\nC=\n";
        let variables = ServiceUnit::parse(&assignments(text)).variables();
        assert_eq!(
            [&variables["A"], &variables["B"], &variables["C"]],
            ["one two", "three four", ""]
        );
    }
}
