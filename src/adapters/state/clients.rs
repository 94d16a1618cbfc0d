//! Clients that the server refuses: for one portal, or for all of an app's; and the portal that is tried next.
//!
//! Must not attribute a refusal: `domain::client` does, from the counts in the transaction of the record.

use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use crate::domain::client::{ClientDecision, ClientEvidence, decide, probe_wait};
use crate::domain::name::PortalName;
use refreshd_time::Timestamp;

/// A refusal is notified after another portal has been tried, which takes seconds.
const NOTIFIED_AFTER: i64 = 15_000;
/// While one portal tries a refused client again, the others of that app wait at least this long, in milliseconds.
const PROBE_MILLIS: i64 = 120_000;
/// Time during which a tried portal is not tried again for the client's sake, in milliseconds.
const TRY_AGAIN: i64 = 5_000;
/// Maximum time for which a probe waits for a portal other than the last one, in milliseconds.
const MAX_WAIT: i64 = 300_000;

/// Delay of the next try of a refused client after one that got an error about the grant, in milliseconds.
const AFTER_A_WORD: i64 = 1_000;

/// A portal for which the client works, as far as is known.
const WORKS: &str = "refused_since IS NULL AND phase <> 'client-rejected'";

/// A portal for which the client is known to work: its token is valid at `?3`. Notifications mention these only; a portal that
/// retries, or whose token has expired, may be refused next.
const SERVED: &str = "refused_since IS NULL AND phase = 'fresh' AND expires_at > ?3";

/// A portal for which a request may be sent now or later: the terms of the index `portal_due` without the endpoint.
const USABLE: &str = "next_attempt_at IS NOT NULL AND configured = 1 AND bound_to = binding \
    AND phase IN ('fresh', 'retrying', 'client-rejected')";

/// Time at which a portal may be renewed early: a fresh one a tenth of its life after its renewal, `?2` is now. A portal that
/// the server renews only after expiry waits for its own time, and so does one that failed.
const ALLOWED_AT: &str = "CASE WHEN next_attempt_at <= :now THEN next_attempt_at \
    WHEN phase = 'fresh' AND renew_at <= expires_at THEN max(:now, issued_at + max(1000, (expires_at - issued_at) / 10)) \
    WHEN phase = 'client-rejected' THEN max(:now, coalesce(claimed_at, 0) + :pause) \
    ELSE next_attempt_at END";

/// The client was accepted for a portal. True if it was refused for all before.
pub(super) fn client_accepted(
    connection: &Connection,
    app: &str,
    portal: &PortalName,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "UPDATE portal SET refused_since = NULL WHERE name = ?1 AND refused_since IS NOT NULL",
        )?
        .execute([portal.as_str()])?;
    let open: Option<Option<i64>> = connection
        .prepare_cached(
            "SELECT rejected_since FROM app WHERE name = ?1 AND (rejected_since IS NOT NULL OR question_since IS NOT NULL)",
        )?
        .query_row([app], |row| row.get(0))
        .optional()?;
    let Some(rejected_since) = open else {
        return Ok(false);
    };
    connection.execute(
        "UPDATE app SET accepted_at = ?2, rejected_since = NULL, retry_at = NULL, question_since = NULL, probe = NULL, \
         requested = NULL WHERE name = ?1",
        params![app, now.millis()],
    )?;
    // At least for the portal that has just succeeded, whatever its grant's status was.
    let works_for = count(connection, app, "", SERVED, now.millis())?.max(1);
    connection.execute(
        "UPDATE portal SET problem = json_set(problem, '$.works_for', ?2), escalate_at = ?3 \
         WHERE app = ?1 AND refused_since IS NOT NULL AND problem ->> 'class' = 'client-rejected'",
        params![app, works_for, now.millis()],
    )?;
    if rejected_since.is_some() {
        connection.execute(
            // By the class: a grant in doubt whose replay got the refusal waits for the client, too.
            "UPDATE portal SET next_attempt_at = ?2 WHERE app = ?1 AND problem ->> 'class' = 'client-rejected' \
             AND next_attempt_at > ?2 AND claim IS NULL",
            params![app, now.millis()],
        )?;
    }
    Ok(rejected_since.is_some())
}

