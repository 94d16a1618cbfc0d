//! Makes the state follow the configuration and the clock. Must not touch a grant's tokens.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::app_fingerprint::AppFingerprint;
use super::clients;
use super::error::StateError;
use super::handle::State;
use super::incomplete;
use super::rows::{COLUMNS, portal, to_json};
use crate::domain::install::InstallContext;
use crate::domain::name::PortalName;
use crate::domain::portal::Kind;
use crate::domain::schedule::planned;
use crate::domain::settings::Configured;
use refreshd_time::Timestamp;

/// Result of following the configuration.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PortalChanges {
    /// Portals that are new to the state.
    pub added: usize,
    /// Portals whose settings changed.
    pub changed: usize,
    /// Portals that are not configured any more.
    pub dropped: usize,
}

/// Treatment of live grants that a configuration does not name any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnamed {
    /// They are unconfigured: their token files are removed.
    Go,
    /// The configuration may be incomplete: the same, but their token files are kept.
    Kept,
    /// The configuration may be incomplete: it is not accepted.
    Refused,
}

impl State {
    /// Makes the state name exactly these portals; grants of others stay, unconfigured.
    ///
    /// # Errors
    /// [`StateError`]; then the previous configuration stays in force.
    pub async fn reconcile(
        &self,
        portals: Vec<Configured>,
        apps: Vec<AppFingerprint>,
        now: Timestamp,
    ) -> Result<PortalChanges, StateError> {
        self.reconcile_with(portals, apps, Unnamed::Go, now).await
    }

    /// Like [`Self::reconcile`], with a treatment of grants that are not named any more.
    ///
    /// # Errors
    /// [`StateError`]; then the previous configuration stays in force.
    pub async fn reconcile_with(
        &self,
        portals: Vec<Configured>,
        apps: Vec<AppFingerprint>,
        unnamed: Unnamed,
        now: Timestamp,
    ) -> Result<PortalChanges, StateError> {
        self.write
            .run(move |connection| reconcile(connection, &portals, &apps, unnamed, now))
            .await
    }

    /// The client of an app has changed: it is tried at once.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn client_changed(
        &self,
        app: AppFingerprint,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.write
            .run(move |connection| {
                reconcile_app(connection, &app, now)
                    .map_err(|source| StateError::sql("follow a changed client", source))
            })
            .await
    }

    /// Requests that the escalations are evaluated again: of failing grants, or of all.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn reschedule_escalations(&self, all: bool) -> Result<(), StateError> {
        self.write
            .run(move |connection| reschedule_escalations(connection, all))
            .await
    }

    /// Moves every stored time by the step of the wall clock.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn shift_times(&self, millis: i64) -> Result<(), StateError> {
        self.write
            .run(move |connection| shift_times(connection, millis))
            .await
    }

    /// After a start: like [`Self::shift_times`] if the clock was set back by more than `tolerance` ms; returns the step.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn adjust_clock(
        &self,
        now: Timestamp,
        tolerance: i64,
    ) -> Result<Option<i64>, StateError> {
        self.write
            .run(move |connection| adjust_clock(connection, now, tolerance))
            .await
    }
}

