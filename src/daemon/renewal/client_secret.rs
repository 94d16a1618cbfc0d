//! Reads a client's secret again when the authorization server rejects the client: it may have been replaced meanwhile.
//!
//! Must not show a secret, nor change anything of the configuration but the secret of one app.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::config::{Config, ReloadedSecret};
use crate::daemon::configured::app_fingerprint;
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use refreshd_secrets::ClientSecret;

/// Checks whether the secrets of rejected clients were replaced: their portals are retried at once then.
pub async fn tend(shared: &Context) {
    let config = shared.config();
    // A state that cannot be read is reported elsewhere.
    for app in shared
        .state
        .refused_apps()
        .await
        .unwrap_or_default()
        .into_keys()
    {
        if let Some(known) = config.apps.get(&app) {
            drop(newer(shared, &app, known.client_secret.as_ref()).await);
        }
    }
}

/// The configuration in force, if its secret of `app` differs from `sent`, or if the secret can be read again and differs.
pub async fn newer(
    shared: &Context,
    app: &str,
    sent: Option<&ClientSecret>,
) -> Option<Arc<Config>> {
    let config = shared.config();
    let known = config.apps.get(app)?;
    if !is_same(known.client_secret.as_ref(), sent) {
        return Some(config);
    }
    let source = known.secret_source.clone()?;
    // A file may lie on a disk that hangs.
    let mut reading = JoinSet::new();
    reading.spawn_blocking(move || source.read());
    let read = reading.join_next().await?.ok()?;
    let is_news = shared
        .secret_problems
        .is_new(app, read.as_ref().err().map(String::as_str));
    let ReloadedSecret {
        secret: read,
        damage,
    } = match read {
        Ok(read) => read,
        Err(why) => {
            if is_news {
                tracing::warn!(
                    app,
                    "app {app}: the server refuses the client, and its secret cannot be read again: {why}"
                );
            }
            return None;
        }
    };
    if is_same(Some(&read), sent) {
        return None;
    }
    let config = put_in_force(shared, app, &read)?;
    tracing::warn!(
        app,
        "app {app}: the server refuses the client; its secret was read again and is another one now, which is in force"
    );
    if let Some(damage) = damage {
        tracing::error!(
            app,
            "app {app}: the secret that was read again looks damaged, and the server will hardly take it: it {damage}"
        );
    }
    let fingerprint = config.apps.get(app).map(app_fingerprint)?;
    if let Err(error) = shared
        .state
        .client_changed(fingerprint, shared.clock.now())
        .await
    {
        tracing::error!(app, error = %error_chain(&error), "app {app}: its portals go on waiting; the state could not be written");
    }
    shared.due.notify_one();
    Some(config)
}

/// Puts the secret in force, also in a configuration that a concurrent reload has brought.
fn put_in_force(shared: &Context, app: &str, secret: &ClientSecret) -> Option<Arc<Config>> {
    loop {
        let before = shared.config();
        let mut config = Config::clone(&before);
        config.apps.get_mut(app)?.client_secret = Some(secret.clone());
        let config = Arc::new(config);
        if shared.replace_config(&before, Arc::clone(&config)) {
            return Some(config);
        }
    }
}

fn is_same(one: Option<&ClientSecret>, other: Option<&ClientSecret>) -> bool {
    one.map(ClientSecret::expose) == other.map(ClientSecret::expose)
}
