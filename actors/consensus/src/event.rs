//! What the driver tells the machine, and what the machine asks of the driver.

use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::{BlockCore, Evidence, SignedCore};
use crate::certificate::Certificate;
use crate::checkpoint::Divergence;
use crate::commit::Commit;
use crate::epoch::EpochCert;
use crate::message::Lane;
use crate::record::Record;
use crate::types::{
    AuthorIdx, BatchRef, BlockRef, CkptRef, CommitIndex, CommitRef, Epoch, Lsn, RequestId, Round, Signature, Ticket,
    TimeMs,
};

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A peer sent a [`crate::Message`] on either lane. The driver has authenticated the peer.
    Received {
        /// Who sent it.
        peer: AuthorIdx,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Answer to [`Effect::VerifySig`].
    SigChecked {
        /// That of the effect.
        ticket: Ticket,
        /// Whether the signature is good.
        ok: bool,
    },
    /// Answer to [`Effect::Sign`].
    Signed {
        /// That of the effect.
        ticket: Ticket,
        /// The signature.
        signature: Signature,
    },
    /// The signer failed; the machine asks again after a while.
    SignFailed {
        /// That of the effect.
        ticket: Ticket,
    },
    /// All appends up to and including this one are on stable storage.
    Durable {
        /// The newest durable append.
        lsn: Lsn,
    },
    /// An own batch is stored and may be proposed. Saying it twice is harmless, and the driver does so after a restart
    /// for own batches that are not yet delivered.
    BatchSealed {
        /// The batch.
        batch: BatchRef,
    },
    /// A batch body is stored (own, received or fetched), its digest checked. The batch was appended to the same log
    /// before this event.
    BatchStored {
        /// The batch's digest.
        digest: Hash,
        /// Bytes of its body.
        len: u32,
    },
    /// None of the candidates of [`Effect::FetchBatches`] gave this batch.
    BatchFetchFailed {
        /// The batch's digest.
        digest: Hash,
    },
    /// Whatever [`Effect::FetchBatches`] asked for and was not answered is not being fetched any more: who fetched it was
    /// restarted.
    FetchesLost,
    /// Execution has finished this commit, and all before it.
    Executed {
        /// The newest executed commit.
        commit_index: CommitIndex,
        /// The newest checkpoint that is executed and durable, if there is one.
        checkpoint: Option<CkptRef>,
    },
    /// Whether the driver, told by [`crate::Status::awaits_snapshot`], is still getting a snapshot of the state. Said now
    /// and then while it is; catch-up goes on without one once it is not, or nothing is heard of it.
    SnapshotSync {
        /// A snapshot is on its way.
        goes_on: bool,
    },
    /// The links to a peer are up.
    PeerUp {
        /// The peer.
        peer: AuthorIdx,
    },
    /// The links to a peer are down.
    PeerDown {
        /// The peer.
        peer: AuthorIdx,
    },
    /// The timer of [`Effect::SetTimer`] has expired, or any other time has passed.
    Tick,
}

