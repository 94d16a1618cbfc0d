//! Metadata of authorization servers, kept so that a start does not depend on their availability.
//!
//! Must not judge it: `domain::metadata` does.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::StateError;
use super::handle::State;
use refreshd_time::Timestamp;

impl State {
    /// An issuer's last known metadata, and its time.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn metadata(
        &self,
        issuer: String,
    ) -> Result<Option<(Vec<u8>, Timestamp)>, StateError> {
        self.read
            .run(move |connection| {
                connection
                    .query_row(
                        "SELECT body, at FROM metadata WHERE issuer = ?1",
                        [&issuer],
                        |row| Ok((row.get("body")?, Timestamp::from_millis(row.get("at")?))),
                    )
                    .optional()
                    .map_err(|source| StateError::sql("read an issuer's metadata", source))
            })
            .await
    }

    /// Sets the discovered endpoint for the portals of these apps that had none.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn complete_apps(&self, apps: Vec<(String, String)>) -> Result<(), StateError> {
        self.change(move |connection| complete_apps(connection, &apps))
            .await
    }

    /// Stores an issuer's metadata.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn keep_metadata(
        &self,
        issuer: String,
        body: Vec<u8>,
        at: Timestamp,
    ) -> Result<(), StateError> {
        self.change(move |connection| {
            let keep = "INSERT OR REPLACE INTO metadata (issuer, body, at) VALUES (?1, ?2, ?3)";
            let kept = connection.execute(keep, params![issuer, body, at.millis()]);
            kept.map(|_| ())
                .map_err(|source| StateError::sql("keep an issuer's metadata", source))
        })
        .await
    }
}

fn complete_apps(connection: &Connection, apps: &[(String, String)]) -> Result<(), StateError> {
    let sql = |source| StateError::sql("follow an issuer's metadata", source);
    for (app, url) in apps {
        let found = "UPDATE portal SET config_url = ?2, \
            token_url = CASE WHEN token_url = '' THEN ?2 ELSE token_url END WHERE app = ?1 AND config_url = ''";
        connection.execute(found, params![app, url]).map_err(sql)?;
    }
    Ok(())
}