pub(super) fn reconcile(
    connection: &Connection,
    portals: &[Configured],
    apps: &[AppFingerprint],
    unnamed: Unnamed,
    now: Timestamp,
) -> Result<PortalChanges, StateError> {
    let sql = |source| StateError::sql("follow the configuration", source);
    let mut done = PortalChanges::default();
    let mut named = HashSet::with_capacity(portals.len());
    for configured in portals {
        named.insert(configured.name.as_str());
        done.count(&reconcile_portal(connection, configured, None, now)?);
    }
    let mut installed = HashSet::new();
    for terms in apps.iter().filter_map(|app| app.install.as_ref()) {
        for configured in made_by(connection, terms).map_err(sql)? {
            done.count(&reconcile_portal(
                connection,
                &configured,
                Some(&terms.app),
                now,
            )?);
            installed.insert(configured.name.to_string());
        }
    }
    let mut select = connection
        .prepare("SELECT name FROM portal WHERE configured = 1")
        .map_err(sql)?;
    let known = select
        .query_map([], |row| row.get::<_, String>(0))
        .map_err(sql)?;
    let gone: Vec<String> = known
        .filter(|name| {
            name.as_ref().map_or(true, |name| {
                !named.contains(name.as_str()) && !installed.contains(name)
            })
        })
        .collect::<Result<_, _>>()
        .map_err(sql)?;
    match unnamed {
        Unnamed::Go => incomplete::keep_none(connection)?,
        Unnamed::Kept => {
            incomplete::keep(
                connection,
                &incomplete::living(connection, &gone, apps)?,
                now,
            )?;
        }
        Unnamed::Refused => {
            let living = incomplete::living(connection, &gone, apps)?;
            if !living.is_empty() {
                return Err(StateError::Unnamed { living });
            }
        }
    }
    for name in &gone {
        connection
            .execute("UPDATE portal SET configured = 0 WHERE name = ?1", [name])
            .map_err(sql)?;
    }
    connection
        .execute(
            "DELETE FROM portal WHERE configured = 0 AND refresh_token IS NULL",
            [],
        )
        .map_err(sql)?;
    connection
        .execute(
            "DELETE FROM candidate WHERE portal NOT IN (SELECT name FROM portal)",
            [],
        )
        .map_err(sql)?;
    done.dropped = gone.len();
    for app in apps {
        reconcile_app(connection, app, now).map_err(sql)?;
    }
    Ok(done)
}

impl PortalChanges {
    const fn count(&mut self, followed: &Reconciliation) {
        match followed {
            Reconciliation::Added => self.added += 1,
            Reconciliation::Changed => self.changed += 1,
            Reconciliation::Same => {}
        }
    }
}

/// The portals created by installs of an app, as if they were configured. Configured ones have been processed already, and
/// have their own settings.
fn made_by(connection: &Connection, terms: &InstallContext) -> rusqlite::Result<Vec<Configured>> {
    let mut select = connection.prepare_cached(
        "SELECT name, settings ->> 'domain' AS host, member_id FROM portal WHERE member_id IS NOT NULL AND installed_by = ?1",
    )?;
    let rows = select.query_map([&terms.app], |row| {
        let (name, host, member_id): (String, Option<String>, String) =
            (row.get("name")?, row.get("host")?, row.get("member_id")?);
        let name = PortalName::parse(&name).ok();
        Ok(name.map(|name| terms.configured(name, host.as_deref(), &member_id)))
    })?;
    rows.filter_map(Result::transpose).collect()
}

pub(super) enum Reconciliation {
    Added,
    Changed,
    Same,
}

