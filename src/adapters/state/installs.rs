//! Portals created by install events: their rows, and their installations. One transaction for each event.
//!
//! Must not trust an event: the caller has verified it with the authorization server. Of a portal that the configuration
//! names only the grant changes.

use rusqlite::{Connection, named_params};

use super::candidates::{self, Offer, Offered, is_refused};
use super::error::StateError;
use super::grant_store::{self, NewGrant, StoreOutcome};
use super::handle::State;
use super::holders::was_stored;
use super::installation::{
    FoundPortal, GrantChange, InstalledGrant, OverGrant, Uninstall, Uninstalled, found,
    installation, record_event, record_grant, remove, request_renewal,
};
use super::reconcile::reconcile_portal;
use crate::domain::candidate::Origin;
use crate::domain::import::ImportedGrant;
use crate::domain::install::{
    CurrentGrant, EventKind, InstallContext, InstallDecision, OwnershipProof, Users, decide,
    is_stale, may_live,
};
use crate::domain::name::PortalName;
use crate::domain::portal::{Grant, Kind, Phase};
use crate::domain::renewal::imported_status;
use crate::domain::settings::RenewSetting;
use crate::domain::token_owner::TokenOwner;
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::token::Generation;

/// Result of an install.
#[derive(Debug, PartialEq, Eq)]
pub enum InstallOutcome {
    /// The grant is stored.
    Stored {
        /// The portal.
        portal: PortalName,
        /// Generation of the grant.
        generation: Generation,
        /// The portal existed before.
        resumed: bool,
    },
    /// The present grant works; it is unchanged.
    FreshAlready(PortalName),
    /// The portal has a grant, which may work although it was reported dead: this one must be verified as a candidate.
    /// See [`OverGrant`].
    Unproven {
        /// The portal.
        portal: PortalName,
        /// Whether its grant may work: then it is replaced by a verified one only.
        may_live: bool,
    },
    /// Result of offering it as the portal's candidate.
    Offered(Offered),
    /// The present grant is another user's; it is unchanged.
    OtherUser {
        /// The portal.
        portal: PortalName,
        /// Status of that grant.
        kind: Kind,
        /// The user of that grant is known.
        known: bool,
        /// An event of that user brought it: a person may have to decide between the two.
        by_notice: bool,
    },
    /// Another user's grant, or the app's own, whose application token is not that of the installation.
    OtherInstallation {
        /// The portal.
        portal: PortalName,
        /// Status of the present grant, if there is one.
        kind: Option<Kind>,
        /// Result of the application token's check.
        proof: OwnershipProof,
        /// The event of an installation, which may be genuine: a person may have to decide.
        is_disputed: bool,
    },
    /// Its refresh token was stored before, or the event is stale.
    Replayed,
    /// Every name that the rule gives is taken.
    NoName,
}

impl State {
    /// Stores the grant of an install event, or returns the reason against it.
    ///
    /// # Errors
    /// [`StateError`]; nothing is stored then.
    pub async fn install(&self, install: InstalledGrant) -> Result<InstallOutcome, StateError> {
        let (app, binding) = (install.terms.app.clone(), install.terms.binding);
        let (member_id, host) = (install.owner.member_id.clone(), install.owner.host.clone());
        // The index of members lacks the configuration's portals: each of the app's is read.
        let listed = self
            .read
            .run(move |connection| listed(connection, &app, binding, &member_id, &host))
            .await?;
        self.keep(move |connection| keep(connection, &install, listed.first()))
            .await
    }

    /// Records that a portal removed the app, or returns the reason against it. Ends grants that do not work; for the others
    /// the authorization server decides at the next renewal.
    ///
    /// # Errors
    /// [`StateError`]; nothing has changed then.
    pub async fn uninstall(&self, removal: Uninstall) -> Result<Uninstalled, StateError> {
        let (app, binding, member_id) = (
            removal.app.clone(),
            removal.binding,
            removal.member_id.clone(),
        );
        let listed = self
            .read
            .run(move |connection| listed(connection, &app, binding, &member_id, ""))
            .await?;
        self.change(move |connection| remove(connection, &removal, &listed))
            .await
    }

    /// Returns whether an event of an installation at this member was verified.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn is_installed(
        &self,
        binding: Fingerprint,
        member_id: String,
    ) -> Result<bool, StateError> {
        self.read
            .run(move |connection| {
                installation(connection, binding, &member_id).map(|known| known.is_some())
            })
            .await
    }

    /// Schedules renewals of a member's grants after a removal event; returns the portals and times. An event without proof
    /// renews fresh grants at the earliest allowed time; `at_once` renews all that may work, now.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn request_renewal_of_member(
        &self,
        app: String,
        binding: Fingerprint,
        member_id: String,
        at_once: bool,
        now: Timestamp,
    ) -> Result<Vec<(PortalName, Timestamp)>, StateError> {
        let of = (app.clone(), member_id.clone());
        let listed = self
            .read
            .run(move |connection| listed(connection, &of.0, binding, &of.1, ""))
            .await?;
        self.change(move |connection| {
            request_renewal(connection, (&app, &member_id), &listed, at_once, now)
        })
        .await
    }
}

