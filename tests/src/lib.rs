//! What the tests of whole nodes share: starting real processes from the shipped configs, asking them over HTTP,
//! signing transactions for their accounts, cutting the links between them.
//!
//! Everything here fails by panicking with what was expected and what was found: it is only ever called by tests.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod client;
pub mod cluster;
pub mod load;
pub mod ports;
pub mod proxy;
pub mod wallet;

pub use client::Client;
pub use cluster::{Cluster, Options, eventually};
pub use load::Load;
pub use wallet::Wallet;
