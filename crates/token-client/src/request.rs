//! Builds the requests of OAuth 2.0 for a provider: parameters, headers, client authentication. The only
//! implementation.
//!
//! Must not send anything, nor choose an address that is neither the profile's nor the portal's own.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::provider::{ClientAuthentication, DOMAIN, Method, Profile, at_domain};
use super::quirks::{BasicEncoding, BodyEncoding, Pkce};
use super::token::{Credential, Generation};
use refreshd_secrets::{
    AccessToken, AuthorizationCode, ClientSecret, CodeVerifier, DeviceCode, Fingerprint,
    RefreshToken,
};

/// Client, provider and portal of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestBuilder<'a> {
    /// Provider's profile with the app's overrides.
    pub profile: &'a Profile,
    /// Client id.
    pub client_id: &'a str,
    /// Client secret; `None` for a public client.
    pub client_secret: Option<&'a ClientSecret>,
    /// Host of the portal.
    pub domain: Option<&'a str>,
    /// Redirect target after an authorization.
    pub redirect_uri: Option<&'a str>,
    /// Requested scope.
    pub scope: &'a [String],
    /// Fields stored with the grant.
    pub fields: &'a BTreeMap<String, Value>,
    /// Random characters, fresh for this request.
    pub random: &'a str,
}

