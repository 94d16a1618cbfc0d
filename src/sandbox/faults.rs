//! The ways in which the stand-in server fails on request. Must not act: `answer` and `server` carry a fault out.

use std::time::Duration;

use serde_json::{Map, Value};

/// Whose token requests a fault meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// Everybody's.
    All,
    /// Those with a refresh token or code of the portal with this host, by any name it has had.
    Portal(String),
    /// Those of the client with this `client_id`.
    Client(String),
}

/// What goes wrong. "Processed" means that the refresh token is spent, whatever the client gets to see.
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
    /// Processed, and then a gateway's page.
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
    /// Processed; the whole length is announced and the connection closed early.
    Truncated {
        /// Bytes of the body sent; at least one is missing.
        after: usize,
    },
    /// Processed; a whole HTTP reply whose JSON is cut.
    CutJson {
        /// Bytes of JSON kept; at least one is missing.
        after: usize,
    },
    /// Processed at once, answered later.
    Slow {
        /// How much later.
        by: Duration,
    },
    /// Processed, and never answered.
    Stall,
    /// Processed; one byte of the body at a time.
    Drip {
        /// The time before each byte.
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

/// The faults in waiting, in the order they were asked for.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(At, Fault, u32)>);

impl Faults {
    /// Adds a fault for `times` requests; `u32::MAX` until healed.
    pub(super) fn add(&mut self, at: At, fault: Fault, times: u32) {
        if times > 0 {
            self.0.push((at, fault, times));
        }
    }

    /// Takes the faults of that place away; [`At::All`] takes every fault away.
    pub(super) fn heal(&mut self, at: &At) {
        self.0.retain(|(place, ..)| *at != At::All && place != at);
    }

    /// The first fault whose place `meets` the request.
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
        assert_eq!(faults.take(|at| *at == At::All), Some(Fault::Stall), "acme's is not for others");
        assert_eq!(
            [(); 3].map(|()| faults.take(|_| true)),
            [Some(Fault::Lost), Some(Fault::Lost), Some(Fault::Stall)]
        );
        faults.add(acme(), Fault::Reset, 1);
        faults.heal(&acme());
        assert_eq!(faults.take(|at| *at == acme()), None);
        assert_eq!(faults.take(|_| true), Some(Fault::Stall), "healing one place leaves the others");
        faults.heal(&At::All);
        assert_eq!(faults.take(|_| true), None);
    }
}
