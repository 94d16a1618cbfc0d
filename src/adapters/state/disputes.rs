//! Disputed installs: verified installs of another user than the present grant's, stored until a person decides. At most one
//! of a portal is open.
//!
//! Must not change the portal's grant: an accepted install is a candidate first, and `candidates` records its proof.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::error::StateError;
use super::handle::State;
use super::rows::to_json;
use crate::domain::dispute::Dispute;
use crate::domain::install::EventKind;
use crate::domain::name::PortalName;
use refreshd_secrets::{ApplicationToken, Fingerprint, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::token::Details;

/// Maximum number of refused users that are stored of a portal.
const MAX_REFUSED: i64 = 32;

/// An install to store. The state sets its `holder` and `since`.
#[derive(Clone, Debug)]
pub struct NewDispute {
    /// User and portal.
    pub newcomer: Dispute,
    /// The client's binding.
    pub binding: Fingerprint,
    /// Permanent identity of the portal.
    pub member_id: String,
    /// Its refresh token.
    pub refresh: RefreshToken,
    /// Details of its grant.
    pub details: Details,
    /// The authorization server, if named.
    pub server: Option<String>,
    /// Token that authenticates later events of its installation.
    pub application_token: Option<ApplicationToken>,
    /// Now.
    pub now: Timestamp,
}

/// Result of recording a dispute.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordedDispute {
    /// It is open from now on.
    New(Box<Dispute>),
    /// The same user's install is open already; the newest grant is stored.
    Known,
    /// An operator has refused this user.
    Refused,
    /// Another user's install is open, of the same rank or a higher one.
    Outranked,
    /// Its grant was stored before, or the portal has no other user's grant any more.
    Moot,
}

/// An open dispute, with the grant of its install.
#[derive(Debug)]
pub struct OpenDispute {
    /// User and portal.
    pub newcomer: Dispute,
    /// Permanent identity of the portal.
    pub member_id: String,
    /// Its refresh token.
    pub refresh: RefreshToken,
    /// Details of its grant.
    pub details: Details,
    /// The authorization server, if named.
    pub server: Option<String>,
}

fn sql(source: rusqlite::Error) -> StateError {
    StateError::sql("look after an install that waits for a decision", source)
}

impl State {
    /// Stores a disputed install, or returns the reason against it.
    ///
    /// # Errors
    /// [`StateError`]; it is not stored then.
    pub async fn record_dispute(
        &self,
        newcomer: NewDispute,
    ) -> Result<RecordedDispute, StateError> {
        self.change(move |connection| note(connection, &newcomer))
            .await
    }

    /// Open disputes, by portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn open_disputes(&self) -> Result<Vec<Dispute>, StateError> {
        self.read
            .run(|connection| {
                let found = select(connection, None)?;
                Ok(found.into_iter().map(|waiting| waiting.newcomer).collect())
            })
            .await
    }

    /// Open dispute of a portal.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn dispute_of(&self, portal: PortalName) -> Result<Option<OpenDispute>, StateError> {
        self.read
            .run(move |connection| Ok(select(connection, Some(&portal))?.pop()))
            .await
    }

    /// Records that an operator has accepted this user, whose grant is a candidate next; false if the dispute is closed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn accept_claimant(
        &self,
        portal: PortalName,
        user: String,
        now: Timestamp,
    ) -> Result<bool, StateError> {
        self.change(move |connection| {
            let accept = "UPDATE install_dispute SET accepted_at = ?3 WHERE portal = ?1 AND user_id = ?2 AND refused_at IS NULL";
            let done = connection.execute(accept, params![portal.as_str(), user, now.millis()]);
            done.map(|rows| rows > 0).map_err(sql)
        })
        .await
    }

    /// Records that an operator has refused this user, and deletes the grant; false if the dispute is closed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn refuse_claimant(
        &self,
        portal: PortalName,
        user: String,
        now: Timestamp,
    ) -> Result<bool, StateError> {
        self.change(move |connection| refuse(connection, &portal, &user, now))
            .await
    }
}

/// A row is open while the present grant belongs to the user that it was compared with.
const WAITING: &str = "n.refused_at IS NULL AND n.refresh_token IS NOT NULL AND p.refresh_token IS NOT NULL \
     AND p.phase <> 'gone' AND p.user_id IS n.holder AND p.bound_to = n.binding AND p.configured = 1";

fn select(
    connection: &Connection,
    portal: Option<&PortalName>,
) -> Result<Vec<OpenDispute>, StateError> {
    let query = format!(
        "SELECT n.portal AS portal, n.app AS app, n.user_id AS user_id, n.holder AS holder, n.occasion AS occasion, \
         n.is_admin AS is_admin, n.holder_is_admin AS holder_is_admin, n.received_at AS received_at, n.accepted_at IS NOT NULL \
         AND EXISTS (SELECT 1 FROM candidate c WHERE c.portal = n.portal AND c.origin = 'install') AS is_accepted, \
         n.member_id AS member_id, n.refresh_token AS refresh_token, n.details AS details, n.server AS server \
         FROM install_dispute n JOIN portal p ON p.name = n.portal WHERE {WAITING} AND (?1 IS NULL OR n.portal = ?1) \
         ORDER BY n.portal, n.received_at"
    );
    let mut statement = connection.prepare_cached(&query).map_err(sql)?;
    let rows = statement
        .query_map(params![portal.map(PortalName::as_str)], read)
        .map_err(sql)?;
    let found: Vec<Option<OpenDispute>> = rows.collect::<Result<_, _>>().map_err(sql)?;
    Ok(found.into_iter().flatten().collect())
}

