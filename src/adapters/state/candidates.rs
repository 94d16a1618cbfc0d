//! Candidates: stored beside the grant that they replace, claimed before they are sent, and promoted in the transaction that
//! records the proof.
//!
//! Must not change the portal's grant before that, nor lose a pair that came too late: it is stored as superseded.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::candidate_rows::{drop_candidate, remove};
use super::claims::new_claim;
use super::clients;
use super::disputes;
use super::error::StateError;
use super::grant_columns::{Columns, stored};
use super::grant_store::{NewGrant, put};
use super::handle::State;
use super::holders::{holder, is_spent};
use super::installation::{InstallRecord, record_grant};
use super::rows::{CANDIDATE_COLUMNS, portal as read_portal, to_json};
use super::superseded::{SupersededPair, store_superseded};
use crate::domain::candidate::{Origin, TokenPair};
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, GrantStatus, Portal};
use crate::domain::renewal::Renewed;
use refreshd_secrets::{AccessToken, ApplicationToken, Fingerprint};
use refreshd_time::Timestamp;
use refreshd_token_client::token::Generation;

/// A candidate to store.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The grant as it would be stored.
    pub grant: NewGrant,
    /// Source of the candidate.
    pub origin: Origin,
    /// True if the candidate may belong to another owner than the portal's grant.
    pub replaces: bool,
    /// The install event that brought it; recorded with the proof.
    pub event: Option<InstallRecord>,
}

/// Result of offering a candidate.
#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is stored, and due.
    Stored,
    /// It was stored before.
    Known,
    /// It is the very refresh token that the portal has.
    Same,
    /// Another candidate of the portal is being exchanged.
    Busy,
    /// Another candidate of the portal, which came then, is not proved yet. Only an offer that replaces drops it.
    Waiting(Timestamp),
    /// Another portal has, or had, this very refresh token.
    HeldBy(String),
    /// This portal was given it before, and has exchanged it for a newer one since.
    Spent,
    /// The configuration does not name this portal.
    Unknown,
}

/// A candidate under a claim.
#[derive(Debug)]
pub struct Candidate {
    /// Its portal, with the candidate as its grant.
    pub portal: Portal,
    /// Source of the candidate.
    pub origin: Origin,
    /// True if the candidate may belong to another owner than the portal's grant.
    pub replaces: bool,
    /// User of the install event that brought it.
    pub user: Option<String>,
}

/// Record of a claimed candidate.
#[derive(Debug)]
pub struct RecordCandidate {
    /// The portal.
    pub portal: PortalName,
    /// Its app.
    pub app: String,
    /// The claim that is ended, and when it was made; see `RenewalRecord::claim`.
    pub claim: (ClaimId, Timestamp),
    /// The outcome.
    pub outcome: CandidateOutcome,
    /// When it is recorded.
    pub now: Timestamp,
}

/// The outcome part of a record.
#[derive(Debug)]
pub enum CandidateOutcome {
    /// It takes the portal's place with this pair.
    Proved(Box<Renewed>),
    /// It goes.
    Refused,
    /// The candidate is removed; the pair that came belongs to another owner.
    Another(TokenPair),
    /// It stays a candidate.
    Waits(GrantStatus),
}

/// Result of recording.
#[derive(Debug, PartialEq, Eq)]
pub enum CandidateRecorded {
    /// It is the portal's grant now.
    Promoted {
        /// Its generation.
        generation: Generation,
        /// The app's standing flipped: its client is accepted again.
        client_changed: bool,
    },
    /// Recorded, and the portal's grant is as it was.
    Kept,
    /// It was forgotten or replaced meanwhile: a pair is kept aside and not used.
    Superseded,
}

impl State {
    /// Stores a candidate, due at once. An older one of the portal that is not being exchanged goes.
    ///
    /// # Errors
    /// [`StateError`]; nothing is stored then.
    pub async fn offer(&self, offer: Offer) -> Result<Offered, StateError> {
        self.keep(move |connection| self::offer(connection, &offer))
            .await
    }

