//! Provider profiles: endpoints and formats of an authorization server, as data. Profiles are TOML
//! (`config/providers/`), parsed by `config`.
//!
//! Must not name a provider: a difference of a provider is a field that any profile can set.

use std::collections::BTreeMap;
use std::time::Duration;

pub use super::error_table::{Class, ErrorRule};
use super::host::same_host;
use super::quirks::{
    GrantType, InstallFields, NotBefore, Pkce, ReplyFields, RequestQuirks, Rotation,
};
use super::renew_every::RenewEvery;
use refreshd_secrets::mask::endpoint;

/// HTTP method of a token request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Method {
    /// A form in the body (RFC 6749 section 3.2). Keeps secrets out of access logs.
    Post,
    /// All parameters in the query, for servers that accept nothing else.
    Get,
}

/// Client authentication (RFC 6749 section 2.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum ClientAuthentication {
    /// A public client: `client_id` alone.
    None,
    /// HTTP Basic, id and secret form-encoded first.
    Basic,
    /// `client_id` and `client_secret` as parameters.
    Body,
    /// HTTP Basic, and `client_id` as a parameter too.
    BasicWithBody,
}

/// Time of a retry with a refresh token whose last use has an unknown outcome.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Replay {
    /// Immediately: the server may have a grace period of seconds.
    Now,
    /// Shortly before the access token expires: this server revokes the whole token family on reuse.
    #[strum(serialize = "before-expiry")]
    Late,
}

/// A provider's profile, with an app's overrides applied. Every URL but the issuer may contain `{domain}`, the portal's
/// host.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Name of the provider in the configuration.
    pub name: String,
    /// Issuer whose metadata supplies the endpoints missing here (RFC 8414 section 2).
    pub issuer: Option<String>,
    /// Hosts besides the issuer's that its metadata may name.
    pub hosts: Vec<String>,
    /// Value of `{domain}` for a portal without a host of its own.
    pub default_domain: Option<String>,
    /// Token endpoint for codes and refresh tokens; empty until the issuer's metadata is known.
    pub token_url: String,
    /// Token endpoints by region of the portal, if they differ.
    pub token_url_by_region: BTreeMap<String, String>,
    /// Endpoint for renewals, if it is not the token endpoint.
    pub refresh_url: Option<String>,
    /// Authorization endpoint.
    pub authorize_url: Option<String>,
    /// Device authorization endpoint (RFC 8628 section 3.1).
    pub device_url: Option<String>,
    /// Revocation endpoint (RFC 7009).
    pub revoke_url: Option<String>,
    /// Introspection endpoint (RFC 7662).
    pub introspect_url: Option<String>,
    /// True if redirects have an `iss` parameter (RFC 9207).
    pub names_issuer_in_redirect: bool,
    /// Grant type of the first token.
    pub start: GrantType,
    /// HTTP method.
    pub method: Method,
    /// Client authentication.
    pub client_authentication: ClientAuthentication,
    /// PKCE method.
    pub pkce: Pkce,
    /// Differences in requests.
    pub request: RequestQuirks,
    /// Fields of replies.
    pub reply: ReplyFields,
    /// Age at which tokens are renewed.
    pub renew_every: RenewEvery,
    /// Earliest time of a renewal.
    pub earliest: NotBefore,
    /// Lifetime of a token whose reply has no usable `expires_in`.
    pub assumed_lifetime: Duration,
    /// Time of a retry in doubt.
    pub replay: Replay,
    /// Effect of a renewal on the refresh token.
    pub rotation: Rotation,
    /// Time in which a spent refresh token still gets the same reply.
    pub grace: Option<Duration>,
    /// Separator of the values in `scope`.
    pub scope_separator: String,
    /// Field that identifies the owner of the grant and never changes (Bitrix24: `member_id`).
    pub identity_field: Option<String>,
    /// Field with the address of the API (Bitrix24: `client_endpoint`).
    pub endpoint_field: Option<String>,
    /// Field with the authorization server's host for the next renewal (Bitrix24: `server_endpoint`).
    pub server_field: Option<String>,
    /// Further fields of the reply that are published to readers.
    pub fields: Vec<String>,
    /// Installation of this provider's apps by portals, where refreshd supports it.
    pub install: InstallFields,
    /// Ordered error table.
    pub errors: Vec<ErrorRule>,
}

/// Placeholder for the portal's host in a URL.
pub const DOMAIN: &str = "{domain}";

impl Profile {
    /// Defaults of a profile: RFC 6749, without an endpoint.
    #[must_use]
    pub fn blank() -> Self {
        Self {
            name: String::new(),
            issuer: None,
            hosts: Vec::new(),
            default_domain: None,
            token_url: String::new(),
            token_url_by_region: BTreeMap::new(),
            refresh_url: None,
            authorize_url: None,
            device_url: None,
            revoke_url: None,
            introspect_url: None,
            names_issuer_in_redirect: false,
            start: GrantType::AuthorizationCode,
            method: Method::Post,
            client_authentication: ClientAuthentication::Basic,
            pkce: Pkce::S256,
            request: RequestQuirks::default(),
            reply: ReplyFields::default(),
            renew_every: RenewEvery::Share(0.67),
            earliest: NotBefore::Any,
            assumed_lifetime: Duration::from_secs(3600),
            replay: Replay::Now,
            rotation: Rotation::Always,
            grace: None,
            scope_separator: " ".to_owned(),
            identity_field: None,
            endpoint_field: None,
            server_field: None,
            fields: Vec::new(),
            install: InstallFields::default(),
            errors: Vec::new(),
        }
    }

