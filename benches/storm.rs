//! Throughput and memory: 10,000 portals due at once, compared with a bare `reqwest` loop and with the minimum that a
//! durable renewal costs; and the idle daemon.
//!
//! `cargo bench --bench storm` runs everything; `-- idle` and `-- storm --rounds 5 --delay 0` run parts. The daemon is the real
//! binary in its own process with full durability. Asserts that the work was done, never how long it took.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod support;

use anyhow::{Context as _, Result, bail, ensure};
use refreshd_time::clock::Clock;
use serde_json::{Value, json};

use support::place::Place;
use support::process::{Child, Daemon, Usage};
use support::seed::{Seed, seed};
use support::{floor, place, roles};

/// The daemon's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of portals in a storm.
const STORM: usize = 10_000;
/// The server's delays, in milliseconds.
const DELAYS: [u64; 2] = [0, 100];
/// Number of rounds in which the contestants alternate.
const ROUNDS: usize = 3;
/// Number of portals of an idle daemon.
const RESTING: [usize; 3] = [1_000, 10_000, 100_000];
/// Seconds between ready and the idle measurement.
const SETTLE: u64 = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [roles::ROLE, "server", rest @ ..] => roles::server(rest),
        [roles::ROLE, "bare", rest @ ..] => roles::bare(rest),
        [roles::ROLE, "floor", rest @ ..] => floor::floor(rest),
        words => measure(words),
    }
}

fn measure(words: &[&str]) -> Result<()> {
    let option = |name: &str| match words.iter().position(|word| *word == name) {
        Some(at) => words
            .get(at + 1)
            .and_then(|n| n.parse().ok())
            .map(Some)
            .with_context(|| format!("{name} NUMBER")),
        None => Ok(None),
    };
    let rounds = option("--rounds")?.map_or(ROUNDS, |rounds: u64| rounds as usize);
    let delays = option("--delay")?.map_or(DELAYS.to_vec(), |delay| vec![delay]);
    let all = !words.contains(&"storm") && !words.contains(&"idle");
    let mut json = json!({ "place": place::describe()? });
    if all || words.contains(&"storm") {
        let storms = delays
            .into_iter()
            .map(|delay| storm(delay, rounds))
            .collect::<Result<Vec<_>>>()?;
        json["storm"] = storms.into();
    }
    if all || words.contains(&"idle") {
        println!(
            "At rest, {SETTLE} s after it was ready: fresh portals of one app, all in one configuration"
        );
        println!(
            "{:>10} {:>10} {:>10} {:>10} {:>12}",
            "portals", "VmRSS", "RssAnon", "VmHWM", "ready after"
        );
        json["idle"] = RESTING
            .into_iter()
            .map(idle)
            .collect::<Result<Vec<_>>>()?
            .into();
    }
    println!("{json}");
    Ok(())
}

/// Result of one contestant.
struct Run {
    millis: i64,
    usage: Usage,
    server_cpu: f64,
}

impl Run {
    fn rate(&self) -> f64 {
        STORM as f64 * 1000.0 / self.millis.max(1) as f64
    }
}

fn storm(delay: u64, rounds: usize) -> Result<Value> {
    println!("Storm: {STORM} portals due at once, the server answers after {delay} ms");
    println!(
        "  default concurrency (256); `rate` is set high, since its default of 50/s is a politeness limit"
    );
    println!(
        "{:>10} {:>12} {:>10} {:>10} {:>10} {:>12}",
        "", "renewals/s", "seconds", "CPU s", "peak", "server CPU s"
    );
    let (mut daemon, mut floor, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        for (name, runs, run) in [
            (
                "refreshd",
                &mut daemon,
                storm_daemon as fn(u64) -> Result<Run>,
            ),
            ("floor", &mut floor, |delay| {
                storm_child(delay, Child::floor)
            }),
            ("reqwest", &mut bare, |delay| {
                storm_child(delay, Child::bare)
            }),
        ] {
            let run = run(delay).with_context(|| format!("the storm of {name}"))?;
            println!(
                "{name:>10} {:>12.0} {:>10.2} {:>10.2} {:>7.1} MB {:>12.2}",
                run.rate(),
                run.millis as f64 / 1000.0,
                run.usage.cpu_seconds,
                run.usage.peak_mb,
                run.server_cpu
            );
            runs.push(run);
        }
    }
    let of = |runs: &[Run]| {
        let median = |value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
        json!({
            "renewals_per_s": median(Run::rate).round(),
            "seconds": median(|run| run.millis as f64 / 1000.0),
            "cpu_s": median(|run| run.usage.cpu_seconds),
            "peak_mb": median(|run| run.usage.peak_mb),
        })
    };
    let rate = |runs: &[Run]| median(runs.iter().map(Run::rate).collect());
    let (ratio, floor_ratio) = (rate(&daemon) / rate(&bare), rate(&floor) / rate(&bare));
    println!(
        "  medians: refreshd at {ratio:.2} of the bare loop's rate, the floor at {floor_ratio:.2}\n"
    );
    Ok(json!({
        "delay_ms": delay, "portals": STORM, "refreshd": of(&daemon), "floor": of(&floor), "reqwest": of(&bare),
        "ratio": ratio, "floor_ratio": floor_ratio,
    }))
}

