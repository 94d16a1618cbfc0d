//! End-to-end tests of the real binary: renewals against a server that checks its requests, commands, the control socket,
//! HTTP, and alerts to receivers that check theirs.
//!
//! All in one binary: these tests wait more than they compute, so they run at once (`.cargo/config.toml`).

#[path = "../common/mod.rs"]
mod common;

mod alerts;
mod daemon;
mod interfaces;
