//! Messages as recipients read them.

use super::*;

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_secs(1_795_190_400 + minutes * 60)
}

fn message() -> Message {
    Message {
        key: "portal/acme".into(),
        event: Event::Opened,
        severity: Severity::Critical,
        levels: vec![(Severity::Critical, at(0))],
        subject: MessageSubject::Portal("acme".into()),
        reason: "the grant is dead: invalid_grant".into(),
        action: Some("refreshd import acme".into()),
        since: at(0),
        at: at(0),
        expires_at: Some(at(34)),
        portals: vec!["acme".into()],
        count: 1,
        number: 1,
    }
}

#[test]
fn a_message_says_what_whom_since_when_how_long_and_what_to_do() {
    let expected = "[critical] acme: the grant is dead: invalid_grant\n\
                    Since 2026-11-20T16:00:00Z (1m).\n\
                    The current token works for 33m more, until 2026-11-20T16:34:00Z.\n\
                    To do: refreshd import acme";
    assert_eq!(message().text(at(1)), expected);
}

#[test]
fn what_is_delivered_late_counts_from_now_and_says_so() {
    let text = message().text(at(40));
    assert!(text.contains("The token expired 6m ago."), "{text}");
    assert!(text.contains("Written 40m ago"), "{text}");
}

#[test]
fn many_portals_are_named_and_the_rest_is_counted() {
    let many = Message {
        subject: MessageSubject::Server("oauth.bitrix.info".into()),
        portals: vec!["acme".into(), "globex".into()],
        count: 200,
        ..message()
    };
    assert_eq!(
        many.title(),
        "[critical] 200 portals at oauth.bitrix.info: the grant is dead: invalid_grant"
    );
    let text = many.text(at(1));
    assert!(
        text.contains("Portals: acme, globex and 198 more (refreshd status)"),
        "{text}"
    );
    assert!(
        text.contains("The first token works for 33m more"),
        "{text}"
    );
}

#[test]
fn the_end_says_how_long_it_was_and_asks_for_nothing() {
    let over = Message {
        event: Event::Resolved,
        reason: "the token is fresh again".into(),
        at: at(12),
        ..message()
    };
    let expected = "[resolved] acme: the token is fresh again\n\
                    It lasted 12m, from 2026-11-20T16:00:00Z to 2026-11-20T16:12:00Z.";
    assert_eq!(over.text(at(12)), expected);
}

#[test]
fn the_dedup_key_is_the_same_every_time_and_fits_pagerduty() {
    assert_eq!(message().dedup_key("host-1"), "refreshd/host-1/portal/acme");
    let long = Message {
        key: format!("portal/{}", "x".repeat(300)),
        ..message()
    };
    let other = Message {
        key: format!("portal/{}y", "x".repeat(299)),
        ..message()
    };
    assert_eq!(long.dedup_key("host-1").len(), 255);
    assert_eq!(long.dedup_key("host-1"), long.dedup_key("host-1"));
    assert_ne!(long.dedup_key("host-1"), other.dedup_key("host-1"));
}
