//! The file store that other processes read, and the one door to writing files whole.
//!
//! A file is written beside its name, flushed and renamed over it, so no reader ever meets half of one. Must not hold
//! a refresh token or a client secret, and must not be world-readable.

use std::fs::{DirBuilder, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::owner::{give, give_file};
use crate::domain::name::PortalName;
use crate::domain::token::{Access, Details, Generation};

/// Owner writes, the consumers' group reads.
const FILE_MODE: u32 = 0o640;
/// The directory of a portal, unless tmpfiles.d made it before with a consumer's group.
const PORTAL_MODE: u32 = 0o750;
/// The directory of all portals: passable, not listable.
const TOP_MODE: u32 = 0o751;

/// How temporary files begin: those that become token files, and those that try a directory.
const TEMPORARY: [&str; 2] = [".refreshd-", ".probe-"];

/// One form of a token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `token.json`.
    Json,
    /// `token`: the access token alone.
    Raw,
    /// `header`: `Authorization: Bearer …`, for `curl -H @header`.
    Header,
    /// `env`: for `EnvironmentFile=` and shells.
    Env,
}

impl Format {
    /// Every form.
    pub const ALL: [Self; 4] = [Self::Json, Self::Raw, Self::Header, Self::Env];

    /// As the configuration and `refreshd token --format` name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Raw => "raw",
            Self::Header => "header",
            Self::Env => "env",
        }
    }

    /// The form of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
    }

    /// Its file's name.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Json => "token.json",
            Self::Raw => "token",
            Self::Header => "header",
            Self::Env => "env",
        }
    }
}

/// What the token files of a portal say.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// Whose.
    pub portal: &'a PortalName,
    /// At which provider.
    pub provider: &'a str,
    /// The token.
    pub access: &'a Access,
    /// Which one.
    pub generation: Generation,
    /// What came with it.
    pub details: &'a Details,
}

/// `token.json`, version 1. Fields are only ever added.
#[derive(Serialize)]
struct TokenJson<'a> {
    version: u8,
    portal: &'a str,
    provider: &'a str,
    token_type: &'a str,
    access_token: &'a str,
    issued_at: String,
    expires_at: String,
    expires_at_unix: i64,
    generation: u64,
    scope: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    fields: &'a std::collections::BTreeMap<String, serde_json::Value>,
}

impl Published<'_> {
    /// The contents of one form.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        let Self { portal, provider, access, generation, details } = *self;
        let token = access.token.expose();
        match format {
            Format::Raw => token.to_owned(),
            Format::Header => {
                format!("Authorization: {} {}\n", one_line(&access.token_type), one_line(token))
            }
            Format::Json => {
                let json = serde_json::to_string(&TokenJson {
                    version: 1,
                    portal: portal.as_str(),
                    provider,
                    token_type: &access.token_type,
                    access_token: token,
                    issued_at: access.issued_at.to_string(),
                    expires_at: access.expires_at.to_string(),
                    expires_at_unix: access.expires_at.secs(),
                    generation: generation.0,
                    scope: &details.scope,
                    endpoint: details.endpoint.as_deref(),
                    fields: &details.fields,
                });
                json.unwrap_or_default() + "\n"
            }
            Format::Env => {
                let line = |name: &str, value: &str| format!("REFRESHD_{name}={}\n", quoted(value));
                [
                    line("PORTAL", portal.as_str()),
                    line("ACCESS_TOKEN", token),
                    line("TOKEN_TYPE", &access.token_type),
                    line("EXPIRES_AT", &access.expires_at.to_string()),
                    line("ENDPOINT", details.endpoint.as_deref().unwrap_or_default()),
                ]
                .concat()
            }
        }
    }
}

/// A field of a header ends with its line, whatever the server put into it.
fn one_line(value: &str) -> String {
    value.replace(char::is_control, "")
}

/// In single quotes, which shells and systemd's `EnvironmentFile=` read alike. A quote itself stands in double ones:
/// a backslash outside of quotes would make the rest of the value plain for systemd, and its quotes part of it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r#"'"'"'"#).replace(['\n', '\r', '\0'], ""))
}

/// Why a file could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {stage} {}", path.display())]
pub struct FileError {
    stage: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl FileError {
    pub(crate) fn at<'p>(
        stage: &'static str,
        path: &'p Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<'p> {
        move |source| Self { stage, path: path.to_owned(), source }
    }
}

/// The directory of all token files.
#[derive(Clone, Debug)]
pub struct TokenFiles {
    directory: PathBuf,
}

impl TokenFiles {
    /// The store in this directory, which is made when first needed.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Where a portal's files lie.
    #[must_use]
    pub fn of(&self, portal: &PortalName) -> PathBuf {
        self.directory.join(portal.as_str())
    }

