//! End of a claim: its outcome, and the notified escalation steps. Compare-and-swap throughout.
//!
//! Must not overwrite a grant that was replaced meanwhile: a late outcome is stored as superseded.

use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use std::sync::Arc;

use super::clients;
use super::error::StateError;
use super::grant_columns::Columns;
use super::handle::State;
use super::rows::{millis, to_json};
use super::superseded::{SupersededPair, store_superseded};
use super::unread;
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, GrantStatus, Phase};
use crate::domain::record::{ClientVerdict, RecordOutcome, Recorded, RenewalRecord};
use crate::domain::renewal::Renewed;
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::token::Generation;

impl State {
    /// Records the outcome of a claimed renewal, if the claim is still the grant's.
    ///
    /// # Errors
    /// [`StateError`]; then nothing was recorded and the caller must keep the pair and try again.
    pub async fn record(&self, renewal: Arc<RenewalRecord>) -> Result<Recorded, StateError> {
        self.write
            .run(move |connection| record(connection, &renewal))
            .await
    }

    /// Stores the notified steps of a grant, unless the grant or its steps have changed since; false then. `seen` and `before`
    /// are its status and its steps as the caller knew them.
    ///
    /// # Errors
    /// [`StateError`]; then nothing may be announced.
    pub async fn set_notified(
        &self,
        portal: PortalName,
        generation: Generation,
        (seen, before): (GrantStatus, Vec<String>),
        notified: Vec<String>,
        next: Option<Timestamp>,
    ) -> Result<bool, StateError> {
        let notify = move |connection: &_| {
            set_notified(
                connection,
                &portal,
                generation,
                (&seen, &before),
                &notified,
                next,
            )
        };
        self.change(notify).await
    }
}

pub(super) fn record(
    connection: &Connection,
    record: &RenewalRecord,
) -> Result<Recorded, StateError> {
    let RenewalRecord {
        portal,
        app,
        claim,
        outcome,
        notified,
        keep_notified,
        now,
        client,
        ..
    } = record;
    let before = claimed_row(connection, portal, claim.0)?;
    if let Some(aside) = superseded_of(outcome, before.is_some()) {
        store_superseded(connection, portal, *now, &aside)?;
    }
    if let RecordOutcome::Unread(_, reply) = outcome {
        unread::keep(connection, portal, reply)?;
    }
    let Some((told_before, claimed_at)) = before else {
        return Ok(Recorded::Superseded);
    };
    let moved = claimed_at.millis().saturating_sub(claim.1.millis());
    let meanwhile = told_before
        .iter()
        .filter(|step| keep_notified.keeps(step) && !notified.contains(step));
    let notified = to_json(&notified.iter().chain(meanwhile).collect::<Vec<_>>())?;
    let generation = match outcome {
        RecordOutcome::Renewed(renewed) => {
            let generation = record_pair(connection, record, renewed, &notified, moved)?;
            // The server has answered the same token, or a later one, with a pair. That does not concern a candidate's response.
            unread::discard_answered(connection, portal, generation)?;
            if let Some(reply) = &record.without_refresh {
                unread::keep(connection, portal, reply)?;
            }
            generation
        }
        RecordOutcome::Kept(status)
        | RecordOutcome::Unread(status, _)
        | RecordOutcome::Foreign(status, _) => {
            record_standing(connection, record, status, &notified, moved)?
        }
    };
    let at = now.shifted(moved);
    let sql = |source| StateError::sql("record a client's status", source);
    let (client_changed, ruling) = match client {
        ClientVerdict::Unknown => (false, None),
        ClientVerdict::Accepted => (
            clients::client_accepted(connection, app, portal, at).map_err(sql)?,
            None,
        ),
        ClientVerdict::GrantRefused => (
            clients::grant_refused(connection, app, portal, at).map_err(sql)?,
            None,
        ),
        ClientVerdict::Refused(retry_at) => {
            let retry_at = retry_at.shifted(moved);
            let (ruling, changed) =
                clients::client_refused(connection, app, portal, retry_at, at).map_err(sql)?;
            (changed, Some(ruling))
        }
    };
    let generation = Generation(u64::try_from(generation).unwrap_or_default());
    Ok(Recorded::Done {
        generation,
        client_changed,
        ruling,
        told_before,
    })
}

/// Notified steps and the time of the claim, if it still is the grant's.
fn claimed_row(
    connection: &Connection,
    portal: &PortalName,
    claim: ClaimId,
) -> Result<Option<(Vec<String>, Timestamp)>, StateError> {
    let found: Option<(String, i64)> = connection
        .prepare_cached("SELECT notified, claimed_at FROM portal WHERE name = ?1 AND claim = ?2")
        .and_then(|mut statement| {
            statement
                .query_row(params![portal.as_str(), claim.0], |row| {
                    Ok((row.get("notified")?, row.get("claimed_at")?))
                })
                .optional()
        })
        .map_err(|source| StateError::sql("look for a claim", source))?;
    // Unreadable steps are replaced by the new ones; the pair must be recorded nevertheless.
    let parsed = |notified: &str| serde_json::from_str(notified).unwrap_or_default();
    Ok(found.map(|(steps, claimed_at)| (parsed(&steps), Timestamp::from_millis(claimed_at))))
}

