//! Rows and what they mean. Every column is named here once, in both directions.
//!
//! Must not write: the statements that change rows are in `claims`, `record`, `intake` and `reconcile`.

use rusqlite::types::Type;
use rusqlite::{Row, Statement};

use super::error::StateError;
use crate::domain::candidate::{Origin, PendingCandidate};
use crate::domain::escalation::Window;
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, ClientRefused, Grant, GrantStatus, Kind, Phase, Portal};
use crate::domain::settings::Settings;
use refreshd_secrets::{AccessToken, Fingerprint, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::refresh_end::{Motion, RefreshEnd};
use refreshd_token_client::token::{Access, Credential, Generation, Tokens, Validity};

/// What [`portal`] reads, in its order. The last one says whether, and until when, its app's client is left alone.
pub(super) const COLUMNS: &str = "name, configured, settings, binding, generation, refresh_token, access_token, \
    token_type, issued_at, expires_at, details, identity, bound_to, token_url, renewed_at, phase, attempt, since, \
    problem, doubtful, renew_at, act_at, told, claim, claimed_at, config_url, refresh_expires_at, refresh_since, \
    refresh_motion, notice, bought_by, \
    (SELECT json_array(rejected_since, retry_at, probe) FROM app WHERE app.name = portal.app AND rejected_since IS NOT NULL), \
    lost, (SELECT json_array(c.origin, c.came_at, c.phase, c.problem, c.act_at) FROM candidate c WHERE c.portal = portal.name)";

/// The same of a candidate `c` of the portal `p`, read as if it were the portal's grant.
pub(super) const CANDIDATE_COLUMNS: &str = "p.name, p.configured, p.settings, p.binding, 0, c.refresh_token, c.access_token, \
    c.token_type, c.issued_at, c.expires_at, c.details, c.identity, c.bound_to, c.token_url, c.came_at, c.phase, c.attempt, c.since, \
    c.problem, c.doubtful, NULL, c.act_at, '[]', c.claim, c.claimed_at, p.config_url, NULL AS refresh_expires_at, \
    NULL AS refresh_since, NULL AS refresh_motion, NULL AS notice, NULL, NULL, NULL, NULL";

/// Reads one portal; the row has [`COLUMNS`]. One whose row cannot be understood says so in itself, so that it keeps
/// nobody from reading the others; an error is a row without a name.
pub(super) fn portal(row: &Row<'_>) -> rusqlite::Result<Portal> {
    let name: String = row.get(0)?;
    let name = PortalName::parse(&name).map_err(|error| conversion(0, error))?;
    let configured: bool = row.get(1)?;
    let config = || {
        Ok((
            json::<Settings>(row, 2)?,
            fingerprint(row, 3)?,
            row.get(25)?,
        ))
    };
    let (config, grant) = (config(), grant(row));
    let unreadable = config
        .as_ref()
        .err()
        .or(grant.as_ref().err())
        .map(column_of);
    // What is understood helps to mend the rest: a new grant can be taken in.
    let (settings, binding, config_url) = config.unwrap_or_default();
    Ok(Portal {
        name,
        settings: settings.filter(|_| configured),
        binding,
        config_url,
        grant: grant.ok().flatten(),
        unreadable,
        // What cannot be understood of these costs nobody the grant.
        bought_by: fingerprint(row, 30).ok().flatten(),
        client_refused: json(row, 31).ok().flatten().map(
            |(since, retry_at, probe): RefusedClient| ClientRefused {
                since,
                retry_at: retry_at.unwrap_or(since),
                probe,
            },
        ),
        lost: row
            .get::<_, Option<i64>>(32)?
            .map(|lost| Generation(u64::try_from(lost).unwrap_or_default())),
        // A candidate that cannot be understood keeps nobody from anything.
        candidate: pending(row).ok().flatten(),
    })
}

fn pending(row: &Row<'_>) -> rusqlite::Result<Option<PendingCandidate>> {
    type Row = (String, i64, String, Option<String>, Option<i64>);
    let Some((origin, since, kind, problem, act_at)) = json::<Row>(row, 33)? else {
        return Ok(None);
    };
    let problem = problem
        .map(|problem| serde_json::from_str(&problem).map_err(|_| missing(33)))
        .transpose()?;
    Ok(Some(PendingCandidate {
        origin: Origin::parse(&origin).ok_or_else(|| missing(33))?,
        since: Timestamp::from_millis(since),
        kind: Kind::parse(&kind).ok_or_else(|| missing(33))?,
        problem,
        act_at: act_at.map(Timestamp::from_millis),
    }))
}

type RefusedClient = (Timestamp, Option<Timestamp>, Option<String>);

/// The column that could not be read.
fn column_of(error: &rusqlite::Error) -> &'static str {
    let index = match error {
        rusqlite::Error::InvalidColumnType(index, ..)
        | rusqlite::Error::FromSqlConversionFailure(index, ..)
        | rusqlite::Error::IntegralValueOutOfRange(index, _) => Some(*index),
        _ => None,
    };
    index
        .and_then(|index| COLUMNS.split(',').nth(index))
        .map_or("row", str::trim)
}

