//! The validator: runs the consensus machine, executes its effects in order, feeds it what happens.
//!
//! It never waits: signature checks, synced appends and timers are tasks that report back to this incarnation. It is
//! rebuilt from the journal alone. When the journal restarts while appends are outstanding, nobody knows which of them
//! were written, so the validator fails and rebuilds itself from what is in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aurigraph_consensus::{
    Alarm, AuthorIdx, BatchRef, Effect, Epoch, Event, Evidence, HaltReason, Lane, Machine, Message, Mode, Now, Offence,
    Record as LogRecord, Signature,
};
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::Hash;
use aurigraph_runtime::{ActorError, Address, Behaviour, Context, Reply};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::messages::{Internal, ServeBlocks, ServeCommits, ValidatorMsg};
use super::recovery;
use super::{attestation, epochs};
use crate::bounds::consensus as bounds;
use crate::context::NodeContext;
use crate::crypto::{Check, DispatchMsg, Priority};
use crate::members::Members;
use crate::mempool::{BatchStoreMsg, ValidatorPort};
use crate::pipeline::OrderMsg;
use crate::seldom::Seldom;
use crate::storage::{JournalMsg, Record, RecordKind, barrier};
use crate::wire::{BULK_CONSENSUS, CONTROL_CONSENSUS, framed};

/// How long a signature check may take before it is asked for again.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a signature check is asked for again.
const CHECK_RETRY: Duration = Duration::from_millis(10);
/// How long a synced append may take before the validator gives up on this journal.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// The machine's state is told this often at the least, while anything happens.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// A snapshot of the consensus state is logged every so many commits: bounds what a restart replays. This crate's own
/// tests do not wait for as many.
const SNAPSHOT_EVERY: u64 = if cfg!(test) { 16 } else { 256 };

/// The actor that runs the consensus machine.
pub struct Validator {
    pub(super) node: Arc<NodeContext>,
}

impl Validator {
    /// A validator of this node; an observer if the node has no consensus key.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>) -> Self {
        Self { node }
    }
}

/// What lives as long as one incarnation.
pub struct State {
    pub(super) machine: Machine,
    /// The validators of the machine's epoch.
    pub(super) members: Arc<Members>,
    signer: Option<Arc<Signer>>,
    journal: Address<JournalMsg>,
    /// The journal incarnation that holds our appends.
    journal_generation: u64,
    dispatcher: Address<DispatchMsg>,
    pub(super) batches: Address<BatchStoreMsg>,
    order: Address<OrderMsg>,
    blocks_server: Address<ServeBlocks>,
    commits_server: Address<ServeCommits>,
    pub(super) snapshots: recovery::Snapshots,
    /// Delivered batches of which the batch store has not heard: own ones hold places in its flow control until then.
    undelivered: Vec<Hash>,
    /// The batch store has not heard of the epoch.
    pub(super) epoch_untold: bool,
    /// Consensus keys of earlier epochs, of which evidence was checked: at most `bounds::EARLIER_SETS` of them.
    earlier: BTreeMap<Epoch, Vec<Bytes>>,
    /// Peers that the machine was told are up.
    pub(super) connected: BTreeSet<AuthorIdx>,
    timer: u64,
    tasks: JoinSet<()>,
    /// When the machine's state was told last.
    reported: Instant,
    offences: Seldom<(AuthorIdx, Offence)>,
    /// The mark of a restored directory, until the log says that it is doubtful.
    restored_mark: Option<PathBuf>,
}

impl Behaviour for Validator {
    type Msg = ValidatorMsg;
    type State = State;

