//! A person's authorization under way: what is waited for, and what came back from the browser (RFC 6749 section 4.1).
//!
//! Must not send anything, nor believe a redirect that nobody asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::Deserialize;
use serde_json::Value;
use url::form_urlencoded;

use super::name::PortalName;
pub use super::pasted_callback::begins_an_answer;
use super::pasted_callback::{Pasted, decoded_to_the_end, find};
use refreshd_secrets::mask::{mask, page};
use refreshd_secrets::{AuthorizationCode, CodeVerifier, DeviceCode};
use refreshd_time::Timestamp;
use refreshd_token_client::body_decoding::{decode, unpack};
use refreshd_token_client::lenient::parse as parse_json;

/// An authorization that nobody finished is forgotten after this time.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// How often a device asks, if the server does not say (RFC 8628 section 3.2).
const DEVICE_INTERVAL: Duration = Duration::from_secs(5);
/// What `slow_down` adds, for good (RFC 8628 section 3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// An authorization that was begun.
#[derive(Debug)]
pub struct PendingAuthorization {
    /// For which portal.
    pub portal: PortalName,
    /// What its redirect must repeat, or what names it where there is no redirect.
    pub state: String,
    /// When it began.
    pub begun_at: Timestamp,
    /// What it waits for.
    pub way: AuthorizationFlow,
}

/// How a person's word reaches us.
#[derive(Debug)]
pub enum AuthorizationFlow {
    /// By a browser.
    Redirect {
        /// What the code is exchanged with.
        verifier: Option<CodeVerifier>,
        /// Where the browser is sent; `None` where the provider knows by itself.
        redirect_uri: Option<String>,
        /// What an ID token must repeat, of an OpenID request.
        nonce: Option<String>,
    },
    /// By another device.
    Device {
        /// What is asked with.
        code: DeviceCode,
        /// How often, at most.
        interval: Duration,
        /// When the codes end.
        ends_at: Timestamp,
        /// What the server said last that was no answer, in words.
        last: Option<String>,
    },
}

/// What a browser brought back.
#[derive(Debug)]
pub struct Redirected {
    /// The code, or what the server said instead ([`AnswerError::Refused`]). Must not be shown before `state` and `issuer` are
    /// known to be ours: anybody can send a browser here.
    pub code: Result<AuthorizationCode, AnswerError>,
    /// What was asked to be repeated; `None` of a bare code.
    pub state: Option<String>,
    /// Who answered (RFC 9207).
    pub issuer: Option<String>,
    /// The other parameters, by name.
    pub parameters: BTreeMap<String, String>,
}

/// Why what was brought is no answer. Quotes nothing but the server's own masked words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Nothing, or neither an address nor a word.
    #[error("this is neither the address that the browser was sent to nor a code")]
    NotAnAnswer,
    /// An address without a code.
    #[error("the address has no `code` in it; copy all of it from the browser's address bar")]
    NoCode,
    /// RFC 6749 section 4.1.2.1.
    #[error("the authorization server says no: {0}")]
    Refused(String),
    /// Of another authorization, or of somebody else's.
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

/// Reads what came back: the query as a browser brings it, which begins with a question mark and is exact, or what a
/// person pasted: the whole address, its query, or the bare code, as `pasted_callback` finds it.
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
            // A code with its name before it is a bare code all the same.
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

/// Whether a browser can have sent it: what a person pastes may have anything in it.
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
        code.as_deref().map(decoded_to_the_end)
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
    /// Whether this is the authorization of that portal with that state.
    #[must_use]
    pub fn is(&self, portal: &PortalName, state: &str, now: Timestamp) -> bool {
        self.portal == *portal
            && self.is_open(now)
            && verify_slices_are_equal(self.state.as_bytes(), state.as_bytes()).is_ok()
    }

    /// Whether somebody may still finish it.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        now.since(self.begun_at) < FORGOTTEN_AFTER
    }
}

/// What a device shows to a person, and asks with.
#[derive(Debug)]
pub struct DeviceCodes {
    /// Asked with.
    pub device_code: DeviceCode,
    /// Typed by a person.
    pub user_code: String,
    /// Where it is typed.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    /// How long both live.
    pub expires_in: Duration,
    /// How often to ask, at most.
    pub interval: Duration,
}

/// Why an answer gives a device no codes. Quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCodes {
    /// Something else.
    #[error("the server answers a device with no codes")]
    Other,
    /// The code that a person types is none.
    #[error("the server's user_code is not 1 to 40 printable characters of ASCII")]
    UserCode,
    /// Where it is typed is no page.
    #[error("the server's verification_uri is no https address")]
    Address,
}

/// Longest code that a person types, in characters.
const LONGEST_USER_CODE: usize = 40;