/// The superseded pair of an outcome: always if it has another owner, otherwise if its claim is gone.
fn superseded_of(outcome: &RecordOutcome, claim_holds: bool) -> Option<SupersededPair<'_>> {
    match outcome {
        RecordOutcome::Foreign(_, granted) => Some(SupersededPair {
            why: "foreign",
            access: Some(&granted.access),
            refresh: granted.refresh.as_ref(),
            identity: granted.identity.as_deref(),
        }),
        RecordOutcome::Renewed(renewed) if !claim_holds => Some(SupersededPair {
            why: "late",
            access: renewed.tokens.access.as_ref().map(|access| &access.token),
            refresh: renewed.tokens.credential.refresh(),
            identity: renewed.identity.as_deref(),
        }),
        RecordOutcome::Renewed(_) | RecordOutcome::Kept(_) | RecordOutcome::Unread(..) => None,
    }
}

/// Ends the claim and keeps the pair; returns the generation.
fn record_standing(
    connection: &Connection,
    record: &RenewalRecord,
    status: &GrantStatus,
    notified: &str,
    moved: i64,
) -> Result<i64, StateError> {
    let columns = Columns::moved(moved)
        .status(status)?
        .moment(":escalate_at", record.evaluate_at);
    let update = format!(
        "UPDATE portal SET {}, notified = :notified, claim = NULL WHERE name = :name AND claim = :claim RETURNING generation",
        columns.assignments()
    );
    let others = named_params! {
        ":name": record.portal.as_str(),
        ":claim": record.claim.0.0,
        ":notified": notified,
    };
    connection
        .prepare_cached(&update)
        .and_then(|mut update| update.query_row(&*columns.with(others), |row| row.get(0)))
        .map_err(|source| StateError::sql("record a renewal", source))
}

/// Ends the claim with a new pair; returns the new generation.
fn record_pair(
    connection: &Connection,
    record: &RenewalRecord,
    renewed: &Renewed,
    notified: &str,
    moved: i64,
) -> Result<i64, StateError> {
    let Renewed {
        tokens,
        status,
        identity,
        token_url,
        renamed_from: _,
    } = renewed;
    let columns = Columns::moved(moved)
        .grant(tokens, status)?
        .moment(":renewed_at", Some(record.now))
        .moment(":escalate_at", record.evaluate_at);
    let update = format!(
        "UPDATE portal SET {}, generation = generation + 1, identity = :identity, \
         token_url = coalesce(:token_url, token_url), notified = :notified, claim = NULL, bought_by = :bought_by, \
         spent = CASE WHEN fingerprint IS :fingerprint THEN spent ELSE \
         substr(CAST(substr(fingerprint, 1, 4) || coalesce(spent, x'') AS BLOB), 1, 128) END \
         WHERE name = :name AND claim = :claim RETURNING generation",
        columns.assignments()
    );
    let others = named_params! {
        ":name": record.portal.as_str(),
        ":claim": record.claim.0.0,
        ":identity": identity,
        ":token_url": token_url,
        ":notified": notified,
        ":bought_by": record.bought_by.as_ref().map(Fingerprint::bytes),
    };
    connection
        .prepare_cached(&update)
        .and_then(|mut update| update.query_row(&*columns.with(others), |row| row.get(0)))
        .map_err(|source| StateError::sql("record a new pair", source))
}

pub(super) fn set_notified(
    connection: &Connection,
    portal: &PortalName,
    generation: Generation,
    (seen, before): (&GrantStatus, &[String]),
    notified: &[String],
    next: Option<Timestamp>,
) -> Result<bool, StateError> {
    let json = |steps: &[String]| serde_json::Value::from(steps.to_vec()).to_string();
    let kind = seen.phase.kind().as_str();
    let since = millis(seen.phase.since());
    let is_fresh = matches!(seen.phase, Phase::Fresh);
    connection
        .prepare_cached(
            "UPDATE portal SET notified = :notified, escalate_at = :escalate_at WHERE name = :name AND generation = :generation \
             AND phase = :phase AND (:is_fresh OR since IS :since) AND (notified = :before OR NOT json_valid(notified))",
        )
        .and_then(|mut statement| {
            statement.execute(named_params! {
                ":name": portal.as_str(),
                ":generation": i64::try_from(generation.0).unwrap_or(i64::MAX),
                ":phase": kind,
                ":since": since,
                ":notified": json(notified),
                ":escalate_at": millis(next),
                ":is_fresh": is_fresh,
                ":before": json(before),
            })
        })
        .map(|changed| changed > 0)
        .map_err(|source| StateError::sql("store the notified steps", source))
}
