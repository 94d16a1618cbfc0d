//! Differences of a provider's requests and replies from RFC 6749. Parts of a [`super::provider::Profile`].
//!
//! Must not name a provider, nor build or parse anything: `request` and `reply` do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// Grant type of a portal's first token.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum GrantType {
    /// A user authorizes in a browser (RFC 6749 section 4.1).
    AuthorizationCode,
    /// Client credentials, also for each renewal (RFC 6749 section 4.4).
    ClientCredentials,
    /// A user enters a code on another device (RFC 8628).
    Device,
}

/// Encoding of a request's body.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum BodyEncoding {
    /// `application/x-www-form-urlencoded` (RFC 6749 appendix B).
    Form,
    /// A JSON object.
    Json,
}

/// Encoding of the credentials in HTTP Basic.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum BasicEncoding {
    /// Id and secret are form-encoded (RFC 6749 section 2.3.1).
    Form,
    /// Id and secret are joined unencoded, as many servers expect.
    Raw,
}

/// PKCE method: proves that the client exchanging a code requested it (RFC 7636).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Pkce {
    /// SHA-256 of the verifier.
    #[strum(serialize = "S256")]
    S256,
    /// The verifier itself, for servers without a better method.
    Plain,
    /// Unknown to the server, or refused by it.
    None,
}

/// Effect of a renewal on the refresh token.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Rotation {
    /// Each renewal returns a new one; the old one is spent.
    Always,
    /// Some renewals return a new one.
    Sometimes,
    /// The refresh token stays valid, so a lost reply loses nothing.
    Never,
}

/// Unit of the lifetimes in a reply.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
pub enum LifetimeUnit {
    /// Seconds (RFC 6749).
    #[strum(serialize = "s")]
    Seconds,
    /// Milliseconds.
    #[strum(serialize = "ms")]
    Milliseconds,
}

impl LifetimeUnit {
    /// The unit in seconds.
    #[must_use]
    pub const fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Milliseconds => 0.001,
        }
    }
}

/// Earliest time of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBefore {
    /// At any time.
    Any,
    /// At this age.
    Age(Duration),
    /// Once it has expired.
    Expiry,
}

/// Installation of apps by a provider's portals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstallFields {
    /// Path at the authorization server that returns the owner of an access token; `None`: installs are not supported.
    pub check: Option<String>,
    /// Method at a portal's own endpoint that returns whether the user of an access token is an administrator.
    pub admin: Option<String>,
    /// URL of the script that finishes an installation in the browser.
    pub script: Option<String>,
    /// Statement that calls it.
    pub run: Option<String>,
}

/// Differences in requests.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestQuirks {
    /// Form or JSON.
    pub body: BodyEncoding,
    /// Encoding of the credentials in HTTP Basic.
    pub basic_encoding: BasicEncoding,
    /// True if a renewal repeats the scope.
    pub scope_in_renewal: bool,
    /// Renamed parameters: the RFC's name, and the provider's.
    pub names: BTreeMap<String, String>,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// Further parameters of the authorization request.
    pub authorize_parameters: BTreeMap<String, String>,
    /// Further parameters of a code exchange. An empty value removes a standard parameter.
    pub code_parameters: BTreeMap<String, String>,
    /// Further parameters of a renewal, likewise.
    pub renewal_parameters: BTreeMap<String, String>,
    /// Parameters of the redirect that are stored with the grant.
    pub redirect_fields: Vec<String>,
    /// Parameter of the redirect with the authorization server's host (Bitrix24: `server_domain`).
    pub redirect_server: Option<String>,
}

impl RequestQuirks {
    /// Returns whether a renewal needs random characters.
    #[must_use]
    pub fn renewal_needs_random(&self) -> bool {
        self.renewal_parameters
            .values()
            .any(|value| value.contains("{random}"))
    }
}

