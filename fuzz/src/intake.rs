//! Any text handed to `refreshd import`.

use refreshd::domain::import::{ImportError, ImportedGrant, MAX_LENGTH, parse};
use refreshd_time::Timestamp;
use refreshd_token_client::reply::SECRET_FIELDS;
use refreshd_token_client::token::LIFETIME_RANGE;
use serde_json::{Map, Value};

use super::{SHORTEST_TOKEN, can_be_read_again, is_a_line, is_silent_about, profiles, words};

const NOW: Timestamp = Timestamp::from_secs(1_795_192_000);

/// Checks the properties.
pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for profile in profiles() {
        match parse(data, profile, NOW) {
            Ok(intake) => is_a_grant(&intake, text),
            Err(error) => does_not_quote(&error, text),
        }
    }
}

fn is_a_grant(intake: &ImportedGrant, text: &str) {
    let ImportedGrant {
        tokens,
        identity,
        server,
        client_id: _,
        host: _,
    } = intake;
    let refresh = tokens
        .credential
        .refresh()
        .expect("a refresh token")
        .expose();
    assert!(!refresh.is_empty() && refresh == refresh.trim());
    // Compressed, wide or escaped tokens are not found unchanged.
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    // An object in Base64 begins so.
    let encoded = ["ey", "ew"]
        .iter()
        .any(|start| text.trim().starts_with(start));
    let escaped = ["&quot;", "&#34;", "&#x22;", "&amp;"]
        .iter()
        .any(|sign| text.contains(sign));
    if !text.contains(['\\', '%', '+']) && !escaped && !encoded && text.chars().all(is_plain) {
        assert!(text.contains(refresh), "a refresh token from nowhere");
    }
    if let Some(access) = &tokens.access {
        assert!(!access.token.expose().is_empty());
        assert!(
            access.expires_at > NOW,
            "an access token that has ended: {access:?}"
        );
        assert!(access.expires_at <= NOW + LIFETIME_RANGE.1, "{access:?}");
        let (least, most) = LIFETIME_RANGE;
        assert!((least..=most).contains(&access.lifetime()), "{access:?}");
    }
    for text in [
        identity.as_ref(),
        server.as_ref(),
        tokens.details.endpoint.as_ref(),
    ]
    .into_iter()
    .flatten()
    {
        assert!(
            !text.contains(char::is_control),
            "control characters: {text:?}"
        );
    }
    can_be_read_again(&tokens.details);
    if refresh.len() >= SHORTEST_TOKEN {
        is_silent_about(&[refresh], &words(&tokens.details));
        is_silent_about(&[refresh], identity.as_deref().unwrap_or_default());
        is_silent_about(&[refresh], server.as_deref().unwrap_or_default());
    }
}

fn does_not_quote(error: &ImportError, text: &str) {
    is_a_line(&error.to_string());
    match error {
        // Neither has any part of the text.
        ImportError::Empty
        | ImportError::NotAToken(_)
        | ImportError::NotARefreshToken(_)
        | ImportError::Several => {}
        // Names of keys, masked.
        ImportError::NoRefreshToken { .. } | ImportError::EmptyRefreshToken(_) => {}
        // Not an error of the parser: the code with the stored responses creates it.
        ImportError::KeptReply { cause, .. } => does_not_quote(cause, text),
        ImportError::TooLong => assert!(text.len() > MAX_LENGTH),
        ImportError::NotJson { line, column } => {
            let lines = text.trim_start_matches('\u{feff}').trim().lines().count();
            assert!(
                (1..=lines + 1).contains(line) && *column <= text.len() + 1,
                "{error}: {text:?}"
            );
        }
        ImportError::ErrorReply(code) => {
            let body = text.trim_start_matches('\u{feff}').trim();
            let object: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
            let fields = body.split(['&', '?', '#']).filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                SECRET_FIELDS.contains(&name).then_some(value)
            });
            let secrets = SECRET_FIELDS
                .iter()
                .filter_map(|field| object.get(*field)?.as_str())
                .chain(fields);
            let secrets: Vec<_> = secrets
                .filter(|text| text.len() >= 8 && !text.contains('…'))
                .collect();
            is_silent_about(&secrets, code);
        }
    }
}