/// The client was refused for a portal. Returns the attribution, and whether the client is newly refused for all.
pub(super) fn client_refused(
    connection: &Connection,
    app: &str,
    portal: &PortalName,
    retry_at: Timestamp,
    now: Timestamp,
) -> rusqlite::Result<(ClientDecision, bool)> {
    let name = portal.as_str();
    let (since, tried_at, lifetime): (i64, Option<i64>, Option<i64>) = connection.query_row(
        "UPDATE portal SET refused_since = coalesce(refused_since, ?2) WHERE name = ?1 \
         RETURNING refused_since, claimed_at, expires_at - issued_at AS lifetime",
        params![name, now.millis()],
        |row| {
            Ok((
                row.get("refused_since")?,
                row.get("claimed_at")?,
                row.get("lifetime")?,
            ))
        },
    )?;
    let tried_at = tried_at.unwrap_or(now.millis()).min(now.millis());
    let known = connection
        .query_row(
            "SELECT question_since, accepted_at, rejected_since FROM app WHERE name = ?1",
            [app],
            |row| {
                Ok((
                    row.get::<_, Option<i64>>("question_since")?,
                    row.get::<_, Option<i64>>("accepted_at")?,
                    row.get::<_, Option<i64>>("rejected_since")?,
                ))
            },
        )
        .optional()?;
    let (question, let_in, rejected) = known.unwrap_or_default();
    let asked_since = question.unwrap_or(tried_at);
    let counted = |what, moment| {
        let counted = count(connection, app, name, what, moment)?;
        Ok::<_, rusqlite::Error>(u64::try_from(counted).unwrap_or_default())
    };
    let works_for = counted(WORKS, 0)?;
    let seen = ClientEvidence {
        since: Timestamp::from_millis(since),
        let_in: let_in.filter(|_| works_for > 0).map(Timestamp::from_millis),
        refused_too: counted("refused_since > ?3", let_in.unwrap_or(i64::MIN))?,
        unasked: counted("(refused_since IS NULL OR claimed_at < ?3)", asked_since)?,
        in_question: question.is_some(),
    };
    let ruling = if rejected.is_some() {
        ClientDecision::TheClient
    } else {
        decide(seen)
    };
    connection.execute(
        "UPDATE app SET refused_last = ?2 WHERE name = ?1",
        params![app, name],
    )?;
    match ruling {
        ClientDecision::ThisPortal => {
            // At least for the portal for which it was accepted since.
            let served = count(connection, app, name, SERVED, now.millis())?.max(1);
            connection.execute(
                "UPDATE portal SET problem = json_set(problem, '$.works_for', ?2) WHERE name = ?1",
                params![name, served],
            )?;
            Ok((ruling, false))
        }
        ClientDecision::AskAnother => {
            connection.execute(
                "UPDATE app SET question_since = coalesce(question_since, ?2) WHERE name = ?1",
                params![app, tried_at],
            )?;
            connection.execute(
                "UPDATE portal SET escalate_at = ?2 WHERE name = ?1",
                params![name, now.millis() + NOTIFIED_AFTER],
            )?;
            probe_another(connection, app, name, now)?;
            Ok((ruling, false))
        }
        ClientDecision::TheClient => {
            let others = count(connection, app, name, "?3 = ?3", 0)?;
            let refused_for = now.since(rejected.map_or(now, Timestamp::from_millis));
            let lifetime = std::time::Duration::from_millis(
                u64::try_from(lifetime.unwrap_or_default()).unwrap_or_default(),
            );
            let at = match others {
                0 => retry_at,
                _ => now + probe_wait(refused_for, seen.refused_too, seen.unasked, lifetime),
            };
            connection.execute(
                "UPDATE app SET rejected_since = coalesce(rejected_since, :now), retry_at = :retry_at, \
                 question_since = coalesce(question_since, :tried_at) WHERE name = :name",
                named_params! {
                    ":name": app,
                    ":now": now.millis(),
                    ":retry_at": at.millis(),
                    ":tried_at": tried_at,
                },
            )?;
            let next = candidate(connection, app, at)?;
            connection.execute(
                "UPDATE app SET probe = ?2 WHERE name = ?1",
                params![app, next.map(|candidate| candidate.name)],
            )?;
            // Portals with a deferred notification need not wait any longer.
            connection.execute(
                "UPDATE portal SET escalate_at = ?2 WHERE app = ?1 AND name <> ?3 AND refused_since IS NOT NULL AND escalate_at > ?2",
                params![app, now.millis(), name],
            )?;
            if rejected.is_none() {
                connection.execute(
                    "UPDATE portal SET problem = json_remove(problem, '$.works_for') \
                     WHERE app = ?1 AND refused_since IS NOT NULL AND problem IS NOT NULL",
                    [app],
                )?;
            }
            Ok((ruling, rejected.is_none()))
        }
    }
}

