//! Deterministic simulation of the whole daemon: the real state, domain and loops, with a simulated clock and network, the
//! fake server with strict accounting, and injected faults.
//!
//! A seed simulates fifty portals for a month. The same seed always draws the same faults, so a failure is reproduced by
//! its seed: `REFRESHD_SIMULATE="seed=17" cargo test --release --lib simulation -- --nocapture`; the defaults of the other
//! keys are `days=30 portals=50 seeds=1 log=0`. `tests/system/simulation.sh` runs many seeds, and proves that they detect the
//! mutants.

mod faults;
mod invariants;
mod lifecycle;
mod plan;
mod receivers;
mod world;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::portal::Portal;
use invariants::Record;
use lifecycle::{Process, STUCK};
use plan::{Backup, InjectedFault};
use refreshd_fake_server::{At, Rules};
use refreshd_time::Timestamp;
use refreshd_token_client::authorization_server::AuthorizationServer;
use world::World;

const MINUTE: Duration = Duration::from_secs(60);
/// Interval of checks of readers, operators and the server's accounting.
const CHECK_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Token files read at each check.
const READERS: usize = 8;
/// Time without faults at the end: long enough for the daily poll of a blocked grant.
const FAULT_FREE: Duration = Duration::from_secs(4 * 3600);
/// Lines of the event log that are shown with a failure.
const MAX_EVENTS: usize = 60;

/// Parameters of a simulation.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    days: u64,
    portals: usize,
}

/// Scheduled event.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Check,
    Fault,
    IsolatedFault,
    Clear(u64),
    Begin,
    Grant(usize),
    Reload,
}

/// Statistics of one simulation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    faults: u64,
    isolated_faults: u64,
    starts: u64,
    kills: u64,
    requests: u64,
    renewals: u64,
    checks: u64,
    granted_anew: u64,
    restored: u64,
    steps: u64,
    notifications: u64,
    broken_channels: u64,
}

struct Simulation {
    case: Case,
    world: Arc<World>,
    server: AuthorizationServer,
    rng: fastrand::Rng,
    /// Random generator of isolated faults: separate, so that a seed's faults do not change.
    isolated_rng: fastrand::Rng,
    rules: Rules,
    process: Option<Process>,
    timeline: BinaryHeap<Reverse<(Timestamp, u64, Next)>>,
    /// Active faults, by number.
    active_faults: BTreeMap<u64, InjectedFault>,
    records: Vec<Record>,
    /// Hosts of the portals, which change.
    hosts: Vec<String>,
    every: u64,
    down: Option<(Duration, i64)>,
    backup: Backup,
    clock_moved_at: Timestamp,
    sequence: u64,
    ending: bool,
    tally: Tally,
    events: VecDeque<String>,
}

impl Simulation {
    fn new(case: Case) -> Self {
        let mut rng = fastrand::Rng::with_seed(case.seed);
        let rules = plan::rules(&mut rng);
        let world = World::new(case.seed, rules.clone());
        for client in ["crm", "sales"] {
            world
                .sandbox
                .add_client(&format!("local.{client}"), "a secret of the client");
        }
        let isolated_rng =
            fastrand::Rng::with_seed(case.seed.wrapping_mul(0x9e37_79b9).wrapping_add(7));
        let hosts = (0..case.portals)
            .map(|portal| format!("portal-{portal}.bitrix24.com"))
            .collect();
        Self {
            records: vec![Record::default(); case.portals],
            server: AuthorizationServer::new(Arc::default()).unwrap(),
            process: None,
            timeline: BinaryHeap::new(),
            active_faults: BTreeMap::new(),
            hosts,
            every: 25,
            down: None,
            backup: Backup::Nothing,
            clock_moved_at: Timestamp::default(),
            sequence: 0,
            ending: false,
            tally: Tally::default(),
            events: VecDeque::new(),
            case,
            world,
            rng,
            isolated_rng,
            rules,
        }
    }

    fn now(&self) -> Timestamp {
        self.world.truth.now()
    }

