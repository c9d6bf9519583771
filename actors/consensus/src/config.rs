//! What a machine is started with, and the constants of the protocol (consensus.md 14).
//!
//! `EpochParams` must be equal on all validators of an epoch; `Pacing` and `Limits` are local.

use aurigraph_ledger::hash::Hash;

use crate::epoch::EpochBase;
use crate::types::{AuthorIdx, Epoch, Round, SIGNATURE_LEN, Stake, TimeMs};

/// Version of the block encoding.
pub const BLOCK_VERSION: u16 = 1;
pub use aurigraph_ledger::{FIRST_PROTOCOL_VERSION, PROTOCOL_VERSION};

/// Most validators of an epoch.
pub const MAX_VALIDATORS: usize = 128;
/// Largest total stake of an epoch.
pub const MAX_TOTAL_STAKE: Stake = 1 << 60;
/// Most batch references in a block.
pub const MAX_BATCH_REFS: usize = 64;
/// Most bytes of batch bodies that one block may reference.
pub const MAX_PAYLOAD_BYTES: u64 = 8 * 1024 * 1024;
/// Most evidence items in a block.
pub const MAX_EVIDENCE: usize = 2;
/// Bytes of an encoded core.
pub const CORE_LEN: usize = 234;
/// Bytes of an encoded core with its signature.
pub const SIGNED_CORE_LEN: usize = CORE_LEN + SIGNATURE_LEN;
/// Most bytes of an encoded block: 48 KiB and the evidence.
pub const MAX_BLOCK_BYTES: usize = 48 * 1024 + MAX_EVIDENCE * (2 * SIGNED_CORE_LEN + 1);
/// Most references in one fetch request.
pub const MAX_FETCH_REFS: usize = 128;
/// Most bytes of blocks in one fetch reply on the control lane.
pub const MAX_FETCH_REPLY_BYTES: usize = 224 * 1024;
/// Most commits in one catch-up range.
pub const MAX_RANGE_COMMITS: usize = 64;
/// Most headers beside those of a range's commits, up to the newest vote that certifies it.
pub const MAX_RANGE_HEADERS: usize = 128;
/// Most bytes of blocks in one catch-up range reply.
pub const MAX_RANGE_BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Most blocks in one commit that are decoded: a long undecided stretch of a large epoch fits many times.
pub const MAX_COMMIT_BLOCKS: usize = 1 << 22;
/// The first protocol version in which blocks carry evidence of epochs before their own.
pub const EARLIER_EVIDENCE: u16 = 3;
/// The first protocol version in which commits prove wrong attestations.
pub const WRONG_ATTESTATIONS: u16 = 3;
/// Most epochs before a block's own of which it may carry evidence; a longer unbonding period counts as this long.
pub const MAX_EVIDENCE_EPOCHS: u16 = 256;
/// Most faults that one commit proves: every validator of every kind, in every epoch that evidence is taken of.
pub const MAX_COMMIT_FAULTS: usize = 5 * MAX_VALIDATORS * (1 + MAX_EVIDENCE_EPOCHS as usize);
/// Most pieces of unproven evidence that are taken along into the next epoch, the newest: three kinds for each validator
/// of one, some 3.7 MB.
pub const MAX_CARRIED_EVIDENCE: usize = 3 * MAX_VALIDATORS;

/// Parameters that all validators of an epoch share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochParams {
    /// Rounds below the last committed leader that can still be ordered.
    pub gc_depth: Round,
    /// Leader slots of a round.
    pub leaders_per_round: u16,
    /// Commits between two tables of the leader schedule.
    pub schedule_window: u32,
    /// Stake that a table may take out of the rotation, in percent; at most F in any case, 0 for none ever.
    pub schedule_swap_percent: u8,
    /// The epoch ends with the first commit this long after its first one; 0 for never.
    pub epoch_ms: TimeMs,
    /// The epoch ends with this many commits at the latest; 0 for no bound.
    pub epoch_commits: u64,
    /// Evidence of this many epochs before the running one still counts: the unbonding period, in which stake answers for
    /// it (consensus.md 8.1). At most [`MAX_EVIDENCE_EPOCHS`] are used, and none before version [`EARLIER_EVIDENCE`].
    pub evidence_epochs: u64,
}

/// When to propose (consensus.md 4.5). Local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// Leader time-out to start with.
    pub t_leader_initial_ms: TimeMs,
    /// Least leader time-out.
    pub t_leader_min_ms: TimeMs,
    /// Greatest leader time-out.
    pub t_leader_max_ms: TimeMs,
    /// Least time between own blocks while there is payload to order.
    pub min_delay_busy_ms: TimeMs,
    /// Least time between own blocks while there is none.
    pub min_delay_idle_ms: TimeMs,
    /// How often wanted blocks are looked at.
    pub scan_ms: TimeMs,
    /// Own newest block is sent again after this long without a new one.
    pub rebroadcast_ms: TimeMs,
    /// How long a missing parent or batch of a recent block is awaited before it is asked for.
    pub fetch_grace_ms: TimeMs,
    /// How far ahead of the local clock a block's timestamp may be before it is held back.
    pub max_drift_ms: TimeMs,
}

