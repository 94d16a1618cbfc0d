//! Applies authorization server metadata (RFC 8414, OpenID Connect Discovery 1.0) to a profile.
//!
//! Must not send secrets to a host that neither the issuer nor the configuration names.

use serde::Deserialize;

use url::Url;

use super::host::is_this_machine;
use super::host::same_host;
use super::provider::{ClientAuthentication, DOMAIN, Profile};

/// Used members of the metadata.
#[derive(Deserialize)]
struct MetadataDocument {
    issuer: String,
    token_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    introspection_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// Error in metadata. Contains no more of it than the host of an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Not JSON, or not metadata.
    #[error("what is there is no metadata of an authorization server")]
    NotMetadata,
    /// The issuer differs (RFC 8414 section 3.3).
    #[error("the metadata is of another issuer; `issuer` must be written as the server writes it")]
    OtherIssuer,
    /// An endpoint on another host.
    #[error(
        "the metadata names {endpoint} on {host}; if that is right, write allowed_hosts = [{host:?}] beside `issuer`"
    )]
    OtherHost {
        /// Name of the endpoint.
        endpoint: &'static str,
        /// Its host.
        host: String,
    },
    /// An endpoint without TLS.
    #[error("the metadata names {endpoint} without https")]
    NotSecure {
        /// Name of the endpoint.
        endpoint: &'static str,
    },
    /// An endpoint that is not a server's address.
    #[error("the metadata names {endpoint} with something else than the address of a server")]
    NotAnAddress {
        /// Name of the endpoint.
        endpoint: &'static str,
    },
    /// There is no token endpoint.
    #[error("the metadata names no token_endpoint")]
    NoTokenEndpoint,
}

/// Possible addresses of an issuer's metadata, the likelier one first: OpenID Connect Discovery section 4, RFC 8414
/// section 3.
#[must_use]
pub fn addresses(issuer: &str) -> [String; 2] {
    let issuer = issuer.trim_end_matches('/');
    let origin = super::provider::origin_of(issuer).unwrap_or(issuer);
    let path = &issuer[origin.len()..];
    [
        format!("{issuer}/.well-known/openid-configuration"),
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
    ]
}

/// Completes a profile with its issuer's metadata. Settings of the configuration take precedence.
///
/// # Errors
/// [`MetadataError`]; the profile is unchanged then.
pub fn complete(profile: &mut Profile, body: &[u8]) -> Result<(), MetadataError> {
    let Some(issuer) = profile.issuer.clone() else {
        return Ok(());
    };
    let document: MetadataDocument =
        serde_json::from_slice(body).map_err(|_| MetadataError::NotMetadata)?;
    if document.issuer != issuer {
        return Err(MetadataError::OtherIssuer);
    }
    let fit =
        |endpoint: &'static str, url: Option<String>| -> Result<Option<String>, MetadataError> {
            let Some(url) = url else { return Ok(None) };
            let url = address(&url).ok_or(MetadataError::NotAnAddress { endpoint })?;
            let host = authority(&url).ok_or(MetadataError::NotAnAddress { endpoint })?;
            let of_issuer = Url::parse(&issuer)
                .ok()
                .and_then(|issuer| authority(&issuer));
            let own = of_issuer.is_some_and(|own| own == host);
            let listed = own || profile.hosts.iter().any(|listed| same_host(listed, &host));
            // An issuer without https is on this machine, and its endpoints may be too.
            let here = own && issuer.starts_with("http://") && is_this_machine(&host);
            match (listed, url.scheme() == "https" || here) {
                (false, _) => Err(MetadataError::OtherHost { endpoint, host }),
                (true, false) => Err(MetadataError::NotSecure { endpoint }),
                (true, true) => Ok(Some(url.into())),
            }
        };
    let token = if profile.token_url.is_empty() {
        let found = fit("token_endpoint", document.token_endpoint)?;
        Some(found.ok_or(MetadataError::NoTokenEndpoint)?)
    } else {
        None
    };
    let mut others = Vec::new();
    for (name, known, found) in [
        (
            "authorization_endpoint",
            &profile.authorize_url,
            document.authorization_endpoint,
        ),
        (
            "device_authorization_endpoint",
            &profile.device_url,
            document.device_authorization_endpoint,
        ),
        (
            "revocation_endpoint",
            &profile.revoke_url,
            document.revocation_endpoint,
        ),
        (
            "introspection_endpoint",
            &profile.introspect_url,
            document.introspection_endpoint,
        ),
    ] {
        others.push(match known {
            Some(known) => Some(known.clone()),
            None => fit(name, found)?,
        });
    }
    let mut others = others.into_iter();
    profile.authorize_url = others.next().flatten();
    profile.device_url = others.next().flatten();
    profile.revoke_url = others.next().flatten();
    profile.introspect_url = others.next().flatten();
    if let Some(token) = token {
        profile.token_url = token;
    }
    profile.names_issuer_in_redirect = document.authorization_response_iss_parameter_supported;
    // Without the list the default is Basic (RFC 8414 section 2).
    let takes = |method: &str| {
        document
            .token_endpoint_auth_methods_supported
            .as_ref()
            .is_none_or(|methods| methods.iter().any(|known| known == method))
    };
    if profile.client_authentication == ClientAuthentication::Basic
        && !takes("client_secret_basic")
        && takes("client_secret_post")
    {
        profile.client_authentication = ClientAuthentication::Body;
    }
    Ok(())
}

