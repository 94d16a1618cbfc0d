//! What a configuration that may not be all there is compared with: which patterns of `include` found files before, and whose
//! token files are kept since such a configuration does not name them.
//!
//! Must not judge a configuration: `domain::completeness` does.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::app_fingerprint::AppFingerprint;
use super::error::StateError;
use super::handle::State;
use crate::domain::name::PortalName;
use refreshd_time::Timestamp;

/// Before a pattern, in the names of marks. Alone it says that patterns are noted.
const INCLUDED: &str = "included ";
/// Before a portal's name.
const KEPT: &str = "kept ";

impl State {
    /// The patterns that found files when a configuration was last in force; `None` where that was never noted.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn included(&self) -> Result<Option<BTreeSet<String>>, StateError> {
        self.read
            .run(|connection| {
                let sql = |source| StateError::sql("read what was included", source);
                let mut select = connection
                    .prepare("SELECT name FROM mark WHERE name >= ?1 AND name < ?2")
                    .map_err(sql)?;
                let names = select
                    .query_map([INCLUDED, "included!"], |row| row.get::<_, String>(0))
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(sql)?;
                let is_noted = !names.is_empty();
                let patterns = names
                    .iter()
                    .filter_map(|name| name.strip_prefix(INCLUDED))
                    .filter(|pattern| !pattern.is_empty())
                    .map(str::to_owned)
                    .collect();
                Ok(is_noted.then_some(patterns))
            })
            .await
    }

    /// Notes the patterns that find files in the configuration that is in force.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn note_included(
        &self,
        patterns: BTreeSet<String>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.change(move |connection| {
            let sql = |source| StateError::sql("note what was included", source);
            connection
                .execute(
                    "DELETE FROM mark WHERE name >= ?1 AND name < ?2",
                    [INCLUDED, "included!"],
                )
                .map_err(sql)?;
            let mut insert = connection
                .prepare("INSERT OR REPLACE INTO mark (name, at) VALUES (?1, ?2)")
                .map_err(sql)?;
            for pattern in std::iter::once("").chain(patterns.iter().map(String::as_str)) {
                insert
                    .execute(params![format!("{INCLUDED}{pattern}"), now.millis()])
                    .map_err(sql)?;
            }
            Ok(())
        })
        .await
    }

    /// The portals with a living grant whose token files are kept, since a configuration that may not be all there does not
    /// name them.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn kept_portals(&self) -> Result<Vec<PortalName>, StateError> {
        self.read
            .run(|connection| {
                let kept = "SELECT name FROM portal WHERE configured = 0 AND refresh_token IS NOT NULL AND phase <> 'gone' \
                    AND EXISTS (SELECT 1 FROM mark WHERE mark.name = ?1 || portal.name) ORDER BY name";
                names(connection, kept, [KEPT])
            })
            .await
    }
}

/// Those of these portals whose grant is alive. Where an app is named that does not take in installs any more, the portals
/// that its installs made are left out by somebody who means it.
pub(super) fn living(
    connection: &Connection,
    portals: &[String],
    apps: &[AppFingerprint],
) -> Result<Vec<PortalName>, StateError> {
    let alive = "SELECT installed_by FROM portal WHERE name = ?1 AND refresh_token IS NOT NULL AND phase <> 'gone'";
    let sql = |source| StateError::sql("look for portals that are not named", source);
    let mut select = connection.prepare_cached(alive).map_err(sql)?;
    let mut living = Vec::new();
    for name in portals {
        let maker: Option<Option<String>> = select
            .query_row([name], |row| row.get(0))
            .optional()
            .map_err(sql)?;
        let is_named = |maker: &String| apps.iter().any(|app| app.name == *maker);
        if maker.is_some_and(|maker| !maker.as_ref().is_some_and(is_named)) {
            living.extend(PortalName::parse(name));
        }
    }
    Ok(living)
}

/// Keeps the token files of these portals from now on.
pub(super) fn keep(
    connection: &Connection,
    portals: &[PortalName],
    now: Timestamp,
) -> Result<(), StateError> {
    for name in portals {
        connection
            .prepare_cached("INSERT OR REPLACE INTO mark (name, at) VALUES (?1, ?2)")
            .and_then(|mut insert| insert.execute(params![format!("{KEPT}{name}"), now.millis()]))
            .map_err(|source| StateError::sql("note whose token files are kept", source))?;
    }
    Ok(())
}

/// No token files are kept any more: what the configuration does not name is meant to go.
pub(super) fn keep_none(connection: &Connection) -> Result<(), StateError> {
    connection
        .execute(
            "DELETE FROM mark WHERE name >= ?1 AND name < ?2",
            [KEPT, "kept!"],
        )
        .map(|_| ())
        .map_err(|source| StateError::sql("note whose token files are kept", source))
}

fn names(
    connection: &Connection,
    query: &str,
    arguments: impl rusqlite::Params,
) -> Result<Vec<PortalName>, StateError> {
    let sql = |source| StateError::sql("look for portals that are not named", source);
    let mut select = connection.prepare_cached(query).map_err(sql)?;
    let found = select
        .query_map(arguments, |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(sql)?;
    Ok(found
        .iter()
        .filter_map(|name| PortalName::parse(name).ok())
        .collect())
}
