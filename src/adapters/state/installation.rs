//! Installations of apps: the proof of their events, and the times of install and removal.
//!
//! Must not trust an event without its application token, nor one that is older than the last install.

use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::disputes;
use super::error::StateError;
use super::grant_columns::Columns;
use super::listing;
use super::rows::{COLUMNS, portal as read_portal};
use crate::domain::import::ImportedGrant;
use crate::domain::install::is_stale;
use crate::domain::install::{EventKind, InstallContext};
use crate::domain::manual_renewal::{ManualRenewal, manual_renewal};
use crate::domain::name::PortalName;
use crate::domain::portal::Phase;
use crate::domain::portal::Portal;
use crate::domain::token_owner::{TokenOwner, user_id};
use refreshd_secrets::{ApplicationToken, Fingerprint};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;

/// A removal, as an event reports it.
#[derive(Debug)]
pub struct Uninstall {
    /// The app's name.
    pub app: String,
    /// The client's binding.
    pub binding: Fingerprint,
    /// The portal.
    pub member_id: String,
    /// Its application token, if it has one.
    pub application_token: Option<ApplicationToken>,
    /// Time of the event, if it has one.
    pub sent_at: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
    /// Problem of the grants that it ends.
    pub problem: Problem,
}

/// Result of a removal.
#[derive(Debug, PartialEq, Eq)]
pub enum Uninstalled {
    /// The application token matches. Grants of the member that may work are renewed, which verifies the removal: the sender
    /// of the installation's first event may have chosen the token.
    Proven {
        /// Portals whose grant did not work and is gone now.
        gone: Vec<PortalName>,
    },
    /// No application token of this installation is known.
    Unknown,
    /// The application token differs.
    OtherToken,
    /// It has no application token, or no time: a forged or repeated event would look the same.
    Bare,
    /// Another user claims the installation: the application token may be forged, and decides nothing.
    Disputed,
    /// A repeated event, or one that is older than the last install.
    Replayed,
}

/// Columns of an installation.
#[derive(Default)]
pub(super) struct Installation {
    pub(super) application_token: Option<ApplicationToken>,
    installed_at: Option<i64>,
    uninstalled_at: Option<i64>,
    pub(super) installer: Option<String>,
    disputed_at: Option<i64>,
}

pub(super) fn installation(
    connection: &Connection,
    binding: Fingerprint,
    member_id: &str,
) -> Result<Option<Installation>, StateError> {
    connection
        .prepare_cached(
            "SELECT application_token, installed_at, uninstalled_at, installer, disputed_at FROM installation \
             WHERE binding = ?1 AND member_id = ?2",
        )
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| {
                let token: Option<String> = row.get("application_token")?;
                Ok(Installation {
                    application_token: token.as_deref().and_then(ApplicationToken::new),
                    installed_at: row.get("installed_at")?,
                    uninstalled_at: row.get("uninstalled_at")?,
                    installer: row.get("installer")?,
                    disputed_at: row.get("disputed_at")?,
                })
            };
            statement.query_row(params![binding.bytes(), member_id], read).optional()
        })
        .map_err(|source| StateError::sql("look for an installation", source))
}

/// An install event, as it is recorded with the grant that it brought.
#[derive(Clone, Debug)]
pub struct InstallRecord {
    /// The portal.
    pub member_id: String,
    /// Its user.
    pub user_id: String,
    /// Event or visit.
    pub occasion: EventKind,
    /// Token that authenticates later events of this installation; of events only.
    pub application_token: Option<ApplicationToken>,
    /// Time of the event, if it has one.
    pub sent_at: Option<Timestamp>,
}

/// Effect of an event on its installation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GrantChange {
    /// The grant stays as it was.
    Unchanged,
    /// The grant was replaced; `had_none`: there was none that worked.
    Replaced { had_none: bool },
}