/// Reads what a device authorization endpoint answers (RFC 8628 section 3.2).
///
/// # Errors
/// [`NoCodes`].
pub fn device_codes(body: &[u8]) -> Result<DeviceCodes, NoCodes> {
    #[derive(Deserialize)]
    struct CallbackAnswer {
        device_code: String,
        user_code: String,
        // As Google, and the draft, have it.
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
    let found = object_with(body, "device_code").ok_or(NoCodes::Other)?;
    let CallbackAnswer {
        device_code,
        user_code,
        verification_uri,
        verification_uri_complete,
        expires_in,
        interval,
    } = serde_json::from_value(found).map_err(|_| NoCodes::Other)?;
    let user_code = user_code.trim();
    let typeable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if !(1..=LONGEST_USER_CODE).contains(&user_code.len()) || !user_code.bytes().all(typeable) {
        return Err(NoCodes::UserCode);
    }
    Ok(DeviceCodes {
        device_code: DeviceCode::new(&device_code).ok_or(NoCodes::Other)?,
        user_code: user_code.to_owned(),
        verification_uri: page(&verification_uri).ok_or(NoCodes::Address)?,
        verification_uri_complete: verification_uri_complete.as_deref().and_then(page),
        expires_in: Duration::from_secs(secs(expires_in).unwrap_or(600).clamp(1, 3600)),
        interval: secs(interval).map_or(DEVICE_INTERVAL, |secs| {
            Duration::from_secs(secs.clamp(1, 60))
        }),
    })
}

/// The first object with this member, however the body is packed or what stands before it.
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

/// What a device does when it was not given a token (RFC 8628 section 3.5): asks again after so long, or stops.
#[must_use]
pub fn asks_again(code: Option<&str>, interval: Duration) -> Option<Duration> {
    match code? {
        "authorization_pending" => Some(interval),
        "slow_down" => Some(interval + SLOWER),
        _ => None,
    }
}

/// Whether a refused poll ends the authorization: what RFC 8628 section 3.5 and RFC 6749 section 5.2 name, and
/// Microsoft's names for the first two. Anything else, such as the page of a proxy, may be gone at the next poll.
#[must_use]
pub fn ends_a_device(code: &str) -> bool {
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
        for stranger in ["?code=c1", "https://a/cb?code=c1"] {
            assert_eq!(
                parse(stranger).unwrap().state.as_deref(),
                Some(""),
                "{stranger}: not a bare code"
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
        let said = "https://app.example/cb?error=access_denied&error_description=the+user\u{202e}+said+no%1B&state=s";
        let said = parse(said).unwrap();
        assert_eq!(
            said.code.unwrap_err(),
            AnswerError::Refused("access_denied: the user said no".into())
        );
        assert_eq!(
            said.state.as_deref(),
            Some("s"),
            "it is not believed before this was looked at"
        );
    }

    #[test]
    fn only_the_portals_own_open_authorization_is_answered() {
        let acme = PortalName::parse("acme").unwrap();
        let way = AuthorizationFlow::Redirect {
            verifier: None,
            redirect_uri: None,
            nonce: None,
        };
        let begun_at = Timestamp::from_secs(1_795_000_000);
        let pending = PendingAuthorization {
            portal: acme.clone(),
            state: "s1".into(),
            begun_at,
            way,
        };
        assert!(pending.is(&acme, "s1", begun_at));
        assert!(!pending.is(&acme, "s2", begun_at) && !pending.is(&acme, "", begun_at));
        assert!(!pending.is(&PortalName::parse("globex").unwrap(), "s1", begun_at));
        assert!(!pending.is(&acme, "s1", begun_at + FORGOTTEN_AFTER));
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
            asks_again(Some("authorization_pending"), codes.interval),
            Some(codes.interval)
        );
        assert_eq!(
            asks_again(Some("slow_down"), codes.interval),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            (
                asks_again(Some("access_denied"), SLOWER),
                asks_again(None, SLOWER)
            ),
            (None, None)
        );
        assert_eq!(
            device_codes(br#"{"device_code":"d"}"#).unwrap_err(),
            NoCodes::Other
        );
        let marked = [b"\xef\xbb\xbf", &body[..]].concat();
        assert_eq!(device_codes(&marked).unwrap().user_code, "WDJB-MJHT");
        assert!(ends_a_device("access_denied") && ends_a_device("expired_token"));
        assert!(
            !ends_a_device("forbidden")
                && !ends_a_device("slow_down")
                && !ends_a_device("server_error")
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
                NoCodes::UserCode,
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
            assert_eq!(codes("A", uri).unwrap_err(), NoCodes::Address, "{uri:?}");
        }
    }
}
