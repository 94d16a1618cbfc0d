//! The life of a claim: taken before anything is sent, ended by what is recorded. Compare-and-swap throughout.
//!
//! Must not overwrite a grant that was replaced meanwhile: what comes too late is put aside.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::StateError;
use super::rows::{COLUMNS, millis, phase_columns, portal, to_json};
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, Phase, Portal, Standing};
use crate::domain::renewal::{Renewed, may_renew_now};
use crate::domain::reply::Granted;
use crate::domain::time::Timestamp;
use crate::domain::token::{Generation, Tokens};

/// While one portal tries a refused client again, the others of that app wait at least this long, in milliseconds.
const PROBE_MILLIS: i64 = 120_000;

/// Portals claimed, each with its grant and claim.
#[derive(Debug)]
pub struct Claims {
    /// The claimed, soonest to expire first.
    pub portals: Vec<Portal>,
    /// When something becomes due that is not yet.
    pub next: Option<Timestamp>,
}

/// What to record of a claimed renewal.
#[derive(Debug)]
pub struct RecordAs {
    /// The portal.
    pub portal: PortalName,
    /// Its app.
    pub app: String,
    /// The claim that is ended.
    pub claim: ClaimId,
    /// The outcome.
    pub outcome: RecordOutcome,
    /// The escalation steps told of, this outcome's included.
    pub told: Vec<String>,
    /// When the next escalation step comes.
    pub climb_at: Option<Timestamp>,
    /// When it is recorded.
    pub now: Timestamp,
    /// Whether the server refused or accepted the app's client, if that is known now.
    pub client: Rejection,
}

/// What a reply says of the app's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Nothing.
    Unknown,
    /// It was accepted.
    Accepted,
    /// It was refused; try one portal again then.
    Refused(Timestamp),
}

/// The outcome part of a record.
#[derive(Debug)]
pub enum RecordOutcome {
    /// A new pair.
    Renewed(Box<Renewed>),
    /// The pair stays.
    Kept(Standing),
    /// Somebody else's pair came.
    Foreign(Standing, Box<Granted>),
}

/// What recording did.
#[derive(Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is durable. `client_changed` says that the app's client became refused, or accepted again, just now.
    Done {
        /// The grant's generation now.
        generation: Generation,
        /// The app's standing flipped.
        client_changed: bool,
    },
    /// An import, authorization or `forget` came first: the reply is kept aside and not used.
    SetAside,
}

/// What became of a request to renew.
#[derive(Debug, PartialEq, Eq)]
pub enum RenewalRequest {
    /// It is due now.
    Due,
    /// A renewal is under way.
    UnderWay,
    /// It was renewed a moment ago; not before then again.
    NotBefore(Timestamp),
    /// The state has no grant that may be used.
    NoGrant,
    /// No such portal.
    Unknown,
}

const DUE: &str =
    "token_url = ?1 AND act_at IS NOT NULL AND claim IS NULL AND configured = 1 AND bound_to = binding";

