//! Grants that come from elsewhere: a token reply, CRest's `settings.json`, or a bare refresh token.
//!
//! Must not believe more than it needs: addresses in here are hints, checked against the allow-list when used.

use serde_json::{Map, Value};

use super::dialect::first;
use super::notice::Presented;
use super::provider::Profile;
use super::refresh_end::{self, Asked};
use super::reply::{Granted, SECRET_FIELDS, read_taken};
use super::secret::RefreshToken;
use super::time::Timestamp;
use super::token::{Access, Credential, Details, Tokens, Validity, believable};
use super::whose::Owner;

/// Largest text read as a grant, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// A grant to take in.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Its tokens. The access token is there only if its end is known and still ahead.
    pub tokens: Tokens,
    /// Whose grant it is, if it says so.
    pub identity: Option<String>,
    /// The authorization server it names.
    pub server: Option<String>,
    /// The client it says it belongs to.
    pub client_id: Option<String>,
}

/// Why a text is no grant. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// Nothing there.
    #[error("there is nothing in it")]
    Empty,
    /// Over [`LONGEST`].
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// Starts like JSON and is not.
    #[error("it begins like JSON but is none (line {line}, column {column})")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// More than one word and no JSON.
    #[error("it is neither JSON nor a bare refresh token (one word)")]
    NotAToken,
    /// An error reply was saved instead of a token reply.
    #[error("it is an error reply of the authorization server ({0}), not a token")]
    ErrorReply(String),
    /// No refresh token: nothing to keep fresh.
    #[error("it has no refresh_token, and without one there is nothing to renew with")]
    NoRefreshToken,
}

/// Reads a grant in any of the accepted forms.
///
/// # Errors
/// [`IntakeError`] says what it is instead.
pub fn parse(text: &str, profile: &Profile, now: Timestamp) -> Result<Intake, IntakeError> {
    if text.len() > LONGEST {
        return Err(IntakeError::TooLong);
    }
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with(['{', '[']) {
        return from_json(&object(text)?, profile, now);
    }
    let refresh = RefreshToken::new(text).ok_or(IntakeError::Empty)?;
    if text.contains(char::is_whitespace) || text.contains(char::is_control) {
        return Err(IntakeError::NotAToken);
    }
    Ok(Intake {
        tokens: Tokens {
            access: None,
            credential: Credential::Refresh(refresh),
            details: Details::default(),
            validity: Validity::default(),
        },
        identity: None,
        server: None,
        client_id: None,
    })
}

/// JSON; one in single quotes, as `oint twitter --auth` takes it, is taken too.
fn object(text: &str) -> Result<Map<String, Value>, IntakeError> {
    let parsed = serde_json::from_str(text);
    let single = || serde_json::from_str(&text.replace('\'', "\"")).ok().filter(|_| !text.contains('"'));
    parsed
        .or_else(|error| single().ok_or(IntakeError::NotJson { line: error.line(), column: error.column() }))
}

fn from_json(body: &Map<String, Value>, profile: &Profile, now: Timestamp) -> Result<Intake, IntakeError> {
    if let Some(code) = body.get("error").and_then(Value::as_str).filter(|code| !code.is_empty()) {
        let secrets: Vec<_> = SECRET_FIELDS.iter().filter_map(|field| body.get(*field)?.as_str()).collect();
        return Err(IntakeError::ErrorReply(super::mask::mask(code, &secrets)));
    }
    let text = |key: &str| body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let refresh =
        first(&profile.reply.refresh_token, body).and_then(Value::as_str).or_else(|| text("refresh_token"));
    let refresh = refresh.and_then(RefreshToken::new).ok_or(IntakeError::NoRefreshToken)?;
    // Of the twitter authorization of `oint`, of an event of Bitrix24's, and of CRest.
    let client_id = text("client_id").or_else(|| text("C_REST_CLIENT_ID")).map(str::to_owned);
    let Some(granted) = read_taken(body, profile, now) else {
        let tokens = Tokens {
            access: None,
            credential: Credential::Refresh(refresh),
            details: Details::default(),
            validity: Validity::default(),
        };
        return Ok(Intake { tokens, identity: None, server: None, client_id });
    };
    // `expires_in` counts from a moment nobody wrote down; only the absolute `expires` can be believed.
    // Not even that beyond a whole life from now: the clock of whoever wrote it was ahead.
    // Of a life that had ended when it was written down nothing can be said.
    let lifetime =
        Some(granted.lives.span()).filter(|life| !life.is_zero()).unwrap_or(profile.assumed_lifetime);
    let lifetime = believable(lifetime);
    let ends_at = ends_at(body).filter(|at| *at > now).map(|at| at.min(now + lifetime));
    let access = ends_at.map(|expires_at| Access {
        token: granted.access,
        token_type: granted.token_type,
        issued_at: expires_at - lifetime,
        expires_at,
    });
    debug_assert!(granted.details.fields.keys().all(|field| !SECRET_FIELDS.contains(&field.as_str())));
    Ok(Intake {
        tokens: Tokens {
            access,
            credential: Credential::Refresh(refresh),
            details: granted.details,
            // It would count from a moment nobody wrote down; the first renewal says it.
            validity: Validity::default(),
        },
        identity: granted.identity,
        server: granted.server,
        client_id,
    })
}

