//! Faults that the fake server injects on request. Must not act: `response` and `server` carry a fault out.

use std::time::Duration;

use serde_json::{Map, Value};

/// Token requests that a fault applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// All requests.
    All,
    /// Requests with a refresh token or code of the portal with this host, by any name it has had.
    Portal(String),
    /// Requests of the client with this `client_id`.
    Client(String),
}

/// Faults. "Processed" means that the refresh token is spent, whatever the client receives.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// A JSON error reply; nothing processed.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// `error`.
        error: String,
        /// `error_description`; left out when empty.
        description: String,
    },
    /// Any reply (a page of HTML, a 429); nothing processed.
    Body {
        /// The HTTP status.
        status: u16,
        /// `Content-Type`.
        content_type: String,
        /// The body.
        body: String,
        /// `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// Processed, followed by a gateway's error page.
    Gateway {
        /// 502 or 504.
        status: u16,
    },
    /// Processed, and the connection closed without a reply.
    Lost,
    /// The connection closed; nothing processed.
    LostBefore,
    /// Processed, and the connection reset (RST).
    Reset,
    /// Processed; the full length is announced and the connection is closed early.
    Truncated {
        /// Bytes of the body sent; at least one is missing.
        after: usize,
    },
    /// Processed; a complete HTTP reply with truncated JSON.
    CutJson {
        /// Bytes of JSON kept; at least one is missing.
        after: usize,
    },
    /// Processed at once, answered after a delay.
    Slow {
        /// Delay.
        by: Duration,
    },
    /// Processed, never answered.
    Stall,
    /// Processed; one byte of the body at a time.
    Drip {
        /// Delay before each byte.
        every: Duration,
    },
    /// Processed; a 200 whose JSON begins with this much white space, without an announced length.
    Huge {
        /// Bytes before the reply proper.
        bytes: u64,
    },
    /// A 307 to another URL; nothing processed.
    Redirect {
        /// `Location`. A request that comes to its path on this server is a violation.
        to: String,
    },
    /// Processed; the complete pair arrives in a wrapping.
    Wrapped {
        /// Wrapping.
        wrap: Wrap,
    },
    /// Processed; the reply has another portal's `member_id`.
    OtherMember,
    /// A new access token without rotation; the reply has no `refresh_token`.
    WithoutRefreshToken,
    /// Processed; a success with these fields merged over it.
    Odd {
        /// `null` removes the field.
        fields: Map<String, Value>,
    },
}

/// Wrappings that servers, proxies and frameworks put around a JSON reply. The pair is complete in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray)]
pub enum Wrap {
    /// A byte order mark in front.
    ByteOrderMark,
    /// A notice of PHP in front.
    Notice,
    /// A template's comment after the reply.
    Comment,
    /// NUL after the reply.
    Nul,
    /// A prefix against cross-site script inclusion.
    Prefix,
    /// A function call around the reply.
    Callback,
    /// A list of one.
    List,
    /// A JSON string that holds the JSON.
    Text,
    /// UTF-16, little endian, with its mark.
    Utf16,
    /// `application/x-www-form-urlencoded` instead.
    Form,
    /// `"error": 0` beside the pair.
    NoError,
    /// Numbers and nesting that exceed every JSON parser, in an unused field.
    Absurd,
}

impl Wrap {
    /// Body of a success in this wrapping.
    #[must_use]
    pub fn around(self, body: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(body);
        let more = |field: &str| format!("{{{field},{}", text.trim_start().trim_start_matches('{'));
        match self {
            Self::ByteOrderMark => format!("\u{feff}{text}").into_bytes(),
            Self::Notice => format!(
                "<br />\n<b>Notice</b>:  Undefined index: x in <b>/srv/oauth.php</b><br />\n{text}"
            )
            .into_bytes(),
            Self::Comment => format!("{text}\n<!-- 0.02 s -->\n").into_bytes(),
            Self::Nul => format!("{text}\0").into_bytes(),
            Self::Prefix => format!(")]}}',\n{text}").into_bytes(),
            Self::Callback => format!("cb({text});").into_bytes(),
            Self::List => format!("[{text}]").into_bytes(),
            Self::Text => Value::from(text).to_string().into_bytes(),
            Self::Utf16 => {
                let units = std::iter::once(0xfeff).chain(text.encode_utf16());
                units.flat_map(u16::to_le_bytes).collect()
            }
            Self::Form => {
                let fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                for (name, value) in &fields {
                    let value = value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned);
                    form.append_pair(name, &value);
                }
                form.finish().into_bytes()
            }
            Self::NoError => more("\"error\":0").into_bytes(),
            Self::Absurd => {
                let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
                more(&format!("\"x\":{deep},\"y\":1e999")).into_bytes()
            }
        }
    }
}

/// Pending faults, in the order of their requests.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(At, Fault, u32)>);

impl Faults {
    /// Adds a fault for `times` requests; `u32::MAX` until healed.
    pub(super) fn add(&mut self, at: At, fault: Fault, times: u32) {
        if times > 0 {
            self.0.push((at, fault, times));
        }
    }

    /// Removes the faults of that place; [`At::All`] removes every fault.
    pub(super) fn heal(&mut self, at: &At) {
        self.0.retain(|(place, ..)| *at != At::All && place != at);
    }

    /// Takes the first fault whose place `meets` the request.
    pub(super) fn take(&mut self, meets: impl Fn(&At) -> bool) -> Option<Fault> {
        let index = self.0.iter().position(|(at, ..)| meets(at))?;
        let (_, fault, times) = &mut self.0[index];
        match *times {
            1 => Some(self.0.remove(index).1),
            u32::MAX => Some(fault.clone()),
            _ => {
                *times -= 1;
                Some(fault.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_queue_and_run_out_and_heal() {
        let mut faults = Faults::default();
        let acme = || At::Portal("acme".into());
        faults.add(acme(), Fault::Lost, 2);
        faults.add(At::All, Fault::Stall, u32::MAX);
        faults.add(acme(), Fault::Reset, 0);
        assert_eq!(
            faults.take(|at| *at == At::All),
            Some(Fault::Stall),
            "acme's is not for others"
        );
        assert_eq!(
            [(); 3].map(|()| faults.take(|_| true)),
            [Some(Fault::Lost), Some(Fault::Lost), Some(Fault::Stall)]
        );
        faults.add(acme(), Fault::Reset, 1);
        faults.heal(&acme());
        assert_eq!(faults.take(|at| *at == acme()), None);
        assert_eq!(
            faults.take(|_| true),
            Some(Fault::Stall),
            "healing one place leaves the others"
        );
        faults.heal(&At::All);
        assert_eq!(faults.take(|_| true), None);
    }
}