    fn log(&mut self, what: impl std::fmt::Display) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(format!("{} {what}", self.now()));
    }

    fn at(&mut self, after: Duration, next: Next) {
        self.sequence += 1;
        self.timeline
            .push(Reverse((self.now() + after, self.sequence, next)));
    }

    fn configure(&self, every: u64) {
        let place = self.world.place.path();
        let mut text = String::from(
            "state = \"state.db\"\ntoken_dir = \"tokens\"\ncontrol_socket = \"control.sock\"\n[renewal]\ntimeout = \"30s\"\n\
             [channels.people]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:1/\"\n\
             [channels.others]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:2/\"\n",
        );
        for client in ["crm", "sales"] {
            text += &format!(
                "[apps.{client}]\nprovider = \"bitrix24\"\nclient_id = \"local.{client}\"\nclient_secret_file = \"secret\"\n\
                 token_url = \"http://127.0.0.1:1/oauth/token/\"\nrenew_every = \"{every}m\"\n"
            );
        }
        for portal in (0..self.case.portals).filter(|portal| !self.records[*portal].left_out) {
            let client = client_of(portal);
            text += &format!("[portals.{}]\napp = \"{client}\"\n", name_of(portal));
        }
        write(&place.join("refreshd.toml"), &text);
        write(&place.join("secret"), "a secret of the client");
    }

    /// Excuses failures of these portals for a time.
    fn excuse(&mut self, portals: impl IntoIterator<Item = usize>, span: Duration) {
        let until = self.now() + span;
        for portal in portals {
            let record = &mut self.records[portal];
            record.excused_until = record.excused_until.max(until);
        }
    }

    fn begin(&mut self) {
        self.tally.starts += 1;
        self.world.kill_switch.renew();
        self.world.alerts.lock().unwrap().begin(self.now());
        self.process = Some(Process::begin(&self.world, &self.server));
    }

    async fn run(&mut self) -> Result<(), String> {
        self.configure(self.every);
        self.begin();
        for portal in 0..self.case.portals {
            self.at(Duration::from_secs(portal as u64 + 1), Next::Grant(portal));
        }
        self.excuse(0..self.case.portals, 30 * MINUTE);
        self.at(2 * MINUTE, Next::Check);
        self.at(40 * MINUTE, Next::Fault);
        self.at(45 * MINUTE, Next::IsolatedFault);
        let end = self.now() + Duration::from_secs(self.case.days * 86_400);
        self.until(end).await?;
        self.end_all_faults();
        let end = self.now() + FAULT_FREE;
        self.until(end).await?;
        if let Some(mut process) = self.process.take() {
            process.stop();
            process.ended().await?;
        }
        self.tally.requests = self.world.sandbox.total_requests();
        self.tally.renewals = self
            .hosts
            .iter()
            .map(|host| self.world.sandbox.renewals(host))
            .sum();
        self.tally.steps = self.world.kill_switch.steps();
        (self.tally.notifications, self.tally.broken_channels) = {
            let alerts = self.world.alerts.lock().unwrap();
            (alerts.count, alerts.broke)
        };
        receivers::nothing_is_left(&self.world)?;
        self.world.alerts.lock().unwrap().all_is_well()?;
        let portals = invariants::portals(&self.world)?;
        for portal in 0..self.case.portals {
            let name = name_of(portal);
            let found = portals
                .get(&name)
                .ok_or_else(|| format!("{name} is not in the state at the end"))?;
            invariants::all_is_well(&self.world, &name, found)?;
        }
        Ok(())
    }

    /// Runs until then.
    async fn until(&mut self, end: Timestamp) -> Result<(), String> {
        loop {
            let next = self
                .timeline
                .peek()
                .map_or(end, |Reverse((at, ..))| (*at).min(end));
            let world = Arc::clone(&self.world);
            let ended = async {
                match &mut self.process {
                    Some(process) => process.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = world.kill_switch.notify_killed.notified() => self.killed().await?,
                end = ended => self.ended(end).await?,
                () = world.pause(next.until(world.truth.now())) => {
                    if self.now() >= end {
                        return Ok(());
                    }
                    while let Some(Reverse((at, ..))) = self.timeline.peek()
                        && *at <= self.now()
                        && let Some(Reverse((_, _, next))) = self.timeline.pop()
                    {
                        self.handle(next).await?;
                    }
                }
            }
        }
    }

    async fn handle(&mut self, next: Next) -> Result<(), String> {
        match next {
            Next::Check => {
                self.check_now()?;
                let suspects = self.records.iter().any(Record::is_suspect);
                self.at(
                    if suspects {
                        CHECK_INTERVAL / 20
                    } else {
                        CHECK_INTERVAL
                    },
                    Next::Check,
                );
            }
            Next::Fault if self.ending => {}
            Next::Fault => {
                let fault = plan::next_fault(&mut self.rng, self.case.portals);
                self.inject(fault);
                let gap = plan::gap(&mut self.rng);
                self.at(gap, Next::Fault);
            }
            Next::IsolatedFault if self.ending => {}
            Next::IsolatedFault => {
                let fault = plan::next_isolated_fault(&mut self.isolated_rng, self.case.portals);
                self.inject_isolated(fault)?;
                let gap = plan::gap(&mut self.isolated_rng) / 2;
                self.at(gap, Next::IsolatedFault);
            }
            Next::Clear(injected) => {
                if let Some(injected) = self.active_faults.remove(&injected) {
                    self.clear(&injected);
                }
            }
            Next::Begin => self.begin(),
            Next::Grant(portal) => self.grant(portal),
            Next::Reload => self.reload(),
        }
        Ok(())
    }

    /// Reads token files and the status, and checks the server's accounting.
    fn check_now(&mut self) -> Result<(), String> {
        self.tally.checks += 1;
        invariants::nothing_forbidden_was_sent(&self.world, self.clock_moved_at)?;
        let portals = invariants::portals(&self.world)?;
        self.check_alerts(&portals)?;
        let first = self.rng.usize(..self.case.portals);
        for portal in 0..self.case.portals {
            let name = name_of(portal);
            let Some(found) = portals.get(&name) else {
                continue;
            };
            let turn = (portal + self.case.portals - first) % self.case.portals < READERS;
            if turn || self.records[portal].is_suspect() {
                invariants::reader(&self.world, &name, found, &mut self.records[portal])?;
            }
            let record = self.records[portal].clone();
            let dead = invariants::dead_for_a_reason(
                &self.world,
                &name,
                found,
                &record,
                self.rules.reuse,
            )?;
            let lives = || invariants::is_alive(&self.world, found);
            if !dead && self.now() > record.excused_until && lives() {
                self.records[portal].condemned = false;
                self.records[portal].cut_off = false;
            }
            let asked = self
                .timeline
                .iter()
                .any(|Reverse((_, _, next))| *next == Next::Grant(portal));
            if dead && !asked && !record.left_out {
                let patience = if self.ending {
                    MINUTE
                } else {
                    MINUTE * self.rng.u32(5..240)
                };
                self.log(format!("{name}: a person will bring a new grant"));
                self.excuse([portal], patience + 30 * MINUTE);
                self.at(patience, Next::Grant(portal));
            }
        }
        Ok(())
    }

    /// Checks the notifications.
    fn check_alerts(&mut self, portals: &BTreeMap<String, Portal>) -> Result<(), String> {
        let now = self.now();
        let mut alerts = self.world.alerts.lock().unwrap();
        alerts.check_now(self.clock_moved_at)?;
        let disk = self
            .active_faults
            .values()
            .any(|injected| matches!(injected, InjectedFault::Disk(_)));
        if self.process.is_none() || disk {
            alerts.disturb(now);
        }
        for portal in (0..self.case.portals).filter(|portal| !self.records[*portal].left_out) {
            let name = name_of(portal);
            if let Some(found) = portals.get(&name) {
                alerts.knows_of(&name, found, now, self.world.wall.now())?;
            }
        }
        Ok(())
    }

    /// Ends all faults.
    fn end_all_faults(&mut self) {
        self.ending = true;
        for (_, injected) in std::mem::take(&mut self.active_faults) {
            self.clear(&injected);
        }
        self.world.sandbox.heal(At::All);
        self.records
            .iter_mut()
            .for_each(|record| record.left_out = false);
        self.excuse(0..self.case.portals, 80 * MINUTE);
        self.reload();
    }

    /// Handles the death of the daemon.
    async fn killed(&mut self) -> Result<(), String> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        self.tally.kills += 1;
        process.kill().await;
        let portals = invariants::portals(&self.world)?;
        for (portal, record) in self.records.iter().enumerate() {
            if let Some(found) = portals.get(&name_of(portal)) {
                invariants::nothing_is_ahead(&self.world, &name_of(portal), found, record)?;
            }
        }
        self.cut_off()?;
        self.schedule_restart();
        Ok(())
    }

    /// Handles the end of the daemon: it was stopped, or the disk kept it from starting.
    async fn ended(&mut self, end: Result<(), String>) -> Result<(), String> {
        self.log(format!("the daemon ended: {end:?}"));
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        process.kill().await;
        match end {
            Ok(()) => self.keep_backups()?,
            Err(why) if why == STUCK || !self.active_faults.is_empty() => self.cut_off()?,
            Err(why) => return Err(format!("the daemon ended: {why}")),
        }
        self.schedule_restart();
        Ok(())
    }

    /// Schedules the restart, like systemd.
    fn schedule_restart(&mut self) {
        let (down, clock) = self.down.take().unwrap_or((MINUTE, 0));
        self.log(format!("down for {}", humantime::format_duration(down)));
        self.move_clock(clock);
        self.excuse(0..self.case.portals, down + 30 * MINUTE);
        self.at(down.max(Duration::from_secs(2)), Next::Begin);
    }

    /// Requests under way have no known outcome; sending them again is allowed, once.
    fn cut_off(&mut self) -> Result<(), String> {
        let portals = invariants::portals(&self.world)?;
        for portal in 0..self.case.portals {
            let claim = portals
                .get(&name_of(portal))
                .and_then(|found| found.grant.as_ref()?.claim);
            if claim.is_some() {
                self.records[portal].cut_off = true;
                self.world.sandbox.allow_replay(&self.hosts[portal]);
                self.log(format!("{} was cut off", name_of(portal)));
            }
        }
        Ok(())
    }
}

