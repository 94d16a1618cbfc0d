//! Fault injection of a simulation: begins and ends a fault of `plan`.
//!
//! Must not draw anything at random, nor judge.

use std::time::Duration;

use crate::daemon::tests::invariants;
use crate::daemon::tests::plan::{Backup, InjectedFault, IsolatedFault, ScheduledFault};
use crate::daemon::tests::world::{DiskCondition, Network};
use crate::daemon::tests::{MINUTE, Next, Simulation, client_of, name_of, write};
use refreshd_fake_server::{At, Fault};

impl Simulation {
    /// Imports a new grant, as after an authorization.
    pub(crate) fn grant(&mut self, portal: usize) {
        let Some(process) = &mut self.process else {
            return;
        };
        let client_id = format!("local.{}", client_of(portal));
        let reply = self.world.sandbox.install(&self.hosts[portal], &client_id);
        process.import(
            name_of(portal),
            serde_json::Value::Object(reply).to_string(),
        );
        self.tally.granted_anew += 1;
        self.excuse([portal], 30 * MINUTE);
        self.log(format!("{}: a new grant is brought", name_of(portal)));
    }

    pub(crate) fn reload(&mut self) {
        self.configure(self.every);
        if let Some(process) = &mut self.process {
            process.reload();
        }
    }

    pub(crate) fn inject(&mut self, fault: ScheduledFault) {
        let ScheduledFault {
            injected,
            lasts,
            after,
        } = fault;
        self.tally.faults += 1;
        self.log(format!(
            "{injected:?} for {}",
            humantime::format_duration(lasts)
        ));
        let everybody = 0..self.case.portals;
        let excused = lasts + after;
        match &injected {
            InjectedFault::Portal {
                portal,
                fault,
                condemns,
            } => {
                self.world.sandbox.fail(
                    At::Portal(self.hosts[*portal].clone()),
                    fault.clone(),
                    u32::MAX,
                );
                self.records[*portal].condemned |= condemns;
                self.excuse([*portal], excused);
            }
            InjectedFault::Everybody { fault } => {
                self.world.sandbox.fail(At::All, fault.clone(), u32::MAX);
                self.excuse(everybody, excused);
            }
            InjectedFault::Client { sales, fault } => {
                let client = if *sales { "sales" } else { "crm" };
                self.world.sandbox.fail(
                    At::Client(format!("local.{client}")),
                    fault.clone(),
                    u32::MAX,
                );
                self.excuse(everybody, excused);
            }
            InjectedFault::Network(network) => {
                self.world.set_network(*network);
                self.excuse(everybody, excused);
            }
            InjectedFault::Disk(disk) => {
                self.world.set_disk(*disk);
                self.excuse(everybody, excused);
            }
            InjectedFault::CrashAt { steps, down, clock } => {
                self.down = Some((*down, *clock));
                self.world.kill_switch.set(*steps);
                self.excuse(everybody, excused + 10 * MINUTE);
            }
            InjectedFault::Restart {
                down,
                clock,
                backup,
            } => {
                self.down = Some((*down, *clock));
                self.backup = *backup;
                self.excuse(everybody, excused + 2 * MINUTE);
                if let Some(process) = &mut self.process {
                    process.stop();
                }
            }
            InjectedFault::Clock { millis } => self.move_clock(*millis),
            InjectedFault::Reload { every, without } => {
                self.every = *every;
                for record in &mut self.records {
                    record.left_out = false;
                }
                for portal in without {
                    self.records[*portal].left_out = true;
                }
                self.world.alerts.lock().unwrap().named(self.now());
                // Portals that were left out before return with an old token.
                self.excuse(everybody, excused);
                self.reload();
            }
            InjectedFault::BadReload => {
                write(&self.world.place.path().join("refreshd.toml"), "state = [");
                if let Some(process) = &mut self.process {
                    process.reload();
                }
                self.at(MINUTE, Next::Reload);
            }
            InjectedFault::Storm { portals, times } => {
                // A renewal request for a dead grant allows one more attempt; see `operations::renew`.
                let dead = |portal: &usize| {
                    self.records[*portal].condemned || self.records[*portal].cut_off
                };
                let portals: Vec<_> = portals.iter().filter(|portal| !dead(portal)).collect();
                let all = times * portals.len();
                for portal in portals.into_iter().cycle().take(all) {
                    if let Some(process) = &mut self.process {
                        process.renew(name_of(*portal));
                    }
                }
            }
            InjectedFault::Import { portal } => self.grant(*portal),
            InjectedFault::Forget { portal } => {
                if let Some(process) = &mut self.process {
                    process.forget(name_of(*portal));
                }
                self.excuse([*portal], excused);
            }
            InjectedFault::Uninstall { portal } => {
                self.world.sandbox.uninstall(&self.hosts[*portal]);
                self.records[*portal].condemned = true;
                self.excuse([*portal], excused);
            }
            InjectedFault::Rename { portal } => {
                let host = format!("renamed-{}.bitrix24.com", self.tally.faults);
                self.world.sandbox.rename(&self.hosts[*portal], &host);
            }
            InjectedFault::Receiver => self.world.alerts.lock().unwrap().set_unavailable(true),
            InjectedFault::Files => {
                let place = self.world.place.path();
                // Puts a file in the directory's place; the published files stay unreadable.
                let _ = std::fs::remove_dir_all(place.join("tokens"));
                write(&place.join("tokens"), "not a directory");
                self.excuse(everybody, excused);
            }
        }
        if lasts > Duration::ZERO {
            let number = self.tally.faults;
            self.active_faults.insert(number, injected);
            self.at(lasts, Next::Clear(number));
        }
    }

