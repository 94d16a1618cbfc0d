//! A pending authorization: its expected callback, and the callback's parser (RFC 6749 section 4.1).
//!
//! Must not send anything, nor accept a redirect that does not belong to a pending authorization.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::Deserialize;
use serde_json::Value;
use url::form_urlencoded;

use super::name::PortalName;
pub use super::pasted_callback::starts_callback;
use super::pasted_callback::{Pasted, decode_nested, find};
use refreshd_secrets::mask::{mask, page};
use refreshd_secrets::{AuthorizationCode, CodeVerifier, DeviceCode};
use refreshd_time::Timestamp;
use refreshd_token_client::body_decoding::{decode, unpack};
use refreshd_token_client::lenient::parse as parse_json;

/// A pending authorization is deleted after this time.
pub const PENDING_TIMEOUT: Duration = Duration::from_secs(3600);
/// Default polling interval of a device (RFC 8628 section 3.2).
const DEVICE_INTERVAL: Duration = Duration::from_secs(5);
/// `slow_down` adds this to the interval, permanently (RFC 8628 section 3.5).
const SLOW_DOWN_STEP: Duration = Duration::from_secs(5);

/// A pending authorization.
#[derive(Debug)]
pub struct PendingAuthorization {
    /// The portal to authorize.
    pub portal: PortalName,
    /// The `state` parameter that the redirect must repeat; the identifier of flows without a redirect.
    pub state: String,
    /// Start of the authorization.
    pub begun_at: Timestamp,
    /// The flow, with its parameters.
    pub flow: AuthorizationFlow,
}

/// Channel of the user's consent.
#[derive(Debug)]
pub enum AuthorizationFlow {
    /// Redirect to a browser.
    Redirect {
        /// PKCE verifier for the code exchange (RFC 7636).
        verifier: Option<CodeVerifier>,
        /// Redirect URI; `None` if the provider has it registered.
        redirect_uri: Option<String>,
        /// `nonce` that the ID token of an OpenID request must repeat.
        nonce: Option<String>,
    },
    /// Consent on another device (RFC 8628).
    Device {
        /// Device code to poll with.
        code: DeviceCode,
        /// Minimum polling interval.
        interval: Duration,
        /// Expiry of the codes.
        ends_at: Timestamp,
        /// Description of the last response that was not conclusive.
        last: Option<String>,
    },
}

/// The parsed callback of a browser.
#[derive(Debug)]
pub struct Redirected {
    /// The code, or the error of the server ([`AnswerError::Refused`]). Must not be shown before `state` and `issuer` are
    /// known to be ours: these requests are unauthenticated.
    pub code: Result<AuthorizationCode, AnswerError>,
    /// The repeated `state`; `None` for a bare code.
    pub state: Option<String>,
    /// The issuer (RFC 9207).
    pub issuer: Option<String>,
    /// The other parameters, by name.
    pub parameters: BTreeMap<String, String>,
}

/// Why an input is not a valid callback. Quotes nothing but the server's own masked words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Empty, or neither an address nor a code.
    #[error("this is neither the address that the browser was sent to nor a code")]
    NotAnAnswer,
    /// An address without a code.
    #[error("the address has no `code` in it; copy all of it from the browser's address bar")]
    NoCode,
    /// RFC 6749 section 4.1.2.1.
    #[error("the authorization server denied it: {0}")]
    Refused(String),
    /// The `state` is unknown, expired or of another portal.
    #[error(
        "it does not belong to an authorization of this portal that was begun here in the last hour; begin again"
    )]
    OtherState,
    /// RFC 9207 section 2.4.
    #[error(
        "another authorization server answered than the one that was asked; nothing was sent to either"
    )]
    OtherIssuer,
    /// RFC 7636.
    #[error(
        "this provider exchanges a code only for who began the authorization; begin it with this command"
    )]
    NoVerifier,
}

/// Parses a callback: the exact query of a browser, which begins with a question mark, or pasted text (an address,
/// its query or the bare code), see `pasted_callback`.
///
/// # Errors
/// [`AnswerError`].
pub fn parse(text: &str) -> Result<Redirected, AnswerError> {
    if let Some(query) = text.strip_prefix('?').filter(|query| is_exact(query)) {
        return redirected(query, false);
    }
    match find(text).ok_or(AnswerError::NotAnAnswer)? {
        Pasted::Parameters { query, of_address } => {
            let mut redirected = redirected(&query, true)?;
            // A code with a label is still a bare code.
            if !of_address && redirected.state.as_ref().is_some_and(String::is_empty) {
                redirected.state = None;
            }
            Ok(redirected)
        }
        Pasted::Address => Err(AnswerError::NoCode),
        Pasted::Word(code) => {
            let code = AuthorizationCode::new(&code).ok_or(AnswerError::NotAnAnswer)?;
            Ok(Redirected {
                code: Ok(code),
                state: None,
                issuer: None,
                parameters: BTreeMap::new(),
            })
        }
    }
}

