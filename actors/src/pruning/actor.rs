//! The pruner: looks now and then what of the log may go, and has it removed.
//!
//! It holds nothing but what it has learned of the log, and reads that again after a restart.

use std::sync::Arc;
use std::time::Instant;

use aurigraph_ledger::Hash;
use aurigraph_runtime::{ActorError, Address, Behaviour, Context};

use super::horizon::{Horizon, Known, outlives};
use crate::bounds::pruning as bounds;
use crate::context::NodeContext;
use crate::mempool::BatchStoreMsg;
use crate::settings::Retention;
use crate::storage::{Journal, JournalMsg, barrier};

/// What the pruner is told, by itself only.
#[derive(Debug)]
pub enum PrunerMsg {
    /// See what may go.
    Look,
}

/// Prunes the log; one per node.
pub struct Pruner {
    node: Arc<NodeContext>,
    journal: Journal,
}

impl Pruner {
    /// The actor of this node and its log.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>, journal: Journal) -> Self {
        Self { node, journal }
    }
}

/// What one incarnation holds.
pub struct State {
    known: Known,
    journal: Address<JournalMsg>,
    batches: Address<BatchStoreMsg>,
    /// Why nothing could be pruned when it was looked last: told when it changes.
    held: Option<String>,
}

impl Behaviour for Pruner {
    type Msg = PrunerMsg;
    type State = State;

    async fn start(&self, ctx: &Context<PrunerMsg>) -> Result<State, ActorError> {
        drop(ctx.send_after(bounds::LOOK_EVERY, PrunerMsg::Look));
        let (journal, batches) = (ctx.registry.role("journal"), ctx.registry.role("batch-store"));
        Ok(State { known: Known::default(), journal, batches, held: None })
    }

    async fn handle(&self, ctx: &Context<PrunerMsg>, _: PrunerMsg, state: &mut State) -> Result<(), ActorError> {
        let more = match self.node.settings.retention {
            Some(retention) => match self.prune(state, retention).await {
                Ok(more) => more,
                Err(error) => {
                    // The log stays as it is, and it is tried again; what is full for it is the disk's own alarm.
                    metrics::counter!("journal_pruning_failures_total").increment(1);
                    tracing::warn!(alert = "journal_pruning", %error, "the log could not be pruned");
                    false
                }
            },
            None => false,
        };
        self.measure();
        drop(ctx.send_after(if more { bounds::LOOK_AGAIN } else { bounds::LOOK_EVERY }, PrunerMsg::Look));
        Ok(())
    }
}

impl Pruner {
    /// Prunes what may go, some segments at the most; true if there is more.
    async fn prune(&self, state: &mut State, retention: Retention) -> Result<bool, ActorError> {
        let Some(horizon) = self.horizon(state, retention).await? else { return Ok(false) };
        let first = self.node.journal.first_segment();
        let free = horizon.segment.saturating_sub(first);
        metrics::gauge!("journal_prunable_segments").set(f64::from(free));
        if free == 0 {
            return Ok(false);
        }
        let before = first + free.min(bounds::SEGMENTS_AT_ONCE);
        // What makes the old records superfluous has to be on the disk before they go.
        barrier(&state.journal, bounds::ANSWER).await?;
        let (journal, reader, began) = (self.journal.clone(), self.node.journal.clone(), Instant::now());
        let pruning = tokio::task::spawn_blocking(move || -> Result<_, ActorError> {
            Ok(journal.prune(before, &outlives(&reader)?)?)
        });
        let pruned = pruning.await.map_err(|error| format!("the pruning thread ended: {error}"))??;
        metrics::counter!("journal_pruned_segments_total").increment(pruned.segments.into());
        metrics::counter!("journal_pruned_bytes_total").increment(pruned.bytes);
        metrics::histogram!("journal_prune_seconds").record(began.elapsed().as_secs_f64());
        tracing::info!(
            segments = pruned.segments,
            mib = pruned.bytes >> 20,
            kept_records = pruned.kept,
            first_segment = before,
            oldest_commit = self.node.journal.oldest_commit(),
            held_by = horizon.held_by,
            "the log is pruned"
        );
        Ok(free > pruned.segments)
    }

    async fn horizon(&self, state: &mut State, retention: Retention) -> Result<Option<Horizon>, ActorError> {
        let undelivered = |reply| BatchStoreMsg::Undelivered { reply };
        let own = state.batches.call(bounds::ANSWER, undelivered).await?;
        let own: Vec<Hash> = own.into_iter().map(|batch| batch.digest).collect();
        let (node, mut known) = (Arc::clone(&self.node), std::mem::take(&mut state.known));
        let reading = tokio::task::spawn_blocking(move || {
            let horizon = known.horizon(&node, retention, &own);
            (known, horizon)
        });
        let (known, horizon) = reading.await.map_err(|error| format!("the reading thread ended: {error}"))?;
        state.known = known;
        match horizon? {
            Ok(horizon) => {
                state.held = None;
                Ok(Some(horizon))
            }
            Err(why) => {
                if state.held.as_deref() != Some(why) {
                    tracing::info!(why, "nothing of the log can be pruned yet");
                    state.held = Some(why.to_owned());
                }
                Ok(None)
            }
        }
    }

    fn measure(&self) {
        let journal = &self.node.journal;
        let (first, last) = (journal.first_segment(), journal.end().segment);
        metrics::gauge!("journal_segments").set(f64::from(last + 1 - first));
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("journal_oldest_commit").set(journal.oldest_commit() as f64);
    }
}
