//! Grants that are handed over: `refreshd import` and `refresh_token_file`. Where the portal has a grant, the new one is
//! a candidate first; where it has none, it is stored and renewed at once. Either way the outcome is reported.
//!
//! Must not send what cannot be a refresh token, nor touch a living grant: `candidates` does, once the proof is there.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::adapters::state::{Offer, Offered};
use crate::config::Config;
use crate::daemon::context::Context;
use crate::daemon::grants::driver::Driver;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::{app_of, find};
use crate::daemon::grants::operations::{self, RenewalResult};
use crate::daemon::grants::store::{
    GrantSource, StoreRequest, check_identity, check_not_held, held_by_error, new_grant,
    spent_error, store_grant,
};
use crate::daemon::renewal::state_health;
use crate::daemon::waiters::RenewalReport;
use crate::domain::candidate::{ImportResult, Origin, replace_hint};
use crate::domain::identity::ExpectedIdentity;
use crate::domain::import::{ImportError, ImportedGrant, parse};
use crate::domain::name::PortalName;
use crate::domain::portal::{Kind, Portal};
use refreshd_secrets::{AccessToken, Fingerprint, RefreshToken};
use refreshd_time::human;
use refreshd_token_client::import_token;
use refreshd_token_client::provider::Class;
use refreshd_token_client::token::{Credential, Generation};

/// Longer than this nobody waits for an outcome, in addition to the request's own limit.
const GRACE: Duration = Duration::from_secs(10);
/// While an app's client is refused, its portals are not tried; so long it is seen whether this one is.
const WHILE_REFUSED: Duration = Duration::from_secs(2);

/// What an import came to.
#[derive(Debug)]
pub struct ImportOutcome {
    /// What became of the grant.
    pub proof: ImportResult,
    /// The portal's generation now.
    pub generation: Generation,
    /// Whether the portal had a grant before, which stays unless the new one took its place.
    pub had_grant: bool,
}

/// Takes a grant in from its bytes and waits for what becomes of it. `replace` is the way past another owner's grant.
///
/// # Errors
/// [`OperationError`]: it is no grant, another portal's, or known; nothing was sent or changed then.
pub async fn import(
    shared: &Context,
    name: &str,
    grant: &[u8],
    replace: bool,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let intake = parse(grant, &app.profile, shared.clock.now())
        .map_err(|source| not_a_grant_error(&portal, source))?;
    if let Some(what) = known_secret(&config, &portal, &intake) {
        return Err(not_a_grant_error(
            &portal,
            ImportError::NotARefreshToken(what),
        ));
    }
    let token = intake
        .tokens
        .credential
        .refresh()
        .and_then(|token| AccessToken::new(token.expose()));
    if let Some(token) = token
        && let Some(holder) = shared.state.holder_of_access(token).await?
    {
        let reason = format!("it is the access token of {holder}; the refresh token is another");
        return Err(OperationError::Refused {
            portal: portal.name,
            reason,
        });
    }
    if has_no_living_grant(&portal) && !replace {
        return import_first(shared, &portal, intake, by).await;
    }
    let fingerprint = intake
        .tokens
        .credential
        .refresh()
        .map(RefreshToken::fingerprint);
    match store_candidate(shared, &portal, intake, Origin::Import, replace).await? {
        Offered::Same if portal.kind() == Kind::ClientChanged => {
            let parsed = parse(grant, &app.profile, shared.clock.now());
            import_first(
                shared,
                &portal,
                parsed.map_err(|source| not_a_grant_error(&portal, source))?,
                by,
            )
            .await
        }
        Offered::Same => import_same(shared, &portal, by).await,
        _ => proof(shared, &portal, fingerprint, by).await,
    }
}

/// Takes in for a portal the pair that was put aside last at another, or at itself: that is meant, whoever owns it.
///
/// # Errors
/// As [`import`]; [`OperationError::NothingKept`] if none was put aside.
pub async fn import_superseded(
    shared: &Context,
    name: &str,
    at: &str,
    replace: bool,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let portal = find(shared, name).await?;
    let holder = find(shared, at).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let Some(aside) = shared.state.superseded_at(holder.name.clone()).await? else {
        let what = "no pair was put aside".to_owned();
        return Err(OperationError::NothingKept {
            portal: holder.name,
            what,
        });
    };
    let mut body = Map::new();
    body.insert("refresh_token".to_owned(), aside.refresh.expose().into());
    if let (Some(field), Some(identity)) = (&app.profile.identity_field, aside.identity) {
        body.insert(field.clone(), identity.into());
    }
    let text = Value::Object(body).to_string();
    let imported = import(
        shared,
        name,
        text.as_bytes(),
        replace || portal.name == holder.name,
        by,
    )
    .await?;
    if matches!(
        imported.proof,
        ImportResult::TakenIn | ImportResult::Waits { .. }
    ) {
        // Left there it is spent, and refused as such.
        if let Err(error) = shared.state.delete_superseded(aside.id).await {
            state_health::write_failed(shared, &error);
        }
    }
    Ok(imported)
}