    async fn start(&self, ctx: &Context<ValidatorMsg>) -> Result<State, ActorError> {
        let journal = ctx.registry.role::<JournalMsg>("journal");
        let batches = ctx.registry.role::<BatchStoreMsg>("batch-store");
        recovery::wait_until_running(&journal, recovery::START_TIMEOUT).await?;
        recovery::wait_until_running(&batches, recovery::START_TIMEOUT).await?;
        let journal_generation = journal.generation();
        // An own block of the one before may still wait in the journal's mailbox: recover only behind it, else its round
        // could be signed twice.
        barrier(&journal, recovery::START_TIMEOUT).await?;
        let signer = match self.node.settings.seeds.consensus {
            Some(seed) => Some(Arc::new(Signer::from_seed(&Seed::new(seed))?)),
            None => None,
        };
        let now = self.node.now();
        let restored_mark = Some(recovery::restored_mark(&self.node.settings.data_dir)).filter(|mark| mark.exists());
        let recovered = recovery::recover(&self.node, now).await?;
        let mut state = State {
            machine: recovered.machine,
            members: recovered.members,
            signer,
            journal,
            journal_generation,
            dispatcher: ctx.registry.role("verify-dispatcher"),
            batches,
            order: ctx.registry.role("order"),
            blocks_server: ctx.registry.role("block-fetcher"),
            commits_server: ctx.registry.role("commit-sync"),
            snapshots: recovered.snapshots,
            undelivered: Vec::new(),
            epoch_untold: false,
            earlier: BTreeMap::new(),
            connected: BTreeSet::new(),
            timer: 0,
            tasks: JoinSet::new(),
            reported: Instant::now(),
            offences: Seldom::default(),
            restored_mark,
        };
        self.execute(ctx, &mut state, recovered.effects)?;
        self.publish_anchors(&state);
        self.follow_links(ctx, &mut state)?;
        Self::follow_batch_store(ctx, &mut state);
        for batch in recovery::undelivered(&state.batches).await? {
            self.step(ctx, &mut state, Event::BatchSealed { batch })?;
        }
        self.step(ctx, &mut state, Event::Tick)?;
        self.report(&mut state);
        let status = state.machine.status();
        tracing::info!(
            commit = status.last_commit.index,
            round = status.round,
            mode = status.mode.name(),
            "consensus is rebuilt from the journal"
        );
        Ok(state)
    }

    async fn handle(
        &self,
        ctx: &Context<ValidatorMsg>,
        message: ValidatorMsg,
        state: &mut State,
    ) -> Result<(), ActorError> {
        while state.tasks.try_join_next().is_some() {}
        let event = match message {
            ValidatorMsg::Received { peer, bytes } => {
                let Some(peer) = state.members.index(&peer) else { return Ok(()) };
                Event::Received { peer, bytes: bytes.into() }
            }
            ValidatorMsg::BatchSealed(batch) => Event::BatchSealed { batch },
            ValidatorMsg::BatchStored { digest, len } => Event::BatchStored { digest, len },
            ValidatorMsg::BatchFetchFailed(digest) => Event::BatchFetchFailed { digest },
            ValidatorMsg::Executed { commit_index, checkpoint } => Event::Executed { commit_index, checkpoint },
            ValidatorMsg::SnapshotSync { goes_on } => Event::SnapshotSync { goes_on },
            ValidatorMsg::LinksChanged => return self.follow_links(ctx, state),
            ValidatorMsg::Status(reply) => {
                reply.send(state.machine.status());
                return Ok(());
            }
            ValidatorMsg::Internal(Internal::SigChecked(ticket, ok)) => Event::SigChecked { ticket, ok },
            ValidatorMsg::Internal(Internal::Signed(ticket, signature)) => Event::Signed { ticket, signature },
            ValidatorMsg::Internal(Internal::SignFailed(ticket)) => Event::SignFailed { ticket },
            ValidatorMsg::Internal(Internal::Durable(lsn)) => {
                Self::same_journal(state)?;
                Self::clear_restored_mark(state)?;
                Event::Durable { lsn }
            }
            ValidatorMsg::Internal(Internal::JournalLost(reason)) => {
                return Err(format!("an append was lost: {reason}").into());
            }
            ValidatorMsg::Internal(Internal::BatchStoreRestarted) => {
                Self::tell_batch_store(state);
                Event::FetchesLost
            }
            ValidatorMsg::Internal(Internal::Timer(number)) => {
                if number != state.timer {
                    return Ok(());
                }
                self.report(state);
                Self::tell_batch_store(state);
                self.follow_links(ctx, state)?;
                Event::Tick
            }
        };
        self.step(ctx, state, event)
    }
}

