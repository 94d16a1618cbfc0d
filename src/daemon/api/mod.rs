//! The API of refreshd: HTTP with JSON, over the control socket of a daemon, or in the process of a command where no daemon
//! runs. A command is a route here and its output in `commands`.
//!
//! Must not decide: `grants`, `alerts` and `startup` do.

mod alerts;
mod authorization;
mod configuration;
mod control;
pub mod error;
pub mod health;
pub mod in_process;
mod installs;
mod outcomes;
mod peer;
mod portals;
mod replies;
mod routes;
pub mod socket;
