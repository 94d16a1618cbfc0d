//! Sample messages for the tests of each kind.
#![cfg(test)]

use super::sender::Sender;
use crate::Severity;
use crate::message::{Event, Message, MessageSubject};
use refreshd_time::Timestamp;

pub(super) fn at(minutes: i64) -> Timestamp {
    Timestamp::from_secs(1_795_190_400 + minutes * 60)
}

pub(super) const SENDER: Sender<'static> = Sender {
    instance: "host-1",
    url: Some("https://refreshd.example.org/?a=1&b=2"),
    now: Timestamp::from_secs(1_795_190_460),
};

/// An incident that was notified as a warning and is critical now.
pub(super) fn message() -> Message {
    Message {
        key: "portal/acme".into(),
        event: Event::Raised,
        severity: Severity::Critical,
        levels: vec![(Severity::Warning, at(-10)), (Severity::Critical, at(0))],
        subject: MessageSubject::Portal("acme".into()),
        reason: "the grant is dead: <invalid_grant> & more".into(),
        action: Some("refreshd import acme".into()),
        since: at(-10),
        at: at(0),
        expires_at: Some(at(34)),
        portals: vec!["acme".into()],
        count: 1,
        number: 2,
    }
}

pub(super) fn resolved() -> Message {
    Message {
        event: Event::Resolved,
        reason: "the token is fresh again".into(),
        ..message()
    }
}

/// A message longer than every receiver's limit, with characters of every encoded length.
pub(super) fn huge() -> Message {
    Message {
        key: format!("server/{}", "ÿ漢🦀".repeat(200)),
        subject: MessageSubject::Server("oauth.example.org".into()),
        reason: "<&>ÿ漢🦀 ".repeat(5_000),
        action: Some("🦀".repeat(50_000)),
        portals: (0..20_000)
            .map(|n| format!("portal-{n}-ÿ漢🦀<&>"))
            .collect(),
        count: 200_000,
        ..message()
    }
}
