//! A grant in the format of the authorization server's own response, for programs that parse one, such as those written for
//! `oint bitrix24 GetToken`.
//!
//! Must not contain the refresh token: its use elsewhere would end the grant that is kept here.

use serde_json::{Map, Value};

use refreshd_time::Timestamp;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::token::{Access, Details};

/// The response, with the remaining lifetime.
#[must_use]
pub fn token_reply(access: &Access, details: &Details, profile: &Profile, now: Timestamp) -> Value {
    let mut reply: Map<String, Value> = details
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let (Some(field), Some(endpoint)) = (&profile.endpoint_field, &details.endpoint) {
        reply.insert(field.clone(), endpoint.as_str().into());
    }
    for (name, value) in [
        ("access_token", Value::from(access.token.expose())),
        ("token_type", access.token_type.as_str().into()),
        ("expires_in", access.expires_at.until(now).as_secs().into()),
        ("expires", access.expires_at.secs().into()),
        ("scope", details.scope.join(&profile.scope_separator).into()),
    ] {
        reply.insert(name.to_owned(), value);
    }
    Value::Object(reply)
}
