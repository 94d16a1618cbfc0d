//! Directories of the contestants: the state on a disk, the token files in memory as below `/run`.
//!
//! Must not use a RAM disk for the state: its fsync would cost nothing, and the storm would prove nothing.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use refreshd::adapters::token_files::write_whole;
use refreshd::domain::name::PortalName;
use refreshd::domain::token_format::TokenFormat;
use refreshd_time::clock::Clock;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Below `target`, so on the disk that the sources are on.
const ON_DISK: &str = env!("CARGO_TARGET_TMPDIR");
/// In memory like production's `/run`, and writable for users.
const IN_MEMORY: &str = "/dev/shm";
/// Time limit for publishing the last token.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(120);
/// Number of writes to measure the disk's fsync.
const PROBES: usize = 200;

/// Two temporary directories, removed on drop.
pub struct Place {
    disk: TempDir,
    memory: TempDir,
}

impl Place {
    pub fn new() -> Result<Self> {
        let folder = |parent: &Path| tempfile::Builder::new().prefix("storm-").tempdir_in(parent);
        let disk = folder(Path::new(ON_DISK)).context("a folder for the state")?;
        let memory = folder(&memory()).context("a folder for the token files")?;
        Ok(Self { disk, memory })
    }

    /// Directory on the disk.
    pub fn dir(&self) -> &Path {
        self.disk.path()
    }

    /// The state.
    pub fn state(&self) -> PathBuf {
        self.disk.path().join("state.db")
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.disk.path().join("refreshd.toml")
    }

    /// The directory of the token files.
    pub fn tokens(&self) -> PathBuf {
        self.memory.path().join("tokens")
    }

    /// A path for a socket, short enough for the kernel.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    /// Writes a file beside the state.
    pub fn write(&self, name: &str, contents: &str) -> Result<()> {
        let path = self.dir().join(name);
        let directory = path.parent().unwrap_or(self.dir());
        std::fs::create_dir_all(directory)?;
        Ok(write_whole(directory, &path, contents.as_bytes(), 0o600)?)
    }

    /// Waits until the second generation of every portal is published; returns the time of the last one, from the file system.
    /// Polls the last portal first: the others are done by then, and polling takes no time from the daemon.
    pub fn last_published(&self, portals: &[PortalName]) -> Result<i64> {
        let clock = Clock::system();
        let started = clock.tick();
        let mut last = 0;
        for portal in portals.iter().rev() {
            let file =
                |format: TokenFormat| self.tokens().join(portal.as_str()).join(format.file_name());
            let token = loop {
                let json: Value = serde_json::from_slice(&std::fs::read(file(TokenFormat::Json))?)?;
                if json["generation"] == 2 {
                    break json["access_token"].clone();
                }
                ensure!(
                    clock.elapsed(started) < PUBLISH_TIMEOUT,
                    "{portal} is not published"
                );
                std::thread::sleep(Duration::from_millis(20));
            };
            while token != *std::fs::read_to_string(file(TokenFormat::Raw))? {
                ensure!(
                    clock.elapsed(started) < PUBLISH_TIMEOUT,
                    "{portal} is not published whole"
                );
            }
            last = last
                .max(changed(&file(TokenFormat::Json))?)
                .max(changed(&file(TokenFormat::Raw))?);
        }
        Ok(last)
    }

    /// Number of portals with token files.
    pub fn count_published(&self) -> Result<usize> {
        let portals = std::fs::read_dir(self.tokens())?.filter_map(Result::ok);
        Ok(portals
            .filter(|portal| portal.path().join(TokenFormat::Raw.file_name()).exists())
            .count())
    }
}

/// Time at which a file was renamed into place, in milliseconds since the epoch.
fn changed(path: &Path) -> Result<i64> {
    let found = std::fs::metadata(path)?;
    Ok(found.ctime() * 1000 + found.ctime_nsec() / 1_000_000)
}

fn memory() -> PathBuf {
    let memory = Path::new(IN_MEMORY);
    if memory.is_dir() {
        memory.to_owned()
    } else {
        ON_DISK.into()
    }
}

/// Prints the environment of the measurement.
#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
pub fn describe() -> Result<Value> {
    let cores = std::thread::available_parallelism()?.get();
    let (disk, memory) = (file_system(Path::new(ON_DISK))?, file_system(&memory())?);
    ensure!(
        disk != "tmpfs" && disk != "ramfs",
        "target/ is on {disk}: the state belongs on a disk"
    );
    let fsync = fsync_micros()?;
    println!(
        "{cores} cores; state on {disk} ({fsync} µs for a write and its fsync), token files on {memory}\n"
    );
    Ok(json!({ "cores": cores, "state_on": disk, "fsync_us": fsync, "token_files_on": memory }))
}

/// Type of the file system of a path.
fn file_system(path: &Path) -> Result<String> {
    let path = path.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let of = |line: &str| {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    let holding = mounts
        .lines()
        .filter_map(of)
        .filter(|(mount, _)| path.starts_with(mount));
    holding
        .max_by_key(|(mount, _)| mount.len())
        .map(|(_, kind)| kind)
        .context("it is on no file system")
}

/// Median duration of a small durable write.
fn fsync_micros() -> Result<u128> {
    use std::io::Write as _;
    let mut file = tempfile::tempfile_in(ON_DISK)?;
    let clock = Clock::system();
    let mut times = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        let started = clock.tick();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        times.push(clock.elapsed(started).as_micros());
    }
    times.sort_unstable();
    Ok(times[PROBES / 2])
}
