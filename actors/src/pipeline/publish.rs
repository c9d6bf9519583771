//! Publish: hands the new state to readers, tells waiting clients, and reports progress to the stages before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::CkptRef;
use aurigraph_ledger::staking::{self, FaultEvent};
use aurigraph_ledger::types::format_aur;
use aurigraph_ledger::{EventKind, ExecutedBlock, ModuleId, StateView};
use aurigraph_runtime::{ActorError, Address, Behaviour, Context};

use super::messages::{ExecuteMsg, ExecutedCommit, OrderMsg, PublishMsg};
use crate::audit::{AuditLevel, AuditMsg, AuditRecord, AuditStatus};
use crate::consensus::ValidatorMsg;
use crate::context::NodeContext;
use crate::events::{BlockEvent, EventHubMsg, ValidatorEvent};
use crate::mempool::{AdmissionMsg, BatchStoreMsg, ChainView};
use crate::published::{BlockSummary, Published, RECENT_BLOCKS, Totals};
use crate::query::fault_name;

/// The actor that publishes executed state.
pub struct Publish {
    node: Arc<NodeContext>,
    started: Instant,
}

impl Publish {
    /// A publish stage of this node; `started` is when the process started.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>, started: Instant) -> Self {
        Self { node, started }
    }
}

/// What lives as long as one incarnation.
pub struct State {
    order: Address<OrderMsg>,
    execute: Address<ExecuteMsg>,
    validator: Address<ValidatorMsg>,
    admission: Address<AdmissionMsg>,
    batches: Address<BatchStoreMsg>,
    hub: Address<EventHubMsg>,
    audit: Address<AuditMsg>,
    /// The newest block and the state after it; none before the stream's first state.
    newest: Option<(Arc<BlockSummary>, StateView)>,
    proving: Option<StateView>,
    recent: VecDeque<Arc<BlockSummary>>,
}

impl Behaviour for Publish {
    type Msg = PublishMsg;
    type State = State;

    async fn start(&self, ctx: &Context<PublishMsg>) -> Result<State, ActorError> {
        Ok(State {
            order: ctx.registry.role("order"),
            execute: ctx.registry.role("execute"),
            validator: ctx.registry.role("validator"),
            admission: ctx.registry.role("admission"),
            batches: ctx.registry.role("batch-store"),
            hub: ctx.registry.role("event-hub"),
            audit: ctx.registry.role("audit"),
            newest: None,
            proving: None,
            recent: VecDeque::new(),
        })
    }

    async fn handle(
        &self,
        _ctx: &Context<PublishMsg>,
        message: PublishMsg,
        state: &mut State,
    ) -> Result<(), ActorError> {
        match message {
            PublishMsg::Loaded(loaded) => {
                if loaded.stream >= state.execute.generation() {
                    self.loaded(state, loaded.view, loaded.commit_index);
                }
            }
            PublishMsg::Persisted(executed) => {
                if executed.stream >= state.execute.generation() {
                    self.persisted(state, *executed);
                }
            }
        }
        Ok(())
    }
}

/// Whether a checkpoint is the first beyond a multiple of so many blocks: of these nodes write snapshots, so that all have
/// the same ones.
fn is_due(before: Option<&StateView>, view: &StateView, every: u64) -> bool {
    let number = |view: &StateView| view.height().checked_div(every);
    before.is_some_and(|before| number(before) < number(view))
}

impl Publish {
    /// A stream begins: what is published stays if it is newer, because a replay only catches up with it.
    fn loaded(&self, state: &mut State, view: StateView, commit_index: u64) {
        let summary = Arc::new(BlockSummary {
            header: *view.header(),
            hash: view.header_hash(),
            bytes: 0,
            published_at_ms: view.header().timestamp_ms,
            finalized_after_ms: None,
        });
        state.proving = Some(view.clone()).filter(StateView::is_checkpoint);
        state.recent.push_back(Arc::clone(&summary));
        state.newest = Some((summary, view));
        self.offer(state, commit_index, true);
        // A restored state may be far ahead of the log, whose marks are all that the validator knows.
        let _ = state.validator.send(ValidatorMsg::Executed { commit_index, checkpoint: None });
    }

    fn persisted(&self, state: &mut State, executed: ExecutedCommit) {
        let commit_index = executed.commit_index;
        let block = executed.outcome.block.as_ref();
        if let (Some(block), Some(view)) = (block, executed.view) {
            let summary = Arc::new(self.summary(block, executed.finalized_after_ms));
            if view.is_checkpoint() {
                if is_due(state.proving.as_ref(), &view, self.node.settings.snapshot_every_blocks) {
                    *self.node.due_snapshot.lock() = Some(view.clone());
                }
                state.proving = Some(view.clone());
            }
            state.recent.push_back(Arc::clone(&summary));
            if state.recent.len() > RECENT_BLOCKS {
                state.recent.pop_front();
            }
            state.newest = Some((summary, view));
        }
        // A block that was published before the executor restarted is neither counted nor told again.
        let new = block.filter(|block| self.is_new(block));
        if let Some(block) = new {
            add(&mut self.node.totals.lock(), block);
        }
        self.offer(state, commit_index, block.is_some());
        if let Some(block) = new {
            self.tell(state, block);
        }
        let checkpoint = state.newest.as_ref().map(|(_, view)| view.checkpoint());
        let checkpoint = checkpoint.map(|checkpoint| CkptRef { seq: checkpoint.seq, digest: checkpoint.digest() });
        // A validator that is restarting asks the journal how far execution is.
        let _ = state.validator.send(ValidatorMsg::Executed { commit_index, checkpoint });
        // An order stage that is restarting ends this stream with it.
        let _ = state.order.send(OrderMsg::Done { stream: executed.stream, index: commit_index });
    }

