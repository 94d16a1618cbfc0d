//! Environment of a simulation: time, the network, the disk, and the fake server.
//!
//! Every step with an externally visible effect calls [`KillSwitch::step`], where the daemon may be killed. Must not decide when
//! faults occur: `plan` does.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::ffi::{self, ErrorCode};
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::adapters::state::{Disk, DiskFuture, StateError};
use refreshd_fake_server::{DeliveryFault, End, FakeServer, ReceivedTokenRequest, Rules};
use refreshd_time::Timestamp;
use refreshd_time::clock::{Clock, Tick, WallClock};
use refreshd_token_client::authorization_server::{
    HttpResponse, TokenResponse, Transport, TransportFuture,
};

/// Start of every simulation: 2026-11-20T16:00:00Z.
const BEGIN: i64 = 1_795_190_400;
/// A longer body than the client reads.
const TOO_LONG: u64 = 256 * 1024;

/// A clock that can be set.
#[derive(Debug)]
pub struct SimulatedClock {
    origin: Tick,
    ahead: AtomicI64,
    chance: Mutex<fastrand::Rng>,
}

impl SimulatedClock {
    /// Never freed: the clock is copied everywhere.
    fn new(seed: u64) -> &'static Self {
        let chance = Mutex::new(fastrand::Rng::with_seed(seed));
        Box::leak(Box::new(Self {
            origin: Clock::system().tick(),
            ahead: AtomicI64::new(0),
            chance,
        }))
    }
}

impl WallClock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let passed = Clock::system().elapsed(self.origin);
        (Timestamp::from_secs(BEGIN) + passed).shifted(self.ahead.load(Ordering::Relaxed))
    }

    fn jitter(&self) -> f64 {
        self.chance.lock().unwrap().f64()
    }
}

/// Condition of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Fair,
    /// Connections are refused.
    Refuses,
    /// Requests are lost.
    Swallows,
}

/// Condition of the state's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCondition {
    Fair,
    Full,
    Broken,
    Slow,
}

#[derive(Debug)]
struct NetworkConditions {
    network: Network,
    disk: DiskCondition,
}

/// Kill switch of the daemon: at a chosen step, or at once.
#[derive(Debug, Default)]
pub struct KillSwitch {
    steps: AtomicU64,
    ends_at: AtomicU64,
    killed: AtomicBool,
    pub notify_killed: Notify,
}

impl KillSwitch {
    /// Counts a step, which may be the last: then it never returns.
    pub async fn step(&self) {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if step == self.ends_at.load(Ordering::Relaxed) {
            self.kill();
        }
        if self.killed.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Kills the daemon `steps` steps later.
    pub fn set(&self, steps: u64) {
        self.ends_at.store(
            self.steps.load(Ordering::Relaxed) + steps,
            Ordering::Relaxed,
        );
    }

    /// Kills the daemon now.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.notify_killed.notify_one();
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Resets the switch for a new process.
    pub fn renew(&self) {
        self.killed.store(false, Ordering::Relaxed);
        self.ends_at.store(0, Ordering::Relaxed);
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}

/// The environment.
pub struct World {
    pub place: TempDir,
    /// Never steps: for the server and the simulation.
    pub truth: Clock,
    /// The daemon's clock.
    pub wall: Clock,
    pub sandbox: FakeServer,
    pub kill_switch: KillSwitch,
    pub alerts: crate::daemon::tests::receivers::SharedAlerts,
    clock: &'static SimulatedClock,
    conditions: Mutex<NetworkConditions>,
    chance: Mutex<fastrand::Rng>,
    under_way: Mutex<JoinSet<()>>,
}

impl World {
    pub fn new(seed: u64, rules: Rules) -> Arc<Self> {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let truth = Clock::of(SimulatedClock::new(seed));
        let clock = SimulatedClock::new(seed.wrapping_add(1));
        Arc::new(Self {
            place: tempfile::Builder::new()
                .prefix("refreshd-simulation-")
                .tempdir_in(base)
                .unwrap(),
            truth,
            wall: Clock::of(clock),
            sandbox: FakeServer::new(truth, rules),
            kill_switch: KillSwitch::default(),
            alerts: Mutex::default(),
            clock,
            conditions: Mutex::new(NetworkConditions {
                network: Network::Fair,
                disk: DiskCondition::Fair,
            }),
            chance: Mutex::new(fastrand::Rng::with_seed(seed.wrapping_add(2))),
            under_way: Mutex::default(),
        })
    }

    pub fn step_clock(&self, millis: i64) {
        self.clock.ahead.fetch_add(millis, Ordering::Relaxed);
    }

    pub fn set_network(&self, network: Network) {
        self.conditions.lock().unwrap().network = network;
    }

    pub fn set_disk(&self, disk: DiskCondition) {
        self.conditions.lock().unwrap().disk = disk;
    }

    /// Returns whether written data stays written, even if slowly.
    pub fn is_disk_fair(&self) -> bool {
        matches!(
            self.conditions.lock().unwrap().disk,
            DiskCondition::Fair | DiskCondition::Slow
        )
    }

    fn network(&self) -> Network {
        self.conditions.lock().unwrap().network
    }

    pub fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.chance.lock().unwrap().u64(range))
    }

