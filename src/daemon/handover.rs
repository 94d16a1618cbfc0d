//! Grants that are handed over: `refreshd import` and `refresh_token_file`. Where the portal has a grant, the new one is
//! a candidate first; where it has none, it is stored and renewed at once. Either way the outcome is reported.
//!
//! Must not send what cannot be a refresh token, nor touch a living grant: `candidates` does, once the proof is there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::candidates;
use super::grants::{Source, TakeInAs, held_by, is_nobody_elses, is_own, spent, take_in, to_take};
use super::operations::{self, By, OperationError, Renewal, app_of, find};
use super::shared::{Report, Shared};
use super::writing;
use crate::adapters::state::{Offer, Offered, StateError};
use crate::config::Config;
use crate::domain::candidate::{Origin, Proof, way_past};
use crate::domain::identity::Known;
use crate::domain::intake::{Intake, IntakeError, parse};
use crate::domain::name::PortalName;
use crate::domain::portal::{Kind, Portal};
use crate::domain::provider::Class;
use crate::domain::secret::{AccessToken, Fingerprint, RefreshToken};
use crate::domain::time::human;
use crate::domain::token::{Credential, Generation};
use crate::domain::word;

/// Longer than this nobody waits for an outcome, in addition to the request's own limit.
const GRACE: Duration = Duration::from_secs(10);
/// While an app's client is refused, its portals are not tried; so long it is seen whether this one is.
const WHILE_REFUSED: Duration = Duration::from_secs(2);

/// What an import came to.
#[derive(Debug)]
pub struct Imported {
    /// What became of the grant.
    pub proof: Proof,
    /// The portal's generation now.
    pub generation: Generation,
    /// Whether the portal had a grant before, which stays unless the new one took its place.
    pub had_grant: bool,
}

/// Takes a grant in from its text and waits for what becomes of it. `replace` is the way past another owner's grant.
///
/// # Errors
/// [`OperationError`]: it is no grant, another portal's, or known; nothing was sent or changed then.
pub async fn import(
    shared: &Shared,
    name: &str,
    text: &str,
    replace: bool,
    by: By<'_>,
) -> Result<Imported, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let intake =
        parse(text, &app.profile, shared.clock.now()).map_err(|source| not_a_grant(&portal, source))?;
    if let Some(what) = known_as(&config, &portal, &intake) {
        return Err(not_a_grant(&portal, IntakeError::NotARefreshToken(what)));
    }
    let token = intake.tokens.credential.refresh().and_then(|token| AccessToken::new(token.expose()));
    if let Some(token) = token
        && let Some(holder) = shared.state.holder_of_access(token).await?
    {
        let reason = format!("it is the access token of {holder}; the refresh token is another");
        return Err(OperationError::Refused { portal: portal.name, reason });
    }
    if stands_alone(&portal) && !replace {
        return first(shared, &portal, intake, by).await;
    }
    let fingerprint = intake.tokens.credential.refresh().map(RefreshToken::fingerprint);
    match offer(shared, &portal, intake, Origin::Import, replace).await? {
        Offered::Same if portal.kind() == Kind::ClientChanged => {
            let parsed = parse(text, &app.profile, shared.clock.now());
            first(shared, &portal, parsed.map_err(|source| not_a_grant(&portal, source))?, by).await
        }
        Offered::Same => same(shared, &portal, by).await,
        _ => proof(shared, &portal, fingerprint, by).await,
    }
}