fn name_of(portal: usize) -> String {
    format!("portal-{portal}")
}

fn client_of(portal: usize) -> &'static str {
    if portal.is_multiple_of(2) {
        "crm"
    } else {
        "sales"
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the simulation's own files, which are not read meanwhile"
)]
fn write(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs a simulation; a failure shows the end of its event log and how to reproduce it.
fn simulate(case: &Case) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let mut simulation = runtime.block_on(async { Simulation::new(case.clone()) });
    let done = runtime.block_on(simulation.run());
    let Simulation {
        tally,
        events,
        rules,
        ..
    } = simulation;
    if let Err(why) = done {
        let Case {
            seed,
            days,
            portals,
        } = case;
        let events = events.into_iter().collect::<Vec<_>>().join("\n");
        panic!(
            "{events}\n\nseed {seed}: {why}\n({rules:?})\nTo see it again:\n  REFRESHD_SIMULATE=\"seed={seed} days={days} \
             portals={portals} log=1\" cargo test --release --lib simulation -- --nocapture"
        );
    }
    tally
}

/// Seeds that detect mutants (`tests/mutants`), small enough for every run.
const KEPT: [u64; 2] = [1, 4];

fn small(seed: u64) -> Case {
    Case {
        seed,
        days: 2,
        portals: 10,
    }
}

