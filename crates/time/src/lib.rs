//! Wall-clock instants, dates as servers write them, and the one door to clocks and randomness.

pub mod clock;
pub mod date;
mod timestamp;

pub use timestamp::{Timestamp, human, share_of, skew};
