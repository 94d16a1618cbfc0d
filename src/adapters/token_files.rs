//! Token files for other processes, and the function that writes files atomically.
//!
//! A file is written under a temporary name, flushed and renamed, so no reader ever sees a partial one. Must not contain a
//! refresh token or a client secret, and must not be world-readable.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde::Serialize;
use strum::VariantArray as _;

use super::directory::{Directory, Make, TEMPORARY, Trust, UntrustedDirectory};
use crate::domain::name::PortalName;
use crate::domain::token_format::TokenFormat;
use refreshd_token_client::token::{Access, Details, Generation};

/// Writable for the owner, readable for the consumers' group.
const FILE_MODE: u32 = 0o640;
/// Directory of a portal, unless tmpfiles.d created it with a consumer's group.
const PORTAL_MODE: u32 = 0o750;
/// Directory of all portals: searchable, not listable.
const TOP_MODE: u32 = 0o751;

/// Its parent directories.
const ABOVE_MODE: u32 = 0o755;
/// Prefixes of temporary files: those of token files, and the probes of an older version.
const LEFTOVERS: [&str; 2] = [TEMPORARY, ".probe-"];
/// Larger than any token file.
const MAX_READ_BYTES: u64 = 64 * 1024;

/// Content of a portal's token files.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// Name of the portal.
    pub portal: &'a PortalName,
    /// Name of the provider.
    pub provider: &'a str,
    /// The access token.
    pub access: &'a Access,
    /// Its generation.
    pub generation: Generation,
    /// Details that came with it.
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
    /// Content in one format.
    #[must_use]
    pub fn render(&self, format: TokenFormat) -> String {
        let Self {
            portal,
            provider,
            access,
            generation,
            details,
        } = *self;
        let token = access.token.expose();
        match format {
            TokenFormat::Raw => token.to_owned(),
            TokenFormat::Header => {
                format!(
                    "Authorization: {} {}\n",
                    one_line(&access.token_type),
                    one_line(token)
                )
            }
            TokenFormat::Json => {
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
            TokenFormat::Env => {
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

/// On one line, whatever the server sent: a line feed would end the header field.
fn one_line(value: &str) -> String {
    value.replace(char::is_control, "")
}

/// In single quotes, which shells and systemd's `EnvironmentFile=` parse alike. A quote itself is in double quotes: a backslash
/// outside of quotes would make the rest of the value plain for systemd, and its quotes part of it.
fn quoted(value: &str) -> String {
    format!(
        "'{}'",
        value
            .replace('\'', r#"'"'"'"#)
            .replace(['\n', '\r', '\0'], "")
    )
}

/// Why a file could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {stage} {}", path.display())]
pub struct FileError {
    stage: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    pub(crate) fn at<'p>(
        stage: &'static str,
        path: &'p Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'p> {
        move |source| Self {
            stage,
            path: path.to_owned(),
            source,
        }
    }
}

/// The directory of all token files.
#[derive(Clone, Debug)]
pub struct TokenFiles {
    directory: PathBuf,
    trust: Trust,
}

impl TokenFiles {
    /// The store in this directory, which is created on first use, and is used only if trusted.
    #[must_use]
    pub fn new(directory: &Path, trust: Trust) -> Self {
        Self {
            directory: directory.to_owned(),
            trust,
        }
    }

    /// Returns whether the directory may be used; if it is missing, whether it may be created.
    ///
    /// # Errors
    /// [`UntrustedDirectory`], with its owner's name.
    pub fn check(&self) -> Result<(), UntrustedDirectory> {
        match self.top() {
            Err(
                refused @ (UntrustedDirectory::Owner { .. } | UntrustedDirectory::Writable { .. }),
            ) => Err(refused),
            // Other errors are reported where they occur: renewals go on without token files.
            Ok(_) | Err(UntrustedDirectory::Io { .. }) => Ok(()),
        }
    }

    /// Writes every format atomically, for a renewal with a new token.
    ///
    /// # Errors
    /// [`FileError`]; each existing file is complete, old or new.
    pub fn replace(
        &self,
        published: &Published<'_>,
        formats: &[TokenFormat],
    ) -> Result<(), FileError> {
        let directory = self.made(published.portal)?;
        // A failure must not keep consumers of other formats from the token.
        let written = formats
            .iter()
            .map(|format| self.write(&directory, published, *format, &published.render(*format)));
        written.fold(Ok(()), Result::and)
    }

    /// Makes the token files consist of exactly these formats. Files with the same content stay unchanged, so that watchers
    /// see no
    /// change.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub fn publish(
        &self,
        published: &Published<'_>,
        formats: &[TokenFormat],
    ) -> Result<(), FileError> {
        let directory = self.made(published.portal)?;
        let written = formats.iter().map(|format| {
            let contents = published.render(*format);
            if is_unchanged(&directory, *format, &contents) {
                Ok(())
            } else {
                self.write(&directory, published, *format, &contents)
            }
        });
        written.fold(Ok(()), Result::and)?;
        for unwanted in TokenFormat::VARIANTS
            .iter()
            .filter(|format| !formats.contains(format))
        {
            self.remove_form(&directory, published.portal, *unwanted)?;
        }
        Ok(())
    }

    /// Removes a portal's token files, and its directory unless tmpfiles.d created it for a consumer's group.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove(&self, portal: &PortalName) -> Result<(), FileError> {
        let of_portal = self.path_of(portal);
        let top = match self.top().map_err(UntrustedDirectory::into_io) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            top => top.map_err(FileError::at("use", &self.directory))?,
        };
        let directory = match top.below(portal.as_str()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found.map_err(FileError::at("use", &of_portal))?,
        };
        // A failure must not keep the others.
        let removed = TokenFormat::VARIANTS
            .iter()
            .map(|format| directory.remove(OsStr::new(format.file_name())))
            .fold(Ok(()), Result::and);
        removed.map_err(FileError::at("remove the token files in", &of_portal))?;
        let is_setgid = directory.mode() & 0o2000 != 0;
        if !is_setgid {
            // Files of others stay, and keep the directory.
            let _ = top.remove_directory(portal.as_str());
        }
        Ok(())
    }

    /// Content of one token file; `None` if it is missing, or not written by this program.
    ///
    /// # Errors
    /// The operating system's: a file may exist, and this process may not read it.
    pub(super) fn read_form(
        &self,
        portal: &PortalName,
        format: TokenFormat,
    ) -> io::Result<Option<Vec<u8>>> {
        let name = OsStr::new(format.file_name());
        let read = || {
            let top = self.top().map_err(UntrustedDirectory::into_io)?;
            let directory = top.below(portal.as_str())?;
            let has_contents = directory.has_contents(name)?;
            has_contents
                .then(|| directory.read(name, MAX_READ_BYTES))
                .transpose()
        };
        // A file that this program rejects was not its own, nor is an entry that is no directory.
        let is_nothing = |error: &io::Error| {
            error.raw_os_error().is_none()
                || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        };
        match read() {
            Err(error) if is_nothing(&error) => Ok(None),
            read => read,
        }
    }

    /// Checks that the directory of all portals exists and can be written to.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn prepare(&self) -> Result<(), FileError> {
        let top = self.made_top()?;
        sweep(&top);
        top.try_writing().map_err(FileError::at(
            "write to the token directory",
            &self.directory,
        ))
    }

    /// Portals that have a directory.
    pub(super) fn portals(&self) -> Vec<PortalName> {
        let entries = self.top().map(|top| top.names()).unwrap_or_default();
        entries
            .iter()
            .filter(|(_, kind)| *kind == FileType::Directory)
            .filter_map(|(name, _)| PortalName::parse(name.to_str()?).ok())
            .collect()
    }

    /// Portals whose directory belongs to a user who is not trusted, as an administrator may have given it to a consumer; each with
    /// a description for the operator. The directory is used.
    #[must_use]
    pub fn foreign(&self) -> Vec<(PortalName, String)> {
        let Ok(top) = self.top() else {
            return Vec::new();
        };
        let foreign = |portal: PortalName| {
            let owner = top
                .below(portal.as_str())
                .ok()?
                .foreign_owner(&self.trust)?;
            let text = format!(
                "{} belongs to {owner}, who can read the portal's tokens and replace its files: unless that is meant, give it to \
                 refreshd's user (chown); a group is enough for readers",
                self.path_of(&portal).display()
            );
            Some((portal, text))
        };
        self.portals().into_iter().filter_map(foreign).collect()
    }

    /// Device and inode of the directory, if it exists.
    #[must_use]
    pub fn identity(&self) -> Option<(u64, u64)> {
        self.top().ok().map(|top| top.identity())
    }

    /// Path of a portal's files, or of all, for messages.
    #[must_use]
    pub fn path(&self, portal: Option<&PortalName>) -> PathBuf {
        portal.map_or_else(|| self.directory.clone(), |portal| self.path_of(portal))
    }

    /// Path of a portal's files, for messages.
    fn path_of(&self, portal: &PortalName) -> PathBuf {
        self.directory.join(portal.as_str())
    }

    fn top(&self) -> Result<Directory, UntrustedDirectory> {
        Directory::open_trusted(&self.directory, &self.trust, None)
    }

    fn made_top(&self) -> Result<Directory, FileError> {
        let make = Make {
            mode: TOP_MODE,
            above: ABOVE_MODE,
        };
        let top = Directory::open_trusted(&self.directory, &self.trust, Some(make));
        top.map_err(|refused| {
            FileError::at("use the token directory", &self.directory)(refused.into_io())
        })
    }

    /// A portal's directory, created if missing.
    fn made(&self, portal: &PortalName) -> Result<Directory, FileError> {
        let of_portal = self.path_of(portal);
        let top = self.made_top()?;
        let found = match top.below(portal.as_str()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = top.make(OsStr::new(portal.as_str()), PORTAL_MODE, true);
                made.map_err(FileError::at("create the directory", &of_portal))?;
                top.below(portal.as_str())
            }
            found => found,
        };
        found.map_err(FileError::at("use the directory", &of_portal))
    }

    fn write(
        &self,
        directory: &Directory,
        published: &Published<'_>,
        format: TokenFormat,
        contents: &str,
    ) -> Result<(), FileError> {
        let written = directory.write_whole(
            OsStr::new(format.file_name()),
            contents.as_bytes(),
            FILE_MODE,
        );
        written.map_err(|(stage, error)| {
            FileError::at(
                stage,
                &self.path_of(published.portal).join(format.file_name()),
            )(error)
        })
    }

    fn remove_form(
        &self,
        directory: &Directory,
        portal: &PortalName,
        format: TokenFormat,
    ) -> Result<(), FileError> {
        let removed = directory.remove(OsStr::new(format.file_name()));
        removed.map_err(FileError::at(
            "remove",
            &self.path_of(portal).join(format.file_name()),
        ))
    }
}