/// Whether there is no grant that an unproved one could harm: none at all, nor one that the state has lost, whose token files
/// may work still.
pub(crate) fn has_no_living_grant(portal: &Portal) -> bool {
    portal
        .grant
        .as_ref()
        .map_or(portal.lost.is_none(), |grant| {
            matches!(grant.tokens.credential, Credential::Client)
        })
}

fn not_a_grant_error(portal: &Portal, source: ImportError) -> OperationError {
    OperationError::NotAGrant {
        portal: portal.name.clone(),
        source,
    }
}

/// What a refresh token is by what this machine knows, if it is something else.
pub(crate) fn known_secret(
    config: &Config,
    portal: &Portal,
    intake: &ImportedGrant,
) -> Option<&'static str> {
    let token = intake.tokens.credential.refresh()?.expose();
    let is = |text: &str| text == token;
    let holds = |secret: &str| import_token::contains_secret(token, secret);
    let settings = portal.settings.as_ref();
    let own = portal
        .grant
        .as_ref()
        .and_then(|grant| grant.tokens.access.as_ref());
    let names = [
        Some(portal.name.as_str()),
        settings.and_then(|settings| settings.domain.as_deref()),
    ];
    if config.apps.values().any(|app| {
        app.client_secret
            .as_ref()
            .is_some_and(|secret| holds(secret.expose()))
    }) {
        Some("it is the client secret of an app, or holds it")
    } else if config.apps.values().any(|app| is(&app.client_id)) {
        Some("it is the client_id of an app")
    } else if own.is_some_and(|access| holds(access.token.expose())) {
        Some("it is the portal's own access token, or a part of it")
    } else if names
        .into_iter()
        .flatten()
        .chain(config.apps.keys().map(String::as_str))
        .any(is)
    {
        Some("it is a name of the configuration")
    } else {
        None
    }
}

/// Stores a candidate, after what it says of itself was compared with what the portal is.
///
/// # Errors
/// [`OperationError`]; nothing is stored then.
pub(crate) async fn store_candidate(
    shared: &Context,
    portal: &Portal,
    intake: ImportedGrant,
    origin: Origin,
    replace: bool,
) -> Result<Offered, OperationError> {
    let config = shared.config();
    let app = app_of(&config, portal)?;
    let name = &portal.name;
    let known = ExpectedIdentity::of(portal, &app.profile);
    let known = if replace { known.pinned_only() } else { known };
    check_not_held(shared, name, &intake).await?;
    check_identity(portal, known, &intake, &|another| {
        format!("; {}", replace_hint(another, name.as_str()))
    })?;
    let fingerprint = intake
        .tokens
        .credential
        .refresh()
        .map(RefreshToken::fingerprint);
    let grant = new_grant(portal, app, intake, false, shared.clock.now())?;
    let offered = shared
        .state
        .offer(Offer {
            grant,
            origin,
            replaces: replace,
        })
        .await?;
    match &offered {
        Offered::Stored => {
            if portal.candidate.is_some() {
                let others = |(of, which): &(PortalName, Option<Fingerprint>)| {
                    of == name && *which != fingerprint
                };
                shared.proofs.tell_each(others, &ImportResult::SetAside);
                tracing::warn!(
                    portal = %name,
                    "{name}: a grant that was handed over before was not proved yet and is dropped for this one"
                );
            }
            tracing::info!(
                portal = %name, origin = origin.as_str(),
                "{name}: a grant was handed over; it takes the place of the present one once it has proved itself"
            );
        }
        Offered::Known | Offered::Same => {}
        Offered::Busy => {
            let reason =
                "another grant that was handed over is being proved; try again in a moment"
                    .to_owned();
            return Err(OperationError::NotNow {
                portal: name.clone(),
                reason,
            });
        }
        Offered::Waiting(since) => {
            let reason = format!(
                "another grant was handed over at {since} and is not proved yet; nothing was taken in. See: refreshd status \
                 {name}. To drop that one for this one: refreshd import {name} --replace"
            );
            return Err(OperationError::NotNow {
                portal: name.clone(),
                reason,
            });
        }
        Offered::HeldBy(other) => return Err(held_by_error(name, other)),
        Offered::Spent => return Err(spent_error(name)),
        Offered::Unknown => {
            return Err(OperationError::UnknownPortal {
                name: name.to_string(),
                suggestion: None,
            });
        }
    }
    Ok(offered)
}