pub(super) fn claim_due(
    connection: &Connection,
    now: Timestamp,
    capacity: &[(String, usize)],
) -> Result<Claims, StateError> {
    let sql = |source| StateError::sql("claim due portals", source);
    let claim: i64 = connection
        .prepare_cached("SELECT coalesce(max(claim), 0) + 1 FROM portal WHERE claim IS NOT NULL")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(sql)?;
    let claim = claim.max(now.millis());
    let (paused, probing) = refused_apps(connection, now).map_err(sql)?;
    let mut taken: Vec<(i64, String)> = Vec::new();
    let mut next = probing.next;
    for (token_url, limit) in capacity {
        // The index alone says which: rows are read of those that are claimed, not of all that are due.
        let mut select = connection
            .prepare_cached(&format!(
                "SELECT id, app FROM portal WHERE {DUE} AND act_at <= ?2 AND app NOT IN (SELECT value FROM json_each(?4)) \
                 ORDER BY expires_at LIMIT ?3"
            ))
            .map_err(sql)?;
        let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
        let rows = select
            .query_map(params![token_url, now.millis(), limit, paused], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(sql)?;
        for row in rows {
            taken.push(row.map_err(sql)?);
        }
        let soonest: Option<i64> = connection
            .prepare_cached(&format!("SELECT min(act_at) FROM portal WHERE {DUE} AND act_at > ?2"))
            .and_then(|mut statement| statement.query_row(params![token_url, now.millis()], |row| row.get(0)))
            .map_err(sql)?;
        next = [next, soonest.map(Timestamp::from_millis)].into_iter().flatten().min();
    }
    let mut probed = HashSet::new();
    let mut portals = Vec::with_capacity(taken.len());
    for (id, app) in taken {
        if probing.apps.contains(&app) && !probed.insert(app) {
            continue;
        }
        let claimed = connection
            .prepare_cached(&format!(
                "UPDATE portal SET claim = ?2, claimed_at = ?3 WHERE id = ?1 RETURNING {COLUMNS}"
            ))
            .and_then(|mut statement| statement.query_row(params![id, claim, now.millis()], portal))
            .map_err(sql)?;
        portals.push(claimed);
    }
    for app in &probed {
        connection
            .execute(
                "UPDATE app SET retry_at = ?2 WHERE name = ?1",
                params![app, now.millis() + PROBE_MILLIS],
            )
            .map_err(sql)?;
    }
    Ok(Claims { portals, next })
}

/// Claims one portal whatever its time, for a command that renews without a daemon.
pub(super) fn claim_one(
    connection: &Connection,
    name: &PortalName,
    now: Timestamp,
) -> Result<Option<Portal>, StateError> {
    let sql = |source| StateError::sql("claim a portal", source);
    let claimed = connection
        .execute(
            "UPDATE portal SET claim = ?2, claimed_at = ?2 WHERE name = ?1 AND claim IS NULL AND act_at IS NOT NULL \
             AND configured = 1 AND bound_to = binding",
            params![name.as_str(), now.millis()],
        )
        .map_err(sql)?;
    if claimed == 0 {
        return Ok(None);
    }
    connection
        .query_row(&format!("SELECT {COLUMNS} FROM portal WHERE name = ?1"), [name.as_str()], portal)
        .optional()
        .map_err(sql)
}

struct Probing {
    apps: HashSet<String>,
    next: Option<Timestamp>,
}

/// Apps whose client is refused: those to leave alone (as a JSON array), and those of which one portal may try.
fn refused_apps(connection: &Connection, now: Timestamp) -> rusqlite::Result<(String, Probing)> {
    let mut paused = Vec::new();
    let mut probing = Probing { apps: HashSet::new(), next: None };
    let mut statement =
        connection.prepare_cached("SELECT name, retry_at FROM app WHERE rejected_since IS NOT NULL")?;
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    for row in rows {
        let (name, retry_at) = row?;
        let retry_at = Timestamp::from_millis(retry_at.unwrap_or_default());
        if retry_at <= now {
            probing.apps.insert(name);
        } else {
            probing.next = Some(probing.next.map_or(retry_at, |next| next.min(retry_at)));
            paused.push(name);
        }
    }
    Ok((serde_json::Value::from(paused).to_string(), probing))
}

pub(super) fn orphans(connection: &Connection) -> Result<Vec<Portal>, StateError> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM portal WHERE claim IS NOT NULL"))
        .map_err(|source| StateError::sql("find claims without an outcome", source))?;
    super::rows::portals(&mut statement, [])
}

