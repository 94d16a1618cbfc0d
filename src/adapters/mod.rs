//! One outside thing each. They know domain types only, decide nothing about renewal, and spawn nothing.

pub mod clock;
