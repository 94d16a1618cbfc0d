//! Reads `refresh_token_file` of portals without a grant, or whose grant is dead. Must not use a token twice: one that
//! came in before, for this or another portal, is never taken again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::operations::{Source, TakeInAs, take_in};
use super::publisher::chain;
use super::shared::Shared;
use crate::domain::intake;
use crate::domain::name::PortalName;

/// Looks at every portal that waits for its file. Problems are logged, not returned: the others go on.
pub async fn read_files(shared: &Shared) {
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
