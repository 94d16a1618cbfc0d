//! Requests the metadata of issuers (RFC 8414), and completes the apps' profiles with it before a configuration takes
//! effect.
//!
//! Must not keep the daemon from starting: cached metadata suffices for a start without the issuer, and portals of an
//! issuer that was never reached wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::adapters::state::State;
use crate::config::Config;
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use refreshd_http::Network;
use refreshd_time::clock::{Clock, Tick};
use refreshd_token_client::authorization_server::AuthorizationServer;
use refreshd_token_client::metadata::{addresses, complete};
use refreshd_token_client::provider::Profile;

/// Metadata of this age is requested again at the next start or reload.
const STALE_AFTER: Duration = Duration::from_secs(86_400);
/// Delay before an unreachable issuer is queried again.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Retries periodically while metadata is missing; `asked` is the time of the last request.
pub(crate) async fn tend(shared: &Context, asked: &mut Tick) {
    if shared.has_undiscovered() && shared.clock.elapsed(*asked) >= RETRY_AFTER {
        retry(shared).await;
        *asked = shared.clock.tick();
    }
}

/// Completes every app whose profile names an issuer. Returns the issuers without metadata, each with the reason.
pub(crate) async fn discover(
    config: &mut Config,
    state: &State,
    server: &AuthorizationServer,
    clock: Clock,
) -> BTreeMap<String, String> {
    let mut asked = JoinSet::new();
    for (issuer, Issuer { profiles, network }) in issuers(config) {
        let (state, server) = (state.clone(), server.over(&network));
        asked.spawn(async move {
            (
                description(&issuer, &profiles, &state, &server, clock).await,
                issuer,
            )
        });
    }
    let mut unknown = BTreeMap::new();
    while let Some(Ok((found, issuer))) = asked.join_next().await {
        let found = found.and_then(|body| put(config, &issuer, &body));
        if let Err(why) = found {
            tracing::error!(
                issuer,
                "the metadata of {issuer} is not known, and its portals wait for it: {why}. It is asked for again every minute"
            );
            unknown.insert(issuer, why);
        }
    }
    unknown
}

/// Completes every app with cached metadata, without a request: for read-only commands.
pub(crate) async fn complete_from_cache(config: &mut Config, state: &State) {
    for issuer in issuers(config).into_keys() {
        if let Ok(Some((body, _))) = state.metadata(issuer.clone()).await {
            // Metadata that does not fit leaves the profile unchanged, as if none were cached.
            let _ = put(config, &issuer, &body);
        }
    }
}

/// Queries every issuer and completes the apps, without a state. Returns each issuer with its result: the way to it, as
/// [`Network::way_to`] says it.
pub async fn ask_issuers(
    config: &mut Config,
    server: &AuthorizationServer,
) -> BTreeMap<String, Result<String, String>> {
    let mut asked = BTreeMap::new();
    for (issuer, Issuer { profiles, network }) in issuers(config) {
        let result = ask(&issuer, &profiles, &server.over(&network))
            .await
            .and_then(|body| put(config, &issuer, &body))
            .map(|()| network.way_to(&issuer));
        asked.insert(issuer, result);
    }
    asked
}

/// An issuer of the configuration.
struct Issuer {
    profiles: Vec<Arc<Profile>>,
    /// Its first app's.
    network: Arc<Network>,
}

fn issuers(config: &Config) -> BTreeMap<String, Issuer> {
    let mut issuers: BTreeMap<String, Issuer> = BTreeMap::new();
    for app in config.apps.values() {
        if let Some(issuer) = &app.profile.issuer {
            issuers
                .entry(issuer.clone())
                .or_insert_with(|| Issuer {
                    profiles: Vec::new(),
                    network: Arc::clone(&app.network),
                })
                .profiles
                .push(Arc::clone(&app.profile));
        }
    }
    issuers
}