/// Records an installation's event.
pub(super) fn record_event(
    connection: &Connection,
    binding: &[u8; 32],
    event: &InstallRecord,
    known: &Installation,
    change: GrantChange,
    now: Timestamp,
) -> Result<(), StateError> {
    let InstallRecord {
        member_id,
        user_id,
        occasion,
        application_token,
        sent_at,
    } = event;
    let token = application_token
        .as_ref()
        .or(known.application_token.as_ref());
    // The sender's clock, if known: the time of a removal is compared with it.
    let at = (change != GrantChange::Unchanged).then(|| sent_at.unwrap_or(now).min(now).millis());
    let installed_at = at.into_iter().chain(known.installed_at).max();
    let is_installer = match change {
        GrantChange::Unchanged => false,
        GrantChange::Replaced { had_none } => match occasion {
            EventKind::Installed => true,
            EventKind::Opened => had_none || known.installer.is_none(),
            EventKind::SystemUser => false,
        },
    };
    let installer = if is_installer {
        Some(user_id)
    } else {
        known.installer.as_ref()
    };
    connection
        .execute(
            "INSERT INTO installation (binding, member_id, application_token, installed_at, installer) \
             VALUES (:binding, :member_id, :application_token, :installed_at, :installer) ON CONFLICT (binding, member_id) \
             DO UPDATE SET application_token = :application_token, installed_at = :installed_at, installer = :installer",
            named_params! {
                ":binding": binding,
                ":member_id": member_id,
                ":application_token": token.map(|token| token.expose()),
                ":installed_at": installed_at,
                ":installer": installer,
            },
        )
        .map(|_| ())
        .map_err(|source| StateError::sql("remember an installation", source))
}

/// Records the installation of a grant that was stored at a portal.
pub(super) fn record_grant(
    connection: &Connection,
    (portal, binding): (&PortalName, &[u8; 32]),
    event: &InstallRecord,
    had_none: bool,
    now: Timestamp,
) -> Result<(), StateError> {
    let InstallRecord {
        member_id, user_id, ..
    } = event;
    connection
        .execute(
            "UPDATE portal SET user_id = ?2 WHERE name = ?1",
            [portal.as_str(), user_id],
        )
        .map_err(|source| StateError::sql("keep an installed portal", source))?;
    let known = installation(connection, Fingerprint::from_bytes(*binding), member_id)?;
    let known = known.unwrap_or_default();
    let change = GrantChange::Replaced { had_none };
    record_event(connection, binding, event, &known, change, now)?;
    disputes::drop_all(connection, portal)
}

pub(super) fn remove(
    connection: &Connection,
    removal: &Uninstall,
    listed: &[PortalName],
) -> Result<Uninstalled, StateError> {
    let Uninstall {
        app,
        binding,
        member_id,
        application_token,
        sent_at,
        now,
        problem,
    } = removal;
    let (Some(application_token), Some(sent_at)) = (application_token, sent_at) else {
        return Ok(Uninstalled::Bare);
    };
    let known = installation(connection, *binding, member_id)?;
    let Some(Installation {
        application_token: Some(token),
        installed_at,
        uninstalled_at,
        disputed_at,
        ..
    }) = known
    else {
        return Ok(Uninstalled::Unknown);
    };
    if disputed_at.is_some() {
        return Ok(Uninstalled::Disputed);
    }
    if !token.is(application_token) {
        return Ok(Uninstalled::OtherToken);
    }
    let newest = installed_at.max(uninstalled_at);
    if is_stale(*sent_at, *now) || newest.is_some_and(|newest| sent_at.millis() <= newest) {
        return Ok(Uninstalled::Replayed);
    }
    let sql = |source| StateError::sql("end the grants of a removed app", source);
    connection
        .execute(
            "UPDATE installation SET uninstalled_at = ?3 WHERE binding = ?1 AND member_id = ?2",
            params![binding.bytes(), member_id, sent_at.millis()],
        )
        .map_err(sql)?;
    let ours = found(
        connection,
        "member_id = ?1 AND installed_by = ?2",
        member_id,
        app,
    )?;
    let names = ours
        .into_iter()
        .map(|found| found.portal.name)
        .chain(listed.iter().cloned());
    let phase = Phase::Gone {
        since: *now,
        problem: problem.clone(),
    };
    let columns = Columns::moved(0).phase(&phase)?;
    let end = format!(
        "UPDATE portal SET {}, next_attempt_at = NULL, claim = NULL, escalate_at = :since WHERE name = :name \
         AND bound_to = :bound_to AND refresh_token IS NOT NULL AND phase IN ('needs-authorization', 'old-state')",
        columns.assignments()
    );
    let mut gone = Vec::new();
    for name in names {
        let others = named_params! { ":name": name.as_str(), ":bound_to": binding.bytes() };
        let ended = connection
            .execute(&end, &*columns.with(others))
            .map_err(sql)?;
        if ended > 0 {
            gone.push(name);
        }
    }
    Ok(Uninstalled::Proven { gone })
}

