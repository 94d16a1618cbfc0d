//! Imports of grants: `refreshd import` and `refresh_token_file`. If the portal has a grant, the imported one is a
//! candidate first; if it has none, it is stored and renewed at once. Either way the outcome is reported.
//!
//! Must not send a value that cannot be a refresh token, nor replace a valid grant: `candidates` does after verification.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::adapters::state::Offered;
use crate::config::Config;
use crate::daemon::context::Context;
use crate::daemon::grants::candidate_offer::store_candidate;
use crate::daemon::grants::driver::Driver;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::{app_of, find};
use crate::daemon::grants::operations::{self, RenewalResult};
use crate::daemon::grants::store::{GrantSource, StoreRequest, store_grant};
use crate::daemon::renewal::state_health;
use crate::daemon::waiters::RenewalReport;
use crate::domain::candidate::{ImportResult, Origin};
use crate::domain::import::{ImportError, ImportedGrant, parse};
use crate::domain::portal::{Kind, Portal};
use refreshd_secrets::{AccessToken, Fingerprint, RefreshToken};
use refreshd_time::human;
use refreshd_token_client::import_token;
use refreshd_token_client::provider::Class;
use refreshd_token_client::token::{Credential, Generation};

/// Limit of the wait for an outcome, in addition to the request's timeout.
const GRACE: Duration = Duration::from_secs(10);
/// Limit of that wait while the app's client is rejected, since the portals of the app are not renewed then.
const WAIT_WHILE_REJECTED: Duration = Duration::from_secs(2);

/// Outcome of an import.
#[derive(Debug)]
pub struct ImportOutcome {
    /// Result of the verification.
    pub proof: ImportResult,
    /// Present generation of the portal.
    pub generation: Generation,
    /// Whether the portal had a grant before, which stays unless the new one replaced it.
    pub had_grant: bool,
}

/// Imports a grant from its bytes and waits for the outcome. `replace` allows a grant of another owner.
///
/// # Errors
/// [`OperationError`]: it is not a grant, or it is another portal's, or known; nothing was sent or changed then.
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
    let imported = match parse(grant, &app.profile, shared.clock.now()) {
        Ok(imported) => imported,
        Err(cause) => return Err(unread_error(shared, &portal, grant, cause).await),
    };
    if let Some(what) = known_secret(&config, &portal, &imported) {
        return Err(not_a_grant_error(
            &portal,
            ImportError::NotARefreshToken(what),
        ));
    }
    let token = imported
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
        return import_first(shared, &portal, imported, by).await;
    }
    let fingerprint = imported
        .tokens
        .credential
        .refresh()
        .map(RefreshToken::fingerprint);
    match store_candidate(shared, &portal, imported, Origin::Import, replace).await? {
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

/// Imports the newest superseded pair of another portal, or of the portal itself: the operator intends it, whatever its owner
/// is.
///
/// # Errors
/// As [`import`]; [`OperationError::NothingKept`] if there is no superseded pair.
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
        ImportResult::Imported | ImportResult::Waits { .. }
    ) {
        // If it stays stored, it is spent, and rejected as such.
        if let Err(error) = shared.state.delete_superseded(aside.id).await {
            state_health::write_failed(shared, &error);
        }
    }
    Ok(imported)
}

/// Returns whether there is no grant that an unverified one could harm: none at all, and none lost by the state, whose token
/// files may still work.
pub(crate) fn has_no_living_grant(portal: &Portal) -> bool {
    portal
        .grant
        .as_ref()
        .map_or(portal.lost.is_none(), |grant| {
            matches!(grant.tokens.credential, Credential::Client)
        })
}

/// The error of a text that is no grant. If it is a stored response of the portal, the error has more details.
async fn unread_error(
    shared: &Context,
    portal: &Portal,
    grant: &[u8],
    cause: ImportError,
) -> OperationError {
    let kept = shared.state.kept_replies(portal.name.clone()).await;
    let is_kept = kept
        .unwrap_or_default()
        .iter()
        .any(|kept| kept.reply.body.expose() == grant);
    let source = if is_kept {
        ImportError::KeptReply {
            cause: Box::new(cause),
            portal: portal.name.to_string(),
        }
    } else {
        cause
    };
    not_a_grant_error(portal, source)
}

