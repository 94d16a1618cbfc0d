//! The names of the state's files.

use std::path::{Path, PathBuf};

/// Suffix of the copy of an open state whose path another file has taken.
pub const RESCUED: &str = ".rescued";

/// A file beside the state, by what is added to its name.
#[must_use]
pub fn beside(state: &Path, suffix: &str) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