impl Default for RequestQuirks {
    /// RFC 6749.
    fn default() -> Self {
        Self {
            body: BodyEncoding::Form,
            basic_encoding: BasicEncoding::Form,
            scope_in_renewal: false,
            names: BTreeMap::new(),
            headers: BTreeMap::new(),
            authorize_parameters: BTreeMap::new(),
            code_parameters: BTreeMap::new(),
            renewal_parameters: BTreeMap::new(),
            redirect_fields: Vec::new(),
            redirect_server: None,
        }
    }
}

/// Place of a value in a reply: names of members (or indexes of lists) from the outermost to the innermost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<String>);

impl JsonPath {
    /// Parses dotted names: `authed_user.access_token`.
    #[must_use]
    pub fn new(dotted: &str) -> Self {
        Self(dotted.split('.').map(str::to_owned).collect())
    }

    /// Value at this place.
    #[must_use]
    pub fn find<'v>(&self, body: &'v serde_json::Map<String, Value>) -> Option<&'v Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter()
            .try_fold(body.get(first)?, |value, name| match value {
                Value::Object(map) => map.get(name),
                Value::Array(list) => list.get(name.parse::<usize>().ok()?),
                _ => None,
            })
    }

    /// Name of the innermost member.
    #[must_use]
    pub fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// Dotted form.
    #[must_use]
    pub fn dotted(&self) -> String {
        self.0.join(".")
    }
}

/// Places of the parts of a reply; the first non-empty place counts.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyFields {
    /// The access token.
    pub access_token: Vec<JsonPath>,
    /// The refresh token.
    pub refresh_token: Vec<JsonPath>,
    /// The token type.
    pub token_type: Vec<JsonPath>,
    /// The scope.
    pub scope: Vec<JsonPath>,
    /// Lifetime, from now on.
    pub expires_in: Vec<JsonPath>,
    /// Expiry, as a date or since the epoch, for replies without a lifetime.
    pub expires_at: Vec<JsonPath>,
    /// Lifetime of the refresh token, from now on.
    pub refresh_expires_in: Vec<JsonPath>,
    /// Expiry of the refresh token, for replies without its lifetime.
    pub refresh_expires_at: Vec<JsonPath>,
    /// Unit of lifetimes.
    pub unit: LifetimeUnit,
    /// The error code.
    pub error: Vec<JsonPath>,
    /// Description of the error.
    pub error_description: Vec<JsonPath>,
    /// Places that indicate success, with the values that do: any other value there is an error code. If all of them
    /// indicate success, the places of `error` are ignored.
    pub success: Vec<(JsonPath, Vec<String>)>,
}

impl Default for ReplyFields {
    /// RFC 6749 sections 5.1 and 5.2; expiries, which it does not define, have their usual names.
    fn default() -> Self {
        let at = |name: &str| vec![JsonPath::new(name)];
        let any = |names: &[&str]| names.iter().map(|name| JsonPath::new(name)).collect();
        Self {
            access_token: at("access_token"),
            refresh_token: at("refresh_token"),
            token_type: at("token_type"),
            scope: at("scope"),
            expires_in: at("expires_in"),
            expires_at: any(&["expires_at", "expires_on", "expires", "expiry"]),
            refresh_expires_in: any(&[
                "refresh_expires_in",
                "refresh_token_expires_in",
                "x_refresh_token_expires_in",
            ]),
            refresh_expires_at: any(&[
                "refresh_expires_at",
                "refresh_token_expires_at",
                "refresh_token_expires_on",
                "refresh_token_expires",
                "refresh_token_expiry",
            ]),
            unit: LifetimeUnit::Seconds,
            error: at("error"),
            error_description: at("error_description"),
            success: Vec::new(),
        }
    }
}

/// First non-empty value of `places`.
#[must_use]
pub fn first<'v>(
    places: &[JsonPath],
    body: &'v serde_json::Map<String, Value>,
) -> Option<&'v Value> {
    places
        .iter()
        .filter_map(|place| place.find(body))
        .find(|value| !value.is_null())
}