fn grant(row: &Row<'_>) -> rusqlite::Result<Option<Grant>> {
    let Some(credential) = row.get::<_, Option<String>>(5)? else {
        return Ok(None);
    };
    let credential = RefreshToken::new(&credential).map_or(Credential::Client, Credential::Refresh);
    let access: Option<String> = row.get(6)?;
    let token_type: Option<String> = row.get(7)?;
    let access = match (
        access.as_deref().and_then(AccessToken::new),
        time(row, 8)?,
        time(row, 9)?,
    ) {
        (Some(token), Some(issued_at), Some(expires_at)) => Some(Access {
            token,
            token_type: token_type.unwrap_or_else(|| "Bearer".to_owned()),
            issued_at,
            expires_at,
        }),
        _ => None,
    };
    let claim: Option<i64> = row.get(23)?;
    Ok(Some(Grant {
        generation: Generation(u64::try_from(row.get::<_, i64>(4)?).unwrap_or_default()),
        tokens: Tokens {
            access,
            credential,
            details: json(row, 10)?.unwrap_or_default(),
            validity: validity(row)?,
        },
        standing: GrantStatus {
            phase: phase(row)?,
            renew_at: time(row, 20)?,
            next_attempt_at: time(row, 21)?,
        },
        renewed_at: time(row, 14)?.unwrap_or_default(),
        bound_to: fingerprint(row, 12)?.ok_or_else(|| missing(12))?,
        token_url: row.get::<_, Option<String>>(13)?.unwrap_or_default(),
        identity: row.get(11)?,
        // What was told can be told again.
        notified: json(row, 22).ok().flatten().unwrap_or_default(),
        claim: claim.map(ClaimId).zip(time(row, 24)?),
        tried_at: time(row, 24)?,
    }))
}

fn validity(row: &Row<'_>) -> rusqlite::Result<Validity> {
    let at = |column: &str| {
        Ok::<_, rusqlite::Error>(
            row.get::<_, Option<i64>>(column)?
                .map(Timestamp::from_millis),
        )
    };
    let motion: Option<String> = row.get("refresh_motion")?;
    let motion = Motion::parse(motion.as_deref().unwrap_or_default());
    let end = at("refresh_expires_at")?.zip(at("refresh_since")?);
    Ok(Validity {
        refresh: end.map(|(at, since)| RefreshEnd { at, since, motion }),
        notice: row.get("notice")?,
    })
}

/// The columns of what is known of a grant's lives: `refresh_expires_at, refresh_since, refresh_motion, notice`.
pub(super) type ValidityColumns<'v> = (
    Option<i64>,
    Option<i64>,
    Option<&'static str>,
    Option<&'v str>,
);

pub(super) fn validity_columns(validity: &Validity) -> ValidityColumns<'_> {
    let Validity { refresh, notice } = validity;
    let end = refresh
        .map(|RefreshEnd { at, since, motion }| (at.millis(), since.millis(), motion.as_str()));
    (
        end.map(|end| end.0),
        end.map(|end| end.1),
        end.map(|end| end.2),
        notice.as_deref(),
    )
}

/// What decides when a token is overdue, of a row with `renew_at, issued_at, expires_at, refresh_expires_at, since`.
pub(super) fn window(row: &Row<'_>) -> rusqlite::Result<Option<Window>> {
    let (due, issued_at, expires_at) = (time(row, 0)?, time(row, 1)?, time(row, 2)?);
    let (refresh_ends_at, since) = (time(row, 3)?, time(row, 4)?);
    Ok(due
        .zip(issued_at.zip(expires_at))
        .map(|(due, (issued_at, expires_at))| Window {
            due,
            issued_at,
            expires_at,
            refresh_ends_at,
            since,
        }))
}

