//! Asks issuers for their metadata (RFC 8414), and completes the apps' profiles by it: before a configuration counts.
//!
//! Must not keep the daemon from starting: what was had last is good for a start without the issuer, and portals whose
//! issuer was never reached wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::adapters::state::State;
use crate::config::Config;
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use refreshd_time::clock::{Clock, Tick};
use refreshd_token_client::authorization_server::AuthorizationServer;
use refreshd_token_client::metadata::{addresses, complete};
use refreshd_token_client::provider::Profile;

/// Metadata this old is asked for again at the next start or reload.
const STALE_AFTER: Duration = Duration::from_secs(86_400);
/// An issuer that was not reached is asked again after this time.
const AGAIN: Duration = Duration::from_secs(60);
/// How long an issuer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks again now and then, while something is not known; `asked` is when it was asked last.
pub(crate) async fn tend(shared: &Context, asked: &mut Tick) {
    if shared.has_undiscovered() && shared.clock.elapsed(*asked) >= AGAIN {
        again(shared).await;
        *asked = shared.clock.tick();
    }
}

/// Completes every app whose profile names an issuer; the issuers whose metadata is not known, each with why.
pub(crate) async fn discover(
    config: &mut Config,
    state: &State,
    server: &AuthorizationServer,
    clock: Clock,
) -> BTreeMap<String, String> {
    let mut asked = JoinSet::new();
    for (issuer, profiles) in issuers(config) {
        let (state, server) = (state.clone(), server.clone());
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

/// Completes every app by what is kept of its issuer, without asking anybody: for whoever only looks.
pub(crate) async fn recall(config: &mut Config, state: &State) {
    for issuer in issuers(config).into_keys() {
        if let Ok(Some((body, _))) = state.metadata(issuer.clone()).await {
            // What does not fit leaves the profile as it is, as if nothing were kept.
            let _ = put(config, &issuer, &body);
        }
    }
}

/// Asks every issuer and completes the apps by what it says, without a state: the issuers, each with why not.
pub async fn ask_issuers(
    config: &mut Config,
    server: &AuthorizationServer,
) -> BTreeMap<String, Result<(), String>> {
    let mut asked = BTreeMap::new();
    for (issuer, profiles) in issuers(config) {
        let said = ask(&issuer, &profiles, server)
            .await
            .and_then(|body| put(config, &issuer, &body));
        asked.insert(issuer, said);
    }
    asked
}

fn issuers(config: &Config) -> BTreeMap<String, Vec<Arc<Profile>>> {
    let mut issuers: BTreeMap<String, Vec<Arc<Profile>>> = BTreeMap::new();
    for app in config.apps.values() {
        if let Some(issuer) = &app.profile.issuer {
            issuers
                .entry(issuer.clone())
                .or_default()
                .push(Arc::clone(&app.profile));
        }
    }
    issuers
}

/// Asks again for what is not known yet, and puts it in force beside the rest of the configuration.
async fn again(shared: &Context) {
    let before = shared.config();
    let mut config = Config::clone(&before);
    let unknown = discover(&mut config, &shared.state, &shared.server, shared.clock).await;
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
    // A configuration that was put in force meanwhile has asked by itself.
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

/// Whether a description is one, and completes all of these profiles.
fn fits(profiles: &[Arc<Profile>], body: &[u8]) -> Result<(), String> {
    let complete = |profile: &Arc<Profile>| complete(&mut Profile::clone(profile), body);
    profiles
        .iter()
        .try_for_each(complete)
        .map_err(|error| error.to_string())
}

/// An issuer's description: the one that is kept if it is young, the issuer's own, or else the one that is kept. Only one
/// that fits is kept or believed: an issuer may say anything while it is ill, and must be asked again then.
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
                    "{issuer} does not say its metadata ({why}); that of {at} stays in force"
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
        match server.fetch(&address, LIMIT).await {
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
