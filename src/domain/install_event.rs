//! Install events: the form of a browser that opens or installs the app, and the events of a portal.
//!
//! These requests are unauthenticated, so nothing in here is true before it was verified; see `domain::token_owner`. Must not
//! be quoted in a log or an error: the forms contain tokens.

use refreshd_secrets::{AccessToken, ApplicationToken, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_time::date::instant;
use refreshd_token_client::host::{is_hostile, plain_host};

/// Maximum length of a form, in bytes; usual are about two thousand.
pub const MAX_LENGTH: usize = 128 * 1024;
/// Maximum length of a token, in bytes.
const MAX_TOKEN: usize = 4096;
/// A larger time is in milliseconds.
const MILLISECONDS_FROM: i64 = 100_000_000_000;
/// Maximum length of an address, in bytes.
const MAX_FIELD: usize = 300;
/// Maximum length of a scope that is kept until the server sends its own, in bytes.
const MAX_SCOPE: usize = 4096;

/// An install event.
#[derive(Clone, Debug)]
pub enum InstallEvent {
    /// A user opened or is installing the app, in a browser.
    Opened(PresentedGrant),
    /// The app was installed.
    Installed(PresentedGrant),
    /// The app now has a user of its own at the portal.
    SystemUser(PresentedGrant),
    /// The app was removed.
    Removed(Removal),
    /// An event that lacks its grant.
    Incomplete(Incomplete),
    /// An event that is not about grants.
    Other,
}

/// A presented grant with its claims.
#[derive(Clone, Debug)]
pub struct PresentedGrant {
    /// Verified at the authorization server: proves the owner.
    pub access: AccessToken,
    /// The token to store.
    pub refresh: RefreshToken,
    /// Claims, compared with the authorization server's answer.
    pub claims: ClaimedOwner,
    /// Of events only: a browser's form is under its user's control.
    pub application_token: Option<ApplicationToken>,
    /// Time of the event.
    pub sent_at: Option<Timestamp>,
    /// Expiry of the access token in unix seconds, as written.
    pub expires: Option<String>,
    /// Scope, as written; decides nothing.
    pub scope: Option<String>,
}

/// An event that lacks its grant. It cannot be verified, so its application token is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The missing field.
    pub missing: &'static str,
    /// The portal's host.
    pub host: Option<String>,
}

/// A claimed owner, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedOwner {
    /// The portal.
    pub member_id: String,
    /// The portal's host. A hint: the server names the portal.
    pub host: Option<String>,
    /// The user.
    pub user_id: Option<String>,
    /// The authorization server. A hint: only hosts of the profile count.
    pub server: Option<String>,
}

/// A removal event.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The portal.
    pub member_id: String,
    /// The portal's host.
    pub host: Option<String>,
    /// The application token, the only proof of a removal.
    pub application_token: Option<ApplicationToken>,
    /// Time of the event.
    pub sent_at: Option<Timestamp>,
}