/// Returns whether `value` equals `wanted`: as a case-insensitive text, as a number, or as an element of a list.
#[must_use]
pub fn is_value(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.eq_ignore_ascii_case(wanted),
        Value::Array(list) => list.iter().any(|value| is_value(value, wanted)),
        Value::Number(number) => number.to_string() == wanted,
        Value::Bool(yes) => wanted == if *yes { "true" } else { "false" },
        Value::Null | Value::Object(_) => false,
    }
}

/// Values of an error field that mean that there is no error.
const NO_ERROR: [&str; 20] = [
    "",
    "0",
    "ok",
    "success",
    "successful",
    "none",
    "null",
    "undefined",
    "false",
    "no",
    "no error",
    "no_error",
    "s_ok",
    "succeeded",
    "n/a",
    "-",
    "nil",
    "[]",
    "{}",
    "0x0",
];

/// Returns whether the value of an error field means that there is no error. An object means that if its code does and
/// it has no message, or if all of its members do.
#[must_use]
pub fn means_no_error(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        // Status of a success.
        Value::Number(number) => matches!(number.as_f64(), Some(0.0 | 200.0)),
        Value::String(text) => {
            let text = text.trim();
            let zeros = !text.is_empty() && text.bytes().all(|byte| byte == b'0');
            zeros || text == "200" || NO_ERROR.iter().any(|word| word.eq_ignore_ascii_case(text))
        }
        Value::Array(values) => values.iter().all(means_no_error),
        Value::Object(map) => match map.get("code") {
            Some(code) => means_no_error(code) && map.get("message").is_none_or(means_no_error),
            None => map.values().all(means_no_error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_field_may_say_that_there_is_no_error() {
        for nothing in [
            "null",
            "false",
            "0",
            "0.0",
            r#""""#,
            r#""0""#,
            r#"" OK ""#,
            r#""Success""#,
            r#""none""#,
            r#""no error""#,
            "200",
            r#""200""#,
            r#"{"code":200,"message":"OK"}"#,
            "[]",
            "{}",
            r#"[null,""]"#,
            r#"{"code":0}"#,
            r#"{"code":"ok","message":"","log_id":"20261128"}"#,
            r#"{"message":null}"#,
        ] {
            assert!(
                means_no_error(&serde_json::from_str(nothing).unwrap()),
                "{nothing}"
            );
        }
        for error in [
            "true",
            "1",
            "-1",
            "201",
            r#""invalid_grant""#,
            r#""failed""#,
            r#"["invalid_grant"]"#,
            r#"{"code":500}"#,
            r#"{"code":0,"message":"The token is wrong"}"#,
            r#"{"type":"OAuthException"}"#,
            r#"{"message":"denied"}"#,
        ] {
            assert!(
                !means_no_error(&serde_json::from_str(error).unwrap()),
                "{error}"
            );
        }
    }

    #[test]
    fn a_place_leads_through_objects_and_lists() {
        let Value::Object(body) = serde_json::json!({"a": {"b": [{"c": 1}]}, "n": null, "d": "x"})
        else {
            panic!("an object")
        };
        let at = |dotted: &str| JsonPath::new(dotted).find(&body).cloned();
        assert_eq!(at("a.b.0.c"), Some(Value::from(1)));
        assert_eq!((at("a.b.1.c"), at("d.e"), at("x")), (None, None, None));
        let places = ["n", "x", "d"].map(JsonPath::new);
        assert_eq!(
            first(&places, &body),
            Some(&Value::from("x")),
            "null is nothing"
        );
    }

    #[test]
    fn a_value_is_compared_as_people_write_it() {
        let value = serde_json::json!([50076, "Basic_Action"]);
        assert!(is_value(&value, "50076") && is_value(&value, "basic_action"));
        assert!(!is_value(&value, "5007") && !is_value(&Value::Null, "null"));
    }
}
