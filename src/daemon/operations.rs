//! What commands ask for, with or without a running daemon: the same code behind the control socket and the CLI.
//!
//! Must not print, and must not know HTTP or exit codes: an [`OperationError`] says what is wrong in its own words.

use std::time::Duration;

use super::shared::{Report, Shared};
use super::view::PortalView;
use crate::adapters::state::{RenewalRequest, StateError, TakeIn, TakenIn};
use crate::adapters::token_files::{Format, Published};
use crate::config::App;
use crate::domain::intake::{Intake, IntakeError};
use crate::domain::name::PortalName;
use crate::domain::portal::{Kind, Portal};
use crate::domain::renewal::taken_in;
use crate::domain::schedule::RenewEvery;
use crate::domain::time::{Timestamp, human};
use crate::domain::token::Generation;

/// Longer than this nobody waits for a renewal to end, in addition to the request's own limit.
const RENEWAL_GRACE: Duration = Duration::from_secs(10);

/// Why an operation was not done. `Display` is for an operator.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The configuration does not name it.
    #[error("no portal is named {name}{}", suggestion.as_ref().map(|other| format!("; did you mean {other}?")).unwrap_or_default())]
    UnknownPortal {
        /// What was asked for.
        name: String,
        /// The nearest name there is.
        suggestion: Option<String>,
    },
    /// There is no grant to use.
    #[error("{portal} has no usable grant ({}): {action}", kind.as_str())]
    NoGrant {
        /// The portal.
        portal: PortalName,
        /// What it has instead.
        kind: Kind,
        /// What to do.
        action: String,
    },
    /// It did not work now; it may later.
    #[error("{portal}: {reason}")]
    NotNow {
        /// The portal.
        portal: PortalName,
        /// Why not.
        reason: String,
    },
    /// The grant was refused.
    #[error("{portal}: not taken in: {reason}")]
    Refused {
        /// The portal.
        portal: PortalName,
        /// Why not.
        reason: String,
    },
    /// The text was no grant.
    #[error("{portal}: not taken in")]
    NotAGrant {
        /// The portal.
        portal: PortalName,
        /// Why not.
        source: IntakeError,
    },
    /// The state said no.
    #[error("the state could not be used")]
    State(#[from] StateError),
}

/// Where a grant came from, for the log.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// `refreshd import`.
    Import,
    /// `refresh_token_file`.
    File,
}

/// What `renew` did.
#[derive(Debug)]
pub enum Renewal {
    /// A request was sent and this is how it ended.
    Ended(Report),
    /// Nothing was sent: it was renewed a moment ago.
    FreshAlready {
        /// From then on it may be renewed again.
        not_before: Timestamp,
    },
}

/// A portal of the state, or the name that was probably meant.
///
/// # Errors
/// [`OperationError::UnknownPortal`], [`OperationError::State`].
pub async fn find(shared: &Shared, name: &str) -> Result<Portal, OperationError> {
    if let Ok(name) = PortalName::parse(name)
        && let Some(portal) = shared.state.portal(name).await?
    {
        return Ok(portal);
    }
    Err(OperationError::UnknownPortal { name: name.to_owned(), suggestion: nearest(shared, name).await })
}

async fn nearest(shared: &Shared, wanted: &str) -> Option<String> {
    let mut best: Option<(f64, String)> = None;
    let mut after = None;
    loop {
        let page = shared.state.page(after, 500).await.ok()?;
        for portal in &page {
            let likeness = strsim::jaro_winkler(wanted, portal.name.as_str());
            if likeness > 0.8 && best.as_ref().is_none_or(|(score, _)| likeness > *score) {
                best = Some((likeness, portal.name.as_str().to_owned()));
            }
        }
        match page.last() {
            Some(last) => after = Some(last.name.clone()),
            None => return best.map(|(_, name)| name),
        }
    }
}

/// The status of one portal.
///
/// # Errors
/// As [`find`].
pub async fn view(shared: &Shared, name: &str) -> Result<PortalView, OperationError> {
    let portal = find(shared, name).await?;
    Ok(PortalView::of(&portal, &shared.config(), shared.clock.now()))
}

