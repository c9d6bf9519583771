//! The thin shells around the consensus machine: the validator that runs it, and the servers of its log.
//!
//! No rule of the protocol lives here: what to sign, when, and what is committed is `aurigraph-consensus`'s alone.

mod attestation;
pub(crate) mod epochs;
mod messages;
mod recovery;
mod serve;
mod validator;

#[cfg(test)]
mod validator_tests;

pub use epochs::protocol_version;
pub use messages::{Internal, ServeBlocks, ServeCommits, ValidatorMsg};
pub(crate) use recovery::{replay_start, wait_until_running};
pub use serve::{BlockFetcher, CommitSync};
pub(crate) use serve::{decode_commit, logged_block};
pub use validator::{Clocks, Validator, ValidatorMailbox};
