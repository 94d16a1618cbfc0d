//! Parsing of lifetimes in replies.

use super::*;
use crate::quirks::LifetimeUnit;

const NOW: i64 = 1_795_896_000;
const DAY: u64 = 86_400;
const HOUR: Duration = Duration::from_secs(3600);

fn lives_in(form: &ReplyFields, body: &str) -> TokenLives {
    let Ok(Value::Object(body)) = serde_json::from_str::<Value>(body) else {
        panic!("an object: {body}")
    };
    TokenLives::of(
        form,
        &body,
        Timestamp::from_secs(NOW),
        HOUR,
        &["s3cret-refresh-token"],
        None,
    )
}

fn access(expires_in: &str) -> TokenLife {
    lives_in(
        &ReplyFields::default(),
        &format!("{{\"expires_in\":{expires_in}}}"),
    )
    .access
}

fn secs(secs: u64) -> TokenLife {
    TokenLife::Reported(Duration::from_secs(secs))
}

#[test]
fn a_life_is_read_in_every_form_that_means_one_thing() {
    for (value, life) in [
        ("20", secs(20)),
        ("\"20\"", secs(20)),
        ("\" 20 \"", secs(20)),
        ("2e1", secs(20)),
        ("20.5", TokenLife::Reported(Duration::from_millis(20_500))),
        ("[20]", secs(20)),
        ("[\"20s\"]", secs(20)),
        ("{\"seconds\":20}", secs(20)),
        ("{\"minutes\":1,\"seconds\":\"20\"}", secs(80)),
        ("\"20s\"", secs(20)),
        ("\"20S\"", secs(20)),
        ("\"20 s\"", secs(20)),
        ("\"20 sec\"", secs(20)),
        ("\"20 seconds\"", secs(20)),
        ("\"20 Seconds.\"", secs(20)),
        ("\"20000ms\"", secs(20)),
        ("\"1.5 min\"", secs(90)),
        ("\"20m\"", secs(1200)),
        ("\"1h\"", secs(3600)),
        ("\"1h30m\"", secs(5400)),
        ("\"1 hour, 30 minutes\"", secs(5400)),
        ("\"1 day and 2 hours\"", secs(26 * 3600)),
        ("\"2 weeks\"", secs(14 * DAY)),
        ("\"PT20S\"", secs(20)),
        ("\"pt1h30m\"", secs(5400)),
        ("\"P1DT1H\"", secs(25 * 3600)),
        ("\"P2W\"", secs(14 * DAY)),
        (
            "\"P0Y0M0DT0H20M0,5S\"",
            TokenLife::Reported(Duration::from_millis(1_200_500)),
        ),
        ("\"00:20:00\"", secs(1200)),
        ("\"1.00:00:00\"", secs(DAY)),
        ("34560000", secs(400 * DAY)),
        // Milliseconds of an hour, or seconds of 41 days: seconds, unless the profile states otherwise.
        ("3600000", secs(3_600_000)),
        ("1795896020", secs(20)),
        ("\"1795896020\"", secs(20)),
        ("1795896020000", secs(20)),
        (
            "1795896020.5",
            TokenLife::Reported(Duration::from_millis(20_500)),
        ),
        ("\"2026-11-28T20:00:20Z\"", secs(20)),
        ("\"2026-11-28T23:00:20.5+03:00\"", secs(20)),
        ("\"Sat, 28 Nov 2026 20:00:20 GMT\"", secs(20)),
        ("\"20261128T200020Z\"", secs(20)),
        ("\"in 20 seconds\"", secs(20)),
        ("\"\\\"20\\\"\"", secs(20)),
        ("\"'20'\"", secs(20)),
        ("\"20;\"", secs(20)),
        ("\"1 day, 0:00:20\"", secs(DAY + 20)),
        ("\"/Date(1795896020000)/\"", secs(20)),
        ("\"/Date(1795896020000+0300)/\"", secs(20)),
        ("{\"value\":20,\"unit\":\"seconds\"}", secs(20)),
        ("[20,20]", secs(20)),
    ] {
        assert_eq!(access(value), life, "{value}");
    }
}