impl Validator {
    pub(super) fn step(&self, ctx: &Context<ValidatorMsg>, state: &mut State, event: Event) -> Result<(), ActorError> {
        let before = state.machine.anchor();
        let effects = state.machine.step(self.node.now(), event);
        self.execute(ctx, state, effects)?;
        if state.machine.anchor() != before {
            self.publish_anchors(state);
        }
        // A machine that has nothing to wait for, an observer's, sets no timer.
        if state.reported.elapsed() >= REPORT_EVERY {
            self.report(state);
        }
        self.snapshot_if_due(state)
    }

    /// The order's states at the newest anchors: snapshots are made with them.
    fn publish_anchors(&self, state: &State) {
        let states = state.machine.anchors().map(|(index, state)| (index, Arc::clone(state)));
        *self.node.anchors.lock() = states.collect();
    }

    /// Tells the machine which links came up or went down. Looked at on every word from the lanes and on every timer,
    /// so that a word that was lost is made good.
    pub(super) fn follow_links(&self, ctx: &Context<ValidatorMsg>, state: &mut State) -> Result<(), ActorError> {
        let connected = self.node.net.connected();
        let up: BTreeSet<AuthorIdx> = connected.iter().filter_map(|name| state.members.validator(name)).collect();
        let before = std::mem::replace(&mut state.connected, up.clone());
        for peer in before.difference(&up) {
            self.step(ctx, state, Event::PeerDown { peer: *peer })?;
        }
        for peer in up.difference(&before) {
            self.step(ctx, state, Event::PeerUp { peer: *peer })?;
        }
        Ok(())
    }

    /// Has each restart of the batch store reported: what it was fetching, it fetches no more.
    fn follow_batch_store(ctx: &Context<ValidatorMsg>, state: &mut State) {
        let (mut generations, mouth) = (state.batches.generations(), ctx.mouth());
        generations.mark_unchanged();
        state.tasks.spawn(async move {
            while generations.changed().await.is_ok() {
                if !mouth.send(ValidatorMsg::Internal(Internal::BatchStoreRestarted)) {
                    return;
                }
            }
        });
    }