/// From the first token request at the server to the last token file in place.
fn storm_daemon(delay: u64) -> Result<Run> {
    let place = Place::new()?;
    let mut server = Child::server(&place, STORM, delay)?;
    let url = server.word("ready")?;
    let portals = seed(&place, &url, &Seed::Granted(STORM))?;
    let before = server.usage()?;
    let daemon = Daemon::start(&place)?;
    let cpu_before = daemon.usage()?.cpu_seconds;
    let began: i64 = server.word("first")?.parse()?;
    let ended = place.last_published(&portals)?;
    let mut usage = daemon.usage()?;
    usage.cpu_seconds -= cpu_before;
    let server_cpu = server.usage()?.cpu_seconds - before.cpu_seconds;
    daemon.stop()?;
    finish(server)?;
    Ok(Run {
        millis: ended - began,
        usage,
        server_cpu,
    })
}

/// From the first token request at the server to the last response read, or published.
fn storm_child(delay: u64, start: fn(&Place, &str) -> Result<Child>) -> Result<Run> {
    let place = Place::new()?;
    let mut server = Child::server(&place, STORM, delay)?;
    let url = server.word("ready")?;
    let mut bare = start(&place, &url)?;
    bare.word("ready")?;
    let (before, server_before) = (bare.usage()?, server.usage()?);
    bare.send_line("go")?;
    let began: i64 = server.word("first")?.parse()?;
    let ended: i64 = bare.word("ended")?.parse()?;
    let mut usage = bare.usage()?;
    usage.cpu_seconds -= before.cpu_seconds;
    let server_cpu = server.usage()?.cpu_seconds - server_before.cpu_seconds;
    bare.stop()?;
    finish(server)?;
    Ok(Run {
        millis: ended - began,
        usage,
        server_cpu,
    })
}

/// Checks the server's observations: each grant renewed once, by a correct client.
fn finish(mut server: Child) -> Result<()> {
    server.send_line("stop")?;
    let seen = server.word("seen")?;
    ensure!(
        seen == format!("{STORM} 0"),
        "requests and violations: {seen}"
    );
    server.stop()
}

fn idle(portals: usize) -> Result<Value> {
    let place = Place::new()?;
    seed(
        &place,
        "http://127.0.0.1:9/oauth/token/",
        &Seed::Fresh(portals),
    )?;
    let clock = Clock::system();
    let began = clock.tick();
    let daemon = Daemon::start(&place)?;
    let ready = clock.elapsed(began).as_secs_f64();
    std::thread::sleep(std::time::Duration::from_secs(SETTLE));
    let usage = daemon.usage()?;
    daemon.stop()?;
    let Usage {
        resident_mb,
        anonymous_mb,
        peak_mb,
        cpu_seconds,
    } = usage;
    println!(
        "{portals:>10} {resident_mb:>7.1} MB {anonymous_mb:>7.1} MB {peak_mb:>7.1} MB {ready:>10.1} s"
    );
    if place.count_published()? != portals {
        bail!("not every portal's token is published");
    }
    Ok(json!({
        "portals": portals, "rss_mb": resident_mb, "anon_mb": anonymous_mb, "peak_mb": peak_mb,
        "ready_s": ready, "cpu_s": cpu_seconds,
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
