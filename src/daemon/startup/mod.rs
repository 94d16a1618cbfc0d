//! Startup: from a configuration and a state to a daemon that may renew, and the same for commands without a daemon.

pub mod bootstrap;
pub mod changes;
pub mod core;
pub mod first_token;
pub mod incomplete;
pub mod metadata_discovery;
pub mod read_only;
pub mod recovery;
pub mod reload;
pub mod rollback;
pub mod token_space;
