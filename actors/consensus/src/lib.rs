//! The pure DAG-BFT state machine of a validator: `step(now, event) -> effects`.
//!
//! No clock, no randomness, no tokio, no ractor, no disk, and nothing about what a transaction is. A [`Machine`] orders
//! batches of transactions by digest; bodies, signatures, the log and the network belong to a driver.
//!
//! # How a driver runs a machine
//!
//! * **Start.** In a directory that was just initialised for the chain: [`Machine::new`]. With a log: sync the log,
//!   cut its torn tail, then [`Machine::recover`] with the records in log order. Either way execute the returned
//!   effects before the first step. A directory whose log is empty although it was initialised before is no fresh
//!   one: `recover` with no records observes until the others have proved the signing floor. (A process that ended before `Floor { round: 0 }` was
//!   durable has signed nothing; a driver that can tell starts it with `new` again.)
//! * **Effects are executed in order.** `Append`s reach the log in the order they come in, interleaved with the batch
//!   bodies of the batch store: a body is appended before its [`Event::BatchStored`] or [`Event::BatchSealed`] is
//!   given to the machine. One sync may serve many appends; [`Event::Durable`] names the newest synced one. `Send` and
//!   `Broadcast` may be dropped when a link is slow or down; a dropped message costs time, never safety.
//! * **Answers.** Each `VerifySig`, `Sign`, `Append { need_fsync: true }` and `FetchBatches` is answered by its event, once, in any
//!   order. A lost `SigChecked` or `Signed` stalls that block or this validator, so a driver that loses a worker
//!   answers `ok: false` never, but asks another worker.
//! * **Time.** Give [`Event::Tick`] at the time of the newest `SetTimer`. More ticks do no harm.
//! * **Peers.** [`Event::PeerUp`] when both lanes to a peer are up; the machine then sends what the peer may lack.
//!   Blocks and probes go over the control lane, ranges of commits over the bulk lane ([`Message::lane`]).
//! * **Execution.** `Deliver` comes in index order. The driver reports progress with [`Event::Executed`], also for
//!   commits without payload; without it payload pauses after [`config::Limits::max_unexecuted`] commits. A delivered
//!   [`Commit`] is in the log too (appended just before), and needs only batch bodies to be executed again.
//! * **Serving.** `ServeBlocks` and `ServeCommits` are answered from the log. Every block that a commit names was
//!   appended before it ([`Record::block`]). A block that came in a certified range was not checked
//!   ([`Record::CertifiedBlock`]): its signature is checked before it is served as a single block.
//! * **Restart.** Records may be replayed from the beginning, or from a [`ConsensusSnapshot`] that the driver took with
//!   [`Machine::snapshot`] between two steps: then from the log position of an earlier snapshot for which
//!   [`ConsensusSnapshot::can_replay_from`] holds. Commits after the reported executed index are delivered again.
//! * **Halt** is an effect, never a panic. A halted machine answers every event with nothing.

mod accept;
pub mod agreement;
pub mod anchor;
pub mod batches;
pub mod block;
pub mod catchup;
pub mod certificate;
pub mod checkpoint;
pub mod clock;
pub mod closing;
pub mod commit;
pub mod committee;
pub mod committer;
pub mod config;
pub mod epoch;
pub mod event;
mod evidence;
pub mod fetch;
pub mod flush;
pub mod light;
pub mod machine;
pub mod message;
#[cfg(debug_assertions)]
pub mod mutation;
#[cfg(not(debug_assertions))]
mod mutation;
mod novelty;
pub mod oracle;
pub mod oracle_schedule;
pub mod pacing;
pub mod probe;
pub mod propose;
mod quota;
pub mod range;
pub mod record;
pub mod recover;
pub mod reputation;
pub mod schedule;
mod serve;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod suspend;
pub mod types;
mod uncertified;
pub mod validity;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod anchor_tests;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod earlier_evidence_tests;
#[cfg(test)]
mod epoch_tests;
#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod floor_end_tests;
#[cfg(test)]
mod floor_epoch_model;
#[cfg(test)]
mod floor_model;
#[cfg(test)]
mod floor_tests;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod historic_cluster;
#[cfg(test)]
mod historic_tests;
#[cfg(test)]
mod light_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod novelty_tests;
#[cfg(test)]
mod pacing_tests;
#[cfg(test)]
mod range_tests;
#[cfg(test)]
mod robustness;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod second;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod uncertified_tests;
#[cfg(test)]
mod vectors;

pub use agreement::Agreement;
pub use anchor::{Anchor, OrderState, OrderStateError};
pub use block::{Accusation, Block, BlockCore, Evidence, EvidenceKind, Extras, SignedCore, signing_message};
pub use certificate::Certificate;
pub use checkpoint::{Certified, Checkpoints, Divergence};
pub use closing::EpochError;
pub use commit::{Commit, CommitHeader, CommittedBlock, FaultKind, ProvenFault};
pub use committee::{Committee, StakeSet};
pub use config::{Config, ConfigError, EpochParams, FIRST_PROTOCOL_VERSION, Limits, PROTOCOL_VERSION, Pacing};
pub use epoch::{EpochBase, EpochCert, EpochEnd, EpochStart, EpochTally};
pub use event::{Alarm, Effect, Event, HaltReason, Offence};
pub use light::{EpochHop, Finality, FinalityProof, LightError, TrustedSet};
pub use machine::{Machine, RecoverError, Recovery};
pub use message::{CommitRange, Lane, Message, RangeCommit, RoundProof};
pub use range::{RangeBuilder, RangeError, ServedBlock};
pub use record::{Record, SIGN_NOTHING};
pub use reputation::{Reputation, ScheduleRules, Table};
pub use snapshot::{ConsensusSnapshot, EvidenceState};
pub use status::{Counters, Doubt, EpochStatus, Mode, PeerStatus, ScheduleStatus, Signing, SigningState, Status};
pub use types::{
    AuthorIdx, BatchRef, BlockRef, CkptRef, CommitIndex, CommitRef, Epoch, LeaderSlot, Lsn, Now, RequestId, Round,
    Signature, Slot, Stake, Ticket, TimeMs,
};
