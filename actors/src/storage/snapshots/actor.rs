//! The snapshots actor: writes one now and then in the background, of the published state that readers share.
//!
//! Execution never waits for it: a view of a checkpoint is immutable, and is written by a thread of the blocking pool.
//! A state is written once its checkpoint is certified, which is a few rounds after it was executed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::anchor::digest_of;
use aurigraph_consensus::{Certificate, EpochHop, OrderState, Record as LogRecord};
use aurigraph_ledger::{Checkpoint, StateView};
use aurigraph_runtime::{ActorError, Behaviour, Context};

use super::files::{self, Found, OrderPart};
use crate::bounds::snapshots as bounds;
use crate::consensus::logged_block;
use crate::context::NodeContext;
use crate::storage::{Record, RecordKind};

/// What the snapshots actor is told, by itself only.
#[derive(Debug)]
pub enum SnapshotsMsg {
    /// See whether one is due.
    Look,
    /// What became of the state that waits.
    Tried(Outcome),
}

/// What became of a state that is to be written.
#[derive(Debug)]
pub enum Outcome {
    /// Its checkpoint has no certificate yet.
    Uncertified,
    /// What ordering goes on from has left memory meanwhile, or the epoch has none yet.
    Unordered,
    /// It is written.
    Written(Found),
    /// It could not be written.
    Failed(String),
}

/// Writes snapshots; one per node.
pub struct Snapshots {
    node: Arc<NodeContext>,
}

impl Snapshots {
    /// The actor of this node.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>) -> Self {
        Self { node }
    }
}

/// What one incarnation holds.
pub struct State {
    /// Height of the newest snapshot on disk.
    newest: u64,
    /// A state that waits for its certificate, and since when.
    waiting: Option<(StateView, Instant)>,
    writing: bool,
    /// The state that was due was not written: any newer one is.
    missed: bool,
    /// Somebody wants one at once.
    wanted: bool,
}

impl Behaviour for Snapshots {
    type Msg = SnapshotsMsg;
    type State = State;

    async fn start(&self, ctx: &Context<SnapshotsMsg>) -> Result<State, ActorError> {
        let directory = self.node.settings.data_dir.clone();
        let found = tokio::task::spawn_blocking(move || files::clean(&directory, bounds::KEPT))
            .await
            .map_err(|error| format!("the cleaning thread ended: {error}"))??;
        drop(ctx.send_after(bounds::LOOK_EVERY, SnapshotsMsg::Look));
        let newest = found.first().map_or(0, |found| found.height);
        // An earlier incarnation may have had one in its hands.
        Ok(State { newest, waiting: None, writing: false, missed: true, wanted: false })
    }

    async fn handle(
        &self,
        ctx: &Context<SnapshotsMsg>,
        message: SnapshotsMsg,
        state: &mut State,
    ) -> Result<(), ActorError> {
        match message {
            SnapshotsMsg::Look => {
                drop(ctx.send_after(bounds::LOOK_EVERY, SnapshotsMsg::Look));
                self.look(ctx, state).await;
            }
            SnapshotsMsg::Tried(outcome) => {
                state.writing = false;
                self.tried(state, outcome).await;
            }
        }
        Ok(())
    }
}

impl Snapshots {
    async fn look(&self, ctx: &Context<SnapshotsMsg>, state: &mut State) {
        if state.writing || self.node.divergence.lock().is_some() {
            return;
        }
        let directory = self.node.settings.data_dir.clone();
        state.wanted |= tokio::task::spawn_blocking(move || files::is_wanted(&directory)).await.unwrap_or(false);
        if let Some((_, since)) = &state.waiting
            && since.elapsed() > bounds::CERTIFIED_WITHIN
        {
            (state.waiting, state.missed) = (None, true);
        }
        if state.waiting.is_none() {
            state.waiting = self.next(state).map(|view| (view, Instant::now()));
        }
        let Some((view, _)) = &state.waiting else {
            if state.wanted && self.proving().is_some_and(|view| view.height() == state.newest) {
                self.give(state).await;
            }
            return;
        };
        let (view, node, mouth) = (view.clone(), Arc::clone(&self.node), ctx.mouth());
        state.writing = true;
        tokio::spawn(async move {
            let tried = tokio::task::spawn_blocking(move || attempt(&node, &view)).await;
            let outcome = match tried {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => Outcome::Failed(error.to_string()),
                Err(error) => Outcome::Failed(format!("the writing thread ended: {error}")),
            };
            mouth.send(SnapshotsMsg::Tried(outcome));
        });
    }

    /// The newest state that a checkpoint names.
    fn proving(&self) -> Option<StateView> {
        self.node.published.borrow().as_ref().and_then(|published| published.proving.clone())
    }

    /// The state to be written next: the one that all nodes write, or the newest if that was missed or one is wanted now.
    fn next(&self, state: &State) -> Option<StateView> {
        let is_newer = |view: &StateView| view.height() > state.newest;
        if state.wanted {
            return self.proving().filter(is_newer);
        }
        let every = self.node.settings.snapshot_every_blocks;
        let due = self.node.due_snapshot.lock().take().filter(is_newer);
        let late = |view: &StateView| view.height().checked_div(every) > state.newest.checked_div(every);
        due.or_else(|| self.proving().filter(|_| state.missed).filter(late))
    }

