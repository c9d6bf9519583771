//! The actors of a node: storage, verifiers, mempool, consensus, pipeline, queries, audit, and the tree they stand in.
//!
//! Thin: each receives messages, calls the pure crates or an owning thread, and executes effects. Nothing here knows
//! HTTP. See `README.md` for the supervision table.

pub mod audit;
pub mod bounds;
pub mod config;
pub mod consensus;
pub mod context;
pub mod crypto;
pub mod events;
pub mod fatal;
pub mod members;
pub mod mempool;
pub mod network;
pub mod parties;
pub mod pipeline;
pub mod pruning;
pub mod published;
pub mod query;
pub mod release;
mod seldom;
pub mod settings;
pub mod storage;
#[cfg(test)]
pub(crate) mod testing;
pub mod tree;
pub mod wire;

pub use fatal::Fatal;