fn phase(row: &Row<'_>) -> rusqlite::Result<Phase> {
    let kind: String = row.get(15)?;
    let kind = Kind::parse(&kind).ok_or_else(|| missing(15))?;
    let attempt: u32 = row.get(16)?;
    let since = time(row, 17)?;
    let problem: Option<Problem> = json(row, 18)?;
    let while_in_doubt = kind == Kind::NeedsAuthorization && row.get(19)?;
    phase_of(kind, attempt, since.zip(problem), while_in_doubt).ok_or_else(|| missing(18))
}

/// A phase from its parts; `None` if they are no phase.
pub(super) fn phase_of(
    kind: Kind,
    attempt: u32,
    problem: Option<(Timestamp, Problem)>,
    while_in_doubt: bool,
) -> Option<Phase> {
    let Some((since, problem)) = problem else {
        return (kind == Kind::Fresh).then_some(Phase::Fresh);
    };
    Some(match kind {
        Kind::Fresh => Phase::Fresh,
        Kind::Retrying => Phase::Retrying {
            attempt,
            since,
            problem,
        },
        Kind::InDoubt => Phase::InDoubt {
            attempt,
            since,
            problem,
        },
        Kind::ClientRejected => Phase::ClientRejected {
            attempt,
            since,
            problem,
        },
        Kind::Blocked => Phase::Blocked {
            attempt,
            since,
            problem,
        },
        Kind::NeedsAuthorization => Phase::NeedsAuthorization {
            since,
            problem,
            while_in_doubt,
        },
        Kind::Gone => Phase::Gone { since, problem },
        Kind::OldState => Phase::OldState { since, problem },
        Kind::AwaitingAuthorization
        | Kind::ClientChanged
        | Kind::Unconfigured
        | Kind::Unreadable => {
            return None;
        }
    })
}

/// A phase as its columns: `phase, attempt, since, problem, doubtful`.
pub(super) type PhaseColumns = (&'static str, u32, Option<i64>, Option<String>, bool);

/// The columns of a phase; every variant is taken apart whole, so that a new field cannot be forgotten.
pub(super) fn phase_columns(phase: &Phase) -> Result<PhaseColumns, StateError> {
    let (attempt, doubtful) = match phase {
        Phase::Fresh => return Ok((Kind::Fresh.as_str(), 0, None, None, false)),
        Phase::Retrying {
            attempt,
            since: _,
            problem: _,
        }
        | Phase::InDoubt {
            attempt,
            since: _,
            problem: _,
        }
        | Phase::ClientRejected {
            attempt,
            since: _,
            problem: _,
        }
        | Phase::Blocked {
            attempt,
            since: _,
            problem: _,
        } => (*attempt, false),
        Phase::NeedsAuthorization {
            since: _,
            problem: _,
            while_in_doubt,
        } => (0, *while_in_doubt),
        Phase::Gone {
            since: _,
            problem: _,
        }
        | Phase::OldState {
            since: _,
            problem: _,
        } => (0, false),
    };
    let since = phase.since().map(Timestamp::millis);
    let problem = phase.problem().map(to_json).transpose()?;
    Ok((phase.kind().as_str(), attempt, since, problem, doubtful))
}

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StateError> {
    serde_json::to_string(value).map_err(|_| StateError::Unrepresentable)
}

/// The milliseconds of an optional moment.
pub(super) fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::millis)
}

/// All rows of a statement whose columns are [`COLUMNS`]; those without a name are left out.
pub(super) fn portals(
    statement: &mut Statement<'_>,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Portal>, StateError> {
    let sql = |source| StateError::sql("read portals", source);
    let mut rows = statement.query(parameters).map_err(sql)?;
    let mut portals = Vec::new();
    while let Some(row) = rows.next().map_err(sql)? {
        portals.extend(portal(row));
    }
    Ok(portals)
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row
        .get::<_, Option<i64>>(column)?
        .map(Timestamp::from_millis))
}

fn fingerprint(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Fingerprint>> {
    Ok(row
        .get::<_, Option<[u8; 32]>>(column)?
        .map(Fingerprint::from_bytes))
}

fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    // serde_json's own error may quote the value; the column's number says enough.
    text.map(|text| serde_json::from_str(&text).map_err(|_| missing(column)))
        .transpose()
}

fn missing(column: usize) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(
        column,
        "a value this version understands".to_owned(),
        Type::Text,
    )
}

fn conversion(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// How a credential is stored, and how it is recognised: the client's own is a text that no refresh token is.
pub(super) fn stored(credential: &Credential) -> (&str, Option<Fingerprint>) {
    match credential {
        Credential::Refresh(token) => (token.expose(), Some(token.fingerprint())),
        Credential::Client => ("", None),
    }
}