/// Asks for a renewal and waits for its end. `by` carries it out: the loop of a running daemon, or this process.
///
/// # Errors
/// [`OperationError`].
pub async fn renew(shared: &Shared, name: &str, by: By<'_>) -> Result<Renewal, OperationError> {
    let portal = find(shared, name).await?;
    let ended = shared.waiters.wait_for(&portal.name);
    let now = shared.clock.now();
    let mut from = now;
    match shared.state.request_renewal(portal.name.clone(), now).await? {
        RenewalRequest::Due(at) => from = at,
        RenewalRequest::UnderWay => {}
        RenewalRequest::NotBefore(not_before) => return Ok(Renewal::FreshAlready { not_before }),
        RenewalRequest::NoGrant | RenewalRequest::Unknown => return Err(no_grant(&portal)),
    }
    match by {
        By::Loop => shared.due.notify_one(),
        By::Hand(hand) => {
            shared.clock.sleep_until(from).await;
            hand(portal.name.clone()).await?;
        }
    }
    let limit = from.until(now) + shared.config().renewal.timeout + RENEWAL_GRACE;
    match shared.clock.within(limit, ended).await {
        Some(Ok(report)) => Ok(Renewal::Ended(report)),
        Some(Err(_)) | None => Err(OperationError::NotNow {
            portal: portal.name,
            reason: format!("the renewal has not ended after {}; it goes on by itself", human(limit)),
        }),
    }
}

/// Who carries a renewal out.
pub enum By<'a> {
    /// The renewer of this daemon.
    Loop,
    /// Whoever calls, without a daemon.
    Hand(&'a (dyn Fn(PortalName) -> Handwork<'a> + Send + Sync)),
}

/// A renewal carried out by hand.
pub type Handwork<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), StateError>> + Send + 'a>>;

/// The access token in one form, with at least `min_valid` left; renews first if need be.
///
/// # Errors
/// [`OperationError`]; [`OperationError::NotNow`] if the token cannot be had with that much left.
pub async fn token(
    shared: &Shared,
    name: &str,
    min_valid: Duration,
    format: Format,
    by: By<'_>,
) -> Result<String, OperationError> {
    let portal = find(shared, name).await?;
    if let Some(text) = render(shared, &portal, min_valid, format) {
        return Ok(text);
    }
    // What a person must mend is not sent again for a reader's sake.
    if matches!(portal.kind(), Kind::NeedsAuthorization | Kind::Gone | Kind::OldState) {
        return Err(no_grant(&portal));
    }
    let ended = renew(shared, name, by).await?;
    let portal = find(shared, name).await?;
    // More than the whole life cannot be had; what was renewed this moment is as fresh as it gets.
    let min_valid = match &ended {
        Renewal::Ended(Report { failure: None, .. }) | Renewal::FreshAlready { .. } => {
            let lifetime =
                portal.grant.as_ref().and_then(|grant| grant.tokens.access.as_ref()).map(|a| a.lifetime());
            lifetime.map_or(min_valid, |lifetime| min_valid.min(lifetime.mul_f64(0.5)))
        }
        Renewal::Ended(_) => min_valid,
    };
    render(shared, &portal, min_valid, format).ok_or_else(|| {
        let reason = match ended {
            Renewal::Ended(Report { failure: Some((class, detail)), .. }) => {
                format!("the renewal failed ({}): {detail}", class.as_str())
            }
            Renewal::Ended(_) | Renewal::FreshAlready { .. } => {
                "the token has less time left than asked for".to_owned()
            }
        };
        OperationError::NotNow { portal: portal.name.clone(), reason }
    })
}

fn render(shared: &Shared, portal: &Portal, min_valid: Duration, format: Format) -> Option<String> {
    let settings = portal.settings.as_ref()?;
    let grant = portal.grant.as_ref()?;
    let access = grant.tokens.access.as_ref()?;
    if access.expires_at.until(shared.clock.now()) < min_valid.max(Duration::from_millis(1)) {
        return None;
    }
    let config = shared.config();
    let provider = config.apps.get(&settings.app).map_or("", |app| app.profile.name.as_str());
    let details = &grant.tokens.details;
    let generation = grant.generation;
    Some(Published { portal: &portal.name, provider, access, generation, details }.render(format))
}