/// A portal's grant was rejected, which reveals little about the client: if the client is in question, another portal is tried,
/// and if none is left that could succeed, the client is refused for all. Returns whether it is newly so.
pub(super) fn grant_refused(
    connection: &Connection,
    app: &str,
    portal: &PortalName,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let name = portal.as_str();
    connection
        .prepare_cached(
            "UPDATE portal SET refused_since = NULL WHERE name = ?1 AND refused_since IS NOT NULL",
        )?
        .execute([name])?;
    let open: Option<(Option<i64>, Option<i64>)> = connection
        .prepare_cached(
            "SELECT question_since, rejected_since FROM app WHERE name = ?1 \
             AND (rejected_since IS NOT NULL OR question_since IS NOT NULL)",
        )?
        .query_row([app], |row| {
            Ok((row.get("question_since")?, row.get("rejected_since")?))
        })
        .optional()?;
    let Some((question, rejected)) = open else {
        return Ok(false);
    };
    if rejected.is_some() {
        // This portal was the one to try: another one's response has more information.
        connection.execute(
            "UPDATE app SET retry_at = min(coalesce(retry_at, ?2), ?2) WHERE name = ?1",
            params![app, now.millis() + AFTER_A_WORD],
        )?;
        return Ok(false);
    }
    let asked_since = question.unwrap_or(now.millis());
    let unasked = "(refused_since IS NULL OR claimed_at < ?3)";
    if count(connection, app, name, unasked, asked_since)? > 0 {
        probe_another(connection, app, name, now)?;
        return Ok(false);
    }
    let retry_at: Option<i64> = connection.query_row(
        &format!(
            "SELECT min(next_attempt_at) FROM portal WHERE app = ?1 AND name <> ?2 AND refused_since IS NOT NULL AND {USABLE}"
        ),
        params![app, name],
        |row| row.get(0),
    )?;
    let Some(retry_at) = retry_at else {
        return Ok(false);
    };
    connection.execute(
        "UPDATE app SET rejected_since = ?2, retry_at = ?3, probe = NULL WHERE name = ?1",
        params![app, now.millis(), retry_at],
    )?;
    connection.execute(
        "UPDATE portal SET escalate_at = ?2, problem = json_remove(problem, '$.works_for') \
         WHERE app = ?1 AND refused_since IS NOT NULL AND problem IS NOT NULL",
        params![app, now.millis()],
    )?;
    Ok(true)
}

