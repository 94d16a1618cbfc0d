//! Parses responses to introspection (RFC 7662) and revocation (RFC 7009).
//!
//! Must not keep other members: a response may contain personal data.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use refreshd_secrets::mask::mask;
use refreshd_time::Timestamp;

/// Used members of an introspection response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introspection {
    /// True if the token is valid.
    pub active: bool,
    /// Expiry (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Granted scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Client that the token was issued to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Subject of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
}

/// Parses a response. `secrets` are masked in error texts.
///
/// # Errors
/// A sentence, without any part of the response but its masked error code.
pub fn read(status: u16, body: &[u8], secrets: &[&str]) -> Result<Introspection, String> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(body) else {
        return Err(format!(
            "the server answered with status {status} and no JSON"
        ));
    };
    let Some(active) = body.get("active").and_then(Value::as_bool) else {
        return Err(format!(
            "the server answered with status {status}{}",
            why(&body, secrets)
        ));
    };
    let text = |key: &str| {
        body.get(key)
            .and_then(Value::as_str)
            .map(|text| mask(text, secrets))
    };
    let expires_at = body
        .get("exp")
        .and_then(Value::as_i64)
        .map(|secs| Timestamp::from_secs(secs).to_string());
    Ok(Introspection {
        active,
        expires_at,
        scope: text("scope"),
        client_id: text("client_id"),
        sub: text("sub"),
    })
}

/// Parses a revocation response. A server also accepts unknown tokens (RFC 7009 section 2.2). `secrets` are masked in
/// error texts.
///
/// # Errors
/// A sentence.
pub fn revoked(status: u16, body: &[u8], secrets: &[&str]) -> Result<(), String> {
    match status {
        200..=299 => Ok(()),
        status => {
            let object = serde_json::from_slice::<Value>(body).ok();
            let words = object
                .as_ref()
                .and_then(Value::as_object)
                .map(|body| why(body, secrets))
                .unwrap_or_default();
            Err(format!("the server answered with status {status}{words}"))
        }
    }
}

fn why(body: &serde_json::Map<String, Value>, secrets: &[&str]) -> String {
    let code = body
        .get("error")
        .and_then(Value::as_str)
        .map(|code| mask(code, secrets));
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_anything_else_is_said() {
        let body =
            br#"{"active":true,"exp":1795000000,"scope":"a b","client_id":"c","sub":"u","username":"Ann"}"#;
        let answer = read(200, body, &[]).unwrap();
        assert!(
            answer.active && answer.expires_at.as_deref() == Some("2026-11-18T11:06:40Z"),
            "{answer:?}"
        );
        assert!(!serde_json::to_string(&answer).unwrap().contains("Ann"));
        assert!(!read(200, br#"{"active":false}"#, &[]).unwrap().active);
        assert_eq!(
            read(401, br#"{"error":"invalid_client"}"#, &[]).unwrap_err(),
            "the server answered with status 401 (invalid_client)"
        );
        assert_eq!(
            read(404, b"<html>", &[]).unwrap_err(),
            "the server answered with status 404 and no JSON"
        );
        assert_eq!(
            (revoked(200, b"", &[]), revoked(204, b"", &[])),
            (Ok(()), Ok(()))
        );
        assert_eq!(
            revoked(400, br#"{"error":"unsupported_token_type"}"#, &[]).unwrap_err(),
            "the server answered with status 400 (unsupported_token_type)"
        );
        let echoed = br#"{"active":true,"sub":"acc%45ssToken01","scope":"a\u202eb"}"#;
        let answer = read(200, echoed, &["accEssToken01"]).unwrap();
        assert_eq!(
            (answer.sub.as_deref(), answer.scope.as_deref()),
            (Some("…"), Some("ab"))
        );
    }
}