#[test]
fn an_end_is_read_under_the_usual_names() {
    for name in ["expires_at", "expires_on", "expires", "expiry"] {
        for (value, life) in [
            ("1795896020", secs(20)),
            ("\"1795896020\"", secs(20)),
            ("\"2026-11-28T20:00:20Z\"", secs(20)),
        ] {
            let lives = lives_in(&ReplyFields::default(), &format!("{{\"{name}\":{value}}}"));
            assert_eq!(lives.access, life, "{name}: {value}");
        }
    }
    let both = lives_in(
        &ReplyFields::default(),
        r#"{"expires":"never","expires_in":20}"#,
    );
    assert_eq!((both.access.clone(), both.notice()), (secs(20), None));
}

#[test]
fn a_life_that_is_over_is_over() {
    for value in [
        "0",
        "-5",
        "\"0\"",
        "\"-1\"",
        "0.0",
        "[0]",
        "\"0s\"",
        "\"-20 seconds\"",
        "\"PT0S\"",
        "\"-PT20S\"",
        "{\"seconds\":0}",
        "1795896000",
        "1795895999",
        "1795810000",
        "1795895999000",
        "\"2026-11-28T19:59:59Z\"",
        "\"2001-01-01T00:00:00Z\"",
        "\"Sat, 28 Nov 2026 20:00:00 GMT\"",
        "-1e300",
    ] {
        assert_eq!(access(value), TokenLife::Ended, "{value}");
    }
}

#[test]
fn what_can_be_meant_in_two_ways_is_not_guessed() {
    for value in [
        "\"soon\"",
        "\"never\"",
        "true",
        "false",
        "[]",
        "[20,30]",
        "[[20]]",
        "{}",
        "{\"seconds\":20,\"x\":1}",
        "{\"months\":1}",
        "\"1 month\"",
        "\"1M\"",
        "\"P1M\"",
        "\"P1Y\"",
        "\"PT\"",
        "\"P\"",
        "\"3,600\"",
        "\"20:00\"",
        "\"2026-11-28T20:00:20\"",
        "\"2026-11-28\"",
        "34560001",
        "86400000",
        "315360000",
        "9999999999",
        "1e300",
        "\"inf\"",
        "\"NaN\"",
        "\"20 20\"",
        "\"s\"",
        "\"20 parsecs\"",
        "\"1h30\"",
        "\"0x14\"",
        "1700000000",
    ] {
        assert!(
            matches!(access(value), TokenLife::Unreadable(_)),
            "{value}: {:?}",
            access(value)
        );
    }
    assert_eq!(access("null"), TokenLife::Absent);
    for empty in ["\"\"", "\"  \""] {
        assert!(matches!(access(empty), TokenLife::Unreadable(_)), "{empty}");
    }
}

