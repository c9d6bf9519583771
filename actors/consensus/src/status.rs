//! What a machine tells about itself, for metrics and the status route. Nothing here feeds back into decisions.

use aurigraph_ledger::hash::Hash;

use crate::checkpoint::{Certified, Divergence};
use crate::types::{AuthorIdx, BlockRef, CkptRef, CommitIndex, CommitRef, Epoch, LeaderSlot, Round, Stake, TimeMs};

/// What the machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Waits for the answers of the signing-floor probe.
    Probing,
    /// Proposes.
    Active,
    /// Far behind: fetches commits, proposes nothing.
    CatchUp,
    /// Follows without signing.
    Observer,
    /// Stopped for good.
    Halted,
}

impl Mode {
    /// The mode's name for logs, metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probing => "probing",
            Self::Active => "active",
            Self::CatchUp => "catch_up",
            Self::Observer => "observer",
            Self::Halted => "halted",
        }
    }
}

/// Whether blocks are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SigningState {
    /// This node has no consensus key.
    NoKey,
    /// The log is intact; waits for the answers that every process start asks for.
    Waiting,
    /// What was signed last is unknown: nothing is signed until the floor is proven.
    Doubtful,
    /// The floor is proven; signs when the cluster is past it and no other process signs with this key.
    Proven,
    /// Rounds above the floor are signed.
    Signing,
}

impl SigningState {
    /// The state's name for logs, metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::Waiting => "waiting",
            Self::Doubtful => "doubtful",
            Self::Proven => "proven",
            Self::Signing => "signing",
        }
    }
}

/// Why the log does not say what was signed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The log does not start where a first initialisation starts it.
    #[error("the log was lost: the directory does not say what was signed before")]
    LogLost,
    /// The directory is marked as restored from a copy.
    #[error("the directory was restored from a copy")]
    Restored,
    /// An earlier life of the process was in doubt already.
    #[error("the log was found doubtful before the last restart")]
    Earlier,
    /// An own block that is not in the log.
    #[error("own block {0} is not in the log: another process signs with this key, or the disk went back in time")]
    OwnBlock(BlockRef),
}

/// What this validator may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signing {
    /// Whether it signs.
    pub state: SigningState,
    /// Only rounds above may be signed; none if that is unknown.
    pub floor: Option<Round>,
    /// Why not.
    pub doubt: Option<Doubt>,
}

/// What is known of one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The validator.
    pub author: AuthorIdx,
    /// Whether its links are up.
    pub connected: bool,
    /// Its newest accepted block's round.
    pub accepted_round: Round,
    /// The newest round it has pushed, checked or not.
    pub claimed_round: Round,
    /// Its newest checked commit vote.
    pub commit_vote: CommitRef,
}

/// The epoch at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStatus {
    /// Which.
    pub epoch: Epoch,
    /// The protocol version that it runs.
    pub version: u16,
    /// Index of its first commit.
    pub first_index: CommitIndex,
    /// Time of its first commit; none before it.
    pub first_commit_ms: Option<TimeMs>,
    /// Its last commit, if that is known: the epoch closes.
    pub last_commit: Option<CommitRef>,
    /// Stake that attests the final checkpoint, as far as this node knows; a quorum ends the epoch.
    pub attesting: Stake,
    /// Its certificate is on the disk.
    pub ended: bool,
}

/// The leader schedule at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleStatus {
    /// Digest of its state now; commit headers carry the one that held when their leader was decided.
    pub digest: Hash,
    /// Tables made in this epoch.
    pub updates: u64,
    /// The first round of the newest table.
    pub from_round: Round,
    /// Out of the rotation, ascending.
    pub bad: Vec<AuthorIdx>,
    /// Their stand-ins, best first.
    pub good: Vec<AuthorIdx>,
    /// Committed leaders that each validator voted for in this window.
    pub scores: Vec<u64>,
    /// Skipped leader slots of each validator in this window.
    pub missed: Vec<u64>,
    /// Delivered blocks of each validator in this window.
    pub authored: Vec<u64>,
    /// Windows in a row in which each validator was absent.
    pub absent: Vec<u8>,
}

