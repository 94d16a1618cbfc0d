//! TCP listeners: their common server, metrics, health and status page, and the callbacks of `authorize`.

pub mod browser_page;
pub mod callback;
pub mod connection_limits;
pub mod descriptors;
pub mod document;
pub mod host_header;
pub mod listen;
pub mod server;
pub mod status_listener;
pub mod status_page;
