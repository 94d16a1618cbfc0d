//! scaffold
pub mod adapters;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod sandbox;
