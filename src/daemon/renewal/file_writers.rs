//! Thread pool that accesses token files. Each call has a timeout: a directory that hangs, like a mount whose server is
//! down, delays its own portal only.
//!
//! While a call hangs, no other call is made for that portal, so a late write is never newer than what overwrites it. Must
//! not read the state, nor decide what is written.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::adapters::token_files::{FileError, TokenFiles};
use crate::domain::name::PortalName;

/// Number of threads, and so of calls that may hang before nothing can be written any more.
const WRITERS: usize = 4;
/// Timeout of a call: longer than a merely slow disk needs.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The portal; `None`: the directory of all.
type Subject = Option<PortalName>;
/// Device and inode of the directory of all token files, if requested.
type Identity = Option<(u64, u64)>;
type WriteResult = Result<Identity, FileError>;
type WriteJob = Box<dyn FnOnce(&TokenFiles) -> WriteResult + Send>;

/// Runs jobs on the token files.
pub(crate) struct FileWriters {
    files: Arc<TokenFiles>,
    pool: Option<ThreadPool>,
    hung: BTreeSet<Subject>,
}

struct ThreadPool {
    writers: Vec<Sender<(Subject, WriteJob)>>,
    /// Numbers of the idle threads.
    free: Vec<usize>,
    done: Receiver<Done>,
    limit: Duration,
}

struct Done {
    writer: usize,
    subject: Subject,
    answer: WriteResult,
}

/// One of the threads.
pub(crate) struct FileWriterThread {
    number: usize,
    files: Arc<TokenFiles>,
    jobs: Receiver<(Subject, WriteJob)>,
    done: Sender<Done>,
}

impl FileWriters {
    /// With threads, which the caller must run; they end when this is dropped.
    pub(crate) fn with_threads(files: TokenFiles) -> (Self, Vec<FileWriterThread>) {
        Self::within(files, CALL_TIMEOUT)
    }

    fn within(files: TokenFiles, limit: Duration) -> (Self, Vec<FileWriterThread>) {
        let files = Arc::new(files);
        let (done, dones) = mpsc::channel();
        let (mut writers, mut threads) = (Vec::new(), Vec::new());
        for number in 0..WRITERS {
            let (sender, jobs) = mpsc::channel();
            writers.push(sender);
            threads.push(FileWriterThread {
                number,
                files: Arc::clone(&files),
                jobs,
                done: done.clone(),
            });
        }
        let pool = ThreadPool {
            writers,
            free: (0..WRITERS).collect(),
            done: dones,
            limit,
        };
        let with = Self {
            files,
            pool: Some(pool),
            hung: BTreeSet::new(),
        };
        (with, threads)
    }

    /// On the caller's thread: for a simulation, whose disk never hangs.
    pub(crate) fn in_place(files: TokenFiles) -> Self {
        Self {
            files: Arc::new(files),
            pool: None,
            hung: BTreeSet::new(),
        }
    }

    /// Runs a job on this portal's files, or on the directory of all.
    ///
    /// # Errors
    /// The job's error, or [`ErrorKind::TimedOut`].
    pub(crate) fn run(
        &mut self,
        portal: Option<&PortalName>,
        job: impl FnOnce(&TokenFiles) -> WriteResult + Send + 'static,
    ) -> WriteResult {
        let Some(pool) = &mut self.pool else {
            return job(&self.files);
        };
        while let Ok(done) = pool.done.try_recv() {
            self.hung.remove(&done.subject);
            pool.free.push(done.writer);
        }
        let subject = portal.cloned();
        let limit = pool.limit.as_secs();
        let late = |why: String| {
            let path = self.files.path(portal);
            Err(FileError::at("use", &path)(Error::new(
                ErrorKind::TimedOut,
                why,
            )))
        };
        if self.hung.contains(&subject) {
            return late(HANGS.to_owned());
        }
        let Some(writer) = pool.free.pop() else {
            return late(format!(
                "{HANGS}, as {WRITERS} others do, and no more are tried meanwhile"
            ));
        };
        let given = pool
            .writers
            .get(writer)
            .is_some_and(|to| to.send((subject.clone(), Box::new(job))).is_ok());
        if !given {
            return late("the thread that writes it has ended; this is a bug".to_owned());
        }
        loop {
            match pool.done.recv_timeout(pool.limit) {
                Ok(done) => {
                    pool.free.push(done.writer);
                    if done.writer == writer {
                        return done.answer;
                    }
                    self.hung.remove(&done.subject);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.hung.insert(subject);
                    return late(format!("no answer for {limit} s: {HANGS}"));
                }
            }
        }
    }
}

const HANGS: &str = "its disk, or the server of its mount, hangs";

impl FileWriterThread {
    /// Serves until the last sender is dropped.
    pub(crate) fn run(self) {
        while let Ok((subject, job)) = self.jobs.recv() {
            let answer = job(&self.files);
            let done = Done {
                writer: self.number,
                subject,
                answer,
            };
            if self.done.send(done).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::directory::Trust;

    fn name(text: &str) -> PortalName {
        PortalName::parse(text).unwrap()
    }

    fn writers(folder: &std::path::Path) -> FileWriters {
        let files = TokenFiles::new(folder, Trust::default());
        let (writers, threads) = FileWriters::within(files, Duration::from_millis(50));
        for thread in threads {
            std::thread::Builder::new()
                .spawn(move || thread.run())
                .unwrap();
        }
        writers
    }

    /// Makes a call that hangs until the sender is dropped.
    fn hang(writers: &mut FileWriters, portal: &PortalName) -> (Sender<()>, WriteResult) {
        let (release, held) = mpsc::channel::<()>();
        let answer = writers.run(Some(portal), move |_| {
            let _ = held.recv();
            Ok(None)
        });
        (release, answer)
    }

    fn words(answer: &WriteResult) -> String {
        crate::domain::error_chain::error_chain(answer.as_ref().unwrap_err())
    }

    #[test]
    fn a_call_that_hangs_holds_up_its_own_portal_alone_and_only_while_it_hangs() {
        let folder = tempfile::tempdir().unwrap();
        let mut writers = writers(folder.path());
        let (acme, beta) = (name("acme"), name("beta"));
        let (release, answer) = hang(&mut writers, &acme);
        let said = words(&answer);
        assert!(
            said.contains("/acme") && said.contains("no answer") && said.contains("hangs"),
            "{said}"
        );
        for _ in 0..3 {
            writers.run(Some(&beta), |_| Ok(Some((1, 2)))).unwrap();
            let tried = writers.run(Some(&acme), |_| panic!("beside one that hangs"));
            assert!(words(&tried).contains("hangs"));
        }
        drop(release);
        while writers.run(Some(&acme), |_| Ok(None)).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn with_every_writer_hung_nothing_is_waited_for_and_one_that_comes_back_writes_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut writers = writers(folder.path());
        let mut held: Vec<_> = (0..WRITERS)
            .map(|n| hang(&mut writers, &name(&format!("p{n}"))).0)
            .collect();
        let beta = name("beta");
        let said = words(&writers.run(Some(&beta), |_| Ok(None)));
        assert!(said.contains("no more are tried"), "{said}");
        drop(held.pop());
        while writers.run(Some(&beta), |_| Ok(None)).is_err() {
            std::thread::yield_now();
        }
    }
}
