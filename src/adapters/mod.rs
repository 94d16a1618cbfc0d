//! One external system or resource each. They know domain types only, decide nothing about renewal, and spawn nothing.

pub mod access;
pub mod directory;
pub mod exposition;
pub mod free_space;
pub mod generations;
pub mod log;
pub mod metrics;
pub mod new_file;
pub mod ownership;
pub mod published_token;
pub mod sealed;
pub mod service_manager;
pub mod signals;
pub mod state;
pub mod systemd;
pub mod token_files;
pub mod token_reply;