    pub(super) fn execute(
        &self,
        ctx: &Context<ValidatorMsg>,
        state: &mut State,
        effects: Vec<Effect>,
    ) -> Result<(), ActorError> {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::VerifySig { ticket, epoch, author, digest, signature } => {
                    let key = self.key_of(state, epoch, author)?;
                    self.verify(ctx, state, ticket, key, digest, &signature);
                }
                Effect::Sign { ticket, core } => {
                    Self::sign(ctx, state, ticket, core.signing_message());
                }
                Effect::Append { lsn, need_fsync, record } => Self::append(ctx, state, lsn, need_fsync, &record)?,
                Effect::Send { to, lane, bytes } => self.send(state.members.name(to), lane, &bytes),
                Effect::Broadcast { bytes, .. } => self.broadcast(&bytes),
                Effect::FetchBatches { batches, candidates } => {
                    // Refused when the store is full or restarting: the machine asks again, after a restart at once.
                    let _ = state.batches.send(BatchStoreMsg::Fetch { batches, candidates });
                }
                Effect::ServeBlocks { to, request, commit_index, refs } => {
                    let to = state.members.name(to).to_owned();
                    // A peer whose request is dropped asks another peer.
                    let _ = state.blocks_server.send(ServeBlocks { to, request, commit_index, refs });
                }
                Effect::ServeCommits { to, request, commit_index, from, count, newest } => {
                    let to = state.members.name(to).to_owned();
                    let _ = state.commits_server.send(ServeCommits { to, request, commit_index, from, count, newest });
                }
                Effect::ServeEpochCert { to, epoch } => {
                    if let Some(body) = self.node.journal.get(RecordKind::EpochCert, &Record::index_key(epoch))? {
                        self.serve_epoch_cert(state.members.name(to), &body)?;
                    }
                }
                // The machine's other effects are those of the epoch that ends.
                Effect::EpochEnded(cert) => ended = Some(cert),
                Effect::Deliver { commit } => {
                    metrics::counter!("consensus_commits_total").increment(1);
                    let delivered = commit.batches().map(|(_, batch)| batch.digest).collect::<Vec<_>>();
                    state.undelivered.extend(delivered);
                    Self::tell_batch_store(state);
                    // A refused commit is in the journal: order reads it there.
                    let _ = state.order.send(OrderMsg::Committed(commit));
                }
                Effect::SetTimer { at_mono_ms } => {
                    state.timer += 1;
                    let wait = at_mono_ms.saturating_sub(self.node.now().mono_ms);
                    // The handle is not needed: a timer that was replaced is known by its number.
                    drop(
                        ctx.send_after(
                            Duration::from_millis(wait),
                            ValidatorMsg::Internal(Internal::Timer(state.timer)),
                        ),
                    );
                }
                Effect::Evidence(evidence) => Self::evidence(state, &evidence),
                Effect::Charge { peer, offence } => {
                    if let Some(times) = state.offences.due((peer, offence)) {
                        let peer = state.members.name(peer);
                        tracing::warn!(peer, ?offence, times, "a peer sent what no correct node sends");
                    }
                    metrics::counter!("consensus_offences_total", "peer" => state.members.name(peer).to_owned())
                        .increment(1);
                }
                Effect::Alarm(Alarm::SigningFloorProven { floor }) => {
                    tracing::info!(floor, "the signing floor is proven: this validator signs rounds above it");
                }
                Effect::Alarm(alarm) => {
                    tracing::error!(?alarm, "consensus alarm");
                    metrics::counter!("consensus_alarms_total").increment(1);
                    if let Alarm::Diverged(divergence) = alarm {
                        Self::keep(state, attestation::stop_executing(&self.node, divergence))?;
                    }
                }
                Effect::Certified(certificate) => {
                    if let Some(record) = attestation::certificate_record(&self.node, &certificate) {
                        Self::keep(state, record)?;
                    }
                }
                Effect::Halt(reason) => return Err(self.halt(&reason)),
            }
        }
        match ended {
            Some(cert) => self.next_epoch(ctx, state, &cert),
            None => Ok(()),
        }
    }

    /// The key of a validator in this epoch or one before it; empty for an index that the epoch had not.
    fn key_of(&self, state: &mut State, epoch: Epoch, author: AuthorIdx) -> Result<Bytes, ActorError> {
        if epoch == state.members.epoch {
            return Ok(state.members.consensus_key(author));
        }
        if !state.earlier.contains_key(&epoch) {
            let keys = epochs::consensus_keys(&self.node, epoch)?;
            if state.earlier.len() >= bounds::EARLIER_SETS {
                state.earlier.pop_first();
            }
            state.earlier.insert(epoch, keys);
        }
        let keys = state.earlier.get(&epoch).and_then(|keys| keys.get(usize::from(author)));
        Ok(keys.cloned().unwrap_or_default())
    }

    fn verify(
        &self,
        ctx: &Context<ValidatorMsg>,
        state: &mut State,
        ticket: u64,
        public_key: Bytes,
        digest: Hash,
        signature: &Signature,
    ) {
        let message = aurigraph_consensus::signing_message(&self.node.chain_id, &digest);
        let check = Check::of_message(
            public_key,
            Bytes::copy_from_slice(&message),
            Bytes::copy_from_slice(signature.as_bytes()),
        );
        let dispatcher = state.dispatcher.clone();
        let mouth = ctx.mouth();
        state.tasks.spawn(async move {
            loop {
                let request = |reply: Reply<_>| DispatchMsg::Verify {
                    items: vec![check.clone()],
                    priority: Priority::Consensus,
                    reply,
                };
                if let Ok(Ok(verdicts)) = dispatcher.call(CHECK_TIMEOUT, request).await
                    && let Some(ok) = verdicts.first()
                {
                    mouth.send(ValidatorMsg::Internal(Internal::SigChecked(ticket, *ok)));
                    return;
                }
                // The dispatcher is restarting or full: a check is never given up, or its block would hang.
                tokio::time::sleep(CHECK_RETRY).await;
            }
        });
    }

    fn sign(ctx: &Context<ValidatorMsg>, state: &mut State, ticket: u64, message: impl AsRef<[u8]> + Send + 'static) {
        let Some(signer) = state.signer.clone() else {
            return;
        };
        let mouth = ctx.mouth();
        // A signature takes a fraction of a millisecond: on this thread it is over before a hand-over would be.
        let signature = signer.sign(message.as_ref()).ok().and_then(|bytes| Signature::from_slice(&bytes));
        mouth.send(ValidatorMsg::Internal(match signature {
            Some(signature) => Internal::Signed(ticket, signature),
            None => Internal::SignFailed(ticket),
        }));
    }

    fn append(
        ctx: &Context<ValidatorMsg>,
        state: &mut State,
        lsn: u64,
        need_fsync: bool,
        record: &LogRecord,
    ) -> Result<(), ActorError> {
        Self::same_journal(state)?;
        let records = vec![journal_record(record)];
        if need_fsync {
            let answer = state
                .journal
                .ask(|reply| JournalMsg::Append { records, sync: true, reply: Some(reply) })
                .map_err(|error| format!("cannot append to the journal: {error}"))?;
            let mouth = ctx.mouth();
            state.tasks.spawn(async move {
                let outcome = match tokio::time::timeout(SYNC_TIMEOUT, answer).await {
                    Ok(Ok(Ok(()))) => Internal::Durable(lsn),
                    Ok(Ok(Err(error))) => Internal::JournalLost(error.to_string()),
                    Ok(Err(_)) => Internal::JournalLost("the journal ended before it answered".to_owned()),
                    Err(_) => Internal::JournalLost(format!("no answer within {SYNC_TIMEOUT:?}")),
                };
                mouth.send(ValidatorMsg::Internal(outcome));
            });
        } else {
            state
                .journal
                .send(JournalMsg::Append { records, sync: false, reply: None })
                .map_err(|error| format!("cannot append to the journal: {error}"))?;
        }
        Self::same_journal(state)
    }

    /// The first synced record of a restored directory says that the log is doubtful: from here on it needs no mark.
    fn clear_restored_mark(state: &mut State) -> Result<(), ActorError> {
        let Some(mark) = state.restored_mark.take() else { return Ok(()) };
        std::fs::remove_file(&mark).map_err(|error| format!("cannot remove {}: {error}", mark.display()).into())
    }

    /// Fails when the journal is another incarnation than the one that holds our appends.
    fn same_journal(state: &State) -> Result<(), ActorError> {
        if state.journal.generation() == state.journal_generation {
            Ok(())
        } else {
            Err("the journal was restarted; what it held of ours is unknown".into())
        }
    }

    /// Tells the batch store what was delivered, then of a new epoch, in which it seals the rest anew; what it does not take
    /// now it is told with the next commit or timer.
    pub(super) fn tell_batch_store(state: &mut State) {
        Self::tell_delivered(state);
        if state.epoch_untold && state.undelivered.is_empty() {
            state.epoch_untold = state.batches.send(BatchStoreMsg::EpochStarted).is_err();
        }
    }

    fn tell_delivered(state: &mut State) {
        if state.undelivered.is_empty() {
            return;
        }
        let digests = std::mem::take(&mut state.undelivered);
        if let Err(refused) = state.batches.send(BatchStoreMsg::Delivered { digests })
            && let BatchStoreMsg::Delivered { mut digests } = refused.into_message()
        {
            // A store that is down for longer reads the commits when it starts.
            let excess = digests.len().saturating_sub(bounds::UNTOLD_DELIVERIES);
            state.undelivered = digests.split_off(excess);
        }
    }

    fn send(&self, name: &str, lane: Lane, bytes: &[u8]) {
        // A refused message costs time, never safety: everything is pulled again by digest.
        let _ = match lane {
            Lane::Control => self.node.net.send_control(name, framed(CONTROL_CONSENSUS, bytes)),
            Lane::Bulk => self.node.net.send_serving(name, framed(BULK_CONSENSUS, bytes)),
        };
    }

    fn broadcast(&self, bytes: &[u8]) {
        let frame = framed(CONTROL_CONSENSUS, bytes);
        for peer in &self.node.settings.peers {
            let _ = self.node.net.send_control(&peer.name, frame.clone());
        }
    }

    /// What becomes of it is a commit's business: here it is only told.
    fn evidence(state: &State, evidence: &Evidence) {
        let (epoch, accused, kind) = evidence.accusation();
        let (a, b) = (&evidence.a.core, &evidence.b.core);
        let name = if epoch == state.members.epoch { state.members.name(accused) } else { "" };
        tracing::warn!(
            epoch,
            accused,
            name,
            ?kind,
            one = %a.reference(),
            other = %b.reference(),
            "a validator signed two statements that cannot both be honest: it goes into the next own block"
        );
        metrics::counter!("consensus_evidence_total").increment(1);
    }

    /// Tells a peer that an epoch has ended.
    fn serve_epoch_cert(&self, to: &str, record: &[u8]) -> Result<(), ActorError> {
        if let LogRecord::EpochCert(cert) = LogRecord::decode(record)? {
            let message = Message::EpochCert(Arc::unwrap_or_clone(cert));
            self.send(to, message.lane(), &message.encode());
        }
        Ok(())
    }

    fn halt(&self, reason: &HaltReason) -> ActorError {
        self.fail(format!("consensus halted: {reason}"))
    }

    pub(super) fn fail(&self, reason: String) -> ActorError {
        self.node.fatal.raise(reason.clone());
        reason.into()
    }

    /// Appends what need not be synced: it can be found out again.
    pub(super) fn keep(state: &State, record: Record) -> Result<(), ActorError> {
        Self::same_journal(state)?;
        state
            .journal
            .send(JournalMsg::Append { records: vec![record], sync: false, reply: None })
            .map_err(|error| format!("cannot append to the journal: {error}").into())
    }

    fn snapshot_if_due(&self, state: &mut State) -> Result<(), ActorError> {
        let commit = state.machine.last_commit().index;
        if commit < state.snapshots.last_index() + SNAPSHOT_EVERY {
            return Ok(());
        }
        let record = state.snapshots.take(&state.machine, commit);
        Self::keep(state, record)
    }

    fn report(&self, state: &mut State) {
        state.reported = Instant::now();
        let status = state.machine.status();
        #[allow(clippy::cast_precision_loss)]
        {
            metrics::gauge!("consensus_round").set(f64::from(status.round));
            metrics::gauge!("consensus_own_round").set(f64::from(status.own_round));
            metrics::gauge!("consensus_commit_index").set(status.last_commit.index as f64);
            metrics::gauge!("consensus_suspended_blocks").set(status.suspended as f64);
            metrics::gauge!("consensus_wanted_blocks").set(status.wanted as f64);
            metrics::gauge!("consensus_deferred_blocks").set(status.deferred as f64);
            metrics::gauge!("consensus_undecided_slots").set(status.undecided as f64);
            metrics::gauge!("consensus_pending_batches").set(status.pending_batches as f64);
            metrics::gauge!("consensus_pending_evidence").set(status.pending_evidence as f64);
            metrics::gauge!("consensus_shunned_validators").set(status.shunned.len() as f64);
            let floor = status.signing.floor.map_or(f64::INFINITY, f64::from);
            metrics::gauge!("consensus_signing_floor").set(floor);
            metrics::gauge!("consensus_log_doubtful").set(if status.signing.doubt.is_some() { 1.0 } else { 0.0 });
            metrics::gauge!("consensus_schedule_updates").set(status.schedule.updates as f64);
            for peer in &status.peers {
                let out = status.schedule.bad.contains(&peer.author);
                let name = state.members.name(peer.author).to_owned();
                metrics::gauge!("consensus_leader_out", "validator" => name).set(if out { 1.0 } else { 0.0 });
            }
            metrics::gauge!("consensus_active").set(if status.mode == Mode::Active { 1.0 } else { 0.0 });
        }
        attestation::report(&status);
        self.node.consensus_status.send_replace(Some(status));
    }
}

