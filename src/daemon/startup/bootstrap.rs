//! Obtains first grants without a person: of clients whose own credentials suffice, and from `refresh_token_file` of
//! portals without a grant, or whose grant is dead (then it is a candidate). Must not use a token twice: one that was
//! stored before, for this or another portal, is never stored again.

use std::path::Path;

use crate::adapters::generations::RecordedGenerations;
use crate::adapters::state::Offered;
use crate::config::Config;
use crate::daemon::context::Context;
use crate::daemon::grants::candidate_offer::store_candidate;
use crate::daemon::grants::import::{has_no_living_grant, known_secret};
use crate::daemon::grants::store::{GrantSource, StoreRequest, store_grant};
use crate::daemon::renewal::candidates::log_file_spent;
use crate::daemon::startup::first_token::read_private;
use crate::daemon::startup::rollback::{self, NewPortal};
use crate::domain::candidate::Origin;
use crate::domain::error_chain::error_chain;
use crate::domain::import::{self, ImportedGrant};
use crate::domain::name::PortalName;
use refreshd_token_client::quirks::GrantType;
use refreshd_token_client::token::{Credential, Details, Tokens, Validity};

/// Gives a grant to every portal that can obtain one without a person, and reads the files of those that await theirs.
/// Problems are logged, not returned: the other portals are processed.
pub async fn read_files(shared: &Context) {
    bootstrap_client_credentials(shared).await;
    let waiting = match shared.state.awaiting_files().await {
        Ok(waiting) => waiting,
        Err(error) => {
            return tracing::error!(error = %error_chain(&error), "cannot look for portals without a grant");
        }
    };
    let mut noted = None;
    for portal in waiting {
        let Some(file) = portal
            .settings
            .and_then(|settings| settings.refresh_token_file)
        else {
            continue;
        };
        let why = read_file(shared, &portal.name, &file, &mut noted)
            .await
            .err();
        if shared
            .file_problems
            .is_new(portal.name.as_str(), why.as_deref())
            && let Some(why) = why
        {
            let name = &portal.name;
            tracing::warn!(portal = %name, file = %file.display(), "{name}: refresh_token_file is not used: {why}");
        }
    }
}

/// Gives portals whose client's own credentials suffice their grant, as soon as they are configured.
async fn bootstrap_client_credentials(shared: &Context) {
    let config = shared.config();
    let apps: Vec<_> = (config.apps.values())
        .filter(|app| {
            app.profile.start == GrantType::ClientCredentials && !app.profile.token_url.is_empty()
        })
        .map(|app| app.name.clone())
        .collect();
    if apps.is_empty() {
        return;
    }
    let waiting = match shared.state.awaiting_clients(apps).await {
        Ok(waiting) => waiting,
        Err(error) => {
            return tracing::error!(error = %error_chain(&error), "cannot look for portals without a grant");
        }
    };
    for portal in waiting {
        let tokens = Tokens {
            access: None,
            credential: Credential::Client,
            details: Details::default(),
            validity: Validity::default(),
        };
        let imported = ImportedGrant {
            tokens,
            identity: None,
            server: None,
            client_id: None,
            host: None,
        };
        let request = StoreRequest {
            imported,
            source: GrantSource::Client,
        };
        let name = &portal.name;
        if let Err(error) = store_grant(shared, name, request).await {
            tracing::warn!(portal = %name, error = %error_chain(&error), "{name}: cannot be renewed by its client's credentials");
        }
    }
}

/// `noted` is the record of generations, read when it is first needed.
async fn read_file(
    shared: &Context,
    portal: &PortalName,
    file: &Path,
    noted: &mut Option<RecordedGenerations>,
) -> Result<(), String> {
    let Some(text) = read_private(file)? else {
        return Ok(());
    };
    let config = shared.config();
    let Some(stored) = shared
        .state
        .portal(portal.clone())
        .await
        .map_err(|error| error_chain(&error))?
    else {
        return Ok(());
    };
    let app = stored
        .settings
        .as_ref()
        .and_then(|settings| config.apps.get(&settings.app));
    // Since the query the grant may have been found lost, or renewed.
    let Some(app) = app.filter(|_| stored.lost.is_none()) else {
        return Ok(());
    };
    let imported = import::parse(&text, &app.profile, shared.clock.now())
        .map_err(|error| error.to_string())?;
    if let Some(what) = known_secret(&config, &stored, &imported) {
        return Err(what.to_owned());
    }
    let Some(token) = imported.tokens.credential.refresh() else {
        return Ok(());
    };
    let fingerprint = token.fingerprint();
    let seen = shared
        .state
        .holder_of_refresh_token(fingerprint)
        .await
        .map_err(|error| error_chain(&error))?;
    if seen.is_some_and(|holder| holder == portal.as_str()) {
        return Ok(());
    }
    if has_no_living_grant(&stored) {
        let noted = match noted {
            Some(noted) => noted,
            None => noted.insert(rollback::recorded(&config).map_err(|error| error_chain(&error))?),
        };
        let status = rollback::check_new_portal(shared, &config, &stored, noted)
            .await
            .map_err(|error| error_chain(&error))?;
        match status {
            NewPortal::New => {}
            NewPortal::Quarantined => {
                return rollback::report_lost(shared)
                    .await
                    .map_err(|error| error_chain(&error));
            }
            NewPortal::Uninspectable => {
                return Err(
                    "it is not known whether it had a grant before: its token files cannot be read"
                        .to_owned(),
                );
            }
        }
        let request = StoreRequest {
            imported,
            source: GrantSource::File,
        };
        store_grant(shared, portal, request)
            .await
            .map_err(|error| error.to_string())?;
        log_file_spent(portal, file);
        return Ok(());
    }
    if shared
        .state
        .was_refused(portal.clone(), fingerprint)
        .await
        .map_err(|error| error_chain(&error))?
    {
        return Err(format!(
            "the authorization server has refused the token in it, or it is another portal's; it is not sent again. Write a \
             newer one there, or: refreshd authorize {portal}"
        ));
    }
    let offered = store_candidate(shared, &stored, imported, Origin::File, false).await;
    match offered.map_err(|error| error.to_string())? {
        Offered::Stored => shared.candidates.notify_one(),
        Offered::Known | Offered::Same => {}
        // These are errors of `offer`.
        Offered::Busy
        | Offered::Waiting(_)
        | Offered::HeldBy(_)
        | Offered::Spent
        | Offered::Unknown => {}
    }
    Ok(())
}

/// Returns whether a configuration provides grants of its own, without a state.
#[must_use]
pub fn has_first_grants(config: &Config) -> bool {
    let has_file = config
        .portals
        .iter()
        .any(|portal| portal.settings.refresh_token_file.is_some());
    let mut apps = config.apps.values();
    has_file || apps.any(|app| app.profile.start == GrantType::ClientCredentials)
}
