//! What a portal tells of an app: the form that a browser brings when the app is opened or installed, and events.
//!
//! Anybody can send these, so nothing in here is true before it was verified; see `domain::whose`. Must not be quoted
//! in a log or an error: the forms hold tokens.

use super::provider::host_of;
use super::secret::{AccessToken, ApplicationToken, RefreshToken};
use super::time::Timestamp;

/// Longest form read, in bytes; one has about two thousand.
pub const LONGEST: usize = 64 * 1024;
/// Longest token, in bytes.
const LONGEST_TOKEN: usize = 4096;
/// Longest id, address or host, in bytes.
const LONGEST_WORD: usize = 300;

/// One notice.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Somebody has opened or is installing the app, in a browser.
    Opened(Presented),
    /// The app was installed.
    Installed(Presented),
    /// The app has a user of its own at the portal from now on.
    SystemUser(Presented),
    /// The app was removed.
    Removed(Removal),
    /// An event that says nothing about grants.
    Other,
}

/// A grant that was brought, and what was said with it.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Proves whose the grant is.
    pub access: AccessToken,
    /// What would be kept.
    pub refresh: RefreshToken,
    /// To be compared with what the authorization server says.
    pub claims: Claims,
    /// Of events only: what a browser brings of it is its user's word.
    pub application_token: Option<ApplicationToken>,
    /// When it was sent, by the event.
    pub sent_at: Option<Timestamp>,
    /// The end of the access token in unix seconds, as written.
    pub expires: Option<String>,
    /// Its scope, as written.
    pub scope: Option<String>,
}

/// Whose grant somebody says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The portal.
    pub member_id: String,
    /// The portal's host.
    pub host: Option<String>,
    /// The user.
    pub user_id: Option<String>,
    /// The authorization server. A hint: only hosts of the profile count.
    pub server: Option<String>,
}

/// What is said of a removal.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The portal.
    pub member_id: String,
    /// The portal's host.
    pub host: Option<String>,
    /// The only proof there is.
    pub application_token: ApplicationToken,
    /// When it was sent.
    pub sent_at: Timestamp,
}

/// Why a form is no notice. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    /// Neither a browser's form nor an event.
    #[error("it has neither AUTH_ID nor event")]
    Neither,
    /// Something needed is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value is not of its kind.
    #[error("{0} is not what it should be")]
    Unfit(&'static str),
    /// A value is given more than once.
    #[error("{0} is given twice")]
    Twice(&'static str),
}

/// Reads a notice from the query of its address and its body, both form-encoded. Tokens are read from the body only.
///
/// # Errors
/// [`NoticeError`] names the field.
pub fn read(query: &str, body: &[u8]) -> Result<Notice, NoticeError> {
    let body = Form(body);
    if body.get("AUTH_ID")?.is_some() {
        return opened(&body, &Form(query.as_bytes()));
    }
    let event = body.get("event")?.ok_or(NoticeError::Neither)?;
    match event.to_ascii_uppercase().as_str() {
        "ONAPPINSTALL" => installed(&body).map(Notice::Installed),
        "ONAPPUSERREADY" => system_user(&body).map(Notice::SystemUser),
        "ONAPPUNINSTALL" => removed(&body).map(Notice::Removed),
        _ => Ok(Notice::Other),
    }
}

fn opened(body: &Form<'_>, query: &Form<'_>) -> Result<Notice, NoticeError> {
    let domain = body.host("DOMAIN")?;
    Ok(Notice::Opened(Presented {
        access: AccessToken::new(&body.token("AUTH_ID")?).ok_or(NoticeError::Missing("AUTH_ID"))?,
        refresh: RefreshToken::new(&body.token("REFRESH_ID")?).ok_or(NoticeError::Missing("REFRESH_ID"))?,
        claims: Claims {
            member_id: body.id("member_id")?.ok_or(NoticeError::Missing("member_id"))?,
            host: if domain.is_some() { domain } else { query.host("DOMAIN")? },
            user_id: None,
            server: body.word("SERVER_ENDPOINT")?,
        },
        application_token: None,
        sent_at: None,
        expires: None,
        scope: body.word("APPLICATION_SCOPE")?,
    }))
}

fn installed(body: &Form<'_>) -> Result<Presented, NoticeError> {
    Ok(Presented {
        access: AccessToken::new(&body.token("auth[access_token]")?)
            .ok_or(NoticeError::Missing("auth[access_token]"))?,
        refresh: RefreshToken::new(&body.token("auth[refresh_token]")?)
            .ok_or(NoticeError::Missing("auth[refresh_token]"))?,
        claims: Claims {
            member_id: body.id("auth[member_id]")?.ok_or(NoticeError::Missing("auth[member_id]"))?,
            host: body.host_of("auth[client_endpoint]")?,
            user_id: body.id("auth[user_id]")?,
            server: body.word("auth[server_endpoint]")?,
        },
        application_token: body.application_token()?,
        sent_at: body.sent_at()?,
        expires: body.id("auth[expires]")?,
        scope: body.word("auth[scope]")?,
    })
}

fn system_user(body: &Form<'_>) -> Result<Presented, NoticeError> {
    let member_id = body.id("data[member_id]")?.ok_or(NoticeError::Missing("data[member_id]"))?;
    if body.id("auth[member_id]")?.is_some_and(|other| other != member_id) {
        return Err(NoticeError::Unfit("data[member_id]"));
    }
    Ok(Presented {
        access: AccessToken::new(&body.token("data[access_token]")?)
            .ok_or(NoticeError::Missing("data[access_token]"))?,
        refresh: RefreshToken::new(&body.token("data[refresh_token]")?)
            .ok_or(NoticeError::Missing("data[refresh_token]"))?,
        claims: Claims {
            member_id,
            host: body.host_of("data[client_endpoint]")?,
            user_id: body.id("data[user_id]")?,
            server: body.word("data[server_endpoint]")?,
        },
        application_token: body.application_token()?,
        sent_at: body.sent_at()?,
        expires: body.id("data[expires]")?,
        scope: body.word("data[scope]")?,
    })
}

fn removed(body: &Form<'_>) -> Result<Removal, NoticeError> {
    Ok(Removal {
        member_id: body.id("auth[member_id]")?.ok_or(NoticeError::Missing("auth[member_id]"))?,
        host: body.host_of("auth[client_endpoint]")?,
        application_token: body
            .application_token()?
            .ok_or(NoticeError::Missing("auth[application_token]"))?,
        sent_at: body.sent_at()?.ok_or(NoticeError::Missing("ts"))?,
    })
}

/// A form; its nested names are read as they are written, brackets and all.
struct Form<'f>(&'f [u8]);