/// Requests the metadata that is missing, and puts it in force beside the rest of the configuration.
async fn retry(shared: &Context) {
    let before = shared.config();
    let mut config = Config::clone(&before);
    let unknown = discover(
        &mut config,
        &shared.state,
        shared.any_server(),
        shared.clock,
    )
    .await;
    let known: Vec<(String, String)> = (config.apps.values())
        .filter(|app| {
            app.profile
                .issuer
                .as_ref()
                .is_some_and(|issuer| !unknown.contains_key(issuer))
        })
        .map(|app| (app.name.clone(), app.profile.renewal_url_for(None, None)))
        .collect();
    if let Err(error) = shared.state.complete_apps(known).await {
        return tracing::error!(error = %error_chain(&error), "cannot follow the metadata of an authorization server");
    }
    // A configuration that was put in force meanwhile has queried its issuers itself.
    if shared.replace_config(&before, Arc::new(config)) {
        shared.set_undiscovered(unknown);
        shared.due.notify_one();
    }
}

/// Completes the profiles of one issuer. Apps without keys of their own share a profile.
fn put(config: &mut Config, issuer: &str, body: &[u8]) -> Result<(), String> {
    let mut done: Vec<(Arc<Profile>, Arc<Profile>)> = Vec::new();
    for app in config
        .apps
        .values_mut()
        .filter(|app| app.profile.issuer.as_deref() == Some(issuer))
    {
        if let Some((_, completed)) = done
            .iter()
            .find(|(before, _)| Arc::ptr_eq(before, &app.profile))
        {
            app.profile = Arc::clone(completed);
            continue;
        }
        let mut profile = Profile::clone(&app.profile);
        complete(&mut profile, body).map_err(|error| error.to_string())?;
        let completed = Arc::new(profile);
        done.push((
            std::mem::replace(&mut app.profile, Arc::clone(&completed)),
            completed,
        ));
    }
    Ok(())
}

/// Returns whether a document is metadata that completes all of these profiles.
fn fits(profiles: &[Arc<Profile>], body: &[u8]) -> Result<(), String> {
    let complete = |profile: &Arc<Profile>| complete(&mut Profile::clone(profile), body);
    profiles
        .iter()
        .try_for_each(complete)
        .map_err(|error| error.to_string())
}

/// Metadata of an issuer: the cached document if it is recent, the issuer's own, or else the cached one. Only a document
/// that fits is cached or used: an issuer may respond with anything during an outage, and must be queried again then.
async fn description(
    issuer: &str,
    profiles: &[Arc<Profile>],
    state: &State,
    server: &AuthorizationServer,
    clock: Clock,
) -> Result<Vec<u8>, String> {
    let kept = state
        .metadata(issuer.to_owned())
        .await
        .map_err(|error| error_chain(&error))?;
    let kept = kept.filter(|(body, _)| fits(profiles, body).is_ok());
    let now = clock.now();
    if let Some((body, at)) = &kept
        && *at <= now
        && now.since(*at) < STALE_AFTER
    {
        return Ok(body.clone());
    }
    match ask(issuer, profiles, server).await {
        Ok(body) => {
            if let Err(error) = state
                .keep_metadata(issuer.to_owned(), body.clone(), now)
                .await
            {
                tracing::warn!(issuer, error = %error_chain(&error), "the metadata of {issuer} is not kept; the next start asks for it again");
            }
            Ok(body)
        }
        Err(why) => match kept {
            Some((body, at)) => {
                tracing::warn!(
                    issuer,
                    "{issuer} does not serve its metadata ({why}); that of {at} stays in force"
                );
                Ok(body)
            }
            None => Err(why),
        },
    }
}

async fn ask(
    issuer: &str,
    profiles: &[Arc<Profile>],
    server: &AuthorizationServer,
) -> Result<Vec<u8>, String> {
    let mut reasons = Vec::new();
    for address in addresses(issuer) {
        match server.fetch(&address, REQUEST_TIMEOUT).await {
            Ok((200, body)) => match fits(profiles, &body) {
                Ok(()) => return Ok(body),
                Err(why) => reasons.push(format!("{address}: {why}")),
            },
            Ok((status, _)) => reasons.push(format!("{address} answers {status} without it")),
            Err(why) => return Err(why),
        }
    }
    Err(reasons.join(", "))
}
