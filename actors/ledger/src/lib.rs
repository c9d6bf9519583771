//! The pure ledger: types, canonical encoding, transactions, execution, Merkle trees, genesis.
//!
//! Knows no tokio, ractor, sled or warp, reads no clock and draws no randomness: the same commits give the same
//! state root on every machine. Signature checks and fast hashing are injected through small traits.
#![forbid(unsafe_code)]

pub mod block;
pub mod codec;
mod execute;
pub mod fault;
pub mod foundation;
pub mod genesis;
pub mod hash;
pub mod identity;
pub mod ledger;
#[cfg(feature = "digest-memo")]
pub mod memo;
pub mod merkle;
pub mod module;
mod parallel;
pub mod receipt;
pub mod staking;
pub mod state;
pub mod transaction;
pub mod tree_hasher;
pub mod types;
pub mod validator_set;

pub use block::{
    Checkpoint, CommitInput, CommitOutcome, CommittedBatch, Event, EventKind, Exclusion, ExclusionReason,
    ExecutedBlock, ExecutedTransaction, FIRST_PROTOCOL_VERSION, FailureCode, LedgerError, LedgerHeader,
    OperationFailure, PROTOCOL_VERSION, PreparedTransaction, Receipt, SignatureVerifier, Verdict,
};
pub use codec::{CodecError, Reader, Writer};
pub use fault::{Fault, FaultKind};
pub use foundation::Foundation;
pub use genesis::{
    FeeSchedule, Genesis, GenesisAccount, GenesisError, GenesisValidator, ProtocolParameters, StakingParameters,
};
pub use hash::{Hash, HashParseError, blake3_digest, h, h_parts};
pub use ledger::Ledger;
pub use merkle::{MerkleProof, MerkleTree, ReceiptProof, TransactionProof};
pub use module::{Module, ModuleContext, ModuleId};
pub use state::{
    AccountProof, AccountView, ImportError, NotACheckpoint, PageGroup, PageKey, ProofError, ProvenAccount, ResumeError,
    StateView, StoredPage,
};
pub use transaction::{
    BuildError, Group, Operation, Sender, SenderKey, Target, Transaction, TransactionBuilder, UnsignedTransaction,
};
pub use tree_hasher::{PlainHasher, TreeHasher};
pub use types::{AccountIndex, Address, Amount, PublicKey, ValidatorIndex};
pub use validator_set::{EpochEnd, SetMember, ValidatorSet};
