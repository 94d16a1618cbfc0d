//! The real binary, seen from outside: renewals against a server that checks what it receives, commands, the control
//! socket, HTTP, alerts to receivers that check what they are sent.
//!
//! One binary for all of it: these tests wait more than they work, so they run at once (`.cargo/config.toml`).

#[path = "../common/mod.rs"]
mod common;

mod alerts;
mod daemon;
mod interfaces;
