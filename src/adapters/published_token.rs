//! Reads back what was published: the trace that readers' files are of a state that went back since.
//!
//! Readers may be able to write where the files lie, so the file is read with care. Must not complain: a file that is not
//! there, or not refreshd's own, says nothing.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::Value;

use super::token_files::TokenFiles;
use crate::domain::name::PortalName;
use crate::domain::rollback::PublishedGeneration;
use refreshd_secrets::AccessToken;
use refreshd_time::Timestamp;
use refreshd_token_client::token::{Access, Details, Generation};

/// What is read of `token.json`.
#[derive(Deserialize)]
struct TokenJson {
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

/// What a portal's `token.json` says; `None` if there is none, or none that is understood.
#[must_use]
pub fn published(files: &TokenFiles, portal: &PortalName) -> Option<PublishedGeneration> {
    let text = files.read_json(portal)?;
    let TokenJson {
        portal: of,
        token_type,
        access_token,
        issued_at,
        expires_at_unix,
        generation,
        scope,
        endpoint,
        fields,
    } = serde_json::from_slice(&text).ok()?;
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
