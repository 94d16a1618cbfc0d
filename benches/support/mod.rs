//! What the storm needs around it. Must not decide what is measured: `storm.rs` does.
//!
//! `floor` is the least that a durable renewal costs, `place` where files lie, `process` the contestants and what they use, `roles` what this binary does when it is
//! started as one of them, `seed` the portals and their grants.

pub mod floor;
pub mod place;
pub mod process;
pub mod roles;
pub mod seed;
