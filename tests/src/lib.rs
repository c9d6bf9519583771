//! What the tests share: the [`simulator`] of whole clusters in one thread, and for the tests of whole nodes: starting
//! real processes from the shipped configs, asking them over HTTP, signing transactions for their accounts, cutting the
//! links between them.
//!
//! Everything here fails by panicking with what was expected and what was found: it is only ever called by tests.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

#[cfg(feature = "processes")]
pub mod cli;
#[cfg(feature = "processes")]
pub mod client;
#[cfg(feature = "processes")]
pub mod cluster;
#[cfg(feature = "processes")]
pub mod disk;
#[cfg(feature = "processes")]
pub mod endurance;
#[cfg(feature = "processes")]
pub mod healing;
#[cfg(feature = "processes")]
pub mod load;
pub mod ports;
#[cfg(feature = "processes")]
pub mod power;
#[cfg(feature = "processes")]
pub mod proxy;
#[cfg(feature = "rogue")]
pub mod rogue;
#[cfg(feature = "processes")]
pub mod service;
pub mod simulator;
#[cfg(feature = "processes")]
pub mod steady;
#[cfg(feature = "processes")]
pub mod wallet;

#[cfg(feature = "processes")]
pub use client::Client;
#[cfg(feature = "processes")]
pub use cluster::{Cluster, Options, eventually};
#[cfg(feature = "processes")]
pub use load::Load;
#[cfg(feature = "processes")]
pub use wallet::Wallet;
