//! Execute: the single writer of the ledger, one owning thread behind a thin actor.
//!
//! An incarnation goes on from the newest checkpoint that this process has published, whose pages it shares, so that a
//! restart costs no more than a second's commits; the first one of a process, and one after a few vain starts from the
//! same state, loads the newest checkpoint of the store, or genesis. It asks Order for the commits after it. Commits
//! that this node has executed before carry a mark; their signatures are not checked again, and Persist compares what
//! they come to.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use aurigraph_gpu::{BatchVerifier, CpuHasher, VerifyItem};
use aurigraph_ledger::{Hash, Ledger, SignatureVerifier};
use aurigraph_runtime::{ActorError, Address, Behaviour, Context, Mouth};

use super::deliver;
use super::mark::Mark;
use super::messages::{ExecuteMsg, ExecutedCommit, Loaded, OrderMsg, PersistMsg, VerifiedCommit};
use crate::bounds::pipeline as bounds;
use crate::context::NodeContext;

/// The actor before the executing thread.
pub struct Execute {
    node: Arc<NodeContext>,
}

impl Execute {
    /// An execute stage of this node.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>) -> Self {
        Self { node }
    }
}

/// What lives as long as one incarnation.
pub struct State {
    work: SyncSender<Box<VerifiedCommit>>,
    persist: Address<PersistMsg>,
    /// The next commit of the stream; what comes with another index is left over from an earlier one.
    next: u64,
}

impl Behaviour for Execute {
    type Msg = ExecuteMsg;
    type State = State;

    async fn start(&self, ctx: &Context<ExecuteMsg>) -> Result<State, ActorError> {
        let node = Arc::clone(&self.node);
        let ledger = tokio::task::spawn_blocking(move || load(&node))
            .await
            .map_err(|error| format!("the loading thread ended: {error}"))??;
        let next = ledger.commit_index() + 1;
        let (work, received) = sync_channel(bounds::EXECUTE_QUEUE);
        let (mouth, stream) = (ctx.mouth(), ctx.generation);
        std::thread::Builder::new()
            .name("execute".to_owned())
            .spawn(move || run(ledger, stream, &received, &mouth))
            .map_err(|error| format!("cannot start the executing thread: {error}"))?;
        let order = ctx.registry.role::<OrderMsg>("order");
        order
            .send(OrderMsg::StreamFrom { stream: ctx.generation, index: next })
            .map_err(|error| format!("cannot ask for commits: {error}"))?;
        tracing::info!(next, "execution is rebuilt and asks for commits");
        Ok(State { work, persist: ctx.registry.role("persist"), next })
    }

    async fn handle(
        &self,
        ctx: &Context<ExecuteMsg>,
        message: ExecuteMsg,
        state: &mut State,
    ) -> Result<(), ActorError> {
        match message {
            ExecuteMsg::Commit(commit) => {
                let stale = commit.stream != ctx.generation || commit.input.commit_index != state.next;
                // A node that was found to compute something else than the others changes its state no more.
                if stale || self.node.divergence.lock().is_some() {
                    return Ok(());
                }
                state.next += 1;
                // Order keeps fewer commits under way than the thread's queue holds.
                state
                    .work
                    .try_send(commit)
                    .map_err(|error| format!("the executing thread takes no commit: {error}"))?;
                Ok(())
            }
            ExecuteMsg::Loaded(loaded) => deliver(&state.persist, PersistMsg::Loaded(loaded)).await,
            ExecuteMsg::Executed(executed) => deliver(&state.persist, PersistMsg::Executed(executed)).await,
            ExecuteMsg::Failed(reason) => Err(reason.into()),
        }
    }
}

/// How often Execute has started from one published state.
#[derive(Debug, Default)]
pub(crate) struct Resumed {
    height: u64,
    times: u32,
}

impl Resumed {
    /// Notes a start from the state at a height; false if it was tried often enough. What is in memory may be what
    /// executors fail over.
    fn allows(&mut self, height: u64) -> bool {
        if self.height != height {
            *self = Self { height, times: 0 };
        }
        self.times += 1;
        self.times <= bounds::RESUMES_FROM_ONE_STATE
    }
}

