//! Parsing of imported grants: a token response, the stores of SDKs and scripts, or a bare refresh token.
//!
//! Must not trust more than it needs: addresses in the input are hints, checked against the allow-list when used.

use serde_json::{Map, Value};

use super::import_error::reject_error_reply;
pub use super::import_error::{ImportError, MAX_LENGTH};
use super::imported::{self, ImportedFields};
use super::install_event::PresentedGrant;
use super::token_owner::TokenOwner;
use refreshd_secrets::RefreshToken;
use refreshd_secrets::mask::clean;
use refreshd_time::Timestamp;
use refreshd_token_client::import_token;
use refreshd_token_client::provider::{Profile, host_of};
use refreshd_token_client::quirks::{JsonPath, first};
use refreshd_token_client::refresh_end::{self, RenewalTimes};
use refreshd_token_client::renew_every::before_an_end;
use refreshd_token_client::reply::{
    GrantedTokens, SECRET_FIELDS, TokenReply, read_doubtful, read_taken, read_taken_text,
};
use refreshd_token_client::token::{Access, Credential, Details, Tokens, Validity, believable};
use refreshd_token_client::token_object::{self, Plain};

/// Maximum length of a bare refresh token.
const MAX_BARE_TOKEN: usize = 64 * 1024;
/// A larger expiry is in milliseconds, as JavaScript counts.
const MILLISECONDS_FROM: f64 = 1e11;

/// An imported grant.
#[derive(Clone, Debug)]
pub struct ImportedGrant {
    /// Its tokens. The access token is present only if its expiry is known and in the future.
    pub tokens: Tokens,
    /// Identity of the owner, if named.
    pub identity: Option<String>,
    /// The authorization server, if named.
    pub server: Option<String>,
    /// The client it was issued to, if named.
    pub client_id: Option<String>,
    /// The host of the API, if named.
    pub host: Option<String>,
}

/// Parses a grant in any of the accepted formats. The reply that `recover --show` prints is one, as far as it holds one
/// pair: submitting it means that pair, whatever else the response states.
///
/// # Errors
/// [`ImportError`] describes the input.
pub fn parse(
    grant: &[u8],
    profile: &Profile,
    now: Timestamp,
) -> Result<ImportedGrant, ImportError> {
    match parse_known(grant, profile, now) {
        Err(
            error @ (ImportError::NotJson { .. }
            | ImportError::NotAToken(_)
            | ImportError::ErrorReply(_)
            | ImportError::NoRefreshToken { .. }),
        ) => of_reply(grant, profile, now).ok_or(error),
        parsed => parsed,
    }
}

/// The pair of a token reply, packed in any way, and also of one that is in doubt.
fn of_reply(grant: &[u8], profile: &Profile, now: Timestamp) -> Option<ImportedGrant> {
    let reply = TokenReply {
        status: 200,
        retry_after: None,
        now,
        body: grant,
        whole: true,
    };
    let packed =
        || token_object::deflated_text(grant).and_then(|_| read_taken_text(grant, profile, now));
    let granted = read_doubtful(&reply, profile, &[]).map(|granted| *granted);
    let granted = granted.or_else(packed)?;
    let refresh = granted.refresh?;
    let is_one = import_token::mismatch(refresh.expose()).is_none();
    if !is_one || granted.access.expose() == refresh.expose() {
        return None;
    }
    let host = granted.details.endpoint.as_deref().and_then(host_of);
    Some(ImportedGrant {
        host: host.map(str::to_owned),
        tokens: Tokens {
            // Its lifetime counts from an unknown time.
            access: None,
            credential: Credential::Refresh(refresh),
            details: granted.details,
            validity: Validity::default(),
        },
        identity: granted.identity,
        server: granted.server,
        client_id: None,
    })
}