/// Takes in for a portal the pair that was put aside last at another, or at itself: that is meant, whoever owns it.
///
/// # Errors
/// As [`import`]; [`OperationError::NothingKept`] if none was put aside.
pub async fn import_aside(
    shared: &Shared,
    name: &str,
    at: &str,
    replace: bool,
    by: By<'_>,
) -> Result<Imported, OperationError> {
    let portal = find(shared, name).await?;
    let holder = find(shared, at).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let Some(aside) = shared.state.put_aside_at(holder.name.clone()).await? else {
        let what = "no pair was put aside".to_owned();
        return Err(OperationError::NothingKept { portal: holder.name, what });
    };
    let mut body = Map::new();
    body.insert("refresh_token".to_owned(), aside.refresh.expose().into());
    if let (Some(field), Some(identity)) = (&app.profile.identity_field, aside.identity) {
        body.insert(field.clone(), identity.into());
    }
    let text = Value::Object(body).to_string();
    let imported = import(shared, name, &text, replace || portal.name == holder.name, by).await?;
    if matches!(imported.proof, Proof::TakenIn | Proof::Waits { .. }) {
        // Left there it is spent, and refused as such.
        if let Err(error) = shared.state.drop_aside(aside.id).await {
            writing::refused(shared, &error);
        }
    }
    Ok(imported)
}

/// Whether there is no grant that an unproved one could harm: none at all, nor one that the state has lost, whose token files
/// may work still.
pub(super) fn stands_alone(portal: &Portal) -> bool {
    portal
        .grant
        .as_ref()
        .map_or(portal.lost.is_none(), |grant| matches!(grant.tokens.credential, Credential::Client))
}

fn not_a_grant(portal: &Portal, source: IntakeError) -> OperationError {
    OperationError::NotAGrant { portal: portal.name.clone(), source }
}

/// What a refresh token is by what this machine knows, if it is something else.
pub(super) fn known_as(config: &Config, portal: &Portal, intake: &Intake) -> Option<&'static str> {
    let token = intake.tokens.credential.refresh()?.expose();
    let is = |text: &str| text == token;
    let holds = |secret: &str| word::is_made_of(token, secret);
    let settings = portal.settings.as_ref();
    let own = portal.grant.as_ref().and_then(|grant| grant.tokens.access.as_ref());
    let names = [Some(portal.name.as_str()), settings.and_then(|settings| settings.domain.as_deref())];
    if config.apps.values().any(|app| app.client_secret.as_ref().is_some_and(|secret| holds(secret.expose())))
    {
        Some("it is the client secret of an app, or holds it")
    } else if config.apps.values().any(|app| is(&app.client_id)) {
        Some("it is the client_id of an app")
    } else if own.is_some_and(|access| holds(access.token.expose())) {
        Some("it is the portal's own access token, or a part of it")
    } else if names.into_iter().flatten().chain(config.apps.keys().map(String::as_str)).any(is) {
        Some("it is a name of the configuration")
    } else {
        None
    }
}

