//! Persist: writes what a commit came to: a mark in the journal, the block in the store, now and then a checkpoint.
//!
//! None of it holds up a commit for a sync: the batches and blocks that the mark follows from are synced before a
//! validator's own block leaves the process, and everything written here can be executed again from them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_ledger::{Checkpoint, ExclusionReason, ExecutedBlock, Hash};
use aurigraph_runtime::{ActorError, Address, Behaviour, Context, Reply};
use bytes::Bytes;

use super::deliver;
use super::mark::Mark;
use super::messages::{ExecuteMsg, ExecutedCommit, PersistMsg, PublishMsg};
use crate::bounds::pipeline as bounds;
use crate::bounds::storage::INDEX_DEADLINE;
use crate::context::NodeContext;
use crate::parties;
use crate::storage::{JournalMsg, Record, RecordKind, StoreMsg, StoredBlock, StoredTransaction};

/// The actor that persists executed commits.
pub struct Persist {
    node: Arc<NodeContext>,
}

impl Persist {
    /// A persist stage of this node.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>) -> Self {
        Self { node }
    }
}

/// What lives as long as one incarnation.
pub struct State {
    journal: Address<JournalMsg>,
    store: Address<StoreMsg>,
    publish: Address<PublishMsg>,
    execute: Address<ExecuteMsg>,
    /// The newest checkpoint of the ledger that was executed.
    checkpoint: Option<(u64, Hash)>,
    /// The store incarnation that holds our index writes; with another, some of them may be gone.
    store_generation: Option<u64>,
    /// When the state was last written to the store.
    written: Instant,
    /// Blocks since then.
    unwritten: u64,
    /// Whether a checkpoint is being written.
    writing: bool,
}

impl Behaviour for Persist {
    type Msg = PersistMsg;
    type State = State;

    async fn start(&self, ctx: &Context<PersistMsg>) -> Result<State, ActorError> {
        Ok(State {
            journal: ctx.registry.role("journal"),
            store: ctx.registry.role("store"),
            publish: ctx.registry.role("publish"),
            execute: ctx.registry.role("execute"),
            checkpoint: None,
            store_generation: None,
            written: Instant::now(),
            unwritten: 0,
            writing: false,
        })
    }

    async fn handle(
        &self,
        ctx: &Context<PersistMsg>,
        message: PersistMsg,
        state: &mut State,
    ) -> Result<(), ActorError> {
        match message {
            PersistMsg::Loaded(loaded) => {
                let checkpoint = loaded.view.checkpoint();
                state.checkpoint = Some((checkpoint.seq, checkpoint.digest()));
                deliver(&state.publish, PublishMsg::Loaded(loaded)).await
            }
            PersistMsg::Executed(executed) => {
                if executed.stream < state.execute.generation() {
                    return Ok(());
                }
                self.persist(ctx, state, executed).await
            }
            PersistMsg::Checkpointed(outcome) => {
                state.writing = false;
                match outcome {
                    Ok(height) => tracing::debug!(height, "the state is in the store"),
                    // The journal covers the gap; the next checkpoint tries again.
                    Err(error) => tracing::warn!(%error, "a checkpoint could not be written"),
                }
                Ok(())
            }
        }
    }
}