fn parse_known(
    grant: &[u8],
    profile: &Profile,
    now: Timestamp,
) -> Result<ImportedGrant, ImportError> {
    if grant.len() > MAX_LENGTH {
        return Err(ImportError::TooLong);
    }
    let plain = token_object::plain_text(grant);
    let text = String::from_utf8_lossy(&plain.text);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(ImportError::Empty);
    }
    let fields = match imported::read(text, profile) {
        Ok(None) => wrapped(&plain, profile),
        // An unreadable text may be a response in a wrapping that the profile knows.
        Err(error) => Some(wrapped(&plain, profile).ok_or(error)?),
        found => found?,
    };
    if let Some(ImportedFields { body, host }) = fields {
        let grant = from_json(&body, profile, now)?;
        return Ok(ImportedGrant {
            host: grant.host.or(host),
            ..grant
        });
    }
    if text.len() > MAX_BARE_TOKEN {
        return Err(ImportError::NotAToken(
            "it is longer than a refresh token ever is",
        ));
    }
    let refresh = import_token::refresh_token(text).map_err(ImportError::NotAToken)?;
    Ok(ImportedGrant {
        tokens: Tokens {
            access: None,
            credential: Credential::Refresh(refresh),
            details: Details::default(),
            validity: Validity::default(),
        },
        identity: None,
        server: None,
        client_id: None,
        host: None,
    })
}

/// A token response in a wrapping. A bare form is not one: it is parsed as people write it.
fn wrapped(plain: &Plain<'_>, profile: &Profile) -> Option<ImportedFields> {
    if !plain.text.contains(&b'{') {
        return None;
    }
    let object = token_object::open_plain(plain, profile)?;
    imported::of_object(&object, profile).ok()
}

/// Returns whether bytes that are not text may be a token response: compressed, or damaged.
#[must_use]
pub fn may_be_a_reply(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"refresh";
    let names_one = |plain: &Plain<'_>| {
        let mut words = plain.text.windows(NAME.len());
        words.any(|word| word.eq_ignore_ascii_case(NAME))
    };
    names_one(&token_object::plain_text(bytes))
        || token_object::deflated_text(bytes).is_some_and(|plain| names_one(&plain))
}

fn from_json(
    body: &Map<String, Value>,
    profile: &Profile,
    now: Timestamp,
) -> Result<ImportedGrant, ImportError> {
    reject_error_reply(body)?;
    let text = |key: &str| {
        body.get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let refresh = refresh_in(body, profile)?;
    // The twitter authorization of `oint`, an event of Bitrix24, CRest.
    let client_id = text("client_id")
        .or_else(|| text("C_REST_CLIENT_ID"))
        .map(str::to_owned);
    let Some(granted) = read_taken(body, profile, now) else {
        let named = |field: &Option<String>| {
            let text = match field
                .as_ref()
                .and_then(|field| JsonPath::new(field).find(body))?
            {
                Value::String(text) => clean(text, &[refresh.expose()]),
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            (!text.is_empty()).then_some(text)
        };
        let identity = named(&profile.identity_field);
        let (endpoint, server) = (named(&profile.endpoint_field), named(&profile.server_field));
        let host = endpoint.as_deref().and_then(host_of).map(str::to_owned);
        let details = Details {
            endpoint,
            ..Details::default()
        };
        let tokens = Tokens {
            access: None,
            credential: Credential::Refresh(refresh),
            details,
            validity: Validity::default(),
        };
        return Ok(ImportedGrant {
            tokens,
            identity,
            server,
            client_id,
            host,
        });
    };
    if granted.access.expose() == refresh.expose() {
        return Err(ImportError::NotARefreshToken(
            "it is the access token, once more",
        ));
    }
    // `expires_in` counts from an unknown time; only the absolute `expires` is usable.
    // Not even that if it is more than a whole lifetime ahead: the writer's clock was ahead.
    // If it was expired when it was written, nothing is known of its lifetime.
    let lifetime = Some(granted.lives.span())
        .filter(|life| !life.is_zero())
        .unwrap_or(profile.assumed_lifetime);
    let lifetime = believable(lifetime);
    let ends_at = ends_at(body)
        .filter(|at| *at > now)
        .map(|at| at.min(now + lifetime));
    let access = ends_at.map(|expires_at| Access {
        token: granted.access,
        token_type: granted.token_type,
        issued_at: expires_at - lifetime,
        expires_at,
    });
    debug_assert!(
        granted
            .details
            .fields
            .keys()
            .all(|field| !SECRET_FIELDS.contains(&field.as_str()))
    );
    let host = granted
        .details
        .endpoint
        .as_deref()
        .and_then(host_of)
        .map(str::to_owned);
    Ok(ImportedGrant {
        tokens: Tokens {
            access,
            credential: Credential::Refresh(refresh),
            details: granted.details,
            // It counts from an unknown time; the first renewal brings it.
            validity: Validity::default(),
        },
        identity: granted.identity,
        server: granted.server,
        client_id,
        host,
    })
}

/// The refresh token of an object, with any characters that RFC 6749 appendix A.17 allows: a labelled value is
/// intentional.
fn refresh_in(body: &Map<String, Value>, profile: &Profile) -> Result<RefreshToken, ImportError> {
    let missing = || ImportError::NoRefreshToken {
        has: None,
        wanted: "refresh_token".to_owned(),
    };
    let value = first(&profile.reply.refresh_token, body).or_else(|| body.get("refresh_token"));
    let text = match value.ok_or_else(missing)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) if number.is_u64() => number.to_string(),
        _ => return Err(missing()),
    };
    let token = RefreshToken::new(&text).ok_or_else(missing)?;
    if import_token::is_filler(&text) {
        return Err(ImportError::NotARefreshToken(
            "it is a word that stands where a value is missing",
        ));
    }
    if let Some(what) = import_token::misplaced(&text) {
        return Err(ImportError::NotARefreshToken(what));
    }
    if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(ImportError::NotARefreshToken(
            "it has white space or characters that no token has",
        ));
    }
    Ok(token)
}

