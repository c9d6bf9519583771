//! Tests of the ledger through its public interface.

mod blocks;
mod codec;
mod epochs;
mod identity;
mod modules;
mod outcomes;
mod proofs;
mod properties;
mod stakes;
mod staking;
mod store;
mod versions;
mod world;
