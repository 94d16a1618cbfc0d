//! Alerting: turns findings into incidents, and delivers each notification over channels that may fail.
//!
//! The program that uses it implements [`AlertingHost`]: it collects findings and stores decisions. [`incidents`]
//! groups findings into incidents and decides on notifications, without I/O. [`alerter::run`] collects, decides, stores
//! and queues; a task for each channel delivers its [`outbox`] over one of the [`channels`]. This crate knows a portal
//! only by its name, and no tokens.

pub mod alerter;
mod bounded_delivery;
pub mod channel;
pub mod channel_test;
pub mod channels;
mod delivery;
mod heartbeat;
mod host;
pub mod incidents;
pub mod message;
pub mod outbox;
mod outboxes;
mod severity;
pub mod template;

pub use host::{AlertChanges, AlertingHost, Collected, DeliveryResult, StoredAlerts};
pub use outboxes::{AlertCommand, AlertsSnapshot, Outboxes};
pub use severity::Severity;
