//! An authorization server's own description of itself (RFC 8414, OpenID Connect Discovery 1.0), put under a profile.
//!
//! Must not let a description lead secrets to a host that neither the issuer nor the configuration names.

use serde::Deserialize;

use super::provider::{ClientAuthentication, Profile, host_of};

/// What is read of a description.
#[derive(Deserialize)]
struct Document {
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

/// Why a description cannot be used. Holds no more of it than an address's host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// No JSON, or none of this kind.
    #[error("what is there is no metadata of an authorization server")]
    NotMetadata,
    /// RFC 8414 section 3.3.
    #[error("the metadata is of another issuer; `issuer` must be written as the server writes it")]
    OtherIssuer,
    /// An endpoint elsewhere.
    #[error(
        "the metadata names {endpoint} on {host}; if that is right, write hosts = [{host:?}] beside `issuer`"
    )]
    OtherHost {
        /// Which endpoint.
        endpoint: &'static str,
        /// Where it is.
        host: String,
    },
    /// An endpoint that anybody could listen to.
    #[error("the metadata names {endpoint} without https")]
    NotSecure {
        /// Which endpoint.
        endpoint: &'static str,
    },
    /// Nowhere to send anything to.
    #[error("the metadata names no token_endpoint")]
    NoTokenEndpoint,
}

/// Where an issuer's description may lie, the likelier address first: OpenID Connect Discovery section 4, RFC 8414
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

/// Completes a profile by its issuer's description. What the configuration says stays.
///
/// # Errors
/// [`MetadataError`]; the profile is left as it was.
pub fn complete(profile: &mut Profile, body: &[u8]) -> Result<(), MetadataError> {
    let Some(issuer) = profile.issuer.clone() else { return Ok(()) };
    let document: Document = serde_json::from_slice(body).map_err(|_| MetadataError::NotMetadata)?;
    if document.issuer != issuer {
        return Err(MetadataError::OtherIssuer);
    }
    let fit = |endpoint: &'static str, url: Option<String>| -> Result<Option<String>, MetadataError> {
        let Some(url) = url else { return Ok(None) };
        let host = host_of(&url).unwrap_or_default().to_owned();
        let listed = host_of(&issuer) == Some(&host) || profile.hosts.contains(&host);
        // An issuer without https is on this machine, and what is there may be too.
        let here = issuer.starts_with("http://") && host_of(&issuer) == Some(&host);
        let secure = url.starts_with("https://") || here;
        match (listed, secure) {
            (false, _) => Err(MetadataError::OtherHost { endpoint, host }),
            (true, false) => Err(MetadataError::NotSecure { endpoint }),
            (true, true) => Ok(Some(url)),
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
        ("authorization_endpoint", &profile.authorize_url, document.authorization_endpoint),
        ("device_authorization_endpoint", &profile.device_url, document.device_authorization_endpoint),
        ("revocation_endpoint", &profile.revoke_url, document.revocation_endpoint),
        ("introspection_endpoint", &profile.introspect_url, document.introspection_endpoint),
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
    // RFC 8414 section 2: without the list it is Basic.
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

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://sso.example.org/realms/staff";

    fn profile() -> Profile {
        Profile { issuer: Some(ISSUER.into()), hosts: vec!["api.example.org".into()], ..Profile::blank() }
    }

    fn metadata(more: &str) -> String {
        format!(r#"{{"issuer":"{ISSUER}","token_endpoint":"https://sso.example.org/token"{more}}}"#)
    }

    #[test]
    fn a_description_fills_in_what_the_configuration_leaves_open() {
        let mut profile = Profile { revoke_url: Some("https://own.example/revoke".into()), ..profile() };
        let more = r#","authorization_endpoint":"https://sso.example.org/auth","device_authorization_endpoint":"https://api.example.org/device",
            "revocation_endpoint":"https://sso.example.org/revoke","authorization_response_iss_parameter_supported":true,
            "token_endpoint_auth_methods_supported":["client_secret_post","none"]"#;
        complete(&mut profile, metadata(more).as_bytes()).unwrap();
        assert_eq!(profile.token_url, "https://sso.example.org/token");
        assert_eq!(profile.authorize_url.as_deref(), Some("https://sso.example.org/auth"));
        assert_eq!(
            profile.device_url.as_deref(),
            Some("https://api.example.org/device"),
            "a host that is named"
        );
        assert_eq!(profile.revoke_url.as_deref(), Some("https://own.example/revoke"), "explicit keys win");
        assert_eq!((profile.introspect_url, profile.names_issuer_in_redirect), (None, true));
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
        assert_eq!(refused(&format!(r#"{{"issuer":"{ISSUER}"}}"#)), MetadataError::NoTokenEndpoint);
        let (endpoint, host) = ("revocation_endpoint", "evil.example".to_owned());
        assert_eq!(
            refused(&metadata(r#","revocation_endpoint":"https://evil.example/revoke""#)),
            MetadataError::OtherHost { endpoint, host }
        );
        assert_eq!(
            refused(&metadata(r#","revocation_endpoint":"http://sso.example.org/revoke""#)),
            MetadataError::NotSecure { endpoint }
        );
        let disguised = r#","revocation_endpoint":"https://sso.example.org@evil.example/revoke""#;
        assert!(matches!(refused(&metadata(disguised)), MetadataError::OtherHost { .. }));
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