/// The newest state at rest that this process has published, unless the log or earlier starts speak against it.
fn published(node: &NodeContext) -> Option<Ledger> {
    let view = node.published.borrow().as_ref()?.proving.clone()?;
    if view.height() == 0 || !node.resumed.lock().allows(view.height()) {
        return None;
    }
    let index = view.header().commit_index;
    let mark = node.journal.mark(index).ok().flatten().and_then(|body| Mark::decode(&body).ok());
    if mark.is_some_and(|mark| mark.block != Some((view.height(), view.header_hash()))) {
        tracing::error!(height = view.height(), "the published state is not what its mark says: it is not used");
        return None;
    }
    match Ledger::resume(&node.settings.genesis, Arc::new(CpuHasher), &view) {
        Ok(ledger) => Some(ledger),
        Err(error) => {
            tracing::error!(%error, height = view.height(), "the published state cannot be gone on from");
            None
        }
    }
}

/// The ledger of the newest checkpoint that proves right, else of genesis if the log still begins there.
fn load(node: &NodeContext) -> Result<Ledger, ActorError> {
    if let Some(ledger) = published(node) {
        return Ok(ledger);
    }
    let genesis = &node.settings.genesis;
    loop {
        let checkpoint = match node.store.latest_checkpoint() {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "the store gives no checkpoint: rebuilding from genesis");
                metrics::counter!("store_rebuilds_total").increment(1);
                break;
            }
        };
        match Ledger::import(genesis, Arc::new(CpuHasher), checkpoint.pages) {
            Ok(ledger) => return Ok(ledger),
            Err(error) => {
                tracing::error!(%error, height = checkpoint.height, "a stored state is wrong: an older one is tried");
                metrics::counter!("store_rebuilds_total").increment(1);
                // The next look gives the other slot's, or none.
                node.store.distrust(checkpoint.sequence);
            }
        }
    }
    let oldest = node.journal.oldest_commit();
    if oldest > 1 {
        // The next start begins with a new store and an own snapshot.
        let reason = format!("no checkpoint of the store can be used, and the log begins with commit {oldest}");
        node.store.give_up(&reason);
        node.fatal.raise(reason.clone());
        return Err(reason.into());
    }
    Ok(Ledger::from_genesis(genesis, Arc::new(CpuHasher))?)
}

fn run(mut ledger: Ledger, stream: u64, work: &Receiver<Box<VerifiedCommit>>, mouth: &Mouth<ExecuteMsg>) {
    let checking = Checking(crate::crypto::cpu_back_end());
    let (commit_index, view) = (ledger.commit_index(), ledger.snapshot());
    if !mouth.send(ExecuteMsg::Loaded(Box::new(Loaded { stream, commit_index, view }))) {
        return;
    }
    while let Ok(commit) = work.recv() {
        let VerifiedCommit { stream, input, mark } = *commit;
        let commit_index = input.commit_index;
        #[cfg(debug_assertions)]
        let input = super::corrupt::corrupted(input, ledger.height());
        let began = std::time::Instant::now();
        let outcome = match &mark {
            None => ledger.execute(input, &checking),
            Some(mark) => ledger.execute(input, &Marked(mark.invalid.iter().copied().collect())),
        };
        let message = match outcome {
            Ok(outcome) => {
                let view = outcome.block.is_some().then(|| ledger.snapshot());
                if view.is_some() {
                    metrics::histogram!("pipeline_execute_seconds").record(began.elapsed().as_secs_f64());
                }
                ExecuteMsg::Executed(Box::new(ExecutedCommit {
                    stream,
                    commit_index,
                    outcome,
                    view,
                    mark,
                    finalized_after_ms: None,
                }))
            }
            Err(error) => ExecuteMsg::Failed(format!("commit {commit_index} cannot be executed: {error}")),
        };
        if !mouth.send(message) {
            return;
        }
    }
}

/// Checks what came without a verdict, on the executing thread.
struct Checking(Arc<dyn BatchVerifier>);

impl SignatureVerifier for Checking {
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        metrics::counter!("pipeline_late_verifications_total").increment(1);
        self.0.verify(&VerifyItem::new(public_key, message, signature))
    }
}

/// Answers from a mark: everything was checked before the mark was written, and these ids were invalid.
struct Marked(HashSet<Hash>);

impl SignatureVerifier for Marked {
    fn verify(&self, _public_key: &[u8], message: &[u8], _signature: &[u8]) -> bool {
        // The message is the domain and the transaction's id.
        let id = message.last_chunk::<32>();
        id.is_none_or(|id| !self.0.contains(&Hash(*id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_executors_keep_failing_over_is_given_up_until_there_is_a_newer_one() {
        let mut resumed = Resumed::default();
        for height in [7, 9] {
            for _ in 0..bounds::RESUMES_FROM_ONE_STATE {
                assert!(resumed.allows(height));
            }
            assert!(!resumed.allows(height));
        }
    }
}
