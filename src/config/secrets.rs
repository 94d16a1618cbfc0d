//! Secrets from four sources: inline, a file, a variable, a systemd credential.
//!
//! Must not show a secret, nor a value that may be one under the wrong key.

use std::fmt;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::damage::{Alphabet, SecretDamage, damage};
use super::environment::{CredentialSource, Environment};
use super::problem::{shown, shown_path};
use super::regular_file::{self, FileReadError};
use super::source::{Diagnostics, FileUse, SourceLocation};
use super::table::{Table, TextValue};
use refreshd_secrets::{ChannelSecret, ClientSecret};
use refreshd_token_client::body_decoding::text_of_file;

/// Maximum size of a secret.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The keys of one secret.
pub(super) struct SecretKeys {
    inline: &'static str,
    file: &'static str,
    variable: &'static str,
    credential: &'static str,
    alphabet: Alphabet,
    /// Stands for a secret that was not read: it has the form of one.
    placeholder: &'static str,
    /// Whether a value holds a secret: some do only in part of their forms.
    holds_secret: fn(&str) -> bool,
    /// All four.
    pub(super) all: [&'static str; 4],
}

macro_rules! secret_keys {
    ($name:ident, $key:literal, $alphabet:ident, $placeholder:literal) => {
        secret_keys!($name, $key, $alphabet, $placeholder, |_| true);
    };
    ($name:ident, $key:literal, $alphabet:ident, $placeholder:literal, $holds_secret:expr) => {
        pub(super) const $name: SecretKeys = SecretKeys {
            inline: $key,
            file: concat!($key, "_file"),
            variable: concat!($key, "_env"),
            credential: concat!($key, "_credential"),
            alphabet: Alphabet::$alphabet,
            placeholder: $placeholder,
            holds_secret: $holds_secret,
            all: [
                $key,
                concat!($key, "_file"),
                concat!($key, "_env"),
                concat!($key, "_credential"),
            ],
        };
    };
}

secret_keys!(CLIENT_SECRET, "client_secret", Client, "not-read");
secret_keys!(URL, "url", Graphic, "https://not-read.invalid/");
secret_keys!(BOT_TOKEN, "bot_token", Graphic, "0:not-read");
secret_keys!(
    ROUTING_KEY,
    "routing_key",
    Graphic,
    "00000000000000000000000000000000"
);
secret_keys!(PASSWORD, "password", Any, "not-read");
secret_keys!(AUTHORIZATION, "authorization", Header, "Bearer not-read");
secret_keys!(PROXY, "proxy", Any, "http://not-read.invalid", |address| {
    address.contains('@')
});

/// Value of a secret's keys.
pub(super) enum FoundSecret {
    /// Not given.
    Nothing,
    /// Given and not usable; reported.
    Faulty,
    /// The secret.
    Secret(SecretString),
}

impl SecretKeys {
    /// Reads the secret of a table.
    pub(super) fn read(
        &self,
        table: Table<'_>,
        environment: &Environment,
        report: &mut Diagnostics,
    ) -> FoundSecret {
        let given: Vec<_> = self.all.iter().filter(|key| table.has(key)).collect();
        let key = match given.as_slice() {
            [] => return FoundSecret::Nothing,
            [key] => **key,
            [first, .., last] => {
                let place = table.place_of(last).unwrap_or(table.place);
                report.problem(
                    place,
                    format!("`{first}` and `{last}` {table} mean the same; keep one of them"),
                );
                return FoundSecret::Faulty;
            }
        };
        let Some(text) = table.text(report, key) else {
            return FoundSecret::Faulty;
        };
        let secret = if key == self.inline {
            if (self.holds_secret)(text.value) {
                report.holds_secret(text.place);
            }
            Ok(SecretString::from(text.value))
        } else if key == self.file {
            let named = named_file(table, text);
            report.uses(text.place, FileUse::Secret, &named.path);
            file(&named)
        } else if key == self.variable {
            variable(text, environment)
        } else {
            credential(text, environment)
        };
        match secret {
            Ok(secret) => match damage(secret.expose_secret(), self.alphabet) {
                Some(SecretDamage {
                    what,
                    hopeless: true,
                }) => {
                    report.problem(text.place, format!("`{key}`: the secret {what}"));
                    FoundSecret::Faulty
                }
                Some(SecretDamage {
                    what,
                    hopeless: false,
                }) => {
                    report.damaged(text.place, format!("`{key}`: the secret {what}"));
                    FoundSecret::Secret(secret)
                }
                None => FoundSecret::Secret(secret),
            },
            Err(unread) if unread.is_no_problem(environment) => {
                report.unchecked(text.place, format!("`{key}`: {}", unread.message));
                FoundSecret::Secret(SecretString::from(self.placeholder))
            }
            Err(unread) => {
                report.problem(text.place, format!("`{key}`: {}", unread.message));
                FoundSecret::Faulty
            }
        }
    }