    /// When the next candidate is due that no request is under way for; now, or before, if one is.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn next_candidate(&self) -> Result<Option<Timestamp>, StateError> {
        self.read.run(next).await
    }

    /// Claims due candidates, at most `limit`, and none of the apps in `busy`. When it returns, the intent to send is durable.
    ///
    /// # Errors
    /// [`StateError`]; then nothing is claimed and nothing may be sent.
    pub async fn claim_candidates(
        &self,
        now: Timestamp,
        limit: usize,
        busy: Vec<String>,
    ) -> Result<Vec<Candidate>, StateError> {
        let busy = to_json(&busy)?;
        self.with_room(move |connection, room| {
            let claimed = claim(connection, now, DUE, &busy, limit)?;
            room.require(claimed.len()).map(|()| claimed)
        })
        .await
    }

    /// Claims a portal's candidate whatever its time.
    ///
    /// # Errors
    /// [`StateError`]; then nothing is claimed and nothing may be sent.
    pub async fn claim_candidate(
        &self,
        portal: PortalName,
        now: Timestamp,
    ) -> Result<Option<Candidate>, StateError> {
        self.with_room(move |connection, room| {
            let mut claimed = claim(connection, now, OF_PORTAL, portal.as_str(), 1)?;
            room.require(claimed.len())?;
            Ok(claimed.pop())
        })
        .await
    }

    /// Candidates that a process which is gone left claimed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn orphan_candidates(&self) -> Result<Vec<Candidate>, StateError> {
        self.read
            .run(|connection| {
                select(
                    connection,
                    "c.claim IS NOT NULL",
                    Timestamp::default(),
                    "",
                    1000,
                )
            })
            .await
    }

    /// Records what became of a claimed candidate.
    ///
    /// # Errors
    /// [`StateError`]; then nothing was recorded and the caller must keep the pair and try again.
    pub async fn record_candidate(
        &self,
        record: Arc<RecordCandidate>,
    ) -> Result<CandidateRecorded, StateError> {
        self.write
            .run(move |connection| self::record(connection, &record))
            .await
    }

    /// True if the authorization server has refused this refresh token as a candidate of this portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn was_refused(
        &self,
        portal: PortalName,
        fingerprint: Fingerprint,
    ) -> Result<bool, StateError> {
        self.read
            .run(move |connection| is_refused(connection, &portal, &fingerprint))
            .await
    }

    /// The portal whose access token this is, if any. Looks at every portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn holder_of_access(&self, token: AccessToken) -> Result<Option<String>, StateError> {
        self.read
            .run(move |connection| {
                let found = "SELECT name FROM portal WHERE access_token = ?1 LIMIT 1";
                connection
                    .query_row(found, [token.expose()], |row| row.get(0))
                    .optional()
                    .map_err(sql)
            })
            .await
    }
}

const DUE: &str = "c.next_attempt_at <= ?1 AND c.claim IS NULL AND p.configured = 1 AND c.bound_to = p.binding \
     AND p.app NOT IN (SELECT value FROM json_each(?2))";
const OF_PORTAL: &str =
    "?1 >= 0 AND c.portal = ?2 AND c.claim IS NULL AND p.configured = 1 AND c.bound_to = p.binding";

fn sql(source: rusqlite::Error) -> StateError {
    StateError::sql("look after a candidate", source)
}

/// Whether the authorization server has refused this refresh token at this portal.
pub(super) fn is_refused(
    connection: &Connection,
    portal: &PortalName,
    fingerprint: &Fingerprint,
) -> Result<bool, StateError> {
    let found =
        "SELECT EXISTS (SELECT 1 FROM refused_candidate WHERE fingerprint = ?1 AND portal = ?2)";
    connection
        .query_row(
            found,
            params![fingerprint.bytes(), portal.as_str()],
            |row| row.get(0),
        )
        .map_err(sql)
}

fn remember_refused(
    connection: &Connection,
    portal: &PortalName,
    fingerprint: &[u8; 32],
) -> Result<(), StateError> {
    let refused = "INSERT OR REPLACE INTO refused_candidate (fingerprint, portal) VALUES (?1, ?2)";
    connection
        .execute(refused, params![fingerprint, portal.as_str()])
        .map(|_| ())
        .map_err(sql)
}

/// A portal's stored candidate.
struct StoredCandidate {
    fingerprint: [u8; 32],
    is_claimed: bool,
    origin: Option<Origin>,
    received_at: Timestamp,
    /// User of the install event that brought it.
    user: Option<String>,
}