/// Stores a candidate, after what it says of itself was compared with what the portal is.
///
/// # Errors
/// [`OperationError`]; nothing is stored then.
pub(super) async fn offer(
    shared: &Shared,
    portal: &Portal,
    intake: Intake,
    origin: Origin,
    replace: bool,
) -> Result<Offered, OperationError> {
    let config = shared.config();
    let app = app_of(&config, portal)?;
    let name = &portal.name;
    let known = Known::of(portal, &app.profile);
    let known = if replace { known.pinned_only() } else { known };
    is_nobody_elses(shared, name, &intake).await?;
    is_own(portal, known, &intake, &|another| format!("; {}", way_past(another, name.as_str())))?;
    let fingerprint = intake.tokens.credential.refresh().map(RefreshToken::fingerprint);
    let grant = to_take(portal, app, intake, false, shared.clock.now())?;
    let offered = shared.state.offer(Offer { grant, origin, replaces: replace }).await?;
    match &offered {
        Offered::Stored => {
            if portal.candidate.is_some() {
                let others =
                    |(of, which): &(PortalName, Option<Fingerprint>)| of == name && *which != fingerprint;
                shared.proofs.tell_each(others, &Proof::SetAside);
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
                "another grant that was handed over is being proved; try again in a moment".to_owned();
            return Err(OperationError::NotNow { portal: name.clone(), reason });
        }
        Offered::Waiting(since) => {
            let reason = format!(
                "another grant was handed over at {since} and is not proved yet; nothing was taken in. See: refreshd status \
                 {name}. To drop that one for this one: refreshd import {name} --replace"
            );
            return Err(OperationError::NotNow { portal: name.clone(), reason });
        }
        Offered::HeldBy(other) => return Err(held_by(name, other)),
        Offered::Spent => return Err(spent(name)),
        Offered::Unknown => {
            return Err(OperationError::UnknownPortal { name: name.to_string(), suggestion: None });
        }
    }
    Ok(offered)
}

/// Has a stored candidate proved, and waits for it.
pub(super) async fn proof(
    shared: &Shared,
    portal: &Portal,
    fingerprint: Option<Fingerprint>,
    by: By<'_>,
) -> Result<Imported, OperationError> {
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
async fn first(
    shared: &Shared,
    portal: &Portal,
    intake: Intake,
    by: By<'_>,
) -> Result<Imported, OperationError> {
    let name = &portal.name;
    let mut ended = shared.waiters.wait_for(name);
    let generation = take_in(shared, name, TakeInAs { intake, source: Source::Import }).await?;
    carry_out(portal, by, &shared.due).await?;
    let limit = shared.config().renewal.timeout + GRACE;
    // While an app's client is refused, its portals wait for that to end.
    let app = portal.settings.as_ref().map(|settings| settings.app.as_str()).unwrap_or_default();
    let waits = shared.state.refused_apps().await?.contains_key(app);
    let limit = if waits { limit.min(WHILE_REFUSED) } else { limit };
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
        Some(Err(_)) | None if waits => Proof::Waits {
            problem: "the authorization server refuses the app's client; see refreshd status".to_owned(),
            act_at: None,
        },
        Some(Err(_)) | None => not_ended(limit),
    };
    imported(shared, portal, proof).await
}

/// The very refresh token that the portal has: it is renewed, once.
async fn same(shared: &Shared, portal: &Portal, by: By<'_>) -> Result<Imported, OperationError> {
    let proof = match operations::renew(shared, portal.name.as_str(), by).await? {
        Renewal::FreshAlready { .. } => Proof::TakenIn,
        Renewal::Ended(report) => by_report(shared, portal, report).await?,
    };
    imported(shared, portal, proof).await
}

async fn carry_out(portal: &Portal, by: By<'_>, wake: &Notify) -> Result<(), OperationError> {
    match by {
        By::Loop => wake.notify_one(),
        By::Hand(hand) => hand(portal.name.clone()).await?,
    }
    Ok(())
}

fn not_ended(limit: Duration) -> Proof {
    let problem = format!("there is no outcome after {}", human(limit));
    Proof::Waits { problem, act_at: None }
}

/// The outcome of a renewal, as that of a proof.
async fn by_report(shared: &Shared, portal: &Portal, report: Report) -> Result<Proof, OperationError> {
    Ok(match report {
        Report { set_aside: true, .. } => Proof::SetAside,
        Report { failure: None, .. } => Proof::TakenIn,
        Report { failure: Some((Class::NeedsAuthorization | Class::Gone, problem)), .. } => {
            Proof::Refused(format!("the authorization server refuses it: {problem}"))
        }
        Report { failure: Some((_, problem)), .. } => {
            let portal = find(shared, portal.name.as_str()).await?;
            Proof::Waits { problem, act_at: portal.grant.and_then(|grant| grant.standing.act_at) }
        }
    })
}

async fn imported(shared: &Shared, before: &Portal, proof: Proof) -> Result<Imported, OperationError> {
    let now = find(shared, before.name.as_str()).await?;
    let generation = now.grant.map(|grant| grant.generation).unwrap_or_default();
    Ok(Imported { proof, generation, had_grant: !stands_alone(before) })
}

/// Claims a portal's candidate and carries its exchange out, in a task that nobody cancels; false if there is none.
pub(super) async fn by_hand(
    shared: &Arc<Shared>,
    portal: &PortalName,
    tasks: &mut JoinSet<()>,
) -> Result<bool, StateError> {
    let claimed = shared.state.claim_candidate(portal.clone(), shared.clock.now()).await?;
    let found = claimed.is_some();
    if let Some(candidate) = claimed {
        tasks.spawn(candidates::prove(Arc::clone(shared), candidate));
    }
    Ok(found)
}
