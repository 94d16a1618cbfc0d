//! Fault injection of a simulation: begins and ends a fault of `plan`.
//!
//! Must not draw anything at random, nor judge.

use std::time::Duration;

use crate::daemon::tests::plan::{Backup, Mishap, ScheduledFault, Stroke};
use crate::daemon::tests::promises;
use crate::daemon::tests::world::{DiskIs, Network};
use crate::daemon::tests::{MINUTE, Next, Simulation, client_of, name_of, write};
use refreshd_fake_server::{At, Fault};

impl Simulation {
    /// Imports a new grant, as after an authorization.
    pub(crate) fn grant(&mut self, portal: usize) {
        let Some(life) = &mut self.life else { return };
        let client_id = format!("local.{}", client_of(portal));
        let reply = self.world.sandbox.install(&self.hosts[portal], &client_id);
        life.import(
            name_of(portal),
            serde_json::Value::Object(reply).to_string(),
        );
        self.tally.granted_anew += 1;
        self.excuse([portal], 30 * MINUTE);
        self.log(format!("{}: a new grant is brought", name_of(portal)));
    }

    pub(crate) fn reload(&mut self) {
        self.configure(self.every);
        if let Some(life) = &mut self.life {
            life.reload();
        }
    }

    pub(crate) fn strike(&mut self, fault: ScheduledFault) {
        let ScheduledFault {
            stroke,
            lasts,
            after,
        } = fault;
        self.tally.strokes += 1;
        self.log(format!(
            "{stroke:?} for {}",
            humantime::format_duration(lasts)
        ));
        let everybody = 0..self.case.portals;
        let excused = lasts + after;
        match &stroke {
            Stroke::Portal { portal, fault, lie } => {
                self.world.sandbox.fail(
                    At::Portal(self.hosts[*portal].clone()),
                    fault.clone(),
                    u32::MAX,
                );
                self.records[*portal].condemned |= lie;
                self.excuse([*portal], excused);
            }
            Stroke::Everybody { fault } => {
                self.world.sandbox.fail(At::All, fault.clone(), u32::MAX);
                self.excuse(everybody, excused);
            }
            Stroke::Client { sales, fault } => {
                let client = if *sales { "sales" } else { "crm" };
                self.world.sandbox.fail(
                    At::Client(format!("local.{client}")),
                    fault.clone(),
                    u32::MAX,
                );
                self.excuse(everybody, excused);
            }
            Stroke::Network(network) => {
                self.world.set_network(*network);
                self.excuse(everybody, excused);
            }
            Stroke::Disk(disk) => {
                self.world.set_disk(*disk);
                self.excuse(everybody, excused);
            }
            Stroke::CrashAt { steps, down, clock } => {
                self.down = Some((*down, *clock));
                self.world.fuse.set(*steps);
                self.excuse(everybody, excused + 10 * MINUTE);
            }
            Stroke::Restart {
                down,
                clock,
                backup,
            } => {
                self.down = Some((*down, *clock));
                self.backup = *backup;
                self.excuse(everybody, excused + 2 * MINUTE);
                if let Some(life) = &mut self.life {
                    life.stop();
                }
            }
            Stroke::Clock { millis } => self.move_clock(*millis),
            Stroke::Reload { every, without } => {
                self.every = *every;
                for record in &mut self.records {
                    record.left_out = false;
                }
                for portal in without {
                    self.records[*portal].left_out = true;
                }
                self.world.mail.lock().unwrap().named(self.now());
                // Portals that were left out before return with an old token.
                self.excuse(everybody, excused);
                self.reload();
            }
            Stroke::BadReload => {
                write(&self.world.place.path().join("refreshd.toml"), "state = [");
                if let Some(life) = &mut self.life {
                    life.reload();
                }
                self.at(MINUTE, Next::Reload);
            }
            Stroke::Storm { portals, times } => {
                // A renewal request for a dead grant allows one more attempt; see `operations::renew`.
                let dead = |portal: &usize| {
                    self.records[*portal].condemned || self.records[*portal].cut_off
                };
                let portals: Vec<_> = portals.iter().filter(|portal| !dead(portal)).collect();
                let all = times * portals.len();
                for portal in portals.into_iter().cycle().take(all) {
                    if let Some(life) = &mut self.life {
                        life.renew(name_of(*portal));
                    }
                }
            }
            Stroke::Import { portal } => self.grant(*portal),
            Stroke::Forget { portal } => {
                if let Some(life) = &mut self.life {
                    life.forget(name_of(*portal));
                }
                self.excuse([*portal], excused);
            }
            Stroke::Uninstall { portal } => {
                self.world.sandbox.uninstall(&self.hosts[*portal]);
                self.records[*portal].condemned = true;
                self.excuse([*portal], excused);
            }
            Stroke::Rename { portal } => {
                let host = format!("renamed-{}.bitrix24.com", self.tally.strokes);
                self.world.sandbox.rename(&self.hosts[*portal], &host);
            }
            Stroke::Mail => self.world.mail.lock().unwrap().set_away(true),
            Stroke::Files => {
                let place = self.world.place.path();
                // Puts a file in the directory's place; what was published stays unreadable.
                let _ = std::fs::remove_dir_all(place.join("tokens"));
                write(&place.join("tokens"), "not a directory");
                self.excuse(everybody, excused);
            }
        }
        if lasts > Duration::ZERO {
            let number = self.tally.strokes;
            self.struck.insert(number, stroke);
            self.at(lasts, Next::Clear(number));
        }
    }

