//! Responses of the fake server, and the effect of a fault on their delivery. Must not use the network.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::faults::Fault;

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// An HTTP reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyContent {
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Cow<'static, str>,
    /// The body.
    pub body: Vec<u8>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u64>,
    /// `Location`.
    pub location: Option<String>,
}

/// Delivery of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryFault {
    /// Without a fault.
    Whole,
    /// The connection is closed instead.
    Closed,
    /// The connection is reset instead.
    Reset,
    /// This many bytes of the body, then the connection is closed.
    Truncated(usize),
    /// Not sent; the connection stays open.
    Never,
    /// Byte by byte, with this delay before each.
    Drip(Duration),
    /// After this many bytes of white space.
    Huge(u64),
}

/// Response to one token request.
#[derive(Clone, Debug)]
pub struct FakeResponse {
    /// Reply.
    pub reply: ReplyContent,
    /// Delivery of the reply.
    pub delivery: DeliveryFault,
    /// Delay before the delivery.
    pub delay: Duration,
    /// To be returned when the request has ended.
    pub ticket: Ticket,
}

/// A request in progress: [`super::FakeAuthority::finish`] ends it.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub(super) id: u64,
    pub(super) grant: Option<usize>,
    /// Pair whose successor the reply contains, if the reply counts as delivered once it was sent.
    pub(super) settles: Option<u64>,
}

/// End of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The intended part of the reply was sent completely.
    Written,
    /// The connection is closed, by either side.
    Gone,
}

impl ReplyContent {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let content_type = Cow::Borrowed(content_type);
        Self {
            status,
            content_type,
            body: body.into(),
            retry_after: None,
            location: None,
        }
    }

    pub(super) fn html(status: u16, text: &str) -> Self {
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><title>Stand-in server</title><p>{text}</p></html>\n"
        );
        Self::new(status, HTML, page)
    }

    pub(super) fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text)
    }

    pub(super) fn found(location: String) -> Self {
        Self {
            location: Some(location),
            ..Self::text(302, "")
        }
    }

    pub(super) fn json(status: u16, body: Map<String, Value>) -> Self {
        Self::new(status, JSON, Value::Object(body).to_string())
    }

    /// An error reply (RFC 6749 section 5.2).
    pub(super) fn error(status: u16, error: &str, description: &str) -> Self {
        let mut body = json!({ "error": error });
        if !description.is_empty() {
            body["error_description"] = description.into();
        }
        Self::new(status, JSON, body.to_string())
    }
}

impl Fault {
    /// Reply of a fault that takes effect before processing.
    pub(super) fn unprocessed(&self) -> Option<(ReplyContent, DeliveryFault)> {
        match self {
            Self::Refuse {
                status,
                error,
                description,
            } => Some((
                ReplyContent::error(*status, error, description),
                DeliveryFault::Whole,
            )),
            Self::Body {
                status,
                content_type,
                body,
                retry_after,
            } => {
                let content_type = Cow::Owned(content_type.clone());
                let body = body.clone().into_bytes();
                let (status, retry_after) = (*status, *retry_after);
                Some((
                    ReplyContent {
                        status,
                        content_type,
                        body,
                        retry_after,
                        location: None,
                    },
                    DeliveryFault::Whole,
                ))
            }
            Self::Redirect { to } => {
                let reply = ReplyContent {
                    location: Some(to.clone()),
                    ..ReplyContent::text(307, "")
                };
                Some((reply, DeliveryFault::Whole))
            }
            Self::LostBefore => Some((ReplyContent::text(500, ""), DeliveryFault::Closed)),
            Self::Gateway { .. }
            | Self::Lost
            | Self::Reset
            | Self::Truncated { .. }
            | Self::CutJson { .. }
            | Self::Slow { .. }
            | Self::Stall
            | Self::Drip { .. }
            | Self::Huge { .. }
            | Self::Wrapped { .. }
            | Self::OtherMember
            | Self::WithoutRefreshToken
            | Self::Odd { .. } => None,
        }
    }

    /// Applies the fault to a successful reply.
    pub(super) fn change(
        &self,
        body: &mut Map<String, Value>,
        other_member: impl FnOnce() -> String,
    ) {
        if *self == Self::OtherMember {
            body.insert("member_id".to_owned(), other_member().into());
        }
        if *self == Self::WithoutRefreshToken {
            body.remove("refresh_token");
        }
        if let Self::Odd { fields } = self {
            for (name, value) in fields {
                body.insert(name.clone(), value.clone());
            }
            body.retain(|_, value| !value.is_null());
        }
    }

    /// Delivery of the reply after processing.
    pub(super) fn shape(&self, reply: &mut ReplyContent) -> (DeliveryFault, Duration) {
        let missing_one = reply.body.len().saturating_sub(1);
        let delivery = match self {
            Self::Gateway { status } => {
                *reply =
                    ReplyContent::html(*status, "The server behind this gateway did not answer.");
                DeliveryFault::Whole
            }
            Self::CutJson { after } => {
                reply.body.truncate((*after).min(missing_one));
                DeliveryFault::Whole
            }
            Self::Wrapped { wrap } => {
                reply.body = wrap.around(&reply.body);
                DeliveryFault::Whole
            }
            Self::Slow { by } => return (DeliveryFault::Whole, *by),
            Self::Lost | Self::LostBefore => DeliveryFault::Closed,
            Self::Reset => DeliveryFault::Reset,
            Self::Truncated { after } => DeliveryFault::Truncated((*after).min(missing_one)),
            Self::Stall => DeliveryFault::Never,
            Self::Drip { every } => DeliveryFault::Drip(*every),
            Self::Huge { bytes } => DeliveryFault::Huge(*bytes),
            Self::Refuse { .. }
            | Self::Body { .. }
            | Self::Redirect { .. }
            | Self::OtherMember
            | Self::WithoutRefreshToken
            | Self::Odd { .. } => DeliveryFault::Whole,
        };
        (delivery, Duration::ZERO)
    }

    /// Returns whether the client receives the reply completely: only its content may be wrong.
    pub(super) const fn leaves_whole(&self) -> bool {
        matches!(
            self,
            Self::Wrapped { .. } | Self::OtherMember | Self::WithoutRefreshToken | Self::Odd { .. }
        )
    }
}