/// Has a stored candidate proved, and waits for it.
pub(crate) async fn proof(
    shared: &Context,
    portal: &Portal,
    fingerprint: Option<Fingerprint>,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let ended = shared.proofs.wait_for(&(portal.name.clone(), fingerprint));
    carry_out(portal, by, &shared.candidates).await?;
    let limit = shared.config().renewal.timeout + GRACE;
    let proof = match shared.clock.within(limit, ended).await {
        Some(Ok(proof)) => proof,
        Some(Err(_)) | None => not_ended(limit),
    };
    imported(shared, portal, proof).await
}

/// A portal's first grant: stored, then renewed at once.
async fn import_first(
    shared: &Context,
    portal: &Portal,
    intake: ImportedGrant,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let name = &portal.name;
    let mut ended = shared.waiters.wait_for(name);
    let generation = store_grant(
        shared,
        name,
        StoreRequest {
            intake,
            source: GrantSource::Import,
        },
    )
    .await?;
    carry_out(portal, by, &shared.due).await?;
    let limit = shared.config().renewal.timeout + GRACE;
    // While an app's client is refused, its portals wait for that to end.
    let app = portal
        .settings
        .as_ref()
        .map(|settings| settings.app.as_str())
        .unwrap_or_default();
    let waits = shared.state.refused_apps().await?.contains_key(app);
    let limit = if waits {
        limit.min(WHILE_REFUSED)
    } else {
        limit
    };
    // The outcome of a request that was under way before is another grant's.
    let own = async {
        loop {
            let next = shared.waiters.wait_for(name);
            match std::mem::replace(&mut ended, next).await {
                Ok(report) if report.sent < generation => {}
                other => return other,
            }
        }
    };
    let proof = match shared.clock.within(limit, own).await {
        Some(Ok(report)) => by_report(shared, portal, report).await?,
        Some(Err(_)) | None if waits => ImportResult::Waits {
            problem: "the authorization server refuses the app's client; see refreshd status"
                .to_owned(),
            act_at: None,
        },
        Some(Err(_)) | None => not_ended(limit),
    };
    imported(shared, portal, proof).await
}

/// The very refresh token that the portal has: it is renewed, once.
async fn import_same(
    shared: &Context,
    portal: &Portal,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let proof = match operations::renew(shared, portal.name.as_str(), by).await? {
        RenewalResult::FreshAlready { .. } => ImportResult::TakenIn,
        RenewalResult::Ended(report) => by_report(shared, portal, report).await?,
    };
    imported(shared, portal, proof).await
}

async fn carry_out(portal: &Portal, by: &Driver, wake: &Notify) -> Result<(), OperationError> {
    match by {
        Driver::Daemon => wake.notify_one(),
        Driver::Inline(driver) => driver.prove(&portal.name).await?,
        Driver::ReadOnly => {
            return Err(OperationError::NeedsRenewal {
                portal: portal.name.clone(),
            });
        }
    }
    Ok(())
}

fn not_ended(limit: Duration) -> ImportResult {
    let problem = format!("there is no outcome after {}", human(limit));
    ImportResult::Waits {
        problem,
        act_at: None,
    }
}

/// The outcome of a renewal, as that of a proof.
async fn by_report(
    shared: &Context,
    portal: &Portal,
    report: RenewalReport,
) -> Result<ImportResult, OperationError> {
    Ok(match report {
        RenewalReport {
            set_aside: true, ..
        } => ImportResult::SetAside,
        RenewalReport { failure: None, .. } => ImportResult::TakenIn,
        RenewalReport {
            failure: Some((Class::NeedsAuthorization | Class::Gone, problem)),
            ..
        } => ImportResult::Refused(format!("the authorization server refuses it: {problem}")),
        RenewalReport {
            failure: Some((_, problem)),
            ..
        } => {
            let portal = find(shared, portal.name.as_str()).await?;
            ImportResult::Waits {
                problem,
                act_at: portal
                    .grant
                    .and_then(|grant| grant.standing.next_attempt_at),
            }
        }
    })
}

async fn imported(
    shared: &Context,
    before: &Portal,
    proof: ImportResult,
) -> Result<ImportOutcome, OperationError> {
    let now = find(shared, before.name.as_str()).await?;
    let generation = now.grant.map(|grant| grant.generation).unwrap_or_default();
    Ok(ImportOutcome {
        proof,
        generation,
        had_grant: !has_no_living_grant(before),
    })
}
