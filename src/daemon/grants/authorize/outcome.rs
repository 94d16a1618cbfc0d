//! Common parts of redirect and device authorizations: the endpoint of the token request, the meaning of its errors, and
//! storage of the grant.
//!
//! Must not store a grant of another portal than the requested one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::store::{GrantSource, StoreRequest, store_grant};
use crate::domain::error_chain::error_chain;
use crate::domain::import::ImportedGrant;
use crate::domain::portal::Portal;
use refreshd_time::human;
use refreshd_token_client::authorization_server::HttpResponse;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::{Class, at_domain, host_of};
use refreshd_token_client::reply::{ErrorContext, PresentedCredential};
use refreshd_token_client::request::TokenRequest;
use refreshd_token_client::token::Generation;

/// Delay before the state is read again, while the new pair is only in memory.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Instructions for the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begun {
    /// Name of the portal.
    pub portal: String,
    /// Identifier of this authorization.
    pub state: String,
    /// Seconds in which the authorization can be completed.
    pub expires_in: u64,
    /// URL to open in a browser: on this machine or, with `user_code`, on any.
    pub url: String,
    /// Redirect URI; absent if the provider has a registered one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
    /// Code to enter there: a device authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_code: Option<String>,
    /// Seconds between two polls of a device authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<u64>,
}

/// Token endpoint for the code: of the server that the redirect names, if it is one of the profile's own.
pub(crate) fn token_url(
    app: &App,
    portal: &Portal,
    parameters: &BTreeMap<String, String>,
) -> String {
    let profile = &app.profile;
    let domain = portal
        .settings
        .as_ref()
        .and_then(|settings| settings.domain.as_deref());
    let named = profile
        .request
        .redirect_server
        .as_ref()
        .and_then(|name| parameters.get(name));
    let own = |host: &str| {
        let host = host_of(host).unwrap_or(host);
        let urls = std::iter::once(&profile.token_url).chain(profile.token_url_by_region.values());
        urls.into_iter()
            .find(|url| host_of(url) == Some(host))
            .cloned()
    };
    let elsewhere = profile.refresh_url.is_some();
    named
        .and_then(|host| own(host))
        .or_else(|| portal.config_url.clone().filter(|_| !elsewhere))
        .unwrap_or_else(|| at_domain(&profile.token_url, domain))
}

/// Context of the response to a request with a code.
pub(crate) fn of_code<'a>(request: &'a TokenRequest, whole: &'a HttpResponse) -> ErrorContext<'a> {
    let location = whole.location.as_deref();
    ErrorContext {
        spent: PresentedCredential::Code,
        sent_to: &request.url,
        location,
        worked_before: false,
    }
}

/// Secrets to mask in texts of the server.
pub(crate) fn secrets<'a>(app: &'a App, more: &[&'a str]) -> Vec<&'a str> {
    more.iter()
        .copied()
        .chain(app.client_secret.as_ref().map(|secret| secret.expose()))
        .collect()
}

pub(crate) fn no_refresh_token() -> Problem {
    let detail = "the reply has no refresh_token, and without one there is nothing to renew with; many providers give one \
                  only for a scope (offline.access, offline_access) or a parameter (access_type=offline)";
    Problem::new(Class::Unknown, detail.to_owned())
}

/// Returns whether the failure is temporary, rather than a rejection.
pub(crate) const fn is_passing(problem: &Problem) -> bool {
    matches!(
        problem.class,
        Class::Transient | Class::InDoubt | Class::NotSent | Class::TooEarly
    )
}

/// Correction that is needed first, if another code would be refused, too.
pub(crate) fn correction(problem: &Problem) -> Option<&'static str> {
    let code = problem.code.as_deref().unwrap_or_default();
    // The sentence of ours about a refused code names the parameter too.
    let is_of_code = code == "invalid_grant";
    let texts = [
        Some(code),
        problem.server_text.as_deref(),
        Some(problem.detail.as_str()).filter(|_| !is_of_code),
    ];
    let names_redirect = texts
        .into_iter()
        .flatten()
        .any(|text| text.to_lowercase().contains("redirect_uri"));
    if problem.class == Class::ClientRejected || code == "invalid_client" {
        Some(
            "Another code is refused as well: correct client_id and client_secret of the app in the configuration first, then: \
             systemctl reload refreshd, and authorize again",
        )
    } else if names_redirect {
        Some(
            "Another code is refused as well: let redirect_uri in the configuration be what is registered with the provider, \
             letter for letter, then: systemctl reload refreshd, and authorize again",
        )
    } else {
        None
    }
}

pub(crate) fn refused(portal: &Portal, problem: &Problem) -> OperationError {
    if is_passing(problem) {
        let reason = format!(
            "{}. The code may be spent; authorize again",
            problem.text().trim_end_matches('.')
        );
        return OperationError::NotNow {
            portal: portal.name.clone(),
            reason,
        };
    }
    let next = correction(problem).unwrap_or(
        "A code works once, and for as little as 30 seconds; begin again and use it at once",
    );
    let reason = format!("{}. {next}", problem.text().trim_end_matches('.'));
    OperationError::CodeRefused {
        portal: portal.name.clone(),
        reason,
    }
}

pub(crate) async fn store(
    shared: &Context,
    portal: &Portal,
    imported: ImportedGrant,
) -> Result<Generation, OperationError> {
    let expires_in = imported
        .tokens
        .access
        .as_ref()
        .map(|access| human(access.lifetime()));
    let generation = loop {
        let request = StoreRequest {
            imported: imported.clone(),
            source: GrantSource::Authorization,
        };
        match store_grant(shared, &portal.name, request).await {
            // The state could not be read. The pair is stored nowhere else, so this is retried until it succeeds.
            Err(OperationError::State(error)) => {
                tracing::error!(portal = %portal.name, error = %error_chain(&error), "a new pair is held in memory");
                shared.clock.sleep(RETRY_AFTER).await;
            }
            taken => break taken?,
        }
    };
    let name = &portal.name;
    tracing::info!(portal = %name, generation = generation.0, expires_in, "{name}: authorized");
    Ok(generation)
}
