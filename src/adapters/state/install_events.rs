//! Install events that were acknowledged and not processed yet: a bounded queue that survives the process.
//!
//! Must not be trusted: nothing in an event is verified while it is here.

use rusqlite::{Connection, named_params};

use super::error::StateError;
use super::handle::State;
use refreshd_time::Timestamp;

/// Maximum number of stored events.
const MAX_NOTICES: i64 = 4096;
/// Maximum of their total size in bytes.
const MAX_NOTICE_BYTES: i64 = 32 * 1024 * 1024;

/// An event as received.
#[derive(Clone)]
pub struct NewEvent {
    /// The app's name.
    pub app: String,
    /// The query of its URL.
    pub query: String,
    /// Its form.
    pub body: Vec<u8>,
    /// Sender's address, if the reverse proxy gives it.
    pub source: Option<String>,
    /// Now.
    pub now: Timestamp,
}

/// A stored event.
pub struct StoredEvent {
    /// Its row.
    pub row: i64,
    /// The app's name.
    pub app: String,
    /// The query of its URL.
    pub query: String,
    /// Its form.
    pub body: Vec<u8>,
    /// Sender's address.
    pub source: Option<String>,
}

impl State {
    /// Stores an event until it is processed; its row, or `None` if too many are stored already.
    ///
    /// # Errors
    /// [`StateError`]; it is not stored then.
    pub async fn store_event(&self, notice: NewEvent) -> Result<Option<i64>, StateError> {
        self.keep(move |connection| keep(connection, &notice)).await
    }

    /// Removes a processed event.
    ///
    /// # Errors
    /// [`StateError`]; it is processed again after the next start.
    pub async fn event_done(&self, row: i64) -> Result<(), StateError> {
        self.write
            .run(move |connection| {
                let done = connection.prepare_cached("DELETE FROM install_event WHERE id = ?1");
                let done = done.and_then(|mut statement| statement.execute([row]));
                done.map(|_| ())
                    .map_err(|source| StateError::sql("forget a notice of an install", source))
            })
            .await
    }

    /// The stored events, oldest first.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn waiting_events(&self) -> Result<Vec<StoredEvent>, StateError> {
        self.read.run(waiting).await
    }
}

fn keep(connection: &Connection, notice: &NewEvent) -> Result<Option<i64>, StateError> {
    let sql = |source| StateError::sql("keep a notice of an install", source);
    let NewEvent {
        app,
        query,
        body,
        source,
        now,
    } = notice;
    let kept =
        "SELECT count(*) AS count, coalesce(sum(length(body)), 0) AS bytes FROM install_event";
    let mut kept = connection.prepare_cached(kept).map_err(sql)?;
    let (count, bytes): (i64, i64) = kept
        .query_row([], |row| Ok((row.get("count")?, row.get("bytes")?)))
        .map_err(sql)?;
    if count >= MAX_NOTICES || bytes >= MAX_NOTICE_BYTES {
        return Ok(None);
    }
    let mut insert = connection
        .prepare_cached(
            "INSERT INTO install_event (app, query, body, source, at) VALUES (:app, :query, :body, :source, :at)",
        )
        .map_err(sql)?;
    insert
        .insert(named_params! {
            ":app": app,
            ":query": query,
            ":body": body,
            ":source": source,
            ":at": now.millis(),
        })
        .map(Some)
        .map_err(sql)
}

fn waiting(connection: &Connection) -> Result<Vec<StoredEvent>, StateError> {
    let sql = |source| StateError::sql("look for notices of installs", source);
    let mut statement = connection
        .prepare_cached("SELECT id, app, query, body, source FROM install_event ORDER BY id")
        .map_err(sql)?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(StoredEvent {
            row: row.get("id")?,
            app: row.get("app")?,
            query: row.get("query")?,
            body: row.get("body")?,
            source: row.get("source")?,
        })
    };
    let rows = statement.query_map([], read).and_then(Iterator::collect);
    rows.map_err(sql)
}