    /// A mishap excuses no portal, except one whose server fails.
    pub(crate) fn befall(&mut self, mishap: Mishap) -> Result<(), String> {
        self.tally.mishaps += 1;
        self.log(format!("{mishap:?}"));
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        match mishap {
            Mishap::Word { portal, word } => life.import(name_of(portal), word.to_owned()),
            Mishap::MadeUp { portal, token } => life.import(name_of(portal), token),
            Mishap::Foreign { portal } => {
                // Where the identity of the grant is unknown, a foreign grant would be accepted.
                let portals = promises::portals(&self.world)?;
                let known = portals.get(&name_of(portal)).is_some_and(|found| {
                    found
                        .grant
                        .as_ref()
                        .is_some_and(|grant| grant.identity.is_some())
                });
                if known {
                    let client_id = format!("local.{}", client_of(portal));
                    let host = format!("stranger-{}.bitrix24.com", self.tally.mishaps);
                    let reply = self.world.sandbox.install(&host, &client_id);
                    life.import(
                        name_of(portal),
                        serde_json::Value::Object(reply).to_string(),
                    );
                }
            }
            Mishap::Wrapped { portal, wrap } => {
                self.world.sandbox.fail(
                    At::Portal(self.hosts[portal].clone()),
                    Fault::Wrapped { wrap },
                    1,
                );
            }
            Mishap::ScheduledFault(fault) => self.strike(fault),
        }
        Ok(())
    }

    pub(crate) fn clear(&mut self, stroke: &Stroke) {
        match stroke {
            Stroke::Portal {
                portal,
                fault: _,
                lie: _,
            } => {
                self.world
                    .sandbox
                    .heal(At::Portal(self.hosts[*portal].clone()));
            }
            // Also ends the other faults of the server; ending them again later has no effect.
            Stroke::Everybody { fault: _ } => self.world.sandbox.heal(At::All),
            Stroke::Client { sales, fault: _ } => {
                let client = if *sales { "sales" } else { "crm" };
                self.world
                    .sandbox
                    .heal(At::Client(format!("local.{client}")));
            }
            Stroke::Network(_) => self.world.set_network(Network::Fair),
            Stroke::Disk(_) => {
                self.world.set_disk(DiskIs::Fair);
                self.world
                    .mail
                    .lock()
                    .unwrap()
                    .disk_is_fair(self.world.truth.now());
            }
            Stroke::Mail => {
                let mut mail = self.world.mail.lock().unwrap();
                mail.set_away(false);
                mail.disturb(self.world.truth.now());
            }
            Stroke::Files => {
                let _ = std::fs::remove_file(self.world.place.path().join("tokens"));
            }
            Stroke::CrashAt { .. }
            | Stroke::Restart { .. }
            | Stroke::Clock { .. }
            | Stroke::Reload { .. }
            | Stroke::BadReload
            | Stroke::Storm { .. }
            | Stroke::Import { .. }
            | Stroke::Forget { .. }
            | Stroke::Uninstall { .. }
            | Stroke::Rename { .. } => {}
        }
        self.log(format!("over: {stroke:?}"));
    }

    pub(crate) fn move_clock(&mut self, millis: i64) {
        if millis != 0 {
            self.world.step_clock(millis);
            self.clock_moved_at = self.now();
            self.world.mail.lock().unwrap().disturb(self.now());
            self.excuse(0..self.case.portals, 30 * MINUTE);
        }
    }

    /// Copies the state while the daemon is stopped, or puts an old copy in its place.
    pub(crate) fn keep_backups(&mut self) -> Result<(), String> {
        let place = self.world.place.path();
        let (state, copy) = (place.join("state.db"), place.join("backup.db"));
        match std::mem::replace(&mut self.backup, Backup::Nothing) {
            Backup::Make => drop(std::fs::copy(&state, &copy)),
            Backup::Restore if copy.exists() => {
                let before = promises::portals(&self.world)?;
                std::fs::copy(&copy, &state).map_err(|error| error.to_string())?;
                let after = promises::portals(&self.world)?;
                for portal in 0..self.case.portals {
                    let name = name_of(portal);
                    if promises::is_another_grant(before.get(&name), after.get(&name)) {
                        // The daemon cannot detect that this grant is old: it is sent, once.
                        self.world.sandbox.allow_replay(&self.hosts[portal]);
                    }
                    self.records[portal].condemned = true;
                }
                self.tally.restored += 1;
                self.world.mail.lock().unwrap().forget(self.now());
                self.excuse(0..self.case.portals, 60 * MINUTE);
            }
            Backup::Nothing | Backup::Restore => {}
        }
        Ok(())
    }
}
