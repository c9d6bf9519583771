//! Order: streams commits with the bodies of their batches, from any index on.
//!
//! Commits come from the validator's message while they are new, else from the journal; bodies from the batch store. At
//! most a window of commits is under way, so a slow stage behind it costs no memory.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aurigraph_consensus::{BatchRef, BlockRef, Commit};
use aurigraph_ledger::Hash;
use aurigraph_runtime::{ActorError, Address, Behaviour, Context};

use super::deliver;
use super::mark::Mark;
use super::messages::{OrderMsg, OrderedCommit, VerifyMsg};
use crate::bounds::pipeline as bounds;
use crate::consensus::decode_commit;
use crate::context::NodeContext;
use crate::mempool::{BatchStoreMsg, PreparedBatch};

/// How long the batch store may take for the bodies that it is asked for at once.
const BODIES_TIMEOUT: Duration = Duration::from_secs(5);
/// When a body that was not there is looked for again.
const RETRY: Duration = Duration::from_millis(20);

/// How often the journal is looked at for a commit whose message was refused.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The actor that streams commits.
pub struct Order {
    node: Arc<NodeContext>,
}

impl Order {
    /// An order stage of this node.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>) -> Self {
        Self { node }
    }
}

/// What lives as long as one incarnation.
pub struct State {
    batches: Address<BatchStoreMsg>,
    verify: Address<VerifyMsg>,
    /// The stream that runs, and the next commit in it.
    stream: Option<(u64, u64)>,
    /// New commits that the stream has not reached yet.
    new: BTreeMap<u64, Arc<Commit>>,
    /// Bodies of the next commit that came already. Kept here until all have come: a commit may be larger than what the
    /// batch store keeps in memory, and would otherwise be read again and again.
    gathered: HashMap<Hash, Arc<PreparedBatch>>,
    /// Commits under way with their bytes, oldest first.
    under_way: VecDeque<(u64, usize)>,
    /// Their bytes together.
    bytes: usize,
    /// Whether a retry is on its way.
    retrying: bool,
}

impl Behaviour for Order {
    type Msg = OrderMsg;
    type State = State;

    async fn start(&self, ctx: &Context<OrderMsg>) -> Result<State, ActorError> {
        ctx.send_self(OrderMsg::Look);
        Ok(State {
            batches: ctx.registry.role("batch-store"),
            verify: ctx.registry.role("verify"),
            stream: None,
            new: BTreeMap::new(),
            gathered: HashMap::new(),
            under_way: VecDeque::new(),
            bytes: 0,
            retrying: false,
        })
    }

    async fn handle(&self, ctx: &Context<OrderMsg>, message: OrderMsg, state: &mut State) -> Result<(), ActorError> {
        match message {
            OrderMsg::Committed(commit) => state.remember(commit),
            OrderMsg::StreamFrom { stream, index } => state.begin(stream, index),
            OrderMsg::Done { stream, index } => state.done(stream, index),
            OrderMsg::Retry => state.retrying = false,
            OrderMsg::Look => drop(ctx.send_after(LOOK_EVERY, OrderMsg::Look)),
        }
        self.pump(ctx, state).await
    }
}

impl State {
    fn remember(&mut self, commit: Arc<Commit>) {
        let next = self.stream.map_or(0, |(_, next)| next);
        if commit.header.index >= next {
            self.new.insert(commit.header.index, commit);
        }
        // What does not fit is read from the journal when its turn comes.
        while self.new.len() > bounds::NEW_COMMITS {
            self.new.pop_last();
        }
    }

    fn begin(&mut self, stream: u64, index: u64) {
        self.stream = Some((stream, index));
        self.gathered.clear();
        self.under_way.clear();
        self.bytes = 0;
        self.new = self.new.split_off(&index);
    }

    fn done(&mut self, stream: u64, index: u64) {
        if self.stream.is_none_or(|(current, _)| current != stream) {
            return;
        }
        while let Some((at, bytes)) = self.under_way.front().copied()
            && at <= index
        {
            self.bytes -= bytes;
            self.under_way.pop_front();
        }
    }

    fn has_room(&self) -> bool {
        self.under_way.is_empty()
            || (self.under_way.len() < bounds::COMMITS_UNDER_WAY && self.bytes < bounds::BYTES_UNDER_WAY)
    }
}

impl Order {
    async fn pump(&self, ctx: &Context<OrderMsg>, state: &mut State) -> Result<(), ActorError> {
        while let Some((stream, next)) = state.stream
            && state.has_room()
            && !state.retrying
            && self.node.divergence.lock().is_none()
        {
            let Some(commit) = self.commit(state, next)? else { break };
            let Some(batches) = Self::bodies(state, &commit).await else {
                state.retrying = true;
                drop(ctx.send_after(RETRY, OrderMsg::Retry));
                break;
            };
            let bytes = batches.iter().map(|(_, _, batch)| batch.bytes()).sum();
            let ordered = OrderedCommit { stream, commit, batches, mark: self.mark(next)? };
            deliver(&state.verify, VerifyMsg::Commit(ordered)).await?;
            state.new.remove(&next);
            state.stream = Some((stream, next + 1));
            state.under_way.push_back((next, bytes));
            state.bytes += bytes;
        }
        Ok(())
    }

    fn commit(&self, state: &State, index: u64) -> Result<Option<Arc<Commit>>, ActorError> {
        if let Some(commit) = state.new.get(&index) {
            return Ok(Some(Arc::clone(commit)));
        }
        self.node.journal.commit(index)?.map(|body| decode_commit(&body)).transpose()
    }

    fn mark(&self, index: u64) -> Result<Option<Mark>, ActorError> {
        let Some(body) = self.node.journal.mark(index)? else { return Ok(None) };
        Ok(Some(Mark::decode(&body).map_err(|error| format!("mark {index} does not decode: {error}"))?))
    }

    /// The bodies of a commit's batches; none if one is not there (the batch store may be rebuilding its index). What has
    /// come is kept for the next try.
    async fn bodies(state: &mut State, commit: &Commit) -> Option<Vec<(BlockRef, BatchRef, Arc<PreparedBatch>)>> {
        let named: Vec<_> = commit.batches().collect();
        for digests in asked_at_once(named.iter().map(|(_, batch)| *batch), &state.gathered) {
            let ask = |reply| BatchStoreMsg::Get { digests, reply };
            let found = state.batches.call(BODIES_TIMEOUT, ask).await.ok()?;
            state.gathered.extend(found.into_iter().flatten().map(|body| (body.reference.digest, body)));
        }
        let body = |batch: &BatchRef| state.gathered.get(&batch.digest).map(Arc::clone);
        let complete =
            named.iter().map(|(block, batch)| Some((*block, *batch, body(batch)?))).collect::<Option<_>>()?;
        state.gathered.clear();
        Some(complete)
    }
}

/// The batches that did not come yet, each once, in portions of bounded size.
fn asked_at_once(
    named: impl Iterator<Item = BatchRef>,
    gathered: &HashMap<Hash, Arc<PreparedBatch>>,
) -> Vec<Vec<Hash>> {
    let (mut portions, mut seen, mut bytes) = (Vec::<Vec<Hash>>::new(), HashSet::new(), 0);
    for batch in named.filter(|batch| !gathered.contains_key(&batch.digest)) {
        if !seen.insert(batch.digest) {
            continue;
        }
        bytes += u64::from(batch.len);
        match portions.last_mut() {
            Some(portion) if bytes <= bounds::BODIES_ASKED => portion.push(batch.digest),
            _ => {
                bytes = u64::from(batch.len);
                portions.push(vec![batch.digest]);
            }
        }
    }
    portions
}
