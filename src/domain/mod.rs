//! Types and decisions about tokens, without I/O.
//!
//! Same inputs, same result: `now` and randomness are arguments. Nothing in here does I/O, reads a clock, spawns, logs or
//! knows tokio; `tests/tidy.rs` checks that. Decisions are executed in `adapters` and `daemon`.

pub mod authorization;
pub mod backoff;
pub mod budget;
pub mod candidate;
pub mod carried;
pub mod client;
pub mod completeness;
pub mod conclusion;
pub mod demand;
pub mod display_level;
pub mod dispute;
pub mod error_chain;
pub mod escalation;
pub mod finding;
pub mod hint;
pub mod identity;
pub mod import;
mod import_error;
pub mod imported;
pub mod install;
pub mod install_event;
pub mod install_form;
pub mod kept_reply;
pub mod line_budget;
pub mod log_format;
pub mod manual_renewal;
pub mod name;
mod pasted_callback;
pub mod pizauth;
pub mod portal;
pub mod record;
pub mod refresh_warning;
pub mod renewal;
pub mod rollback;
pub mod rotations;
pub mod schedule;
pub mod service_unit;
pub mod settings;
pub mod similar;
pub mod throttle;
pub mod token_format;
pub mod token_owner;
pub mod token_space;
pub mod verification_budget;
