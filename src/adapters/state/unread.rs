//! Unreadable responses: kept until a renewal succeeds, the operator discards them, or they can be parsed after all.
//!
//! Must not let one replace a grant that has moved on since its request.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::error::StateError;
use super::handle::State;
use crate::domain::kept_reply::{KeptCount, KeptReply, ReplyTo, SentToken, UnreadableReply};
use crate::domain::name::PortalName;
use refreshd_secrets::{Fingerprint, ReplyBody};
use refreshd_time::Timestamp;
use refreshd_token_client::token::Generation;

/// Number kept for each portal: the first one after a token was sent is the likeliest to hold the pair, the others are the newest.
const MAX_KEPT: usize = 3;

/// Values of the column `authorization`: the request that a response answers.
const RENEWAL: i64 = 0;
const AUTHORIZATION: i64 = 1;
const WITHOUT_REFRESH: i64 = 2;

impl State {
    /// Keeps a response to an authorization.
    ///
    /// # Errors
    /// [`StateError`]; then it is not kept, and the caller must hold it and try again.
    pub async fn keep_reply(
        &self,
        portal: PortalName,
        reply: std::sync::Arc<UnreadableReply>,
    ) -> Result<(), StateError> {
        self.write
            .run(move |connection| keep(connection, &portal, &reply))
            .await
    }

    /// The kept responses of a portal, oldest first.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn kept_replies(&self, portal: PortalName) -> Result<Vec<KeptReply>, StateError> {
        self.read
            .run(move |connection| kept(connection, &portal))
            .await
    }

    /// Number of kept responses of each portal whose name lies between these two, inclusive; of all for `None`.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn kept_counts(
        &self,
        range: Option<(PortalName, PortalName)>,
    ) -> Result<BTreeMap<String, KeptCount>, StateError> {
        self.read
            .run(move |connection| counts(connection, range.as_ref()))
            .await
    }

    /// Removes the kept responses of a portal; returns their number.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn discard_replies(&self, portal: PortalName) -> Result<usize, StateError> {
        self.write
            .run(move |connection| discard(connection, &portal))
            .await
    }
}

pub(super) fn keep(
    connection: &Connection,
    portal: &PortalName,
    reply: &UnreadableReply,
) -> Result<(), StateError> {
    let sql = |source| StateError::sql("keep a reply that could not be read", source);
    let UnreadableReply {
        at,
        answers,
        status,
        content_type,
        content_encoding,
        whole,
        body,
    } = reply;
    let (kind, sent) = match answers {
        ReplyTo::Renewal(sent) => (RENEWAL, Some(*sent)),
        ReplyTo::WithoutRefresh(sent) => (WITHOUT_REFRESH, Some(*sent)),
        ReplyTo::Authorization => (AUTHORIZATION, sent_now(connection, portal).map_err(sql)?),
    };
    let Some(SentToken { generation, token }) = sent else {
        return Ok(());
    };
    let generation = i64::try_from(generation.0).unwrap_or(i64::MAX);
    let token = token.as_ref().map(Fingerprint::bytes);
    // A repeated response adds nothing.
    let known = "SELECT EXISTS (SELECT 1 FROM unread_reply WHERE portal = :portal AND generation = :generation \
        AND sent IS :sent AND body = :body)";
    let columns = named_params! {
        ":portal": portal.as_str(),
        ":generation": generation,
        ":sent": token,
        ":body": body.expose(),
    };
    if connection
        .query_row(known, columns, |row| row.get(0))
        .map_err(sql)?
    {
        return Ok(());
    }
    let insert = "INSERT INTO unread_reply (portal, at, authorization, generation, sent, status, content_type, \
        content_encoding, whole, body) VALUES (:portal, :at, :authorization, :generation, :sent, :status, :content_type, \
        :content_encoding, :whole, :body)";
    let columns = named_params! {
        ":portal": portal.as_str(),
        ":at": at.millis(),
        ":authorization": kind,
        ":generation": generation,
        ":sent": token,
        ":status": status,
        ":content_type": content_type,
        ":content_encoding": content_encoding,
        ":whole": whole,
        ":body": body.expose(),
    };
    connection.execute(insert, columns).map_err(sql)?;
    // Those of earlier tokens are dropped first.
    let mut select = connection
        .prepare_cached(
            "SELECT id FROM unread_reply WHERE portal = ?1 ORDER BY (generation = ?2 AND sent IS ?3), id",
        )
        .map_err(sql)?;
    let rows = select
        .query_map(params![portal.as_str(), generation, token], |row| {
            row.get::<_, i64>(0)
        })
        .map_err(sql)?;
    let ids = rows.collect::<Result<Vec<_>, _>>().map_err(sql)?;
    let same =
        "SELECT count(*) FROM unread_reply WHERE portal = ?1 AND generation = ?2 AND sent IS ?3";
    let same: usize = connection
        .query_row(same, params![portal.as_str(), generation, token], |row| {
            row.get::<_, i64>(0)
        })
        .map(|count| usize::try_from(count).unwrap_or_default())
        .map_err(sql)?;
    let earlier = ids.len().saturating_sub(same);
    let too_many = ids.len().saturating_sub(MAX_KEPT);
    let first = ids.get(earlier).copied();
    let gone = ids.iter().filter(|id| Some(**id) != first).take(too_many);
    for id in gone {
        connection
            .execute("DELETE FROM unread_reply WHERE id = ?1", [id])
            .map_err(sql)?;
    }
    Ok(())
}

