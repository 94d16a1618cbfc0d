//! The real daemon against a server that checks its requests: behaviour that a user, an operator or a script would notice.
//!
//! All in one binary: these tests wait more than they compute, so they all run at once (`.cargo/config.toml`) and take as
//! long as the longest. Every test ends with the assertion that the server saw no violation.

mod candidates;
mod descriptor_store;
mod displaced_state;
mod doubt;
mod environment;
mod escalation;
mod faults;
mod hostile;
mod hung;
mod incomplete_config;
mod journal;
mod lifecycle;
mod lost_state;
mod new_portals;
mod old_state;
mod other_users;
mod readers;
mod refusals;
mod reload;
mod renewal;
mod secrets;
mod socket_directory;
mod systemd;
mod unreadable;
mod without_refresh;
mod wrapped;
