//! The only writer: commits all waiting jobs together (group commit), so that one fsync makes many durable.
//!
//! Must not know the jobs. A failed job is undone alone; a failed commit fails all of it. A batch is tried without savepoints
//! first, since jobs hardly ever fail, so a job must tolerate being run twice.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::StateError;
use super::place::Place;

/// Maximum number of jobs in one transaction.
const MAX_BATCH: usize = 256;

/// Work for a connection's owner.
pub(super) trait DbJob: Send {
    /// Does the work inside the transaction; again after a rollback.
    fn apply(&mut self, connection: &Connection) -> Result<(), StateError>;
    /// Passes the result to the caller, once it is durable, or the reason why it is not.
    fn answer(self: Box<Self>, committed: Result<(), StateError>);
}

struct TypedJob<T, F> {
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StateError>>,
}

impl<T: Send, F: Fn(&Connection) -> Result<T, StateError> + Send> DbJob for TypedJob<T, F> {
    fn apply(&mut self, connection: &Connection) -> Result<(), StateError> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StateError>) {
        let TypedJob {
            work: _,
            result,
            reply,
        } = *self;
        // The caller may have dropped its end; durable data stays durable.
        let _ = reply.send(committed.and_then(|()| result.ok_or(StateError::Stopped)));
    }
}

/// Listener for damage of the state.
#[derive(Default)]
pub(super) struct DamageListener(pub(super) OnceLock<OnDamage>);

/// Callback that receives the damage.
pub(super) type OnDamage = Box<dyn Fn(&StateError) + Send + Sync>;

/// Sends work to the owner of a connection.
#[derive(Clone)]
pub(super) struct DbHandle {
    jobs: mpsc::Sender<Box<dyn DbJob>>,
    pub(super) damage: Arc<DamageListener>,
}

impl DbHandle {
    pub(super) fn new(damage: &Arc<DamageListener>) -> (Self, mpsc::Receiver<Box<dyn DbJob>>) {
        let (jobs, receiver) = mpsc::channel(4096);
        let damage = Arc::clone(damage);
        (Self { jobs, damage }, receiver)
    }

    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, StateError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(TypedJob {
            work,
            result: None,
            reply,
        });
        self.jobs.send(job).await.map_err(|_| StateError::Stopped)?;
        let done = answer.await.map_err(|_| StateError::Stopped)?;
        if let (Err(error), Some(listener)) = (&done, self.damage.0.get())
            && error.is_damage()
        {
            listener(error);
        }
        done
    }
}

/// The disk under the daemon, if it is not the machine's: a simulated one, which may fail, delay, or end the process.
pub trait Disk: Send + Sync {
    /// Before a transaction of the state becomes durable. An error: it does not.
    fn before_commit(&self) -> DiskFuture<'_, Result<(), StateError>>;
    /// After it became durable, before the callers are answered.
    fn after_commit(&self) -> DiskFuture<'_, ()>;
    /// Before token files are written, and after.
    fn around_files(&self) -> DiskFuture<'_, ()>;
}

/// A point at which the process may end.
pub type DiskFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Owns the writing connection. `run` it on its own thread.
pub struct WriterThread {
    pub(super) connection: Connection,
    pub(super) jobs: mpsc::Receiver<Box<dyn DbJob>>,
    pub(super) reserve: super::wal_reservation::WalReserve,
    pub(super) watch: super::place::Watch,
    pub(super) _lock: super::schema::Lock,
}

