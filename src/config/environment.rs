//! The process environment as an argument, so that tests can replace it.
//!
//! Must not keep or show values: variables are read one at a time.

use std::collections::BTreeMap;
use std::env::{self, VarError};
use std::fmt;
use std::path::PathBuf;

/// Variables, and the directory of systemd credentials.
#[derive(Clone, Default)]
pub struct Environment(Option<BTreeMap<String, String>>);

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub const fn of_process() -> Self {
        Self(None)
    }

    /// These variables only, including `CREDENTIALS_DIRECTORY`.
    pub fn of<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self(Some(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        ))
    }

    /// Value of a variable.
    pub(super) fn variable(&self, name: &str) -> Result<String, VarError> {
        match &self.0 {
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
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment(…)")
    }
}
