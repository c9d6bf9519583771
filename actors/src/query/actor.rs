//! The query actor: answers from memory at once, and hands archive reads to threads that may block.

use std::sync::Arc;

use aurigraph_runtime::{ActorError, Behaviour, Context};
use tokio::sync::Semaphore;

use super::chain_reads::{ChainReads, Read};
use super::messages::{Answer, QueryError, QueryMsg};
use super::node_reads::NodeReads;
use super::sources::Sources;
use crate::bounds::query as bounds;

/// One of the query actors.
pub struct QueryActor {
    sources: Arc<Sources>,
}

impl QueryActor {
    /// A query actor over these sources.
    #[must_use]
    pub const fn new(sources: Arc<Sources>) -> Self {
        Self { sources }
    }
}

/// What one incarnation holds: a cache, and the places for blocking reads.
pub struct QueryState {
    chain: ChainReads,
    node: NodeReads,
    waiting: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

impl Drop for QueryState {
    /// Reads that still wait for their place end with the incarnation.
    fn drop(&mut self) {
        self.reading.close();
    }
}

impl QueryState {
    /// Runs a read on a thread that may block, a few at a time. The actor itself never waits for the archive: answers
    /// from memory (health among them) come at once, whatever the archive does.
    fn blocking<T: Send + 'static>(
        &self,
        reply: Answer<T>,
        read: impl FnOnce(&ChainReads) -> Read<T> + Send + 'static,
    ) {
        let Ok(waiting) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return reply.send(Err(QueryError::Overloaded));
        };
        let (reading, chain) = (Arc::clone(&self.reading), self.chain.clone());
        tokio::spawn(async move {
            let Ok(place) = reading.acquire_owned().await else { return };
            // A client that has given up needs no read.
            if !reply.is_closed() {
                tokio::task::spawn_blocking(move || {
                    reply.send(read(&chain));
                    drop((place, waiting));
                });
            }
        });
    }
}

impl Behaviour for QueryActor {
    type Msg = QueryMsg;
    type State = QueryState;

    async fn start(&self, _: &Context<QueryMsg>) -> Result<QueryState, ActorError> {
        Ok(QueryState {
            chain: ChainReads::new(Arc::clone(&self.sources)),
            node: NodeReads::new(Arc::clone(&self.sources)),
            waiting: Arc::new(Semaphore::new(bounds::READS_WAITING)),
            reading: Arc::new(Semaphore::new(bounds::STORE_READS)),
        })
    }

    async fn handle(&self, _: &Context<QueryMsg>, message: QueryMsg, state: &mut QueryState) -> Result<(), ActorError> {
        let (chain, node) = (&state.chain, &mut state.node);
        match message {
            QueryMsg::Balance { address, reply } => reply.send(node.balance(address)),
            QueryMsg::AccountProof { address, reply } => reply.send(node.account_proof(address)),
            QueryMsg::EncryptionKey { address, reply } => reply.send(node.encryption_key(address)),
            QueryMsg::SealedEnvelope { sender, digest, reply } => reply.send(node.envelope(sender, digest)),
            QueryMsg::AccountTransactions { address, page, reply } => {
                state.blocking(reply, move |chain| chain.account_transactions(address, page));
            }
            QueryMsg::Transaction { hash, reply } => state.blocking(reply, move |chain| chain.transaction(&hash)),
            QueryMsg::BlockByHeight { height, reply } => {
                match chain.recent_block(|block| block.header.height == height) {
                    Ok(None) => state.blocking(reply, move |chain| chain.block(height)),
                    answer => reply.send(answer),
                }
            }
            QueryMsg::BlockByHash { hash, reply } => match chain.recent_block(|block| block.hash == hash) {
                Ok(None) => state.blocking(reply, move |chain| chain.block_by_hash(&hash)),
                answer => reply.send(answer),
            },
            QueryMsg::LatestBlocks { limit, reply } => state.blocking(reply, move |chain| chain.latest(limit)),
            QueryMsg::SearchBlocks { filters, page, reply } => {
                state.blocking(reply, move |chain| chain.search(&filters, page))
            }
            QueryMsg::BlockTransactions { height, page, reply } => {
                state.blocking(reply, move |chain| chain.block_transactions(height, page))
            }
            QueryMsg::AuditLogs { filters, page, reply } => {
                state.blocking(reply, move |chain| chain.audit_logs(filters, page))
            }
            QueryMsg::AuditSummary { reply } => state.blocking(reply, ChainReads::audit_summary),
            QueryMsg::Topology { reply } => reply.send(Ok(node.topology())),
            QueryMsg::Node { id, reply } => reply.send(Ok(node.node(&id))),
            QueryMsg::NetworkStats { reply } => reply.send(Ok(node.network_stats())),
            QueryMsg::Validators { page, reply } => state.blocking(reply, move |chain| chain.validators(page)),
            QueryMsg::Validator { id, reply } => state.blocking(reply, move |chain| chain.validator(&id)),
            QueryMsg::ValidatorMetrics { reply } => state.blocking(reply, ChainReads::validator_metrics),
            QueryMsg::SlashingEvents { page, reply } => reply.send(Ok(chain.slashing_events(page))),
            QueryMsg::ChainStats { reply } => reply.send(node.chain_stats()),
            QueryMsg::Consensus { reply } => reply.send(node.consensus()),
            QueryMsg::Checkpoint { seq, headers_from, epochs_from, reply } => {
                state.blocking(reply, move |chain| chain.checkpoint(seq, headers_from, epochs_from));
            }
            QueryMsg::Performance { reply } => reply.send(node.performance()),
            QueryMsg::Info { reply } => reply.send(Ok(node.info())),
            QueryMsg::Ready { reply } => reply.send(Ok(node.ready())),
            QueryMsg::Health { reply } => reply.send(Ok(node.health())),
            QueryMsg::Actors { reply } => reply.send(Ok(node.actors())),
            QueryMsg::Kill { name, mode, reply } => reply.send(Ok(node.kill(&name, mode))),
        }
        Ok(())
    }
}