/// Takes a grant in from its text.
///
/// # Errors
/// [`OperationError`].
pub async fn import(shared: &Shared, name: &str, text: &str) -> Result<Generation, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let intake = crate::domain::intake::parse(text, &app.profile, shared.clock.now())
        .map_err(|source| OperationError::NotAGrant { portal: portal.name.clone(), source })?;
    take_in(shared, &portal.name, intake, Source::Import).await
}

/// Stores a grant, publishes what it brought, and makes it due at once.
///
/// # Errors
/// [`OperationError`]; nothing is stored then.
pub async fn take_in(
    shared: &Shared,
    name: &PortalName,
    intake: Intake,
    source: Source,
) -> Result<Generation, OperationError> {
    let portal = find(shared, name.as_str()).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let refuse = |reason| OperationError::Refused { portal: name.clone(), reason };
    let settings = portal.settings.as_ref();
    let Intake { tokens, identity, server } = intake;
    let pinned = settings.and_then(|settings| settings.identity.as_ref());
    if let (Some(pinned), Some(identity)) = (pinned, &identity)
        && pinned != identity
    {
        return Err(refuse(format!("it is the grant of {identity}, the configuration expects {pinned}")));
    }
    let domain = settings.and_then(|settings| settings.domain.as_deref());
    let now = shared.clock.now();
    let every =
        settings.and_then(|settings| settings.renew_every).map_or(app.profile.renew_every, RenewEvery::from);
    let token_url = server
        .and_then(|server| app.profile.renewal_url_on_host_of(&server).map(str::to_owned))
        .or_else(|| portal.config_url.clone())
        .unwrap_or_else(|| app.profile.renewal_url_for(None, domain));
    let standing = taken_in(name, tokens.access.as_ref(), every, now);
    let take = TakeIn {
        portal: name.clone(),
        identity: identity.or_else(|| pinned.cloned()),
        bound_to: app.binding(domain),
        token_url,
        standing,
        tokens,
        now,
    };
    match shared.state.take_in(take).await? {
        TakenIn::Stored(generation) => {
            tracing::info!(portal = %name, generation = generation.0, source = ?source, "{name}: a grant was taken in");
            let failing = shared.publisher.publish(name).await;
            shared.health.unpublished(failing);
            shared.due.notify_one();
            shared.climb.notify_one();
            Ok(generation)
        }
        TakenIn::HeldBy(other) => Err(refuse(format!(
            "the same refresh token belongs to {other}; two portals with one grant would kill it at the next rotation"
        ))),
        TakenIn::Spent => Err(refuse(format!(
            "this refresh token was taken in before and has been exchanged for a newer one since, which stays in force; \
             if you mean it all the same, first: refreshd forget {name}"
        ))),
        TakenIn::Unknown => Err(OperationError::UnknownPortal { name: name.to_string(), suggestion: None }),
    }
}

/// Forgets a grant and removes its token files; false if there was none.
///
/// # Errors
/// [`OperationError`].
pub async fn forget(shared: &Shared, name: &str) -> Result<bool, OperationError> {
    let portal = find(shared, name).await?;
    let forgotten = shared.state.forget(portal.name.clone()).await?;
    let failing = shared.publisher.publish(&portal.name).await;
    shared.health.unpublished(failing);
    if forgotten {
        tracing::info!(portal = %portal.name, "{}: the grant was forgotten and its token files removed", portal.name);
    }
    Ok(forgotten)
}

fn app_of<'c>(config: &'c crate::config::Config, portal: &Portal) -> Result<&'c App, OperationError> {
    let app = portal.settings.as_ref().and_then(|settings| config.apps.get(&settings.app));
    app.ok_or_else(|| no_grant(portal))
}

fn no_grant(portal: &Portal) -> OperationError {
    let kind = portal.kind();
    OperationError::NoGrant { portal: portal.name.clone(), kind, action: super::view::action_for(portal) }
}
