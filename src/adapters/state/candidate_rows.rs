//! The rows of candidates, as others give them up.

use rusqlite::{Connection, OptionalExtension as _};

use super::error::StateError;
use super::superseded::{SupersededPair, store_superseded};
use crate::domain::name::PortalName;
use crate::domain::portal::Kind;
use refreshd_secrets::RefreshToken;
use refreshd_time::Timestamp;

fn sql(source: rusqlite::Error) -> StateError {
    StateError::sql("change a candidate", source)
}

/// Removes it; whether there was one.
pub(super) fn remove(connection: &Connection, portal: &PortalName) -> Result<bool, StateError> {
    let removed = connection.execute("DELETE FROM candidate WHERE portal = ?1", [portal.as_str()]);
    removed.map(|rows| rows > 0).map_err(sql)
}

/// Gives up a portal's candidate for something newer. One whose request has no outcome is kept aside. Whether there was one.
pub(super) fn drop_candidate(
    connection: &Connection,
    portal: &PortalName,
    now: Timestamp,
) -> Result<bool, StateError> {
    let in_doubt: Option<String> = connection
        .query_row(
            "SELECT refresh_token FROM candidate WHERE portal = ?1 AND phase = ?2",
            [portal.as_str(), Kind::InDoubt.as_str()],
            |row| row.get(0),
        )
        .optional()
        .map_err(sql)?;
    if let Some(refresh) = in_doubt.as_deref().and_then(RefreshToken::new) {
        let aside = SupersededPair {
            why: "candidate",
            access: None,
            refresh: Some(&refresh),
            identity: None,
        };
        store_superseded(connection, portal, now, &aside)?;
    }
    remove(connection, portal)
}

/// Forgets a portal's candidate, and which of its refresh tokens were refused. Whether there was a candidate.
pub(super) fn forget_candidate(
    connection: &Connection,
    portal: &PortalName,
) -> Result<bool, StateError> {
    connection
        .execute(
            "DELETE FROM refused_candidate WHERE portal = ?1",
            [portal.as_str()],
        )
        .map_err(sql)?;
    remove(connection, portal)
}