    /// Every endpoint for renewals, with placeholders; none before the issuer's metadata is known.
    pub fn renewal_urls(&self) -> impl Iterator<Item = &str> {
        let elsewhere = self.refresh_url.as_deref();
        let token_urls = std::iter::once(&self.token_url).chain(self.token_url_by_region.values());
        elsewhere
            .into_iter()
            .chain(
                token_urls
                    .map(String::as_str)
                    .filter(move |_| elsewhere.is_none()),
            )
            .filter(|url| !url.is_empty())
    }

    /// Token endpoint for a portal of this region, with placeholders; the default one for any other region.
    #[must_use]
    pub fn token_url_for(&self, region: Option<&str>) -> &str {
        region
            .and_then(|region| self.token_url_by_region.get(region))
            .unwrap_or(&self.token_url)
    }

    /// Endpoint for the renewals of a portal.
    #[must_use]
    pub fn renewal_url_for(&self, region: Option<&str>, domain: Option<&str>) -> String {
        at_domain(
            self.refresh_url
                .as_deref()
                .unwrap_or_else(|| self.token_url_for(region)),
            domain,
        )
    }

    /// Endpoint for renewals on the host that a reply named, if that host is on the allow-list.
    #[must_use]
    pub fn renewal_url_on_host_of(&self, server_endpoint: &str) -> Option<&str> {
        let host = host_of(server_endpoint)?;
        self.renewal_urls().find(|url| host_of(url) == Some(host))
    }

    /// Returns whether an issuer (RFC 9207 section 2) uses https, or this machine, and the host of one of the
    /// endpoints.
    #[must_use]
    pub fn is_own_host(&self, issuer: &str, domain: Option<&str>) -> bool {
        let Some(named) = endpoint(issuer, &[])
            .as_deref()
            .and_then(host_of)
            .map(str::to_owned)
        else {
            return false;
        };
        let pages = [
            &self.authorize_url,
            &self.refresh_url,
            &self.device_url,
            &self.revoke_url,
            &self.introspect_url,
        ];
        let token_urls = std::iter::once(&self.token_url).chain(self.token_url_by_region.values());
        let mut urls = token_urls
            .chain(pages.into_iter().flatten())
            .map(|url| at_domain(url, domain));
        let listed = self.hosts.iter().any(|host| same_host(host, &named));
        listed || urls.any(|url| host_of(&url).is_some_and(|host| same_host(host, &named)))
    }

    /// Returns whether the endpoints are on a host of the portal's own.
    #[must_use]
    pub fn is_at_domain(&self) -> bool {
        self.renewal_urls().any(|url| url.contains(DOMAIN))
    }

    /// Authority that a grant belongs to: the provider if it has several servers, otherwise the server. A grant is
    /// bound to it and to the client; a refresh token is not sent after a change of either.
    #[must_use]
    pub fn authority(&self, domain: Option<&str>) -> String {
        match &self.issuer {
            Some(issuer) => issuer.clone(),
            None if !self.token_url_by_region.is_empty() => self.name.clone(),
            None => {
                let url = at_domain(&self.token_url, domain);
                origin_of(&url).unwrap_or(&url).to_owned()
            }
        }
    }

    /// Returns whether a request without a known outcome loses nothing, because the credential stays valid.
    #[must_use]
    pub fn replay_is_harmless(&self) -> bool {
        self.rotation == Rotation::Never || self.start == GrantType::ClientCredentials
    }
}

/// Fills in the portal's host.
#[must_use]
pub fn at_domain(url: &str, domain: Option<&str>) -> String {
    domain.map_or_else(|| url.to_owned(), |domain| url.replace(DOMAIN, domain))
}

/// `scheme://host:port` of a URL.
#[must_use]
pub fn origin_of(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| start + at);
    (end > start).then(|| &url[..end])
}

/// `host:port` of a URL, without user information; `None` if there is any, since it does not belong there.
#[must_use]
pub fn host_of(url: &str) -> Option<&str> {
    let origin = origin_of(url)?;
    let host = &origin[origin.find("://")? + 3..];
    (!host.contains('@')).then_some(host)
}

#[cfg(test)]
mod tests {
    use crate::samples::profile;

    #[test]
    fn only_a_host_of_the_profile_is_chosen_by_a_reply() {
        let profile = profile();
        let chosen = |endpoint: &str| profile.renewal_url_on_host_of(endpoint);
        assert_eq!(
            chosen("https://oauth.bitrix24.tech/rest/"),
            Some("https://oauth.bitrix24.tech/oauth/token/")
        );
        for foreign in [
            "https://evil.example/rest/",
            "https://oauth.bitrix.info.evil.example/",
            "https://oauth.bitrix.info@evil.example/",
            "https://evil.example/oauth.bitrix.info/",
            "oauth.bitrix.info",
            "",
        ] {
            assert_eq!(chosen(foreign), None, "{foreign}");
        }
        assert_eq!(
            profile.token_url_for(Some("ru")),
            "https://oauth.bitrix24.tech/oauth/token/"
        );
        assert_eq!(
            profile.token_url_for(Some("de")),
            "https://oauth.bitrix.info/oauth/token/"
        );
    }
}
