//! The process environment as an argument, so that tests can replace it, and a check can judge for another process.
//!
//! Must not keep or show values of this process: variables are read one at a time.

use std::collections::BTreeMap;
use std::env::{self, VarError};
use std::fmt;
use std::path::PathBuf;

/// Variables, the systemd credentials, and what becomes of secrets that are not there.
#[derive(Clone, Default)]
pub struct Environment {
    /// `None`: those of this process.
    variables: Option<BTreeMap<String, String>>,
    /// `None`: the files of `$CREDENTIALS_DIRECTORY`.
    credentials: Option<BTreeMap<String, CredentialSource>>,
    /// Secrets that are not there are listed, and are no problem.
    lists_missing: bool,
    /// The files that a configuration consists of and names are listed.
    lists_files: bool,
}

/// Where systemd takes a credential from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// From this file.
    File(PathBuf),
    /// From something that only systemd can read: an encrypted file, or the unit itself.
    Opaque,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub const fn of_process() -> Self {
        Self {
            variables: None,
            credentials: None,
            lists_missing: false,
            lists_files: false,
        }
    }

    /// These variables only, including `CREDENTIALS_DIRECTORY`.
    pub fn of<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables: Some(variables),
            ..Self::of_process()
        }
    }

    /// With these credentials, each from where systemd takes it.
    #[must_use]
    pub fn with_credentials(self, credentials: BTreeMap<String, CredentialSource>) -> Self {
        Self {
            credentials: Some(credentials),
            ..self
        }
    }

    /// For a machine that does not have the secrets: those that are missing are listed, and are no problem.
    #[must_use]
    pub fn without_secrets(self) -> Self {
        Self {
            lists_missing: true,
            ..self
        }
    }

    /// With a list of the files that a configuration consists of and names: it grows with the number of portals.
    #[must_use]
    pub fn listing_files(self) -> Self {
        Self {
            lists_files: true,
            ..self
        }
    }

    /// Value of a variable.
    pub(super) fn variable(&self, name: &str) -> Result<String, VarError> {
        match &self.variables {
            Some(map) => map.get(name).cloned().ok_or(VarError::NotPresent),
            None => env::var(name),
        }
    }

    /// Directory of `LoadCredential=`.
    pub(super) fn credentials_directory(&self) -> Option<PathBuf> {
        self.variable("CREDENTIALS_DIRECTORY")
            .ok()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }

    /// The credentials of a unit, if it is checked for one.
    pub(super) const fn unit_credentials(&self) -> Option<&BTreeMap<String, CredentialSource>> {
        self.credentials.as_ref()
    }

    /// Whether the files are listed.
    pub(super) const fn lists_files(&self) -> bool {
        self.lists_files
    }

    /// Whether secrets that are missing are no problem.
    pub(super) const fn lists_missing(&self) -> bool {
        self.lists_missing
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment(…)")
    }
}
