//! The dialect of an authorization server, as data. Profiles are TOML (`config/providers/`), read by `config`.
//!
//! Must not name a provider: what one provider does differently is a field that any profile can set.

use std::collections::BTreeMap;
use std::time::Duration;

use super::schedule::RenewEvery;

/// How the token request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A form in the body (RFC 6749 section 3.2). Keeps secrets out of access logs.
    Post,
    /// Everything in the query, for servers that take nothing else.
    Get,
}

/// How the client proves who it is (RFC 6749 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// When a refresh token whose use has no known outcome is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// At once: the server may have a grace period of seconds.
    Now,
    /// Shortly before the access token ends: this server revokes the whole family on reuse.
    Late,
}

/// What a failed token request means, and so what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The request did not leave this machine.
    NotSent,
    /// The server cannot answer now.
    Transient,
    /// The request left and its outcome is not known.
    InDoubt,
    /// The server refuses the client, not the grant.
    ClientRejected,
    /// The grant is alive, but somebody must pay or allow something first.
    Blocked,
    /// The grant is dead.
    NeedsAuthorization,
    /// The app was removed from the portal.
    Gone,
    /// The server renews only later.
    TooEarly,
    /// None of these.
    Unknown,
}

impl Class {
    /// Every class, for metrics that start at zero.
    pub const ALL: [Self; 9] = [
        Self::NotSent,
        Self::Transient,
        Self::InDoubt,
        Self::ClientRejected,
        Self::Blocked,
        Self::NeedsAuthorization,
        Self::Gone,
        Self::TooEarly,
        Self::Unknown,
    ];

    /// As written in profiles, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Transient => "transient",
            Self::InDoubt => "in-doubt",
            Self::ClientRejected => "client-rejected",
            Self::Blocked => "blocked",
            Self::NeedsAuthorization => "needs-authorization",
            Self::Gone => "gone",
            Self::TooEarly => "too-early",
            Self::Unknown => "unknown",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// One row of a profile's error table. The first row whose given parts all match decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRule {
    /// HTTP statuses; empty matches any.
    pub status: Vec<u16>,
    /// `error` codes, compared without case; empty matches any reply.
    pub error: Vec<String>,
    /// A part of `error_description`, compared without case; empty matches any.
    pub description: String,
    /// What it means.
    pub class: Class,
    /// The same in a sentence for an operator.
    pub meaning: Option<String>,
    /// What mends it, with names left open: see [`super::remedy`].
    pub remedy: Option<String>,
}

impl ErrorRule {
    /// Whether this row is about this reply.
    #[must_use]
    pub fn matches(&self, status: u16, error: &str, description: &str) -> bool {
        (self.status.is_empty() || self.status.contains(&status))
            && (self.error.is_empty() || self.error.iter().any(|code| code.eq_ignore_ascii_case(error)))
            && description.to_lowercase().contains(&self.description.to_lowercase())
    }
}

/// How a provider's portals install apps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstallDialect {
    /// The path at an authorization server that says whose an access token is; `None`: installs are not taken in.
    pub check: Option<String>,
    /// The script that finishes an installation in the browser.
    pub script: Option<String>,
    /// What is run of it, in the same language.
    pub run: Option<String>,
}

/// A provider's profile, with an app's overrides applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The provider's name in the configuration.
    pub name: String,
    /// Where the refresh token is exchanged.
    pub token_url: String,
    /// Token endpoints by region of the portal, where they differ.
    pub token_url_by_region: BTreeMap<String, String>,
    /// Where a person authorizes; may hold `{domain}`.
    pub authorize_url: Option<String>,
    /// POST or GET.
    pub method: Method,
    /// How the client proves who it is.
    pub client_authentication: ClientAuthentication,
    /// When to renew.
    pub renew_every: RenewEvery,
    /// The life of a token whose reply has no usable `expires_in`.
    pub assumed_lifetime: Duration,
    /// When to replay.
    pub replay: Replay,
    /// What separates the words of `scope`.
    pub scope_separator: String,
    /// The field that says whose grant it is and never changes (Bitrix24: `member_id`).
    pub identity_field: Option<String>,
    /// The field that says where the API is (Bitrix24: `client_endpoint`).
    pub endpoint_field: Option<String>,
    /// The field that names the authorization server's host for the next renewal (Bitrix24: `server_endpoint`).
    pub server_field: Option<String>,
    /// Further fields of the reply that readers get.
    pub fields: Vec<String>,
    /// How apps of this provider are installed by their portals, where refreshd can take that in.
    pub install: InstallDialect,
    /// The ordered error table.
    pub errors: Vec<ErrorRule>,
}

