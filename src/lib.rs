//! scaffold
pub mod adapters;
pub mod config;
pub mod domain;