/// The configuration's portals of this member, by the identity of the grant, the pinned identity, or the host.
fn listed(
    connection: &Connection,
    app: &str,
    binding: Fingerprint,
    member_id: &str,
    host: &str,
) -> Result<Vec<PortalName>, StateError> {
    let sql = |source| StateError::sql("look for a portal of the configuration", source);
    let mut statement = connection
        .prepare_cached(
            "SELECT name FROM portal WHERE installed_by IS NULL AND app = :app AND configured = 1 AND binding = :binding \
             AND coalesce(identity, settings ->> 'identity', CASE WHEN lower(settings ->> 'domain') = :host THEN :member_id END) = :member_id \
             ORDER BY id",
        )
        .map_err(sql)?;
    let names = statement
        .query_map(
            named_params! {
                ":app": app,
                ":binding": binding.bytes(),
                ":member_id": member_id,
                ":host": host,
            },
            |row| row.get::<_, String>(0),
        )
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(sql)?;
    Ok(names
        .iter()
        .filter_map(|name| PortalName::parse(name).ok())
        .collect())
}

fn keep(
    connection: &Connection,
    install: &InstalledGrant,
    listed: Option<&PortalName>,
) -> Result<InstallOutcome, StateError> {
    let InstalledGrant {
        terms,
        occasion,
        owner,
        imported,
        application_token,
        sent_at,
        over,
        now,
    } = install;
    if sent_at.is_some_and(|sent_at| is_stale(sent_at, *now)) {
        return Ok(InstallOutcome::Replayed);
    }
    let known = installation(connection, terms.binding, &owner.member_id)?.unwrap_or_default();
    let proof = match (&known.application_token, application_token) {
        (Some(known), Some(brought)) if known.is(brought) => OwnershipProof::Proven,
        (Some(_), _) => OwnershipProof::Other,
        (None, _) => OwnershipProof::Unknown,
    };
    let place = place(connection, terms, owner, listed)?;
    let Some(TargetPortal {
        name,
        before,
        is_listed,
    }) = place
    else {
        return Ok(InstallOutcome::NoName);
    };
    let usable = before
        .as_ref()
        .filter(|before| before.portal.settings.is_some());
    let grant = usable.and_then(|before| before.portal.grant.as_ref());
    let held = CurrentGrant {
        phase: grant
            .filter(|grant| grant.bound_to == terms.binding)
            .map(|grant| &grant.status.phase),
        listed: is_listed,
        user: before.as_ref().and_then(|before| before.user.as_deref()),
        installer: known.installer.as_deref(),
        proof,
    };
    let by_notice = held.user.is_some() && held.user == held.installer;
    let is_installation = *occasion == EventKind::Installed && application_token.is_some();
    match decide(*occasion, held, &owner.user_id) {
        InstallDecision::FreshAlready => {
            // An event of the grant's own user is as trustworthy as the grant; another user could end the grant later with it.
            if held.user == Some(owner.user_id.as_str()) {
                let binding = terms.binding.bytes();
                let unchanged = GrantChange::Unchanged;
                record_event(
                    connection,
                    binding,
                    &install.event(),
                    &known,
                    unchanged,
                    *now,
                )?;
            }
            return Ok(InstallOutcome::FreshAlready(name));
        }
        InstallDecision::OtherUser => {
            let kind = held.phase.map_or(Kind::AwaitingAuthorization, Phase::kind);
            return Ok(InstallOutcome::OtherUser {
                portal: name,
                kind,
                known: held.user.is_some(),
                by_notice,
            });
        }
        InstallDecision::OtherInstallation => {
            return Ok(InstallOutcome::OtherInstallation {
                portal: name,
                kind: held.phase.map(Phase::kind),
                proof,
                is_disputed: is_installation && held.phase.is_some(),
            });
        }
        InstallDecision::Take => {}
    }
    // Even the portal's newest token: a request with it may be in progress, and its outcome must find its claim.
    let refresh = imported
        .tokens
        .credential
        .refresh()
        .map(|refresh| refresh.fingerprint());
    if let Some(refresh) = &refresh {
        // Its own candidate is no replay: the event is processed again after a crash.
        if was_stored(connection, refresh, &name)? {
            return Ok(InstallOutcome::Replayed);
        }
        // The authorization server has refused it here: it is not sent again, however often it comes.
        if is_refused(connection, &name, refresh)? {
            return Ok(InstallOutcome::Replayed);
        }
    }
    let unproven = held
        .phase
        .map(may_live)
        .filter(|may_live| *may_live || *over != OverGrant::Dead);
    if let (Some(may_live), OverGrant::Report | OverGrant::Dead) = (unproven, over) {
        return Ok(InstallOutcome::Unproven {
            portal: name,
            may_live,
        });
    }
    if !is_listed {
        adopt(connection, terms, owner, &name, *now)?;
    }
    if unproven.is_some() {
        let offer = Offer {
            grant: new_grant(connection, install, &name)?,
            origin: Origin::Install,
            replaces: false,
            event: Some(install.event()),
        };
        return candidates::offer(connection, &offer).map(InstallOutcome::Offered);
    }
    let generation =
        match grant_store::store_grant(connection, &new_grant(connection, install, &name)?)? {
            StoreOutcome::Stored(generation) => generation,
            StoreOutcome::HeldBy(_) | StoreOutcome::Spent | StoreOutcome::Unknown => {
                return Ok(InstallOutcome::Replayed);
            }
        };
    let had_none = held.phase.is_none();
    record_grant(
        connection,
        (&name, terms.binding.bytes()),
        &install.event(),
        had_none,
        *now,
    )?;
    Ok(InstallOutcome::Stored {
        portal: name,
        generation,
        resumed: before.is_some(),
    })
}