    /// Sleeps, for any time.
    pub async fn pause(&self, span: Duration) {
        let until = self.truth.now() + span;
        while self.truth.now() < until {
            self.truth.sleep_until(until).await;
        }
    }

    /// Transports a request to the server and its response back. Continues after the client is gone, like a network.
    async fn travel(
        self: Arc<Self>,
        request: reqwest::Request,
        mut reply: oneshot::Sender<TokenResponse>,
    ) {
        self.pause(self.millis(1..200)).await;
        if self.network() == Network::Swallows {
            return reply.closed().await;
        }
        let content_type = request
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok());
        let answer = self.sandbox.token(&ReceivedTokenRequest {
            method: request.method().as_str(),
            content_type,
            query: request.url().query().unwrap_or_default(),
            body: request
                .body()
                .and_then(reqwest::Body::as_bytes)
                .unwrap_or_default(),
        });
        let way_back = answer.delay + self.millis(1..200);
        let left = tokio::select! {
            biased;
            () = reply.closed() => false,
            () = self.pause(way_back) => true,
        };
        // A daemon that was just killed receives nothing.
        let whole = match answer.delivery {
            DeliveryFault::Whole => true,
            DeliveryFault::Huge(bytes) => bytes < TOO_LONG,
            DeliveryFault::Never | DeliveryFault::Drip(_) => {
                reply.closed().await;
                false
            }
            DeliveryFault::Closed | DeliveryFault::Reset | DeliveryFault::Truncated(_) => false,
        };
        if whole && left && !self.kill_switch.is_killed() {
            self.sandbox.finish(answer.ticket, End::Written);
            let refreshd_fake_server::ReplyContent {
                status,
                content_type: _,
                body,
                retry_after,
                location: _,
            } = answer.reply;
            let retry_after = retry_after.map(Duration::from_secs);
            let date = Some(self.truth.now());
            let _ = reply.send(TokenResponse::Whole(HttpResponse {
                status,
                retry_after,
                date,
                content_type: None,
                content_encoding: None,
                location: None,
                body,
                whole: true,
            }));
        } else {
            self.sandbox.finish(answer.ticket, End::Gone);
            let _ = reply.send(TokenResponse::InDoubt("the connection broke".to_owned()));
        }
    }
}

/// The network, as an HTTP transport of the client.
pub struct SimulatedNetwork(pub Arc<World>);

impl Transport for SimulatedNetwork {
    fn send(&self, request: reqwest::Request) -> TransportFuture {
        let world = Arc::clone(&self.0);
        Box::pin(async move {
            world.kill_switch.step().await;
            if world.network() == Network::Refuses {
                world.pause(world.millis(1..100)).await;
                return TokenResponse::NotSent("cannot connect: connection refused".to_owned());
            }
            let limit = request
                .timeout()
                .copied()
                .unwrap_or(Duration::from_secs(60));
            let (reply, arrived) = oneshot::channel();
            {
                let mut under_way = world.under_way.lock().unwrap();
                while under_way.try_join_next().is_some() {}
                under_way.spawn(Arc::clone(&world).travel(request, reply));
            }
            let answer = world.truth.within(limit, arrived).await;
            world.kill_switch.step().await;
            match answer {
                Some(Ok(answer)) => answer,
                Some(Err(_)) => TokenResponse::InDoubt("the connection broke".to_owned()),
                None => TokenResponse::InDoubt("no answer in time".to_owned()),
            }
        })
    }
}

impl Disk for World {
    fn before_commit(&self) -> DiskFuture<'_, Result<(), StateError>> {
        Box::pin(async {
            self.kill_switch.step().await;
            let disk = self.conditions.lock().unwrap().disk;
            let failed = |code, extended_code| {
                let error = rusqlite::Error::SqliteFailure(
                    ffi::Error {
                        code,
                        extended_code,
                    },
                    None,
                );
                Err(StateError::Sql {
                    stage: "commit",
                    source: error,
                })
            };
            match disk {
                DiskCondition::Fair => Ok(()),
                DiskCondition::Full => failed(ErrorCode::DiskFull, ffi::SQLITE_FULL),
                DiskCondition::Broken if self.chance.lock().unwrap().f64() < 0.5 => Ok(()),
                DiskCondition::Broken => {
                    failed(ErrorCode::SystemIoFailure, ffi::SQLITE_IOERR_FSYNC)
                }
                DiskCondition::Slow => {
                    self.pause(self.millis(10..3_000)).await;
                    self.kill_switch.step().await;
                    Ok(())
                }
            }
        })
    }

    fn after_commit(&self) -> DiskFuture<'_, ()> {
        Box::pin(self.kill_switch.step())
    }

    fn around_files(&self) -> DiskFuture<'_, ()> {
        Box::pin(self.kill_switch.step())
    }
}