/// Other usable portals of an app that satisfy a condition; `?3` is a time.
fn count(
    connection: &Connection,
    app: &str,
    but: &str,
    what: &str,
    moment: i64,
) -> rusqlite::Result<i64> {
    let query = format!(
        "SELECT count(*) FROM portal WHERE app = ?1 AND name <> ?2 AND {USABLE} AND {what} AND ?3 IS NOT NULL"
    );
    connection
        .prepare_cached(&query)?
        .query_row(params![app, but, moment], |row| row.get(0))
}

/// Brings another portal's renewal forward, as far as allowed: its response decides the attribution.
fn probe_another(
    connection: &Connection,
    app: &str,
    but: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let query = format!(
        "UPDATE portal SET next_attempt_at = min(next_attempt_at, ({ALLOWED_AT})) WHERE name = (SELECT name FROM portal \
         WHERE app = :app AND name <> :but AND claim IS NULL AND {USABLE} \
         ORDER BY refused_since IS NOT NULL, {ALLOWED_AT}, expires_at LIMIT 1)"
    );
    connection
        .execute(
            &query,
            named_params! { ":app": app, ":now": now.millis(), ":but": but, ":pause": TRY_AGAIN },
        )
        .map(|_| ())
}

/// A portal that may try a refused client.
pub(super) struct ProbeCandidate {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) token_url: String,
    allowed_at: i64,
    is_last: bool,
}

/// The portal to try next: not the one that was refused last, as long as there is another.
fn candidate(
    connection: &Connection,
    app: &str,
    at: Timestamp,
) -> rusqlite::Result<Option<ProbeCandidate>> {
    let query = format!(
        "SELECT id, name, token_url, {ALLOWED_AT} AS allowed_at, name IS (SELECT refused_last FROM app WHERE name = :app) \
         AS is_last, name IS NOT (SELECT probe FROM app WHERE name = :app) AS is_new FROM portal \
         WHERE app = :app AND claim IS NULL AND ({USABLE} OR (phase = 'in-doubt' AND configured = 1 AND bound_to = binding \
         AND next_attempt_at <= :now)) \
         ORDER BY is_last, {ALLOWED_AT} > :now, is_new, refused_since IS NOT NULL, next_attempt_at > :now, expires_at LIMIT 1"
    );
    connection
        .prepare_cached(&query)?
        .query_row(
            named_params! { ":app": app, ":now": at.millis(), ":pause": TRY_AGAIN },
            |row| {
                Ok(ProbeCandidate {
                    id: row.get("id")?,
                    name: row.get("name")?,
                    token_url: row
                        .get::<_, Option<String>>("token_url")?
                        .unwrap_or_default(),
                    allowed_at: row.get("allowed_at")?,
                    is_last: row.get("is_last")?,
                })
            },
        )
        .optional()
}

/// The refused clients: portals that may send nevertheless, and the time at which that may change.
pub(super) struct ClientRefusal {
    /// The apps, as a JSON array.
    pub(super) apps: String,
    /// The rows of the portals to try, and of those that an operator requested.
    pub(super) trying: Vec<i64>,
    /// Time at which the next one may try.
    pub(super) next: Option<Timestamp>,
}

