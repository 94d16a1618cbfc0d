//! What the daemon gives the alerter: what is wrong with portals and with this machine, and where it is stored.
//!
//! Must not decide what is told, nor deliver: `refreshd_alerting` does.

pub mod alert_views;
mod collect;
pub mod conditions;
pub mod escalation_log;
mod host;

pub use conditions::{Condition, Conditions, ReadBy};
