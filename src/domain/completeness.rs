//! Whether a configuration may be less than what is meant: a volume that is not mounted leaves an empty file, or a directory
//! out of which nothing is included, and a pattern with a slip of the pen finds other files. Who takes a portal out of a file
//! that is there means it.
//!
//! Must not look for files: `config` has, and the state remembers what was there.

use std::collections::BTreeMap;
use std::fmt;

/// A pattern of `include` with wildcards, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// The pattern, with its directory.
    pub pattern: String,
    /// Whether a file is there that it names.
    pub has_files: bool,
}

/// The patterns of the configuration that was last in force, and whether each found files.
pub type IncludedBefore = BTreeMap<String, bool>;

/// What is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Every portal, and every app that makes some.
    Portals,
    /// All files of these patterns.
    Files(Vec<String>),
    /// What other patterns found, or may have found, that had the place of these.
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

/// What is missing in a configuration, if anything. `before` is `None` where nobody noted that, as before this was looked at.
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
    // One that found nothing before is not expected to.
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
            // Another pattern in its place.
            (included(OTHERS, false), Some(&found), files(OTHERS)),
            (included(OTHERS, true), Some(&found), patterns(OTHERS)),
            (included(OTHERS, true), Some(&empty), None),
            // Noted by nobody, as before this was looked at.
            (included(PORTALS, false), None, files(PORTALS)),
            (included(PORTALS, true), None, patterns(PORTALS)),
        ] {
            assert_eq!(
                missing(true, std::slice::from_ref(&include), before),
                expected,
                "{include:?}"
            );
        }
        // With the pattern all of its portals are taken out, and one more pattern changes nothing of what the first found.
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