/// The journal's form of a machine's record.
fn journal_record(record: &LogRecord) -> Record {
    let body = Bytes::from(record.encode());
    match record {
        LogRecord::Block(bytes) | LogRecord::CertifiedBlock(bytes) => {
            Record::new(RecordKind::Block, block_digest(bytes), body)
        }
        LogRecord::OwnBlock(bytes) => Record::new(RecordKind::OwnBlock, block_digest(bytes), body),
        LogRecord::Commit(commit) => Record::indexed(RecordKind::Commit, commit.header.index, body),
        LogRecord::Floor { round } => Record::indexed(RecordKind::Floor, u64::from(*round), body),
        LogRecord::Mode { .. } => Record::indexed(RecordKind::Mode, 0, body),
        LogRecord::EpochCert(cert) => Record::indexed(RecordKind::EpochCert, cert.epoch, body),
        LogRecord::EpochStart(start) => Record::indexed(RecordKind::EpochStart, start.epoch, body),
        LogRecord::Evidence(evidence) => Record::new(RecordKind::Evidence, evidence.digest(), body),
        LogRecord::Verdict { proof, .. } => Record::new(RecordKind::Evidence, *proof, body),
        LogRecord::Statement(signed) => Record::new(RecordKind::Evidence, signed.core.digest(), body),
        LogRecord::Snapshot(snapshot) => {
            let index = snapshot.last_commit.as_ref().map_or(0, |header| header.index);
            Record::indexed(RecordKind::ConsensusSnapshot, index, body)
        }
    }
}

