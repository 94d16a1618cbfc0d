//! A TOML file with positions, and the report that collects the problems of all files.
//!
//! Must not show TOML's own errors, which print the source line. After a syntax error the tree is a guess, so nothing from that
//! line on is checked, and nothing is reported as missing because of it.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use toml::de::DeTable;

use super::problem::{ConfigError, ConfigErrors};
use super::regular_file;

/// A million portals need half of it.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Text of a file. It may contain secrets: hidden in `Debug`, wiped when dropped.
pub(super) struct ConfigSource {
    path: PathBuf,
    text: SecretString,
    /// Start offsets of the lines.
    lines: Vec<usize>,
    /// Mode of the file; `None` if it is compiled in.
    mode: Option<u32>,
    /// Start of the line with the first syntax error.
    valid_until: Cell<usize>,
}

impl ConfigSource {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let (bytes, about) = regular_file::read(path, MAX_FILE_BYTES)
            .map_err(|why| ConfigError::of_file(path, format!("this file {}", why.reason())))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
            ConfigError {
                line,
                ..ConfigError::of_file(path, "this line is not UTF-8, as TOML must be")
            }
        })?;
        Ok(Self {
            mode: Some(about.permissions().mode()),
            ..Self::embedded(path, text)
        })
    }

    /// A file that is compiled in.
    pub(super) fn embedded(path: &Path, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let text = SecretString::from(text);
        Self {
            path: path.to_owned(),
            text,
            lines,
            mode: None,
            valid_until: Cell::new(usize::MAX),
        }
    }

    /// Parses the file; syntax errors go to the report, and the rest is returned.
    pub(super) fn parse(&self, report: &mut Diagnostics) -> DeTable<'_> {
        let (tree, errors) = DeTable::parse_recoverable(self.text.expose_secret());
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            let message = match error.message() {
                "duplicate key" => "this key or table is given twice in this file",
                message => message,
            };
            report.problems.push(self.place(at, at).problem(message));
        }
        if let Some(first) = errors
            .iter()
            .map(|error| error.span().map_or(0, |span| span.start))
            .min()
        {
            self.valid_until.set(self.lines[self.line_of(first)]);
            report.broken = true;
        }
        tree.into_inner()
    }

    pub(super) const fn place(&self, start: usize, end: usize) -> SourceLocation<'_> {
        SourceLocation {
            source: self,
            start,
            end,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Base directory of relative paths in this file.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Its mode, if users other than its owner and its group have access.
    pub(super) fn open_to_others(&self) -> Option<u32> {
        self.mode
            .filter(|mode| mode & 0o007 != 0)
            .map(|mode| mode & 0o7777)
    }

    /// Warns if every user can write it: its writers decide where tokens are sent, and which programs run as refreshd's user.
    pub(super) fn warn_if_writable(&self, report: &mut Diagnostics) {
        if let Some(mode) = self.open_to_others().filter(|mode| mode & 0o002 != 0) {
            let message = format!(
                "every user can write this file (mode {mode:04o}), and so send tokens elsewhere and start programs as refreshd's user: \
                 chmod o-w it"
            );
            report.warning(self.place(0, 0), message);
        }
    }

    fn is_broken(&self) -> bool {
        self.valid_until.get() != usize::MAX
    }

    fn line_of(&self, at: usize) -> usize {
        self.lines
            .partition_point(|start| *start <= at)
            .saturating_sub(1)
    }
}

/// A position in a file. Displays as `file:line:col`.
#[derive(Clone, Copy)]
pub(super) struct SourceLocation<'d> {
    pub(super) source: &'d ConfigSource,
    start: usize,
    end: usize,
}

impl SourceLocation<'_> {
    fn line_and_column(&self) -> (usize, usize) {
        let line = self.source.line_of(self.start);
        let before = self
            .source
            .text
            .expose_secret()
            .get(self.source.lines[line]..self.start)
            .unwrap_or_default();
        (line + 1, before.chars().count() + 1)
    }

    fn problem(&self, message: impl Into<String>) -> ConfigError {
        let (line, column) = self.line_and_column();
        ConfigError {
            file: self.source.path.clone(),
            line,
            column,
            message: message.into(),
        }
    }

    fn is_sound(&self) -> bool {
        self.end < self.source.valid_until.get()
    }
}

impl fmt::Display for SourceLocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(f, "{}:{line}:{column}", self.source.path.display())
    }
}

/// A file that a configuration consists of or names.
#[derive(Debug, Clone)]
pub struct UsedFile {
    /// Where it is named.
    place: ConfigError,
    /// What it is.
    pub of: FileUse,
    /// The file.
    pub path: PathBuf,
}