impl Persist {
    async fn persist(
        &self,
        ctx: &Context<PersistMsg>,
        state: &mut State,
        mut executed: Box<ExecutedCommit>,
    ) -> Result<(), ActorError> {
        if let Some(checkpoint) = &executed.outcome.checkpoint {
            state.checkpoint = Some((checkpoint.seq, checkpoint.digest()));
            self.keep_checkpoint(state, checkpoint).await?;
        }
        self.keep_next_set(state, &executed).await?;
        let mark = mark(&executed, state.checkpoint);
        match &executed.mark {
            Some(before) if before.block != mark.block => return Err(self.diverged(before, &mark)),
            Some(_) => {}
            None => {
                let record = Record::indexed(RecordKind::Mark, mark.commit_index, Bytes::from(mark.encode()));
                deliver(&state.journal, JournalMsg::Append { records: vec![record], sync: false, reply: None }).await?;
            }
        }
        if let Some(block) = &executed.outcome.block {
            let header = block.header;
            let (reply, indexed) = Reply::channel();
            let block = Box::new(stored(block, executed.commit_index));
            deliver(&state.store, StoreMsg::WriteBlock { block, reply: Some(reply) }).await?;
            Self::same_store(state)?;
            // Published only once readers find it: a client that was told of its commit asks for it next.
            let answer = tokio::time::timeout(INDEX_DEADLINE, indexed).await;
            let answer = answer.map_err(|_| format!("the store has not indexed a block within {INDEX_DEADLINE:?}"))?;
            answer.map_err(|_| "the store ended before it had indexed a block")??;
            if executed.mark.is_none() {
                executed.finalized_after_ms = self.node.now().wall_ms.checked_sub(header.timestamp_ms);
            }
            if let Some(finalized_after_ms) = executed.finalized_after_ms {
                // A store that has no room for it does without.
                let _ = state.store.send(StoreMsg::Finality { height: header.height, finalized_after_ms });
            }
            self.checkpoint_if_due(ctx, state, &executed);
        }
        deliver(&state.publish, PublishMsg::Persisted(executed)).await
    }

    /// The header of a checkpoint goes into the log once: proofs are made of it, and a replay brings it again.
    async fn keep_checkpoint(&self, state: &State, checkpoint: &Checkpoint) -> Result<(), ActorError> {
        if self.node.journal.contains(RecordKind::Checkpoint, &Record::index_key(checkpoint.seq)) {
            return Ok(());
        }
        let record = Record::indexed(RecordKind::Checkpoint, checkpoint.seq, Bytes::from(checkpoint.encode()));
        deliver(&state.journal, JournalMsg::Append { records: vec![record], sync: false, reply: None }).await
    }

    /// The last commit of an epoch gives the validators of the next. In the log before the mark, so that a validator which is
    /// told of the commit finds them.
    async fn keep_next_set(&self, state: &State, executed: &ExecutedCommit) -> Result<(), ActorError> {
        let ends = executed.outcome.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.next_set_root.is_some());
        let Some(set) = executed.view.as_ref().filter(|_| ends).and_then(aurigraph_ledger::StateView::next_set) else {
            return Ok(());
        };
        if self.node.journal.contains(RecordKind::ValidatorSet, &Record::index_key(set.epoch)) {
            return Ok(());
        }
        let record = Record::indexed(RecordKind::ValidatorSet, set.epoch, Bytes::from(set.encode()));
        deliver(&state.journal, JournalMsg::Append { records: vec![record], sync: false, reply: None }).await
    }

    /// Fails when the store was restarted: blocks that waited in its mailbox are gone, and a new stream from the newest
    /// checkpoint writes them again.
    fn same_store(state: &mut State) -> Result<(), ActorError> {
        let now = state.store.generation();
        match state.store_generation.replace(now) {
            Some(before) if before != now => {
                Err("the store was restarted; what it held of ours is written again".into())
            }
            _ => Ok(()),
        }
    }

    fn checkpoint_if_due(&self, ctx: &Context<PersistMsg>, state: &mut State, executed: &ExecutedCommit) {
        state.unwritten += 1;
        let due = is_due(state.written.elapsed(), self.node.settings.checkpoint_every, state.unwritten);
        if state.writing || !due {
            return;
        }
        // Only a state whose root was computed can be checked when it is loaded.
        let Some(view) = executed.view.clone().filter(aurigraph_ledger::StateView::is_checkpoint) else {
            return;
        };
        let behind = is_behind(self.node.now().wall_ms, view.header().timestamp_ms);
        let asked = state.store.ask(|reply| StoreMsg::Checkpoint {
            view,
            commit_index: executed.commit_index,
            behind,
            consensus: Bytes::new(),
            reply: Some(reply),
        });
        let Ok(answer) = asked else { return };
        state.writing = true;
        state.written = Instant::now();
        state.unwritten = 0;
        let mouth = ctx.mouth();
        tokio::spawn(async move {
            let outcome = match answer.await {
                Ok(Ok(done)) => Ok(done.height),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the store ended before it answered".to_owned()),
            };
            mouth.send(PersistMsg::Checkpointed(outcome));
        });
    }

    fn diverged(&self, before: &Mark, now: &Mark) -> ActorError {
        let reason = format!(
            "commit {} came to {:?} before and to {:?} now: this node's execution is not deterministic",
            now.commit_index, before.block, now.block
        );
        self.node.fatal.raise(reason.clone());
        reason.into()
    }
}

