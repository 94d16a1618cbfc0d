//! Conversion of rows into domain types. The columns to read are named here once; `grant_columns` writes.
//!
//! Must not write: the statements that change rows are in `claims`, `record`, `grant_store` and `reconcile`.

use rusqlite::types::Type;
use rusqlite::{Row, Statement};

use super::error::StateError;
use crate::domain::candidate::PendingCandidate;
use crate::domain::escalation::Window;
use crate::domain::name::PortalName;
use crate::domain::portal::{
    ClaimId, ClientRefused, Grant, GrantStatus, Kind, Lost, Phase, Portal,
};
use crate::domain::settings::Settings;
use refreshd_secrets::{AccessToken, Fingerprint, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::refresh_end::{Motion, RefreshEnd};
use refreshd_token_client::token::{Access, Credential, Generation, Tokens, Validity};

/// The columns of a portal's row, as expressions; [`PortalColumns`] finds them by these names.
pub(super) const COLUMNS: &str = "name, configured, settings, binding, generation, refresh_token, access_token, \
    token_type, issued_at, expires_at, details, identity, bound_to, token_url, renewed_at, phase, attempt, since, \
    problem, while_in_doubt, renew_at, next_attempt_at, notified, claim, claimed_at, config_url, refresh_expires_at, refresh_since, \
    refresh_motion, notice, bought_by, lost, \
    (SELECT json_array(rejected_since, retry_at, probe) FROM app WHERE app.name = portal.app AND rejected_since IS NOT NULL) \
    AS client_refused, \
    (SELECT json_array(c.origin, c.received_at, c.phase, c.problem, c.next_attempt_at) FROM candidate c WHERE c.portal = portal.name) \
    AS candidate";

/// The same of a candidate `c` of the portal `p`, read as if it were the portal's grant.
pub(super) const CANDIDATE_COLUMNS: &str = "p.name AS name, p.configured AS configured, p.settings AS settings, \
    p.binding AS binding, 0 AS generation, c.refresh_token AS refresh_token, c.access_token AS access_token, \
    c.token_type AS token_type, c.issued_at AS issued_at, c.expires_at AS expires_at, c.details AS details, \
    c.identity AS identity, c.bound_to AS bound_to, c.token_url AS token_url, c.received_at AS renewed_at, c.phase AS phase, \
    c.attempt AS attempt, c.since AS since, c.problem AS problem, c.while_in_doubt AS while_in_doubt, NULL AS renew_at, \
    c.next_attempt_at AS next_attempt_at, '[]' AS notified, c.claim AS claim, c.claimed_at AS claimed_at, p.config_url AS config_url, \
    NULL AS refresh_expires_at, NULL AS refresh_since, NULL AS refresh_motion, NULL AS notice, NULL AS bought_by, \
    NULL AS lost, NULL AS client_refused, NULL AS candidate";

/// Indexes of the columns of a portal in a statement. SQLite finds a name by comparing it with each column's; a page of
/// portals would do so thirty times a row, so the names are looked up once a statement.
macro_rules! portal_columns {
    ($($column:ident),* $(,)?) => {
        #[derive(Clone, Copy)]
        pub(super) struct PortalColumns { $($column: usize),* }

        impl PortalColumns {
            /// The columns of a statement that selects [`COLUMNS`] or [`CANDIDATE_COLUMNS`].
            pub(super) fn of(statement: &Statement<'_>) -> rusqlite::Result<Self> {
                Ok(Self { $($column: statement.column_index(stringify!($column))?),* })
            }

            fn name_of(&self, index: usize) -> Option<&'static str> {
                [$((self.$column, stringify!($column))),*]
                    .into_iter()
                    .find_map(|(column, name)| (column == index).then_some(name))
            }
        }
    };
}

portal_columns! {
    name, configured, settings, binding, generation, refresh_token, access_token, token_type, issued_at, expires_at,
    details, identity, bound_to, token_url, renewed_at, phase, attempt, since, problem, while_in_doubt, renew_at, next_attempt_at, notified,
    claim, claimed_at, config_url, refresh_expires_at, refresh_since, refresh_motion, notice, bought_by, lost,
    client_refused, candidate,
}