impl Form<'_> {
    /// A value without white space around it; an empty one counts as absent.
    fn get(&self, name: &'static str) -> Result<Option<String>, NoticeError> {
        let mut found = url::form_urlencoded::parse(self.0).filter(|(field, _)| field == name);
        let Some((_, value)) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(NoticeError::Twice(name));
        }
        let value = value.trim();
        Ok((!value.is_empty()).then(|| value.to_owned()))
    }

    fn graphic(&self, name: &'static str, longest: usize) -> Result<Option<String>, NoticeError> {
        let value = self.get(name)?;
        let fits =
            |value: &String| value.len() <= longest && value.bytes().all(|byte| byte.is_ascii_graphic());
        if value.as_ref().is_none_or(fits) { Ok(value) } else { Err(NoticeError::Unfit(name)) }
    }

    fn token(&self, name: &'static str) -> Result<String, NoticeError> {
        self.graphic(name, LONGEST_TOKEN)?.ok_or(NoticeError::Missing(name))
    }

    fn word(&self, name: &'static str) -> Result<Option<String>, NoticeError> {
        self.graphic(name, LONGEST_WORD)
    }

    fn id(&self, name: &'static str) -> Result<Option<String>, NoticeError> {
        let id = self.get(name)?;
        if id.as_deref().is_none_or(is_id) { Ok(id) } else { Err(NoticeError::Unfit(name)) }
    }

    fn host(&self, name: &'static str) -> Result<Option<String>, NoticeError> {
        let Some(text) = self.get(name)? else { return Ok(None) };
        plain_host(&text).map(Some).ok_or(NoticeError::Unfit(name))
    }

    fn host_of(&self, name: &'static str) -> Result<Option<String>, NoticeError> {
        let Some(text) = self.word(name)? else { return Ok(None) };
        host_of(&text).and_then(plain_host).map(Some).ok_or(NoticeError::Unfit(name))
    }

    fn application_token(&self) -> Result<Option<ApplicationToken>, NoticeError> {
        let token = self.graphic("auth[application_token]", LONGEST_TOKEN)?;
        Ok(token.as_deref().and_then(ApplicationToken::new))
    }

    fn sent_at(&self) -> Result<Option<Timestamp>, NoticeError> {
        let Some(text) = self.get("ts")? else { return Ok(None) };
        text.parse().map(|secs| Some(Timestamp::from_secs(secs))).map_err(|_| NoticeError::Unfit("ts"))
    }
}

/// Whether a text is an id: 1 to 100 of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// A host, with its port if that is not the usual one, in lower case; `None` if it is none.
#[must_use]
pub fn plain_host(text: &str) -> Option<String> {
    let host = text.to_ascii_lowercase();
    let host = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(&host);
    let fits = (1..=260).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    fits.then(|| host.to_owned())
}

#[cfg(test)]
#[path = "notice_tests.rs"]
mod tests;
