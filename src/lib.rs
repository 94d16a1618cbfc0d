//! scaffold
pub mod adapters;
pub mod config;
pub mod domain;
pub mod sandbox;