pub(super) fn record(connection: &Connection, record: &RecordAs) -> Result<Recorded, StateError> {
    let RecordAs { portal, app, claim, outcome, told, climb_at, now, client } = record;
    let sql = |source| StateError::sql("record a renewal", source);
    let told = serde_json::Value::from(told.clone()).to_string();
    let generation: Option<i64> = match outcome {
        RecordOutcome::Renewed(renewed) => record_pair(connection, record, renewed, &told)?,
        RecordOutcome::Kept(standing) | RecordOutcome::Foreign(standing, _) => {
            let (phase, attempt, since, problem, doubtful) = phase_columns(&standing.phase)?;
            connection
                .prepare_cached(
                    "UPDATE portal SET phase = ?3, attempt = ?4, since = ?5, problem = ?6, doubtful = ?7, \
                     renew_at = ?8, act_at = ?9, told = ?10, climb_at = ?11, claim = NULL, claimed_at = NULL \
                     WHERE name = ?1 AND claim = ?2 RETURNING generation",
                )
                .and_then(|mut statement| {
                    let (renew_at, act_at) = (millis(standing.renew_at), millis(standing.act_at));
                    let columns = params![
                        portal.as_str(),
                        claim.0,
                        phase,
                        attempt,
                        since,
                        problem,
                        doubtful,
                        renew_at,
                        act_at,
                        told,
                        millis(*climb_at)
                    ];
                    statement.query_row(columns, |row| row.get(0)).optional()
                })
                .map_err(sql)?
        }
    };
    let Some(generation) = generation else {
        match outcome {
            RecordOutcome::Renewed(renewed) => {
                put_aside(
                    connection,
                    portal,
                    *now,
                    "late",
                    Some(&renewed.tokens),
                    renewed.identity.as_deref(),
                )?;
            }
            RecordOutcome::Foreign(_, granted) => put_foreign_aside(connection, portal, *now, granted)?,
            RecordOutcome::Kept(_) => {}
        }
        return Ok(Recorded::SetAside);
    };
    if let RecordOutcome::Foreign(_, granted) = outcome {
        put_foreign_aside(connection, portal, *now, granted)?;
    }
    let client_changed = record_client(connection, app, *client, *now).map_err(sql)?;
    Ok(Recorded::Done {
        generation: Generation(u64::try_from(generation).unwrap_or_default()),
        client_changed,
    })
}

fn record_pair(
    connection: &Connection,
    record: &RecordAs,
    renewed: &Renewed,
    told: &str,
) -> Result<Option<i64>, StateError> {
    let RecordAs { portal, app: _, claim, outcome: _, told: _, climb_at, now, client: _ } = record;
    let Renewed {
        tokens: Tokens { access, refresh, details },
        standing,
        identity,
        token_url,
        renamed_from: _,
    } = renewed;
    let access = access.as_ref();
    let (fingerprint, details) = (refresh.fingerprint(), to_json(details)?);
    connection
        .prepare_cached(
            "UPDATE portal SET generation = generation + 1, refresh_token = ?3, fingerprint = ?4, access_token = ?5, \
             token_type = ?6, issued_at = ?7, expires_at = ?8, details = ?9, identity = ?10, token_url = ?11, \
             renewed_at = ?12, phase = 'fresh', attempt = 0, since = NULL, problem = NULL, doubtful = 0, \
             renew_at = ?13, act_at = ?14, told = ?15, climb_at = ?16, claim = NULL, claimed_at = NULL \
             WHERE name = ?1 AND claim = ?2 RETURNING generation",
        )
        .and_then(|mut statement| {
            let columns = params![
                portal.as_str(),
                claim.0,
                refresh.expose(),
                fingerprint.bytes(),
                access.map(|access| access.token.expose()),
                access.map(|access| &access.token_type),
                access.map(|access| access.issued_at.millis()),
                access.map(|access| access.expires_at.millis()),
                details,
                identity,
                token_url,
                now.millis(),
                millis(standing.renew_at),
                millis(standing.act_at),
                told,
                millis(*climb_at),
            ];
            statement.query_row(columns, |row| row.get(0)).optional()
        })
        .map_err(|source| StateError::sql("record a new pair", source))
}

/// Says what the reply means for the app; true if its standing flipped.
fn record_client(
    connection: &Connection,
    app: &str,
    client: Rejection,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let flipped = match client {
        Rejection::Unknown => 0,
        Rejection::Accepted => connection
            .prepare_cached(
                "UPDATE app SET rejected_since = NULL, retry_at = NULL WHERE name = ?1 AND rejected_since IS NOT NULL",
            )?
            .execute([app])?,
        Rejection::Refused(retry_at) => {
            connection.execute("UPDATE app SET retry_at = ?2 WHERE name = ?1", params![app, retry_at.millis()])?;
            connection.execute(
                "UPDATE app SET rejected_since = ?2 WHERE name = ?1 AND rejected_since IS NULL",
                params![app, now.millis()],
            )?
        }
    };
    if flipped > 0 && client == Rejection::Accepted {
        connection.execute(
            "UPDATE portal SET act_at = ?2 WHERE app = ?1 AND phase = 'client-rejected' AND claim IS NULL",
            params![app, now.millis()],
        )?;
    }
    Ok(flipped > 0)
}

