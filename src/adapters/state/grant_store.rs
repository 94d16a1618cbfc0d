//! Stored and forgotten grants. They win over a pending renewal: its claim is gone when it records.
//!
//! Must not store one grant for two portals: the next rotation would end the other's.

use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use std::sync::Arc;

use super::candidate_rows::{drop_candidate, forget_candidate};
use super::clients;
use super::disputes;
use super::error::StateError;
use super::grant_columns::{Columns, stored};
use super::handle::State;
use super::holders::{holder, is_spent};
use super::rows::{COLUMNS, portals};
use super::unread;
use crate::domain::name::PortalName;
use crate::domain::portal::{GrantStatus, Portal};
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::token::{Generation, Tokens};

/// A grant to store.
#[derive(Debug, Clone)]
pub struct NewGrant {
    /// A configured portal.
    pub portal: PortalName,
    /// Its tokens.
    pub tokens: Tokens,
    /// The grant's owner, if known.
    pub identity: Option<String>,
    /// The client and authority it belongs to.
    pub bound_to: Fingerprint,
    /// Token endpoint of the first renewal.
    pub token_url: String,
    /// Its status: due at once, unless it is verified.
    pub status: GrantStatus,
    /// The app whose client the server has just accepted: neither the client nor this grant has a problem any more.
    pub proven: Option<String>,
    /// Time of receipt.
    pub now: Timestamp,
}

/// Result of storing a grant.
#[derive(Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// It is stored.
    Stored(Generation),
    /// Another portal has, or had, this very refresh token.
    HeldBy(String),
    /// This portal had it before, and has exchanged it for a newer one since.
    Spent,
    /// The portal is not configured.
    Unknown,
}

impl State {
    /// Stores a grant. It wins over a pending renewal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn store_grant(&self, grant: NewGrant) -> Result<StoreOutcome, StateError> {
        self.keep(move |connection| store_grant(connection, &grant))
            .await
    }

    /// Forgets a grant, so that its tokens are in no file of the state any more; false if there was none. A portal that is not
    /// configured, or that an install created, is removed completely.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn forget(&self, portal: PortalName) -> Result<bool, StateError> {
        let room = Arc::clone(&self.room);
        self.keep(move |connection| {
            room.forget();
            forget(connection, &portal)
        })
        .await
    }

    /// Portals that wait for a first refresh token, or for a better one, from their file.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn awaiting_files(&self) -> Result<Vec<Portal>, StateError> {
        self.read.run(awaiting_files).await
    }

    /// Portals of these apps that have no grant of their client yet.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn awaiting_clients(&self, apps: Vec<String>) -> Result<Vec<Portal>, StateError> {
        self.read
            .run(move |connection| awaiting_clients(connection, &apps))
            .await
    }
}

pub(super) fn store_grant(
    connection: &Connection,
    grant: &NewGrant,
) -> Result<StoreOutcome, StateError> {
    let NewGrant {
        portal,
        tokens,
        proven,
        now,
        ..
    } = grant;
    let sql = |source| StateError::sql("store a grant", source);
    let (_, fingerprint) = stored(&tokens.credential);
    if let Some(fingerprint) = &fingerprint {
        if let Some(holder) = holder(connection, fingerprint, portal).map_err(sql)? {
            return Ok(StoreOutcome::HeldBy(holder));
        }
        if is_spent(connection, fingerprint, portal).map_err(sql)? {
            return Ok(StoreOutcome::Spent);
        }
    }
    let Some(generation) = put(connection, grant, 0)? else {
        return Ok(StoreOutcome::Unknown);
    };
    // The newer grant wins.
    drop_candidate(connection, portal, *now)?;
    if let Some(app) = proven {
        clients::client_accepted(connection, app, portal, *now).map_err(sql)?;
    }
    if let Some(fingerprint) = &fingerprint {
        let remember =
            "INSERT OR REPLACE INTO imported_token (fingerprint, portal) VALUES (?1, ?2)";
        connection
            .execute(remember, params![fingerprint.bytes(), portal.as_str()])
            .map_err(sql)?;
    }
    Ok(StoreOutcome::Stored(generation))
}

