//! Renewals, from the claim to the token files, and their context: candidates, rejected clients, a state that cannot be
//! written, escalation.

pub mod candidates;
pub mod carry;
pub mod client_secret;
mod disputed_install;
mod doubtful_pair;
pub mod escalator;
pub mod execute;
pub mod file_failures;
pub mod file_writers;
pub mod generation_notes;
pub mod inherited;
pub mod persist;
pub mod publisher;
pub mod scheduler;
pub mod state_health;
pub mod unreadable_reply;