    /// An isolated fault excuses no portal, except one whose server fails.
    pub(crate) fn inject_isolated(&mut self, fault: IsolatedFault) -> Result<(), String> {
        self.tally.isolated_faults += 1;
        self.log(format!("{fault:?}"));
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        match fault {
            IsolatedFault::Word { portal, word } => {
                process.import(name_of(portal), word.to_owned());
            }
            IsolatedFault::MadeUp { portal, token } => process.import(name_of(portal), token),
            IsolatedFault::Foreign { portal } => {
                // If the identity of the grant is unknown, a foreign grant would be accepted.
                let portals = invariants::portals(&self.world)?;
                let known = portals.get(&name_of(portal)).is_some_and(|found| {
                    found
                        .grant
                        .as_ref()
                        .is_some_and(|grant| grant.identity.is_some())
                });
                if known {
                    let client_id = format!("local.{}", client_of(portal));
                    let host = format!("stranger-{}.bitrix24.com", self.tally.isolated_faults);
                    let reply = self.world.sandbox.install(&host, &client_id);
                    process.import(
                        name_of(portal),
                        serde_json::Value::Object(reply).to_string(),
                    );
                }
            }
            IsolatedFault::Wrapped { portal, wrap } => {
                self.world.sandbox.fail(
                    At::Portal(self.hosts[portal].clone()),
                    Fault::Wrapped { wrap },
                    1,
                );
            }
            IsolatedFault::ScheduledFault(fault) => self.inject(fault),
        }
        Ok(())
    }

    pub(crate) fn clear(&mut self, injected: &InjectedFault) {
        match injected {
            InjectedFault::Portal {
                portal,
                fault: _,
                condemns: _,
            } => {
                self.world
                    .sandbox
                    .heal(At::Portal(self.hosts[*portal].clone()));
            }
            // Also ends the other faults of the server; ending them again later has no effect.
            InjectedFault::Everybody { fault: _ } => self.world.sandbox.heal(At::All),
            InjectedFault::Client { sales, fault: _ } => {
                let client = if *sales { "sales" } else { "crm" };
                self.world
                    .sandbox
                    .heal(At::Client(format!("local.{client}")));
            }
            InjectedFault::Network(_) => self.world.set_network(Network::Fair),
            InjectedFault::Disk(_) => {
                self.world.set_disk(DiskCondition::Fair);
                self.world
                    .alerts
                    .lock()
                    .unwrap()
                    .disk_is_fair(self.world.truth.now());
            }
            InjectedFault::Receiver => {
                let mut alerts = self.world.alerts.lock().unwrap();
                alerts.set_unavailable(false);
                alerts.disturb(self.world.truth.now());
            }
            InjectedFault::Files => {
                let _ = std::fs::remove_file(self.world.place.path().join("tokens"));
            }
            InjectedFault::CrashAt { .. }
            | InjectedFault::Restart { .. }
            | InjectedFault::Clock { .. }
            | InjectedFault::Reload { .. }
            | InjectedFault::BadReload
            | InjectedFault::Storm { .. }
            | InjectedFault::Import { .. }
            | InjectedFault::Forget { .. }
            | InjectedFault::Uninstall { .. }
            | InjectedFault::Rename { .. } => {}
        }
        self.log(format!("over: {injected:?}"));
    }

    pub(crate) fn move_clock(&mut self, millis: i64) {
        if millis != 0 {
            self.world.step_clock(millis);
            self.clock_moved_at = self.now();
            self.world.alerts.lock().unwrap().disturb(self.now());
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
                let before = invariants::portals(&self.world)?;
                std::fs::copy(&copy, &state).map_err(|error| error.to_string())?;
                let after = invariants::portals(&self.world)?;
                for portal in 0..self.case.portals {
                    let name = name_of(portal);
                    if invariants::is_another_grant(before.get(&name), after.get(&name)) {
                        // The daemon cannot detect that this grant is old: it is sent, once.
                        self.world.sandbox.allow_replay(&self.hosts[portal]);
                    }
                    self.records[portal].condemned = true;
                }
                self.tally.restored += 1;
                self.world.alerts.lock().unwrap().forget(self.now());
                self.excuse(0..self.case.portals, 60 * MINUTE);
            }
            Backup::Nothing | Backup::Restore => {}
        }
        Ok(())
    }
}