/// Returns whether a browser can have sent this query. Pasted text is not exact.
fn is_exact(query: &str) -> bool {
    query.len() <= 16 * 1024
        && query.bytes().all(|byte| byte.is_ascii_graphic())
        && !query.contains("&amp;")
}

fn redirected(query: &str, pasted: bool) -> Result<Redirected, AnswerError> {
    let mut parameters: BTreeMap<String, String> =
        form_urlencoded::parse(query.split('#').next().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let error = parameters.remove("error").filter(|error| !error.is_empty());
    let description = parameters
        .remove("error_description")
        .filter(|description| !description.is_empty());
    let code = parameters.remove("code");
    let code = if pasted {
        code.as_deref().map(decode_nested)
    } else {
        code
    };
    let code = match (error, description) {
        (Some(error), Some(description)) => Err(AnswerError::Refused(mask(
            &format!("{error}: {description}"),
            &[],
        ))),
        (Some(error), None) => Err(AnswerError::Refused(mask(&error, &[]))),
        (None, _) => Ok(code
            .as_deref()
            .and_then(AuthorizationCode::new)
            .ok_or(AnswerError::NoCode)?),
    };
    Ok(Redirected {
        code,
        state: Some(parameters.remove("state").unwrap_or_default()),
        issuer: parameters.remove("iss"),
        parameters,
    })
}

impl PendingAuthorization {
    /// Returns whether this authorization belongs to the portal and has this `state`.
    #[must_use]
    pub fn is(&self, portal: &PortalName, state: &str, now: Timestamp) -> bool {
        self.portal == *portal
            && self.is_open(now)
            && verify_slices_are_equal(self.state.as_bytes(), state.as_bytes()).is_ok()
    }

    /// Returns whether the authorization can still be completed.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        now.since(self.begun_at) < PENDING_TIMEOUT
    }
}

/// Response of a device authorization endpoint.
#[derive(Debug)]
pub struct DeviceCodes {
    /// Code to poll with.
    pub device_code: DeviceCode,
    /// Code for the user to type.
    pub user_code: String,
    /// Address at which to type it.
    pub verification_uri: String,
    /// The same address with the code in it.
    pub verification_uri_complete: Option<String>,
    /// Lifetime of both codes.
    pub expires_in: Duration,
    /// Minimum polling interval.
    pub interval: Duration,
}

/// Why a response has no device codes. Quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceCodesError {
    /// Another error.
    #[error("the server answers a device with no codes")]
    Other,
    /// The user code is not valid.
    #[error("the server's user_code is not 1 to 40 printable characters of ASCII")]
    UserCode,
    /// The verification address is not valid.
    #[error("the server's verification_uri is no https address")]
    Address,
}

/// Maximum length of a user code, in characters.
const MAX_USER_CODE_LENGTH: usize = 40;

/// Parses the response of a device authorization endpoint (RFC 8628 section 3.2).
///
/// # Errors
/// [`DeviceCodesError`].
pub fn device_codes(body: &[u8]) -> Result<DeviceCodes, DeviceCodesError> {
    #[derive(Deserialize)]
    struct CallbackAnswer {
        device_code: String,
        user_code: String,
        // The name of Google and of the draft of RFC 8628.
        #[serde(alias = "verification_url")]
        verification_uri: String,
        verification_uri_complete: Option<String>,
        expires_in: Option<Value>,
        interval: Option<Value>,
    }
    let secs = |value: Option<Value>| match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let found = object_with(body, "device_code").ok_or(DeviceCodesError::Other)?;
    let CallbackAnswer {
        device_code,
        user_code,
        verification_uri,
        verification_uri_complete,
        expires_in,
        interval,
    } = serde_json::from_value(found).map_err(|_| DeviceCodesError::Other)?;
    let user_code = user_code.trim();
    let typeable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if !(1..=MAX_USER_CODE_LENGTH).contains(&user_code.len()) || !user_code.bytes().all(typeable) {
        return Err(DeviceCodesError::UserCode);
    }
    Ok(DeviceCodes {
        device_code: DeviceCode::new(&device_code).ok_or(DeviceCodesError::Other)?,
        user_code: user_code.to_owned(),
        verification_uri: page(&verification_uri).ok_or(DeviceCodesError::Address)?,
        verification_uri_complete: verification_uri_complete.as_deref().and_then(page),
        expires_in: Duration::from_secs(secs(expires_in).unwrap_or(600).clamp(1, 3600)),
        interval: secs(interval).map_or(DEVICE_INTERVAL, |secs| {
            Duration::from_secs(secs.clamp(1, 60))
        }),
    })
}

