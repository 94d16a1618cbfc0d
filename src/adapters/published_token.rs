//! Reads back the published token files: traces that reveal a rolled-back state.
//!
//! Consumers may be able to write to the directory, so the files are read with care. Must not report an error: a file that is
//! missing, has no token or is not refreshd's own is no trace. Without a file descriptor it is not known what a file is, and that is
//! an error.

use std::collections::BTreeMap;
use std::io;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::Value;
use strum::VariantArray as _;

use super::directory::is_shortage;
use super::token_files::TokenFiles;
use crate::domain::name::PortalName;
use crate::domain::rollback::PublishedGeneration;
use crate::domain::token_format::TokenFormat;
use refreshd_secrets::AccessToken;
use refreshd_time::Timestamp;
use refreshd_token_client::token::{Access, Details, Generation};

/// The relevant fields of `token.json`.
#[derive(Deserialize)]
struct PublishedJson {
    portal: String,
    token_type: String,
    access_token: String,
    issued_at: String,
    expires_at_unix: i64,
    generation: u64,
    scope: Vec<String>,
    endpoint: Option<String>,
    fields: BTreeMap<String, Value>,
}

/// The same if the generation does not matter.
#[derive(Deserialize)]
struct AnyTokenJson {
    access_token: String,
}

/// Traces of a portal in its token files.
#[derive(Debug)]
pub struct PublishedTraces {
    /// Content of `token.json`.
    pub published: Option<PublishedGeneration>,
    /// A token file of any format exists, or may exist and cannot be read by this process.
    pub has_token: bool,
}

/// Reads the traces.
///
/// # Errors
/// No file descriptor is left.
pub fn traces(files: &TokenFiles, portal: &PortalName) -> io::Result<PublishedTraces> {
    let mut has_token = false;
    for format in TokenFormat::VARIANTS {
        has_token |= match files.read_form(portal, *format) {
            Ok(text) => text.is_some_and(|text| holds_token(*format, &text)),
            Err(error) if is_shortage(&error) => return Err(error),
            Err(_) => true,
        };
    }
    Ok(PublishedTraces {
        published: published(files, portal)?,
        has_token,
    })
}

/// Portals with a token file that is a trace; an error if no file descriptor is left.
pub fn published_portals(files: &TokenFiles) -> impl Iterator<Item = io::Result<PortalName>> {
    let portals = files.portals().into_iter();
    portals.filter_map(|portal| match traces(files, &portal) {
        Ok(traces) => traces.has_token.then_some(Ok(portal)),
        Err(error) => Some(Err(error)),
    })
}

fn holds_token(format: TokenFormat, text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let json;
    let token = match format {
        TokenFormat::Raw => Some(text),
        TokenFormat::Header => text
            .strip_prefix("Authorization: ")
            .and_then(|rest| rest.split_once(' '))
            .map(|(_, token)| token),
        TokenFormat::Env => text
            .lines()
            .find_map(|line| line.strip_prefix("REFRESHD_ACCESS_TOKEN="))
            .map(|value| value.trim_matches('\'')),
        TokenFormat::Json => {
            json = serde_json::from_str::<AnyTokenJson>(text).ok();
            json.as_ref().map(|json| json.access_token.as_str())
        }
    };
    token
        .map(str::trim)
        .is_some_and(|token| !token.is_empty() && !token.contains(char::is_control))
}

/// A portal's `token.json`; `None` if it is missing or cannot be parsed.
///
/// # Errors
/// No file descriptor is left.
pub fn published(
    files: &TokenFiles,
    portal: &PortalName,
) -> io::Result<Option<PublishedGeneration>> {
    match files.read_form(portal, TokenFormat::Json) {
        Ok(text) => Ok(text.and_then(|text| parse(&text, portal))),
        Err(error) if is_shortage(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn parse(text: &[u8], portal: &PortalName) -> Option<PublishedGeneration> {
    let PublishedJson {
        portal: of,
        token_type,
        access_token,
        issued_at,
        expires_at_unix,
        generation,
        scope,
        endpoint,
        fields,
    } = serde_json::from_slice(text).ok()?;
    let issued_at = humantime::parse_rfc3339(&issued_at)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    let access = Access {
        token: AccessToken::new(&access_token)?,
        token_type,
        issued_at: Timestamp::default() + issued_at,
        expires_at: Timestamp::from_secs(expires_at_unix),
    };
    let published = PublishedGeneration {
        generation: Generation(generation),
        access,
        details: Details {
            scope,
            endpoint,
            fields,
        },
    };
    (of == portal.as_str()).then_some(published)
}
