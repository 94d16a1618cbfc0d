//! Verification of an access token's owner: the authorization server's answer, compared with the claim.
//!
//! Must not use values of the claim: it must only not differ. Must not quote the token.

use serde_json::Value;

use super::identity::is_same;
use super::install_event::{ClaimedOwner, is_id};
use refreshd_secrets::mask::{clean, endpoint, mask};
use refreshd_time::Timestamp;
use refreshd_time::date::instant;
use refreshd_token_client::host::region_of;
use refreshd_token_client::host::{is_this_machine, plain_host};
use refreshd_token_client::provider::{Class, Profile, origin_of};
use refreshd_token_client::reply_error::error_of;

/// Owner of a token, from the authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    /// Permanent id of the portal.
    pub member_id: String,
    /// The user.
    pub user_id: String,
    /// Current host of the portal.
    pub host: String,
    /// Address of its API.
    pub endpoint: String,
    /// Status of the app (Bitrix24: `L`, `F`, `P`, …), if given.
    pub status: Option<String>,
}

/// A token's attributes, from the authorization server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresentedToken {
    /// Scope, as written.
    pub scope: Option<String>,
    /// Expiry.
    pub ends_at: Option<Timestamp>,
}

/// Result of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// A token of this client at the claimed portal.
    Owner(TokenOwner, PresentedToken),
    /// Rejected.
    Forged(VerifyError),
    /// Not conclusive; retried later.
    Later(String),
}

/// Why a claim was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Unknown, expired or revoked.
    #[error("the authorization server does not take its access token ({0})")]
    NoToken(String),
    /// Issued to another client.
    #[error("its access token is of another app")]
    OtherClient,
    /// The app is not installed there.
    #[error("the authorization server reports that the app is not installed there")]
    NotInstalled,
    /// Another portal.
    #[error("its access token is of another portal (another member_id)")]
    OtherMember,
    /// Another user.
    #[error("its access token is of another user")]
    OtherUser,
}

impl VerifyError {
    /// Returns whether the rejection is final. A server may not know the tokens of another, and an app is not installed until its
    /// installation ends: both are retried.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::NoToken(_) | Self::NotInstalled => false,
            Self::OtherClient | Self::OtherMember | Self::OtherUser => true,
        }
    }
}

/// Verification endpoints, most likely first: only servers of the profile, whatever the claim names. Empty: this provider has
/// no such endpoint.
#[must_use]
pub fn verification_urls(profile: &Profile, claims: &ClaimedOwner) -> Vec<String> {
    let Some(path) = profile.install.check.as_deref() else {
        return Vec::new();
    };
    let named = claims
        .server
        .as_deref()
        .and_then(|server| profile.renewal_url_on_host_of(server));
    let of_region = profile.token_url_for(claims.host.as_deref().and_then(region_of));
    let all = std::iter::once(profile.token_url.as_str())
        .chain(profile.token_url_by_region.values().map(String::as_str));
    let mut urls = Vec::new();
    for origin in named
        .into_iter()
        .chain([of_region])
        .chain(all)
        .filter_map(origin_of)
    {
        let place = format!("{origin}{path}");
        if !urls.contains(&place) {
            urls.push(place);
        }
    }
    urls
}

/// The portal's endpoint for a user's administrator status; `by` is the address of the authorization server that
/// named the portal. `None`: the provider has no such method, or nothing may be sent there. Only a server on this machine may
/// name a portal on this machine, and a portal's address must have a host name.
#[must_use]
pub fn admin_url(profile: &Profile, owner: &TokenOwner, by: &str) -> Option<String> {
    let method = profile.install.admin.as_deref()?;
    let by_this_machine = is_this_machine(&plain_host(by)?);
    let host = plain_host(&owner.endpoint)?;
    let is_named = matches!(
        url::Host::parse(
            host.rsplit_once(':')
                .map_or(host.as_str(), |(name, _)| name)
        ),
        Ok(url::Host::Domain(_))
    );
    let may = if by_this_machine {
        is_this_machine(&host)
    } else {
        is_named && !is_this_machine(&host)
    };
    may.then(|| format!("{}/{method}", owner.endpoint.trim_end_matches('/')))
}