#[test]
fn what_is_assumed_is_said() {
    let lives = lives_in(&ReplyFields::default(), r#"{"expires_in":"soon"}"#);
    assert_eq!(lives.span(), HOUR);
    let notice = lives.notice().unwrap();
    assert!(notice.contains("(\"soon\"); 1h is assumed"), "{notice}");
    assert_eq!(
        lives_in(&ReplyFields::default(), "{}").notice(),
        None,
        "a missing value is no reading error"
    );
    assert_eq!(lives_in(&ReplyFields::default(), "{}").span(), HOUR);
    assert_eq!(
        lives_in(&ReplyFields::default(), r#"{"expires_in":0}"#).span(),
        Duration::ZERO
    );
}

#[test]
fn no_secret_and_no_control_character_is_shown() {
    let long = "x".repeat(500);
    for value in ["s3cret-refresh-token", "soon\\n\\u001b[2J", long.as_str()] {
        let TokenLife::Unreadable(text) = access(&format!("\"{value}\"")) else {
            panic!("{value} was read")
        };
        assert!(
            !text.contains("s3cret") && !text.contains(char::is_control) && text.len() <= 40,
            "{text:?}"
        );
    }
}

#[test]
fn a_profiles_unit_and_places_count() {
    let milliseconds = ReplyFields {
        unit: LifetimeUnit::Milliseconds,
        ..ReplyFields::default()
    };
    for (value, life) in [
        ("3600000", secs(3600)),
        ("\"20s\"", secs(20)),
        ("0", TokenLife::Ended),
    ] {
        assert_eq!(
            lives_in(&milliseconds, &format!("{{\"expires_in\":{value}}}")).access,
            life,
            "{value}"
        );
    }
    let both = |body: &str| lives_in(&ReplyFields::default(), body).access;
    assert_eq!(
        both(r#"{"expires_at":1795896020}"#),
        secs(20),
        "without a life its end counts"
    );
    assert_eq!(both(r#"{"expires_at":"2026-11-28T20:00:20Z"}"#), secs(20));
    assert_eq!(
        both(r#"{"expires_in":60,"expires_at":1795896020}"#),
        secs(60)
    );
    assert_eq!(
        both(r#"{"expires_in":"soon","expires_at":1795896020}"#),
        secs(20)
    );
    for unconfirmed in [
        r#"{"expires_in":1e30,"expires":1797710420}"#,
        r#"{"expires_in":"soon","ttl":86400}"#,
    ] {
        assert_eq!(both(unconfirmed), secs(3600), "{unconfirmed}");
    }
    assert_eq!(
        both(r#"{"expires_at":1700000000}"#),
        TokenLife::Ended,
        "an end may be long past"
    );
    assert!(
        matches!(both(r#"{"expires_at":20}"#), TokenLife::Unreadable(_)),
        "20 is no instant"
    );
}

#[test]
fn a_refresh_tokens_end_is_read_under_each_of_its_names() {
    let refresh = |body: &str| lives_in(&ReplyFields::default(), body).refresh;
    for name in [
        "refresh_expires_in",
        "refresh_token_expires_in",
        "x_refresh_token_expires_in",
    ] {
        assert_eq!(
            refresh(&format!("{{\"{name}\":1800}}")),
            secs(1800),
            "{name}"
        );
    }
    for name in [
        "refresh_expires_at",
        "refresh_token_expires_at",
        "refresh_token_expires_on",
        "refresh_token_expires",
        "refresh_token_expiry",
    ] {
        assert_eq!(
            refresh(&format!("{{\"{name}\":\"2026-11-28T20:00:20Z\"}}")),
            secs(20),
            "{name}"
        );
    }
    // Intuit: a hundred days, and five years.
    assert_eq!(
        refresh(r#"{"refresh_token_expires_in":"8640000"}"#),
        secs(100 * DAY)
    );
    assert_eq!(
        refresh(r#"{"refresh_token_expires_in":157680000}"#),
        secs(5 * 365 * DAY)
    );
    // Keycloak's offline tokens.
    assert_eq!(refresh(r#"{"refresh_expires_in":0}"#), TokenLife::Endless);
    assert_eq!(
        refresh(r#"{"refresh_expires_at":1700000000}"#),
        TokenLife::Ended
    );
    assert_eq!(refresh("{}"), TokenLife::Absent);
    let lives = lives_in(
        &ReplyFields::default(),
        r#"{"expires_in":60,"refresh_expires_in":"later"}"#,
    );
    assert_eq!(lives.span(), Duration::from_secs(60));
    assert!(
        lives
            .notice()
            .unwrap()
            .contains("refresh token cannot be read (\"later\")")
    );
}

#[test]
fn a_life_under_another_name_is_read() {
    for (member, life) in [
        (r#""expire_in":20"#, secs(20)),
        (r#""expireIn":"20""#, secs(20)),
        (r#""expires":20"#, secs(20)),
        (r#""expires_in_seconds":20"#, secs(20)),
        (r#""expiresInMs":20000"#, secs(20)),
        (r#""access_token_expires_in":20"#, secs(20)),
        (r#""accessTokenExpiresAt":"2026-11-28T20:00:20Z""#, secs(20)),
        (r#""expire_time":1795896020"#, secs(20)),
        (r#""expiration":"Sat, 28 Nov 2026 20:00:20 GMT""#, secs(20)),
        (r#""exp":1795896020"#, secs(20)),
        (r#""ttl":20"#, secs(20)),
        (r#""valid_for":20"#, secs(20)),
        (r#""token_lifetime":"20s""#, secs(20)),
        (r#""lifetime_minutes":2"#, secs(120)),
        (r#""expires_in":"","ttl":20"#, secs(20)),
        (
            r#""expires_in":"soon","expiry_date":1795896020000"#,
            secs(20),
        ),
        (r#""ttl":3600,"exp":1795896020"#, secs(20)),
        // Other things have a life too.
        (
            r#""session_ttl":20,"refresh_ttl":20,"id_token_expires_in":20"#,
            TokenLife::Absent,
        ),
        (
            r#""expired":"no","experiment":"b","never_expires":true"#,
            TokenLife::Absent,
        ),
    ] {
        let lives = lives_in(&ReplyFields::default(), &format!("{{{member}}}"));
        assert_eq!(lives.access, life, "{member}");
    }
    for odd in [
        r#""expires_in_x":5"#,
        r#""ttl":0"#,
        r#""expiration":"never""#,
    ] {
        let lives = lives_in(&ReplyFields::default(), &format!("{{{odd}}}"));
        let notice = lives.notice().unwrap_or_default();
        let name = odd.split('"').nth(1).unwrap();
        assert!(notice.contains(&format!("(\"{name}: ")), "{odd}: {notice}");
    }
    let hostile = r#"{"expires_i\u0017n":0}"#;
    let notice = lives_in(&ReplyFields::default(), hostile).notice().unwrap();
    assert!(!notice.contains(char::is_control), "{notice}");
}

#[test]
fn the_end_of_a_jwt_counts_if_the_reply_has_no_life() {
    let life = |body: &str, claims: &str| {
        let Ok(Value::Object(body)) = serde_json::from_str::<Value>(body) else {
            panic!("an object: {body}")
        };
        let token = format!(
            "eyJhbGciOiJub25lIn0.{}.c2ln",
            URL_SAFE_NO_PAD.encode(claims)
        );
        let form = ReplyFields::default();
        let now = Timestamp::from_secs(NOW);
        TokenLives::of(&form, &body, now, HOUR, &[], Some(&token)).access
    };
    assert_eq!(life("{}", r#"{"exp":1795896020}"#), secs(20));
    assert_eq!(
        life(r#"{"expires_in":40}"#, r#"{"exp":1795896020}"#),
        secs(40)
    );
    for claims in [
        "{}",
        r#"{"exp":1795895000}"#,
        r#"{"exp":1e300}"#,
        r#"{"exp":"x"}"#,
        "[1]",
    ] {
        assert_eq!(life("{}", claims), TokenLife::Absent, "{claims}");
    }
}

#[test]
fn the_end_of_a_refresh_token_under_another_name_is_read() {
    for (member, life) in [
        (r#""refresh_expires":300"#, secs(300)),
        (r#""refresh_token_expires":300"#, secs(300)),
        (
            r#""refresh_token_expiration":"2026-11-28T20:05:00Z""#,
            secs(300),
        ),
        (r#""refresh_token_lifetime":300"#, secs(300)),
        (r#""refreshTokenValidity":"300""#, secs(300)),
        (r#""refresh_ttl":300"#, secs(300)),
        (r#""rt_expires_in":300"#, secs(300)),
        (r#""refresh_token_max_age":300"#, secs(300)),
        (r#""expires_in":20,"ttl":20"#, TokenLife::Absent),
    ] {
        let lives = lives_in(&ReplyFields::default(), &format!("{{{member}}}"));
        assert_eq!(lives.refresh, life, "{member}");
    }
}