/// The first object with this member, in any encoding and after any prefix.
fn object_with(body: &[u8], name: &str) -> Option<Value> {
    let unpacked = unpack(body);
    let text = decode(unpacked.as_ref().map_or(body, |unpacked| &unpacked.bytes));
    let starts = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'{')
        .take(16);
    starts
        .filter_map(|(at, _)| Some(parse_json(&text[at..], &[]).ok()?.value))
        .find(|value| value.get(name).is_some())
}

/// Polling interval after a response without a token (RFC 8628 section 3.5); `None` stops the polling.
#[must_use]
pub fn next_poll_interval(code: Option<&str>, interval: Duration) -> Option<Duration> {
    match code? {
        "authorization_pending" => Some(interval),
        "slow_down" => Some(interval + SLOW_DOWN_STEP),
        _ => None,
    }
}

/// Returns whether an error code ends the polling: the codes of RFC 8628 section 3.5 and RFC 6749 section 5.2, and Microsoft's
/// names for the first two. Any other response, such as the page of a proxy, may be temporary.
#[must_use]
pub fn ends_polling(code: &str) -> bool {
    matches!(
        code,
        "access_denied"
            | "expired_token"
            | "authorization_declined"
            | "bad_verification_code"
            | "invalid_request"
            | "invalid_client"
            | "invalid_grant"
            | "unauthorized_client"
            | "unsupported_grant_type"
            | "invalid_scope"
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_address_a_query_and_a_bare_code_are_read() {
        for text in [
            "https://app.example/cb?code=c1&state=s1&domain=acme.bitrix24.com&member_id=m1",
            "http://127.0.0.1:9471/oauth/callback?domain=acme.bitrix24.com&member_id=m1&state=s1&code=c1#x",
            "code=c1&state=s1&domain=acme.bitrix24.com&member_id=m1",
            "  ?state=s1&code=c1&member_id=m1&domain=acme.bitrix24.com\n",
        ] {
            let redirected = parse(text).unwrap();
            assert_eq!(
                (
                    redirected.code.as_ref().unwrap().expose(),
                    redirected.state.as_deref()
                ),
                ("c1", Some("s1")),
                "{text}"
            );
            assert_eq!(redirected.parameters.len(), 2, "{text}");
            assert_eq!(
                redirected.parameters["domain"], "acme.bitrix24.com",
                "{text}"
            );
        }
        let bare = parse(" 6dm7bdbh6akpc9tax2lp3fih05m5gtf2\n").unwrap();
        assert_eq!(
            (bare.code.unwrap().expose(), bare.state),
            ("6dm7bdbh6akpc9tax2lp3fih05m5gtf2", None)
        );
        let encoded = parse("https://a/cb?code=a%2Fb%3D&state=s%26&iss=https%3A%2F%2Fa").unwrap();
        assert_eq!(
            (
                encoded.code.as_ref().unwrap().expose(),
                encoded.state.as_deref()
            ),
            ("a/b=", Some("s&"))
        );
        assert_eq!(encoded.issuer.as_deref(), Some("https://a"));
    }

    #[test]
    fn what_a_browser_sends_is_exact_and_what_a_person_pastes_is_not() {
        let code = |text: &str| parse(text).unwrap().code.unwrap().expose().to_owned();
        assert_eq!(code("?code=4%2F0Axyz&state=s1"), "4/0Axyz");
        assert_eq!(
            code("?code=a%252Fb&state=s1"),
            "a%2Fb",
            "the server's own percent sign"
        );
        assert_eq!(code("https://a/cb?code=4%252F0Axyz&state=s1"), "4/0Axyz");
        assert_eq!(code("4%2F0Axyz"), "4/0Axyz");
        for bare in ["code=4%2F0Axyz", "\"4/0Axyz\""] {
            let bare = parse(bare).unwrap();
            assert_eq!((bare.code.unwrap().expose(), bare.state), ("4/0Axyz", None));
        }
        for foreign in ["?code=c1", "https://a/cb?code=c1"] {
            assert_eq!(
                parse(foreign).unwrap().state.as_deref(),
                Some(""),
                "{foreign}: not a bare code"
            );
        }
    }

    #[test]
    fn what_is_no_answer_is_said() {
        for (text, expected) in [
            ("", AnswerError::NotAnAnswer),
            ("two words", AnswerError::NotAnAnswer),
            ("https://app.example/cb", AnswerError::NoCode),
            ("https://app.example/cb?state=s1", AnswerError::NoCode),
            ("https://app.example/cb?code=&state=s1", AnswerError::NoCode),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        let denial = "https://app.example/cb?error=access_denied&error_description=the+user\u{202e}+said+no%1B&state=s";
        let denial = parse(denial).unwrap();
        assert_eq!(
            denial.code.unwrap_err(),
            AnswerError::Refused("access_denied: the user said no".into())
        );
        assert_eq!(
            denial.state.as_deref(),
            Some("s"),
            "it is not believed before this was looked at"
        );
    }

    #[test]
    fn only_the_portals_own_open_authorization_is_answered() {
        let acme = PortalName::parse("acme").unwrap();
        let flow = AuthorizationFlow::Redirect {
            verifier: None,
            redirect_uri: None,
            nonce: None,
        };
        let begun_at = Timestamp::from_secs(1_795_000_000);
        let pending = PendingAuthorization {
            portal: acme.clone(),
            state: "s1".into(),
            begun_at,
            flow,
        };
        assert!(pending.is(&acme, "s1", begun_at));
        assert!(!pending.is(&acme, "s2", begun_at) && !pending.is(&acme, "", begun_at));
        assert!(!pending.is(&PortalName::parse("globex").unwrap(), "s1", begun_at));
        assert!(!pending.is(&acme, "s1", begun_at + PENDING_TIMEOUT));
    }

    #[test]
    fn a_device_asks_at_the_pace_of_the_server() {
        let body = br#"{"device_code":"d","user_code":"WDJB-MJHT","verification_url":"https://a/device","expires_in":"1800"}"#;
        let codes = device_codes(body).unwrap();
        assert_eq!(
            (codes.expires_in.as_secs(), codes.interval.as_secs()),
            (1800, 5)
        );
        assert_eq!(
            next_poll_interval(Some("authorization_pending"), codes.interval),
            Some(codes.interval)
        );
        assert_eq!(
            next_poll_interval(Some("slow_down"), codes.interval),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            (
                next_poll_interval(Some("access_denied"), SLOW_DOWN_STEP),
                next_poll_interval(None, SLOW_DOWN_STEP)
            ),
            (None, None)
        );
        assert_eq!(
            device_codes(br#"{"device_code":"d"}"#).unwrap_err(),
            DeviceCodesError::Other
        );
        let marked = [b"\xef\xbb\xbf", &body[..]].concat();
        assert_eq!(device_codes(&marked).unwrap().user_code, "WDJB-MJHT");
        assert!(ends_polling("access_denied") && ends_polling("expired_token"));
        assert!(
            !ends_polling("forbidden")
                && !ends_polling("slow_down")
                && !ends_polling("server_error")
        );
    }

    #[test]
    fn a_device_shows_a_code_that_can_be_typed_and_a_page_that_can_be_opened() {
        let plain =
            r#"{"device_code":"d","user_code":"AB","verification_uri":"https://a.example/d"}"#;
        let mut gzip = Vec::new();
        flate2::read::GzEncoder::new(plain.as_bytes(), flate2::Compression::fast())
            .read_to_end(&mut gzip)
            .unwrap();
        for body in [
            gzip,
            format!("<br />\n<b>Notice</b>: {{x}}\n{plain}").into_bytes(),
            format!("\u{feff}{plain}").into_bytes(),
        ] {
            assert_eq!(device_codes(&body).unwrap().user_code, "AB");
        }
        let codes = |user_code: &str, uri: &str| {
            let body = serde_json::json!({"device_code": "d", "user_code": user_code, "verification_uri": uri,
                "verification_uri_complete": format!("{uri}?user_code=1")});
            device_codes(body.to_string().as_bytes())
        };
        let good = codes("WDJB MJHT", "https://LOGIN.example/device").unwrap();
        assert_eq!(
            (good.user_code.as_str(), good.verification_uri.as_str()),
            ("WDJB MJHT", "https://login.example/device")
        );
        assert_eq!(
            good.verification_uri_complete.as_deref(),
            Some("https://login.example/device?user_code=1")
        );
        assert!(codes("A", "http://127.0.0.1:80/device").is_ok());
        for code in [
            "",
            " ",
            "a\u{1b}[2J",
            "WDJB\u{202e}MJHT",
            "ПРИВЕТ",
            &"A".repeat(41),
        ] {
            assert_eq!(
                codes(code, "https://a/device").unwrap_err(),
                DeviceCodesError::UserCode,
                "{code:?}"
            );
        }
        for uri in [
            "http://a/device",
            "javascript:alert(1)",
            "a/device",
            "https://a/\u{1b}[2J",
            "https://u:p@a/",
            "",
        ] {
            assert_eq!(
                codes("A", uri).unwrap_err(),
                DeviceCodesError::Address,
                "{uri:?}"
            );
        }
    }
}