/// Why a form is not an install event. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstallEventError {
    /// Neither a browser's form nor an event.
    #[error("it has neither AUTH_ID nor event")]
    Neither,
    /// A required field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value has the wrong type or format.
    #[error("{0} is not what it should be")]
    Unfit(&'static str),
    /// A field occurs more than once.
    #[error("{0} is given twice")]
    Twice(&'static str),
}

/// Parses an event from the form-encoded query and body. Tokens are accepted in the body only.
///
/// # Errors
/// [`InstallEventError`] names the field.
pub fn read(query: &str, body: &[u8]) -> Result<InstallEvent, InstallEventError> {
    let body = EventForm(body);
    if body.has("AUTH_ID") || body.has("REFRESH_ID") {
        let query = EventForm(query.as_bytes());
        return match body.first_missing(["AUTH_ID", "REFRESH_ID", "member_id"])? {
            Some(missing) => {
                let host = body.domain()?;
                Ok(InstallEvent::Incomplete(Incomplete {
                    missing,
                    host: if host.is_some() {
                        host
                    } else {
                        query.domain()?
                    },
                }))
            }
            None => opened(&body, &query),
        };
    }
    let event = body.get("event")?.ok_or(InstallEventError::Neither)?;
    match event.to_ascii_uppercase().as_str() {
        "ONAPPINSTALL" => {
            match body.first_missing([
                "auth[access_token]",
                "auth[refresh_token]",
                "auth[member_id]",
            ])? {
                Some(missing) => Ok(InstallEvent::Incomplete(Incomplete {
                    missing,
                    host: body.host("auth[client_endpoint]"),
                })),
                None => installed(&body).map(InstallEvent::Installed),
            }
        }
        "ONAPPUSERREADY" => {
            match body.first_missing([
                "data[access_token]",
                "data[refresh_token]",
                "data[member_id]",
            ])? {
                Some(missing) => Ok(InstallEvent::Incomplete(Incomplete {
                    missing,
                    host: body.host("data[client_endpoint]"),
                })),
                None => system_user(&body).map(InstallEvent::SystemUser),
            }
        }
        "ONAPPUNINSTALL" => match body.first_missing(["auth[member_id]"])? {
            Some(missing) => Ok(InstallEvent::Incomplete(Incomplete {
                missing,
                host: body.host("auth[client_endpoint]"),
            })),
            None => removed(&body).map(InstallEvent::Removed),
        },
        _ => Ok(InstallEvent::Other),
    }
}

fn opened(body: &EventForm<'_>, query: &EventForm<'_>) -> Result<InstallEvent, InstallEventError> {
    let domain = body.domain()?;
    Ok(InstallEvent::Opened(PresentedGrant {
        access: AccessToken::new(&body.token("AUTH_ID")?)
            .ok_or(InstallEventError::Missing("AUTH_ID"))?,
        refresh: RefreshToken::new(&body.token("REFRESH_ID")?)
            .ok_or(InstallEventError::Missing("REFRESH_ID"))?,
        claims: ClaimedOwner {
            member_id: body
                .id("member_id")?
                .ok_or(InstallEventError::Missing("member_id"))?,
            host: if domain.is_some() {
                domain
            } else {
                query.domain()?
            },
            user_id: None,
            server: body.hint("SERVER_ENDPOINT", MAX_FIELD),
        },
        application_token: None,
        sent_at: None,
        expires: None,
        scope: body.hint("APPLICATION_SCOPE", MAX_SCOPE),
    }))
}

fn installed(body: &EventForm<'_>) -> Result<PresentedGrant, InstallEventError> {
    Ok(PresentedGrant {
        access: AccessToken::new(&body.token("auth[access_token]")?)
            .ok_or(InstallEventError::Missing("auth[access_token]"))?,
        refresh: RefreshToken::new(&body.token("auth[refresh_token]")?)
            .ok_or(InstallEventError::Missing("auth[refresh_token]"))?,
        claims: ClaimedOwner {
            member_id: body
                .id("auth[member_id]")?
                .ok_or(InstallEventError::Missing("auth[member_id]"))?,
            host: body.host("auth[client_endpoint]"),
            user_id: body.id("auth[user_id]")?,
            server: body.hint("auth[server_endpoint]", MAX_FIELD),
        },
        application_token: body.application_token()?,
        sent_at: body.sent_at(),
        expires: body.hint("auth[expires]", MAX_FIELD),
        scope: body.hint("auth[scope]", MAX_SCOPE),
    })
}

fn system_user(body: &EventForm<'_>) -> Result<PresentedGrant, InstallEventError> {
    let member_id = body
        .id("data[member_id]")?
        .ok_or(InstallEventError::Missing("data[member_id]"))?;
    if body
        .id("auth[member_id]")?
        .is_some_and(|other| other != member_id)
    {
        return Err(InstallEventError::Unfit("data[member_id]"));
    }
    Ok(PresentedGrant {
        access: AccessToken::new(&body.token("data[access_token]")?)
            .ok_or(InstallEventError::Missing("data[access_token]"))?,
        refresh: RefreshToken::new(&body.token("data[refresh_token]")?)
            .ok_or(InstallEventError::Missing("data[refresh_token]"))?,
        claims: ClaimedOwner {
            member_id,
            host: body.host("data[client_endpoint]"),
            user_id: body.id("data[user_id]")?,
            server: body.hint("data[server_endpoint]", MAX_FIELD),
        },
        application_token: body.application_token()?,
        sent_at: body.sent_at(),
        expires: body.hint("data[expires]", MAX_FIELD),
        scope: body.hint("data[scope]", MAX_SCOPE),
    })
}

fn removed(body: &EventForm<'_>) -> Result<Removal, InstallEventError> {
    Ok(Removal {
        member_id: body
            .id("auth[member_id]")?
            .ok_or(InstallEventError::Missing("auth[member_id]"))?,
        host: body.host("auth[client_endpoint]"),
        application_token: body.application_token()?,
        sent_at: body.sent_at(),
    })
}

/// A form. Nested names are literal, including the brackets.
struct EventForm<'f>(&'f [u8]);

