//! Quarantined grants: nothing is sent for them until the operator decides. Old ones, and invalid rows.
//!
//! Must not lose data: the refresh token stays where it is.

use rusqlite::{Connection, named_params, params};

use super::error::StateError;
use super::grant_columns::Columns;
use super::handle::State;
use super::rows::millis;
use crate::domain::name::PortalName;
use crate::domain::portal::Kind;
use crate::domain::rollback::{LostPortals, RollbackCheck};
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::token::Generation;

impl State {
    /// Quarantines a grant that is older than the published one, if it still is of this generation; false if not.
    ///
    /// # Errors
    /// [`StateError`]; then its refresh token may still be sent.
    pub async fn quarantine_rolled_back(
        &self,
        portal: PortalName,
        from: Generation,
        held: RollbackCheck,
    ) -> Result<bool, StateError> {
        self.write
            .run(move |connection| quarantine_rolled_back(connection, &portal, from, &held))
            .await
    }

    /// Records that the state has lost a portal's grant, whose newest generation is known from outside: nothing is sent for it
    /// until the operator imports a new one. `spent` is the refresh token of its file: no file can import it any more, whatever
    /// happens to the portal. `until` is the expiry of the published token, as far as it is known. False if the state has a
    /// grant, or had one as new.
    ///
    /// # Errors
    /// [`StateError`]; then a spent token may be sent for it.
    pub async fn quarantine_lost(
        &self,
        portal: PortalName,
        newest: Generation,
        spent: Option<Fingerprint>,
        until: Option<Timestamp>,
    ) -> Result<bool, StateError> {
        self.write
            .run(move |connection| {
                quarantine_lost(connection, &portal, newest, spent.as_ref(), until)
            })
            .await
    }

    /// Number of portals that have lost their grant.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn count_lost(&self) -> Result<u64, StateError> {
        self.read.run(super::listing::count_lost).await
    }

    /// The portals that have lost their grant.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn lost_portals(&self) -> Result<LostPortals, StateError> {
        self.read.run(super::listing::lost_portals).await
    }

    /// Returns whether there is a grant that can be sent.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn holds_grants(&self) -> Result<bool, StateError> {
        self.read.run(super::listing::holds_grants).await
    }

    /// Records that a portal without a grant may have had one under another name: its first token is not sent until the operator
    /// decides. False if it has a grant, or is quarantined already.
    ///
    /// # Errors
    /// [`StateError`]; then a spent token may be sent for it.
    pub async fn quarantine_doubted(&self, portal: PortalName) -> Result<bool, StateError> {
        self.write
            .run(move |connection| {
                let hold = "UPDATE portal SET lost = 0 WHERE name = ?1 AND refresh_token IS NULL AND lost IS NULL";
                connection
                    .execute(hold, [portal.as_str()])
                    .map(|changed| changed > 0)
                    .map_err(|source| StateError::sql("hold a portal in doubt", source))
            })
            .await
    }

    /// Quarantines a portal with an invalid row, so that it is not tried again and again; false if it was quarantined before.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn quarantine_unreadable(&self, portal: PortalName) -> Result<bool, StateError> {
        self.write
            .run(move |connection| quarantine_unreadable(connection, &portal))
            .await
    }

    /// Quarantines rows with an invalid name, and returns what they have instead. The configuration cannot name them, so they are
    /// few, if any.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn quarantine_unnamed(&self) -> Result<Vec<String>, StateError> {
        self.write.run(quarantine_unnamed).await
    }
}

fn quarantine_lost(
    connection: &Connection,
    portal: &PortalName,
    newest: Generation,
    spent: Option<&Fingerprint>,
    until: Option<Timestamp>,
) -> Result<bool, StateError> {
    let sql = |source| StateError::sql("hold a portal whose grant was lost", source);
    let number = i64::try_from(newest.0).unwrap_or(i64::MAX);
    let hold = "UPDATE portal SET lost = ?2, generation = ?2, expires_at = ?3 \
        WHERE name = ?1 AND refresh_token IS NULL AND generation < ?2";
    let held = connection
        .execute(hold, params![portal.as_str(), number, millis(until)])
        .map_err(sql)?
        > 0;
    if let Some(spent) = spent.filter(|_| held) {
        let remember = "INSERT OR IGNORE INTO imported_token (fingerprint, portal) VALUES (?1, ?2)";
        connection
            .execute(remember, params![spent.bytes(), portal.as_str()])
            .map_err(sql)?;
    }
    Ok(held)
}

fn quarantine_rolled_back(
    connection: &Connection,
    portal: &PortalName,
    from: Generation,
    held: &RollbackCheck,
) -> Result<bool, StateError> {
    let RollbackCheck {
        generation,
        access,
        details,
        status,
    } = held;
    let columns = Columns::moved(0)
        .access(access.as_ref(), details)?
        .status(status)?;
    let update = format!(
        "UPDATE portal SET {}, generation = :generation, notified = '[]', escalate_at = 0, claim = NULL \
         WHERE name = :name AND generation = :from AND refresh_token IS NOT NULL",
        columns.assignments()
    );
    let number = |generation: &Generation| i64::try_from(generation.0).unwrap_or(i64::MAX);
    let others = named_params! {
        ":name": portal.as_str(),
        ":from": number(&from),
        ":generation": number(generation),
    };
    connection
        .execute(&update, &*columns.with(others))
        .map(|changed| changed > 0)
        .map_err(|source| StateError::sql("hold an old grant", source))
}

/// The grant stays unchanged; its phase names the problem, so that it is counted. An invalid binding would name another
/// client.
pub(super) fn quarantine_unreadable(
    connection: &Connection,
    portal: &PortalName,
) -> Result<bool, StateError> {
    let sql = |source| StateError::sql("hold a portal that cannot be read", source);
    let arguments = params![portal.as_str(), Kind::Unreadable.as_str()];
    let held = "SELECT EXISTS (SELECT 1 FROM portal WHERE name = ?1 AND phase = ?2)";
    let held: bool = connection
        .query_row(held, arguments, |row| row.get(0))
        .map_err(sql)?;
    let hold = "UPDATE portal SET phase = ?2, next_attempt_at = NULL, escalate_at = NULL, claim = NULL, notified = '[\"unreadable\"]', \
        bound_to = CASE WHEN length(bound_to) = 32 THEN bound_to ELSE binding END WHERE name = ?1";
    connection.execute(hold, arguments).map_err(sql)?;
    Ok(!held)
}

fn quarantine_unnamed(connection: &Connection) -> Result<Vec<String>, StateError> {
    let sql = |source| StateError::sql("look for rows without a name", source);
    let mut select = connection
        .prepare("SELECT id, name FROM portal WHERE configured = 0")
        .map_err(sql)?;
    let rows = select
        .query_map([], |row| {
            Ok((row.get::<_, i64>("id")?, row.get::<_, String>("name")?))
        })
        .map_err(sql)?;
    let mut unnamed = Vec::new();
    for row in rows {
        let (id, name) = row.map_err(sql)?;
        if PortalName::parse(&name).is_err() {
            let hold = "UPDATE portal SET next_attempt_at = NULL, escalate_at = NULL, claim = NULL WHERE id = ?1";
            connection.execute(hold, [id]).map_err(sql)?;
            unnamed.push(name.escape_debug().take(100).collect());
        }
    }
    Ok(unnamed)
}