    async fn tried(&self, state: &mut State, outcome: Outcome) {
        match outcome {
            Outcome::Uncertified => return,
            Outcome::Unordered => state.missed = true,
            Outcome::Written(found) => {
                state.newest = state.newest.max(found.height);
                state.missed = false;
                #[allow(clippy::cast_precision_loss)]
                metrics::gauge!("snapshot_height").set(found.height as f64);
                metrics::counter!("snapshots_written_total").increment(1);
                tracing::info!(height = found.height, path = %found.path.display(), "a snapshot is written");
                self.give(state).await;
            }
            // The next look tries a newer state.
            Outcome::Failed(error) => {
                state.missed = true;
                tracing::warn!(%error, "a snapshot could not be written");
            }
        }
        state.waiting = None;
    }

    /// Whoever wanted a snapshot has it.
    async fn give(&self, state: &mut State) {
        if std::mem::take(&mut state.wanted) {
            let directory = self.node.settings.data_dir.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || files::unwant(&directory)).await {
                tracing::warn!(%error, "it cannot be said that the snapshot is written");
            }
        }
    }
}

/// Writes a state, if its certificate and its order are there. Blocking.
fn attempt(node: &NodeContext, view: &StateView) -> Result<Outcome, ActorError> {
    let Some((certificate, followers)) = certificate(node, view.checkpoint())? else {
        return Ok(Outcome::Uncertified);
    };
    let Some(order) = order(node, view.checkpoint())? else { return Ok(Outcome::Unordered) };
    let (began, directory) = (Instant::now(), &node.settings.data_dir);
    let (found, _) = files::write(directory, view, &certificate, &followers, &order)?;
    files::clean(directory, bounds::KEPT)?;
    metrics::histogram!("snapshot_write_seconds").record(began.elapsed().as_secs_f64());
    Ok(Outcome::Written(found))
}

/// What ordering goes on from: the state that a checkpoint names, with its blocks and the way to its validators.
fn order(node: &NodeContext, checkpoint: &Checkpoint) -> Result<Option<OrderPart>, ActorError> {
    let newest = |states: &BTreeMap<u64, Arc<[u8]>>| {
        states.range(..=checkpoint.commit_index).next_back().map(|(_, bytes)| Arc::clone(bytes))
    };
    let bytes = newest(&node.anchors.lock());
    let Some(bytes) = bytes.filter(|bytes| digest_of(bytes) == checkpoint.consensus_state_digest) else {
        return Ok(None);
    };
    let state = OrderState::decode(&bytes).map_err(|error| format!("an own state does not decode: {error}"))?;
    let mut blocks = Vec::with_capacity(state.committed.len());
    for block in &state.committed {
        let Some(logged) = logged_block(&node.journal, block)? else { return Ok(None) };
        blocks.push(logged.bytes.into());
    }
    let Some(hops) = hops(node, checkpoint.epoch)? else { return Ok(None) };
    Ok(Some(OrderPart { state: bytes, blocks, hops }))
}

/// From the genesis' validators to those of an epoch, if the log has the way.
fn hops(node: &NodeContext, epoch: u64) -> Result<Option<Vec<EpochHop>>, ActorError> {
    let get = |kind, index| node.journal.get(kind, &Record::index_key(index));
    let mut hops = Vec::new();
    for ended in 0..epoch {
        let Some(body) = get(RecordKind::EpochCert, ended)? else { return Ok(None) };
        let LogRecord::EpochCert(cert) = LogRecord::decode(&body)? else { return Ok(None) };
        let checkpoint = get(RecordKind::Checkpoint, cert.checkpoint.seq)?;
        let (Some(checkpoint), Some(set)) = (checkpoint, get(RecordKind::ValidatorSet, ended + 1)?) else {
            return Ok(None);
        };
        let (checkpoint, validators) = (checkpoint.to_vec(), set.to_vec());
        hops.push(EpochHop { certificate: cert.encode(), checkpoint, validators });
    }
    Ok(Some(hops))
}

/// The certificate of a checkpoint with the checkpoints up to the newest that it attests, if the log has them.
fn certificate(
    node: &NodeContext,
    checkpoint: &Checkpoint,
) -> Result<Option<(Certificate, Vec<Checkpoint>)>, ActorError> {
    let journal = &node.journal;
    let Some(body) = journal.get(RecordKind::Certificate, &Record::index_key(checkpoint.seq))? else {
        return Ok(None);
    };
    let certificate = Certificate::decode(&body).map_err(|error| format!("a certificate does not decode: {error}"))?;
    let last = certificate.newest_attested().min(checkpoint.seq + bounds::FOLLOWERS as u64);
    let mut followers = Vec::new();
    for seq in checkpoint.seq + 1..=last {
        let Some(body) = journal.get(RecordKind::Checkpoint, &Record::index_key(seq))? else { return Ok(None) };
        followers.push(Checkpoint::decode(&body).map_err(|error| format!("a checkpoint does not decode: {error}"))?);
    }
    Ok(Some((certificate, followers)))
}
