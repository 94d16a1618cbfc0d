//! What refreshd knows about tokens, and what it decides.
//!
//! Same inputs, same answer: `now` and randomness are arguments. Nothing in here does I/O, reads a clock, spawns,
//! logs or knows tokio; `tests/tidy.rs` holds that. Whoever acts on a decision lives in `adapters` or `daemon`.

pub mod authorization;
pub mod backoff;
pub mod budget;
pub mod by_hand;
pub mod candidate;
pub mod channel;
pub mod client;
pub mod date;
pub mod dialect;
pub mod envelope;
pub mod error_table;
pub mod escalation;
pub mod handed;
pub mod host;
pub mod http_reply;
pub mod id_token;
pub mod identity;
pub mod incident;
pub mod install;
pub mod intake;
pub mod introspection;
mod lenient;
pub mod life;
mod markup;
pub mod mask;
pub mod message;
pub mod metadata;
pub mod name;
pub mod newcomer;
mod normal_form;
pub mod notice;
pub mod old_state;
pub mod outbox;
mod pasted;
pub mod pizauth;
pub mod portal;
pub mod provider;
pub mod questions;
pub mod refresh_end;
mod refused;
pub mod remedy;
pub mod renewal;
pub mod reply;
pub mod request;
pub mod schedule;
pub mod secret;
pub mod settings;
pub mod template;
pub mod throttle;
pub mod time;
pub mod token;
pub mod unread;
pub mod whose;
pub mod word;