impl UsedFile {
    /// A problem with it, where it is named.
    #[must_use]
    pub fn problem(&self, message: impl Into<String>) -> ConfigError {
        ConfigError {
            message: message.into(),
            ..self.place.clone()
        }
    }
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileUse {
    /// A file of the configuration.
    Configuration,
    /// A directory that is searched for files of the configuration.
    Directory,
    /// A secret.
    Secret,
    /// The template of a webhook.
    Template,
    /// Certificate authorities.
    Authorities,
}

/// What a configuration without problems has besides its meaning.
pub(super) struct Remarks {
    pub(super) warnings: Vec<ConfigError>,
    pub(super) damaged: Vec<ConfigError>,
    pub(super) unchecked: Vec<ConfigError>,
    pub(super) files: Vec<UsedFile>,
}

/// Collects problems and warnings.
#[derive(Default)]
pub(super) struct Diagnostics {
    problems: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
    damaged: Vec<ConfigError>,
    unchecked: Vec<ConfigError>,
    /// `None`: they are not listed.
    files: Option<Vec<UsedFile>>,
    /// A file has syntax errors.
    broken: bool,
    /// Files with a secret that others can read; each is reported once.
    exposed: HashSet<PathBuf>,
}

impl Diagnostics {
    /// One that lists the files, or does not.
    pub(super) fn listing_files(lists_files: bool) -> Self {
        Self {
            files: lists_files.then(Vec::new),
            ..Self::default()
        }
    }

    /// Reports an invalid value.
    pub(super) fn problem(&mut self, place: SourceLocation<'_>, message: impl Into<String>) {
        if place.is_sound() {
            self.problems.push(place.problem(message));
        }
    }

    /// Reports a file that cannot be used at all.
    pub(super) fn whole_file(&mut self, problem: ConfigError) {
        self.broken = true;
        self.problems.push(problem);
    }

    /// Reports a problem in a file that is not TOML, such as a template.
    pub(super) fn in_file(&mut self, problem: ConfigError) {
        self.problems.push(problem);
    }

    /// Reports a missing key.
    pub(super) fn missing(&mut self, place: SourceLocation<'_>, message: impl Into<String>) {
        if !place.source.is_broken() {
            self.problem(place, message);
        }
    }

    /// Reports a name without a definition in any file.
    pub(super) fn unresolved(&mut self, place: SourceLocation<'_>, message: impl Into<String>) {
        if !self.broken {
            self.problem(place, message);
        }
    }

    /// Reports a valid value that is probably not intended.
    pub(super) fn warning(&mut self, place: SourceLocation<'_>, message: impl Into<String>) {
        self.warnings.push(place.problem(message));
    }

    /// Reports a damaged secret: an error for `check`, but the daemon starts.
    pub(super) fn damaged(&mut self, place: SourceLocation<'_>, message: impl Into<String>) {
        self.damaged.push(place.problem(message));
    }

    /// Notes a secret that could not be looked at.
    pub(super) fn unchecked(&mut self, place: SourceLocation<'_>, message: impl Into<String>) {
        self.unchecked.push(place.problem(message));
    }

    /// Notes a file that the configuration consists of or names.
    pub(super) fn uses(&mut self, place: SourceLocation<'_>, of: FileUse, path: &Path) {
        if let Some(files) = &mut self.files {
            files.push(UsedFile {
                place: place.problem(""),
                of,
                path: path.to_owned(),
            });
        }
    }

    /// Notes that this file contains a secret: it must be protected from others.
    pub(super) fn holds_secret(&mut self, place: SourceLocation<'_>) {
        let source = place.source;
        if let Some(mode) = source.open_to_others()
            && self.exposed.insert(source.path.clone())
        {
            let advice = "chmod o-rwx it, or move the secret to a file of its own";
            self.problem(
                place,
                format!(
                    "a secret stands here, and every user can access this file (mode {mode:04o}): {advice}"
                ),
            );
        }
    }

    /// All remarks, or all problems.
    pub(super) fn finish(mut self) -> Result<Remarks, ConfigErrors> {
        if !self.problems.is_empty() {
            self.problems.append(&mut self.damaged);
        }
        self.problems.sort();
        self.problems.dedup();
        self.warnings.sort();
        self.damaged.sort();
        self.damaged.dedup();
        self.unchecked.sort();
        if self.problems.is_empty() {
            Ok(Remarks {
                warnings: self.warnings,
                damaged: self.damaged,
                unchecked: self.unchecked,
                files: self.files.unwrap_or_default(),
            })
        } else {
            Err(ConfigErrors(self.problems))
        }
    }
}