/// Whether the state is to be written to the store. Time alone would let a process that never lives that long replay an
/// ever longer log at each start: each life writes what it has replayed.
fn is_due(elapsed: Duration, every: Duration, blocks: u64) -> bool {
    elapsed >= every || blocks >= bounds::BLOCKS_BETWEEN_CHECKPOINTS
}

/// Whether the newest block, of `block_ms`, was made so long ago that the node has others to make up for first.
fn is_behind(now_ms: u64, block_ms: u64) -> bool {
    Duration::from_millis(now_ms.saturating_sub(block_ms)) > bounds::BEHIND
}

fn mark(executed: &ExecutedCommit, checkpoint: Option<(u64, Hash)>) -> Mark {
    let block = executed.outcome.block.as_ref();
    let invalid = block.map_or_else(Vec::new, |block| {
        let invalid = |exclusion: &&aurigraph_ledger::Exclusion| exclusion.reason == ExclusionReason::InvalidSignature;
        block.exclusions.iter().filter(invalid).map(|exclusion| exclusion.id).collect()
    });
    Mark {
        commit_index: executed.commit_index,
        block: block.map(|block| (block.header.height, block.hash)),
        checkpoint,
        invalid,
    }
}

fn stored(block: &ExecutedBlock, commit_index: u64) -> StoredBlock {
    let mut batches: Vec<Hash> = Vec::new();
    let mut transactions = Vec::with_capacity(block.transactions.len());
    for executed in &block.transactions {
        // Transactions of one batch stand together.
        if batches.last() != Some(&executed.batch) {
            batches.push(executed.batch);
        }
        transactions.push(StoredTransaction {
            id: executed.receipt.id,
            batch: u16::try_from(batches.len() - 1).unwrap_or(u16::MAX),
            position: executed.position,
            receipt: Bytes::from(executed.receipt.encode()),
            parties: parties::of(&executed.transaction),
        });
    }
    StoredBlock {
        height: block.header.height,
        hash: block.hash,
        commit_index,
        header: Bytes::from(block.header.encode()),
        batches,
        transactions,
        bytes: block.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_too_short_for_the_interval_still_writes_what_it_replays() {
        let every = Duration::from_secs(30);
        assert!(!is_due(Duration::from_secs(2), every, bounds::BLOCKS_BETWEEN_CHECKPOINTS - 1));
        assert!(is_due(Duration::from_secs(2), every, bounds::BLOCKS_BETWEEN_CHECKPOINTS));
        assert!(is_due(every, every, 1));
    }

    #[test]
    fn a_node_is_behind_while_its_newest_block_is_old_but_not_because_its_clock_is_slow() {
        let block_ms = 1_700_000_000_000;
        let limit_ms = 10_000;
        assert!(!is_behind(block_ms + limit_ms, block_ms));
        assert!(is_behind(block_ms + limit_ms + 1, block_ms));
        assert!(!is_behind(block_ms - 60_000, block_ms));
    }
}
