//! The SQLite engine: the promises of the state, and its own behaviour, on real files.

mod files;
mod reading;
mod reserving;
mod writer;

use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use super::conformance::*;
use super::*;
use crate::domain::portal::{Kind, Phase, Portal};
use refreshd_secrets::RefreshToken;
use refreshd_token_client::provider::Class;
use refreshd_token_client::token::Generation;

suite!(Sqlite);

type Rig = conformance::Rig<Sqlite>;

/// A state in its own directory, with its workers.
pub struct Sqlite {
    folder: tempfile::TempDir,
    workers: [JoinHandle<()>; 2],
}

impl Sqlite {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no daemon to spawn the workers"
    )]
    fn open_in(folder: tempfile::TempDir) -> (Self, State) {
        let path = path_in(&folder);
        let (state, writer, reader) = State::open(&path, lock(&path).unwrap()).unwrap();
        let workers = [
            tokio::task::spawn_blocking(move || writer.run()),
            tokio::task::spawn_blocking(move || reader.run()),
        ];
        (Self { folder, workers }, state)
    }

    /// Ends the workers, as a stop does; every handle has been dropped.
    async fn close(self) -> tempfile::TempDir {
        for worker in self.workers {
            worker.await.unwrap();
        }
        self.folder
    }
}

impl Engine for Sqlite {
    async fn open() -> (Self, State) {
        Self::open_in(tempfile::tempdir().unwrap())
    }

    async fn reopen(self) -> (Self, State) {
        Self::open_in(self.close().await)
    }

    fn superseded(&self) -> Vec<(String, String, String)> {
        let connection = schema::open_reader(&path_in(&self.folder)).unwrap();
        let mut statement = connection
            .prepare("SELECT portal, why, refresh_token FROM superseded ORDER BY id")
            .unwrap();
        let rows = statement
            .query_map([], |row| {
                Ok((
                    row.get("portal")?,
                    row.get("why")?,
                    row.get("refresh_token")?,
                ))
            })
            .unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn spoil(&self, what: Spoiled<'_>) {
        let sql = match what {
            Spoiled::Row(portal, part) => {
                let how = match part {
                    Part::Details => "details = '{\"scope\": 7'",
                    Part::Phase => "phase = 'exalted'",
                    Part::Problem => "phase = 'retrying', since = 1, problem = 'oops'",
                    Part::Attempt => "attempt = -3",
                    Part::BoundTo => "bound_to = x'00'",
                    Part::Bindings => "bound_to = NULL, binding = NULL",
                    Part::Settings => "settings = '[]'",
                    Part::Notified => "notified = 'gossip'",
                };
                format!("UPDATE portal SET {how} WHERE name = '{portal}'")
            }
            Spoiled::RowWithoutName(name) => format!("INSERT INTO portal (name) VALUES ('{name}')"),
            Spoiled::Incident(key) => {
                format!("UPDATE incident SET body = 'gossip' WHERE key = '{key}'")
            }
            Spoiled::QueuedAlert(id) => format!("UPDATE outbox SET body = '{{}}' WHERE id = {id}"),
        };
        let connection = rusqlite::Connection::open(path_in(&self.folder)).unwrap();
        connection.execute_batch(&sql).unwrap();
    }
}

impl Rig {
    fn open(folder: tempfile::TempDir) -> Self {
        let (engine, state) = Sqlite::open_in(folder);
        Self { state, engine }
    }

    async fn close(self) -> tempfile::TempDir {
        let Self { state, engine } = self;
        drop(state);
        engine.close().await
    }

    fn path(&self) -> PathBuf {
        path_in(&self.engine.folder)
    }
}

fn path_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("state.db")
}