/// The present grant of a portal, or that it has none; `None` for no such portal.
pub(super) fn sent_now(
    connection: &Connection,
    portal: &PortalName,
) -> rusqlite::Result<Option<SentToken>> {
    connection
        .query_row(
            "SELECT CASE WHEN refresh_token IS NULL THEN 0 ELSE generation END AS generation, fingerprint FROM portal WHERE name = ?1",
            [portal.as_str()],
            |row| sent_token(row, "fingerprint"),
        )
        .optional()
}

/// The token of a row by its `generation`, and by its fingerprint in that column.
fn sent_token(row: &Row<'_>, fingerprint: &str) -> rusqlite::Result<SentToken> {
    let token: Option<[u8; 32]> = row.get(fingerprint)?;
    Ok(SentToken {
        generation: Generation(u64::try_from(row.get::<_, i64>("generation")?).unwrap_or_default()),
        token: token.map(Fingerprint::from_bytes),
    })
}

fn kept(connection: &Connection, portal: &PortalName) -> Result<Vec<KeptReply>, StateError> {
    let sql = |source| StateError::sql("read the kept replies", source);
    let mut select = connection
        .prepare_cached(
            "SELECT id, at, authorization, generation, sent, status, content_type, content_encoding, whole, body \
             FROM unread_reply WHERE portal = ?1 ORDER BY id",
        )
        .map_err(sql)?;
    let rows = select.query_map([portal.as_str()], reply).map_err(sql)?;
    rows.collect::<Result<_, _>>().map_err(sql)
}

fn reply(row: &Row<'_>) -> rusqlite::Result<KeptReply> {
    let sent = sent_token(row, "sent")?;
    Ok(KeptReply {
        id: row.get("id")?,
        reply: UnreadableReply {
            at: Timestamp::from_millis(row.get("at")?),
            answers: match row.get::<_, i64>("authorization")? {
                RENEWAL => ReplyTo::Renewal(sent),
                WITHOUT_REFRESH => ReplyTo::WithoutRefresh(sent),
                _ => ReplyTo::Authorization,
            },
            status: row.get("status")?,
            content_type: row.get("content_type")?,
            content_encoding: row.get("content_encoding")?,
            whole: row.get("whole")?,
            body: ReplyBody::new(row.get("body")?),
        },
        sent,
    })
}

fn counts(
    connection: &Connection,
    range: Option<&(PortalName, PortalName)>,
) -> Result<BTreeMap<String, KeptCount>, StateError> {
    let sql = |source| StateError::sql("count the kept replies", source);
    let mut select = connection
        .prepare_cached(
            "SELECT portal, count(*) AS count, max(at) AS newest FROM unread_reply WHERE ?1 IS NULL OR portal BETWEEN ?1 AND ?2 GROUP BY portal",
        )
        .map_err(sql)?;
    let (from, to) = range.map(|(from, to)| (from.as_str(), to.as_str())).unzip();
    let rows = select
        .query_map(params![from, to], |row| {
            let count = u64::try_from(row.get::<_, i64>("count")?).unwrap_or_default();
            Ok((
                row.get("portal")?,
                KeptCount {
                    count,
                    newest: Timestamp::from_millis(row.get("newest")?),
                },
            ))
        })
        .map_err(sql)?;
    rows.collect::<Result<_, _>>().map_err(sql)
}

pub(super) fn discard(connection: &Connection, portal: &PortalName) -> Result<usize, StateError> {
    connection
        .prepare_cached("DELETE FROM unread_reply WHERE portal = ?1")
        .and_then(|mut statement| statement.execute([portal.as_str()]))
        .map_err(|source| StateError::sql("remove kept replies", source))
}

/// Like [`discard`] after a renewal, but for responses to a candidate, whose token has no generation, and for those without a
/// refresh token while the grant still has the sent token: they answer its new generation, too.
pub(super) fn discard_answered(
    connection: &Connection,
    portal: &PortalName,
    generation: i64,
) -> Result<(), StateError> {
    let sql = |source| StateError::sql("remove kept replies", source);
    let unmoved = "authorization = ?2 AND sent IS (SELECT fingerprint FROM portal WHERE name = ?1)";
    let delete = format!(
        "DELETE FROM unread_reply WHERE portal = ?1 AND (generation > 0 OR authorization = ?3) AND NOT ({unmoved})"
    );
    connection
        .prepare_cached(&delete)
        .and_then(|mut statement| {
            statement.execute(params![portal.as_str(), WITHOUT_REFRESH, AUTHORIZATION])
        })
        .map_err(sql)?;
    let update = format!("UPDATE unread_reply SET generation = ?3 WHERE portal = ?1 AND {unmoved}");
    connection
        .prepare_cached(&update)
        .and_then(|mut statement| {
            statement.execute(params![portal.as_str(), WITHOUT_REFRESH, generation])
        })
        .map(|_| ())
        .map_err(sql)
}
