//! Stores the grant of a response that was unreadable when it arrived. Must not replace a grant that has moved on since.

use rusqlite::{Connection, Row, params};

use super::error::StateError;
use super::grant_store::{NewGrant, StoreOutcome, store_grant};
use super::handle::State;
use super::unread::{discard, sent_now};
use crate::domain::kept_reply::SentToken;
use refreshd_token_client::token::Generation;

/// Result of storing a grant that was parsed from a kept response.
#[derive(Debug, PartialEq, Eq)]
pub enum RecoverOutcome {
    /// It is stored.
    Stored(Generation),
    /// A renewal is pending, which may bring a newer one.
    UnderWay,
    /// The portal has another grant by now.
    MovedOn,
    /// It was refused like any imported grant may be.
    Refused(StoreOutcome),
}

impl State {
    /// Stores the grant of a kept response, if it answers the portal's present grant. Removes the portal's kept responses.
    ///
    /// # Errors
    /// [`StateError`]; then nothing has changed.
    pub async fn recover(
        &self,
        grant: NewGrant,
        sent: SentToken,
        renewal: bool,
    ) -> Result<RecoverOutcome, StateError> {
        self.write
            .run(move |connection| recover(connection, &grant, sent, renewal))
            .await
    }
}

fn recover(
    connection: &Connection,
    grant: &NewGrant,
    sent: SentToken,
    renewal: bool,
) -> Result<RecoverOutcome, StateError> {
    let sql = |source| StateError::sql("store the grant of a kept reply", source);
    let portal = &grant.portal;
    if sent_now(connection, portal).map_err(sql)? != Some(sent) {
        return Ok(RecoverOutcome::MovedOn);
    }
    let columns = "SELECT claim IS NOT NULL AS is_claimed, user_id FROM portal WHERE name = ?1";
    let read = |row: &Row<'_>| Ok((row.get("is_claimed")?, row.get("user_id")?));
    let (claimed, user): (bool, Option<String>) = connection
        .query_row(columns, [portal.as_str()], read)
        .map_err(sql)?;
    if claimed {
        return Ok(RecoverOutcome::UnderWay);
    }
    let generation = match store_grant(connection, grant)? {
        StoreOutcome::Stored(generation) => generation,
        other => return Ok(RecoverOutcome::Refused(other)),
    };
    if renewal {
        // The grant belongs to the same user.
        let update = "UPDATE portal SET user_id = ?2 WHERE name = ?1";
        connection
            .execute(update, params![portal.as_str(), user])
            .map_err(sql)?;
    }
    discard(connection, portal)?;
    Ok(RecoverOutcome::Stored(generation))
}