/// Portal for a grant.
struct TargetPortal {
    name: PortalName,
    before: Option<FoundPortal>,
    is_listed: bool,
}

fn place(
    connection: &Connection,
    terms: &InstallContext,
    owner: &TokenOwner,
    listed: Option<&PortalName>,
) -> Result<Option<TargetPortal>, StateError> {
    let users = terms.rule.users;
    let fits = |found: &FoundPortal| {
        users == Users::Installer
            || found
                .user
                .as_ref()
                .is_none_or(|user| *user == owner.user_id)
    };
    // The configuration may have dropped it meanwhile.
    let of_listed = |name: &PortalName| {
        found(
            connection,
            "name = ?1 AND app = ?2 AND installed_by IS NULL AND configured = 1",
            name.as_str(),
            &terms.app,
        )
    };
    if let Some(before) = listed
        .map(of_listed)
        .transpose()?
        .and_then(|mut rows| rows.pop())
        .filter(fits)
    {
        return Ok(Some(TargetPortal {
            name: before.portal.name.clone(),
            before: Some(before),
            is_listed: true,
        }));
    }
    let ours = found(
        connection,
        "member_id = ?1 AND installed_by = ?2",
        &owner.member_id,
        &terms.app,
    )?;
    let same_user = |found: &FoundPortal| found.user.as_deref() == Some(owner.user_id.as_str());
    let at = ours
        .iter()
        .position(same_user)
        .or_else(|| ours.iter().position(fits));
    if let Some(before) = at.and_then(|at| ours.into_iter().nth(at)) {
        return Ok(Some(TargetPortal {
            name: before.portal.name.clone(),
            before: Some(before),
            is_listed: false,
        }));
    }
    for name in terms.rule.names.names(&terms.app, owner, users) {
        let row = found(
            connection,
            "name = ?1 AND ?2 <> ''",
            name.as_str(),
            &terms.app,
        )?
        .pop();
        let is_left = |row: &FoundPortal| {
            let grant = row.portal.grant.as_ref();
            let same = |grant: &Grant| {
                grant.bound_to == terms.binding && grant.identity.as_ref() == Some(&owner.member_id)
            };
            row.portal.settings.is_none() && fits(row) && grant.is_none_or(same)
        };
        if row.as_ref().is_none_or(is_left) {
            return Ok(Some(TargetPortal {
                name,
                before: row,
                is_listed: false,
            }));
        }
    }
    Ok(None)
}

/// Creates the row, or updates it to the server's present data of the portal.
fn adopt(
    connection: &Connection,
    terms: &InstallContext,
    owner: &TokenOwner,
    name: &PortalName,
    now: Timestamp,
) -> Result<(), StateError> {
    let configured = terms.configured(name.clone(), Some(&owner.host), &owner.member_id);
    reconcile_portal(connection, &configured, Some(&terms.app), now)?;
    connection
        .execute(
            "UPDATE portal SET member_id = ?2 WHERE name = ?1",
            [name.as_str(), &owner.member_id],
        )
        .map(|_| ())
        .map_err(|source| StateError::sql("keep an installed portal", source))
}

/// The grant in the form of an import, due at once: one renewal verifies it, and from then on only refreshd has it.
fn new_grant(
    connection: &Connection,
    install: &InstalledGrant,
    name: &PortalName,
) -> Result<NewGrant, StateError> {
    let InstalledGrant {
        terms,
        owner,
        imported,
        now,
        ..
    } = install;
    let ImportedGrant { tokens, server, .. } = imported;
    let (config_url, every): (String, Option<String>) = connection
        .query_row(
            "SELECT config_url, settings ->> 'renew_every' AS renew_every FROM portal WHERE name = ?1",
            [name.as_str()],
            |row| Ok((row.get("config_url")?, row.get("renew_every")?)),
        )
        .map_err(|source| StateError::sql("keep an installed portal", source))?;
    let every = every.and_then(|every| serde_json::from_str::<RenewSetting>(&every).ok());
    let every = every.map_or(terms.profile.renew_every, Into::into);
    let named = server
        .as_deref()
        .and_then(|server| terms.profile.renewal_url_on_host_of(server));
    let status = imported_status(name, tokens.access.as_ref(), every, *now);
    Ok(NewGrant {
        portal: name.clone(),
        tokens: tokens.clone(),
        identity: Some(owner.member_id.clone()),
        bound_to: terms.binding,
        token_url: named.map_or(config_url, str::to_owned),
        proven: None,
        status,
        now: *now,
    })
}
