//! How a claim ends: what is recorded of it, and what is remembered as told. Compare-and-swap throughout.
//!
//! Must not overwrite a grant that was replaced meanwhile: what comes too late is put aside.

use rusqlite::{Connection, params};

use super::StateError;
use super::rows::{millis, phase_columns};
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, Phase, Standing};
use crate::domain::renewal::Renewed;
use crate::domain::reply::Granted;
use crate::domain::time::Timestamp;
use crate::domain::token::{Generation, Tokens};

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
        /// The steps told until then, also while the request was under way.
        told_before: Vec<String>,
    },
    /// An import, authorization or `forget` came first: the reply is kept aside and not used.
    SetAside,
}

pub(super) fn record(connection: &Connection, record: &RecordAs) -> Result<Recorded, StateError> {
    let RecordAs { portal, app, claim, outcome, told, climb_at, now, client } = record;
    let sql = |source| StateError::sql("record a renewal", source);
    let changed = match outcome {
        RecordOutcome::Renewed(renewed) => record_pair(connection, portal, *claim, renewed, *now)?,
        RecordOutcome::Kept(standing) | RecordOutcome::Foreign(standing, _) => {
            let (phase, attempt, since, problem, doubtful) = phase_columns(&standing.phase)?;
            connection
                .prepare_cached(
                    "UPDATE portal SET phase = ?3, attempt = ?4, since = ?5, problem = ?6, doubtful = ?7, \
                     renew_at = ?8, act_at = ?9, claim = NULL, claimed_at = NULL WHERE name = ?1 AND claim = ?2",
                )
                .and_then(|mut statement| {
                    let (renew_at, act_at) = (millis(standing.renew_at), millis(standing.act_at));
                    statement.execute(params![
                        portal.as_str(), claim.0, phase, attempt, since, problem, doubtful, renew_at, act_at
                    ])
                })
                .map_err(sql)?
        }
    };
    if changed == 0 {
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
    }
    if let RecordOutcome::Foreign(_, granted) = outcome {
        put_foreign_aside(connection, portal, *now, granted)?;
    }
    let told_before = told_of(connection, portal).map_err(sql)?;
    let mut told = told.clone();
    if !matches!(outcome, RecordOutcome::Renewed(_)) {
        told.extend(told_before.iter().filter(|step| !told.contains(step)).cloned().collect::<Vec<_>>());
    }
    let generation: i64 = connection
        .prepare_cached("UPDATE portal SET told = ?2, climb_at = ?3 WHERE name = ?1 RETURNING generation")
        .and_then(|mut statement| {
            let told = serde_json::Value::from(told).to_string();
            statement.query_row(params![portal.as_str(), told, millis(*climb_at)], |row| row.get(0))
        })
        .map_err(sql)?;
    let client_changed = record_client(connection, app, *client, *now).map_err(sql)?;
    Ok(Recorded::Done {
        generation: Generation(u64::try_from(generation).unwrap_or_default()),
        client_changed,
        told_before,
    })
}

fn told_of(connection: &Connection, portal: &PortalName) -> rusqlite::Result<Vec<String>> {
    let told: String = connection
        .prepare_cached("SELECT told FROM portal WHERE name = ?1")?
        .query_row([portal.as_str()], |row| row.get(0))?;
    // What cannot be read any more is replaced by what is told now; the pair must be recorded all the same.
    Ok(serde_json::from_str(&told).unwrap_or_default())
}

fn record_pair(
    connection: &Connection,
    portal: &PortalName,
    claim: ClaimId,
    renewed: &Renewed,
    now: Timestamp,
) -> Result<usize, StateError> {
    let Renewed {
        tokens: Tokens { access, refresh, details },
        standing,
        identity,
        token_url,
        renamed_from: _,
    } = renewed;
    let access = access.as_ref();
    connection
        .prepare_cached(
            "UPDATE portal SET generation = generation + 1, refresh_token = ?3, fingerprint = ?4, access_token = ?5, \
             token_type = ?6, issued_at = ?7, expires_at = ?8, details = ?9, identity = ?10, token_url = coalesce(?11, token_url), \
             renewed_at = ?12, phase = 'fresh', attempt = 0, since = NULL, problem = NULL, doubtful = 0, \
             renew_at = ?13, act_at = ?14, claim = NULL, claimed_at = NULL WHERE name = ?1 AND claim = ?2",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                portal.as_str(),
                claim.0,
                refresh.expose(),
                refresh.fingerprint().bytes(),
                access.map(|access| access.token.expose()),
                access.map(|access| &access.token_type),
                access.map(|access| access.issued_at.millis()),
                access.map(|access| access.expires_at.millis()),
                serde_json::to_string(details).unwrap_or_default(),
                identity,
                token_url,
                now.millis(),
                millis(standing.renew_at),
                millis(standing.act_at),
            ])
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
            // By the class: a grant in doubt whose replay met the refusal waits for the client too.
            "UPDATE portal SET act_at = ?2 WHERE app = ?1 AND problem ->> 'class' = 'client-rejected' \
             AND act_at > ?2 AND claim IS NULL",
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