/// The grant of a verified install event in the fields of a token response, with the authorization server's answer.
///
/// # Errors
/// [`ImportError`].
pub fn from_install_event(
    presented: &PresentedGrant,
    owner: &TokenOwner,
    profile: &Profile,
    now: Timestamp,
) -> Result<ImportedGrant, ImportError> {
    let PresentedGrant {
        access,
        refresh,
        claims,
        application_token: _,
        sent_at: _,
        expires,
        scope,
    } = presented;
    let TokenOwner {
        member_id,
        user_id,
        host: _,
        endpoint,
        status,
    } = owner;
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
    // A number, as in a token response.
    let user = user_id
        .parse::<u64>()
        .map_or_else(|_| Value::from(user_id.as_str()), Value::from);
    body.insert("user_id".to_owned(), user);
    from_json(&body, profile, now)
}

/// The grant of a response to a request sent at that time; `None` without a refresh token.
#[must_use]
pub fn from_granted(granted: GrantedTokens, sent_at: Timestamp) -> Option<ImportedGrant> {
    let notice = granted.notice();
    let GrantedTokens {
        access,
        refresh,
        odd_refresh: _,
        token_type,
        lives,
        identity,
        server,
        details,
    } = granted;
    let access = Access {
        token: access,
        token_type,
        issued_at: sent_at,
        expires_at: sent_at + lives.span(),
    };
    let asked = RenewalTimes {
        before_at: sent_at,
        sent_at,
        soonest: before_an_end(lives.span()),
    };
    let validity = Validity {
        refresh: refresh_end::after(None, &lives.refresh, true, asked),
        notice,
    };
    let tokens = Tokens {
        access: Some(access),
        credential: Credential::Refresh(refresh?),
        details,
        validity,
    };
    let host = tokens
        .details
        .endpoint
        .as_deref()
        .and_then(host_of)
        .map(str::to_owned);
    Some(ImportedGrant {
        tokens,
        identity,
        server,
        client_id: None,
        host,
    })
}