    /// As [`SecretKeys::read`], for a required secret.
    pub(super) fn require(
        &self,
        table: Table<'_>,
        environment: &Environment,
        report: &mut Diagnostics,
    ) -> FoundSecret {
        let found = self.read(table, environment, report);
        if matches!(found, FoundSecret::Nothing) {
            let Self {
                inline,
                file,
                variable,
                credential,
                ..
            } = self;
            let others = format!("`{variable}`, `{credential}` or `{inline}`");
            report.missing(
                table.place,
                format!("a secret is missing {table}: write `{file}` (or {others})"),
            );
        }
        found
    }

    /// A channel's secret; `Err` if it is given and not usable, which is reported.
    pub(super) fn of_channel(
        &self,
        table: Table<'_>,
        environment: &Environment,
        report: &mut Diagnostics,
    ) -> Result<Option<ChannelSecret>, Reported> {
        match self.read(table, environment, report) {
            FoundSecret::Nothing => Ok(None),
            FoundSecret::Faulty => Err(Reported),
            FoundSecret::Secret(secret) => ChannelSecret::new(secret.expose_secret())
                .map(Some)
                .ok_or(Reported),
        }
    }

    /// As [`SecretKeys::of_channel`], for a required secret.
    pub(super) fn required_of_channel(
        &self,
        table: Table<'_>,
        environment: &Environment,
        report: &mut Diagnostics,
    ) -> Result<ChannelSecret, Reported> {
        match self.require(table, environment, report) {
            FoundSecret::Nothing | FoundSecret::Faulty => Err(Reported),
            FoundSecret::Secret(secret) => {
                ChannelSecret::new(secret.expose_secret()).ok_or(Reported)
            }
        }
    }

    /// Source from which the secret can be read again; `None` if it is inline or in a variable, which does not change.
    pub(super) fn source(
        &self,
        table: Table<'_>,
        environment: &Environment,
    ) -> Option<SecretSource> {
        if let Some(file) = table.peek(self.file) {
            return Some(SecretSource {
                path: table.source().directory().join(file),
                guarded: true,
            });
        }
        let credential = table.peek(self.credential)?;
        let directory = environment.credentials_directory()?;
        Some(SecretSource {
            path: directory.join(credential),
            guarded: false,
        })
    }

    /// The key that is given, and its position.
    pub(super) fn given<'d>(&self, table: Table<'d>) -> (&'static str, SourceLocation<'d>) {
        let key = self
            .all
            .into_iter()
            .find(|key| table.has(key))
            .unwrap_or(self.inline);
        (key, table.place_of(key).unwrap_or(table.place))
    }
}

/// Source of a client secret: read at a start and whenever the server refuses the client.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretSource {
    path: PathBuf,
    guarded: bool,
}

impl SecretSource {
    /// Reads it again.
    ///
    /// # Errors
    /// Why it is not usable, without the path, which may be a secret under the wrong key.
    pub fn read(&self) -> Result<ReloadedSecret, String> {
        let secret = read_file(&self.path, self.guarded)
            .map_err(|unusable| format!("its file {unusable}"))?;
        let damage = damage(secret.expose_secret(), CLIENT_SECRET.alphabet);
        if let Some(SecretDamage {
            what,
            hopeless: true,
        }) = damage
        {
            return Err(format!("the secret in its file {what}"));
        }
        let secret = ClientSecret::new(secret.expose_secret())
            .ok_or_else(|| "its file is empty".to_owned())?;
        Ok(ReloadedSecret {
            secret,
            damage: damage.map(|damage| damage.what),
        })
    }
}

