//! A token response with any status and body, and its effect on a grant.
//!
//! An input is two bytes that choose the status, the profile and where the grant stood, and then the body.

use std::time::Duration;

use refreshd::domain::name::PortalName;
use refreshd::domain::portal::{Grant, GrantStatus, Phase};
use refreshd::domain::renewal::{
    Attempt, AttemptTimes, RenewalRules, Renewed, Transition, apply_outcome,
};
use refreshd_secrets::{AccessToken, Fingerprint, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::body_decoding::MAX_BODY_BYTES;
use refreshd_token_client::import_token::is_missing_value;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::{Class, Profile};
use refreshd_token_client::reply::{GrantedTokens, Refusal, TokenReply, Verdict, read};
use refreshd_token_client::token::{
    Access, Credential, Details, Generation, LIFETIME_RANGE, Tokens, Validity,
};
use refreshd_token_client::token_object::is_no_new_token;
use serde_json::Value;

use super::{SHORTEST_TOKEN, can_be_read_again, is_a_line, is_silent_about, profiles, words};

/// Secrets known to refreshd when a response arrives; the dictionary has them, too, so that responses repeat them. None
/// results from an escape such as `\r` by chance.
const REFRESH: &str = "Sp3ntRefreshTokenOfTheState";
const ACCESS: &str = "Old4ccessTokenOfTheState";
const CLIENT: &str = "Cl1ent secret of the app";

const STATUS: [u16; 16] = [
    200, 400, 401, 403, 201, 204, 302, 404, 408, 429, 500, 502, 503, 504, 100, 999,
];
const SENT_AT: Timestamp = Timestamp::from_secs(1_795_192_000);
const NOW: Timestamp = Timestamp::from_secs(1_795_192_002);

/// Checks the properties.
pub fn holds(data: &[u8]) {
    let [status, choice, body @ ..] = data else {
        return;
    };
    let status = STATUS[usize::from(*status) % STATUS.len()];
    let profile = &profiles()[usize::from(*choice) % 2];
    let retry_after = (choice & 16 != 0).then_some(Duration::MAX);
    let reply = TokenReply {
        whole: true,
        status,
        retry_after,
        now: NOW,
        body,
    };
    let secrets = [REFRESH, ACCESS, CLIENT];
    let verdict = read(&reply, profile, &secrets);
    is_silent_about(&secrets, &format!("{verdict:?}"));
    let again = read(&reply, profile, &secrets);
    assert_eq!(
        text_of(&verdict),
        text_of(&again),
        "the same reply, another verdict"
    );
    match &verdict {
        Verdict::Granted(granted) => is_a_pair(granted, status, body),
        Verdict::Refused(refusal) => is_a_refusal(refusal, profile),
    }
    if body.len() < 4096 {
        keeps_in_wrappings(body, profile);
        holds_no_more_when_cut(body, profile);
    }
    settles(&grant(choice >> 1), profile, verdict, again, &secrets);
}

fn is_a_pair(granted: &GrantedTokens, status: u16, body: &[u8]) {
    assert!((200..300).contains(&status), "a token with status {status}");
    assert!(!granted.access.expose().is_empty());
    let (least, most) = LIFETIME_RANGE;
    let life = granted.lives.span();
    assert!(life.is_zero() || (least..=most).contains(&life), "{life:?}");
    let notice = granted.notice().unwrap_or_default();
    assert!(!notice.contains(char::is_control), "{notice:?}");
    assert!(granted.identity.as_deref() != Some(""));
    let GrantedTokens {
        access: _,
        refresh,
        odd_refresh: _,
        token_type,
        lives: _,
        identity,
        server,
        details,
    } = granted;
    can_be_read_again(details);
    let Details {
        scope,
        endpoint,
        fields: _,
    } = details;
    let texts = [
        Some(token_type),
        identity.as_ref(),
        server.as_ref(),
        endpoint.as_ref(),
    ];
    for text in texts.into_iter().flatten().chain(scope) {
        assert!(
            !text.contains(char::is_control),
            "control characters: {text:?}"
        );
    }
    comes_from_the_body(granted.access.expose(), "access_token", body);
    if let Some(refresh) = refresh.as_ref() {
        comes_from_the_body(refresh.expose(), "refresh_token", body);
    }
    // Valid JSON with a refresh token is parsed as JSON, and in no other way.
    if let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body)
        && object.contains_key("access_token")
    {
        let once = |name: &str| {
            body.windows(name.len())
                .filter(|window| *window == name.as_bytes())
                .count()
                == 1
        };
        let escaped = body.contains(&b'\\');
        let text = |name: &str| {
            object
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim_matches(is_unseen)
                .to_owned()
        };
        if !escaped
            && once("access_token")
            && once("refresh_token")
            && object["access_token"].is_string()
        {
            // A word for nothing is none, and then one in another place counts.
            if !is_missing_value(&text("access_token")) {
                assert_eq!(granted.access.expose(), text("access_token"));
            }
            let plain = object
                .get("refresh_token")
                .is_none_or(|token| token.is_string() || token.is_null());
            // A word for nothing is none, and then one under another name counts.
            let token = text("refresh_token");
            if plain && !is_missing_value(&token) && !is_no_new_token(&Value::from(token)) {
                assert_eq!(
                    refresh.as_ref().map_or("", RefreshToken::expose),
                    text("refresh_token")
                );
            }
        }
    }
    if let Some(refresh) = refresh
        .as_ref()
        .filter(|refresh| refresh.expose().len() >= SHORTEST_TOKEN)
    {
        is_silent_about(&[refresh.expose()], &notice);
        is_silent_about(&[refresh.expose()], &words(details));
    }
}