    /// Hands the newest state to the readers, unless they have a newer one already.
    fn offer(&self, state: &State, commit_index: u64, changed: bool) {
        let Some((newest, view)) = &state.newest else { return };
        let before = self.node.published.borrow().clone();
        if before.as_ref().is_some_and(|before| before.executed_commit >= commit_index) {
            return;
        }
        let published = Arc::new(Published {
            newest: Arc::clone(newest),
            view: view.clone(),
            proving: state.proving.clone(),
            certified: self.node.consensus_status.borrow().as_ref().and_then(|status| status.certified),
            executed_commit: commit_index,
            recent: match &before {
                Some(before) if !changed => Arc::clone(&before.recent),
                _ => Arc::new(state.recent.clone()),
            },
            totals: *self.node.totals.lock(),
            uptime: self.started.elapsed(),
        });
        self.node.published.send_replace(Some(Arc::clone(&published)));
        if changed || before.is_none() {
            let view: Arc<dyn ChainView> = published;
            // Both answer from the state before until the next block if they have no room now.
            let _ = state.admission.send(AdmissionMsg::Published(Arc::clone(&view)));
            let _ = state.batches.send(BatchStoreMsg::Published(view));
        }
    }

    fn summary(&self, block: &ExecutedBlock, finalized_after_ms: Option<u64>) -> BlockSummary {
        BlockSummary {
            header: block.header,
            hash: block.hash,
            bytes: block.bytes,
            published_at_ms: self.node.now().wall_ms,
            finalized_after_ms,
        }
    }

    fn is_new(&self, block: &ExecutedBlock) -> bool {
        let seen = self.node.published.borrow().as_ref().map_or(0, |published| published.height());
        block.header.height > seen
    }

    /// Tells those who listen, after the state is there for those who read.
    fn tell(&self, state: &State, block: &ExecutedBlock) {
        let members = self.node.members_of(block.header.epoch);
        let leader = members.as_ref().map_or("", |members| members.name(block.header.leader));
        // A hub that is restarting or full misses this block; clients see the gap.
        let _ = state.hub.send(EventHubMsg::Block(Arc::new(BlockEvent::of(block, leader))));
        self.tell_faults(state, block);
        metrics::counter!("blockchain_blocks_created_total").increment(1);
        metrics::counter!("blockchain_transactions_total").increment(u64::from(block.header.transactions));
        metrics::counter!("blockchain_operations_total").increment(block.header.operations);
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("blockchain_height").set(block.header.height as f64);
        if let Some(after) = self.node.now().wall_ms.checked_sub(block.header.timestamp_ms) {
            #[allow(clippy::cast_precision_loss)]
            metrics::histogram!("blockchain_finality_ms").record(after as f64);
        }
    }

    /// Faults that counted: metric, audit log, event.
    fn tell_faults(&self, state: &State, block: &ExecutedBlock) {
        let names = self.node.published.borrow().clone();
        let name_of = |id: u32| {
            let row = names.as_ref().and_then(|published| published.view.staking()?.validator(id));
            row.map(|row| row.name.clone()).unwrap_or_default()
        };
        for fault in faults(block) {
            let (name, kind, taken) = (name_of(fault.validator), fault_name(fault.kind), format_aur(fault.taken));
            let height = block.header.height;
            tracing::warn!(validator = name, kind, %taken, height, "a validator is jailed for a fault");
            metrics::counter!("ledger_faults_total", "validator" => name.clone(), "kind" => kind).increment(1);
            let reporter = name_of(fault.reporter);
            let record = AuditRecord {
                resource: "validator".to_owned(),
                status: AuditStatus::Success,
                ..AuditRecord::system(
                    AuditLevel::Critical,
                    "validator_fault",
                    kind,
                    &name,
                    &format!("height {height}, stake taken {taken}, evidence {}, reporter {reporter}", fault.digest),
                )
            };
            // Both count what they cannot take; the ledger keeps the fault.
            let _ = state.audit.send(AuditMsg::Append(Box::new(record)));
            let event = ValidatorEvent { id: name, status: "jailed".to_owned() };
            let _ = state.hub.send(EventHubMsg::Validator(Arc::new(event)));
        }
    }
}

/// The faults that counted in a block.
fn faults(block: &ExecutedBlock) -> impl Iterator<Item = FaultEvent> + '_ {
    block.events.iter().filter_map(|event| match &event.kind {
        EventKind::Module { module: ModuleId::Staking, kind: staking::EVENT_FAULT, data } => {
            FaultEvent::decode(data).ok()
        }
        _ => None,
    })
}

fn add(totals: &mut Totals, block: &ExecutedBlock) {
    totals.blocks += 1;
    totals.transactions += u64::from(block.header.transactions);
    totals.operations += block.header.operations;
    let applied: usize = block.transactions.iter().map(|executed| executed.receipt.applied_count()).sum();
    totals.operations_applied += applied as u64;
    totals.excluded += block.exclusions.len() as u64;
    totals.bytes += block.bytes;
}