/// Puts what a verified notice brought into the words of a token reply, with what the authorization server says of it.
///
/// # Errors
/// [`IntakeError`].
pub fn from_notice(
    presented: &Presented,
    owner: &Owner,
    profile: &Profile,
    now: Timestamp,
) -> Result<Intake, IntakeError> {
    let Presented { access, refresh, claims, application_token: _, sent_at: _, expires, scope } = presented;
    let Owner { member_id, user_id, host: _, endpoint, status } = owner;
    let mut body = Map::new();
    let mut put = |name: Option<&str>, value: Option<&str>| {
        if let (Some(name), Some(value)) = (name, value) {
            body.insert(name.to_owned(), value.into());
        }
    };
    put(Some("access_token"), Some(access.expose()));
    put(Some("refresh_token"), Some(refresh.expose()));
    put(Some("expires"), expires.as_deref());
    put(Some("scope"), scope.as_deref());
    put(Some("status"), status.as_deref());
    put(profile.identity_field.as_deref(), Some(member_id));
    put(profile.endpoint_field.as_deref(), Some(endpoint));
    put(profile.server_field.as_deref(), claims.server.as_deref());
    // As in a token reply, where it is a number.
    let user = user_id.parse::<u64>().map_or_else(|_| Value::from(user_id.as_str()), Value::from);
    body.insert("user_id".to_owned(), user);
    from_json(&body, profile, now)
}

/// A grant that came in answer to our own request, sent at that moment; `None` without a refresh token.
#[must_use]
pub fn from_granted(granted: Granted, sent_at: Timestamp) -> Option<Intake> {
    let Granted { access, refresh, token_type, lives, identity, server, details } = granted;
    let access = Access { token: access, token_type, issued_at: sent_at, expires_at: sent_at + lives.span() };
    let asked = Asked { before_at: sent_at, sent_at };
    let validity =
        Validity { refresh: refresh_end::after(None, &lives.refresh, true, asked), notice: lives.notice() };
    let tokens =
        Tokens { access: Some(access), credential: Credential::Refresh(refresh?), details, validity };
    Some(Intake { tokens, identity, server, client_id: None })
}

