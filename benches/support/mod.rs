//! Support code of the storm benchmark. Must not define the measurement: `storm.rs` does.
//!
//! `floor` measures the minimum cost of a durable renewal, `place` has the directories, `process` runs the contestants and
//! measures their usage, `roles` has the contestants that are this binary, `seed` creates the portals and their grants.

pub mod floor;
pub mod place;
pub mod process;
pub mod roles;
pub mod seed;