fn stored_candidate(
    connection: &Connection,
    portal: &PortalName,
) -> Result<Option<StoredCandidate>, StateError> {
    connection
        .query_row(
            "SELECT fingerprint, claim IS NOT NULL AS is_claimed, origin, received_at, user_id FROM candidate WHERE portal = ?1",
            [portal.as_str()],
            |row| {
                Ok(StoredCandidate {
                    fingerprint: row.get("fingerprint")?,
                    is_claimed: row.get("is_claimed")?,
                    origin: row.get::<_, String>("origin")?.parse().ok(),
                    received_at: Timestamp::from_millis(row.get("received_at")?),
                    user: row.get("user_id")?,
                })
            },
        )
        .optional()
        .map_err(sql)
}

pub(super) fn offer(connection: &Connection, offer: &Offer) -> Result<Offered, StateError> {
    let Offer {
        grant,
        origin,
        replaces,
        event,
    } = offer;
    let NewGrant {
        portal,
        tokens,
        identity,
        bound_to,
        token_url,
        status,
        proven: _,
        now,
    } = grant;
    let name = portal.as_str();
    let (_, Some(fingerprint)) = stored(&tokens.credential) else {
        return Ok(Offered::Unknown);
    };
    let known: Option<Option<[u8; 32]>> = connection
        .query_row(
            "SELECT fingerprint FROM portal WHERE name = ?1 AND configured = 1",
            [name],
            |row| row.get(0),
        )
        .optional()
        .map_err(sql)?;
    let Some(known) = known else {
        return Ok(Offered::Unknown);
    };
    if known.as_ref() == Some(fingerprint.bytes()) {
        return Ok(Offered::Same);
    }
    if let Some(holder) = holder(connection, &fingerprint, portal).map_err(sql)? {
        return Ok(Offered::HeldBy(holder));
    }
    if is_spent(connection, &fingerprint, portal).map_err(sql)? {
        return Ok(Offered::Spent);
    }
    match stored_candidate(connection, portal)? {
        // An operator's is tried now; a file is read every few seconds, and an event is processed again after a crash.
        Some(before) if before.fingerprint == *fingerprint.bytes() => {
            let hurry = "UPDATE candidate SET next_attempt_at = min(coalesce(next_attempt_at, ?2), ?2), replaces = max(replaces, ?3) \
                 WHERE portal = ?1 AND claim IS NULL AND (?4 OR phase <> 'in-doubt')";
            if *origin != Origin::File {
                connection
                    .execute(
                        hurry,
                        params![name, now.millis(), replaces, event.is_none()],
                    )
                    .map_err(sql)?;
            }
            return Ok(Offered::Known);
        }
        Some(before) if before.is_claimed => return Ok(Offered::Busy),
        // The newest content of a file counts, and the newest event of a user.
        Some(before) => {
            let same_file = *origin == Origin::File && before.origin == Some(Origin::File);
            let same_user = event
                .as_ref()
                .is_some_and(|event| before.user.as_ref() == Some(&event.user_id));
            if !replaces && !same_file && !same_user {
                return Ok(Offered::Waiting(before.received_at));
            }
            drop_candidate(connection, portal, *now)?;
        }
        None => {}
    }
    let columns = Columns::moved(0)
        .tokens(tokens)?
        .phase(&status.phase)?
        .moment(":received_at", Some(*now))
        .moment(":next_attempt_at", Some(*now));
    let insert = format!(
        "INSERT INTO candidate (portal, origin, replaces, identity, bound_to, token_url, user_id, member_id, occasion, \
         application_token, sent_at, {}) VALUES (:portal, :origin, :replaces, :identity, :bound_to, :token_url, :user_id, \
         :member_id, :occasion, :application_token, :sent_at, {})",
        columns.names(),
        columns.parameters()
    );
    let others = named_params! {
        ":portal": name,
        ":origin": origin.as_str(),
        ":replaces": replaces,
        ":identity": identity,
        ":bound_to": bound_to.bytes(),
        ":token_url": token_url,
        ":user_id": event.as_ref().map(|event| &event.user_id),
        ":member_id": event.as_ref().map(|event| &event.member_id),
        ":occasion": event.as_ref().map(|event| event.occasion.as_str()),
        ":application_token": event.as_ref().and_then(|event| Some(event.application_token.as_ref()?.expose())),
        ":sent_at": event.as_ref().and_then(|event| Some(event.sent_at?.millis())),
    };
    connection
        .execute(&insert, &*columns.with(others))
        .map_err(sql)?;
    Ok(Offered::Stored)
}