impl WriterThread {
    /// Serves until every handle is dropped.
    pub fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            let batch = self.batch_after(first);
            let durable = self.commit(batch);
            self.reserve.scrub(&self.connection);
            durable.into_iter().for_each(|job| job.answer(Ok(())));
        }
        self.leave();
    }

    /// Like [`Self::run`] in a task, on a simulated disk.
    pub async fn serve(mut self, disk: Arc<dyn Disk>) {
        while let Some(first) = self.jobs.recv().await {
            let batch = self.batch_after(first);
            match disk.before_commit().await {
                Err(error) => fail(batch, &Arc::new(error)),
                Ok(()) => {
                    let durable = self.commit(batch);
                    self.reserve.scrub(&self.connection);
                    disk.after_commit().await;
                    durable.into_iter().for_each(|job| job.answer(Ok(())));
                }
            }
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.stand_at_the_end();
        self.reserve.leave(&self.connection);
    }

    fn batch_after(&mut self, first: Box<dyn DbJob>) -> Vec<Box<dyn DbJob>> {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(job) = self.jobs.try_recv()
        {
            batch.push(job);
        }
        batch
    }

    /// Jobs of a batch that are durable now; the others have been answered.
    fn commit(&mut self, mut batch: Vec<Box<dyn DbJob>>) -> Vec<Box<dyn DbJob>> {
        self.stand();
        self.reserve.keep(&self.connection);
        if let Err(error) = self.sql("begin", "BEGIN IMMEDIATE") {
            fail(batch, &Arc::new(error));
            return Vec::new();
        }
        let failed = batch
            .iter_mut()
            .any(|job| job.apply(&self.connection).is_err());
        let done = if failed {
            self.apply_one_by_one(batch)
        } else {
            batch
        };
        if done.is_empty() {
            let _ = self.connection.execute_batch("ROLLBACK");
            return done;
        }
        if let Err(error) = self.sql("commit", "COMMIT") {
            let _ = self.connection.execute_batch("ROLLBACK");
            fail(done, &Arc::new(error));
            return Vec::new();
        }
        done
    }

    /// Starts again, with a savepoint for each job; failed ones are answered, the others are returned.
    fn apply_one_by_one(&self, batch: Vec<Box<dyn DbJob>>) -> Vec<Box<dyn DbJob>> {
        // SQLite may have rolled back by itself, and then there is nothing to do.
        let _ = self.connection.execute_batch("ROLLBACK");
        if let Err(error) = self.sql("begin", "BEGIN IMMEDIATE") {
            fail(batch, &Arc::new(error));
            return Vec::new();
        }
        let mut done = Vec::with_capacity(batch.len());
        let mut batch = batch.into_iter();
        while let Some(mut job) = batch.next() {
            let applied = self
                .sql("savepoint", "SAVEPOINT job")
                .and_then(|()| job.apply(&self.connection));
            let Err(error) = applied.and_then(|()| self.sql("release", "RELEASE job")) else {
                done.push(job);
                continue;
            };
            if self
                .connection
                .execute_batch("ROLLBACK TO job; RELEASE job")
                .is_ok()
            {
                job.answer(Err(error));
                continue;
            }
            // The whole transaction is gone. Without it each job would commit alone, although it was answered with an error.
            done.push(job);
            done.extend(batch);
            fail(done, &Arc::new(error));
            return Vec::new();
        }
        done
    }

    fn sql(&self, stage: &'static str, sql: &str) -> Result<(), StateError> {
        let mut statement = self
            .connection
            .prepare_cached(sql)
            .map_err(|source| StateError::sql(stage, source))?;
        statement
            .execute([])
            .map(|_| ())
            .map_err(|source| StateError::sql(stage, source))
    }
}

fn fail(batch: Vec<Box<dyn DbJob>>, error: &Arc<StateError>) {
    for job in batch {
        job.answer(Err(StateError::Commit(Arc::clone(error))));
    }
}

/// Owns a connection that only reads. `run` it on its own thread.
pub struct ReaderThread {
    connection: Connection,
    jobs: mpsc::Receiver<Box<dyn DbJob>>,
    place: Arc<Place>,
    edition: u64,
}

impl ReaderThread {
    pub(super) const fn new(
        connection: Connection,
        jobs: mpsc::Receiver<Box<dyn DbJob>>,
        place: Arc<Place>,
    ) -> Self {
        Self {
            connection,
            jobs,
            place,
            edition: 0,
        }
    }

    /// Serves until every handle is dropped.
    pub fn run(mut self) {
        while let Some(mut job) = self.jobs.blocking_recv() {
            self.place.follow(&mut self.edition, &mut self.connection);
            let done = job.apply(&self.connection);
            job.answer(done);
        }
    }

    /// Like [`Self::run`], in a task.
    pub async fn serve(mut self) {
        while let Some(mut job) = self.jobs.recv().await {
            self.place.follow(&mut self.edition, &mut self.connection);
            let done = job.apply(&self.connection);
            job.answer(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(
        row: i64,
        fails: bool,
    ) -> impl Fn(&Connection) -> Result<i64, StateError> + Send + 'static {
        move |connection| {
            let sql = |source| StateError::sql("insert", source);
            connection
                .execute(
                    "INSERT INTO imported_token VALUES (?1, 'acme')",
                    [[row as u8]],
                )
                .map_err(sql)?;
            if fails {
                Err(StateError::Unrepresentable)
            } else {
                Ok(row)
            }
        }
    }

    #[tokio::test]
    async fn a_job_that_fails_undoes_itself_and_no_other_of_its_batch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let lock = super::super::lock(&path).unwrap();
        let connection = super::super::schema::open(&path).unwrap();
        let (port, jobs) = DbHandle::new(&Arc::default());
        let reserve = super::super::wal_reservation::WalReserve::open(&path).unwrap();
        let watch = super::super::place::Watch::open(
            Arc::clone(reserve.room().place()),
            lock.trust().clone(),
        );
        let writer = WriterThread {
            connection,
            jobs,
            reserve,
            watch: watch.unwrap(),
            _lock: lock,
        };
        let mut workers = tokio::task::JoinSet::new();
        let (one, two, three, ()) = tokio::join!(
            port.run(insert(1, false)),
            port.run(insert(2, true)),
            port.run(insert(3, false)),
            // Starts when the three are waiting, so that they are one batch.
            async { drop(workers.spawn_blocking(move || writer.run())) },
        );
        assert_eq!((one.unwrap(), three.unwrap()), (1, 3));
        assert!(matches!(two, Err(StateError::Unrepresentable)));
        let rows = port.run(|connection| {
            let count = connection.query_row(
                "SELECT group_concat(hex(fingerprint)) FROM imported_token",
                [],
                |row| row.get(0),
            );
            count.map_err(|source| StateError::sql("count", source))
        });
        let rows: String = rows.await.unwrap();
        assert_eq!(rows, "01,03");
    }
}
