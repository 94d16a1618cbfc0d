//! One grant and a server that checks its requests, to decide after each fault whether the grant is alive.
//!
//! Must not rely on the program alone: the server knows the newest pair, and the state is read as a file.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use refreshd_fake_server::{Reuse, Rules};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::common::{CommandOutput, Rig, SOON, domain, eventually, now_millis};
use crate::strace::{Fault, FaultKind, under_strace};

pub const PORTAL: &str = "acme";
const LIFE: Duration = Duration::from_secs(1);

/// Faults tried of one kind, and their results.
#[derive(Debug, Default)]
pub struct Tally {
    pub tried: u32,
    /// The grant's newest pair is lost, and the program could have kept it.
    pub lost: u32,
    /// The pair is lost, and no program could have kept it: killed between sending and recording, at a server without grace.
    pub in_doubt: u32,
    /// Any other broken promise.
    pub problems: Vec<String>,
}

/// The grant as stored in the state.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    pub generation: u64,
    pub refresh: String,
    pub claimed: bool,
}

pub struct World {
    pub rig: Rig,
    pub strict: bool,
}

impl World {
    /// A world whose grant has been renewed once.
    pub fn new(strict: bool) -> Self {
        let reuse = if strict {
            Reuse::Strict
        } else {
            Reuse::Grace(Duration::from_secs(60))
        };
        let mut rig = Rig::with_rules(
            [PORTAL],
            Rules {
                token_lifetime: LIFE,
                reuse,
                ..Rules::default()
            },
        );
        // A daemon renews as late as it may by itself: the test requests the renewal before that.
        rig.config.app().renew_every = LIFE * 9 / 10;
        rig.write_config();
        let world = Self { rig, strict };
        world.begin_anew();
        world
    }

    /// Creates another grant for the portal.
    pub fn begin_anew(&self) {
        let ran = self.rig.import(PORTAL, &self.rig.install(PORTAL));
        assert_eq!(ran.code, Some(0), "imported and renewed: {ran:?}");
    }

    /// `refreshd renew`, executed by the daemon if there is one.
    pub fn renew(&self) -> CommandOutput {
        self.rig.run(["renew", PORTAL, "--json"])
    }

    /// Reads the state from a copy: reading must not repair it.
    pub fn stored(&self) -> Stored {
        let copy = tempfile::tempdir().expect("a directory");
        for file in ["state.db", "state.db-wal"] {
            if self.rig.path(file).exists() {
                fs::copy(self.rig.path(file), copy.path().join(file)).expect("a copy");
            }
        }
        let connection = Connection::open_with_flags(
            copy.path().join("state.db"),
            OpenFlags::SQLITE_OPEN_READ_WRITE,
        );
        let columns =
            "SELECT generation, refresh_token, claim IS NOT NULL FROM portal WHERE name = ?1";
        let row = connection.and_then(|connection| {
            connection.query_row(columns, [PORTAL], |row| {
                let generation: i64 = row.get(0)?;
                Ok(Stored {
                    generation: generation.unsigned_abs(),
                    refresh: row.get(1)?,
                    claimed: row.get(2)?,
                })
            })
        });
        row.expect("a state with the portal")
    }

    /// Makes the pair some seconds older while no process uses the state: no grant is renewed twice within a second. The
    /// server requires a tenth of a token's life only.
    pub fn age(&self) {
        let connection = Connection::open(self.rig.path("state.db")).expect("a state");
        let issued: i64 = connection
            .query_row("SELECT coalesce(issued_at, 0) FROM portal", [], |row| {
                row.get(0)
            })
            .expect("a portal");
        let tenth = i64::try_from(LIFE.as_millis() / 10).expect("short");
        eventually("the server lets it be renewed again", SOON, || {
            now_millis() > issued + tenth + 20
        });
        let keep_log = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        let older =
            "UPDATE portal SET issued_at = issued_at - 3000, claimed_at = claimed_at - 3000";
        assert_eq!(
            keep_log
                .and_then(|_| connection.execute(older, []))
                .expect("the state can be written"),
            1
        );
    }