/// Bounds of memory and work (consensus.md 3.4, 11.3). Local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Blocks further above the clock than this are dropped.
    pub ahead: Round,
    /// Suspended blocks of one author.
    pub suspended_per_author: usize,
    /// Bytes of suspended blocks that one peer introduced.
    pub suspended_bytes_per_peer: usize,
    /// Missing blocks that are looked for.
    pub want_blocks: usize,
    /// Signature checks in flight for pushed blocks of one author.
    pub verify_per_author: usize,
    /// Pushed blocks that one peer may have checked at once.
    pub pushed_burst: u32,
    /// Pushed blocks that one peer may have checked in a second, beyond the burst.
    pub pushed_per_second: u32,
    /// Commits delivered but not executed, above which own blocks carry no payload.
    pub max_unexecuted: u64,
    /// Commits delivered but not executed, above which catch-up pauses.
    pub max_unexecuted_catch_up: u64,
    /// Catch-up starts when this many commits behind.
    pub catch_up_enter: u64,
    /// Catch-up ends when fewer commits behind.
    pub catch_up_leave: u64,
    /// Catch-up waits for a snapshot of the state when this many commits behind, or when no peer has the next commits any
    /// more; 0 for never.
    pub snapshot_distance: u64,
    /// Digests of stored batches that are remembered.
    pub known_batches: usize,
}

/// What a machine is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Digest of the genesis configuration.
    pub chain_id: Hash,
    /// The epoch.
    pub epoch: Epoch,
    /// Digest of the previous epoch's final checkpoint, or of the chain's genesis.
    pub epoch_seed: Hash,
    /// Where the epoch's commits start.
    pub base: EpochBase,
    /// The protocol version of the epoch.
    pub version: u16,
    /// Stake of every validator, in the order of the validator list.
    pub stakes: Vec<Stake>,
    /// This node's place in the list; `None` for an observer.
    pub own: Option<AuthorIdx>,
    /// Newest protocol version this node can run.
    pub supports: u16,
    /// Parameters of the epoch.
    pub params: EpochParams,
    /// Timers.
    pub pacing: Pacing,
    /// Bounds.
    pub limits: Limits,
    /// Whether own payload may be proposed before earlier commits are executed.
    pub pipelining: bool,
}

impl Config {
    /// A configuration with the defaults of consensus.md 14 for this many validators.
    #[must_use]
    pub fn new(chain_id: Hash, epoch_seed: Hash, stakes: Vec<Stake>, own: Option<AuthorIdx>) -> Self {
        let n = stakes.len();
        let gc_depth: Round = 64;
        Self {
            chain_id,
            epoch: 0,
            epoch_seed,
            base: EpochBase::default(),
            version: FIRST_PROTOCOL_VERSION,
            own,
            supports: PROTOCOL_VERSION,
            params: EpochParams {
                gc_depth,
                leaders_per_round: if n <= 10 { 1 } else { 2 },
                schedule_window: 300,
                schedule_swap_percent: 20,
                epoch_ms: 0,
                epoch_commits: 0,
                evidence_epochs: 21,
            },
            pacing: Pacing {
                t_leader_initial_ms: 300,
                t_leader_min_ms: 100,
                t_leader_max_ms: 8_000,
                min_delay_busy_ms: 50,
                min_delay_idle_ms: if n <= 10 { 500 } else { 1_000 },
                scan_ms: 200,
                rebroadcast_ms: 1_500,
                fetch_grace_ms: 30,
                max_drift_ms: 1_000,
            },
            limits: Limits {
                ahead: 2 * gc_depth,
                suspended_per_author: 2 * 64 + 16,
                suspended_bytes_per_peer: 32 * 1024 * 1024,
                want_blocks: 4 * n.max(1) * 64,
                verify_per_author: 8,
                pushed_burst: 256,
                pushed_per_second: 64,
                max_unexecuted: 128,
                max_unexecuted_catch_up: 256,
                catch_up_enter: 128,
                catch_up_leave: 8,
                snapshot_distance: 0,
                known_batches: 65_536,
            },
            stakes,
            pipelining: true,
        }
    }

    /// The oldest epoch of which a block of this one may carry evidence.
    #[must_use]
    pub fn evidence_from(&self) -> Epoch {
        evidence_from(self.epoch, self.version, &self.params)
    }
}

/// The oldest epoch of which blocks of an epoch that runs this protocol version may carry evidence.
pub(crate) fn evidence_from(epoch: Epoch, version: u16, params: &EpochParams) -> Epoch {
    let epochs = if version >= EARLIER_EVIDENCE { params.evidence_epochs.min(MAX_EVIDENCE_EPOCHS.into()) } else { 0 };
    epoch.saturating_sub(epochs)
}

/// Why a configuration cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No validator, or too many.
    #[error("{0} validators, between 1 and {MAX_VALIDATORS} are possible")]
    Validators(usize),
    /// A validator without stake.
    #[error("validator {0} has no stake")]
    NoStake(AuthorIdx),
    /// Too much stake.
    #[error("total stake exceeds {MAX_TOTAL_STAKE}")]
    TotalStake,
    /// The own index is not in the list.
    #[error("own index {own} with {n} validators")]
    Own {
        /// The index.
        own: AuthorIdx,
        /// Validators in the list.
        n: usize,
    },
    /// A round needs between one leader and as many as there are validators.
    #[error("{leaders} leaders per round with {n} validators")]
    Leaders {
        /// Leaders per round.
        leaders: u16,
        /// Validators in the list.
        n: usize,
    },
    /// Leader tables need a window, and may not swap more than can be faulty.
    #[error("a leader table after {window} commits with {percent} % of stake, possible are 1 or more and at most 33 %")]
    Schedule {
        /// Commits between two tables.
        window: u32,
        /// Percent of stake.
        percent: u8,
    },
    /// The epoch runs a protocol version that this program does not know.
    #[error("the epoch runs protocol version {version}, this program supports up to {supports}")]
    Version {
        /// That of the epoch.
        version: u16,
        /// Newest one here.
        supports: u16,
    },
    /// Garbage collection would eat undecided rounds.
    #[error("gc_depth is {0}, at least 3 is needed")]
    GcDepth(Round),
}
