//! Alerting: from what is wrong to what people are told, each once, over channels that may fail.
//!
//! The program that uses it is an [`AlertingHost`]: it says what is wrong now, and stores what was decided. [`incidents`]
//! groups findings into incidents and decides what is told of them, without I/O. [`alerter::run`] looks, decides, stores and
//! queues; a task for each channel delivers its [`outbox`] over one of the [`channels`]. Nothing here knows a portal but by
//! its name, nor a token.

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