/// The absolute end in unix seconds, a number or a string (Bitrix24's events).
fn ends_at(body: &Map<String, Value>) -> Option<Timestamp> {
    let secs = match body.get("expires")? {
        Value::Number(number) => number.as_i64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Some(Timestamp::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::super::provider::tests::profile;
    use super::*;

    fn taken(text: &str) -> Result<Intake, IntakeError> {
        parse(text, &profile(), Timestamp::from_secs(1_728_455_000))
    }

    #[test]
    fn a_token_reply_as_oint_prints_it() {
        let intake = taken(
            r#"{"access_token":"6b2e06","expires":1728458347,"expires_in":3600,"scope":"app",
            "server_endpoint":"https://oauth.bitrix.info/rest/","status":"L","client_endpoint":"https://b24.bitrix24.by/rest/",
            "member_id":"00168f","user_id":1,"refresh_token":"5bad2d"}"#,
        )
        .unwrap();
        assert_eq!(intake.identity.as_deref(), Some("00168f"));
        assert_eq!(intake.tokens.access.unwrap().expires_at.secs(), 1_728_458_347);
        assert_eq!(intake.tokens.credential.refresh().unwrap().expose(), "5bad2d");
        assert_eq!(intake.tokens.details.endpoint.as_deref(), Some("https://b24.bitrix24.by/rest/"));
    }

    #[test]
    fn an_end_that_a_wrong_clock_wrote_is_not_believed_beyond_a_whole_life() {
        let now = Timestamp::from_secs(1_728_455_000);
        for (expires, left) in [
            ("1728458347", Some(3347)),
            ("\"1728458347\"", Some(3347)),
            // Ten years ahead, and beyond all time.
            ("2043815000", Some(3600)),
            ("9223372036854775807", Some(3600)),
            ("1728455000", None),
            ("0", None),
            ("-1", None),
            ("1e12", None),
            ("18446744073709551615", None),
            ("\"soon\"", None),
            ("null", None),
        ] {
            let reply = format!(
                r#"{{"access_token":"6b2e06","expires":{expires},"expires_in":3600,"refresh_token":"5bad2d"}}"#
            );
            let access = taken(&reply).unwrap().tokens.access;
            let life = access
                .as_ref()
                .map(|access| (access.expires_at.since(now).as_secs(), access.lifetime().as_secs()));
            assert_eq!(life, left.map(|left| (left, 3600)), "{expires}");
        }
    }

    #[test]
    fn crest_settings_have_no_known_end_and_so_no_access_token() {
        let intake = taken(
            r#"{"access_token":"6b2e06","expires_in":"3600","application_token":"x","refresh_token":"5bad2d",
            "domain":"acme.bitrix24.com","client_endpoint":"https:\/\/acme.bitrix24.com\/rest\/","C_REST_CLIENT_SECRET":"s"}"#,
        )
        .unwrap();
        assert!(intake.tokens.access.is_none());
        assert!(!format!("{intake:?}").contains("5bad2d"));
    }

    #[test]
    fn the_authorization_of_oint_twitter_in_either_kind_of_quotes() {
        let auth = r#"{"redirect_uri":"https://app.example","scope":"tweet.read offline.access","client_id":"c1","client_secret":"s",
            "access_token":"a1","refresh_token":"TmttM1","oauth_token":"o","oauth_token_secret":"os","oauth_consumer_key":"k"}"#;
        for text in [auth.to_owned(), auth.replace('"', "'")] {
            let intake = taken(&text).unwrap();
            assert_eq!(intake.tokens.credential.refresh().unwrap().expose(), "TmttM1");
            assert_eq!((intake.client_id.as_deref(), intake.tokens.access.is_none()), (Some("c1"), true));
            assert_eq!(intake.tokens.details.scope, ["tweet.read", "offline.access"]);
        }
        let mixed = r#"{'refresh_token': "TmttM1"}"#;
        assert!(matches!(taken(mixed), Err(IntakeError::NotJson { .. })));
    }

    #[test]
    fn a_bare_refresh_token() {
        assert_eq!(taken("5bad2d67\n").unwrap().tokens.credential.refresh().unwrap().expose(), "5bad2d67");
    }

    #[test]
    fn what_is_no_grant_is_said_without_quoting_it() {
        for (text, expected) in [
            ("", IntakeError::Empty),
            ("  \n", IntakeError::Empty),
            ("two words", IntakeError::NotAToken),
            (r#"{"access_token":"a"}"#, IntakeError::NoRefreshToken),
            (r#"{"refresh_token":""}"#, IntakeError::NoRefreshToken),
            (r#"{"error":"expired_token"}"#, IntakeError::ErrorReply("expired_token".into())),
            (r#"{"error":"bad 5bad2d","refresh_token":"5bad2d"}"#, IntakeError::ErrorReply("bad …".into())),
            ("{\"refresh_token\":\"5bad\n", IntakeError::NotJson { line: 1, column: 22 }),
        ] {
            assert_eq!(taken(text).unwrap_err(), expected, "{text}");
        }
    }
}
