//! Included files, and the combined sections of all files.
//!
//! Must not check the content of a section: only that files exist and that no name occurs twice.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::domain::completeness::Included;

use super::problem::{ConfigError, os_reason, shown};
use super::source::{ConfigSource, Diagnostics, FileUse};
use super::table::{Table, TextValue};

/// Sections of an included file.
pub(super) const SECTIONS: [&str; 5] = ["apps", "portals", "providers", "escalation", "channels"];
/// Settings of the main file only.
pub(super) const SETTINGS: [&str; 10] = [
    "state",
    "token_dir",
    "control_socket",
    "include",
    "log",
    "http",
    "install",
    "renewal",
    "network",
    "alerts",
];

/// Characters of a pattern.
const WILDCARDS: [char; 3] = ['*', '?', '['];

/// Excludes hidden files: editors store locks and copies there.
const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Reads the included files, each once, ordered by pattern and name; returns what each pattern matched.
pub(super) fn read(
    main: Table<'_>,
    report: &mut Diagnostics,
) -> (Vec<ConfigSource>, Vec<Included>) {
    let mut known: HashSet<PathBuf> = fs::canonicalize(main.source().path()).into_iter().collect();
    let (mut sources, mut includes) = (Vec::new(), Vec::new());
    for pattern in main.texts(report, "include", false).unwrap_or_default() {
        for path in matching(pattern, report, &mut includes) {
            let canonical = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            if !known.insert(canonical) {
                continue;
            }
            report.uses(pattern.place, FileUse::Configuration, &path);
            match ConfigSource::read(&path) {
                Ok(source) => sources.push(source),
                Err(problem) => report.whole_file(problem),
            }
        }
    }
    (sources, includes)
}

fn matching(
    pattern: TextValue<'_>,
    report: &mut Diagnostics,
    includes: &mut Vec<Included>,
) -> Vec<PathBuf> {
    let directory = pattern.place.source.directory();
    let full = match directory.to_str() {
        _ if Path::new(pattern.value).is_absolute() => pattern.value.to_owned(),
        Some("") => pattern.value.to_owned(),
        Some(directory) => format!("{}/{}", Pattern::escape(directory), pattern.value),
        None => {
            report.problem(
                pattern.place,
                "`include` works only in a directory whose path is UTF-8",
            );
            return Vec::new();
        }
    };
    let Ok(entries) = glob::glob_with(&full, MATCHING) else {
        report.problem(
            pattern.place,
            "`include` must be a path with the wildcards *, ?, [a-z] and **",
        );
        return Vec::new();
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(path) => paths.push(path),
            Err(error) => {
                let message = format!(
                    "this directory cannot be read: {}",
                    os_reason(error.error())
                );
                report.whole_file(ConfigError::of_file(error.path(), message));
            }
        }
    }
    if pattern.value.contains(WILDCARDS) {
        let searched = Path::new(&full).parent().filter(|path| path.is_dir());
        if let Some(searched) = searched {
            report.uses(pattern.place, FileUse::Directory, searched);
        }
        includes.push(Included {
            has_files: !paths.is_empty(),
            // As written: independent of the directory from which the file is named.
            pattern: pattern.value.to_owned(),
        });
    } else if paths.is_empty() {
        report.problem(pattern.place, "`include` names a file that does not exist");
    }
    paths
}

/// Reports settings in included files, and unknown keys of every file.
pub(super) fn check_keys(roots: &[Table<'_>], report: &mut Diagnostics) {
    let [main, included @ ..] = roots else { return };
    main.only(report, &[&SETTINGS, &SECTIONS]);
    for root in included {
        root.only(report, &[&SETTINGS, &SECTIONS]);
        for key in root.keys().filter(|key| SETTINGS.contains(&key.value)) {
            let main = main.source().path().display();
            report.problem(
                key.place,
                format!("`{}` belongs in the main file, {main}", key.value),
            );
        }
    }
}

/// The tables of a section in all files, ordered by name.
pub(super) fn tables<'d>(
    roots: &[Table<'d>],
    section: &'static str,
    report: &mut Diagnostics,
) -> Vec<Table<'d>> {
    let mut by_name: BTreeMap<&'d str, Table<'d>> = BTreeMap::new();
    for root in roots {
        let Some(group) = root.table(report, section, section) else {
            continue;
        };
        for table in group.tables(report) {
            match by_name.entry(table.name().value) {
                Entry::Vacant(free) => {
                    free.insert(table);
                }
                Entry::Occupied(first) => {
                    let (what, first) = (section.trim_end_matches('s'), first.get().place);
                    let name = shown(table.name().value);
                    report.problem(
                        table.place,
                        format!("the {what} {name} is given already at {first}"),
                    );
                }
            }
        }
    }
    by_name.into_values().collect()
}
