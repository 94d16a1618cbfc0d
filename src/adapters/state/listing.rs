//! Snapshots for the status, the metrics and the publisher. Must not change anything.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::StateError;
use super::handle::State;
use super::rows::{COLUMNS, portal as read_portal, portals, window};
use crate::domain::escalation::OVERDUE_SHARE;
#[cfg(doc)]
use crate::domain::escalation::Window;
use crate::domain::name::PortalName;
use crate::domain::portal::{Kind, Portal};
use crate::domain::rollback::LostPortals;
use refreshd_time::Timestamp;

/// In the order of the index `portal_kind`, so that nothing is sorted.
pub(super) const KINDS: &str =
    "SELECT kind, count(*) AS count FROM portal WHERE kind <> 'fresh' GROUP BY kind";
/// Reads only rows past their time, by the index `portal_renew`.
pub(super) const PAST_DUE: &str = "SELECT renew_at, issued_at, expires_at, refresh_expires_at, since FROM portal \
    WHERE configured = 1 AND refresh_token IS NOT NULL AND renew_at <= ?1";

/// Number of portals, by kind.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// Each kind that occurs.
    pub kinds: Vec<(Kind, u64)>,
    /// Configured portals whose token is overdue, by [`Window::overdue_at`], or not known to be valid while the grant is lost or
    /// older than its traces.
    pub overdue: u64,
}

impl Census {
    /// Number of portals of this kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.kinds
            .iter()
            .find(|(found, _)| *found == kind)
            .map_or(0, |(_, count)| *count)
    }

    /// All portals.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.kinds.iter().map(|(_, count)| count).sum()
    }
}

impl State {
    /// Grants whose next escalation step has come.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn escalations_due(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Portal>, StateError> {
        self.read
            .run(move |connection| escalations_due(connection, now, limit))
            .await
    }

    /// Time of the next escalation step.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn next_escalation(&self) -> Result<Option<Timestamp>, StateError> {
        self.read.run(next_escalation).await
    }

    /// The fresh portal that is renewed next, and its planned time.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn next_renewal(&self) -> Result<Option<(Timestamp, String)>, StateError> {
        self.read.run(next_renewal).await
    }

    /// One portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn portal(&self, name: PortalName) -> Result<Option<Portal>, StateError> {
        self.read
            .run(move |connection| portal(connection, &name))
            .await
    }

    /// The first portals in the order of their names, at most `limit`.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn first_portals(&self, limit: usize) -> Result<Vec<Portal>, StateError> {
        let mut pages = self.portals().limit(limit).in_pages_of(limit);
        let first = pages.next().await?;
        Ok(first.map_or_else(Vec::new, |page| page.portals))
    }

    /// Number of portals of each kind, and of overdue ones.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn census(&self, now: Timestamp) -> Result<Census, StateError> {
        self.read
            .run(move |connection| census(connection, now))
            .await
    }
}

pub(super) fn portal(
    connection: &Connection,
    name: &PortalName,
) -> Result<Option<Portal>, StateError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM portal WHERE name = ?1"))
        .and_then(|mut statement| statement.query_row([name.as_str()], read_portal).optional())
        .map_err(|source| StateError::sql("read a portal", source))
}

pub(super) fn page_query() -> String {
    format!("SELECT {COLUMNS} FROM portal WHERE name > ?1 ORDER BY name LIMIT ?2")
}

pub(super) fn escalation_query() -> String {
    format!("SELECT {COLUMNS} FROM portal WHERE escalate_at <= ?1 ORDER BY escalate_at LIMIT ?2")
}

pub(super) fn escalations_due(
    connection: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Portal>, StateError> {
    let mut statement = connection
        .prepare_cached(&escalation_query())
        .map_err(|source| StateError::sql("look for escalations", source))?;
    portals(
        &mut statement,
        params![now.millis(), i64::try_from(limit).unwrap_or(i64::MAX)],
    )
}

fn next_renewal(connection: &Connection) -> Result<Option<(Timestamp, String)>, StateError> {
    connection
        .prepare_cached(
            "SELECT name, renew_at FROM portal WHERE configured = 1 AND refresh_token IS NOT NULL AND phase = 'fresh' \
             AND bound_to = binding AND renew_at IS NOT NULL ORDER BY renew_at LIMIT 1",
        )
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| {
                let at = Timestamp::from_millis(row.get("renew_at")?);
                Ok((at, row.get("name")?))
            };
            statement.query_row([], read).optional()
        })
        .map_err(|source| StateError::sql("look for the next renewal", source))
}

pub(super) fn next_escalation(connection: &Connection) -> Result<Option<Timestamp>, StateError> {
    connection
        .prepare_cached("SELECT min(escalate_at) FROM portal WHERE escalate_at IS NOT NULL")
        .and_then(|mut statement| statement.query_row([], |row| super::rows::time(row, 0)))
        .map_err(|source| StateError::sql("look for escalations", source))
}

/// Portals with an open notification.
pub(super) fn troubled_query() -> String {
    format!(
        "SELECT {COLUMNS} FROM portal WHERE notified <> '[]' AND name > ?1 ORDER BY name LIMIT ?2"
    )
}