impl EventForm<'_> {
    /// A trimmed value; empty counts as absent. A repeated value counts once.
    fn get(&self, name: &'static str) -> Result<Option<String>, InstallEventError> {
        let mut values = self.values(name);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.any(|other| other != value) {
            return Err(InstallEventError::Twice(name));
        }
        Ok((!value.is_empty()).then_some(value))
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = String> {
        url::form_urlencoded::parse(self.0)
            .filter(move |(field, _)| field == name)
            .map(|(_, value)| value.trim().to_owned())
    }

    fn has(&self, name: &'static str) -> bool {
        self.values(name).next().is_some()
    }

    fn graphic(
        &self,
        name: &'static str,
        longest: usize,
    ) -> Result<Option<String>, InstallEventError> {
        let value = self.get(name)?;
        let fits = |value: &String| {
            value.len() <= longest && value.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if value.as_ref().is_none_or(fits) {
            Ok(value)
        } else {
            Err(InstallEventError::Unfit(name))
        }
    }

    fn token(&self, name: &'static str) -> Result<String, InstallEventError> {
        self.graphic(name, MAX_TOKEN)?
            .ok_or(InstallEventError::Missing(name))
    }

    /// An optional value: absent if it is too long, repeated or malformed.
    fn hint(&self, name: &'static str, longest: usize) -> Option<String> {
        let value = self.get(name).ok().flatten()?;
        (value.len() <= longest && !value.contains(char::is_control)).then_some(value)
    }

    /// The first missing field.
    fn first_missing<const N: usize>(
        &self,
        names: [&'static str; N],
    ) -> Result<Option<&'static str>, InstallEventError> {
        for name in names {
            if self.get(name)?.is_none() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn id(&self, name: &'static str) -> Result<Option<String>, InstallEventError> {
        let id = self.get(name)?;
        if id.as_deref().is_none_or(is_id) {
            Ok(id)
        } else {
            Err(InstallEventError::Unfit(name))
        }
    }

    /// A host that is only a hint: the first valid value.
    fn host(&self, name: &'static str) -> Option<String> {
        self.values(name).find_map(|text| plain_host(&text))
    }

    /// The host of a browser's query. Links can be forged, so an invalid value is an error.
    fn domain(&self) -> Result<Option<String>, InstallEventError> {
        if self.values("DOMAIN").any(|text| is_hostile(&text)) {
            return Err(InstallEventError::Unfit("DOMAIN"));
        }
        Ok(self.host("DOMAIN"))
    }

    fn application_token(&self) -> Result<Option<ApplicationToken>, InstallEventError> {
        let token = self.graphic("auth[application_token]", MAX_TOKEN)?;
        Ok(token.as_deref().and_then(ApplicationToken::new))
    }

    /// An invalid time counts as absent: events need none.
    fn sent_at(&self) -> Option<Timestamp> {
        let text = self.values("ts").next().filter(|text| !text.is_empty())?;
        let whole = text
            .split_once('.')
            .map_or(text.as_str(), |(whole, _)| whole);
        match whole.parse::<i64>() {
            // JavaScript counts milliseconds.
            Ok(number) if number > MILLISECONDS_FROM => Some(Timestamp::from_millis(number)),
            Ok(number) => Some(Timestamp::from_secs(number)),
            Err(_) => instant(&text),
        }
    }
}

/// Returns whether a text is an id: 1 to 100 of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
#[path = "install_event_tests.rs"]
mod tests;
