//! The names of the state's files.

use std::path::{Path, PathBuf};

/// Suffix of the copy of an open state whose path is taken by another file.
pub const RESCUED: &str = ".rescued";

/// A file beside the state, by the suffix of its name.
#[must_use]
pub fn beside(state: &Path, suffix: &str) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