fn not_a_grant_error(portal: &Portal, source: ImportError) -> OperationError {
    OperationError::NotAGrant {
        portal: portal.name.clone(),
        source,
    }
}

/// Identification of the token, if this machine knows it as something other than a refresh token.
pub(crate) fn known_secret(
    config: &Config,
    portal: &Portal,
    imported: &ImportedGrant,
) -> Option<&'static str> {
    let token = imported.tokens.credential.refresh()?.expose();
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

/// Has a stored candidate proved, and waits for the outcome.
pub(crate) async fn proof(
    shared: &Context,
    portal: &Portal,
    fingerprint: Option<Fingerprint>,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let ended = shared.proofs.wait_for(&(portal.name.clone(), fingerprint));
    execute(portal, by, &shared.candidates).await?;
    let limit = shared.config().renewal.timeout + GRACE;
    let proof = match shared.clock.within(limit, ended).await {
        Some(Ok(proof)) => proof,
        Some(Err(_)) | None => not_ended(limit),
    };
    import_outcome(shared, portal, proof).await
}

/// Stores a portal's first grant and renews it at once.
async fn import_first(
    shared: &Context,
    portal: &Portal,
    imported: ImportedGrant,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let name = &portal.name;
    let mut ended = shared.waiters.wait_for(name);
    let generation = store_grant(
        shared,
        name,
        StoreRequest {
            imported,
            source: GrantSource::Import,
        },
    )
    .await?;
    execute(portal, by, &shared.due).await?;
    let limit = shared.config().renewal.timeout + GRACE;
    // While an app's client is rejected, its portals are not renewed.
    let app = portal
        .settings
        .as_ref()
        .map(|settings| settings.app.as_str())
        .unwrap_or_default();
    let waits = shared.state.refused_apps().await?.contains_key(app);
    let limit = if waits {
        limit.min(WAIT_WHILE_REJECTED)
    } else {
        limit
    };
    // A request that was under way before has the outcome of another grant.
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
            next_attempt_at: None,
        },
        Some(Err(_)) | None => not_ended(limit),
    };
    import_outcome(shared, portal, proof).await
}

/// The imported refresh token is the portal's present one: it is renewed once.
async fn import_same(
    shared: &Context,
    portal: &Portal,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let proof = match operations::renew(shared, portal.name.as_str(), by).await? {
        RenewalResult::FreshAlready { .. } => ImportResult::Imported,
        RenewalResult::Ended(report) => by_report(shared, portal, report).await?,
    };
    import_outcome(shared, portal, proof).await
}

async fn execute(portal: &Portal, by: &Driver, wake: &Notify) -> Result<(), OperationError> {
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
        next_attempt_at: None,
    }
}

/// Outcome of a renewal as that of a verification.
async fn by_report(
    shared: &Context,
    portal: &Portal,
    report: RenewalReport,
) -> Result<ImportResult, OperationError> {
    Ok(match report {
        RenewalReport {
            set_aside: true, ..
        } => ImportResult::Superseded,
        RenewalReport { failure: None, .. } => ImportResult::Imported,
        RenewalReport {
            failure: Some((Class::NeedsAuthorization | Class::Gone, problem)),
            ..
        } => ImportResult::Refused {
            why: format!("the authorization server refuses it: {problem}"),
            while_in_doubt: false,
        },
        RenewalReport {
            failure: Some((_, problem)),
            ..
        } => {
            let portal = find(shared, portal.name.as_str()).await?;
            ImportResult::Waits {
                problem,
                next_attempt_at: portal.grant.and_then(|grant| grant.status.next_attempt_at),
            }
        }
    })
}

async fn import_outcome(
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
