//! A second way to read the state, for a thread that may block. Must not change anything.

use std::path::Path;

use super::{StateError, listing, schema};
use crate::domain::name::PortalName;
use crate::domain::portal::Portal;

/// A second way to read, for a thread that may block: the publisher's.
pub struct ReadConnection(rusqlite::Connection);

impl ReadConnection {
    /// Opens the state for reading; [`super::State::open`] comes first.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        schema::open_reader(path).map(Self)
    }

    /// As [`super::State::portal`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn portal(&self, name: &PortalName) -> Result<Option<Portal>, StateError> {
        listing::portal(&self.0, name)
    }

    /// As [`super::State::page`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn page(&self, after: Option<&PortalName>, limit: usize) -> Result<Vec<Portal>, StateError> {
        listing::page(&self.0, after, limit)
    }
}