/// Replaces a portal's grant; `None` if the portal is not configured. The grant's times move by `moved` milliseconds.
pub(super) fn put(
    connection: &Connection,
    grant: &NewGrant,
    moved: i64,
) -> Result<Option<Generation>, StateError> {
    let NewGrant {
        portal,
        tokens,
        identity,
        bound_to,
        token_url,
        status,
        proven,
        now,
    } = grant;
    let sql = |source| StateError::sql("store a grant", source);
    let columns = Columns::moved(moved)
        .grant(tokens, status)?
        .moment(":renewed_at", Some(*now))
        .moment(":escalate_at", Some(*now));
    let update = format!(
        "UPDATE portal SET {}, generation = generation + 1, identity = :identity, bound_to = :bound_to, \
         token_url = :token_url, claim = NULL, claimed_at = NULL, user_id = NULL, lost = NULL, \
         notified = CASE WHEN :proven THEN '[]' ELSE notified END \
         WHERE name = :name AND configured = 1 RETURNING generation",
        columns.assignments()
    );
    let others = named_params! {
        ":name": portal.as_str(),
        ":identity": identity,
        ":bound_to": bound_to.bytes(),
        ":token_url": token_url,
        ":proven": proven.is_some(),
    };
    let generation: Option<i64> = connection
        .query_row(&update, &*columns.with(others), |row| row.get(0))
        .optional()
        .map_err(sql)?;
    Ok(generation.map(|generation| Generation(u64::try_from(generation).unwrap_or_default())))
}

pub(super) fn forget(connection: &Connection, portal: &PortalName) -> Result<bool, StateError> {
    let sql = |source| StateError::sql("forget a grant", source);
    let forgotten = connection
        .execute(
            "UPDATE portal SET refresh_token = NULL, fingerprint = NULL, access_token = NULL, token_type = NULL, \
             issued_at = NULL, expires_at = NULL, details = NULL, identity = NULL, bound_to = NULL, token_url = NULL, \
             renewed_at = NULL, phase = NULL, attempt = 0, since = NULL, problem = NULL, while_in_doubt = 0, renew_at = NULL, \
             next_attempt_at = NULL, notified = '[]', escalate_at = NULL, claim = NULL, claimed_at = NULL, user_id = NULL, lost = NULL, \
             refresh_expires_at = NULL, refresh_since = NULL, refresh_motion = NULL, notice = NULL, spent = NULL \
             WHERE name = ?1 AND (refresh_token IS NOT NULL OR lost IS NOT NULL)",
            [portal.as_str()],
        )
        .map_err(sql)?;
    let forgotten = forgotten + usize::from(forget_candidate(connection, portal)?);
    connection
        .execute(
            "DELETE FROM superseded WHERE portal = ?1",
            [portal.as_str()],
        )
        .map_err(sql)?;
    unread::discard(connection, portal)?;
    disputes::drop_all(connection, portal)?;
    // The application token of an installation is removed with the last portal that it created.
    connection
        .execute(
            "DELETE FROM installation WHERE (binding, member_id) IN (SELECT binding, member_id FROM portal WHERE name = ?1) \
             AND NOT EXISTS (SELECT 1 FROM portal WHERE member_id = installation.member_id \
             AND portal.binding = installation.binding AND name <> ?1)",
            [portal.as_str()],
        )
        .map_err(sql)?;
    let gone = connection
        .execute(
            "DELETE FROM portal WHERE name = ?1 AND (configured = 0 OR installed_by IS NOT NULL)",
            [portal.as_str()],
        )
        .map_err(sql)?;
    Ok(forgotten + gone > 0)
}

/// Portals of these apps without a grant, or with one of another client.
pub(super) fn awaiting_clients(
    connection: &Connection,
    apps: &[String],
) -> Result<Vec<Portal>, StateError> {
    let sql = |source| StateError::sql("look for awaiting portals", source);
    let query = format!(
        "SELECT {COLUMNS} FROM portal WHERE kind <> 'fresh' AND kind IN ('awaiting-authorization', 'client-changed') AND app = ?1"
    );
    let mut statement = connection.prepare_cached(&query).map_err(sql)?;
    let mut awaiting = Vec::new();
    for app in apps {
        awaiting.extend(portals(&mut statement, [app])?);
    }
    Ok(awaiting)
}

pub(super) fn awaiting_files(connection: &Connection) -> Result<Vec<Portal>, StateError> {
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM portal WHERE kind <> 'fresh' AND kind IN ('awaiting-authorization', 'needs-authorization', 'client-changed') AND lost IS NULL \
             AND settings ->> 'refresh_token_file' IS NOT NULL"
        ))
        .map_err(|source| StateError::sql("look for awaiting portals", source))?;
    portals(&mut statement, [])
}