fn put_foreign_aside(
    connection: &Connection,
    portal: &PortalName,
    now: Timestamp,
    granted: &Granted,
) -> Result<(), StateError> {
    connection
        .execute(
            "INSERT INTO aside (portal, at, why, access_token, refresh_token, identity) VALUES (?1, ?2, 'foreign', ?3, ?4, ?5)",
            params![
                portal.as_str(),
                now.millis(),
                granted.access.expose(),
                granted.refresh.as_ref().map(|refresh| refresh.expose()),
                granted.identity
            ],
        )
        .map(|_| ())
        .map_err(|source| StateError::sql("keep a pair aside", source))
}

fn put_aside(
    connection: &Connection,
    portal: &PortalName,
    now: Timestamp,
    why: &str,
    tokens: Option<&Tokens>,
    identity: Option<&str>,
) -> Result<(), StateError> {
    let access = tokens.and_then(|tokens| tokens.access.as_ref()).map(|access| access.token.expose());
    connection
        .execute(
            "INSERT INTO aside (portal, at, why, access_token, refresh_token, identity) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                portal.as_str(),
                now.millis(),
                why,
                access,
                tokens.map(|tokens| tokens.refresh.expose()),
                identity
            ],
        )
        .map(|_| ())
        .map_err(|source| StateError::sql("keep a pair aside", source))
}

pub(super) fn request_renewal(
    connection: &Connection,
    name: &PortalName,
    now: Timestamp,
) -> Result<RenewalRequest, StateError> {
    let sql = |source| StateError::sql("request a renewal", source);
    let found = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM portal WHERE name = ?1"))
        .and_then(|mut statement| statement.query_row([name.as_str()], portal).optional())
        .map_err(sql)?;
    let Some(found) = found else { return Ok(RenewalRequest::Unknown) };
    let bound = found.binding;
    let Some(grant) = found.grant.filter(|grant| found.settings.is_some() && bound == Some(grant.bound_to))
    else {
        return Ok(RenewalRequest::NoGrant);
    };
    if grant.claim.is_some() {
        return Ok(RenewalRequest::UnderWay);
    }
    if let Err(not_before) = may_renew_now(&grant, now) {
        return Ok(RenewalRequest::NotBefore(not_before));
    }
    connection
        .execute("UPDATE portal SET act_at = ?2 WHERE name = ?1", params![name.as_str(), now.millis()])
        .map_err(sql)?;
    connection
        .execute(
            "UPDATE app SET retry_at = ?2 WHERE rejected_since IS NOT NULL \
             AND name = (SELECT app FROM portal WHERE name = ?1)",
            params![name.as_str(), now.millis()],
        )
        .map_err(sql)?;
    Ok(RenewalRequest::Due)
}

pub(super) fn tell(
    connection: &Connection,
    portal: &PortalName,
    generation: Generation,
    seen: &Standing,
    told: &[String],
    next: Option<Timestamp>,
) -> Result<bool, StateError> {
    let kind = seen.phase.kind().as_str();
    let since = millis(seen.phase.since());
    let matched = matches!(seen.phase, Phase::Fresh);
    connection
        .prepare_cached(
            "UPDATE portal SET told = ?5, climb_at = ?6 WHERE name = ?1 AND generation = ?2 AND phase = ?3 \
             AND (?7 OR since IS ?4)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                portal.as_str(),
                i64::try_from(generation.0).unwrap_or(i64::MAX),
                kind,
                since,
                serde_json::Value::from(told.to_vec()).to_string(),
                millis(next),
                matched
            ])
        })
        .map(|changed| changed > 0)
        .map_err(|source| StateError::sql("remember what was told", source))
}
