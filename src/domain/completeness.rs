//! Detects an incomplete configuration: a volume that is not mounted leaves an empty file or an empty include directory,
//! and a mistyped pattern matches other files. A portal that is removed from an existing file is removed on purpose.
//!
//! Must not look for files: `config` does, and the state stores the files found before.

use std::collections::BTreeMap;
use std::fmt;

/// An `include` pattern with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// The pattern, with its directory.
    pub pattern: String,
    /// Whether it matches a file.
    pub has_files: bool,
}

/// The patterns of the last configuration in force, and whether each matched files.
pub type IncludedBefore = BTreeMap<String, bool>;

/// The missing part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// All portals, and all apps with installed portals.
    Portals,
    /// All files of these patterns.
    Files(Vec<String>),
    /// Patterns that were replaced by others, and that matched files or may have.
    Patterns(Vec<String>),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Portals => f.write_str("it names no portal at all"),
            Self::Files(patterns) => {
                write!(f, "no file is there for include = {patterns:?}")
            }
            Self::Patterns(patterns) => {
                write!(
                    f,
                    "include = {patterns:?} is not known to find what was included before"
                )
            }
        }
    }
}

/// The missing part of a configuration, if any. `before` is `None` if the state has no record of the patterns.
#[must_use]
pub fn missing(
    names_portals: bool,
    includes: &[Included],
    before: Option<&IncludedBefore>,
) -> Option<Missing> {
    let known = |pattern: &str| before.and_then(|before| before.get(pattern)).copied();
    let is_configured = |pattern: &str| includes.iter().any(|it| it.pattern == pattern);
    let is_replaced = before.is_none_or(|before| {
        let mut found = before.iter().filter(|(_, has_files)| **has_files);
        found.any(|(pattern, _)| !is_configured(pattern))
    });
    let patterns = |are_missing: &dyn Fn(&&Included) -> bool| -> Vec<_> {
        let those = includes.iter().filter(are_missing);
        those.map(|include| include.pattern.clone()).collect()
    };
    // A pattern that matched nothing before may match nothing now.
    let gone = patterns(&|it| !it.has_files && known(&it.pattern) != Some(false));
    if !gone.is_empty() {
        return Some(Missing::Files(gone));
    }
    let other = patterns(&|it| it.has_files && is_replaced && known(&it.pattern).is_none());
    if !other.is_empty() {
        return Some(Missing::Patterns(other));
    }
    (!names_portals).then_some(Missing::Portals)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTALS: &str = "/etc/portals.d/*.toml";
    const OTHERS: &str = "/etc/portal.d/*.toml";

    fn included(pattern: &str, has_files: bool) -> Included {
        Included {
            pattern: pattern.to_owned(),
            has_files,
        }
    }

    fn before<const N: usize>(patterns: [(&str, bool); N]) -> IncludedBefore {
        patterns.map(|(it, found)| (it.to_owned(), found)).into()
    }

    #[test]
    fn what_was_there_and_is_not_is_missing_and_what_never_was_is_not() {
        let files = |pattern: &str| Some(Missing::Files(vec![pattern.to_owned()]));
        let patterns = |pattern: &str| Some(Missing::Patterns(vec![pattern.to_owned()]));
        let (found, empty) = (before([(PORTALS, true)]), before([(PORTALS, false)]));
        for (include, before, expected) in [
            (included(PORTALS, true), Some(&found), None),
            (included(PORTALS, false), Some(&found), files(PORTALS)),
            (included(PORTALS, false), Some(&empty), None),
            // The pattern was replaced by another.
            (included(OTHERS, false), Some(&found), files(OTHERS)),
            (included(OTHERS, true), Some(&found), patterns(OTHERS)),
            (included(OTHERS, true), Some(&empty), None),
            // No record in the state.
            (included(PORTALS, false), None, files(PORTALS)),
            (included(PORTALS, true), None, patterns(PORTALS)),
        ] {
            assert_eq!(
                missing(true, std::slice::from_ref(&include), before),
                expected,
                "{include:?}"
            );
        }
        // Without the pattern all of its portals are removed; an additional pattern changes nothing about the first.
        assert_eq!(missing(true, &[], Some(&found)), None);
        let both = [included(PORTALS, true), included(OTHERS, true)];
        assert_eq!(missing(true, &both, Some(&found)), None);
        assert_eq!(missing(true, &[], None), None);
        assert_eq!(
            missing(false, &[], Some(&before([]))),
            Some(Missing::Portals)
        );
    }
}
