//! Portals that a refresh token is known for.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::StateError;
use super::handle::State;
use crate::domain::name::PortalName;
use refreshd_secrets::Fingerprint;

impl State {
    /// The portal for which this refresh token was stored before, if any.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn holder_of_refresh_token(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<String>, StateError> {
        self.read
            .run(move |connection| holder_of_refresh_token(connection, &fingerprint))
            .await
    }
}

/// Owner of a refresh token, present or past; the first term is the index `portal_fingerprint`'s, which has four bytes of each.
pub(super) const HOLDER: &str = "SELECT name FROM portal WHERE substr(fingerprint, 1, 4) = substr(?1, 1, 4) \
    AND fingerprint = ?1 AND name IS NOT ?2 AND refresh_token IS NOT NULL \
    UNION ALL SELECT portal FROM imported_token WHERE fingerprint = ?1 AND portal IS NOT ?2 \
    UNION ALL SELECT portal FROM candidate WHERE fingerprint = ?1 AND portal IS NOT ?2 LIMIT 1";

/// Another portal that holds this refresh token, or once did.
pub(super) fn holder(
    connection: &Connection,
    fingerprint: &Fingerprint,
    portal: &PortalName,
) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached(HOLDER)?
        .query_row(params![fingerprint.bytes(), portal.as_str()], |row| {
            row.get(0)
        })
        .optional()
}

/// True if the portal's grant has moved on from this token: storing it again would lose the newer one. Known are stored ones,
/// and the last 32 exchanged ones.
pub(super) fn is_spent(
    connection: &Connection,
    fingerprint: &Fingerprint,
    portal: &PortalName,
) -> rusqlite::Result<bool> {
    let found: Option<(bool, Option<Vec<u8>>)> = connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM imported_token WHERE imported_token.portal = portal.name AND imported_token.fingerprint = ?1) AS is_seen, spent \
             FROM portal WHERE name = ?2 AND refresh_token IS NOT NULL AND fingerprint <> ?1",
            params![fingerprint.bytes(), portal.as_str()],
            |row| Ok((row.get("is_seen")?, row.get("spent")?)),
        )
        .optional()?;
    Ok(found.is_some_and(|(seen, spent)| {
        seen || spent
            .unwrap_or_default()
            .chunks(4)
            .any(|start| fingerprint.bytes().starts_with(start))
    }))
}

/// Returns whether this refresh token was stored before: by another portal, even as a candidate, or as the grant of this one.
pub(super) fn was_stored(
    connection: &Connection,
    fingerprint: &Fingerprint,
    portal: &PortalName,
) -> Result<bool, StateError> {
    let sql = |source| StateError::sql("look for a refresh token", source);
    if holder(connection, fingerprint, portal)
        .map_err(sql)?
        .is_some()
    {
        return Ok(true);
    }
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM imported_token WHERE fingerprint = ?1 AND portal = ?2) OR EXISTS (SELECT 1 FROM portal \
             WHERE name = ?2 AND fingerprint = ?1 AND refresh_token IS NOT NULL)",
        )
        .and_then(|mut statement| {
            statement.query_row(params![fingerprint.bytes(), portal.as_str()], |row| row.get(0))
        })
        .map_err(sql)
}

pub(super) fn holder_of_refresh_token(
    connection: &Connection,
    fingerprint: &Fingerprint,
) -> Result<Option<String>, StateError> {
    connection
        .prepare_cached(HOLDER)
        .and_then(|mut statement| {
            statement
                .query_row(params![fingerprint.bytes(), None::<&str>], |row| row.get(0))
                .optional()
        })
        .map_err(|source| StateError::sql("look for a refresh token", source))
}
