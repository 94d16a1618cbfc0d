//! Parses the parameters of a token request and reports violations of their format.
//!
//! Must not put a value into a text: violations name parameters only.

use refreshd_token_client::provider::Method;

/// Parameters that must not be in a URL, which access logs contain.
const SECRETS: [&str; 4] = ["client_secret", "refresh_token", "code", "access_token"];
/// Parameters of Bitrix24's token endpoint. Other names are not repeated in texts, since they may be values.
const KNOWN: [&str; 8] = [
    "grant_type",
    "client_id",
    "client_secret",
    "refresh_token",
    "code",
    "redirect_uri",
    "scope",
    "bx24_request_id",
];

/// A token request as received.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedTokenRequest<'a> {
    /// The HTTP method, upper case.
    pub method: &'a str,
    /// `Content-Type`, if there is one.
    pub content_type: Option<&'a str>,
    /// The URL's query, without `?`.
    pub query: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// Parsed request.
#[derive(Debug, Default)]
pub(super) struct RequestForm {
    fields: Vec<(String, String)>,
    /// Violations.
    pub(super) wrong: Vec<String>,
    /// Reason for refusing it as `invalid_request`.
    pub(super) refused: Option<String>,
}

impl RequestForm {
    /// Parses a request to a server that demands `method`.
    pub(super) fn read(request: &ReceivedTokenRequest<'_>, method: Method) -> Self {
        let mut form = Self::default();
        let wanted = match method {
            Method::Post => "POST",
            Method::Get => "GET",
        };
        if request.method != wanted {
            form.refused = Some(format!("{wanted} is expected"));
        }
        match method {
            Method::Get => form.fields = pairs(request.query),
            Method::Post => {
                for (name, _) in pairs(request.query) {
                    if SECRETS.contains(&name.as_str()) {
                        form.wrong.push(format!("{name} was sent in the URL"));
                    }
                }
                if request.method == wanted && !is_form(request.content_type) {
                    form.wrong.push(
                        "the content type is not application/x-www-form-urlencoded".to_owned(),
                    );
                    form.refused = Some(
                        "the content type is not application/x-www-form-urlencoded".to_owned(),
                    );
                }
                form.fields = pairs(&String::from_utf8_lossy(request.body));
            }
        }
        form.check_names();
        form
    }

    /// Value of a parameter; an empty one counts as absent (RFC 6749 section 3.2).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    fn check_names(&mut self) {
        for (at, (name, _)) in self.fields.iter().enumerate() {
            if self.fields[..at].iter().any(|(before, _)| before == name) {
                let name = KNOWN
                    .into_iter()
                    .find(|known| known == name)
                    .unwrap_or("a parameter");
                self.wrong.push(format!("{name} was sent twice"));
                self.refused = Some(format!("{name} is repeated"));
            }
            if name == "redirect_uri" || name == "scope" {
                self.wrong
                    .push(format!("{name} was sent with a token request"));
            }
        }
    }
}

fn is_form(content_type: Option<&str>) -> bool {
    let kind = content_type
        .and_then(|text| text.split(';').next())
        .unwrap_or_default();
    kind.trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Pairs of an application/x-www-form-urlencoded text.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

/// Decodes `+` and `%XX`; a `%` without two hex digits stays.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |offset: usize| {
            bytes
                .get(at + offset)
                .and_then(|&digit| char::from(digit).to_digit(16))
        };
        match (byte, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes a value for a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded; charset=UTF-8");

    fn post(query: &str, body: &str) -> RequestForm {
        let request = ReceivedTokenRequest {
            method: "POST",
            content_type: FORM,
            query,
            body: body.as_bytes(),
        };
        RequestForm::read(&request, Method::Post)
    }

    #[test]
    fn values_are_decoded_and_encoded_back() {
        let form = post("", "client_id=local.1&client_secret=a%26b%3d+c%2&empty=");
        assert_eq!(form.get("client_secret"), Some("a&b= c%2"));
        assert_eq!((form.get("empty"), form.get("code")), (None, None));
        assert!(form.wrong.is_empty() && form.refused.is_none());
        assert_eq!(pairs(&format!("x={}", encoded("a&b= ü/")))[0].1, "a&b= ü/");
    }

    #[test]
    fn what_a_correct_client_does_not_do_is_told_without_values() {
        for (query, body, wrong, refused) in [
            (
                "refresh_token=s3cret",
                "client_id=1",
                "refresh_token was sent in the URL",
                false,
            ),
            (
                "client_secret=s3cret",
                "client_id=1",
                "client_secret was sent in the URL",
                false,
            ),
            (
                "code=s3cret",
                "client_id=1",
                "code was sent in the URL",
                false,
            ),
            ("", "code=s3cret&code=s3cret", "code was sent twice", true),
            ("", "s3cret=1&s3cret=2", "a parameter was sent twice", true),
            (
                "",
                "redirect_uri=s3cret",
                "redirect_uri was sent with a token request",
                false,
            ),
            (
                "",
                "scope=s3cret",
                "scope was sent with a token request",
                false,
            ),
        ] {
            let form = post(query, body);
            assert_eq!(form.wrong, [wrong], "{query} {body}");
            assert_eq!(form.refused.is_some(), refused, "{query} {body}");
            assert!(!format!("{:?}", (form.wrong, form.refused)).contains("s3cret"));
        }
    }

    #[test]
    fn another_content_type_is_wrong_and_another_method_is_refused() {
        let read = |method, content_type, by| {
            let form = RequestForm::read(
                &ReceivedTokenRequest {
                    method,
                    content_type,
                    query: "a=1",
                    body: b"b=1",
                },
                by,
            );
            (
                form.wrong.len(),
                form.refused.is_some(),
                form.get("a").is_some(),
            )
        };
        assert_eq!(
            read("POST", Some("application/json"), Method::Post),
            (1, true, false)
        );
        assert_eq!(read("POST", None, Method::Post), (1, true, false));
        assert_eq!(read("GET", None, Method::Post), (0, true, false));
        assert_eq!(read("POST", FORM, Method::Get), (0, true, true));
        assert_eq!(read("GET", None, Method::Get), (0, false, true));
    }
}
