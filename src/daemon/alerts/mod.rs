//! The daemon's side of alerting: findings about portals and this machine, and their storage.
//!
//! Must not decide about notifications, nor deliver them: `refreshd_alerting` does.

pub mod alert_views;
mod collect;
pub mod conditions;
pub mod escalation_log;
mod host;
pub mod test_channels;

pub use conditions::{Condition, Conditions, StateReader};