/// Returns whether a character at the end of a text is invisible.
fn is_unseen(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// A token is a whole value below its name, at any place: a plain one is followed by the end of a string, of a form's
/// value or of a number.
fn comes_from_the_body(token: &str, name: &str, body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else {
        return;
    };
    // Compressed or escaped tokens are not found unchanged.
    if body.contains(&b'\\') || body.contains(&0) || body.contains(&b'%') || body.contains(&b'+') {
        return;
    }
    // Quotes that were escaped for a page.
    if ["&quot;", "&#34;", "&#x22;"]
        .iter()
        .any(|quote| text.contains(quote))
    {
        return;
    }
    if body.starts_with(&[0x1f, 0x8b]) || body.iter().any(|byte| !(b' '..=b'~').contains(byte)) {
        return;
    }
    let whole = |at: usize| {
        let before = without_comment(text[..at].trim_end());
        let after = text[at + token.len()..].trim_start();
        // Python prints single quotes.
        let quoted = ['"', '\'']
            .iter()
            .any(|quote| before.ends_with(*quote) && after.starts_with(*quote));
        let plain = before.ends_with([':', '='])
            && (after.is_empty() || after.starts_with([',', '}', '&', ';', '|', '/']));
        // The last value of a form that is a JSON string.
        let ends_form = before.ends_with('=') && after.starts_with('"');
        quoted || plain || ends_form
    };
    // Names may be spelt in another way.
    let plain = |text: &str| text.replace(['_', '-', ' '], "").to_ascii_lowercase();
    assert!(plain(text).contains(&plain(name)), "{token} without {name}");
    assert!(
        text.match_indices(token).any(|(at, _)| whole(at)),
        "{token} is not a whole value of {text}"
    );
}

/// A text without the comments at its end.
fn without_comment(mut text: &str) -> &str {
    while let Some(start) = text
        .strip_suffix("*/")
        .and_then(|inside| inside.rfind("/*"))
    {
        text = text[..start].trim_end();
    }
    text
}

/// A truncated body yields no other pair than the complete one, and a truncated form none: its last value may be cut.
fn holds_no_more_when_cut(body: &[u8], profile: &Profile) {
    let pair = |whole: bool| {
        let reply = TokenReply {
            whole,
            status: 200,
            retry_after: None,
            now: NOW,
            body,
        };
        text_of(&read(&reply, profile, &[])).1
    };
    let Some(cut) = pair(false) else { return };
    assert_eq!(Some(&cut), pair(true).as_ref(), "{body:?} when it is cut");
    let is_plain = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    // A JSON string delimits itself, and so does a compressed body.
    assert!(
        body.iter().any(|byte| b"{\"'".contains(byte))
            || !body.iter().all(is_plain)
            || body[0] == b'x',
        "a form that is cut: {body:?}"
    );
}

/// A wrapping takes nothing away from a pair, and makes none of a refusal.
fn keeps_in_wrappings(body: &[u8], profile: &Profile) {
    let Ok(Value::Object(_)) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let pair = |body: &[u8]| {
        let reply = TokenReply {
            whole: true,
            status: 200,
            retry_after: None,
            now: NOW,
            body,
        };
        text_of(&read(&reply, profile, &[])).1
    };
    let bare = pair(body);
    let Ok(text) = std::str::from_utf8(body) else {
        return;
    };
    for wrapped in [
        format!("\u{feff}{text}"),
        format!("{text}\0\n"),
        format!(")]}}',\n{text}"),
        format!("for(;;);{text}"),
        format!("cb({text});"),
        format!("[{text}]"),
        Value::from(text).to_string(),
        format!("<br /><b>Notice</b>: x {text}"),
        format!("{text}<!-- 0.02 s -->"),
    ] {
        let found = pair(wrapped.as_bytes());
        assert!(found == bare, "{text:?} in {wrapped:?}");
    }
    for refused in [
        format!("error({text});"),
        format!(
            "event: error\ndata: {}\n\n",
            text.replace(['\r', '\n'], " ")
        ),
        format!("/* refresh token invalid */ {text}"),
        format!("<!-- invalid grant --> {text}"),
        format!("<error>{text}</error>"),
        format!("var old = {text};"),
        format!("HTTP/1.1 400 Bad Request\r\n\r\n{text}"),
        format!("POST /token HTTP/1.1\r\n\r\n{text}"),
        format!("Refresh failed.\n{text}"),
        format!("{text}\nThe refresh token has expired."),
        format!(r#"{{"error":"invalid_grant","data":{text}}}"#),
        format!(r#"{{"status":"invalid_grant","data":{text}}}"#),
        format!(r#"{{"http_status":401,"data":{text}}}"#),
        format!(r#"{{"meta":{{"error":"invalid_grant"}},"data":{text}}}"#),
        format!(r#"{{"code":1001,"msg":"invalid refresh token","data":{text}}}"#),
        format!(r#"{{"failed":true,"data":{text}}}"#),
        format!(r#"{{"original_request":{text}}}"#),
    ] {
        let found = pair(refused.as_bytes());
        assert!(found.is_none(), "a failure is stated: {refused:?}");
    }
    let wide: Vec<u8> = std::iter::once(0xfeff)
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert!(
        pair(&wide) == bare || wide.len() > MAX_BODY_BYTES,
        "in UTF-16: {text:?}"
    );
}

fn is_a_refusal(refusal: &Refusal, profile: &Profile) {
    is_fit_for_a_log(&refusal.problem);
    let dead = matches!(
        refusal.problem.class,
        Class::NeedsAuthorization | Class::Gone
    );
    assert!(
        !dead
            || profile
                .errors
                .iter()
                .any(|rule| rule.class == refusal.problem.class)
    );
    let has_text = refusal.problem.code.is_some() || refusal.problem.server_text.is_some();
    assert!(
        !dead || has_text,
        "no grant dies without a word of the server's: {refusal:?}"
    );
    assert!(
        !refusal.assumed,
        "nothing is assumed of a request that is not known to have worked"
    );
}

fn is_fit_for_a_log(problem: &Problem) {
    is_a_line(&problem.text());
}

/// Everything in a verdict, including its tokens, for comparison.
fn text_of(verdict: &Verdict) -> (String, Option<(String, Option<String>)>) {
    let tokens = match verdict {
        Verdict::Granted(granted) => {
            let refresh = granted
                .refresh
                .as_ref()
                .map(|refresh| refresh.expose().to_owned());
            Some((granted.access.expose().to_owned(), refresh))
        }
        Verdict::Refused(_) => None,
    };
    (format!("{verdict:?}"), tokens)
}

fn settles(grant: &Grant, profile: &Profile, verdict: Verdict, again: Verdict, secrets: &[&str]) {
    let portal = PortalName::parse("acme").expect("a name");
    let rules = RenewalRules {
        profile,
        every: profile.renew_every,
    };
    let times = AttemptTimes {
        sent_at: SENT_AT,
        now: NOW,
    };
    let brought = match &verdict {
        Verdict::Granted(granted) => granted
            .refresh
            .as_ref()
            .map(|refresh| refresh.expose().to_owned()),
        Verdict::Refused(_) => None,
    };
    let settled = apply_outcome(
        &portal,
        grant,
        rules,
        Attempt::Answered(verdict),
        times,
        0.5,
    );
    let once_more = apply_outcome(&portal, grant, rules, Attempt::Answered(again), times, 0.5);
    assert_eq!(
        format!("{settled:?}"),
        format!("{once_more:?}"),
        "the same verdict, another decision"
    );
    is_silent_about(secrets, &format!("{settled:?}"));
    match settled {
        Transition::Renewed(renewed) => {
            let Renewed {
                tokens,
                status,
                identity: _,
                token_url,
                renamed_from: _,
            } = *renewed;
            let refresh = tokens.credential.refresh().expect("a refresh token");
            assert_eq!(refresh.expose(), brought.as_deref().unwrap_or(REFRESH));
            let access = tokens.access.expect("a renewal brings an access token");
            let renew_at = status.renew_at.expect("the next renewal is planned");
            assert!(renew_at > SENT_AT, "{renew_at}");
            if status.phase == Phase::Fresh {
                // One that was there before has lived since before.
                let same = access.token.expose() == ACCESS;
                assert!((same || access.issued_at == SENT_AT) && access.issued_at <= SENT_AT);
                assert!(access.expires_at > SENT_AT);
                assert!(
                    renew_at <= access.expires_at + Duration::from_secs(1),
                    "{renew_at}"
                );
            } else {
                assert!(
                    matches!(status.phase, Phase::Retrying { .. }),
                    "{:?}",
                    status.phase
                );
                assert!(access.expires_at <= SENT_AT, "it had ended when it came");
                stands(&status);
            }
            assert!(token_url.is_none_or(|url| profile.renewal_urls().any(|known| known == url)));
        }
        Transition::Kept(status) => stands(&status),
        Transition::Foreign { status, granted } => {
            assert_ne!(granted.identity, grant.identity);
            stands(&status);
        }
    }
}

fn stands(status: &GrantStatus) {
    if let Some(problem) = status.phase.problem() {
        is_fit_for_a_log(problem);
    }
    assert!(
        status.next_attempt_at.is_none_or(|at| at >= NOW),
        "nothing is sent in the past: {status:?}"
    );
    // A dead grant is asked about again for some days.
    let may_stop = matches!(
        status.phase,
        Phase::NeedsAuthorization { .. } | Phase::Gone { .. }
    );
    assert!(status.next_attempt_at.is_some() || may_stop, "{status:?}");
    assert!(
        status.next_attempt_at.is_none() || !matches!(status.phase, Phase::Gone { .. }),
        "{status:?}"
    );
}

/// A grant in one of four phases, with an identity known or not.
fn grant(choice: u8) -> Grant {
    let problem = Problem::new(Class::Transient, "before".to_owned());
    let since = Timestamp::from_secs(1_795_191_000);
    let phase = match choice & 3 {
        0 => Phase::Fresh,
        1 => Phase::Retrying {
            attempt: u32::MAX,
            since,
            problem,
        },
        2 => Phase::InDoubt {
            attempt: 1,
            since,
            problem,
        },
        _ => Phase::Blocked {
            attempt: 24,
            since,
            problem,
        },
    };
    let access = Access {
        token: AccessToken::new(ACCESS).expect("a token"),
        token_type: "Bearer".to_owned(),
        issued_at: Timestamp::from_secs(1_795_190_400),
        expires_at: Timestamp::from_secs(1_795_194_000),
    };
    let refresh = RefreshToken::new(REFRESH).expect("a token");
    Grant {
        generation: Generation(42),
        tokens: Tokens {
            access: Some(access),
            credential: Credential::Refresh(refresh),
            details: Details::default(),
            validity: Validity::default(),
        },
        status: GrantStatus {
            phase,
            renew_at: Some(SENT_AT),
            next_attempt_at: Some(SENT_AT),
        },
        renewed_at: since,
        bound_to: Fingerprint::of(b"client"),
        token_url: "https://oauth.bitrix.info/oauth/token/".to_owned(),
        identity: (choice & 4 != 0).then(|| "a223c6b3710f85df22e9377d6c4f7553".to_owned()),
        notified: Vec::new(),
        claim: None,
        tried_at: None,
    }
}
