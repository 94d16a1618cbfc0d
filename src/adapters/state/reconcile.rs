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
    /// Portals the state had not known.
    pub added: usize,
    /// Portals whose settings changed.
    pub changed: usize,
    /// Portals the configuration does not name any more.
    pub dropped: usize,
}

/// Treatment of living grants that a configuration does not name any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnamed {
    /// They are not configured: their token files go.
    Go,
    /// The configuration may not be all there: the same, but their token files are kept.
    Kept,
    /// The configuration may not be all there: it is not followed.
    Refused,
}

impl State {
    /// Makes the state name exactly these portals; grants of others stay, unconfigured.
    ///
    /// # Errors
    /// [`StateError`]; then the configuration before stays in force.
    pub async fn reconcile(
        &self,
        portals: Vec<Configured>,
        apps: Vec<AppFingerprint>,
        now: Timestamp,
    ) -> Result<PortalChanges, StateError> {
        self.reconcile_with(portals, apps, Unnamed::Go, now).await
    }

    /// The same, with a word on what becomes of grants that are not named any more.
    ///
    /// # Errors
    /// [`StateError`]; then the configuration before stays in force.
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

    /// The client of an app is another than before: it is tried at once.
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

    /// Asks for the escalations to be looked at again: of troubled grants, or of all.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn reschedule_escalations(&self, all: bool) -> Result<(), StateError> {
        self.write
            .run(move |connection| reschedule_escalations(connection, all))
            .await
    }

    /// Moves every stored time by as much as the wall clock stepped.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn shift_times(&self, millis: i64) -> Result<(), StateError> {
        self.write
            .run(move |connection| shift_times(connection, millis))
            .await
    }

    /// After a start: as [`Self::shift_times`] if the clock was set back by more than `tolerance` ms; by how much.
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

/// The portals that installs of an app made, as if the configuration named them. Those it does name have been followed
/// already, and are its own.
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

/// Makes a portal's row say what the configuration says, or what the app does by whose install it came.
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
    // A new age counts for the token that is there; a retry or a poll keeps its own time.
    let renew_at = planned((*every).into(), name, &grant.tokens);
    if let (Kind::Fresh, Some(renew_at), None) = (kind, renew_at, grant.claim) {
        connection
            .execute(
                // What is due already, as an import or by an operator's word, stays due.
                "UPDATE portal SET renew_at = ?2, next_attempt_at = CASE WHEN next_attempt_at <= ?3 THEN next_attempt_at ELSE ?2 END \
                 WHERE name = ?1",
                params![name.as_str(), renew_at.millis(), now.millis()],
            )
            .map_err(sql)?;
    }
    Ok(Reconciliation::Changed)
}

/// A grant whose token endpoint is not allowed any more goes to the configured one: nothing would ever be sent to the
/// other. Asked of every portal, since the list may shrink while the portal's own settings stay.
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

/// A client that changed is tried at once, and so are its portals that wait after a failure.
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

/// Asks for every escalation to be looked at again, as after a change of the ladder; of troubled grants only, or of all.
pub(super) fn reschedule_escalations(connection: &Connection, all: bool) -> Result<(), StateError> {
    connection
        .execute(
            "UPDATE portal SET escalate_at = 0 WHERE refresh_token IS NOT NULL AND (?1 OR phase <> 'fresh')",
            [all],
        )
        .map(|_| ())
        .map_err(|source| StateError::sql("look at the escalations again", source))
}

/// After a clock step of `millis`, what was planned and promised in the old time is said in the new.
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

/// After a start: what was written last cannot lie ahead. If it does by more than `tolerance` milliseconds, the clock
/// was set back while refreshd did not run; the times move by as much as is known of that step, and what looks fresh is due,
/// since its age is not known any more; a tenth of its life after its renewal at the soonest. Says by how much they
/// moved.
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