/// `None`: of another version.
fn read(row: &Row<'_>) -> rusqlite::Result<Option<OpenDispute>> {
    let (portal, occasion): (String, String) = (row.get("portal")?, row.get("occasion")?);
    let (refresh, details): (String, Option<String>) =
        (row.get("refresh_token")?, row.get("details")?);
    let parsed = (PortalName::parse(&portal).ok())
        .zip(occasion.parse().ok())
        .zip(RefreshToken::new(&refresh));
    let Some(((portal, occasion), refresh)) = parsed else {
        return Ok(None);
    };
    Ok(Some(OpenDispute {
        newcomer: Dispute {
            portal,
            app: row.get("app")?,
            user: row.get("user_id")?,
            holder: row.get("holder")?,
            occasion,
            is_admin: row.get("is_admin")?,
            holder_is_admin: row.get("holder_is_admin")?,
            since: Timestamp::from_millis(row.get("received_at")?),
            is_accepted: row.get("is_accepted")?,
        },
        member_id: row.get("member_id")?,
        refresh,
        details: details
            .and_then(|details| serde_json::from_str(&details).ok())
            .unwrap_or_default(),
        server: row.get("server")?,
    }))
}

fn note(connection: &Connection, new: &NewDispute) -> Result<RecordedDispute, StateError> {
    let NewDispute {
        newcomer,
        binding,
        member_id,
        refresh,
        details,
        server,
        application_token,
        now,
    } = new;
    let Dispute {
        portal,
        app,
        user,
        occasion,
        is_admin,
        holder_is_admin,
        ..
    } = newcomer;
    let name = portal.as_str();
    let holder: Option<Option<String>> = connection
        .query_row(
            "SELECT user_id FROM portal WHERE name = ?1 AND refresh_token IS NOT NULL AND phase <> 'gone' AND bound_to = ?2",
            params![name, binding.bytes()],
            |row| row.get(0),
        )
        .optional()
        .map_err(sql)?;
    let Some(holder) = holder.filter(|holder| holder.as_ref() != Some(user)) else {
        return Ok(RecordedDispute::Moot);
    };
    if super::holders::holder_of_refresh_token(connection, &refresh.fingerprint())?.is_some() {
        return Ok(RecordedDispute::Moot);
    }
    let of_before = "DELETE FROM install_dispute WHERE portal = ?1 AND holder IS NOT ?2";
    connection
        .execute(of_before, params![name, holder])
        .map_err(sql)?;
    let refused = "SELECT EXISTS (SELECT 1 FROM install_dispute WHERE portal = ?1 AND user_id = ?2 AND refused_at IS NOT NULL)";
    if connection
        .query_row(refused, params![name, user], |row| row.get(0))
        .map_err(sql)?
    {
        return Ok(RecordedDispute::Refused);
    }
    let newcomer = Dispute {
        holder,
        since: *now,
        ..newcomer.clone()
    };
    let before = select(connection, Some(portal))?
        .pop()
        .map(|waiting| waiting.newcomer);
    let is_known = match before {
        // Its grant is being proved.
        Some(before) if before.is_accepted => return Ok(RecordedDispute::Known),
        // Data that a visit lacks stays as the event before it had it.
        Some(before) if before.user == *user => {
            let occasion = if before.occasion == EventKind::Installed {
                before.occasion
            } else {
                *occasion
            };
            connection
                .execute(
                    "UPDATE install_dispute SET occasion = :occasion, is_admin = coalesce(:is_admin, is_admin), \
                     holder_is_admin = coalesce(:holder_is_admin, holder_is_admin), refresh_token = :refresh_token, \
                     details = :details, server = :server, \
                     application_token = coalesce(:application_token, application_token) \
                     WHERE portal = :portal AND user_id = :user_id",
                    named_params! {
                        ":portal": name,
                        ":user_id": user,
                        ":occasion": occasion.as_str(),
                        ":is_admin": is_admin,
                        ":holder_is_admin": holder_is_admin,
                        ":refresh_token": refresh.expose(),
                        ":details": to_json(details)?,
                        ":server": server,
                        ":application_token": application_token.as_ref().map(|token| token.expose()),
                    },
                )
                .map_err(sql)?;
            true
        }
        Some(before) if before.rank() >= newcomer.rank() => return Ok(RecordedDispute::Outranked),
        Some(_) | None => false,
    };
    if !is_known {
        let waiting = "DELETE FROM install_dispute WHERE portal = ?1 AND refused_at IS NULL";
        connection.execute(waiting, params![name]).map_err(sql)?;
        connection
            .execute(
                "INSERT INTO install_dispute (portal, user_id, app, binding, member_id, holder, occasion, is_admin, \
                 holder_is_admin, received_at, refresh_token, details, server, application_token) \
                 VALUES (:portal, :user_id, :app, :binding, :member_id, :holder, :occasion, :is_admin, \
                 :holder_is_admin, :received_at, :refresh_token, :details, :server, :application_token)",
                named_params! {
                    ":portal": name,
                    ":user_id": user,
                    ":app": app,
                    ":binding": binding.bytes(),
                    ":member_id": member_id,
                    ":holder": newcomer.holder,
                    ":occasion": occasion.as_str(),
                    ":is_admin": is_admin,
                    ":holder_is_admin": holder_is_admin,
                    ":received_at": now.millis(),
                    ":refresh_token": refresh.expose(),
                    ":details": to_json(details)?,
                    ":server": server,
                    ":application_token": application_token.as_ref().map(|token| token.expose()),
                },
            )
            .map_err(sql)?;
    }
    let dispute = "UPDATE installation SET disputed_at = ?3 WHERE binding = ?1 AND member_id = ?2";
    connection
        .execute(dispute, params![binding.bytes(), member_id, now.millis()])
        .map_err(sql)?;
    Ok(if is_known {
        RecordedDispute::Known
    } else {
        RecordedDispute::New(Box::new(newcomer))
    })
}

