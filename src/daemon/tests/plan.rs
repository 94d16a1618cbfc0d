//! Faults of a simulation and their durations, drawn from a seed. Must not inject them: `faults` does.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Map, Value, json};
use strum::VariantArray as _;

use crate::daemon::tests::world::{DiskCondition, Network};
use refreshd_fake_server::{Fault, Reuse, Rules, Wrap};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Maximum delay of the next attempt after ordinary failures (15 min once expired, and its jitter).
const BACK_OFF: Duration = Duration::from_secs(20 * MINUTE);
/// The same after a rejected client, a blocked grant, or a false lifetime.
const SLOW_BACK_OFF: Duration = Duration::from_secs(75 * MINUTE);

/// A fault, or an operator's action.
#[derive(Debug)]
pub enum InjectedFault {
    /// The server fails for one portal.
    Portal {
        portal: usize,
        fault: Fault,
        condemns: bool,
    },
    /// The server fails for all portals.
    Everybody {
        fault: Fault,
    },
    /// One of the two clients is rejected.
    Client {
        sales: bool,
        fault: Fault,
    },
    Network(Network),
    Disk(DiskCondition),
    /// The daemon is killed at a later step.
    CrashAt {
        steps: u64,
        down: Duration,
        clock: i64,
    },
    /// SIGTERM, and a start afterwards.
    Restart {
        down: Duration,
        clock: i64,
        backup: Backup,
    },
    Clock {
        millis: i64,
    },
    /// SIGHUP with another renewal age, and with these portals left out.
    Reload {
        every: u64,
        without: Vec<usize>,
    },
    /// SIGHUP with an invalid configuration.
    BadReload,
    /// Operators request renewals, many times each.
    Storm {
        portals: Vec<usize>,
        times: usize,
    },
    /// A newer grant replaces the present one.
    Import {
        portal: usize,
    },
    /// `forget`, and later a new grant.
    Forget {
        portal: usize,
    },
    Uninstall {
        portal: usize,
    },
    Rename {
        portal: usize,
    },
    /// The directory of the token files cannot be written.
    Files,
    /// The alert receiver is unavailable.
    Receiver,
}

/// An operator's action on the state while the daemon is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backup {
    Nothing,
    Make,
    Restore,
}

/// A fault, its duration, and the time that the daemon may need to recover afterwards.
#[derive(Debug)]
pub struct ScheduledFault {
    pub injected: InjectedFault,
    pub lasts: Duration,
    pub after: Duration,
}