/// `argument` is the condition's second parameter.
fn select(
    connection: &Connection,
    condition: &str,
    now: Timestamp,
    argument: &str,
    limit: usize,
) -> Result<Vec<Candidate>, StateError> {
    let query = format!(
        "SELECT {CANDIDATE_COLUMNS}, c.origin AS origin, c.replaces AS replaces, c.user_id AS event_user FROM candidate c JOIN portal p ON p.name = c.portal \
         WHERE {condition} AND ?1 >= 0 AND ?2 = ?2 ORDER BY c.next_attempt_at LIMIT ?3"
    );
    let candidate = |row: &Row<'_>| {
        let portal = read_portal(row)?;
        let origin = row
            .get::<_, String>("origin")?
            .parse()
            .unwrap_or(Origin::Import);
        Ok(Candidate {
            portal,
            origin,
            replaces: row.get("replaces")?,
            user: row.get("event_user")?,
        })
    };
    let mut statement = connection.prepare_cached(&query).map_err(sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement
        .query_map(params![now.millis(), argument, limit], candidate)
        .map_err(sql)?;
    // One without a readable row is left alone; `status` shows its portal.
    let candidates: Vec<Candidate> = rows.filter_map(Result::ok).collect();
    Ok(candidates
        .into_iter()
        .filter(|candidate| candidate.portal.grant.is_some())
        .collect())
}

fn claim(
    connection: &Connection,
    now: Timestamp,
    condition: &str,
    argument: &str,
    limit: usize,
) -> Result<Vec<Candidate>, StateError> {
    let mut claimed = select(connection, condition, now, argument, limit)?;
    if claimed.is_empty() {
        return Ok(claimed);
    }
    let id = new_claim(connection, now).map_err(sql)?;
    for candidate in &mut claimed {
        connection
            .execute(
                "UPDATE candidate SET claim = ?2, claimed_at = ?3 WHERE portal = ?1",
                params![candidate.portal.name.as_str(), id.0, now.millis()],
            )
            .map_err(sql)?;
        if let Some(grant) = &mut candidate.portal.grant {
            grant.claim = Some((id, now));
            grant.tried_at = Some(now);
        }
    }
    Ok(claimed)
}

fn next(connection: &Connection) -> Result<Option<Timestamp>, StateError> {
    let next = "SELECT min(c.next_attempt_at) FROM candidate c JOIN portal p ON p.name = c.portal WHERE c.next_attempt_at IS NOT NULL \
        AND c.claim IS NULL AND p.configured = 1 AND c.bound_to = p.binding";
    let next: Option<i64> = connection
        .query_row(next, [], |row| row.get(0))
        .map_err(sql)?;
    Ok(next.map(Timestamp::from_millis))
}

/// Columns of a claimed candidate.
struct ClaimedRow {
    claimed_at: Timestamp,
    fingerprint: [u8; 32],
    bound_to: [u8; 32],
    token_url: String,
    origin: Option<Origin>,
    event: Option<InstallRecord>,
}

/// The install event that brought a candidate, if one did.
fn event_of(row: &Row<'_>) -> rusqlite::Result<Option<InstallRecord>> {
    let (user_id, member_id, occasion): (Option<String>, Option<String>, Option<String>) = (
        row.get("user_id")?,
        row.get("member_id")?,
        row.get("occasion")?,
    );
    let occasion = occasion.and_then(|occasion| occasion.parse().ok());
    let (Some(user_id), Some(member_id), Some(occasion)) = (user_id, member_id, occasion) else {
        return Ok(None);
    };
    let application_token: Option<String> = row.get("application_token")?;
    Ok(Some(InstallRecord {
        member_id,
        user_id,
        occasion,
        application_token: application_token.as_deref().and_then(ApplicationToken::new),
        sent_at: row
            .get::<_, Option<i64>>("sent_at")?
            .map(Timestamp::from_millis),
    }))
}

