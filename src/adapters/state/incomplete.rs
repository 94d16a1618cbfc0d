//! Data to compare an incomplete configuration with: the files that patterns of `include` matched before, and the portals
//! whose token files are kept since such a configuration does not name them.
//!
//! Must not judge a configuration: `domain::completeness` does.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::app_fingerprint::AppFingerprint;
use super::error::StateError;
use super::handle::State;
use crate::domain::completeness::IncludedBefore;
use crate::domain::name::PortalName;
use refreshd_time::Timestamp;

/// Prefix of a pattern that matched files, in the names of marks. Alone it means that patterns are recorded.
const INCLUDED: &str = "included ";
/// Prefix of one that matched none.
const INCLUDED_NONE: &str = "included-none ";
/// Prefix of a portal's name.
const KEPT: &str = "kept ";

impl State {
    /// The patterns when a configuration was last in force; `None` if they were never recorded.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn included(&self) -> Result<Option<IncludedBefore>, StateError> {
        self.read
            .run(|connection| {
                let sql = |source| StateError::sql("read what was included", source);
                let mut select = connection
                    .prepare("SELECT name FROM mark WHERE name >= 'included' AND name < 'includee'")
                    .map_err(sql)?;
                let names = select
                    .query_map([], |row| row.get::<_, String>(0))
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(sql)?;
                let is_noted = !names.is_empty();
                let pattern = |name: &String| {
                    let found = name.strip_prefix(INCLUDED).map(|pattern| (pattern, true));
                    let none = || Some((name.strip_prefix(INCLUDED_NONE)?, false));
                    let (pattern, has_files) = found.or_else(none)?;
                    Some((pattern.to_owned(), has_files))
                };
                let patterns = names.iter().filter_map(pattern);
                let patterns = patterns.filter(|(pattern, _)| !pattern.is_empty());
                Ok(is_noted.then(|| patterns.collect()))
            })
            .await
    }

    /// Records the patterns of the configuration in force.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn note_included(
        &self,
        patterns: IncludedBefore,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.change(move |connection| {
            let sql = |source| StateError::sql("note what was included", source);
            connection
                .execute(
                    "DELETE FROM mark WHERE name >= 'included' AND name < 'includee'",
                    [],
                )
                .map_err(sql)?;
            let mut insert = connection
                .prepare("INSERT OR REPLACE INTO mark (name, at) VALUES (?1, ?2)")
                .map_err(sql)?;
            let noted = patterns.iter().map(|(pattern, has_files)| {
                let prefix = if *has_files { INCLUDED } else { INCLUDED_NONE };
                format!("{prefix}{pattern}")
            });
            for name in std::iter::once(INCLUDED.to_owned()).chain(noted) {
                insert.execute(params![name, now.millis()]).map_err(sql)?;
            }
            Ok(())
        })
        .await
    }

    /// The portals with a live grant whose token files are kept, since a possibly incomplete configuration does not name them.
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

/// Those of these portals whose grant is alive. Portals of an app's installs are left out on purpose if the app is configured
/// without installs.
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

/// Ends keeping token files: portals that the configuration does not name are removed on purpose.
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