/// Parses whether the user is an administrator; `None` if the response does not contain it.
#[must_use]
pub fn read_is_admin((status, body): (u16, &[u8])) -> Option<bool> {
    let body: Value = serde_json::from_slice(body)
        .ok()
        .filter(|_| status == 200)?;
    body.get("result")?.as_bool()
}

/// Parses the verification response. `secrets` are masked in its messages.
#[must_use]
pub fn verify(
    (status, body): (u16, &[u8]),
    profile: &Profile,
    client_id: &str,
    claims: &ClaimedOwner,
    secrets: &[&str],
) -> Verification {
    let not_understood = || {
        Verification::Later(format!(
            "it answered {status} with something else than was asked"
        ))
    };
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
        return not_understood();
    };
    if let Some((code, description)) = error_of(&body, profile) {
        let rule = profile
            .errors
            .iter()
            .find(|rule| rule.matches(status, &code, &description, Some(&body)));
        let lasts = match rule.map(|rule| rule.class) {
            Some(Class::Transient | Class::InDoubt | Class::NotSent | Class::TooEarly) => false,
            Some(_) => true,
            None => !matches!(status, 408 | 425 | 429 | 500..=599),
        };
        let code = mask(&code, secrets);
        return if lasts {
            Verification::Forged(VerifyError::NoToken(code))
        } else {
            Verification::Later(format!("it answered {status}, {code}"))
        };
    }
    match body.get("result").and_then(|result| owner(result, secrets)) {
        Some((client, ..)) if client != client_id => Verification::Forged(VerifyError::OtherClient),
        Some((_, false, ..)) => Verification::Forged(VerifyError::NotInstalled),
        Some((_, true, owner, token)) => match compare(&owner, claims) {
            Ok(()) => Verification::Owner(owner, token),
            Err(forgery) => Verification::Forged(forgery),
        },
        None => not_understood(),
    }
}

/// The client, whether the app is installed, the owner, and the token.
fn owner<'r>(
    result: &'r Value,
    secrets: &[&str],
) -> Option<(&'r str, bool, TokenOwner, PresentedToken)> {
    let install = result.get("install")?;
    let text = |name: &str| install.get(name).and_then(Value::as_str);
    let endpoint = endpoint(text("client_endpoint")?, secrets)?;
    let user_id = match result.get("user_id")? {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let owner = TokenOwner {
        member_id: text("member_id").filter(|id| is_id(id))?.to_owned(),
        user_id: is_id(&user_id).then_some(user_id)?,
        host: plain_host(&endpoint)?,
        endpoint,
        status: text("status")
            .filter(|status| is_id(status))
            .map(str::to_owned),
    };
    let token = PresentedToken {
        scope: result
            .get("scope")
            .and_then(Value::as_str)
            .map(|scope| clean(scope, secrets)),
        ends_at: result.get("expires").and_then(ends_at),
    };
    Some((
        result.get("client_id")?.as_str()?,
        install.get("installed")?.as_bool()?,
        owner,
        token,
    ))
}

/// A time, as a date or in unix seconds.
fn ends_at(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(number) => number.as_i64().map(Timestamp::from_secs),
        Value::String(text) => match text.trim().parse() {
            Ok(secs) => Some(Timestamp::from_secs(secs)),
            Err(_) => instant(text.trim()),
        },
        _ => None,
    }
}

fn compare(owner: &TokenOwner, claims: &ClaimedOwner) -> Result<(), VerifyError> {
    // The host is a hint: a portal has several names, may have been renamed, and a proxy may write its own.
    let ClaimedOwner {
        member_id,
        host: _,
        user_id,
        server: _,
    } = claims;
    if !is_same(&owner.member_id, member_id) {
        return Err(VerifyError::OtherMember);
    }
    if user_id
        .as_ref()
        .is_some_and(|user_id| *user_id != owner.user_id)
    {
        return Err(VerifyError::OtherUser);
    }
    Ok(())
}