/// Makes grants of a member due, and returns the times: the renewal verifies the removal. With `at_once` all grants that are
/// renewed automatically, now; otherwise the fresh ones, at the earliest allowed time.
pub(super) fn request_renewal(
    connection: &Connection,
    (app, member_id): (&str, &str),
    listed: &[PortalName],
    at_once: bool,
    now: Timestamp,
) -> Result<Vec<(PortalName, Timestamp)>, StateError> {
    let sql = |source| StateError::sql("ask for the renewal of an installed portal", source);
    let ours = found(
        connection,
        "member_id = ?1 AND installed_by = ?2",
        member_id,
        app,
    )?;
    let mut portals: Vec<_> = ours.into_iter().map(|found| found.portal).collect();
    for name in listed {
        portals.extend(listing::portal(connection, name)?);
    }
    let mut asked = Vec::new();
    for portal in portals {
        let Some(grant) = portal
            .grant
            .filter(|grant| at_once || grant.status.phase == Phase::Fresh)
        else {
            continue;
        };
        let (ManualRenewal::From(at) | ManualRenewal::FreshUntil(at)) = if at_once {
            ManualRenewal::From(now)
        } else {
            manual_renewal(&grant, now)
        };
        let changed = connection
            .execute(
                "UPDATE portal SET next_attempt_at = min(next_attempt_at, ?2) WHERE name = ?1 AND claim IS NULL AND next_attempt_at IS NOT NULL \
                 AND configured = 1 AND bound_to = binding",
                params![portal.name.as_str(), at.millis()],
            )
            .map_err(sql)?;
        if changed > 0 {
            asked.push((portal.name, at));
        }
    }
    Ok(asked)
}

/// The grant of a verified event.
#[derive(Clone, Debug)]
pub struct InstalledGrant {
    /// The app and its install rule.
    pub terms: InstallContext,
    /// Kind of the event.
    pub occasion: EventKind,
    /// Its owner, verified by the authorization server.
    pub owner: TokenOwner,
    /// The grant.
    pub imported: ImportedGrant,
    /// Token that authenticates later events of this installation; of events only.
    pub application_token: Option<ApplicationToken>,
    /// Time of the event, if it has one.
    pub sent_at: Option<Timestamp>,
    /// What to do if the portal has a grant already.
    pub over: OverGrant,
    /// Now.
    pub now: Timestamp,
}

/// How an install is stored at a portal that has a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverGrant {
    /// Nothing is stored: the outcome is [`super::installs::InstallOutcome::Unproven`].
    Report,
    /// As a candidate, which replaces the grant once it is verified.
    Candidate,
    /// In the place of a grant that does not work, unverified: the server does not respond now.
    Dead,
}

impl InstalledGrant {
    /// The event, as it is recorded with its grant.
    pub(super) fn event(&self) -> InstallRecord {
        InstallRecord {
            member_id: self.owner.member_id.clone(),
            user_id: self.owner.user_id.clone(),
            occasion: self.occasion,
            application_token: self.application_token.clone(),
            sent_at: self.sent_at,
        }
    }
}

/// A portal's row, and the user of its grant.
pub(super) struct FoundPortal {
    pub(super) portal: Portal,
    pub(super) user: Option<String>,
}

/// The rows that match a condition on `?1`, the value, and `?2`, the app.
pub(super) fn found(
    connection: &Connection,
    condition: &str,
    value: &str,
    app: &str,
) -> Result<Vec<FoundPortal>, StateError> {
    let sql = |source| StateError::sql("look for an installed portal", source);
    let query = format!("SELECT {COLUMNS}, user_id FROM portal WHERE {condition} ORDER BY id");
    let mut statement = connection.prepare_cached(&query).map_err(sql)?;
    let read = |row: &rusqlite::Row<'_>| {
        let (portal, user) = (read_portal(row)?, row.get("user_id")?);
        let of_grant = |portal: &Portal| {
            user_id(
                portal
                    .grant
                    .as_ref()?
                    .tokens
                    .details
                    .fields
                    .get("user_id")?,
            )
        };
        Ok(FoundPortal {
            user: Option::or_else(user, || of_grant(&portal)),
            portal,
        })
    };
    let rows = statement
        .query_map([value, app], read)
        .and_then(Iterator::collect);
    rows.map_err(sql)
}
