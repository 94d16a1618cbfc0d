//! Whether a configuration may be less than what is meant: a volume that is not mounted leaves an empty file, or a directory
//! out of which nothing is included. Who takes a portal out of a file that is there means it.
//!
//! Must not look for files: `config` has, and the state remembers what was there.

use std::collections::BTreeSet;
use std::fmt;

/// A pattern of `include` with wildcards, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// The pattern, with its directory.
    pub pattern: String,
    /// Whether a file is there that it names.
    pub has_files: bool,
    /// Whether the directory before its first wildcard is there.
    pub has_directory: bool,
}

/// What is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Every portal, and every app that makes some.
    Portals,
    /// All files of these patterns.
    Files(Vec<String>),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Portals => f.write_str("it names no portal at all"),
            Self::Files(patterns) => {
                write!(f, "no file is there for include = {patterns:?}")
            }
        }
    }
}

/// What is missing in a configuration, if anything. `before` are the patterns that found files when a configuration was last
/// in force; `None` where nobody noted that.
#[must_use]
pub fn missing(
    names_portals: bool,
    includes: &[Included],
    before: Option<&BTreeSet<String>>,
) -> Option<Missing> {
    let was_there = |include: &&Included| match before {
        Some(before) => before.contains(&include.pattern),
        None => !include.has_directory,
    };
    let gone: Vec<_> = includes
        .iter()
        .filter(|include| !include.has_files)
        .filter(was_there)
        .map(|include| include.pattern.clone())
        .collect();
    if !gone.is_empty() {
        return Some(Missing::Files(gone));
    }
    (!names_portals).then_some(Missing::Portals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn included(has_files: bool, has_directory: bool) -> Included {
        Included {
            pattern: "/etc/portals.d/*.toml".to_owned(),
            has_files,
            has_directory,
        }
    }

    #[test]
    fn what_was_there_and_is_not_is_missing_and_what_never_was_is_not() {
        let never = BTreeSet::new();
        let before = BTreeSet::from(["/etc/portals.d/*.toml".to_owned()]);
        let files = Some(Missing::Files(vec!["/etc/portals.d/*.toml".to_owned()]));
        for (include, before, found) in [
            (included(true, true), Some(&before), None),
            (included(false, true), Some(&before), files.clone()),
            (included(false, false), Some(&before), files.clone()),
            (included(false, false), Some(&never), None),
            // Noted by nobody, as before this was looked at.
            (included(false, false), None, files),
            (included(false, true), None, None),
        ] {
            assert_eq!(missing(true, &[include], before), found);
        }
        assert_eq!(missing(true, &[], None), None);
        assert_eq!(missing(false, &[], Some(&never)), Some(Missing::Portals));
    }
}
