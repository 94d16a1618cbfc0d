//! Alerting data that outlives a restart: incidents, queued alerts, silences, marks.
//!
//! Must not decide what is sent. An unreadable row is left out and counted: an alert may be sent twice.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::error::StateError;
use super::handle::State;
use super::rows::to_json;
use refreshd_alerting::outbox::QueuedAlert;
use refreshd_alerting::{AlertChanges, StoredAlerts};
use refreshd_time::Timestamp;

impl State {
    /// Reads all alerting data.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn alerts(&self) -> Result<StoredAlerts, StateError> {
        self.read.run(kept).await
    }

    /// Stores the changes. When it returns, an alert may be sent.
    ///
    /// # Errors
    /// [`StateError`]; then nothing is stored.
    pub async fn store_alerts(&self, keep: AlertChanges) -> Result<(), StateError> {
        self.change(move |connection| write(connection, &keep))
            .await
    }

    /// The apps whose client is refused, with the time of the refusal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn refused_apps(&self) -> Result<BTreeMap<String, Timestamp>, StateError> {
        self.read
            .run(|connection| {
                times(
                    connection,
                    "SELECT name, rejected_since AS at FROM app WHERE rejected_since IS NOT NULL",
                )
            })
            .await
    }

    /// Silenced subjects and the end of each silence; `*` is every subject.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn silences(&self) -> Result<BTreeMap<String, Timestamp>, StateError> {
        self.read
            .run(|connection| {
                times(
                    connection,
                    "SELECT subject AS name, until AS at FROM silence",
                )
            })
            .await
    }

    /// Silences a subject until then, or ends its silence. Removes expired silences.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn silence(
        &self,
        subject: String,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.change(move |connection| {
            let sql = |source| StateError::sql("keep a silence", source);
            connection
                .execute(
                    "DELETE FROM silence WHERE subject = ?1 OR until <= ?2",
                    params![subject, now.millis()],
                )
                .map_err(sql)?;
            if let Some(until) = until {
                let row = params![subject, until.millis()];
                connection
                    .execute("INSERT INTO silence (subject, until) VALUES (?1, ?2)", row)
                    .map_err(sql)?;
            }
            Ok(())
        })
        .await
    }

    /// Time of the last occurrence of a recurring task.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn marked(&self, name: &'static str) -> Result<Option<Timestamp>, StateError> {
        self.read
            .run(move |connection| {
                let at = connection
                    .query_row("SELECT at FROM mark WHERE name = ?1", [name], |row| {
                        row.get(0)
                    })
                    .optional();
                at.map(|at| at.map(Timestamp::from_millis))
                    .map_err(|source| StateError::sql("read a mark", source))
            })
            .await
    }

    /// Records that a recurring task was done.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn mark(&self, name: &'static str, now: Timestamp) -> Result<(), StateError> {
        self.change(move |connection| {
            let row = params![name, now.millis()];
            let marked = connection.execute(
                "INSERT OR REPLACE INTO mark (name, at) VALUES (?1, ?2)",
                row,
            );
            marked
                .map(|_| ())
                .map_err(|source| StateError::sql("keep a mark", source))
        })
        .await
    }
}

fn times(connection: &Connection, query: &str) -> Result<BTreeMap<String, Timestamp>, StateError> {
    let sql = |source| StateError::sql("read silences and refused apps", source);
    let mut statement = connection.prepare_cached(query).map_err(sql)?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get("name")?, Timestamp::from_millis(row.get("at")?)))
        })
        .map_err(sql)?;
    rows.collect::<Result<_, _>>().map_err(sql)
}

fn kept(connection: &Connection) -> Result<StoredAlerts, StateError> {
    let sql = |source| StateError::sql("read the alerts", source);
    let mut kept = StoredAlerts::default();
    let mut statement = connection
        .prepare("SELECT body FROM incident")
        .map_err(sql)?;
    for body in statement
        .query_map([], |row| row.get::<_, String>(0))
        .map_err(sql)?
    {
        match serde_json::from_str(&body.map_err(sql)?) {
            Ok(incident) => kept.incidents.push(incident),
            Err(_) => kept.unreadable += 1,
        }
    }
    let mut statement = connection
        .prepare("SELECT id, channel, first, body FROM outbox ORDER BY id")
        .map_err(sql)?;
    let queued_alert = |row: &rusqlite::Row<'_>| {
        Ok((
            row.get("id")?,
            row.get("channel")?,
            row.get("first")?,
            row.get::<_, String>("body")?,
        ))
    };
    for row in statement.query_map([], queued_alert).map_err(sql)? {
        let (id, channel, first, body) = row.map_err(sql)?;
        match serde_json::from_str(&body) {
            Ok(message) => kept.queued_alerts.push(QueuedAlert {
                id,
                channel,
                first,
                message,
            }),
            Err(_) => kept.unreadable += 1,
        }
    }
    Ok(kept)
}

fn write(connection: &Connection, keep: &AlertChanges) -> Result<(), StateError> {
    let sql = |source| StateError::sql("store alerts", source);
    let AlertChanges {
        incidents,
        forgotten,
        queued_alerts,
        done,
    } = keep;
    for incident in incidents {
        let row = params![incident.key, to_json(incident)?];
        let insert = "INSERT OR REPLACE INTO incident (key, body) VALUES (?1, ?2)";
        connection
            .prepare_cached(insert)
            .and_then(|mut insert| insert.execute(row))
            .map_err(sql)?;
    }
    for key in forgotten {
        connection
            .execute("DELETE FROM incident WHERE key = ?1", [key])
            .map_err(sql)?;
    }
    for QueuedAlert {
        id,
        channel,
        first,
        message,
    } in queued_alerts
    {
        let row = named_params! {
            ":id": id,
            ":channel": channel,
            ":first": first,
            ":body": to_json(message)?,
        };
        let insert = "INSERT OR REPLACE INTO outbox (id, channel, first, body) VALUES (:id, :channel, :first, :body)";
        connection
            .prepare_cached(insert)
            .and_then(|mut insert| insert.execute(row))
            .map_err(sql)?;
    }
    for id in done {
        let delete = "DELETE FROM outbox WHERE id = ?1";
        connection
            .prepare_cached(delete)
            .and_then(|mut delete| delete.execute([id]))
            .map_err(sql)?;
    }
    Ok(())
}