/// Purpose of a request.
#[derive(Clone, Copy, Debug)]
pub enum RequestKind<'a> {
    /// Renewal (RFC 6749 sections 6 and 4.4).
    Renewal(&'a Credential),
    /// Code exchange (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
    Code(&'a AuthorizationCode, Option<&'a CodeVerifier>),
    /// Device authorization (RFC 8628 section 3.1).
    DeviceCodes,
    /// Poll for a device's token (RFC 8628 section 3.4).
    DeviceToken(&'a DeviceCode),
    /// Revocation (RFC 7009 section 2.1).
    Revocation(Token<'a>),
    /// Introspection (RFC 7662 section 2.1).
    Introspection(&'a AccessToken),
}

/// Token to revoke.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// Ends the whole grant.
    Refresh(&'a RefreshToken),
    /// For a client without a grant of its own.
    Access(&'a AccessToken),
}

/// A request that is ready to be sent. Its parameters may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Address, without parameters.
    pub url: String,
    /// HTTP method.
    pub method: Method,
    /// Encoding of a POST's body.
    pub body: BodyEncoding,
    /// Parameters, in this order.
    pub parameters: Vec<(String, String)>,
    /// Headers besides `Accept` and those of the body's encoding.
    pub headers: Vec<(String, String)>,
    /// Value of `Authorization`.
    pub authorization: Option<String>,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            method,
            body,
            parameters,
            headers: _,
            authorization,
        } = self;
        let names: Vec<_> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        let authenticated = authorization.is_some();
        write!(
            f,
            "Request({method:?} {url} {body:?} {names:?}, Authorization: {authenticated})"
        )
    }
}

impl RequestBuilder<'_> {
    /// Builds a request to `url`.
    #[must_use]
    pub fn request(&self, url: &str, purpose: RequestKind<'_>) -> TokenRequest {
        let Profile {
            method,
            client_authentication,
            request: form,
            ..
        } = self.profile;
        let mut parameters = FormParameters(Vec::new());
        if let Some(grant_type) = grant_type(purpose) {
            parameters.set("grant_type", grant_type);
        }
        if *client_authentication != ClientAuthentication::Basic {
            parameters.set("client_id", self.client_id);
        }
        if let (ClientAuthentication::Body, Some(secret)) =
            (client_authentication, self.client_secret)
        {
            parameters.set("client_secret", secret.expose());
        }
        self.add_purpose(purpose, &mut parameters);
        let further = match purpose {
            RequestKind::Renewal(_) => Some(&form.renewal_parameters),
            RequestKind::Code(..) => Some(&form.code_parameters),
            RequestKind::DeviceCodes
            | RequestKind::DeviceToken(_)
            | RequestKind::Revocation(_)
            | RequestKind::Introspection(_) => None,
        };
        self.add(further.into_iter().flatten(), &mut parameters);
        let posted = matches!(
            purpose,
            RequestKind::Revocation(_) | RequestKind::Introspection(_)
        );
        let in_query = *method == Method::Get && !posted;
        TokenRequest {
            url: at_domain(url, self.domain),
            method: if in_query { Method::Get } else { Method::Post },
            body: form.body,
            parameters: self.named(parameters),
            headers: form
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            authorization: self.basic(),
        }
    }

    /// Identifies the kind of a renewal to `url`: all of the request except the refresh token and random parts. Two
    /// requests of one kind do not differ in anything from the configuration.
    #[must_use]
    pub fn kind_of_renewal(
        &self,
        url: &str,
        credential: &Credential,
        buys: Generation,
    ) -> Fingerprint {
        let placeholder = match credential {
            Credential::Refresh(_) => {
                RefreshToken::new("-").map_or(Credential::Client, Credential::Refresh)
            }
            Credential::Client => Credential::Client,
        };
        let TokenRequest {
            url,
            method,
            body,
            parameters,
            headers,
            authorization,
        } = RequestBuilder {
            random: "",
            ..*self
        }
        .request(url, RequestKind::Renewal(&placeholder));
        let all = format!(
            "{url}\n{method:?}\n{body:?}\n{parameters:?}\n{headers:?}\n{authorization:?}\n{}",
            buys.0
        );
        Fingerprint::of(all.as_bytes())
    }

    /// Address that a user opens to authorize (RFC 6749 section 4.1.1); `None` if the profile has none.
    #[must_use]
    pub fn authorize_url(
        &self,
        state: &str,
        verifier: Option<&CodeVerifier>,
        nonce: Option<&str>,
    ) -> Option<String> {
        let base = self.profile.authorize_url.as_deref()?;
        if base.contains(DOMAIN) && self.domain.is_none() {
            return None;
        }
        let mut parameters = FormParameters(Vec::new());
        parameters.set("response_type", "code");
        parameters.set("client_id", self.client_id);
        if let Some(redirect_uri) = self.redirect_uri {
            parameters.set("redirect_uri", redirect_uri);
        }
        if !self.scope.is_empty() {
            parameters.set("scope", &self.scope.join(&self.profile.scope_separator));
        }
        parameters.set("state", state);
        if let Some(nonce) = nonce {
            parameters.set("nonce", nonce);
        }
        if let Some((method, challenge)) = challenge(self.profile.pkce, verifier) {
            parameters.set("code_challenge", &challenge);
            parameters.set("code_challenge_method", method);
        }
        self.add(&self.profile.request.authorize_parameters, &mut parameters);
        let query = Serializer::new(String::new())
            .extend_pairs(self.named(parameters))
            .finish();
        let base = at_domain(base, self.domain);
        let separator = if base.contains('?') { '&' } else { '?' };
        Some(format!("{base}{separator}{query}"))
    }

    fn add_purpose(&self, purpose: RequestKind<'_>, parameters: &mut FormParameters) {
        let scope = self.scope.join(&self.profile.scope_separator);
        let asks_scope = match purpose {
            RequestKind::Renewal(Credential::Refresh(token)) => {
                parameters.set("refresh_token", token.expose());
                self.profile.request.scope_in_renewal
            }
            RequestKind::Renewal(Credential::Client) | RequestKind::DeviceCodes => true,
            RequestKind::Code(code, verifier) => {
                parameters.set("code", code.expose());
                if let Some(redirect_uri) = self.redirect_uri {
                    parameters.set("redirect_uri", redirect_uri);
                }
                if let Some(verifier) = verifier.filter(|_| self.profile.pkce != Pkce::None) {
                    parameters.set("code_verifier", verifier.expose());
                }
                false
            }
            RequestKind::DeviceToken(code) => {
                parameters.set("device_code", code.expose());
                false
            }
            RequestKind::Revocation(Token::Refresh(token)) => {
                parameters.set("token", token.expose());
                parameters.set("token_type_hint", "refresh_token");
                false
            }
            RequestKind::Revocation(Token::Access(token)) | RequestKind::Introspection(token) => {
                parameters.set("token", token.expose());
                parameters.set("token_type_hint", "access_token");
                false
            }
        };
        if asks_scope && !scope.is_empty() {
            parameters.set("scope", &scope);
        }
    }

    /// Adds the profile's own parameters. One with an unknown placeholder is left out.
    fn add<'p>(
        &self,
        further: impl IntoIterator<Item = (&'p String, &'p String)>,
        parameters: &mut FormParameters,
    ) {
        for (name, value) in further {
            match value.as_str() {
                "" => parameters.0.retain(|(known, _)| known != name),
                value => {
                    if let Some(value) = self.fill(value) {
                        parameters.set(name, &value);
                    }
                }
            }
        }
    }

    /// Replaces placeholders in a value.
    fn fill(&self, value: &str) -> Option<String> {
        let (mut filled, mut rest) = (String::new(), value);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            filled.push_str(before);
            match name {
                "redirect_uri" => filled.push_str(self.redirect_uri?),
                "domain" => filled.push_str(self.domain?),
                "client_id" => filled.push_str(self.client_id),
                "random" => filled.push_str(self.random),
                field => match self.fields.get(field)? {
                    Value::String(text) => filled.push_str(text),
                    value => filled.push_str(&value.to_string()),
                },
            }
            rest = after;
        }
        Some(filled + rest)
    }

    fn named(&self, parameters: FormParameters) -> Vec<(String, String)> {
        let names = &self.profile.request.names;
        let name = |name: String| names.get(&name).cloned().unwrap_or(name);
        parameters
            .0
            .into_iter()
            .map(|(known, value)| (name(known), value))
            .collect()
    }

    fn basic(&self) -> Option<String> {
        let secret = self.client_secret?;
        let encode = |text: &str| match self.profile.request.basic_encoding {
            BasicEncoding::Form => byte_serialize(text.as_bytes()).collect(),
            BasicEncoding::Raw => text.to_owned(),
        };
        match self.profile.client_authentication {
            ClientAuthentication::Basic | ClientAuthentication::BasicWithBody => {
                let pair = format!("{}:{}", encode(self.client_id), encode(secret.expose()));
                Some(format!("Basic {}", STANDARD.encode(pair)))
            }
            ClientAuthentication::None | ClientAuthentication::Body => None,
        }
    }
}

/// Parameters with unique names. Names are those of the RFCs and are renamed by the profile.
struct FormParameters(Vec<(String, String)>);

impl FormParameters {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}

const fn grant_type(purpose: RequestKind<'_>) -> Option<&'static str> {
    match purpose {
        RequestKind::Renewal(Credential::Refresh(_)) => Some("refresh_token"),
        RequestKind::Renewal(Credential::Client) => Some("client_credentials"),
        RequestKind::Code(..) => Some("authorization_code"),
        RequestKind::DeviceToken(_) => Some("urn:ietf:params:oauth:grant-type:device_code"),
        RequestKind::DeviceCodes | RequestKind::Revocation(_) | RequestKind::Introspection(_) => {
            None
        }
    }
}

/// `code_challenge` (RFC 7636 section 4.2).
fn challenge(pkce: Pkce, verifier: Option<&CodeVerifier>) -> Option<(&'static str, String)> {
    let verifier = verifier?;
    match pkce {
        Pkce::None => None,
        Pkce::Plain => Some(("plain", verifier.expose().to_owned())),
        Pkce::S256 => Some((
            "S256",
            URL_SAFE_NO_PAD.encode(Fingerprint::of(verifier.expose().as_bytes()).bytes()),
        )),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
