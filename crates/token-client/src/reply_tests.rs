//! Class of each reply, one row each.

use super::super::provider::ErrorRule;
use super::super::quirks::{LifetimeUnit, ReplyFields};
use crate::samples::profile;
use std::time::Duration;

use super::*;

fn verdict(status: u16, body: &str) -> Verdict {
    read(
        &TokenReply {
            whole: true,
            status,
            retry_after: None,
            now: Timestamp::default(),
            body: body.as_bytes(),
        },
        &profile(),
        &["s3cret-value"],
    )
}

fn class(status: u16, body: &str) -> Class {
    match verdict(status, body) {
        Verdict::Refused(refusal) => refusal.problem.class,
        Verdict::Granted(_) => panic!("{status} {body} was taken for a token"),
    }
}

fn granted(body: &str) -> GrantedTokens {
    match verdict(200, body) {
        Verdict::Granted(granted) => *granted,
        Verdict::Refused(refusal) => panic!("{body} was refused: {refusal:?}"),
    }
}

#[test]
fn every_reply_has_its_class() {
    let html = "<html><body>502 Bad Gateway</body></html>";
    for (status, body, expected) in [
        (
            400,
            r#"{"error":"invalid_grant"}"#,
            Class::NeedsAuthorization,
        ),
        (
            200,
            r#"{"error":"INVALID_GRANT"}"#,
            Class::NeedsAuthorization,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"Value passed for the token was invalid."}"#,
            Class::NeedsAuthorization,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"No \"refresh_token\""}"#,
            Class::Unknown,
        ),
        (401, r#"{"error":"invalid_client"}"#, Class::ClientRejected),
        (200, r#"{"error":"wrong_client"}"#, Class::ClientRejected),
        (401, r#"{"error":"PAYMENT_REQUIRED"}"#, Class::Blocked),
        (
            401,
            r#"{"error":{"code":"NOT_INSTALLED","message":"gone"}}"#,
            Class::Gone,
        ),
        (500, r#"{"error":"SOMETHING_NEW"}"#, Class::Transient),
        (408, r#"{"error":"invalid_grant"}"#, Class::Transient),
        (425, r#"{"error":"invalid_client"}"#, Class::Transient),
        (403, r#"{"error":"SOMETHING_NEW"}"#, Class::Unknown),
        (403, html, Class::Unknown),
        (500, html, Class::Transient),
        (503, "", Class::Transient),
        (429, "slow down", Class::Transient),
        (502, html, Class::InDoubt),
        (504, "", Class::InDoubt),
        (200, html, Class::InDoubt),
        (200, r#"{"access_token":"abc","refresh_tok"#, Class::InDoubt),
        (200, "", Class::InDoubt),
        (200, "{}", Class::InDoubt),
        (200, r#"{"access_token":""}"#, Class::InDoubt),
        (200, r#"["access"]"#, Class::InDoubt),
        (302, "", Class::Unknown),
        (500, r#"{"access_token":"abc"}"#, Class::InDoubt),
    ] {
        assert_eq!(class(status, body), expected, "{status} {body}");
    }
}

#[test]
fn a_response_of_any_profile_is_a_pair() {
    for (expires_in, secs) in [
        ("3600", 3600),
        ("\"3600\"", 3600),
        ("3599.5", 3599),
        ("0", 0),
        ("-5", 0),
        ("null", 3600),
        ("34560000", 34_560_000),
        ("34560001", 3600),
        ("1e300", 3600),
    ] {
        let body = format!(
            r#"{{"access_token":"a","refresh_token":"r","token_type":"bearer","expires_in":{expires_in}}}"#
        );
        let granted = granted(&body);
        assert_eq!(granted.lives.span().as_secs(), secs, "{expires_in}");
        assert_eq!(granted.token_type, "Bearer");
        assert_eq!(granted.refresh.unwrap().expose(), "r");
    }
}

#[test]
fn a_missing_or_empty_refresh_token_is_none_and_never_an_empty_one() {
    for body in [
        r#"{"access_token":"a"}"#,
        r#"{"access_token":"a","refresh_token":""}"#,
        r#"{"access_token":"a","refresh_token":null}"#,
    ] {
        assert!(granted(body).refresh.is_none(), "{body}");
    }
}

#[test]
fn a_bitrix24_reply_is_read_whole() {
    let granted = granted(
        r#"{"access_token":"968e0e3","expires":1780319382,"expires_in":3600,"scope":"crm,task","domain":"oauth.bitrix24.tech",
        "server_endpoint":"https://oauth.bitrix24.tech/rest/","status":"L","client_endpoint":"https://acme.bitrix24.com/rest/",
        "member_id":"b65727","user_id":67,"refresh_token":"860c0b"}"#,
    );
    assert_eq!(granted.identity.as_deref(), Some("b65727"));
    assert_eq!(
        granted.server.as_deref(),
        Some("https://oauth.bitrix24.tech/rest/")
    );
    assert_eq!(
        granted.details.endpoint.as_deref(),
        Some("https://acme.bitrix24.com/rest/")
    );
    assert_eq!(granted.details.scope, ["crm", "task"]);
    assert_eq!(granted.details.fields["user_id"], 67);
}

#[test]
fn no_secret_comes_back_in_the_servers_words() {
    let Verdict::Refused(refusal) = verdict(
        400,
        r#"{"error":"unheard_of","error_description":"s3cret-value and 5bad2d67006e9f06006b12e400000001 are wrong"}"#,
    ) else {
        panic!("refused")
    };
    assert_eq!(refusal.problem.detail, "… and … are wrong");
}

#[test]
fn a_server_that_repeats_refresh_tokens_publishes_none() {
    let (old, new) = ("5bad2d67006e9f06006b12e4", "860c0b67006e9f06006b12e4");
    let body = format!(
        r#"{{"access_token":"a","refresh_token":"{new}","member_id":"{old}","scope":"crm {new}","token_type":"{old}",
        "client_endpoint":"https://acme.bitrix24.com/{old}/\n","status":{{"nested":["{new}","{old}","s3cret-value"]}}}}"#
    );
    let reply = TokenReply {
        whole: true,
        status: 200,
        retry_after: None,
        now: Timestamp::default(),
        body: body.as_bytes(),
    };
    let Verdict::Granted(granted) = read(&reply, &profile(), &[old]) else {
        panic!("granted")
    };
    let shown = format!("{granted:?}");
    assert!(!shown.contains(old) && !shown.contains(new), "{shown}");
    assert_eq!(granted.refresh.unwrap().expose(), new);
    assert_eq!(
        granted.details.endpoint, None,
        "an address with a hole is none"
    );
}

#[test]
fn a_field_that_the_state_could_not_read_again_is_left_out() {
    let fields = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        granted(&format!(
            r#"{{"access_token":"a","user_id":7,"status":{open}{close}}}"#
        ))
        .details
        .fields
    };
    assert_eq!(fields(32).len(), 2);
    for levels in [33, 126] {
        assert_eq!(
            fields(levels).into_keys().collect::<Vec<_>>(),
            ["user_id"],
            "{levels}"
        );
    }
}

#[test]
fn a_profile_says_where_the_parts_of_a_reply_stand() {
    let mut profile = profile();
    profile.reply = ReplyFields {
        access_token: ["authed_user.access_token", "access_token"]
            .map(JsonPath::new)
            .into(),
        refresh_token: vec![JsonPath::new("authed_user.refresh_token")],
        expires_at: vec![JsonPath::new("ends")],
        unit: LifetimeUnit::Milliseconds,
        error: vec![JsonPath::new("status")],
        error_description: vec![JsonPath::new("message")],
        ..ReplyFields::default()
    };
    profile.fields = vec!["team.id".into()];
    let now = Timestamp::from_secs(1_795_000_000);
    let read = |body: &str| {
        read(
            &TokenReply {
                whole: true,
                status: 200,
                retry_after: None,
                now,
                body: body.as_bytes(),
            },
            &profile,
            &[],
        )
    };
    let body = r#"{"authed_user":{"access_token":"a1","refresh_token":"r1"},"team":{"id":7},"expires_in":90000}"#;
    let Verdict::Granted(granted) = read(body) else {
        panic!("{body}")
    };
    assert_eq!(
        (granted.access.expose(), granted.refresh.unwrap().expose()),
        ("a1", "r1")
    );
    assert_eq!(granted.lives.span(), Duration::from_secs(90));
    assert_eq!(granted.details.fields["team.id"], 7);
    let Verdict::Granted(granted) = read(r#"{"access_token":"a2","ends":"1795000060"}"#) else {
        panic!("not taken")
    };
    assert_eq!(
        (granted.access.expose(), granted.lives.span()),
        ("a2", Duration::from_secs(60))
    );
    let Verdict::Refused(refusal) = read(r#"{"status":"NOT_INSTALLED","message":"gone"}"#) else {
        panic!("taken")
    };
    assert_eq!(
        (refusal.problem.class, refusal.problem.code.as_deref()),
        (Class::Gone, Some("NOT_INSTALLED"))
    );
}

#[test]
fn a_row_may_ask_for_more_than_the_code() {
    let mut profile = profile();
    let also = vec![(
        JsonPath::new("error_codes"),
        vec!["50074".to_owned(), "50076".to_owned()],
    )];
    let row = ErrorRule {
        also,
        class: Class::Blocked,
        ..profile.errors[1].clone()
    };
    profile.errors.insert(0, row);
    let class = |body: &str| match read(
        &TokenReply {
            whole: true,
            status: 400,
            retry_after: None,
            now: Timestamp::default(),
            body: body.as_bytes(),
        },
        &profile,
        &[],
    ) {
        Verdict::Refused(refusal) => refusal.problem.class,
        Verdict::Granted(granted) => panic!("{granted:?}"),
    };
    assert_eq!(
        class(r#"{"error":"invalid_grant","error_codes":[50076]}"#),
        Class::Blocked
    );
    assert_eq!(
        class(r#"{"error":"invalid_grant","error_codes":[70008]}"#),
        Class::NeedsAuthorization
    );
    assert_eq!(
        class(r#"{"error":"invalid_grant"}"#),
        Class::NeedsAuthorization
    );
}

#[test]
fn an_endpoint_that_holds_a_new_token_or_is_no_address_is_left_out() {
    let access = "96841d6a0000071b0000084400000001";
    let encoded = access.replace('9', "%39");
    for (endpoint, kept) in [
        (
            "https://acme.bitrix24.com/rest/".to_owned(),
            Some("https://acme.bitrix24.com/rest/"),
        ),
        (format!("https://a/?auth={access}"), None),
        (format!("https://a/{encoded}"), None),
        (format!("https://{access}.example/"), None),
        (format!("https://a/?half={}", &access[..16]), None),
        ("javascript://acme7/%0aalert(1)".to_owned(), None),
        ("http://acme.bitrix24.com/rest/".to_owned(), None),
    ] {
        let body = serde_json::json!({"access_token": access, "refresh_token": "r", "client_endpoint": endpoint});
        let body = body.to_string();
        let reply = TokenReply {
            whole: true,
            status: 200,
            retry_after: None,
            now: Timestamp::default(),
            body: body.as_bytes(),
        };
        let Verdict::Granted(granted) = read(&reply, &profile(), &[]) else {
            panic!("granted")
        };
        assert_eq!(granted.details.endpoint.as_deref(), kept, "{endpoint}");
    }
}
