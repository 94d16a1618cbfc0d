//! Names in the configuration. A portal's name is also a directory name, so only safe names are valid.

use std::fmt;
use std::sync::Arc;

/// Maximum length of a name, in bytes: leaves room for a prefix in 255-byte file names.
pub const MAX_LENGTH: usize = 100;

/// A portal's name: 1 to 100 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit, so it is safe as a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortalName(Arc<str>);

/// Why a name is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty.
    #[error("a name is empty")]
    Empty,
    /// Over [`MAX_LENGTH`].
    #[error("a name has {0} bytes; at most {MAX_LENGTH} are safe as a file name")]
    TooLong(usize),
    /// A character outside the allowed set, or an invalid first character.
    #[error(
        "a name holds {0:?}; letters, digits, '.', '_' and '-' are safe in a file name, the first a letter or digit"
    )]
    Unsafe(char),
}

impl PortalName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`NameError`] if the name is not safe as a file name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut chars = text.chars();
        let first = chars.next().ok_or(NameError::Empty)?;
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Unsafe(first));
        }
        if let Some(bad) = chars.find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
            return Err(NameError::Unsafe(bad));
        }
        if text.len() > MAX_LENGTH {
            return Err(NameError::TooLong(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PortalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Number of names in one message.
const MAX_LISTED: usize = 5;

/// The first few names, for a message.
#[must_use]
pub fn some(names: &[PortalName]) -> Vec<&str> {
    let mut some: Vec<_> = names
        .iter()
        .take(MAX_LISTED)
        .map(PortalName::as_str)
        .collect();
    if names.len() > MAX_LISTED {
        some.push("…");
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_safe_as_file_names_exist() {
        for good in ["acme", "acme-news", "a", "7", "A.b_c-d", &"x".repeat(100)] {
            assert!(PortalName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "-rf",
            "a/b",
            "a\0b",
            "a b",
            "портал",
            "a\n",
            &"x".repeat(101),
        ] {
            assert!(PortalName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
