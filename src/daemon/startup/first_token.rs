//! The file of a portal's first refresh token. Must not send what is in it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::App;
use crate::domain::import;
use refreshd_secrets::{Fingerprint, RefreshToken};
use refreshd_time::Timestamp;

/// Which refresh token a file holds, if it can be read.
pub fn token_of(file: &Path, app: &App, now: Timestamp) -> Option<Fingerprint> {
    let text = read_private(file).ok()??;
    let intake = import::parse(&text, &app.profile, now).ok()?;
    intake
        .tokens
        .credential
        .refresh()
        .map(RefreshToken::fingerprint)
}

/// Reads a small file that others must not be able to read; `None` if there is none, or nothing in it.
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
