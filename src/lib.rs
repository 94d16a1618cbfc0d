//! scaffold
pub mod adapters;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod sandbox;
