//! First grants that need nobody: of clients whose own credentials suffice, and from `refresh_token_file` of portals
//! without a grant, or whose grant is dead. Must not use a token twice: one that
//! came in before, for this or another portal, is never taken again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::operations::{Source, TakeInAs, take_in};
use super::publisher::chain;
use super::shared::Shared;
use crate::domain::dialect::Start;
use crate::domain::intake::{self, Intake};
use crate::domain::name::PortalName;
use crate::domain::token::{Credential, Details, Tokens, Validity};

/// Gives a grant to every portal that needs nobody for it, and looks at those that wait for their file. Problems are
/// logged, not returned: the others go on.
pub async fn read_files(shared: &Shared) {
    trust_clients(shared).await;
    let waiting = match shared.state.awaiting_files().await {
        Ok(waiting) => waiting,
        Err(error) => {
            return tracing::error!(error = %chain(&error), "cannot look for portals without a grant");
        }
    };
    for portal in waiting {
        let Some(file) = portal.settings.and_then(|settings| settings.refresh_token_file) else { continue };
        let why = read_file(shared, &portal.name, &file).await.err();
        if shared.file_problems.is_new(&portal.name, why.as_deref())
            && let Some(why) = why
        {
            let name = &portal.name;
            tracing::warn!(portal = %name, file = %file.display(), "{name}: refresh_token_file is not used: {why}");
        }
    }
}

/// Where the client's own credentials suffice, a portal has its grant by being in the configuration.
async fn trust_clients(shared: &Shared) {
    let config = shared.config();
    let apps: Vec<_> = (config.apps.values())
        .filter(|app| app.profile.start == Start::ClientCredentials && !app.profile.token_url.is_empty())
        .map(|app| app.name.clone())
        .collect();
    if apps.is_empty() {
        return;
    }
    let waiting = match shared.state.awaiting_clients(apps).await {
        Ok(waiting) => waiting,
        Err(error) => {
            return tracing::error!(error = %chain(&error), "cannot look for portals without a grant");
        }
    };
    for portal in waiting {
        let tokens = Tokens {
            access: None,
            credential: Credential::Client,
            details: Details::default(),
            validity: Validity::default(),
        };
        let intake = Intake { tokens, identity: None, server: None, client_id: None };
        let take = TakeInAs { intake, source: Source::Client };
        let name = &portal.name;
        if let Err(error) = take_in(shared, name, take).await {
            tracing::warn!(portal = %name, error = %chain(&error), "{name}: cannot be renewed by its client's credentials");
        }
    }
}

async fn read_file(shared: &Shared, portal: &PortalName, file: &Path) -> Result<(), String> {
    let Some(text) = read_private(file)? else { return Ok(()) };
    let config = shared.config();
    let stored = shared.state.portal(portal.clone()).await.map_err(|error| chain(&error))?;
    let app = stored.and_then(|portal| portal.settings).and_then(|settings| config.apps.get(&settings.app));
    let Some(app) = app else { return Ok(()) };
    let intake = intake::parse(&text, &app.profile, shared.clock.now()).map_err(|error| error.to_string())?;
    let Some(token) = intake.tokens.credential.refresh() else { return Ok(()) };
    match shared.state.seen(token.fingerprint()).await.map_err(|error| chain(&error))? {
        Some(holder) if holder == portal.as_str() => Ok(()),
        _ => {
            let take = TakeInAs { intake, source: Source::File };
            take_in(shared, portal, take).await.map(|_| ()).map_err(|error| error.to_string())
        }
    }
}

/// Reads a small file that others must not be able to read; `None` if there is none, or nothing in it.
fn read_private(file: &Path) -> Result<Option<String>, String> {
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) if metadata.len() == 0 => return Ok(None),
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(format!("others may read it; chmod o-rwx {}", file.display()));
    }
    if metadata.len() > intake::LONGEST as u64 {
        return Err(intake::IntakeError::TooLong.to_string());
    }
    std::fs::read_to_string(file).map(Some).map_err(|error| error.to_string())
}
