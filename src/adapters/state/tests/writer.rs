//! Jobs that are committed together.

use rusqlite::Connection;

use super::*;

const ADD: &str = "INSERT INTO app (name, fingerprint) VALUES (?1, x'00')";

fn add(connection: &Connection, app: &str) -> Result<(), StateError> {
    let added = connection.execute(ADD, [app]);
    added
        .map(|_| ())
        .map_err(|source| StateError::sql("add an app", source))
}

fn apps(path: &Path) -> Vec<String> {
    let connection = schema::open_reader(path).unwrap();
    let mut statement = connection
        .prepare("SELECT name FROM app ORDER BY name")
        .unwrap();
    let names = statement.query_map([], |row| row.get(0)).unwrap();
    names.collect::<Result<_, _>>().unwrap()
}

/// A state whose writer starts only after all jobs have been queued, so that they are one batch.
struct Batch {
    folder: tempfile::TempDir,
    state: State,
    writer: WriterThread,
}

impl Batch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(&folder);
        let (state, writer, _) = State::open(&path, lock(&path).unwrap()).unwrap();
        Self {
            folder,
            state,
            writer,
        }
    }

    /// Results of three jobs; the middle one is given.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no daemon to spawn the worker"
    )]
    async fn run(
        self,
        middle: impl Fn(&Connection) -> Result<(), StateError> + Send + 'static,
    ) -> (tempfile::TempDir, [Result<(), StateError>; 3]) {
        let Self {
            folder,
            state,
            writer,
        } = self;
        let port = &state.write;
        let mut worker = None;
        let ((first, second, third), ()) = tokio::join!(
            async {
                tokio::join!(
                    port.run(|connection| add(connection, "first")),
                    port.run(middle),
                    port.run(|connection| add(connection, "third"))
                )
            },
            // Polled after the others, which have sent their jobs by then.
            async { worker = Some(tokio::task::spawn_blocking(move || writer.run())) }
        );
        drop(state);
        worker.unwrap().await.unwrap();
        (folder, [first, second, third])
    }
}

#[tokio::test]
async fn a_job_that_fails_fails_alone() {
    let (folder, results) = Batch::new()
        .run(|connection| {
            add(connection, "second")?;
            add(connection, "first")
        })
        .await;
    assert!(
        matches!(
            results,
            [
                Ok(()),
                Err(StateError::Sql {
                    stage: "add an app",
                    ..
                }),
                Ok(())
            ]
        ),
        "{results:?}"
    );
    assert_eq!(apps(&path_in(&folder)), ["first", "third"]);
}

/// SQLite undoes the whole transaction by itself when the disk is full. The callers' results must match what is stored.
#[tokio::test]
async fn a_transaction_that_is_gone_fails_every_job_of_it() {
    let (folder, results) = Batch::new()
        .run(|connection| {
            connection
                .execute_batch("ROLLBACK")
                .map_err(|source| StateError::sql("undo", source))?;
            Err(StateError::Unrepresentable)
        })
        .await;
    assert!(
        results
            .iter()
            .all(|results| matches!(results, Err(StateError::Commit(_)))),
        "{results:?}"
    );
    assert_eq!(
        apps(&path_in(&folder)),
        [""; 0],
        "a caller got an error for a job that is stored"
    );
}

#[tokio::test]
async fn a_full_disk_is_told_to_every_job() {
    let batch = Batch::new();
    batch
        .writer
        .connection
        .execute_batch("PRAGMA max_page_count = 1")
        .unwrap();
    let (folder, results) = batch
        .run(|connection| {
            let filled = connection.execute(ADD, ["x".repeat(1 << 20)]);
            filled
                .map(|_| ())
                .map_err(|source| StateError::sql("fill", source))
        })
        .await;
    let stored = apps(&path_in(&folder));
    for (job, name) in [(0, "first"), (2, "third")] {
        assert_eq!(
            results[job].is_ok(),
            stored.contains(&name.to_owned()),
            "{results:?}: {stored:?}"
        );
    }
    assert!(results[1].is_err());
}