impl Profile {
    /// Every token endpoint this profile may send secrets to.
    pub fn token_urls(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.token_url).chain(self.token_url_by_region.values()).map(String::as_str)
    }

    /// The token endpoint for a portal of this region; the default one for any other region.
    #[must_use]
    pub fn token_url_for(&self, region: Option<&str>) -> &str {
        region.and_then(|region| self.token_url_by_region.get(region)).unwrap_or(&self.token_url)
    }

    /// The token endpoint on the host that a reply named, if that host is on the allow-list.
    #[must_use]
    pub fn token_url_on_host_of(&self, server_endpoint: &str) -> Option<&str> {
        let host = host_of(server_endpoint)?;
        self.token_urls().find(|url| host_of(url) == Some(host))
    }

    /// Names the authority a grant belongs to: the provider where it has several servers, else the server. A grant
    /// is bound to this and the client; a change of either keeps the refresh token out of reach.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.token_url_by_region.is_empty() {
            origin_of(&self.token_url).unwrap_or(&self.token_url).to_owned()
        } else {
            self.name.clone()
        }
    }
}

/// `scheme://host:port` of a URL.
#[must_use]
pub fn origin_of(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    (end > start).then(|| &url[..end])
}

/// `host:port` of a URL, without user information; `None` where there is any, since none belongs there.
#[must_use]
pub fn host_of(url: &str) -> Option<&str> {
    let origin = origin_of(url)?;
    let host = &origin[origin.find("://")? + 3..];
    (!host.contains('@')).then_some(host)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A profile in the shape of Bitrix24's, for tests of the domain.
    pub(crate) fn profile() -> Profile {
        let rule = |status: &[u16], error: &[&str], description: &str, class| ErrorRule {
            status: status.to_vec(),
            error: error.iter().map(|&code| code.to_owned()).collect(),
            description: description.to_owned(),
            class,
            meaning: None,
            remedy: None,
        };
        Profile {
            name: "bitrix24".into(),
            token_url: "https://oauth.bitrix.info/oauth/token/".into(),
            token_url_by_region: [("ru".to_owned(), "https://oauth.bitrix24.tech/oauth/token/".to_owned())]
                .into(),
            authorize_url: None,
            method: Method::Post,
            client_authentication: ClientAuthentication::Body,
            renew_every: RenewEvery::Age(Duration::from_secs(1500)),
            assumed_lifetime: Duration::from_secs(3600),
            replay: Replay::Now,
            scope_separator: ",".into(),
            identity_field: Some("member_id".into()),
            endpoint_field: Some("client_endpoint".into()),
            server_field: Some("server_endpoint".into()),
            fields: vec!["member_id".into(), "user_id".into(), "status".into()],
            install: InstallDialect { check: Some("/rest/app.info".into()), ..InstallDialect::default() },
            errors: vec![
                rule(&[], &["invalid_request"], "token was invalid", Class::NeedsAuthorization),
                rule(&[], &["invalid_grant"], "", Class::NeedsAuthorization),
                rule(&[], &["invalid_client", "wrong_client"], "", Class::ClientRejected),
                rule(&[], &["PAYMENT_REQUIRED"], "", Class::Blocked),
                rule(&[], &["NOT_INSTALLED"], "", Class::Gone),
            ],
        }
    }

    #[test]
    fn only_a_host_of_the_profile_is_chosen_by_a_reply() {
        let profile = profile();
        let chosen = |endpoint: &str| profile.token_url_on_host_of(endpoint);
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
        assert_eq!(profile.token_url_for(Some("ru")), "https://oauth.bitrix24.tech/oauth/token/");
        assert_eq!(profile.token_url_for(Some("de")), "https://oauth.bitrix.info/oauth/token/");
    }
}