fn refuse(
    connection: &Connection,
    portal: &PortalName,
    user: &str,
    now: Timestamp,
) -> Result<bool, StateError> {
    let settled = "UPDATE installation SET disputed_at = NULL WHERE (binding, member_id) IN \
         (SELECT binding, member_id FROM install_dispute WHERE portal = ?1 AND user_id = ?2)";
    connection
        .execute(settled, [portal.as_str(), user])
        .map_err(sql)?;
    let refused = connection
        .execute(
            "UPDATE install_dispute SET refused_at = ?3, refresh_token = NULL, details = NULL, application_token = NULL, \
             accepted_at = NULL WHERE portal = ?1 AND user_id = ?2 AND refused_at IS NULL",
            params![portal.as_str(), user, now.millis()],
        )
        .map_err(sql)?;
    connection
        .execute(
            "DELETE FROM install_dispute WHERE portal = ?1 AND refused_at IS NOT NULL AND user_id NOT IN \
             (SELECT user_id FROM install_dispute WHERE portal = ?1 AND refused_at IS NOT NULL \
             ORDER BY refused_at DESC LIMIT ?2)",
            params![portal.as_str(), MAX_REFUSED],
        )
        .map_err(sql)?;
    Ok(refused > 0)
}

/// Records an accepted install whose grant is verified as the installation: its application token replaces the one before.
pub(super) fn close(
    connection: &Connection,
    portal: &PortalName,
    now: Timestamp,
) -> Result<(), StateError> {
    type Accepted = (String, [u8; 32], String, Option<String>);
    let accepted: Option<Accepted> = connection
        .query_row(
            "SELECT user_id, binding, member_id, application_token FROM install_dispute \
             WHERE portal = ?1 AND accepted_at IS NOT NULL",
            [portal.as_str()],
            |row| {
                Ok((
                    row.get("user_id")?,
                    row.get("binding")?,
                    row.get("member_id")?,
                    row.get("application_token")?,
                ))
            },
        )
        .optional()
        .map_err(sql)?;
    let Some((user, binding, member_id, application_token)) = accepted else {
        return Ok(());
    };
    let owner = "UPDATE portal SET user_id = ?2 WHERE name = ?1";
    connection
        .execute(owner, [portal.as_str(), &user])
        .map_err(sql)?;
    connection
        .execute(
            "INSERT INTO installation (binding, member_id, application_token, installed_at, installer) \
             VALUES (:binding, :member_id, :application_token, :now, :user) ON CONFLICT (binding, member_id) \
             DO UPDATE SET application_token = :application_token, \
             installed_at = max(coalesce(installed_at, :now), :now), installer = :user, disputed_at = NULL",
            named_params! {
                ":binding": binding,
                ":member_id": member_id,
                ":application_token": application_token,
                ":now": now.millis(),
                ":user": user,
            },
        )
        .map_err(sql)?;
    drop_all(connection, portal)
}

/// Deletes an accepted install whose grant was rejected.
pub(super) fn drop_accepted(
    connection: &Connection,
    portal: &PortalName,
) -> Result<(), StateError> {
    let drop = "DELETE FROM install_dispute WHERE portal = ?1 AND accepted_at IS NOT NULL";
    connection
        .execute(drop, [portal.as_str()])
        .map(|_| ())
        .map_err(sql)
}

/// Deletes the disputes of a portal: its grant has changed.
pub(super) fn drop_all(connection: &Connection, portal: &PortalName) -> Result<(), StateError> {
    let drop = "DELETE FROM install_dispute WHERE portal = ?1";
    connection
        .execute(drop, [portal.as_str()])
        .map(|_| ())
        .map_err(sql)
}