/// A fault that must affect no portal but the one concerned.
#[derive(Debug)]
pub enum IsolatedFault {
    /// A text that is not a refresh token is imported.
    Word { portal: usize, word: &'static str },
    /// A refresh token that the server does not know is imported.
    MadeUp { portal: usize, token: String },
    /// The grant of another portal is imported.
    Foreign { portal: usize },
    /// The server wraps its next response.
    Wrapped { portal: usize, wrap: Wrap },
    /// The server fails, or rejects the client, for this portal alone.
    ScheduledFault(ScheduledFault),
}

/// Texts that are imported by mistake.
const WORDS: [&str; 12] = [
    "null",
    "false",
    "Array",
    "\"quoted\"",
    "<!DOCTYPE html>",
    "a=b&c=d",
    "/etc/hostname",
    "REFRESH_TOKEN=x",
    "two words",
    "{\"error\":\"invalid_grant\"}",
    "{\"access_token\":\"a\"}",
    "a secret of the client",
];

/// Draws the next isolated fault.
pub fn next_isolated_fault(rng: &mut Rng, portals: usize) -> IsolatedFault {
    let portal = rng.usize(..portals);
    let failure = |fault, lasts, after| {
        IsolatedFault::ScheduledFault(ScheduledFault {
            injected: InjectedFault::Portal {
                portal,
                fault,
                condemns: false,
            },
            lasts,
            after,
        })
    };
    match rng.u8(..10) {
        0..3 => IsolatedFault::Word {
            portal,
            word: WORDS[rng.usize(..WORDS.len())],
        },
        3 => IsolatedFault::MadeUp {
            portal,
            token: format!("{:032x}", rng.u128(..)),
        },
        4 => IsolatedFault::Foreign { portal },
        5..8 => IsolatedFault::Wrapped {
            portal,
            wrap: Wrap::VARIANTS[rng.usize(..Wrap::VARIANTS.len())],
        },
        8 => failure(
            refuse(401, "invalid_client"),
            span(rng, 10 * MINUTE, 3 * HOUR),
            SLOW_BACK_OFF,
        ),
        _ => failure(
            refuse(500, "invalid_grant"),
            span(rng, MINUTE, HOUR),
            BACK_OFF,
        ),
    }
}

/// Draws the server's rules.
pub fn rules(rng: &mut Rng) -> Rules {
    let reuse = match rng.u8(..3) {
        0 => Reuse::Strict,
        1 => Reuse::RevokeFamily,
        _ => Reuse::Grace(Duration::from_secs(100 * 365 * DAY)),
    };
    Rules {
        reuse,
        old_access_dies: rng.bool(),
        ..Rules::default()
    }
}

/// Draws the time until the next fault.
pub fn gap(rng: &mut Rng) -> Duration {
    Duration::from_secs_f64(-(1.0 - rng.f64()).ln() * 80.0 * 60.0)
}

/// Draws the next fault.
pub fn next_fault(rng: &mut Rng, portals: usize) -> ScheduledFault {
    let portal = rng.usize(..portals);
    let (injected, lasts, after) = match rng.u32(..100) {
        0..34 => {
            let (fault, condemns, after) = fault(rng);
            (
                InjectedFault::Portal {
                    portal,
                    fault,
                    condemns,
                },
                span(rng, MINUTE, 2 * HOUR),
                after,
            )
        }
        34..40 => (
            InjectedFault::Everybody { fault: outage(rng) },
            span(rng, 10, 4 * HOUR),
            BACK_OFF,
        ),
        40..44 => {
            let fault = refuse(401, "invalid_client");
            (
                InjectedFault::Client {
                    sales: rng.bool(),
                    fault,
                },
                span(rng, 10 * MINUTE, 3 * HOUR),
                SLOW_BACK_OFF,
            )
        }
        44..50 => (
            InjectedFault::Network(Network::Refuses),
            span(rng, MINUTE, 6 * HOUR),
            BACK_OFF,
        ),
        50..53 => (
            InjectedFault::Network(Network::Swallows),
            span(rng, MINUTE, 30 * MINUTE),
            BACK_OFF,
        ),
        53..57 => (
            InjectedFault::Disk(DiskCondition::Full),
            span(rng, 10, 2 * HOUR),
            BACK_OFF,
        ),
        57..60 => (
            InjectedFault::Disk(DiskCondition::Broken),
            span(rng, 10, HOUR),
            BACK_OFF,
        ),
        60..62 => (
            InjectedFault::Disk(DiskCondition::Slow),
            span(rng, MINUTE, 20 * MINUTE),
            BACK_OFF,
        ),
        62..74 => {
            let (down, clock) = (down(rng), clock_while_down(rng));
            (
                InjectedFault::CrashAt {
                    steps: rng.u64(1..300),
                    down,
                    clock,
                },
                Duration::ZERO,
                down + BACK_OFF,
            )
        }
        74..78 => {
            let (down, clock) = (down(rng), clock_while_down(rng));
            let backup = [Backup::Nothing, Backup::Make, Backup::Restore][rng.usize(..3)];
            (
                InjectedFault::Restart {
                    down,
                    clock,
                    backup,
                },
                Duration::ZERO,
                down + BACK_OFF,
            )
        }
        78..81 => (
            InjectedFault::Clock {
                millis: clock_step(rng),
            },
            Duration::ZERO,
            BACK_OFF,
        ),
        81..86 => {
            let without = (0..rng.usize(..4)).map(|_| rng.usize(..portals)).collect();
            (
                InjectedFault::Reload {
                    every: rng.u64(12..28),
                    without,
                },
                Duration::ZERO,
                BACK_OFF,
            )
        }
        86 => (InjectedFault::BadReload, Duration::ZERO, Duration::ZERO),
        87..92 => {
            let portals = (0..rng.usize(1..8)).map(|_| rng.usize(..portals)).collect();
            (
                InjectedFault::Storm {
                    portals,
                    times: rng.usize(1..20),
                },
                Duration::ZERO,
                Duration::ZERO,
            )
        }
        92..94 => (InjectedFault::Import { portal }, Duration::ZERO, BACK_OFF),
        94 => (InjectedFault::Forget { portal }, Duration::ZERO, BACK_OFF),
        95 => (
            InjectedFault::Receiver,
            span(rng, MINUTE, 4 * HOUR),
            Duration::ZERO,
        ),
        96 => (
            InjectedFault::Uninstall { portal },
            Duration::ZERO,
            SLOW_BACK_OFF,
        ),
        97 => (
            InjectedFault::Rename { portal },
            Duration::ZERO,
            Duration::ZERO,
        ),
        98 => (InjectedFault::Files, span(rng, 10, HOUR), BACK_OFF),
        _ => (
            InjectedFault::Receiver,
            span(rng, MINUTE, 4 * HOUR),
            Duration::ZERO,
        ),
    };
    ScheduledFault {
        injected,
        lasts,
        after,
    }
}

/// Draws a fault of the server for one portal; whether it is a false statement about the grant; the time to recover.
fn fault(rng: &mut Rng) -> (Fault, bool, Duration) {
    let odd = |fields: Value| Fault::Odd {
        fields: fields.as_object().cloned().unwrap_or_else(Map::new),
    };
    let quick = |fault| (fault, false, BACK_OFF);
    let slow = |fault| (fault, false, SLOW_BACK_OFF);
    match rng.u8(..28) {
        0 => quick(refuse(500, "INTERNAL_SERVER_ERROR")),
        1 => quick(refuse(200, "CONNECTION_ERROR")),
        2 => quick(refuse(400, "SOMETHING_NOBODY_KNOWS")),
        3 => quick(page(200, None)),
        4 => quick(page(403, None)),
        5 => quick(page(429, Some(rng.u64(1..600)))),
        6 => slow(refuse(402, "PAYMENT_REQUIRED")),
        7 => slow(refuse(401, "user_access_error")),
        8 => (refuse(400, "invalid_grant"), true, BACK_OFF),
        9 => (refuse(401, "NOT_INSTALLED"), true, BACK_OFF),
        10 => quick(Fault::Gateway { status: 502 }),
        11 => quick(Fault::Gateway { status: 504 }),
        12 => quick(Fault::Lost),
        13 => quick(Fault::LostBefore),
        14 => quick(Fault::Reset),
        15 => quick(Fault::Truncated {
            after: rng.usize(..800),
        }),
        16 => quick(Fault::CutJson {
            after: rng.usize(..800),
        }),
        17 => quick(Fault::Slow {
            by: Duration::from_secs(rng.u64(1..60)),
        }),
        18 => quick(Fault::Stall),
        19 => quick(Fault::Drip {
            every: Duration::from_secs(1),
        }),
        20 => quick(Fault::Huge {
            bytes: rng.u64(1..1 << 20),
        }),
        21 => quick(Fault::Redirect {
            to: "https://elsewhere.example/oauth/token/".to_owned(),
        }),
        22 => (Fault::OtherMember, true, BACK_OFF),
        23 => quick(Fault::WithoutRefreshToken),
        24 => quick(odd(json!({ "expires_in": "3600" }))),
        25 => quick(odd(json!({ "expires_in": 3600.0, "token_type": "bearer" }))),
        26 => quick(odd([
            json!({ "expires_in": 0 }),
            json!({ "expires_in": null }),
        ][rng.usize(..2)]
        .clone())),
        _ => slow(odd(json!({ "expires_in": 1e30 }))),
    }
}

/// Draws a fault that affects all portals.
fn outage(rng: &mut Rng) -> Fault {
    match rng.u8(..6) {
        0 => refuse(500, "INTERNAL_SERVER_ERROR"),
        1 => page(503, Some(rng.u64(1..300))),
        2 => page(200, None),
        3 => Fault::LostBefore,
        4 => Fault::Slow {
            by: Duration::from_secs(rng.u64(1..60)),
        },
        _ => Fault::Gateway { status: 504 },
    }
}

fn refuse(status: u16, error: &str) -> Fault {
    Fault::Refuse {
        status,
        error: error.to_owned(),
        description: String::new(),
    }
}

fn page(status: u16, retry_after: Option<u64>) -> Fault {
    let body = "<!DOCTYPE html><title>Sorry</title>".to_owned();
    Fault::Body {
        status,
        content_type: "text/html".to_owned(),
        body,
        retry_after,
    }
}

/// Short durations are likelier than long ones.
fn span(rng: &mut Rng, least: u64, most: u64) -> Duration {
    let (least, most) = (least as f64, most as f64);
    Duration::from_secs_f64(least * (most / least).powf(rng.f64()))
}

fn down(rng: &mut Rng) -> Duration {
    if rng.u8(..8) == 0 {
        span(rng, MINUTE, 5 * HOUR)
    } else {
        span(rng, 1, MINUTE)
    }
}

fn clock_step(rng: &mut Rng) -> i64 {
    let size = span(rng, 2 * MINUTE, 365 * DAY);
    let millis = i64::try_from(size.as_millis()).unwrap_or_default();
    if rng.bool() { millis } else { -millis }
}

fn clock_while_down(rng: &mut Rng) -> i64 {
    if rng.u8(..6) == 0 { clock_step(rng) } else { 0 }
}