/// Reads one portal, of a statement that is read once; see [`PortalColumns::read`].
pub(super) fn portal(row: &Row<'_>) -> rusqlite::Result<Portal> {
    PortalColumns::of(row.as_ref())?.read(row)
}

impl PortalColumns {
    /// Reads one portal. An invalid row is returned as such, so that the others can be read; an error is a row without a name.
    pub(super) fn read(&self, row: &Row<'_>) -> rusqlite::Result<Portal> {
        let name: String = row.get(self.name)?;
        let name = PortalName::parse(&name).map_err(|error| conversion(self.name, error))?;
        let configured: bool = row.get(self.configured)?;
        let config = || {
            Ok((
                json::<Settings>(row, self.settings)?,
                fingerprint(row, self.binding)?,
                row.get(self.config_url)?,
            ))
        };
        let (config, grant) = (config(), self.grant(row));
        let unreadable = config
            .as_ref()
            .err()
            .or(grant.as_ref().err())
            .map(|error| self.column_of(error));
        // The readable part helps to repair the rest: a new grant can be stored.
        let (settings, binding, config_url) = config.unwrap_or_default();
        Ok(Portal {
            name,
            settings: settings.filter(|_| configured),
            binding,
            config_url,
            grant: grant.ok().flatten(),
            unreadable,
            // An unreadable value here must not invalidate the grant.
            bought_by: fingerprint(row, self.bought_by).ok().flatten(),
            client_refused: json(row, self.client_refused).ok().flatten().map(
                |(since, retry_at, probe): RefusedClient| ClientRefused {
                    since,
                    retry_at: retry_at.unwrap_or(since),
                    probe,
                },
            ),
            lost: row.get::<_, Option<i64>>(self.lost)?.map(|lost| {
                match u64::try_from(lost).unwrap_or_default() {
                    0 => Lost::Doubt,
                    newest => Lost::Grant(Generation(newest)),
                }
            }),
            // An unreadable candidate does not affect the portal.
            candidate: self.pending(row).ok().flatten(),
        })
    }

    fn pending(&self, row: &Row<'_>) -> rusqlite::Result<Option<PendingCandidate>> {
        type Row = (String, i64, String, Option<String>, Option<i64>);
        let Some((origin, since, kind, problem, next_attempt_at)) =
            json::<Row>(row, self.candidate)?
        else {
            return Ok(None);
        };
        let missing = || missing(self.candidate);
        let problem = problem
            .map(|problem| serde_json::from_str(&problem).map_err(|_| missing()))
            .transpose()?;
        Ok(Some(PendingCandidate {
            origin: origin.parse().map_err(|_| missing())?,
            since: Timestamp::from_millis(since),
            kind: kind.parse().map_err(|_| missing())?,
            problem,
            next_attempt_at: next_attempt_at.map(Timestamp::from_millis),
        }))
    }