/// User id in a reply: a number in some replies and a text in others.
#[must_use]
pub fn user_id(value: &Value) -> Option<String> {
    value
        .as_str()
        .map(str::to_owned)
        .or_else(|| value.as_u64().map(|id| id.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use refreshd_token_client::samples::profile;

    fn claims() -> ClaimedOwner {
        ClaimedOwner {
            member_id: "a223".into(),
            host: Some("acme.bitrix24.com".into()),
            user_id: None,
            server: None,
        }
    }

    fn answer() -> Value {
        json!({"result": {"client_id": "local.1", "user_id": 67, "install": {"installed": true, "status": "L",
            "client_endpoint": "https://acme.bitrix24.com/rest/", "member_id": "a223"}}, "time": {}})
    }

    fn verified(status: u16, answer: &Value, claims: &ClaimedOwner) -> Verification {
        verify(
            (status, answer.to_string().as_bytes()),
            &profile(),
            "local.1",
            claims,
            &["Y0urS3cretT0ken"],
        )
    }

    #[test]
    fn a_member_id_is_compared_without_case() {
        let claims = ClaimedOwner {
            member_id: "A223".into(),
            ..claims()
        };
        assert!(matches!(
            verified(200, &answer(), &claims),
            Verification::Owner(..)
        ));
    }

    #[test]
    fn the_owner_is_what_the_server_says() {
        let Verification::Owner(owner, _) = verified(200, &answer(), &claims()) else {
            panic!()
        };
        assert_eq!(
            (owner.user_id.as_str(), owner.host.as_str()),
            ("67", "acme.bitrix24.com")
        );
        let unclaimed = ClaimedOwner {
            host: None,
            ..claims()
        };
        assert!(matches!(
            verified(200, &answer(), &unclaimed),
            Verification::Owner(..)
        ));
    }

    #[test]
    fn whatever_differs_from_the_claim_is_a_forgery() {
        let refused = |change: fn(&mut Value), claims: &ClaimedOwner| {
            let mut answer = answer();
            change(&mut answer["result"]);
            match verified(200, &answer, claims) {
                Verification::Forged(forgery) => forgery,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            refused(|it| it["client_id"] = "local.2".into(), &claims()),
            VerifyError::OtherClient
        );
        assert_eq!(
            refused(|it| it["install"]["installed"] = false.into(), &claims()),
            VerifyError::NotInstalled
        );
        assert_eq!(
            refused(|it| it["install"]["member_id"] = "b".into(), &claims()),
            VerifyError::OtherMember
        );
        let user = ClaimedOwner {
            user_id: Some("1".into()),
            ..claims()
        };
        assert_eq!(refused(|_| {}, &user), VerifyError::OtherUser);
    }

    #[test]
    fn another_name_of_the_same_portal_is_no_forgery() {
        let alias = ClaimedOwner {
            host: Some("crm.company.com".into()),
            ..claims()
        };
        let Verification::Owner(owner, _) = verified(200, &answer(), &alias) else {
            panic!()
        };
        assert_eq!(
            owner.host, "acme.bitrix24.com",
            "the server names the portal"
        );
        for other in [
            "www.acme.bitrix24.com",
            "old-name.bitrix24.com",
            "127.0.0.1",
            "localhost",
        ] {
            let named = ClaimedOwner {
                host: Some(other.into()),
                ..claims()
            };
            let Verification::Owner(owner, _) = verified(200, &answer(), &named) else {
                panic!("{other}")
            };
            assert_eq!(
                (owner.host.as_str(), owner.endpoint.as_str()),
                ("acme.bitrix24.com", "https://acme.bitrix24.com/rest/"),
                "nothing of {other} is kept"
            );
        }
        for (endpoint, host) in [
            (
                "https://b24_test.company.local/rest/",
                "b24_test.company.local",
            ),
            ("https://портал.рф/rest/", "xn--80awhdgm.xn--p1ai"),
        ] {
            let mut answer = answer();
            answer["result"]["install"]["client_endpoint"] = endpoint.into();
            let Verification::Owner(owner, _) = verified(200, &answer, &alias) else {
                panic!("{endpoint}")
            };
            assert_eq!(owner.host, host);
        }
    }

    #[test]
    fn a_server_that_is_ill_is_asked_again_and_one_that_says_no_is_not() {
        let code = |status, code: &str| verified(status, &json!({"error": code}), &claims());
        assert!(matches!(
            code(400, "invalid_client"),
            Verification::Forged(VerifyError::NoToken(_))
        ));
        assert!(matches!(
            code(401, "expired_token"),
            Verification::Forged(VerifyError::NoToken(_))
        ));
        assert!(matches!(
            code(503, "QUERY_LIMIT_EXCEEDED"),
            Verification::Later(_)
        ));
        assert!(matches!(
            code(500, "INTERNAL_SERVER_ERROR"),
            Verification::Later(_)
        ));
        assert!(matches!(
            verify((502, b"<html>"), &profile(), "local.1", &claims(), &[]),
            Verification::Later(_)
        ));
        assert!(matches!(
            verified(200, &json!({"result": {}}), &claims()),
            Verification::Later(_)
        ));
    }

    #[test]
    fn nothing_of_an_answer_is_dangerous_or_secret() {
        let Verification::Forged(VerifyError::NoToken(code)) = verified(
            400,
            &json!({"error": "y0ur%53cretT0ken\u{202e}\n"}),
            &claims(),
        ) else {
            panic!()
        };
        assert_eq!(code, "…");
        for endpoint in [
            "javascript://acme.bitrix24.com/%0aalert(1)",
            "http://acme.bitrix24.com/rest/",
        ] {
            let mut answer = answer();
            answer["result"]["install"]["client_endpoint"] = endpoint.into();
            assert!(
                matches!(verified(200, &answer, &claims()), Verification::Later(_)),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn scope_and_end_are_what_the_server_says() {
        let mut answer = answer();
        answer["result"]["scope"] = "crm,im\u{202e}".into();
        answer["result"]["expires"] = "2026-06-01T12:00:00+00:00".into();
        let Verification::Owner(_, token) = verified(200, &answer, &claims()) else {
            panic!()
        };
        let end = Timestamp::from_secs(1_780_315_200);
        assert_eq!(
            token,
            PresentedToken {
                scope: Some("crm,im".into()),
                ends_at: Some(end)
            }
        );
    }

    #[test]
    fn only_the_named_portal_is_asked_about_administrators() {
        let mut profile = profile();
        let Verification::Owner(mut owner, _) = verified(200, &answer(), &claims()) else {
            panic!()
        };
        let server = "https://oauth.bitrix.info/rest/app.info";
        assert_eq!(
            admin_url(&profile, &owner, server),
            None,
            "the provider has no such method"
        );
        profile.install.admin = Some("user.admin".into());
        let place = "https://acme.bitrix24.com/rest/user.admin";
        assert_eq!(admin_url(&profile, &owner, server).as_deref(), Some(place));
        assert_eq!(
            admin_url(&profile, &owner, "http://127.0.0.1:9/rest/app.info"),
            None
        );
        for endpoint in [
            "http://127.0.0.1:9470/rest/",
            "https://localhost/rest/",
            "https://10.0.0.1/rest/",
            "https://[fe80::1]/rest/",
        ] {
            owner.endpoint = endpoint.into();
            assert_eq!(admin_url(&profile, &owner, server), None, "{endpoint}");
        }
        owner.endpoint = "http://127.0.0.1:9470/rest/".into();
        assert!(admin_url(&profile, &owner, "http://127.0.0.1:9/rest/app.info").is_some());
        assert_eq!(read_is_admin((200, b"{\"result\":true}")), Some(true));
        assert_eq!(read_is_admin((200, b"{\"result\":false}")), Some(false));
        for (status, body) in [
            (200, "{\"result\":\"true\"}"),
            (401, "{\"result\":true}"),
            (200, "<html>"),
        ] {
            assert_eq!(read_is_admin((status, body.as_bytes())), None);
        }
    }

    #[test]
    fn only_servers_of_the_profile_are_asked() {
        let ask = |server: Option<&str>, host: &str| {
            let claims = ClaimedOwner {
                server: server.map(Into::into),
                host: Some(host.into()),
                ..claims()
            };
            verification_urls(&profile(), &claims).remove(0)
        };
        let (info, tech) = (
            "https://oauth.bitrix.info/rest/app.info",
            "https://oauth.bitrix24.tech/rest/app.info",
        );
        assert_eq!(
            ask(
                Some("https://oauth.bitrix24.tech/rest/"),
                "acme.bitrix24.com"
            ),
            tech
        );
        assert_eq!(
            ask(Some("https://evil.example/rest/"), "acme.bitrix24.ru"),
            tech
        );
        assert_eq!(ask(None, "127.0.0.1"), info);
        assert_eq!(
            verification_urls(&profile(), &claims()),
            [info, tech],
            "each server once"
        );
        assert_eq!(
            ask(
                Some("https://oauth.bitrix.info@evil.example/"),
                "evil.example"
            ),
            info
        );
    }
}