/// Updates a portal's row to the configuration, or to the app by whose install it was created.
pub(super) fn reconcile_portal(
    connection: &Connection,
    configured: &Configured,
    installed_by: Option<&str>,
    now: Timestamp,
) -> Result<Reconciliation, StateError> {
    let sql = |source| StateError::sql("follow the configuration", source);
    let Configured {
        name,
        settings,
        every,
        token_url,
        allowed_urls: _,
        binding,
    } = configured;
    let by = installed_by.map(str::to_owned);
    let columns = (
        to_json(settings)?,
        to_json(every)?,
        token_url.clone(),
        *binding.bytes(),
        true,
        by,
    );
    type ConfiguredColumns = (String, String, String, [u8; 32], bool, Option<String>);
    let stored: Option<Option<ConfiguredColumns>> = connection
        .prepare_cached(
            "SELECT settings, every, config_url, binding, configured, installed_by FROM portal WHERE name = ?1",
        )
        .and_then(|mut statement| {
            statement
                .query_row([name.as_str()], |row| {
                    let read = || {
                        Ok::<_, rusqlite::Error>((
                            row.get("settings")?,
                            row.get("every")?,
                            row.get("config_url")?,
                            row.get("binding")?,
                            row.get("configured")?,
                            row.get("installed_by")?,
                        ))
                    };
                    Ok(read().ok())
                })
                .optional()
        })
        .map_err(sql)?;
    fall_back(connection, configured).map_err(sql)?;
    if stored.as_ref() == Some(&Some(columns.clone())) {
        return Ok(Reconciliation::Same);
    }
    connection
        .prepare_cached(
            "INSERT INTO portal (name, configured, app, settings, every, config_url, binding, installed_by) \
             VALUES (:name, 1, :app, :settings, :every, :config_url, :binding, :installed_by) \
             ON CONFLICT (name) DO UPDATE SET configured = 1, app = :app, settings = :settings, every = :every, \
             config_url = :config_url, binding = :binding, installed_by = :installed_by",
        )
        .and_then(|mut statement| {
            statement.execute(named_params! {
                ":name": name.as_str(),
                ":app": settings.app,
                ":settings": columns.0,
                ":every": columns.1,
                ":config_url": token_url,
                ":binding": binding.bytes(),
                ":installed_by": installed_by,
            })
        })
        .map_err(sql)?;
    if stored.is_none() {
        return Ok(Reconciliation::Added);
    }
    let portal = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM portal WHERE name = ?1"))
        .and_then(|mut statement| statement.query_row([name.as_str()], portal))
        .map_err(sql)?;
    let kind = portal.kind();
    let Some(grant) = portal.grant else {
        return Ok(Reconciliation::Changed);
    };
    connection
        .execute(
            "UPDATE portal SET escalate_at = 0 WHERE name = ?1",
            [name.as_str()],
        )
        .map_err(sql)?;
    // A new age applies to the present token; a retry or a poll keeps its own time.
    let renew_at = planned((*every).into(), name, &grant.tokens);
    if let (Kind::Fresh, Some(renew_at), None) = (kind, renew_at, grant.claim) {
        connection
            .execute(
                // A portal that is due already, by an import or an operator's request, stays due.
                "UPDATE portal SET renew_at = ?2, next_attempt_at = CASE WHEN next_attempt_at <= ?3 THEN next_attempt_at ELSE ?2 END \
                 WHERE name = ?1",
                params![name.as_str(), renew_at.millis(), now.millis()],
            )
            .map_err(sql)?;
    }
    Ok(Reconciliation::Changed)
}

/// A grant whose token endpoint is not allowed any more changes to the configured one: nothing would ever be sent to the
/// other. Evaluated for every portal, since the list may shrink while the portal's own settings stay.
fn fall_back(connection: &Connection, configured: &Configured) -> rusqlite::Result<()> {
    let Configured {
        name,
        token_url,
        allowed_urls,
        binding,
        ..
    } = configured;
    // The grant of another client keeps its own, for when the configuration changes back.
    let at: Option<Option<String>> = connection
        .prepare_cached("SELECT token_url FROM portal WHERE name = ?1 AND bound_to = ?2")?
        .query_row(params![name.as_str(), binding.bytes()], |row| row.get(0))
        .optional()?;
    if at.flatten().is_some_and(|at| !allowed_urls.contains(&at)) {
        connection
            .prepare_cached("UPDATE portal SET token_url = ?2 WHERE name = ?1")?
            .execute(params![name.as_str(), token_url])?;
    }
    Ok(())
}