/// Chooses the portals that try refused clients now; `room` is the remaining capacity per endpoint, and is reduced.
pub(super) fn try_refused(
    connection: &Connection,
    now: Timestamp,
    mut room: impl FnMut(&str) -> bool,
) -> rusqlite::Result<ClientRefusal> {
    let mut found = ClientRefusal {
        apps: "[]".to_owned(),
        trying: Vec::new(),
        next: None,
    };
    let mut apps = Vec::new();
    let rows: Vec<(String, i64, Option<String>)> = connection
        .prepare_cached(
            "SELECT name, coalesce(retry_at, 0) AS retry_at, requested FROM app WHERE rejected_since IS NOT NULL",
        )?
        .query_map([], |row| {
            Ok((row.get("name")?, row.get("retry_at")?, row.get("requested")?))
        })?
        .collect::<Result<_, _>>()?;
    let later = |next: &mut Option<Timestamp>, at: i64| {
        let at = Timestamp::from_millis(at);
        *next = Some(next.map_or(at, |next| next.min(at)));
    };
    for (app, retry_at, requested) in rows {
        if let Some(requested) = requested {
            let mut left = Vec::new();
            for (id, name, token_url, next_attempt_at) in
                requested_probe(connection, &app, &requested)?
            {
                if next_attempt_at <= now.millis() && room(&token_url) {
                    found.trying.push(id);
                } else {
                    later(&mut found.next, next_attempt_at.max(now.millis() + 1));
                    left.push(name);
                }
            }
            let left = (!left.is_empty()).then(|| serde_json::Value::from(left).to_string());
            connection.execute(
                "UPDATE app SET requested = ?2 WHERE name = ?1",
                params![app, left],
            )?;
        }
        if retry_at > now.millis() {
            later(&mut found.next, retry_at);
        } else if let Some(candidate) = candidate(connection, &app, now)? {
            let soon = candidate.allowed_at - now.millis();
            let chosen = found.trying.contains(&candidate.id);
            let retry_at = if chosen {
                now.millis() + PROBE_MILLIS
            } else if soon > 0 && soon <= MAX_WAIT && !candidate.is_last {
                candidate.allowed_at
            } else if room(&candidate.token_url) {
                found.trying.push(candidate.id);
                now.millis() + PROBE_MILLIS
            } else {
                // Its endpoint has no capacity: the next claim finds it again.
                now.millis()
            };
            if retry_at > now.millis() {
                connection.execute(
                    "UPDATE app SET retry_at = ?2 WHERE name = ?1",
                    params![app, retry_at],
                )?;
                later(&mut found.next, retry_at);
            }
        }
        apps.push(app);
    }
    found.apps = serde_json::Value::from(apps).to_string();
    Ok(found)
}

fn requested_probe(
    connection: &Connection,
    app: &str,
    requested: &str,
) -> rusqlite::Result<Vec<(i64, String, String, i64)>> {
    connection
        .prepare_cached(
            "SELECT id, name, coalesce(token_url, '') AS token_url, next_attempt_at FROM portal WHERE app = ?1 AND next_attempt_at IS NOT NULL \
             AND claim IS NULL AND configured = 1 AND bound_to = binding AND name IN (SELECT value FROM json_each(?2))",
        )?
        .query_map(params![app, requested], |row| {
            Ok((row.get("id")?, row.get("name")?, row.get("token_url")?, row.get("next_attempt_at")?))
        })?
        .collect()
}

/// An operator requests a renewal of a portal whose client is refused: it need not wait for the others.
pub(super) fn request_probe(connection: &Connection, portal: &PortalName) -> rusqlite::Result<()> {
    connection
        .execute(
            "UPDATE app SET requested = json_insert(coalesce(requested, '[]'), '$[#]', ?1) WHERE rejected_since IS NOT NULL \
             AND name = (SELECT app FROM portal WHERE name = ?1)",
            [portal.as_str()],
        )
        .map(|_| ())
}

/// Forgets the attribution of a client that has changed.
pub(super) fn reset(connection: &Connection, app: &str) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE app SET question_since = NULL, accepted_at = NULL WHERE name = ?1",
        [app],
    )?;
    connection
        .execute(
            "UPDATE portal SET refused_since = NULL WHERE app = ?1 AND refused_since IS NOT NULL",
            [app],
        )
        .map(|_| ())
}

/// Moves the times of clients with the clock.
pub(super) fn shift(connection: &Connection, by: i64) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE portal SET refused_since = refused_since + ?1 WHERE refused_since IS NOT NULL",
        [by],
    )?;
    connection
        .execute(
            "UPDATE app SET retry_at = retry_at + ?1, question_since = question_since + ?1, accepted_at = accepted_at + ?1",
            [by],
        )
        .map(|_| ())
}
