//! Classification of refusals, and the server's texts in them.

use std::time::Duration;

use super::super::reply::{Verdict, read_in};
use super::*;
use crate::samples::profile;
use refreshd_time::Timestamp;

fn refusal(status: u16, body: &str, context: ErrorContext<'_>) -> Refusal {
    let retry_after = Some(Duration::from_secs(7));
    let reply = TokenReply {
        whole: true,
        status,
        retry_after,
        now: Timestamp::default(),
        body: body.as_bytes(),
    };
    match read_in(&reply, &profile(), &["s3cret-value"], context) {
        Verdict::Refused(refusal) => refusal,
        Verdict::Granted(_) => panic!("{status} {body} was taken for a token"),
    }
}

fn problem(status: u16, body: &str) -> Problem {
    refusal(status, body, ErrorContext::default()).problem
}

#[test]
fn a_server_that_is_ill_is_not_believed() {
    for code in [
        "invalid_grant",
        "invalid_client",
        "NOT_INSTALLED",
        "PAYMENT_REQUIRED",
        "never_heard_of",
    ] {
        for (status, class) in [
            (500, Class::Transient),
            (503, Class::Transient),
            (429, Class::Transient),
            (599, Class::Transient),
            (502, Class::InDoubt),
            (504, Class::InDoubt),
        ] {
            let body = format!(r#"{{"error":"{code}","error_description":"bad day"}}"#);
            let refusal = refusal(status, &body, ErrorContext::default());
            assert_eq!(refusal.problem.class, class, "{status} {code}");
            assert_eq!(refusal.problem.code.as_deref(), Some(code));
            assert_eq!(
                refusal.retry_after,
                Some(Duration::from_secs(7)),
                "it is obeyed"
            );
            assert!(refusal.problem.remedy.is_none() && refusal.problem.text().contains("bad day"));
        }
    }
    assert_eq!(
        problem(400, r#"{"error":"invalid_grant"}"#).class,
        Class::NeedsAuthorization
    );
}

#[test]
fn a_row_that_names_the_status_may_say_what_it_means_but_never_ends_a_grant() {
    let row = |class, status: &[u16]| ErrorRule {
        status: status.to_vec(),
        error: vec!["held".into()],
        description: String::new(),
        also: Vec::new(),
        class,
        meaning: Some("held by hand".into()),
        remedy: None,
    };
    assert!(is_trusted(&row(Class::Blocked, &[503]), 503));
    assert!(!is_trusted(&row(Class::Blocked, &[]), 503));
    assert!(
        is_trusted(&row(Class::Transient, &[]), 503),
        "it means the same as the status"
    );
    for class in [
        Class::NeedsAuthorization,
        Class::Gone,
        Class::ClientRejected,
    ] {
        assert!(!is_trusted(&row(class, &[503, 429]), 429), "{class:?}");
        assert!(is_trusted(&row(class, &[]), 400), "{class:?}");
    }
}

#[test]
fn the_servers_own_words_stand_beside_our_meaning() {
    let words = "AADSTS50173: the password of s3cret-value was\u{202e} changed";
    for body in [
        format!(r#"{{"error":"invalid_grant","error_description":"{words}"}}"#),
        format!(r#"{{"error":"invalid_grant","message":"{words}"}}"#),
        format!(r#"{{"error":{{"code":"invalid_grant","message":"{words}"}}}}"#),
        format!(r#"{{"error":"invalid_grant","hint":"{words}"}}"#),
    ] {
        let mut profile = profile();
        profile.errors[1].meaning = Some("our meaning".into());
        let reply = TokenReply {
            whole: true,
            status: 400,
            retry_after: None,
            now: Timestamp::default(),
            body: body.as_bytes(),
        };
        let Verdict::Refused(refusal) =
            read_in(&reply, &profile, &["s3cret-value"], ErrorContext::default())
        else {
            panic!("{body}")
        };
        assert_eq!(refusal.problem.detail, "our meaning");
        assert_eq!(
            refusal.problem.text(),
            "invalid_grant: our meaning (the server says: AADSTS50173: the password of … was changed)",
            "{body}"
        );
    }
    let without_code = problem(
        403,
        r#"{"message":"not from here","error_uri":"https://x.example/why"}"#,
    );
    assert_eq!(
        without_code.text(),
        "the server answered with status 403 and no error code (the server says: not from here; see https://x.example/why)"
    );
    let bad = problem(400, r#"{"error":"odd","error_uri":"javascript:alert(1)"}"#);
    assert_eq!((bad.error_uri, bad.server_text), (None, None));
    for description in [
        r#"["password was changed","log in again"]"#,
        r#"{"a":["password was changed"],"b":"log in again"}"#,
    ] {
        let body = format!(r#"{{"error":"odd","error_description":{description}}}"#);
        assert_eq!(
            problem(400, &body).text(),
            "odd: password was changed; log in again",
            "{body}"
        );
    }
    let own = problem(400, r#"{"error":"odd","error_description":"said once"}"#);
    assert_eq!(
        own.text(),
        "odd: said once",
        "words that are the meaning are not repeated"
    );
}

#[test]
fn redirect_target_is_reported() {
    let leads = |location| {
        let sent_to = "https://a.example/oauth/token";
        refusal(
            301,
            "",
            ErrorContext {
                sent_to,
                location,
                ..ErrorContext::default()
            },
        )
        .problem
        .detail
    };
    let slash = leads(Some("https://a.example/oauth/token/"));
    assert!(
        slash.contains("to a.example (only the path differs: the slash at its end is missing"),
        "{slash}"
    );
    assert!(
        leads(Some("/oauth/token/")).contains("the slash at its end is missing"),
        "a relative one"
    );
    assert!(leads(Some("https://b.example:8443/x?token=abc")).contains("to b.example:8443; "));
    assert!(leads(Some("http://a.example/oauth/token")).contains("the same host by http"));
    assert!(
        !leads(Some("https://a.example/abc/def")).contains("def"),
        "a path may hold a secret"
    );
    for nothing in [None, Some("javascript:x"), Some("")] {
        let detail = leads(nothing);
        assert!(
            detail.contains("a redirect; ") || detail.contains("the same address"),
            "{nothing:?}: {detail}"
        );
    }
}

#[test]
fn a_dead_grant_in_other_words_is_known_by_the_request_that_worked() {
    let worked = ErrorContext {
        worked_before: true,
        ..ErrorContext::default()
    };
    let standard = "The request is missing a required parameter, includes an invalid parameter value, includes a \
                    parameter more than once, or is otherwise malformed.";
    for words in [
        "",
        "Invalid request",
        "The refresh token is invalid.",
        "Token has been revoked",
        standard,
        &format!("{standard} Check the `refresh_token` parameter"),
        "Invalid refresh token: token_not_found",
    ] {
        let body =
            serde_json::json!({"error": "invalid_request", "error_description": words}).to_string();
        let dead = refusal(400, &body, worked);
        assert!(
            dead.assumed && dead.problem.class == Class::NeedsAuthorization,
            "{words}: {dead:?}"
        );
        assert!(
            dead.problem.detail.contains("assumed: the grant is dead"),
            "the assumption is shown"
        );
        let new = refusal(400, &body, ErrorContext::default());
        assert!(
            !new.assumed && new.problem.class == Class::Unknown,
            "{words}: it never worked before"
        );
        assert_eq!(
            refusal(500, &body, worked).problem.class,
            Class::Transient,
            "{words}: of a server that is ill"
        );
    }
    for words in [
        "redirect_uri does not match",
        "Invalid scope",
        "client_id is unknown",
        "Missing parameter: refresh_token",
        "Unsupported content type",
        &format!("{standard} Check the `client_id` parameter"),
        "Too many requests, try again later",
    ] {
        let body =
            serde_json::json!({"error": "invalid_request", "error_description": words}).to_string();
        assert!(
            !refusal(400, &body, worked).assumed,
            "{words}: it is about something else"
        );
    }
    for (status, code) in [
        (401, "invalid_token"),
        (400, "invalid_token"),
        (400, "expired_token"),
        (400, "token_expired"),
        (401, "token_inactive"),
        (403, "access_denied"),
        (400, "Refresh Token Revoked"),
        (422, "invalid_refresh_token"),
        (404, "token_not_found"),
    ] {
        let body = serde_json::json!({"error": code}).to_string();
        let dead = refusal(status, &body, worked);
        assert!(
            dead.assumed && dead.problem.class == Class::NeedsAuthorization,
            "{status} {code}: {dead:?}"
        );
        assert_eq!(
            refusal(status, &body, ErrorContext::default())
                .problem
                .class,
            Class::Unknown,
            "{code}: it never worked before"
        );
        for ill in [429, 500, 502, 503, 504] {
            assert!(!refusal(ill, &body, worked).assumed, "{ill} {code}");
        }
    }
    for (status, code) in [
        (400, "token_limit_reached"),
        (401, "unauthorized"),
        (405, "invalid_token"),
    ] {
        let body = serde_json::json!({"error": code}).to_string();
        assert!(!refusal(status, &body, worked).assumed, "{status} {code}");
    }
    for words in ["Refresh token expired", "The token has been revoked."] {
        let body = serde_json::json!({"message": words}).to_string();
        assert!(refusal(400, &body, worked).assumed, "{words}");
        assert!(refusal(401, &body, worked).assumed, "{words}");
        assert!(!refusal(403, &body, worked).assumed, "{words}");
        assert!(!refusal(400, &body, ErrorContext::default()).assumed);
    }
    assert!(!refusal(401, r#"{"message":"Authentication required"}"#, worked).assumed);
    let empty = refusal(401, "", worked);
    assert!(empty.assumed && empty.problem.class == Class::NeedsAuthorization);
    assert!(
        empty
            .problem
            .remedy
            .is_some_and(|remedy| remedy.contains("client_secret")),
        "what else it may be"
    );
    assert_eq!(
        refusal(401, "", ErrorContext::default()).problem.class,
        Class::Unknown
    );
    for body in ["", " \r\n", "{}", "null", "\u{feff}"] {
        let dead = refusal(400, body, worked);
        assert!(
            dead.assumed && dead.problem.class == Class::NeedsAuthorization,
            "{body:?}: {dead:?}"
        );
        assert_eq!(
            refusal(400, body, ErrorContext::default()).problem.class,
            Class::Unknown,
            "{body:?}"
        );
        assert_eq!(
            refusal(403, body, worked).problem.class,
            Class::Unknown,
            "{body:?}: a wall in between"
        );
    }
    assert_eq!(
        refusal(400, "<html>", worked).problem.class,
        Class::Unknown,
        "not the server's own answer"
    );
    assert!(!refusal(400, r#"{"error":"invalid_scope"}"#, worked).assumed);
}

#[test]
fn a_code_is_read_where_and_as_servers_write_it() {
    for body in [
        r#"{"errors":[{"code":"invalid_grant"}]}"#,
        r#"{"errors":[{"code":"invalid_grant","detail":"no"},{"code":"other"}]}"#,
        r#"{"errors":["invalid_grant"]}"#,
        r#"{"errors":{"code":"invalid_grant"}}"#,
        r#"{"Error":"invalid_grant"}"#,
        r#"{"ERROR":"invalid_grant","Error_Description":"no"}"#,
        r#"{"error":"invalid grant"}"#,
        r#"{"error":"Invalid Grant"}"#,
        r#"{"error":"invalid-grant"}"#,
    ] {
        let refused = problem(400, body);
        assert_eq!(
            (
                refused.class,
                refused.code.as_deref().map(str::to_lowercase)
            ),
            (Class::NeedsAuthorization, Some("invalid_grant".to_owned())),
            "{body}"
        );
        assert_eq!(problem(500, body).class, Class::Transient, "{body}");
    }
    // A list of warnings does not discard the token beside it.
    let reply = TokenReply {
        status: 200,
        retry_after: None,
        now: Timestamp::default(),
        body: br#"{"access_token":"a1b2c3d4e5","errors":[],"Error":""}"#,
        whole: true,
    };
    assert!(matches!(
        read_in(&reply, &profile(), &[], ErrorContext::default()),
        Verdict::Granted(_)
    ));
}

#[test]
fn a_refused_code_is_not_called_a_refresh_token() {
    let mut profile = profile();
    profile.errors[1].meaning = Some("the refresh token has expired or was revoked".into());
    let reply = TokenReply {
        whole: true,
        status: 400,
        retry_after: None,
        now: Timestamp::default(),
        body: br#"{"error":"invalid_grant"}"#,
    };
    let description = |spent| match read_in(
        &reply,
        &profile,
        &[],
        ErrorContext {
            spent,
            ..ErrorContext::default()
        },
    ) {
        Verdict::Refused(refusal) => refusal.problem.detail,
        Verdict::Granted(_) => panic!("taken"),
    };
    assert_eq!(
        description(PresentedCredential::Renewal),
        "the refresh token has expired or was revoked"
    );
    assert_eq!(description(PresentedCredential::Code), CODE_REFUSED);
}

#[test]
fn a_dead_grant_is_known_in_other_words() {
    let before = ErrorContext {
        worked_before: true,
        ..ErrorContext::default()
    };
    for (status, body) in [
        (
            401,
            r#"{"error":"unauthorized","message":"Refresh token expired"}"#,
        ),
        (422, r#"{"message":"The refresh token is invalid."}"#),
        (404, r#"{"title":"Refresh token not found"}"#),
        (404, r#"{"message":"refresh token does not exist"}"#),
        (410, r#"{"message":"grant removed"}"#),
        (409, r#"{"error":"token_already_used"}"#),
        (
            422,
            r#"{"message":"The given data was invalid.","errors":{"refresh_token":["The refresh token is expired."]}}"#,
        ),
        (400, "Refresh token expired"),
        (401, "refresh token is not valid\r\n"),
    ] {
        let first = refusal(status, body, ErrorContext::default());
        assert_eq!(first.problem.class, Class::Unknown, "{status} {body}");
        let again = refusal(status, body, before);
        assert_eq!(
            (again.problem.class, again.assumed),
            (Class::NeedsAuthorization, true),
            "{status} {body}"
        );
    }
    for (status, body) in [
        (403, r#"{"message":"invalid CSRF token"}"#),
        (
            403,
            r#"{"error":"forbidden","message":"The refresh token was revoked"}"#,
        ),
        (403, r#"{"message":"Bearer token not found"}"#),
        (403, "access denied: token not found in header"),
        (422, r#"{"message":"The token is invalid."}"#),
        (503, "refresh token expired"),
        (400, "<p>The refresh token expired</p>"),
        (404, "not found"),
    ] {
        let again = refusal(status, body, before);
        assert!(!again.assumed, "{status} {body}: {:?}", again.problem);
    }
}

#[test]
fn the_code_of_the_standard_counts_wherever_it_stands() {
    for body in [
        r#"{"code":"invalid_grant"}"#,
        r#"{"errorCode":"Invalid Grant","message":"no"}"#,
        r#"{"error":{"type":"invalid_grant","message":"no"}}"#,
        r#"{"error":{"code":400,"status":"INVALID_GRANT","message":"no"}}"#,
        r#"{"status":400,"data":{"name":"invalid_grant"}}"#,
        r#"{"data":{"error":"invalid_grant","error_description":"no"}}"#,
        r#"{"messages":[{"type":"invalid_grant"}]}"#,
        r#"{"error":"InvalidGrant"}"#,
        "<?xml version=\"1.0\"?><OAuth><error>invalid_grant</error><error_description>spent</error_description></OAuth>",
        "invalid_grant",
        "Error: invalid_grant (the token was spent)",
    ] {
        let problem = problem(400, body);
        assert_eq!(
            (problem.class, problem.code.as_deref()),
            (Class::NeedsAuthorization, Some("invalid_grant")),
            "{body}"
        );
    }
    for body in [
        r#"{"message":"see invalid_grant in the manual"}"#,
        r#"{"type":"about:blank"}"#,
        "<code>invalid_grant</code>",
        "invalid_grant or invalid_client",
    ] {
        assert_eq!(problem(400, body).class, Class::Unknown, "{body}");
    }
    assert_eq!(
        problem(200, r#"{"code":"invalid_grant"}"#).class,
        Class::InDoubt
    );
    assert_eq!(problem(503, "invalid_grant").class, Class::Transient);
}