    /// The column that could not be read.
    fn column_of(&self, error: &rusqlite::Error) -> &'static str {
        let index = match error {
            rusqlite::Error::InvalidColumnType(index, ..)
            | rusqlite::Error::FromSqlConversionFailure(index, ..)
            | rusqlite::Error::IntegralValueOutOfRange(index, _) => Some(*index),
            _ => None,
        };
        index.and_then(|index| self.name_of(index)).unwrap_or("row")
    }

    fn grant(&self, row: &Row<'_>) -> rusqlite::Result<Option<Grant>> {
        let Some(credential) = row.get::<_, Option<String>>(self.refresh_token)? else {
            return Ok(None);
        };
        let credential =
            RefreshToken::new(&credential).map_or(Credential::Client, Credential::Refresh);
        let access: Option<String> = row.get(self.access_token)?;
        let token_type: Option<String> = row.get(self.token_type)?;
        let access = match (
            access.as_deref().and_then(AccessToken::new),
            time(row, self.issued_at)?,
            time(row, self.expires_at)?,
        ) {
            (Some(token), Some(issued_at), Some(expires_at)) => Some(Access {
                token,
                token_type: token_type.unwrap_or_else(|| "Bearer".to_owned()),
                issued_at,
                expires_at,
            }),
            _ => None,
        };
        let claim: Option<i64> = row.get(self.claim)?;
        Ok(Some(Grant {
            generation: Generation(
                u64::try_from(row.get::<_, i64>(self.generation)?).unwrap_or_default(),
            ),
            tokens: Tokens {
                access,
                credential,
                details: json(row, self.details)?.unwrap_or_default(),
                validity: self.validity(row)?,
            },
            status: GrantStatus {
                phase: self.phase(row)?,
                renew_at: time(row, self.renew_at)?,
                next_attempt_at: time(row, self.next_attempt_at)?,
            },
            renewed_at: time(row, self.renewed_at)?.unwrap_or_default(),
            bound_to: fingerprint(row, self.bound_to)?.ok_or_else(|| missing(self.bound_to))?,
            token_url: row
                .get::<_, Option<String>>(self.token_url)?
                .unwrap_or_default(),
            identity: row.get(self.identity)?,
            // An alert may be sent twice.
            notified: json(row, self.notified).ok().flatten().unwrap_or_default(),
            claim: claim.map(ClaimId).zip(time(row, self.claimed_at)?),
            tried_at: time(row, self.claimed_at)?,
        }))
    }

    fn validity(&self, row: &Row<'_>) -> rusqlite::Result<Validity> {
        let motion: Option<String> = row.get(self.refresh_motion)?;
        let motion = Motion::parse(motion.as_deref().unwrap_or_default());
        let end = time(row, self.refresh_expires_at)?.zip(time(row, self.refresh_since)?);
        Ok(Validity {
            refresh: end.map(|(at, since)| RefreshEnd { at, since, motion }),
            notice: row.get(self.notice)?,
        })
    }

    fn phase(&self, row: &Row<'_>) -> rusqlite::Result<Phase> {
        let kind: String = row.get(self.phase)?;
        let kind: Kind = kind.parse().map_err(|_| missing(self.phase))?;
        let attempt: u32 = row.get(self.attempt)?;
        let since = time(row, self.since)?;
        let problem: Option<Problem> = json(row, self.problem)?;
        let while_in_doubt = kind == Kind::NeedsAuthorization && row.get(self.while_in_doubt)?;
        phase_of(kind, attempt, since.zip(problem), while_in_doubt)
            .ok_or_else(|| missing(self.problem))
    }
}

type RefusedClient = (Timestamp, Option<Timestamp>, Option<String>);

/// Times that decide when a token is overdue, of a row with `renew_at, issued_at, expires_at, refresh_expires_at, since`.
pub(super) fn window(row: &Row<'_>) -> rusqlite::Result<Option<Window>> {
    let at = |column: &str| time(row, row.as_ref().column_index(column)?);
    let (due, issued_at, expires_at) = (at("renew_at")?, at("issued_at")?, at("expires_at")?);
    let (refresh_ends_at, since) = (at("refresh_expires_at")?, at("since")?);
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

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StateError> {
    serde_json::to_string(value).map_err(|_| StateError::Unrepresentable)
}

/// The milliseconds of an optional time.
pub(super) fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::millis)
}

/// All rows of a statement whose columns are [`COLUMNS`]; those without a name are left out.
pub(super) fn portals(
    statement: &mut Statement<'_>,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Portal>, StateError> {
    let sql = |source| StateError::sql("read portals", source);
    let columns = PortalColumns::of(statement).map_err(sql)?;
    let mut rows = statement.query(parameters).map_err(sql)?;
    let mut portals = Vec::new();
    while let Some(row) = rows.next().map_err(sql)? {
        portals.extend(columns.read(row));
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
    // serde_json's own error may quote the value; the column's number suffices.
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