/// Something to do. Effects are executed in order.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Check an ML-DSA-87 signature over [`crate::signing_message`] of this digest; answer with
    /// [`Event::SigChecked`]. Any order, any thread.
    VerifySig {
        /// Comes back in the answer.
        ticket: Ticket,
        /// In which epoch it was signed: the running one, or one before it for evidence. No signature is good under the key
        /// of an author that this epoch had not.
        epoch: Epoch,
        /// Whose key, by its place in that epoch's committee.
        author: AuthorIdx,
        /// Digest of the block's core.
        digest: Hash,
        /// The signature.
        signature: Signature,
    },
    /// Sign [`BlockCore::signing_message`]; answer with [`Event::Signed`] or [`Event::SignFailed`].
    Sign {
        /// Comes back in the answer.
        ticket: Ticket,
        /// The core.
        core: Box<BlockCore>,
    },
    /// Append to the log, in this order. With `need_fsync`, sync and answer with [`Event::Durable`].
    Append {
        /// Comes back in the answer.
        lsn: Lsn,
        /// Whether to sync now.
        need_fsync: bool,
        /// The record.
        record: Record,
    },
    /// Send an encoded message to one peer. Losing it is harmless.
    Send {
        /// To whom.
        to: AuthorIdx,
        /// On which lane.
        lane: Lane,
        /// The encoded [`crate::Message`].
        bytes: Arc<[u8]>,
    },
    /// Send an own block, as an encoded message, to all connected peers and observers on the control lane.
    Broadcast {
        /// Which block.
        block: BlockRef,
        /// The encoded [`crate::Message`].
        bytes: Arc<[u8]>,
    },
    /// Get batch bodies: from the own store at once if they are there, else from these peers in this order. Answer
    /// with [`Event::BatchStored`] or [`Event::BatchFetchFailed`] for each.
    FetchBatches {
        /// The batches.
        batches: Vec<BatchRef>,
        /// Who may have them, best first.
        candidates: Vec<AuthorIdx>,
    },
    /// A peer asks for blocks that are no longer in memory: answer from the log with [`crate::Message::FetchReply`]
    /// holding those that are found and whose signature is good ([`Record::CertifiedBlock`] was never
    /// checked), as many as [`crate::config::MAX_FETCH_REPLY_BYTES`] allow. Any logged block may be
    /// asked for, also one that no commit holds: a validator that catches up may need it as a parent.
    ServeBlocks {
        /// Who asks.
        to: AuthorIdx,
        /// For the reply.
        request: RequestId,
        /// For the reply.
        commit_index: CommitIndex,
        /// The blocks.
        refs: Vec<BlockRef>,
    },
    /// A peer asks for a range of commits: answer from the log with [`crate::Message::CommitRangeReply`], made by
    /// [`crate::RangeBuilder`].
    ServeCommits {
        /// Who asks.
        to: AuthorIdx,
        /// For the reply.
        request: RequestId,
        /// For the reply.
        commit_index: CommitIndex,
        /// First index.
        from: CommitIndex,
        /// How many at most.
        count: u16,
        /// The newest checked core of each validator: their votes certify the newest commits.
        newest: Vec<SignedCore>,
    },
    /// A peer lacks the certificate of an earlier epoch, or of this one after its end: answer from the log with
    /// [`crate::Message::EpochCert`].
    ServeEpochCert {
        /// Who lacks it.
        to: AuthorIdx,
        /// Which.
        epoch: Epoch,
    },
    /// The epoch has ended, and its certificate is on the disk: go on with [`crate::Machine::next_epoch`]. Until then this
    /// machine answers peers, and does nothing else.
    EpochEnded(Arc<EpochCert>),
    /// The next commit. In index order, each exactly once in a process life. The one with
    /// [`Commit::epoch_end`] is its epoch's last.
    Deliver {
        /// The commit.
        commit: Arc<Commit>,
    },
    /// Send [`Event::Tick`] at this time of the monotonic clock, or soon after. Replaces the timer set before.
    SetTimer {
        /// When.
        at_mono_ms: TimeMs,
    },
    /// Two signed statements of one author that cannot both be honest; both signatures were checked.
    Evidence(Box<Evidence>),
    /// A checkpoint that this node has executed is attested by a quorum. Keep it and serve it; in order, and after a
    /// restart perhaps again.
    Certified(Box<Certificate>),
    /// A peer sent something no correct node sends.
    Charge {
        /// The peer.
        peer: AuthorIdx,
        /// What it did.
        offence: Offence,
    },
    /// An operator should know.
    Alarm(Alarm),
    /// The machine has stopped for good: every later step does nothing.
    Halt(Box<HaltReason>),
}

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// Bytes that are no message.
    Malformed,
    /// A block that breaks a validity rule.
    InvalidBlock,
    /// A block whose signature is bad.
    BadSignature,
    /// A block that was not asked for, or pushed for another author.
    Unrequested,
    /// More than the quota.
    Quota,
    /// A range of commits that is no chain, or that no quorum has voted for.
    BadRange,
}

