//! Start of a claim: durable before anything is sent. `record` ends it.
//!
//! Must not claim a grant twice, nor for a client that is not configured any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::clients::{request_probe, try_refused};
use super::error::StateError;
use super::handle::State;
use super::quarantine;
use super::rows::{COLUMNS, PortalColumns, portal};
use super::wal_reservation::RETRY_AFTER;
use crate::domain::manual_renewal::{ManualRenewal, manual_renewal};
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, Portal};
use refreshd_time::Timestamp;

/// Portals claimed, each with its grant and claim.
#[derive(Debug)]
pub struct Claims {
    /// The claimed portals, soonest expiry first.
    pub portals: Vec<Portal>,
    /// Time at which the next portal becomes due.
    pub next: Option<Timestamp>,
    /// Due portals with unreadable rows: they are quarantined from now on.
    pub unreadable: Vec<Portal>,
}

/// Result of a request to renew.
#[derive(Debug, PartialEq, Eq)]
pub enum RenewalRequest {
    /// It is due from this time on: now, or a few seconds after the last try.
    Due(Timestamp),
    /// A renewal is pending.
    UnderWay,
    /// It was renewed just before; the next one is allowed at this time.
    NotBefore(Timestamp),
    /// The state has no usable grant.
    NoGrant,
    /// No such portal.
    Unknown,
}

/// The newest claim of this process. A grant that is replaced while it is claimed loses its claim; the next claim must
/// differ even in the same millisecond, or after the clock was set back, or the late response would end it.
static NEWEST: AtomicI64 = AtomicI64::new(0);

impl State {
    /// Claims the due portals whose tokens expire soonest, at most `capacity` per token endpoint, and as many as the disk has
    /// space for the outcomes of. When it returns, the intent to send is durable.
    ///
    /// # Errors
    /// [`StateError`]; then nothing is claimed and nothing may be sent.
    pub async fn claim_due(
        &self,
        now: Timestamp,
        capacity: Vec<(String, usize)>,
    ) -> Result<Claims, StateError> {
        let (room, asked) = (Arc::clone(&self.room), capacity.clone());
        let claimed = self.write.run(move |connection| {
            let claims = claim_due(connection, now, &asked)?;
            room.require(claims.portals.len()).map(|()| claims)
        });
        let refused = match claimed.await {
            Err(StateError::NoRoom { .. }) => Arc::clone(&self.room),
            other => return other,
        };
        // Space was reserved meanwhile. If it was not enough, as many as fit.
        self.write
            .run(move |connection| {
                let fitting = refused.distribute(&capacity)?;
                let mut claims = claim_due(connection, now, &fitting)?;
                refused.require(claims.portals.len())?;
                if fitting != capacity {
                    claims.next = Some(
                        claims
                            .next
                            .map_or(now + RETRY_AFTER, |next| next.min(now + RETRY_AFTER)),
                    );
                }
                Ok(claims)
            })
            .await
    }

    /// Claims one portal whether or not it is due; `None` if it may not be renewed.
    ///
    /// # Errors
    /// [`StateError`]; then nothing is claimed and nothing may be sent.
    pub async fn claim_one(
        &self,
        portal: PortalName,
        now: Timestamp,
    ) -> Result<Option<Portal>, StateError> {
        self.with_room(move |connection, room| {
            let claimed = claim_one(connection, &portal, now)?;
            room.require(usize::from(claimed.is_some()))
                .map(|()| claimed)
        })
        .await
    }

    /// Claims left by a process that has ended.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn orphans(&self) -> Result<Vec<Portal>, StateError> {
        self.read.run(orphans).await
    }

    /// Restores the claim that a portal's grant had when its request was sent.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn claim_again(
        &self,
        portal: PortalName,
        claim: (ClaimId, Timestamp),
    ) -> Result<(), StateError> {
        self.write
            .run(move |connection| claim_again(connection, &portal, claim))
            .await
    }

    /// Makes a portal due now, if it may be renewed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn request_renewal(
        &self,
        portal: PortalName,
        now: Timestamp,
    ) -> Result<RenewalRequest, StateError> {
        self.change(move |connection| request_renewal(connection, &portal, now))
            .await
    }
}

/// A claim that differs from every other of this process and of the state.
pub(super) fn new_claim(connection: &Connection, now: Timestamp) -> rusqlite::Result<ClaimId> {
    let stored: i64 = connection
        .prepare_cached("SELECT max(coalesce((SELECT max(claim) FROM portal WHERE claim IS NOT NULL), 0), coalesce((SELECT max(claim) FROM candidate), 0))")?
        .query_row([], |row| row.get(0))?;
    let least = stored.saturating_add(1).max(now.millis());
    let after = |newest: i64| newest.saturating_add(1).max(least);
    let before = NEWEST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |newest| {
        Some(after(newest))
    });
    Ok(ClaimId(before.map_or(least, after)))
}

const DUE: &str = "token_url = :token_url AND next_attempt_at IS NOT NULL AND claim IS NULL AND configured = 1 AND bound_to = binding";

/// Portals due at a token endpoint; the conditions are those of the index `portal_due`, or SQLite would not use it. The
/// index suffices: only rows of claimed portals are read, not all due ones.
pub(super) fn due_query() -> String {
    format!(
        "SELECT id FROM portal WHERE {DUE} AND next_attempt_at <= :now \
         AND (:refused = '[]' OR app NOT IN (SELECT value FROM json_each(:refused))) ORDER BY expires_at LIMIT :limit"
    )
}

