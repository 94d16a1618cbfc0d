//! Listings of portals, read page by page: memory does not grow with the number of portals.
//!
//! This is the only loop over the portals; callers take its pages. Must not hold a transaction between two pages.

use rusqlite::{Connection, params};

use super::error::StateError;
use super::handle::State;
use super::listing;
use super::read_connection::ReadConnection;
use super::rows::PortalColumns;
use crate::domain::name::PortalName;
use crate::domain::portal::Portal;

/// Portals read at a time, unless a listing asks for fewer.
const PAGE: usize = 500;

/// SQL that reads at most so many portals after a name, in the order of names.
type Query = fn() -> String;

/// Portals of a listing.
#[derive(Debug)]
pub struct PortalPage {
    /// In the order of their names.
    pub portals: Vec<Portal>,
    /// The last of them, if there are more.
    pub next: Option<PortalName>,
}

/// Position in a listing: by default before the first of all portals.
#[derive(Debug, Clone)]
pub struct PortalCursor {
    query: Query,
    /// The name of the last row; it may not be a valid name of a portal.
    after: String,
    size: usize,
    /// Portals that the listing may still return.
    left: usize,
    has_ended: bool,
}

impl PortalCursor {
    const fn new(query: Query) -> Self {
        Self {
            query,
            after: String::new(),
            size: PAGE,
            left: usize::MAX,
            has_ended: false,
        }
    }

    /// The next page, and the position after it.
    fn read(mut self, connection: &Connection) -> Result<(PortalPage, Self), StateError> {
        let sql = |source| StateError::sql("list portals", source);
        let size = self.size.min(self.left);
        // One more than is returned shows whether there are more.
        let limit = i64::try_from(size.saturating_add(1)).unwrap_or(i64::MAX);
        let mut statement = connection.prepare_cached(&(self.query)()).map_err(sql)?;
        let columns = PortalColumns::of(&statement).map_err(sql)?;
        let after = std::mem::take(&mut self.after);
        let mut rows = statement.query(params![after, limit]).map_err(sql)?;
        let (mut portals, mut read, mut has_more) = (Vec::new(), 0, false);
        while let Some(row) = rows.next().map_err(sql)? {
            has_more = read == size;
            if has_more {
                break;
            }
            read += 1;
            // A row without a valid name is left out, and must not end the listing.
            self.after = row.get("name").map_err(sql)?;
            portals.extend(columns.read(row));
        }
        self.left = self.left.saturating_sub(portals.len());
        self.has_ended = !has_more || self.left == 0;
        let last = portals.last().map(|last: &Portal| last.name.clone());
        let next = last.filter(|_| has_more);
        Ok((PortalPage { portals, next }, self))
    }
}

/// A listing of portals in the order of their names.
pub struct PortalPages {
    state: State,
    cursor: PortalCursor,
}

impl PortalPages {
    /// Starts after this name.
    #[must_use]
    pub fn after(mut self, name: Option<PortalName>) -> Self {
        self.cursor.after = name.map_or_else(String::new, |name| name.to_string());
        self
    }

    /// Ends after so many portals.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.cursor.left = limit;
        self
    }

    /// Reads at most so many at a time.
    #[must_use]
    pub const fn in_pages_of(mut self, size: usize) -> Self {
        self.cursor.size = size;
        self
    }

    /// True if the last page was returned.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.cursor.has_ended
    }

    /// The next page; `None` after the last. Only the last one may be empty.
    ///
    /// # Errors
    /// [`StateError`]; the next call tries the same page.
    pub async fn next(&mut self) -> Result<Option<PortalPage>, StateError> {
        while !self.cursor.has_ended {
            let cursor = self.cursor.clone();
            let read = move |connection: &Connection| cursor.clone().read(connection);
            let (page, cursor) = self.state.read.run(read).await?;
            self.cursor = cursor;
            if self.cursor.has_ended || !page.portals.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }
}

impl State {
    /// Every portal.
    #[must_use]
    pub fn portals(&self) -> PortalPages {
        PortalPages {
            state: self.clone(),
            cursor: PortalCursor::new(listing::page_query),
        }
    }

    /// Portals with an open notification.
    #[must_use]
    pub fn troubled(&self) -> PortalPages {
        PortalPages {
            state: self.clone(),
            cursor: PortalCursor::new(listing::troubled_query),
        }
    }
}

impl ReadConnection {
    /// The next page of a listing; `None` after the last. An error ends the listing.
    pub fn next_page(&self, listing: &mut PortalCursor) -> Option<Result<Vec<Portal>, StateError>> {
        if listing.has_ended {
            return None;
        }
        listing.has_ended = true;
        let read = listing.clone().read(&self.connection());
        Some(read.map(|(page, next)| {
            *listing = next;
            page.portals
        }))
    }
}

impl Default for PortalCursor {
    fn default() -> Self {
        Self::new(listing::page_query)
    }
}
