//! The stand-in authorization server: Bitrix24's dialect on loopback, for `refreshd demo` and for the tests.
//!
//! It rotates strictly, fails on request in every way a network can, and remembers what a correct client never does
//! ([`FakeServer::violations`]). Must not be used as an authorization server: its tokens can be guessed, and whoever
//! asks for a code gets one.
//!
//! | file | what |
//! |---|---|
//! | `authority` | the pure state machine: clients, codes, rotation |
//! | `checks` | what a correct client never sends |
//! | `ledger` | portals, grants and pairs of tokens |
//! | `faults`, `answer` | what can go wrong, and how it shapes an answer |
//! | `installs` | applications that come and go, and `/rest/app.info` |
//! | `form`, `pages`, `mint` | parameters, the authorization page, the look of tokens |
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

pub use authority::AuthorizationServer;
pub use faults::{At, Fault, Wrap};
pub use form::TokenRequest;
pub use handle::FakeServer;
pub use ledger::{Access, Fate};
pub use response::{DeliveryFault, End, FakeResponse, ReplyContent, Ticket};
pub use rules::{Reuse, Rules};

impl AuthorizationServer {
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
