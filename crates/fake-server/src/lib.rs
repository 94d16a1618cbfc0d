//! Fake authorization server: Bitrix24's protocol on loopback, for `refreshd demo` and for the tests.
//!
//! It rotates strictly, injects every kind of network fault on request, and records requests that a correct client
//! never sends ([`FakeServer::violations`]). Must not be used as an authorization server: its tokens are predictable,
//! and every request for a code gets one.
//!
//! | file | content |
//! |---|---|
//! | `authority` | the pure state machine: clients, codes, rotation |
//! | `checks` | requests that a correct client never sends |
//! | `ledger` | portals, grants and pairs of tokens |
//! | `faults`, `response` | faults, and their effect on a response |
//! | `installs` | installation and removal of applications, and `/rest/app.info` |
//! | `form`, `pages`, `mint` | parameters, the authorization page, the format of tokens |
//! | `server`, `faulty_stream` | HTTP over TCP, down to the half-sent reply |

mod authority;
mod checks;
mod faults;
mod faulty_stream;
mod form;
mod handle;
mod installs;
mod ledger;
mod mint;
mod pages;
mod response;
mod rules;
mod server;

pub use authority::FakeAuthority;
pub use faults::{At, Fault, Wrap};
pub use form::ReceivedTokenRequest;
pub use handle::FakeServer;
pub use ledger::{IssuedAccess, TokenState};
pub use response::{DeliveryFault, End, FakeResponse, ReplyContent, Ticket};
pub use rules::{Reuse, Rules};

impl FakeAuthority {
    fn portal(&self, domain: &str) -> Option<&ledger::FakePortal> {
        self.ledger
            .portal(domain)
            .map(|portal| &self.ledger.portals[portal])
    }
}

#[cfg(test)]
mod authority_tests;
#[cfg(test)]
mod checks_tests;
#[cfg(test)]
mod server_tests;
