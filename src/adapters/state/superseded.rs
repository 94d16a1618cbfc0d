//! Superseded pairs: of another owner, or received too late. Kept until the operator imports them for the right portal.
//!
//! Must not return one except for an import, nor drop one that was not imported.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, named_params, params};

use super::error::StateError;
use super::handle::State;
use crate::domain::candidate::TokenPair;
use crate::domain::name::PortalName;
use refreshd_secrets::AccessToken;
use refreshd_secrets::RefreshToken;
use refreshd_time::Timestamp;
use rusqlite::Connection;

/// A superseded pair.
#[derive(Debug)]
pub struct StoreSuperseded {
    /// Its row.
    pub id: i64,
    /// Its refresh token.
    pub refresh: RefreshToken,
    /// Its owner, if known.
    pub identity: Option<String>,
}

fn sql(source: rusqlite::Error) -> StateError {
    StateError::sql("look for a pair that was put aside", source)
}

impl State {
    /// The newest superseded pair of a portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn superseded_at(
        &self,
        portal: PortalName,
    ) -> Result<Option<StoreSuperseded>, StateError> {
        self.read
            .run(move |connection| {
                let newest = "SELECT id, refresh_token, identity FROM superseded WHERE portal = ?1 AND refresh_token IS NOT NULL \
                     ORDER BY id DESC LIMIT 1";
                let row = connection
                    .query_row(newest, [portal.as_str()], |row| {
                        Ok((
                            row.get("id")?,
                            row.get::<_, String>("refresh_token")?,
                            row.get("identity")?,
                        ))
                    })
                    .optional()
                    .map_err(sql)?;
                let put_aside = |(id, refresh, identity): (_, String, _)| {
                    RefreshToken::new(&refresh).map(|refresh| StoreSuperseded { id, refresh, identity })
                };
                Ok(row.and_then(put_aside))
            })
            .await
    }

    /// Removes a superseded pair after it was stored.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn delete_superseded(&self, id: i64) -> Result<(), StateError> {
        self.change(move |connection| {
            connection
                .execute("DELETE FROM superseded WHERE id = ?1", params![id])
                .map(|_| ())
                .map_err(sql)
        })
        .await
    }

    /// Stores a superseded pair that a portal received: `foreign`, of another owner, or `late`.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn put_pair_aside(
        &self,
        portal: PortalName,
        pair: Arc<TokenPair>,
        why: &'static str,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.change(move |connection| {
            let TokenPair {
                access,
                refresh,
                identity,
            } = &*pair;
            let aside = SupersededPair {
                why,
                access: access.as_ref(),
                refresh: refresh.as_ref(),
                identity: identity.as_deref(),
            };
            store_superseded(connection, &portal, now, &aside)
        })
        .await
    }
}

/// A pair that is kept unused.
pub(super) struct SupersededPair<'a> {
    pub(super) why: &'static str,
    pub(super) access: Option<&'a AccessToken>,
    pub(super) refresh: Option<&'a RefreshToken>,
    pub(super) identity: Option<&'a str>,
}

pub(super) fn store_superseded(
    connection: &Connection,
    portal: &PortalName,
    now: Timestamp,
    aside: &SupersededPair<'_>,
) -> Result<(), StateError> {
    let SupersededPair {
        why,
        access,
        refresh,
        identity,
    } = aside;
    let columns = named_params! {
        ":portal": portal.as_str(),
        ":at": now.millis(),
        ":why": why,
        ":access_token": access.map(|access| access.expose()),
        ":refresh_token": refresh.map(|refresh| refresh.expose()),
        ":identity": identity,
    };
    let insert = "INSERT INTO superseded (portal, at, why, access_token, refresh_token, identity) \
        VALUES (:portal, :at, :why, :access_token, :refresh_token, :identity)";
    let kept = connection.execute(insert, columns);
    kept.map(|_| ())
        .map_err(|source| StateError::sql("keep a pair aside", source))
}