/// Counts since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Blocks accepted, own ones included.
    pub blocks_accepted: u64,
    /// Own blocks made durable.
    pub blocks_proposed: u64,
    /// Own blocks built without waiting, for a round the clock had left.
    pub blocks_filled: u64,
    /// Blocks refused for a validity rule or a signature.
    pub blocks_invalid: u64,
    /// Blocks dropped by a local limit.
    pub blocks_dropped: u64,
    /// Signature checks asked for.
    pub signatures_checked: u64,
    /// Fetch requests sent.
    pub fetches: u64,
    /// Blocks that came by fetching.
    pub blocks_fetched: u64,
    /// Times that the fetch of a block was put off.
    pub blocks_deferred: u64,
    /// Leader slots committed by the direct rule.
    pub slots_direct: u64,
    /// Leader slots committed by the indirect rule.
    pub slots_indirect: u64,
    /// Leader slots skipped.
    pub slots_skipped: u64,
    /// Slots seen with two versions.
    pub equivocations: u64,
    /// Pieces of evidence in blocks whose signatures were bad.
    pub evidence_refused: u64,
    /// Own rounds entered because the leader time-out expired.
    pub leader_timeouts: u64,
    /// Times catch-up was entered.
    pub catch_ups: u64,
    /// Commits taken from certified ranges, without deciding them here.
    pub commits_certified: u64,
    /// Ranges of commits taken that nobody certifies: their blocks came in as ordinary ones.
    pub ranges_uncertified: u64,
}

/// A machine's state at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The mode.
    pub mode: Mode,
    /// The epoch.
    pub epoch: EpochStatus,
    /// The round that may be built next.
    pub round: Round,
    /// The own newest block's round.
    pub own_round: Round,
    /// What may be signed, and why not more.
    pub signing: Signing,
    /// The newest commit.
    pub last_commit: CommitRef,
    /// Its leader; `None` before the first.
    pub last_leader: Option<BlockRef>,
    /// Its timestamp.
    pub last_commit_ms: TimeMs,
    /// The newest decided leader slot.
    pub last_decided: LeaderSlot,
    /// The newest commit that validators of a quorum vote for.
    pub quorum_index: CommitIndex,
    /// Catch-up waits for a snapshot of the state.
    pub awaits_snapshot: bool,
    /// A snapshot of an earlier commit than this would not help.
    pub snapshot_least: CommitIndex,
    /// The newest executed commit.
    pub executed_index: CommitIndex,
    /// The newest own checkpoint: what this node attests.
    pub checkpoint: CkptRef,
    /// The newest checkpoint with a certificate.
    pub certified: Option<Certified>,
    /// Where execution was found to differ: this node has stopped executing.
    pub divergence: Option<Divergence>,
    /// Blocks at or below can no longer be ordered.
    pub gc_round: Round,
    /// Leader slots seen but not decided.
    pub undecided: usize,
    /// Blocks in memory.
    pub blocks: usize,
    /// Blocks that wait for parents or batches.
    pub suspended: usize,
    /// Missing blocks that are looked for.
    pub wanted: usize,
    /// Missing blocks that are looked for later: what needs them pulls in too much.
    pub deferred: usize,
    /// Missing batches that are looked for.
    pub wanted_batches: usize,
    /// Own batches that wait for a block.
    pub pending_batches: usize,
    /// Evidence found here that no commit has proven yet.
    pub pending_evidence: usize,
    /// Equivocators whose blocks own blocks leave out, ascending.
    pub shunned: Vec<AuthorIdx>,
    /// The leader time-out now.
    pub t_leader_ms: TimeMs,
    /// The leader schedule.
    pub schedule: ScheduleStatus,
    /// Blocks of each validator that the commits of this epoch deliver.
    pub delivered: Vec<u64>,
    /// One entry per validator, in order.
    pub peers: Vec<PeerStatus>,
    /// Counts since the start of the process.
    pub counters: Counters,
}