    /// Renews by a command during which the fault happens, then by another without a fault; false if the command ended before
    /// the fault.
    pub fn fail_in_command(&self, tally: &mut Tally, fault: &Fault) -> bool {
        self.age();
        let report = self.rig.path("strace.out");
        let before = self.before();
        let command = self.traceable();
        let ran = CommandOutput::run(&mut under_strace(fault.options(&report), &command));
        if !fault.was_injected(&report) {
            if outcome(&ran) != "renewed" {
                tally
                    .problems
                    .push(format!("{fault:?}: not hit, and yet: {ran:?}"));
            }
            return false;
        }
        tally.tried += 1;
        let silent = ran.code.is_some_and(|code| code != 0) && ran.stderr.trim().is_empty();
        if silent || ran.stderr.contains("damaged") || ran.stderr.contains("panicked") {
            tally
                .problems
                .push(format!("{fault:?}: it did not report the problem: {ran:?}"));
        }
        self.judge(tally, fault, &before, &ran.stderr);
        true
    }

    /// Renews by a command with one file of certificate authorities, since reading a hundred of them would add calls.
    pub fn traceable(&self) -> Command {
        let mut command = self.rig.command(["renew", PORTAL, "--json"]);
        let authorities = "/etc/ssl/certs/ca-certificates.crt";
        if Path::new(authorities).exists() {
            command.env("SSL_CERT_FILE", authorities);
        }
        command
    }

    /// State to compare with afterwards.
    pub fn before(&self) -> (Stored, u64) {
        (self.stored(), self.rig.renewals(PORTAL))
    }

    /// Judges a fault: whether the newest pair is stored, and whether the grant can be renewed again.
    pub fn judge(&self, tally: &mut Tally, fault: &Fault, before: &(Stored, u64), output: &str) {
        let (stored, newest) = (self.stored(), self.newest());
        let rotated = self.rig.renewals(PORTAL) > before.1;
        let mut wrong = |what: &str| {
            tally.problems.push(format!(
                "{fault:?}: {what}; {stored:?}, before {before:?}, output {output}"
            ));
        };
        if self.rig.generation(PORTAL) > stored.generation {
            wrong("published before it was stored");
        }
        let missing = stored.refresh != newest;
        if missing && !rotated {
            wrong("an older pair is stored");
        }
        if missing && !stored.claimed {
            wrong("sent without a durable claim");
        }
        if fault.kind == FaultKind::Kill {
            self.rig.server.allow_replay(&domain(PORTAL));
        } else if missing {
            tally.lost += 1;
            wrong("it went on to its end without the new pair");
        }
        let unreachable = missing && self.strict;
        let recovery = self.renew();
        let explained =
            "a renewal was under way when refreshd ended; the same refresh token is sent again";
        if stored.claimed && !recovery.stderr.contains(explained) {
            tally.problems.push(format!(
                "{fault:?}: the log does not report the problem: {recovery:?}"
            ));
        }
        if unreachable {
            if fault.kind == FaultKind::Kill {
                tally.in_doubt += 1;
            }
            if !recovery.stderr.contains("rejected while in doubt") {
                tally
                    .problems
                    .push(format!("{fault:?}: not called in doubt: {recovery:?}"));
            }
            return self.begin_anew();
        }
        self.age();
        let again = self.renew();
        let (stored, works) = (self.stored(), self.has_newest_token());
        let whole =
            stored.refresh == self.newest() && self.rig.generation(PORTAL) == stored.generation;
        let mended = matches!(&*outcome(&recovery), "renewed" | "fresh-already");
        if mended && outcome(&again) == "renewed" && whole && works {
            return;
        }
        tally.lost += 1;
        tally.problems.push(format!(
            "{fault:?}: lost: {stored:?}\n{recovery:?}\n{again:?}"
        ));
        self.begin_anew();
    }

    /// Whether readers have the server's newest token. It may have expired meanwhile: it lives for seconds, and tracing is slow.
    fn has_newest_token(&self) -> bool {
        let token = fs::read_to_string(self.rig.token_path(PORTAL, "token")).unwrap_or_default();
        let known = self.rig.server.knows_access(&token);
        known.is_some_and(|known| known.current && !known.revoked)
    }

    fn newest(&self) -> String {
        self.rig
            .server
            .current_refresh(&domain(PORTAL))
            .expect("a grant")
    }
}

/// Outcome of a renewal.
pub fn outcome(ran: &CommandOutput) -> String {
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
    answer["renewals"][0]["outcome"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