    /// Writes every form, whole: what a renewal does, whose token no file has yet.
    ///
    /// # Errors
    /// [`FileError`]; files that were there stay as they are, or are already new: each is whole.
    pub fn replace(&self, published: &Published<'_>, formats: &[Format]) -> Result<(), FileError> {
        let directory = self.of(published.portal);
        for format in formats {
            self.write(&directory, *format, &published.render(*format))?;
        }
        Ok(())
    }

    /// Makes the files be these, whole, and removes the forms not asked for. Those that say the same already are left
    /// alone: their readers hear of no change where there is none.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub fn publish(&self, published: &Published<'_>, formats: &[Format]) -> Result<(), FileError> {
        let directory = self.of(published.portal);
        for format in formats {
            let contents = published.render(*format);
            if !says(&directory.join(format.file_name()), &contents) {
                self.write(&directory, *format, &contents)?;
            }
        }
        for unwanted in Format::ALL.into_iter().filter(|format| !formats.contains(format)) {
            remove_file(&directory.join(unwanted.file_name()))?;
        }
        Ok(())
    }

    /// Removes a portal's token files, and its directory unless tmpfiles.d made it for a consumer's group.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove(&self, portal: &PortalName) -> Result<(), FileError> {
        let directory = self.of(portal);
        for format in Format::ALL {
            remove_file(&directory.join(format.file_name()))?;
        }
        let setgid =
            std::fs::metadata(&directory).is_ok_and(|found| found.permissions().mode() & 0o2000 != 0);
        if !setgid {
            // What is not ours in there keeps it, and that is right.
            let _ = std::fs::remove_dir(&directory);
        }
        Ok(())
    }

    /// Sees that the directory of all portals is there and can be written to.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn prepare(&self) -> Result<(), FileError> {
        make_directory(&self.directory, TOP_MODE, true)?;
        self.sweep();
        let probe = tempfile::Builder::new().prefix(TEMPORARY[1]).tempfile_in(&self.directory);
        probe.map(|_| ()).map_err(FileError::at("write to the token directory", &self.directory))
    }

    /// Removes temporary files that a killed process left behind: they hold access tokens.
    fn sweep(&self) {
        let list = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
        let portals = list(&self.directory)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path());
        for directory in portals.chain([self.directory.clone()]) {
            for entry in list(&directory) {
                let name = entry.file_name();
                let temporary = TEMPORARY.iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
                if temporary && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    // What cannot be removed is tried again at the next start.
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Which directory it is (device and inode), if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<(u64, u64)> {
        let found = std::fs::metadata(&self.directory).ok().filter(std::fs::Metadata::is_dir)?;
        Some((found.dev(), found.ino()))
    }

    fn make_directories(&self, portal: &Path) -> Result<(), FileError> {
        make_directory(&self.directory, TOP_MODE, true)?;
        make_directory(portal, PORTAL_MODE, false)
    }

    fn write(&self, directory: &Path, format: Format, contents: &str) -> Result<(), FileError> {
        let path = directory.join(format.file_name());
        let write = || write_whole(directory, &path, contents.as_bytes(), FILE_MODE);
        match write() {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                self.make_directories(directory)?;
                write()
            }
            done => done,
        }
    }
}

/// Writes a file whole: beside its name, flushed, with its final mode, then renamed. Readers see the old or the new.
///
/// # Errors
/// [`FileError`]; the old file is intact then, and nothing is left beside it.
pub fn write_whole(directory: &Path, path: &Path, contents: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY[0])
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(FileError::at("create a file in", directory))?;
    give_file(file.as_file(), path);
    let written = file
        .write_all(contents)
        .and_then(|()| file.as_file().set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.as_file().sync_all());
    written.map_err(FileError::at("write", path))?;
    file.persist(path).map(|_| ()).map_err(|error| FileError::at("replace", path)(error.error))
}

fn says(path: &Path, contents: &str) -> bool {
    let wanted = Permissions::from_mode(FILE_MODE);
    std::fs::metadata(path).is_ok_and(|found| {
        found.len() == contents.len() as u64 && found.permissions().mode() & 0o7777 == wanted.mode()
    }) && std::fs::read(path).is_ok_and(|found| found == contents.as_bytes())
}

fn remove_file(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::at("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes a directory with exactly this mode, whatever the umask; one that is there is left as it is.
fn make_directory(path: &Path, mode: u32, with_parents: bool) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| with_parents && !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_parents(parent).map_err(FileError::at("create the directory", parent))?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(FileError::at("create the directory", path))?,
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(FileError::at("set the mode of", path))?;
    give(path);
    Ok(())
}

/// Makes a directory that everybody may pass, and those above it.
fn make_parents(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_parents(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(|()| give(path)),
    }
}

#[cfg(test)]
#[path = "token_files_tests.rs"]
mod tests;