/// The digest of an encoded block, by which it is found in the log.
fn block_digest(bytes: &[u8]) -> Hash {
    aurigraph_consensus::Block::decode(bytes).map_or(Hash::ZERO, |block| block.reference().digest)
}

/// Takes the batch store's reports to the validator.
pub struct ValidatorMailbox(pub Address<ValidatorMsg>);

impl ValidatorPort for ValidatorMailbox {
    fn batch_sealed(&self, batch: BatchRef) -> bool {
        self.0.send(ValidatorMsg::BatchSealed(batch)).is_ok()
    }

    fn batch_stored(&self, digest: Hash, len: u32) -> bool {
        self.0.send(ValidatorMsg::BatchStored { digest, len }).is_ok()
    }

    fn batch_fetch_failed(&self, digest: Hash) -> bool {
        self.0.send(ValidatorMsg::BatchFetchFailed(digest)).is_ok()
    }
}

/// Clocks of the process for the machine.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    origin: Instant,
}

impl Clocks {
    /// Starts the monotonic clock.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// What both clocks say.
    #[must_use]
    pub fn now(&self) -> Now {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // A wall clock before 1970 is a broken clock; zero is as good as any other wrong time.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: millis(self.origin.elapsed()), wall_ms: millis(wall) }
    }
}