/// The absolute expiry in unix seconds, a number or a string (Bitrix24's events), or in milliseconds.
fn ends_at(body: &Map<String, Value>) -> Option<Timestamp> {
    let secs: i64 = match body.get("expires")? {
        Value::Number(number) => number.as_i64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let in_milliseconds = (MILLISECONDS_FROM..1e14).contains(&(secs as f64));
    Some(if in_milliseconds {
        Timestamp::from_millis(secs)
    } else {
        Timestamp::from_secs(secs)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use refreshd_token_client::samples::profile;

    fn imported(text: &str) -> Result<ImportedGrant, ImportError> {
        parse(
            text.as_bytes(),
            &profile(),
            Timestamp::from_secs(1_728_455_000),
        )
    }

    #[test]
    fn what_was_saved_or_printed_in_lines_is_read() {
        for text in [
            "AUTH_ID=a1b2c3d4\nAUTH_EXPIRES=3600\nREFRESH_ID=5bad2d67\nmember_id=a223\n",
            "export ACCESS_TOKEN='a1b2c3d4'\r\nexport REFRESH_TOKEN=\"5bad2d67\"\r\nmember_id: a223\r\n",
            "Array\n(\n    [AUTH_ID] => a1b2c3d4\n    [REFRESH_ID] => 5bad2d67\n    [member_id] => a223\n)\n",
            "[access_token] => a1b2c3d4\n[refresh_token] => 5bad2d67\n[member_id] => a223",
            "array (\n  'access_token' => 'a1b2c3d4',\n  'refresh_token' => '5bad2d67',\n  'member_id' => 'a223',\n)",
            "access_token: a1b2c3d4\nrefresh_token: 5bad2d67\nmember_id: a223",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"refresh_token\":\"5bad2d67\",\"member_id\":\"a223\"}",
        ] {
            let grant = imported(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                grant.tokens.credential.refresh().unwrap().expose(),
                "5bad2d67",
                "{text}"
            );
            assert_eq!(grant.identity.as_deref(), Some("a223"), "{text}");
        }
        let two = "REFRESH_TOKEN=5bad2d67\nrefresh_token=6cbe3e78\nREFRESH_TOKEN=7dcf4f89";
        assert_eq!(imported(two).unwrap_err(), ImportError::Several);
        assert!(matches!(
            imported("A=1\nB=2\n"),
            Err(ImportError::NotAToken(_))
        ));
    }

    #[test]
    fn a_token_reply_as_oint_prints_it() {
        let grant = imported(
            r#"{"access_token":"6b2e06","expires":1728458347,"expires_in":3600,"scope":"app",
            "server_endpoint":"https://oauth.bitrix.info/rest/","status":"L","client_endpoint":"https://b24.bitrix24.by/rest/",
            "member_id":"00168f","user_id":1,"refresh_token":"5bad2d"}"#,
        )
        .unwrap();
        assert_eq!(grant.identity.as_deref(), Some("00168f"));
        assert_eq!(
            grant.tokens.access.unwrap().expires_at.secs(),
            1_728_458_347
        );
        assert_eq!(
            grant.tokens.credential.refresh().unwrap().expose(),
            "5bad2d"
        );
        assert_eq!(
            grant.tokens.details.endpoint.as_deref(),
            Some("https://b24.bitrix24.by/rest/")
        );
    }

    #[test]
    fn an_end_that_a_wrong_clock_wrote_is_not_believed_beyond_a_whole_life() {
        let now = Timestamp::from_secs(1_728_455_000);
        for (expires, left) in [
            ("1728458347", Some(3347)),
            ("\"1728458347\"", Some(3347)),
            // Ten years ahead, and out of range.
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
            let access = imported(&reply).unwrap().tokens.access;
            let life = access.as_ref().map(|access| {
                (
                    access.expires_at.since(now).as_secs(),
                    access.lifetime().as_secs(),
                )
            });
            assert_eq!(life, left.map(|left| (left, 3600)), "{expires}");
        }
    }

    #[test]
    fn crest_settings_have_no_known_end_and_so_no_access_token() {
        let grant = imported(
            r#"{"access_token":"6b2e06","expires_in":"3600","application_token":"x","refresh_token":"5bad2d",
            "domain":"acme.bitrix24.com","client_endpoint":"https:\/\/acme.bitrix24.com\/rest\/","C_REST_CLIENT_SECRET":"s"}"#,
        )
        .unwrap();
        assert!(grant.tokens.access.is_none());
        assert!(!format!("{grant:?}").contains("5bad2d"));
    }

    #[test]
    fn the_authorization_of_oint_twitter_in_either_kind_of_quotes() {
        let auth = r#"{"redirect_uri":"https://app.example","scope":"tweet.read offline.access","client_id":"c1","client_secret":"s",
            "access_token":"a1","refresh_token":"TmttM1","oauth_token":"o","oauth_token_secret":"os","oauth_consumer_key":"k"}"#;
        for text in [auth.to_owned(), auth.replace('"', "'")] {
            let grant = imported(&text).unwrap();
            assert_eq!(
                grant.tokens.credential.refresh().unwrap().expose(),
                "TmttM1"
            );
            assert_eq!(
                (grant.client_id.as_deref(), grant.tokens.access.is_none()),
                (Some("c1"), true)
            );
            assert_eq!(grant.tokens.details.scope, ["tweet.read", "offline.access"]);
        }
        // Python's quotes around a text with an apostrophe.
        let mixed = r#"{'name': "O'Neill", 'refresh_token': 'TmttM1', 'ok': True, 'x': None}"#;
        assert_eq!(summary(mixed).0, "TmttM1");
    }

    /// Refresh token, identity, host, and the remaining lifetime of the access token in seconds.
    fn summary(text: &str) -> (String, Option<String>, Option<String>, Option<u64>) {
        let ImportedGrant {
            tokens,
            identity,
            host,
            ..
        } = imported(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let left = tokens.access.map(|access| {
            access
                .expires_at
                .since(Timestamp::from_secs(1_728_455_000))
                .as_secs()
        });
        (
            tokens.credential.refresh().unwrap().expose().to_owned(),
            identity,
            host,
            left,
        )
    }

    #[test]
    fn what_lies_around_in_files_is_read() {
        for text in [
            r#"{"error":"0","access_token":"6b2e06","refresh_token":"5bad2d"}"#,
            r#"{"error":"success","access_token":"6b2e06","refresh_token":"5bad2d"}"#,
            "AUTH_ID=6b2e06&\nREFRESH_ID=5bad2d&\nmember_id=00168f",
            "AUTH_ID=6b2e06&amp;REFRESH_ID=5bad2d&amp;member_id=00168f",
            "BITRIX_CLIENT_ID=\"local.1\"\nBITRIX_REFRESH_TOKEN=\"5bad2d\"\n",
            "CLIENT_ID=local.1\nREFRESH_TOKEN=5bad2d # of acme\n",
        ] {
            let imported = parse(
                text.as_bytes(),
                &profile(),
                Timestamp::from_secs(1_728_454_747),
            )
            .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                imported.tokens.credential.refresh().unwrap().expose(),
                "5bad2d",
                "{text}"
            );
        }
        let refused = imported(r#"{"error":"invalid_grant"}"#);
        assert!(
            matches!(refused, Err(ImportError::ErrorReply(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn a_reply_that_was_saved_is_read_as_its_server_wrapped_it() {
        const R: &str = r#"{"access_token":"6b2e06","refresh_token":"5bad2d","expires_in":3600}"#;
        let with = |more: &str| format!("{},{more}}}", R.strip_suffix('}').unwrap());
        let gzip = |text: &str| {
            let mut packed = GzEncoder::new(Vec::new(), Compression::default());
            packed.write_all(text.as_bytes()).unwrap();
            packed.finish().unwrap()
        };
        let wide =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let long = "x".repeat(300_000);
        for reply in [
            format!(
                "<br />\n<b>Notice</b>:  Undefined index: x in <b>/srv/a.php</b> on line <b>3</b><br />\n{R}"
            )
            .into_bytes(),
            format!("{R}<!-- 0.02 s -->").into_bytes(),
            format!("cb({R});").into_bytes(),
            format!(")]}}',\n{R}").into_bytes(),
            format!("{R}\0").into_bytes(),
            format!("\u{feff}{R}").into_bytes(),
            [with(r#""name":"M"#).trim_end_matches('}').as_bytes(), b"\xfcller\"}"].concat(),
            with("\"name\":\"a\tb\u{1}\"").into_bytes(),
            with(&format!(r#""x":{}{}"#, "[".repeat(200), "]".repeat(200))).into_bytes(),
            with(r#""x":1e999"#).into_bytes(),
            with(r#""x":NaN"#).into_bytes(),
            with(&format!(r#""id_token":"{long}""#)).into_bytes(),
            wide(R),
            wide(&format!("\u{feff}{R}")),
            gzip(R),
            gzip(&format!("\u{feff}{R}")),
            format!("* Connected to x\n> POST /token HTTP/1.1\n>\n< HTTP/1.1 200 OK\n< Server: x\n<\n{R}")
                .into_bytes(),
            br#"{"headers":{"x":"y"},"body":"AUTH_ID=6b2e06&REFRESH_ID=5bad2d&member_id=00168f"}"#
                .to_vec(),
            format!("{R}\n{R}\n").into_bytes(),
            format!("<?php exit; ?>\n{R}").into_bytes(),
            R.replace('"', "&quot;").into_bytes(),
            R.replace('}', ",}").into_bytes(),
            wide("5bad2d\r\n"),
        ] {
            let shown: String = String::from_utf8_lossy(&reply).chars().take(200).collect();
            let now = Timestamp::from_secs(1_728_455_000);
            let imported =
                parse(&reply, &profile(), now).unwrap_or_else(|error| panic!("{shown}: {error}"));
            let refresh = imported.tokens.credential;
            assert_eq!(refresh.refresh().unwrap().expose(), "5bad2d", "{shown}");
        }
        // Nothing from prose, from an error, or from truncated or ambiguous input.
        for none in [
            format!("For example {R} is a reply."),
            format!("<p>A reply looks like</p><pre>{R}</pre>"),
            format!("<script>var x = {R}</script>"),
            format!("{R}{}", R.replace("5bad2d", "6bad2d")),
            R[..R.len() - 1].to_owned(),
            with(r#""error":"invalid_grant""#),
            format!("<br />{}", with(r#""error":"invalid_grant""#)),
        ] {
            assert!(imported(&none).is_err(), "{none}");
        }
        assert_eq!(
            imported(&"a1".repeat(MAX_LENGTH / 2 + 1)).unwrap_err(),
            ImportError::TooLong
        );
        assert!(imported(&"a1".repeat(MAX_BARE_TOKEN)).is_err());
    }

    #[test]
    fn what_programs_print_and_other_stores_keep_is_read() {
        let base64 = STANDARD.encode(r#"{"access_token":"6b2e06","refresh_token":"5bad2d"}"#);
        for text in [
            "a:2:{s:12:\"access_token\";s:6:\"6b2e06\";s:13:\"refresh_token\";s:6:\"5bad2d\";}",
            "a:2:{s:13:\"refresh_token\";s:6:\"5bad2d\";s:7:\"expires\";i:3600;}",
            "array(2) {\n  [\"access_token\"]=>\n  string(6) \"6b2e06\"\n  [\"refresh_token\"]=>\n  string(6) \"5bad2d\"\n}\n",
            "```json\n{\"access_token\":\"6b2e06\",\"refresh_token\":\"5bad2d\"}\n```",
            "```\nrefresh_token=5bad2d&access_token=6b2e06\n```\n",
            "[drive]\ntype = drive\ntoken = {\"access_token\":\"6b2e06\",\"refresh_token\":\"5bad2d\"}\n",
            "https://app.example/install?DOMAIN=acme.bitrix24.com&AUTH_ID=6b2e06&REFRESH_ID=5bad2d",
            "https://app.example/cb#access_token=6b2e06&refresh_token=5bad2d&token_type=bearer",
            r#"{"access":"6b2e06","refresh":"5bad2d"}"#,
            r#"{"tokens":{"at":"6b2e06","rt":"5bad2d"}}"#,
            r#"{"AccessToken":{"k":{"secret":"6b2e06","credential_type":"AccessToken"}},"RefreshToken":{"k2":{"secret":"5bad2d","credential_type":"RefreshToken"}}}"#,
            &base64,
        ] {
            assert_eq!(summary(text).0, "5bad2d", "{text}");
        }
        for none in [
            r#"{"refresh":"5bad2d"}"#,
            r#"{"access":true,"refresh":"5bad2d"}"#,
            "a:1:{s:13:\"refresh_token\";i:7;s:1:\"x\";}",
            "https://app.example/cb?code=5bad2d&state=1",
        ] {
            assert!(imported(none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_events_forms_and_sdks_keep() {
        let whole = |left| {
            (
                "5bad2d".to_owned(),
                Some("00168f".to_owned()),
                Some("b24.bitrix24.by".to_owned()),
                left,
            )
        };
        for text in [
            // An install event as JSON and in its original form.
            r#"{"event":"ONAPPINSTALL","ts":"1728454747","auth":{"access_token":"6b2e06","expires":"1728458347","expires_in":"3600",
                "client_endpoint":"https://b24.bitrix24.by/rest/","member_id":"00168f","refresh_token":"5bad2d","application_token":"x"}}"#,
            "event=ONAPPINSTALL&auth%5Baccess_token%5D=6b2e06&auth%5Bexpires%5D=1728458347&auth%5Bexpires_in%5D=3600&\
             auth[client_endpoint]=https%3A%2F%2Fb24.bitrix24.by%2Frest%2F&auth[member_id]=00168f&auth[refresh_token]=5bad2d",
            // The form as a program stores it: flat, with lists of one, or with dots.
            r#"{"event":"ONAPPINSTALL","auth[access_token]":"6b2e06","auth[expires]":"1728458347","auth[expires_in]":"3600",
                "auth[client_endpoint]":"https://b24.bitrix24.by/rest/","auth[member_id]":"00168f","auth[refresh_token]":"5bad2d"}"#,
            r#"{"event":["ONAPPINSTALL"],"auth[access_token]":["6b2e06"],"auth[expires]":["1728458347"],"auth[expires_in]":["3600"],
                "auth[client_endpoint]":["https://b24.bitrix24.by/rest/"],"auth[member_id]":["00168f"],"auth[refresh_token]":["5bad2d"]}"#,
            r#"{"event":"ONAPPINSTALL","auth.access_token":"6b2e06","auth.expires":"1728458347","auth.expires_in":"3600",
                "auth[client_endpoint]":"https://b24.bitrix24.by/rest/","auth[member_id]":"00168f","auth.refresh_token":"5bad2d"}"#,
            // Two grants: that of the app's own user counts.
            r#"{"event":"ONAPPUSERREADY","data":{"access_token":"6b2e06","expires":"1728458347","member_id":"00168f","refresh_token":"5bad2d",
                "client_endpoint":"https://b24.bitrix24.by/rest/"},"auth":{"access_token":"a","refresh_token":"other","member_id":"00168f"}}"#,
            // The JavaScript SDK.
            r#"{"applicationToken":"x","userId":1,"memberId":"00168f","accessToken":"6b2e06","refreshToken":"5bad2d","expires":1728458347,
                "expiresIn":3600,"scope":"crm","domain":"b24.bitrix24.by","clientEndpoint":"https://b24.bitrix24.by/rest/","status":"L"}"#,
            // The Python SDK.
            r#"{"oauth_token":{"access_token":"6b2e06","refresh_token":"5bad2d","expires":1728458347,"expires_in":3600},"member_id":"00168f",
                "user_id":1,"client_endpoint":"https://b24.bitrix24.by/rest/","domain":"oauth.bitrix.info","scope":["crm"]}"#,
        ] {
            assert_eq!(summary(text), whole(Some(3347)), "{text}");
        }
        // The PHP SDK: the form of an installation, and the same as JSON.
        for (text, identity) in [
            (
                r#"{"auth_token":{"access_token":"6b2e06","refresh_token":"5bad2d","expires":1728458347},"domain_url":"https://b24.bitrix24.by","application_token":"x"}"#,
                None,
            ),
            (
                r#"{"AUTH_ID":"6b2e06","AUTH_EXPIRES":"3600","REFRESH_ID":"5bad2d","member_id":"00168f","DOMAIN":"B24.bitrix24.by"}"#,
                Some("00168f"),
            ),
            (
                r#"{"AUTH_ID":["6b2e06"],"AUTH_EXPIRES":["3600"],"REFRESH_ID":["5bad2d"],"member_id":["00168f"],"DOMAIN":["b24.bitrix24.by"]}"#,
                Some("00168f"),
            ),
            (
                "AUTH_ID=6b2e06&AUTH_EXPIRES=3600&REFRESH_ID=5bad2d&member_id=00168f&DOMAIN=b24.bitrix24.by&status=F",
                Some("00168f"),
            ),
        ] {
            let (refresh, of, host, _) = summary(text);
            assert_eq!(
                (refresh.as_str(), of.as_deref(), host.as_deref()),
                ("5bad2d", identity, Some("b24.bitrix24.by")),
                "{text}"
            );
        }
        // Google's store, a list of one, JSON in JSON, JSON in shell quotes, a number.
        for text in [
            r#"{"token":"6b2e06","refresh_token":"5bad2d","token_uri":"https://x.example/","client_id":"c","expiry":"2026-01-01T00:00:00Z"}"#,
            r#"[{"access_token":"6b2e06","refresh_token":"5bad2d"}]"#,
            r#""{\"refresh_token\":\"5bad2d\"}""#,
            r#"'{"refresh_token":"5bad2d"}'"#,
            r#"{"data":{"tokens":{"RefreshToken":"5bad2d"}}}"#,
            r#"{"value":"{\"refresh_token\":\"5bad2d\"}"}"#,
            "access_token=6b2e06&refresh_token=5bad2d&expires_in=20",
        ] {
            assert_eq!(summary(text).0, "5bad2d", "{text}");
        }
        assert_eq!(
            summary(r#"{"refresh_token":4711}"#).0,
            "4711",
            "an explicit name is intended"
        );
        // In milliseconds, and without an access token.
        let text = r#"{"accessToken":"6b2e06","refreshToken":"5bad2d","expires_at":1728458347000,"expiresIn":3600}"#;
        assert_eq!(summary(text).3, Some(3347));
        let bare = r#"{"refresh_token":"5bad2d","member_id":"00168f","client_endpoint":"https://b24.bitrix24.by/rest/"}"#;
        assert_eq!(summary(bare), whole(None));
    }

    #[test]
    fn a_bare_refresh_token() {
        assert_eq!(
            imported("5bad2d67\n")
                .unwrap()
                .tokens
                .credential
                .refresh()
                .unwrap()
                .expose(),
            "5bad2d67"
        );
    }

    #[test]
    fn what_is_no_grant_is_said_without_quoting_it() {
        let lacks = |has: Option<&str>, wanted: &str| ImportError::NoRefreshToken {
            has: has.map(str::to_owned),
            wanted: wanted.to_owned(),
        };
        let filler =
            ImportError::NotARefreshToken("it is a word that stands where a value is missing");
        let list = ImportError::NotAToken("it is a list; import a single grant");
        for (text, expected) in [
            ("", ImportError::Empty),
            ("  \n", ImportError::Empty),
            (
                "two words",
                ImportError::NotAToken("it is neither JSON nor a bare refresh token (one word)"),
            ),
            (
                r#"{"access_token":"a"}"#,
                lacks(Some("access_token"), "refresh_token"),
            ),
            (
                r#"{"AUTH_ID":"a","AUTH_EXPIRES":"3600"}"#,
                lacks(Some("AUTH_ID"), "REFRESH_ID"),
            ),
            (
                r#"{"accessToken":"a"}"#,
                lacks(Some("accessToken"), "refreshToken"),
            ),
            (
                r#"{"auth":{"access_token":"a"}}"#,
                lacks(Some("auth.access_token"), "auth.refresh_token"),
            ),
            (
                "AUTH_ID=a&AUTH_EXPIRES=3600",
                lacks(Some("AUTH_ID"), "REFRESH_ID"),
            ),
            (r#"{"name":"x"}"#, lacks(None, "refresh_token")),
            (
                r#"{"refresh_token":""}"#,
                ImportError::EmptyRefreshToken("refresh_token".into()),
            ),
            (
                r#"{"auth":{"refresh_token":null}}"#,
                ImportError::EmptyRefreshToken("auth.refresh_token".into()),
            ),
            (r#"{"refresh_token":"null"}"#, filler.clone()),
            (r#"{"refresh_token":"${REFRESH}"}"#, filler),
            (
                r#"{"access_token":"5bad2d","refresh_token":"5bad2d"}"#,
                ImportError::NotARefreshToken("it is the access token, once more"),
            ),
            (
                r#"{"a":{"refresh_token":"r1"},"b":{"refresh_token":"r2"}}"#,
                ImportError::Several,
            ),
            (r#"[{"refresh_token":"r1"},{"refresh_token":"r2"}]"#, list),
            (
                "null",
                ImportError::NotAToken(import_token::mismatch("null").unwrap()),
            ),
            (
                "[object Object]",
                ImportError::NotAToken(import_token::mismatch("null").unwrap()),
            ),
            (
                "a=b&c=d",
                ImportError::NotAToken("it is a form without a refresh token"),
            ),
            (
                r#"{"error":"expired_token"}"#,
                ImportError::ErrorReply("expired_token".into()),
            ),
            (
                r#"{"error":"bad 5bad2d","refresh_token":"5bad2d"}"#,
                ImportError::ErrorReply("bad …".into()),
            ),
            (
                "{\"refresh_token\":\"5bad\n",
                ImportError::NotJson {
                    line: 1,
                    column: 22,
                },
            ),
        ] {
            assert_eq!(imported(text).unwrap_err(), expected, "{text}");
        }
    }
}
