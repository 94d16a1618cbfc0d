//! Compares the `nonce` claim of an ID token (OpenID Connect Core 1.0, section 3.1.3.7). No other claim is used.
//!
//! Must not trust any other claim: the signature is not checked. The token came from the token endpoint, over TLS, in
//! response to our own request, which is enough for this comparison.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// Scope of an OpenID Connect request.
const OPENID: &str = "openid";

/// Returns whether a request with this scope is an OpenID Connect request, which has a `nonce`.
#[must_use]
pub fn is_openid(scope: &[String]) -> bool {
    scope
        .iter()
        .any(|entry| entry.split([' ', ',', '+']).any(|word| word == OPENID))
}

/// Returns whether the `id_token` of a reply has another `nonce`. A missing claim or an unreadable ID token is
/// accepted: servers omit it in plain OAuth.
#[must_use]
pub fn is_of_another(reply: &Map<String, Value>, nonce: &str) -> bool {
    named(reply).is_some_and(|named| named != nonce)
}

fn named(reply: &Map<String, Value>) -> Option<String> {
    let token = reply.get("id_token")?.as_str()?;
    let payload = token.split('.').nth(1)?.trim_end_matches('=');
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get("nonce")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    fn reply(claims: &str) -> Map<String, Value> {
        let payload = URL_SAFE_NO_PAD.encode(claims);
        object(&format!(
            "{{\"access_token\":\"a\",\"id_token\":\"e30.{payload}.c2ln\"}}"
        ))
    }

    #[test]
    fn only_another_nonce_is_another_authorization() {
        assert!(!is_of_another(&reply(r#"{"sub":"1","nonce":"n1"}"#), "n1"));
        assert!(is_of_another(&reply(r#"{"sub":"1","nonce":"n2"}"#), "n1"));
        assert!(!is_of_another(&reply(r#"{"sub":"1"}"#), "n1"));
        for nothing in [
            "{}",
            "{\"id_token\":\"opaque\"}",
            "{\"id_token\":\"a.!.c\"}",
            "{\"id_token\":7}",
        ] {
            assert!(!is_of_another(&object(nothing), "n1"), "{nothing}");
        }
    }

    #[test]
    fn the_scope_says_whether_it_is_openid() {
        let scope = |text: &[&str]| text.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert!(is_openid(&scope(&["offline_access", "openid"])));
        assert!(is_openid(&scope(&["openid offline_access"])));
        assert!(!is_openid(&scope(&["api://openid/read", "openid2"])) && !is_openid(&[]));
    }
}