/// A changed client is tried at once, and so are its portals that wait after a failure.
pub(super) fn reconcile_app(
    connection: &Connection,
    app: &AppFingerprint,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let AppFingerprint {
        name,
        fingerprint,
        install: _,
    } = app;
    let before: Option<[u8; 32]> = connection
        .query_row(
            "SELECT fingerprint FROM app WHERE name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    if before.as_ref() == Some(fingerprint.bytes()) {
        return Ok(());
    }
    connection.execute(
        "INSERT INTO app (name, fingerprint) VALUES (?1, ?2) \
         ON CONFLICT (name) DO UPDATE SET fingerprint = ?2, retry_at = CASE WHEN rejected_since IS NULL THEN NULL ELSE ?3 END",
        params![name, fingerprint.bytes(), now.millis()],
    )?;
    if before.is_some() {
        clients::reset(connection, name)?;
        connection.execute(
            "UPDATE portal SET next_attempt_at = ?2 WHERE app = ?1 AND claim IS NULL AND next_attempt_at > ?2 AND phase <> 'fresh'",
            params![name, now.millis()],
        )?;
        connection.execute(
            "UPDATE candidate SET next_attempt_at = ?2 WHERE claim IS NULL AND next_attempt_at > ?2 \
             AND portal IN (SELECT name FROM portal WHERE app = ?1)",
            params![name, now.millis()],
        )?;
    }
    Ok(())
}

/// Requests that every escalation is evaluated again, as after a change of the ladder; of failing grants only, or of all.
pub(super) fn reschedule_escalations(connection: &Connection, all: bool) -> Result<(), StateError> {
    connection
        .execute(
            "UPDATE portal SET escalate_at = 0 WHERE refresh_token IS NOT NULL AND (?1 OR phase <> 'fresh')",
            [all],
        )
        .map(|_| ())
        .map_err(|source| StateError::sql("look at the escalations again", source))
}

/// After a clock step of `millis`, planned and promised times are converted.
pub(super) fn shift_times(connection: &Connection, by: i64) -> Result<(), StateError> {
    connection
        .execute(
            "UPDATE portal SET issued_at = issued_at + ?1, expires_at = expires_at + ?1, renewed_at = renewed_at + ?1, \
             renew_at = renew_at + ?1, next_attempt_at = next_attempt_at + ?1, escalate_at = escalate_at + ?1, since = since + ?1, \
             claimed_at = claimed_at + ?1, refresh_expires_at = refresh_expires_at + ?1, refresh_since = refresh_since + ?1 \
             WHERE refresh_token IS NOT NULL",
            [by],
        )
        .and_then(|_| clients::shift(connection, by))
        .and_then(|_| connection.execute("UPDATE silence SET until = until + ?1", [by]))
        .and_then(|_| connection.execute("UPDATE unread_reply SET at = at + ?1", [by]))
        .and_then(|_| {
            connection.execute(
                "UPDATE candidate SET received_at = received_at + ?1, issued_at = issued_at + ?1, expires_at = expires_at + ?1, \
                 since = since + ?1, next_attempt_at = next_attempt_at + ?1, claimed_at = claimed_at + ?1",
                [by],
            )
        })
        .map(|_| ())
        .map_err(|source| StateError::sql("follow a clock step", source))
}

/// After a start: the newest written time cannot be in the future. If it is by more than `tolerance` milliseconds, the clock
/// was set back while refreshd did not run; the times move by the known part of that step, and fresh portals become due,
/// since their age is not known any more; a tenth of the life after the renewal at the soonest. Returns the step.
pub(super) fn adjust_clock(
    connection: &Connection,
    now: Timestamp,
    tolerance: i64,
) -> Result<Option<i64>, StateError> {
    let sql = |source| StateError::sql("compare the stored times with the clock", source);
    let newest: Option<i64> = connection
        .query_row(
            "SELECT max(max(renewed_at, coalesce(claimed_at, 0))) FROM portal WHERE refresh_token IS NOT NULL",
            [],
            |row| row.get(0),
        )
        .map_err(sql)?;
    let step = now.millis().saturating_sub(newest.unwrap_or_default());
    if step >= -tolerance {
        return Ok(None);
    }
    shift_times(connection, step)?;
    connection
        .execute(
            "UPDATE portal SET next_attempt_at = min(next_attempt_at, max(?1, coalesce(issued_at + (expires_at - issued_at) / 10, ?1))) \
             WHERE refresh_token IS NOT NULL AND phase = 'fresh' AND next_attempt_at > ?1",
            [now.millis()],
        )
        .map_err(sql)?;
    Ok(Some(step))
}
