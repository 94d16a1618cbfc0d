//! Reader of `refresh_token_file`. Must not send its content.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::App;
use crate::domain::import;
use refreshd_secrets::{Fingerprint, RefreshToken};
use refreshd_time::Timestamp;

/// Fingerprint of the refresh token in a file, if it can be read.
pub fn token_of(file: &Path, app: &App, now: Timestamp) -> Option<Fingerprint> {
    let text = read_private(file).ok()??;
    let imported = import::parse(&text, &app.profile, now).ok()?;
    imported
        .tokens
        .credential
        .refresh()
        .map(RefreshToken::fingerprint)
}

/// Reads a small file that other users must not be able to read; `None` if it does not exist or is empty.
pub fn read_private(file: &Path) -> Result<Option<Vec<u8>>, String> {
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) if metadata.len() == 0 => return Ok(None),
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(format!(
            "others may read it; chmod o-rwx {}",
            file.display()
        ));
    }
    if metadata.len() > import::MAX_LENGTH as u64 {
        return Err(import::ImportError::TooLong.to_string());
    }
    std::fs::read(file)
        .map(Some)
        .map_err(|error| error.to_string())
}