/// Configured portals whose grant the state has lost.
pub(super) fn count_lost(connection: &Connection) -> Result<u64, StateError> {
    let count = "SELECT count(*) FROM portal WHERE lost IS NOT NULL AND configured = 1 AND refresh_token IS NULL";
    let count = connection
        .prepare_cached(count)
        .and_then(|mut count| count.query_row([], |row| row.get::<_, i64>(0)));
    count
        .map(|count| u64::try_from(count).unwrap_or_default())
        .map_err(|source| StateError::sql("count portals", source))
}

/// Their names.
pub(super) fn lost_portals(connection: &Connection) -> Result<LostPortals, StateError> {
    let names = "SELECT name, lost FROM portal WHERE lost IS NOT NULL AND configured = 1 AND refresh_token IS NULL ORDER BY name";
    let sql = |source| StateError::sql("look for lost grants", source);
    let mut select = connection.prepare_cached(names).map_err(sql)?;
    let found = select
        .query_map([], |row| {
            Ok((row.get::<_, String>("name")?, row.get::<_, i64>("lost")?))
        })
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(sql)?;
    let mut portals = LostPortals::default();
    for (name, newest) in found {
        let of = if newest > 0 {
            &mut portals.lost
        } else {
            &mut portals.doubted
        };
        of.extend(PortalName::parse(&name).ok());
    }
    Ok(portals)
}

/// Condition for a grant that can be sent.
pub(super) fn holds_grants(connection: &Connection) -> Result<bool, StateError> {
    let any = "SELECT EXISTS (SELECT 1 FROM portal WHERE refresh_token <> '')";
    connection
        .query_row(any, [], |row| row.get(0))
        .map_err(|source| StateError::sql("look for grants", source))
}

/// Portals that had a grant and have no published token that is known to be valid.
fn count_lost_and_expired(connection: &Connection, now: Timestamp) -> Result<u64, StateError> {
    let count = "SELECT count(*) FROM portal WHERE lost > 0 AND configured = 1 AND refresh_token IS NULL \
        AND coalesce(expires_at, 0) <= ?1";
    let count = connection
        .prepare_cached(count)
        .and_then(|mut count| count.query_row([now.millis()], |row| row.get::<_, i64>(0)));
    count
        .map(|count| u64::try_from(count).unwrap_or_default())
        .map_err(|source| StateError::sql("count portals", source))
}

/// Portals whose grant is older than its traces and that have no known published token. Others have a window.
fn count_old_without_token(connection: &Connection) -> Result<u64, StateError> {
    let count = "SELECT count(*) FROM portal WHERE kind <> 'fresh' AND kind = ?1 AND configured = 1 \
        AND refresh_token IS NOT NULL AND expires_at IS NULL";
    let count = connection.prepare_cached(count).and_then(|mut count| {
        count.query_row([Kind::OldState.as_str()], |row| row.get::<_, i64>(0))
    });
    count
        .map(|count| u64::try_from(count).unwrap_or_default())
        .map_err(|source| StateError::sql("count portals", source))
}

pub(super) fn census(connection: &Connection, now: Timestamp) -> Result<Census, StateError> {
    let sql = |source| StateError::sql("count portals", source);
    // Fresh is the remainder: there is no index of the many, only of the few that are something else.
    let total: i64 = connection
        .prepare_cached("SELECT count(*) FROM portal")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(sql)?;
    let mut fresh = u64::try_from(total).unwrap_or_default();
    let mut statement = connection.prepare_cached(KINDS).map_err(sql)?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get::<_, String>("kind")?, row.get::<_, i64>("count")?))
        })
        .map_err(sql)?;
    let mut kinds: Vec<(Kind, u64)> = Vec::new();
    for row in rows {
        let (kind, count) = row.map_err(sql)?;
        let count = u64::try_from(count).unwrap_or_default();
        fresh = fresh.saturating_sub(count);
        // A phase that this version does not know.
        let kind = kind.parse().unwrap_or(Kind::Unreadable);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, known)) => *known += count,
            None => kinds.push((kind, count)),
        }
    }
    if fresh > 0 {
        kinds.push((Kind::Fresh, fresh));
    }
    let is_old = kinds.iter().any(|(kind, _)| *kind == Kind::OldState);
    // In the index they are portals without a grant.
    let lost = count_lost(connection)?;
    if lost > 0 {
        kinds
            .iter_mut()
            .filter(|(kind, _)| *kind == Kind::AwaitingAuthorization)
            .for_each(|(_, count)| {
                *count = count.saturating_sub(lost);
            });
        match kinds.iter_mut().find(|(kind, _)| *kind == Kind::OldState) {
            Some((_, count)) => *count += lost,
            None => kinds.push((Kind::OldState, lost)),
        }
    }
    let mut past_due = connection.prepare_cached(PAST_DUE).map_err(sql)?;
    let mut rows = past_due.query([now.millis()]).map_err(sql)?;
    let mut overdue = 0;
    while let Some(row) = rows.next().map_err(sql)? {
        // An unreadable row is counted as that.
        let window = window(row).ok().flatten();
        overdue += u64::from(window.is_some_and(|window| window.overdue_at(OVERDUE_SHARE) <= now));
    }
    if lost > 0 {
        overdue += count_lost_and_expired(connection, now)?;
    }
    if is_old {
        overdue += count_old_without_token(connection)?;
    }
    Ok(Census { kinds, overdue })
}
