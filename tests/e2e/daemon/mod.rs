//! The real binary against a server that checks what it receives: what a user, an operator or a script would notice.
//!
//! One binary for all of it: these tests wait more than they work, so they all run at once (`.cargo/config.toml`) and
//! take as long as the longest. Every test ends with nothing that the server ever should not have seen.

mod candidates;
mod carried;
mod displaced;
mod doubt;
mod environment;
mod escalation;
mod faults;
mod hostile;
mod hung;
mod incomplete;
mod journal;
mod lifecycle;
mod lost_state;
mod neighbours;
mod newcomers;
mod old_state;
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