/// Canonical form of an address: http or https, without user information, fragment and placeholder. White space and
/// control characters are rejected, although the parser would drop them.
fn address(text: &str) -> Option<Url> {
    if text.len() > MAX_URL
        || text.contains(|c: char| c.is_control() || c.is_whitespace())
        || text.contains(DOMAIN)
    {
        return None;
    }
    let mut url = Url::parse(text).ok()?;
    url.set_fragment(None);
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none();
    plain.then_some(url)
}

/// Maximum length of an address, in bytes.
const MAX_URL: usize = 2048;

/// Host, with its port unless that is the scheme's default.
fn authority(url: &Url) -> Option<String> {
    let host = url
        .host_str()
        .filter(|host| (1..=255).contains(&host.len()))?;
    Some(
        url.port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://sso.example.org/realms/staff";

    fn profile() -> Profile {
        Profile {
            issuer: Some(ISSUER.into()),
            hosts: vec!["api.example.org".into()],
            ..Profile::blank()
        }
    }

    fn metadata(more: &str) -> String {
        format!(r#"{{"issuer":"{ISSUER}","token_endpoint":"https://sso.example.org/token"{more}}}"#)
    }

    #[test]
    fn a_description_fills_in_what_the_configuration_leaves_open() {
        let mut profile = Profile {
            revoke_url: Some("https://own.example/revoke".into()),
            ..profile()
        };
        let more = r#","authorization_endpoint":"https://sso.example.org/auth","device_authorization_endpoint":"https://api.example.org/device",
            "revocation_endpoint":"https://sso.example.org/revoke","authorization_response_iss_parameter_supported":true,
            "token_endpoint_auth_methods_supported":["client_secret_post","none"]"#;
        complete(&mut profile, metadata(more).as_bytes()).unwrap();
        assert_eq!(profile.token_url, "https://sso.example.org/token");
        assert_eq!(
            profile.authorize_url.as_deref(),
            Some("https://sso.example.org/auth")
        );
        assert_eq!(
            profile.device_url.as_deref(),
            Some("https://api.example.org/device"),
            "a host that is named"
        );
        assert_eq!(
            profile.revoke_url.as_deref(),
            Some("https://own.example/revoke"),
            "explicit keys win"
        );
        assert_eq!(
            (profile.introspect_url, profile.names_issuer_in_redirect),
            (None, true)
        );
        assert_eq!(profile.client_authentication, ClientAuthentication::Body);
    }

    #[test]
    fn no_description_leads_elsewhere() {
        let refused = |body: &str| {
            let mut tried = profile();
            let error = complete(&mut tried, body.as_bytes()).unwrap_err();
            assert_eq!(tried, profile(), "half of it was taken: {body}");
            error
        };
        assert_eq!(refused("<html>"), MetadataError::NotMetadata);
        assert_eq!(
            refused(r#"{"issuer":"https://sso.example.org/realms/staff/"}"#),
            MetadataError::OtherIssuer
        );
        assert_eq!(
            refused(&format!(r#"{{"issuer":"{ISSUER}"}}"#)),
            MetadataError::NoTokenEndpoint
        );
        let (endpoint, host) = ("revocation_endpoint", "evil.example".to_owned());
        assert_eq!(
            refused(&metadata(
                r#","revocation_endpoint":"https://evil.example/revoke""#
            )),
            MetadataError::OtherHost { endpoint, host }
        );
        assert_eq!(
            refused(&metadata(
                r#","revocation_endpoint":"http://sso.example.org/revoke""#
            )),
            MetadataError::NotSecure { endpoint }
        );
        for odd in [
            "https://sso.example.org@evil.example/revoke",
            "https://evil\\n2026-11-28T00:00:00Z  INFO acme: renewed \\u001b[1A\\u001b[2K/token",
            "https://sso.example.org/revoke\\u001b[2J\\u001b]0;owned\\u0007?x=\\r\\nFORGED",
            "https://sso.example.org/{domain}",
            "javascript:alert(1)",
            "javascript://sso.example.org/%0aalert(1)",
            "file:///etc/passwd",
            "/revoke",
            "",
        ] {
            let body = metadata(&format!(r#","revocation_endpoint":"{odd}""#));
            assert_eq!(
                refused(&body),
                MetadataError::NotAnAddress { endpoint },
                "{odd}"
            );
        }
        let hidden = refused(&metadata(
            r#","revocation_endpoint":"https://evil\u202egro.elpmaxe/""#,
        ));
        assert!(hidden.to_string().is_ascii(), "{hidden}");
    }

    #[test]
    fn the_canonical_form_of_an_address_is_kept() {
        let mut profile = profile();
        let more = r#","authorization_endpoint":"HTTPS://SSO.example.org:443/a b","revocation_endpoint":"https://sso.example.org/\u202e\"x#y""#;
        complete(
            &mut profile,
            metadata(&more.replace("a b", "\u{202e}")).as_bytes(),
        )
        .unwrap();
        assert_eq!(
            profile.authorize_url.as_deref(),
            Some("https://sso.example.org/%E2%80%AE")
        );
        assert_eq!(
            profile.revoke_url.as_deref(),
            Some("https://sso.example.org/%E2%80%AE%22x")
        );
    }

    #[test]
    fn what_is_on_this_machine_needs_no_https() {
        let issuer = "http://127.0.0.1:8080";
        let complete = |endpoint: &str| {
            let mut profile = Profile {
                issuer: Some(issuer.into()),
                ..Profile::blank()
            };
            let body = format!(r#"{{"issuer":"{issuer}","token_endpoint":"{endpoint}"}}"#);
            complete(&mut profile, body.as_bytes()).map(|()| profile.token_url)
        };
        assert_eq!(
            complete("http://127.0.0.1:8080/token").unwrap(),
            "http://127.0.0.1:8080/token"
        );
        assert!(
            complete("http://127.0.0.1:9090/token").is_err()
                && complete("javascript:alert(1)").is_err()
        );
    }

    #[test]
    fn a_description_lies_at_one_of_two_addresses() {
        assert_eq!(
            addresses(ISSUER),
            [
                "https://sso.example.org/realms/staff/.well-known/openid-configuration",
                "https://sso.example.org/.well-known/oauth-authorization-server/realms/staff"
            ]
        );
    }
}