/// What an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// The log does not say what was signed last, or was found doubtful before: this validator observes until the
    /// signing floor is proven.
    SigningFloorUnknown,
    /// A validly signed own block is missing from the log: another instance runs with this key, or the disk was
    /// restored. This validator observes until the signing floor is proven anew.
    OwnBlockNotInLog {
        /// The block.
        block: BlockRef,
    },
    /// After a doubt, the others have proved which rounds cannot have been signed: this validator signs those again.
    SigningFloorProven {
        /// Only rounds above.
        floor: Round,
    },
    /// A validator votes for another commit at an index than this node has computed.
    CommitVoteDiffers {
        /// Who.
        author: AuthorIdx,
        /// For what.
        vote: CommitRef,
        /// What this node has.
        own: CommitRef,
    },
    /// Execution differs. This node orders no more payload, attests nothing new and delivers no more commits; its DAG
    /// goes on. Told again if it turns out to concern the whole network.
    Diverged(Divergence),
    /// A validator attests another digest than the certified one. Told once per author.
    WrongAttestation {
        /// Who.
        author: AuthorIdx,
        /// What it attests.
        attested: CkptRef,
        /// The certified digest.
        certified: Hash,
    },
    /// A block carries a lower commit vote or attestation than the author's block before. Told once per author.
    WatermarkFell {
        /// The block.
        block: BlockRef,
    },
}

/// Why a machine stops for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// Two versions of a leader slot are both certified: more than the tolerated stake is faulty.
    #[error("two certified blocks in one leader slot: {a} and {b}")]
    TwoCertified {
        /// The one.
        a: BlockRef,
        /// The other.
        b: BlockRef,
    },
    /// Stake that holds a correct validator votes for another commit than this node has computed.
    #[error("validators {voters:?} vote for other digests at or below commit {}", own.index)]
    CommitDiffers {
        /// What this node has.
        own: CommitRef,
        /// Who differs.
        voters: Vec<AuthorIdx>,
    },
    /// The log's commit is another one than its blocks give.
    #[error("commit {index} in the log has digest {logged}, its blocks give {computed}")]
    LoggedCommitDiffers {
        /// The index.
        index: CommitIndex,
        /// In the log.
        logged: Hash,
        /// From the blocks.
        computed: Hash,
    },
    /// The leader schedule that a logged commit was made under is another one than its blocks give.
    #[error(
        "commit {index} in the log names leader schedule {found}, its blocks give {computed} \
         (from round {from_round} without {bad:?}, with {good:?} instead)"
    )]
    ScheduleDiffers {
        /// The index.
        index: CommitIndex,
        /// In the log.
        found: Hash,
        /// From the blocks.
        computed: Hash,
        /// First round of the newest table here.
        from_round: Round,
        /// Out of the rotation here.
        bad: Vec<AuthorIdx>,
        /// Their stand-ins here.
        good: Vec<AuthorIdx>,
    },
    /// The next epoch runs a protocol version that this program does not know.
    #[error(
        "epoch {epoch} runs protocol version {version}, this program supports up to {supports}: it needs an upgrade"
    )]
    VersionUnsupported {
        /// The next epoch.
        epoch: Epoch,
        /// Its version.
        version: u16,
        /// Newest one here.
        supports: u16,
    },
    /// A committed block carries evidence whose signatures nobody has checked: an error of this program.
    #[error("block {block} is ordered before the signatures of its evidence are checked")]
    MissingVerdict {
        /// The block.
        block: BlockRef,
    },
    /// A quorum votes for another commit than this node has computed from the same blocks, or under another leader
    /// schedule.
    #[error("commit {index} is certified with digest {certified}, this node has {computed} ({what})")]
    CertifiedDiffers {
        /// The index.
        index: CommitIndex,
        /// What a quorum votes for.
        certified: Hash,
        /// What this node has.
        computed: Hash,
        /// In what they differ.
        what: &'static str,
    },
    /// A committed block is gone before its children: an error of this program.
    #[error("block {block} is missing below round {round}")]
    MissingHistory {
        /// The block.
        block: BlockRef,
        /// Of the leader.
        round: Round,
    },
}