/// Runs the kept seeds, or what `REFRESHD_SIMULATE` requests instead.
#[test]
fn simulation() {
    let Ok(asked) = std::env::var("REFRESHD_SIMULATE") else {
        for seed in KEPT {
            let tally = simulate(&small(seed));
            assert!(
                tally.renewals > 500 && tally.kills > 1 && tally.granted_anew > 10,
                "{tally:?}"
            );
        }
        return;
    };
    let asked: BTreeMap<&str, u64> = (asked.split_whitespace())
        .map(|pair| {
            pair.split_once('=')
                .unwrap_or_else(|| panic!("{pair} is not KEY=NUMBER"))
        })
        .map(|(key, value)| {
            (
                key,
                value
                    .parse()
                    .unwrap_or_else(|_| panic!("{key}={value} is no number")),
            )
        })
        .collect();
    let of = |key, usual| asked.get(key).copied().unwrap_or(usual);
    if of("log", 0) > 0 {
        let _ = crate::adapters::log::start_for_command("info");
    }
    let first = of("seed", 1);
    for seed in first..first + of("seeds", 1) {
        let portals = usize::try_from(of("portals", 50)).unwrap();
        let tally = simulate(&Case {
            seed,
            days: of("days", 30),
            portals,
        });
        println!("seed {seed}: {tally:?}");
    }
}

#[test]
fn the_same_seed_takes_the_same_steps() {
    let case = Case {
        seed: 5,
        days: 1,
        portals: 6,
    };
    assert_eq!(simulate(&case), simulate(&case));
}
