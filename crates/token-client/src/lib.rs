//! An OAuth 2.0 token client: provider profiles, token requests, and a tolerant reader of token replies.
//!
//! A [`provider::Profile`] describes a provider's endpoints and formats. [`request`] builds a token request from it,
//! [`authorization_server::AuthorizationServer`] sends it once, and [`reply`] parses the response into a
//! [`verdict::Verdict`]: a pair of tokens, a refusal with its class, or a reply that cannot be parsed. This crate
//! stores and retries nothing: a refresh token works once, so its owner decides when to send it again.

pub mod authorization_server;
pub mod body_decoding;
mod body_wrapping;
mod error_reply;
pub mod error_table;
pub mod host;
pub mod id_token;
pub mod import_token;
pub mod introspection;
pub mod lenient;
mod lifetime;
mod markup;
pub mod metadata;
pub mod problem;
pub mod provider;
pub mod quirks;
pub mod raw_http;
mod recording;
pub mod refresh_end;
pub mod renew_every;
pub mod reply;
pub mod reply_error;
pub mod request;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
mod surroundings;
pub mod token;
pub mod token_life;
pub mod token_object;
mod token_owner_request;
pub mod verdict;