/// Removes temporary files of a killed process: they contain access tokens.
fn sweep(top: &Directory) {
    for (name, kind) in top.names() {
        let portal = match kind {
            FileType::Directory => name.to_str().and_then(|name| top.below(name).ok()),
            _ => {
                sweep_one(top, &name, kind);
                None
            }
        };
        let Some(portal) = portal else { continue };
        portal
            .names()
            .iter()
            .for_each(|(name, kind)| sweep_one(&portal, name, *kind));
    }
}

fn sweep_one(directory: &Directory, name: &OsStr, kind: FileType) {
    let is_leftover = LEFTOVERS
        .iter()
        .any(|prefix| name.to_string_lossy().starts_with(prefix));
    if is_leftover && kind == FileType::RegularFile {
        // A failed removal is retried at the next start.
        let _ = directory.remove(name);
    }
}

/// Writes a file atomically: temporary file, final mode, fsync, rename. Readers see the old or the new content.
///
/// # Errors
/// [`FileError`]; the old file is intact then, and the temporary one removed.
pub fn write_whole(
    directory: &Path,
    path: &Path,
    contents: &[u8],
    mode: u32,
) -> Result<(), FileError> {
    let opened =
        Directory::open(directory).map_err(FileError::at("open the directory", directory))?;
    let Some(name) = path.file_name() else {
        return Err(FileError::at("write", path)(io::Error::from(
            ErrorKind::InvalidFilename,
        )));
    };
    opened
        .write_whole(name, contents, mode)
        .map_err(|(stage, error)| FileError::at(stage, path)(error))
}

fn is_unchanged(directory: &Directory, format: TokenFormat, contents: &str) -> bool {
    let is_same = |found: &std::fs::Metadata| {
        found.len() == contents.len() as u64 && found.permissions().mode() & 0o7777 == FILE_MODE
    };
    let name = format.file_name();
    directory
        .read_only(name)
        .and_then(|file| file.metadata())
        .is_ok_and(|found| is_same(&found))
        && directory
            .read(name, contents.len() as u64)
            .is_ok_and(|found| found == contents.as_bytes())
}

#[cfg(test)]
#[path = "token_files_tests.rs"]
mod tests;
