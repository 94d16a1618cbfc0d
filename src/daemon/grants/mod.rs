//! Operations on grants that commands request: list, renew, import, authorize, introspect, forget. The same with a running
//! daemon and without.
//!
//! Must not print, and must not know HTTP or exit codes.

pub mod authorize;
pub(crate) mod candidate_offer;
pub mod disputes;
pub mod driver;
pub mod error;
pub mod import;
pub mod introspect;
pub mod kept_replies;
pub mod lookup;
pub mod operations;
pub mod pending_authorizations;
pub mod portal_view;
pub mod store;
pub mod unreadable_state;