/// Time at which the next portal becomes due there.
pub(super) fn next_query() -> String {
    format!("SELECT min(next_attempt_at) FROM portal WHERE {DUE} AND next_attempt_at > :now")
}

pub(super) fn claim_due(
    connection: &Connection,
    now: Timestamp,
    capacity: &[(String, usize)],
) -> Result<Claims, StateError> {
    let sql = |source| StateError::sql("claim due portals", source);
    let claim = new_claim(connection, now).map_err(sql)?;
    let mut room: HashMap<&str, usize> = capacity
        .iter()
        .map(|(url, free)| (url.as_str(), *free))
        .collect();
    let refused = try_refused(connection, now, |url| {
        room.get_mut(url).is_some_and(|free| {
            let is_free = *free > 0;
            *free = free.saturating_sub(1);
            is_free
        })
    })
    .map_err(sql)?;
    let mut taken = refused.trying;
    let mut next = refused.next;
    for (token_url, _) in capacity {
        let mut select = connection.prepare_cached(&due_query()).map_err(sql)?;
        let limit = room.get(token_url.as_str()).copied().unwrap_or_default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = select
            .query_map(
                named_params! {
                    ":token_url": token_url,
                    ":now": now.millis(),
                    ":limit": limit,
                    ":refused": refused.apps,
                },
                |row| row.get(0),
            )
            .map_err(sql)?;
        for row in rows {
            taken.push(row.map_err(sql)?);
        }
        let soonest: Option<i64> = connection
            .prepare_cached(&next_query())
            .and_then(|mut statement| {
                let columns = named_params! { ":token_url": token_url, ":now": now.millis() };
                statement.query_row(columns, |row| row.get(0))
            })
            .map_err(sql)?;
        next = [next, soonest.map(Timestamp::from_millis)]
            .into_iter()
            .flatten()
            .min();
    }
    let mut portals = Vec::with_capacity(taken.len());
    let mut unreadable = Vec::new();
    let mut update = connection
        .prepare_cached(&format!(
            "UPDATE portal SET claim = ?2, claimed_at = ?3 WHERE id = ?1 RETURNING {COLUMNS}"
        ))
        .map_err(sql)?;
    let columns = PortalColumns::of(&update).map_err(sql)?;
    for id in taken {
        let claimed = update
            .query_row(params![id, claim.0, now.millis()], |row| columns.read(row))
            .map_err(sql)?;
        if claimed.unreadable.is_some() {
            quarantine::quarantine_unreadable(connection, &claimed.name)?;
            // It replaced another due portal.
            next = Some(now);
            unreadable.push(claimed);
            continue;
        }
        portals.push(claimed);
    }
    Ok(Claims {
        portals,
        next,
        unreadable,
    })
}

/// Claims one portal whether or not it is due, for a command that renews without a daemon.
pub(super) fn claim_one(
    connection: &Connection,
    name: &PortalName,
    now: Timestamp,
) -> Result<Option<Portal>, StateError> {
    let sql = |source| StateError::sql("claim a portal", source);
    let claim = new_claim(connection, now).map_err(sql)?;
    let claimed = connection
        .execute(
            "UPDATE portal SET claim = ?3, claimed_at = ?2 WHERE name = ?1 AND claim IS NULL AND next_attempt_at IS NOT NULL \
             AND configured = 1 AND bound_to = binding",
            params![name.as_str(), now.millis(), claim.0],
        )
        .map_err(sql)?;
    if claimed == 0 {
        return Ok(None);
    }
    connection
        .query_row(
            &format!("SELECT {COLUMNS} FROM portal WHERE name = ?1"),
            [name.as_str()],
            portal,
        )
        .optional()
        .map_err(sql)
}

pub(super) fn orphans(connection: &Connection) -> Result<Vec<Portal>, StateError> {
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM portal WHERE claim IS NOT NULL"
        ))
        .map_err(|source| StateError::sql("find claims without an outcome", source))?;
    super::rows::portals(&mut statement, [])
}

pub(super) fn claim_again(
    connection: &Connection,
    name: &PortalName,
    (claim, at): (ClaimId, Timestamp),
) -> Result<(), StateError> {
    let update = "UPDATE portal SET claim = ?2, claimed_at = ?3 WHERE name = ?1 AND refresh_token IS NOT NULL";
    let updated = connection.execute(update, params![name.as_str(), claim.0, at.millis()]);
    updated
        .map(|_| ())
        .map_err(|source| StateError::sql("claim a portal again", source))
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
    let Some(found) = found else {
        return Ok(RenewalRequest::Unknown);
    };
    let bound = found.binding;
    let Some(grant) = found
        .grant
        .filter(|grant| found.settings.is_some() && bound == Some(grant.bound_to))
    else {
        return Ok(RenewalRequest::NoGrant);
    };
    if grant.claim.is_some() {
        return Ok(RenewalRequest::UnderWay);
    }
    let from = match manual_renewal(&grant, now) {
        ManualRenewal::From(from) => from,
        ManualRenewal::FreshUntil(until) => return Ok(RenewalRequest::NotBefore(until)),
    };
    connection
        .execute(
            "UPDATE portal SET next_attempt_at = min(coalesce(next_attempt_at, ?2), ?2) WHERE name = ?1",
            params![name.as_str(), from.millis()],
        )
        .map_err(sql)?;
    request_probe(connection, name).map_err(sql)?;
    Ok(RenewalRequest::Due(from))
}