fn record(
    connection: &Connection,
    record: &RecordCandidate,
) -> Result<CandidateRecorded, StateError> {
    let RecordCandidate {
        portal,
        app,
        claim,
        outcome,
        now,
    } = record;
    let found = connection
        .query_row(
            "SELECT claimed_at, fingerprint, bound_to, token_url, origin, user_id, member_id, occasion, application_token, \
             sent_at FROM candidate WHERE portal = ?1 AND claim = ?2",
            params![portal.as_str(), claim.0.0],
            |row| {
                Ok(ClaimedRow {
                    claimed_at: Timestamp::from_millis(row.get("claimed_at")?),
                    fingerprint: row.get("fingerprint")?,
                    bound_to: row.get("bound_to")?,
                    token_url: row.get("token_url")?,
                    origin: row.get::<_, String>("origin")?.parse().ok(),
                    event: event_of(row)?,
                })
            },
        )
        .optional()
        .map_err(sql)?;
    if let Some(aside) = superseded_of(outcome, found.is_some()) {
        store_superseded(connection, portal, *now, &aside)?;
    }
    let Some(ClaimedRow {
        claimed_at,
        fingerprint,
        bound_to,
        token_url,
        origin,
        event,
    }) = found
    else {
        return Ok(CandidateRecorded::Superseded);
    };
    // Stored times move with a clock that was set back while the request was under way.
    let moved = claimed_at.millis().saturating_sub(claim.1.millis());
    match outcome {
        CandidateOutcome::Proved(renewed) => {
            let grant = NewGrant {
                portal: portal.clone(),
                tokens: renewed.tokens.clone(),
                identity: renewed.identity.clone(),
                bound_to: Fingerprint::from_bytes(bound_to),
                token_url: renewed.token_url.clone().unwrap_or(token_url),
                status: renewed.status.clone(),
                proven: Some(app.clone()),
                now: *now,
            };
            let now = now.shifted(moved);
            remove(connection, portal)?;
            let Some(generation) = put(connection, &grant, moved)? else {
                // The configuration let go of the portal meanwhile; its pair must not be lost.
                let aside = superseded_of(outcome, false);
                aside
                    .map(|aside| store_superseded(connection, portal, now, &aside))
                    .transpose()?;
                return Ok(CandidateRecorded::Superseded);
            };
            // It was tried: by hand it is not renewed again at once.
            let tried = "UPDATE portal SET claimed_at = ?2 WHERE name = ?1";
            connection
                .execute(tried, params![portal.as_str(), claimed_at.millis()])
                .map_err(sql)?;
            let remember =
                "INSERT OR REPLACE INTO imported_token (fingerprint, portal) VALUES (?1, ?2)";
            connection
                .execute(remember, params![fingerprint, portal.as_str()])
                .map_err(sql)?;
            match (origin, event) {
                (_, Some(event)) => {
                    record_grant(connection, (portal, &bound_to), &event, false, now)?;
                }
                (Some(Origin::Install), None) => disputes::close(connection, portal, now)?,
                (_, None) => {}
            }
            let client_changed =
                clients::client_accepted(connection, app, portal, now).map_err(sql)?;
            Ok(CandidateRecorded::Promoted {
                generation,
                client_changed,
            })
        }
        CandidateOutcome::Refused | CandidateOutcome::Another(_) => {
            remove(connection, portal)?;
            remember_refused(connection, portal, &fingerprint)?;
            if origin == Some(Origin::Install) {
                disputes::drop_accepted(connection, portal)?;
            }
            Ok(CandidateRecorded::Kept)
        }
        CandidateOutcome::Waits(status) => {
            let columns = Columns::moved(moved)
                .phase(&status.phase)?
                .moment(":next_attempt_at", status.next_attempt_at);
            let update = format!(
                "UPDATE candidate SET {}, claim = NULL WHERE portal = :portal AND claim = :claim",
                columns.assignments()
            );
            let others = named_params! { ":portal": portal.as_str(), ":claim": claim.0.0 };
            connection
                .execute(&update, &*columns.with(others))
                .map_err(sql)?;
            Ok(CandidateRecorded::Kept)
        }
    }
}

fn superseded_of(outcome: &CandidateOutcome, claim_holds: bool) -> Option<SupersededPair<'_>> {
    match outcome {
        CandidateOutcome::Another(TokenPair {
            access,
            refresh,
            identity,
        }) => Some(SupersededPair {
            why: "foreign",
            access: access.as_ref(),
            refresh: refresh.as_ref(),
            identity: identity.as_deref(),
        }),
        CandidateOutcome::Proved(renewed) if !claim_holds => Some(SupersededPair {
            why: "late",
            access: renewed.tokens.access.as_ref().map(|access| &access.token),
            refresh: renewed.tokens.credential.refresh(),
            identity: renewed.identity.as_deref(),
        }),
        CandidateOutcome::Proved(_) | CandidateOutcome::Refused | CandidateOutcome::Waits(_) => {
            None
        }
    }
}
