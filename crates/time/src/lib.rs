//! Wall-clock instants, dates in server formats, and the only access to clocks and randomness.

pub mod clock;
pub mod date;
mod timestamp;

pub use timestamp::{Timestamp, human, share_of, skew};
