//! The one writer: commits whatever waits together (group commit), so that durability costs one fsync for many.
//!
//! Must not know what the jobs do. A job that fails undoes itself alone; a commit that fails fails all of it.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StateError;

/// Most jobs in one transaction.
const LARGEST_BATCH: usize = 256;

/// Work for a connection's owner.
pub(super) trait Job: Send {
    /// Does the work inside the transaction.
    fn apply(&mut self, connection: &Connection) -> Result<(), StateError>;
    /// Hands the result over, once it is durable, or the reason why it is not.
    fn answer(self: Box<Self>, committed: Result<(), StateError>);
}

struct Typed<T, F> {
    work: Option<F>,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StateError>>,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T, StateError> + Send> Job for Typed<T, F> {
    fn apply(&mut self, connection: &Connection) -> Result<(), StateError> {
        let work = self.work.take().ok_or(StateError::Stopped)?;
        self.result = Some(work(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StateError>) {
        let Typed { work: _, result, reply } = *self;
        // Whoever asked may have gone; what is durable stays durable.
        let _ = reply.send(committed.and_then(|()| result.ok_or(StateError::Stopped)));
    }
}

/// Sends work to the owner of a connection.
#[derive(Clone)]
pub(super) struct Port(mpsc::Sender<Box<dyn Job>>);

impl Port {
    pub(super) fn new() -> (Self, mpsc::Receiver<Box<dyn Job>>) {
        let (sender, receiver) = mpsc::channel(4096);
        (Self(sender), receiver)
    }

    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StateError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Typed { work: Some(work), result: None, reply });
        self.0.send(job).await.map_err(|_| StateError::Stopped)?;
        answer.await.map_err(|_| StateError::Stopped)?
    }
}

/// Owns the writing connection. `run` it on a thread of its own.
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) jobs: mpsc::Receiver<Box<dyn Job>>,
    pub(super) _lock: super::schema::Lock,
}

impl Writer {
    /// Serves until every handle is gone.
    pub fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < LARGEST_BATCH
                && let Ok(job) = self.jobs.try_recv()
            {
                batch.push(job);
            }
            self.commit(batch);
        }
        // Tidy, not needed: the next start would recover the log.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn commit(&self, batch: Vec<Box<dyn Job>>) {
        let begun = self.sql("begin", "BEGIN IMMEDIATE");
        if let Err(error) = begun {
            return fail(batch, &Arc::new(error));
        }
        let mut done = Vec::with_capacity(batch.len());
        let mut waiting = batch.into_iter();
        while let Some(mut job) = waiting.next() {
            let applied = self.sql("savepoint", "SAVEPOINT job").and_then(|()| job.apply(&self.connection));
            match applied.and_then(|()| self.sql("release", "RELEASE job")) {
                Ok(()) => done.push(job),
                Err(error) => {
                    let _ = self.connection.execute_batch("ROLLBACK TO job; RELEASE job");
                    if self.connection.is_autocommit() {
                        // SQLite undid the whole transaction, as on a full disk. Each further savepoint would be
                        // a transaction of its own, made durable while its caller is told that it was not.
                        done.push(job);
                        done.extend(waiting);
                        return fail(done, &Arc::new(error));
                    }
                    job.answer(Err(error));
                }
            }
        }
        match self.sql("commit", "COMMIT") {
            Ok(()) => done.into_iter().for_each(|job| job.answer(Ok(()))),
            Err(error) => {
                let _ = self.connection.execute_batch("ROLLBACK");
                fail(done, &Arc::new(error));
            }
        }
    }

    fn sql(&self, stage: &'static str, sql: &str) -> Result<(), StateError> {
        let mut statement =
            self.connection.prepare_cached(sql).map_err(|source| StateError::sql(stage, source))?;
        statement.execute([]).map(|_| ()).map_err(|source| StateError::sql(stage, source))
    }
}

fn fail(batch: Vec<Box<dyn Job>>, error: &Arc<StateError>) {
    for job in batch {
        job.answer(Err(StateError::Commit(Arc::clone(error))));
    }
}

/// Owns a connection that only reads. `run` it on a thread of its own.
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) jobs: mpsc::Receiver<Box<dyn Job>>,
}

impl Reader {
    /// Serves until every handle is gone.
    pub fn run(mut self) {
        while let Some(mut job) = self.jobs.blocking_recv() {
            let done = job.apply(&self.connection);
            job.answer(done);
        }
    }
}
