//! A renewal from its claim to its token files, and what goes on around it: candidates, clients that are refused, a state that
//! cannot be written, and the people who are told.

pub mod candidates;
pub mod carry;
pub mod client_secret;
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