/// A client secret that was read again.
#[derive(Debug)]
pub struct ReloadedSecret {
    /// The secret.
    pub secret: ClientSecret,
    /// Damage, after the words "the secret".
    pub damage: Option<&'static str>,
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretSource(…)")
    }
}

/// What is damaged about a client secret, after the words "the secret".
#[must_use]
pub fn client_secret_damage(secret: &str) -> Option<String> {
    damage(secret, Alphabet::Client).map(|found| found.what.to_owned())
}

/// A problem that was reported.
#[derive(Debug)]
pub(super) struct Reported;

/// A secret that was not read.
struct Unread {
    why: WhyUnread,
    message: String,
}

/// Why a secret was not read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhyUnread {
    /// It is not on this machine, or not for this user.
    Absent,
    /// Only systemd can read it.
    Opaque,
    /// What is there is no secret.
    Faulty,
}

impl Unread {
    fn new(why: WhyUnread, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { why, message }
    }

    const fn is_no_problem(&self, environment: &Environment) -> bool {
        match self.why {
            WhyUnread::Opaque => true,
            WhyUnread::Absent => environment.lists_missing(),
            WhyUnread::Faulty => false,
        }
    }
}

/// The file of a portal's first refresh token; the token is read when it is needed. A spent one is deleted or emptied, so a
/// missing file is only a warning.
pub(super) fn first_token_file(
    table: Table<'_>,
    key: &str,
    text: TextValue<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Option<PathBuf> {
    let named = named_file(table, text);
    let (name, path) = (&named.name, &named.path);
    report.uses(text.place, FileUse::Secret, path);
    match read_file(path, true) {
        Ok(_) => {}
        Err(unusable @ (UnusableSecret::Missing(_) | UnusableSecret::Denied(_)))
            if environment.lists_missing() =>
        {
            report.unchecked(text.place, format!("`{key}`: {name} {unusable}"));
        }
        Err(unusable @ (UnusableSecret::Missing(_) | UnusableSecret::Empty)) => {
            let what = if matches!(unusable, UnusableSecret::Empty) {
                "is empty"
            } else {
                "does not exist"
            };
            let portal = shown(table.name().value);
            let needed = format!("it is only needed while the state has no grant for {portal}");
            report.warning(text.place, format!("`{key}`: {name} {what}; {needed}"));
            // The daemon later shows the file's name in messages.
            if named.may_be_secret {
                return None;
            }
        }
        // A file that others can read must be protected first.
        Err(unusable @ UnusableSecret::Open(_)) => {
            report.problem(text.place, format!("`{key}`: {name} {unusable}"));
            return None;
        }
        // Other errors concern this portal only: the others go on, and `status` shows the error.
        Err(unusable) => {
            report.damaged(text.place, format!("`{key}`: {name} {unusable}"));
            if named.may_be_secret {
                return None;
            }
        }
    }
    Some(named.path)
}

/// A file, and whether messages may name it.
pub(super) struct NamedFile {
    pub(super) path: PathBuf,
    pub(super) name: String,
    /// Without a slash or a dot, or as an address, it may be the secret itself, under the wrong key.
    may_be_secret: bool,
}

pub(super) fn named_file(table: Table<'_>, text: TextValue<'_>) -> NamedFile {
    let path = table.source().directory().join(text.value);
    let may_be_secret = !text.value.contains(['/', '.']) || text.value.contains("://");
    let name = if may_be_secret {
        None
    } else {
        shown_path(&path)
    };
    let name = name.unwrap_or_else(|| "the file".to_owned());
    NamedFile {
        path,
        name,
        may_be_secret,
    }
}

fn file(NamedFile { path, name, .. }: &NamedFile) -> Result<SecretString, Unread> {
    read_file(path, true).map_err(|unusable| unusable.of(name))
}

fn variable(text: TextValue<'_>, environment: &Environment) -> Result<SecretString, Unread> {
    let advice = "write the variable's name here, and its value in the environment of the daemon";
    match environment.variable(text.value) {
        Ok(value) if value.trim().is_empty() => Err(Unread::new(
            WhyUnread::Absent,
            "the environment variable of that name is empty",
        )),
        Ok(value) => Ok(SecretString::from(value)),
        Err(std::env::VarError::NotPresent) => Err(Unread::new(
            WhyUnread::Absent,
            format!("no environment variable has that name; {advice}"),
        )),
        Err(std::env::VarError::NotUnicode(_)) => Err(Unread::new(
            WhyUnread::Faulty,
            "the environment variable of that name is not UTF-8",
        )),
    }
}

fn credential(text: TextValue<'_>, environment: &Environment) -> Result<SecretString, Unread> {
    if text.value.contains(['/', '\0']) || text.value.starts_with('.') {
        return Err(Unread::new(
            WhyUnread::Faulty,
            "a credential is named without slashes and leading dots",
        ));
    }
    if let Some(credentials) = environment.unit_credentials() {
        return match credentials.get(text.value) {
            // The service manager reads it as root, whatever its mode is.
            Some(CredentialSource::File(path)) => read_file(path, false).map_err(|unusable| {
                unusable.of(&format!("{}, from which systemd takes it,", path.display()))
            }),
            Some(CredentialSource::Opaque) => Err(Unread::new(
                WhyUnread::Opaque,
                "the unit has a credential of that name that only systemd can read",
            )),
            None => Err(Unread::new(
                WhyUnread::Absent,
                "the unit has no credential of that name: systemctl edit refreshd, and write [Service] and \
                 LoadCredential=NAME:FILE",
            )),
        };
    }
    let Some(directory) = environment.credentials_directory() else {
        return Err(Unread::new(
            WhyUnread::Absent,
            "$CREDENTIALS_DIRECTORY is not set: start it by systemd with LoadCredential=",
        ));
    };
    // The service manager creates these with a mode of its own.
    read_file(&directory.join(text.value), false).map_err(|unusable| {
        unusable.of(&format!(
            "the credential of that name in {}",
            directory.display()
        ))
    })
}

/// Why a secret file is not usable.
#[derive(thiserror::Error, Debug)]
enum UnusableSecret {
    /// The file is missing.
    #[error("{0}")]
    Missing(String),
    /// This user may not read it.
    #[error("{0}")]
    Denied(String),
    /// The file is empty.
    #[error("is empty")]
    Empty,
    /// Others have access.
    #[error("{0}")]
    Open(String),
    /// Anything else.
    #[error("{0}")]
    Faulty(String),
}

impl UnusableSecret {
    fn of(&self, name: &str) -> Unread {
        let why = match self {
            Self::Missing(_) | Self::Denied(_) => WhyUnread::Absent,
            Self::Empty | Self::Open(_) | Self::Faulty(_) => WhyUnread::Faulty,
        };
        Unread::new(why, format!("{name} {self}"))
    }
}

/// Reads a secret file.
fn read_file(path: &Path, guarded: bool) -> Result<SecretString, UnusableSecret> {
    let (bytes, about) = regular_file::read(path, MAX_SECRET_BYTES).map_err(|why| {
        let kind = match &why {
            FileReadError::Refused(error) => Some(error.kind()),
            FileReadError::NotRegular | FileReadError::TooLarge(_) => None,
        };
        let denied = kind == Some(std::io::ErrorKind::PermissionDenied);
        let hint = match &why {
            FileReadError::Refused(_) if denied => {
                "; the user that the daemon runs as must be able to read it"
            }
            FileReadError::TooLarge(_) => ", which no secret is",
            FileReadError::Refused(_) | FileReadError::NotRegular => "",
        };
        let reason = format!("{}{hint}", why.reason());
        match kind {
            Some(std::io::ErrorKind::NotFound) => UnusableSecret::Missing(reason),
            Some(std::io::ErrorKind::PermissionDenied) => UnusableSecret::Denied(reason),
            _ => UnusableSecret::Faulty(reason),
        }
    })?;
    let mode = about.permissions().mode();
    if guarded && mode & 0o007 != 0 {
        let mode = mode & 0o7777;
        return Err(UnusableSecret::Open(format!(
            "can be accessed by every user (mode {mode:04o}): chmod o-rwx it"
        )));
    }
    let text = text_of_file(bytes).map_err(|why| UnusableSecret::Faulty(why.to_owned()))?;
    let secret = SecretString::from(text);
    if secret.expose_secret().trim().is_empty() {
        return Err(UnusableSecret::Empty);
    }
    Ok(secret)
}
