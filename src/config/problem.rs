//! Problems of a configuration, with positions.
//!
//! Must not contain a source line or the value of a secret: a message names keys and the expected value.

use crate::domain::similar::nearest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingSeverity {
    /// The configuration is not taken.
    Error,
    /// It is taken, and probably not intended.
    Warning,
    /// It could not be looked at here.
    Unchecked,
}

/// What was found in a configuration, or on the machine that it is for, for programs that read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFinding {
    /// How much it matters.
    pub severity: FindingSeverity,
    /// The file; `None` if it is not about a place in one.
    pub file: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What was found, and what to do.
    pub message: String,
}

impl ConfigFinding {
    /// One with a place.
    #[must_use]
    pub fn at(severity: FindingSeverity, problem: &ConfigError) -> Self {
        Self {
            severity,
            file: Some(problem.file.clone()),
            line: Some(problem.line),
            column: Some(problem.column),
            message: problem.message.clone(),
        }
    }

    /// One without a place.
    #[must_use]
    pub fn of_machine(severity: FindingSeverity, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: None,
            line: None,
            column: None,
            message: message.into(),
        }
    }
}

impl fmt::Display for ConfigFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(file), Some(line), Some(column)) = (&self.file, self.line, self.column) {
            write!(f, "{}:{line}:{column}: ", file.display())?;
        }
        f.write_str(&self.message)?;
        match self.severity {
            FindingSeverity::Error => Ok(()),
            FindingSeverity::Warning => f.write_str(" (warning)"),
            FindingSeverity::Unchecked => f.write_str(" (not checked)"),
        }
    }
}

/// One problem, or one warning. Displays as `file:line:col: message`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The problem, and what to write instead.
    pub message: String,
}

impl ConfigError {
    /// A problem of a whole file.
    #[must_use]
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            message: message.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file.display(),
            self.line,
            self.column,
            self.message
        )
    }
}

/// All problems of a configuration, by file and position. Displays one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The operating system's message without its number, in lower case: `permission denied`.
pub(super) fn os_reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

/// A name that may be displayed: short and on one line; anything else is hidden.
pub(super) fn shown(name: &str) -> String {
    if can_be_shown(name) {
        format!("`{name}`")
    } else {
        "of that name".to_owned()
    }
}

fn can_be_shown(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= 64 && !name.chars().any(char::is_control)
}

/// A path that may be displayed: on one line, and not longer than a valid path.
pub(super) fn shown_path(path: &Path) -> Option<String> {
    let text = path.display().to_string();
    (text.len() <= 500 && !text.contains(char::is_control)).then_some(text)
}

/// `; did you mean …?` if a candidate is similar, else empty.
pub(super) fn did_you_mean<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> String {
    let candidates = candidates.into_iter().filter(|name| can_be_shown(name));
    nearest(word, candidates)
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}
