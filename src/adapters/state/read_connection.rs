//! A second connection for reading the state, for a thread that may block. Must not change anything.

use std::cell::{RefCell, RefMut};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::error::StateError;
use super::handle::State;
use super::listing;
use super::place::Place;
use super::schema;
use crate::domain::name::PortalName;
use crate::domain::portal::Portal;

/// A second connection for reading, for a thread that may block: the publisher's.
pub struct ReadConnection {
    place: Arc<Place>,
    /// With the edition of the state's files that it reads.
    open: RefCell<(u64, Connection)>,
}

impl ReadConnection {
    /// Opens the state for reading; [`super::State::open`] comes first.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let open = RefCell::new((0, schema::open_reader(path)?));
        Ok(Self {
            place: Arc::new(Place::of(path)),
            open,
        })
    }

    /// From now on it reads the data of this state, even if its files are replaced.
    #[must_use]
    pub fn of(mut self, state: &State) -> Self {
        self.place = state.place();
        self
    }

    /// Like [`super::State::portal`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn portal(&self, name: &PortalName) -> Result<Option<Portal>, StateError> {
        listing::portal(&self.connection(), name)
    }

    pub(super) fn connection(&self) -> RefMut<'_, Connection> {
        let mut open = self.open.borrow_mut();
        let (edition, connection) = &mut *open;
        self.place.follow(edition, connection);
        RefMut::map(open, |(_, connection)| connection)
    }
}
