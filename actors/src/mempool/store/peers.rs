//! The batch store towards the other nodes: what they push, what is fetched from them, what they ask for.

use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::{AuthorIdx, BatchRef};
use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::Transaction;
use aurigraph_runtime::Context;

use super::{BatchStore, Internal, Origin, StoreState, append, tick};
use crate::bounds::mempool as bounds;
use crate::crypto::{DispatchMsg, Priority, TransactionCheck};
use crate::mempool::batch::{Batch, BatchHead};
use crate::mempool::messages::BatchStoreMsg;
use crate::mempool::prepared::PreparedBatch;
use crate::mempool::wire::BatchWire;
use crate::storage::RecordKind;

impl BatchStore {
    pub(super) fn network(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, peer: String, bytes: &[u8]) {
        let refused = match BatchWire::decode(bytes, &self.parts.buffers) {
            Ok(BatchWire::Push(batch)) => self.pushed(ctx, state, &peer, batch).err(),
            Ok(BatchWire::Found(batch)) => self.found(ctx, state, batch).err(),
            Ok(BatchWire::Request(digests)) => {
                self.serve(ctx, state, peer.clone(), digests);
                None
            }
            Ok(BatchWire::Absent(digest)) => {
                if let Some(peer) = state.members.validator(&peer) {
                    state.fetches.absent(&digest, peer);
                    self.ask_peers(ctx, state);
                }
                None
            }
            Err(_) => Some("malformed"),
        };
        if let Some(why) = refused {
            tracing::debug!(peer, why, "a batch message was dropped");
            metrics::counter!("batch_messages_refused_total", "peer" => peer, "why" => why).increment(1);
        }
    }

    /// A peer pushes a new batch of its own.
    fn pushed(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        peer: &str,
        bytes: bytes::Bytes,
    ) -> Result<(), &'static str> {
        let author = state.members.validator(peer).ok_or("not a validator")?;
        let head = BatchHead::read(&bytes).map_err(|_| "malformed")?;
        if head.author != author || Some(author) == state.members.own {
            return Err("another author's");
        }
        if head.epoch != state.members.epoch {
            return Err("another epoch's");
        }
        let batch = Batch::parse(bytes, self.parts.max_batch).map_err(|_| "malformed")?;
        let digest = batch.reference.digest;
        if self.stored(&digest) || state.appending.contains_key(&digest) {
            return Ok(());
        }
        if state.appending.len() >= bounds::APPENDING {
            return Err("too many at once");
        }
        let wanted = state.fetches.wants(&digest);
        if !wanted && !state.quotas.admit(author, digest, batch.bytes.len(), Instant::now()) {
            return Err("over its share");
        }
        self.take_in(ctx, state, &batch)
    }

    /// A peer answers a fetch. Whatever the batch says inside, its digest is the wanted one: it counts as present.
    fn found(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        bytes: bytes::Bytes,
    ) -> Result<(), &'static str> {
        let batch = Batch::parse(bytes, self.parts.max_batch).map_err(|_| "malformed")?;
        if !state.fetches.wants(&batch.reference.digest) {
            return Err("not asked for");
        }
        self.take_in(ctx, state, &batch)
    }

    fn take_in(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, batch: &Batch) -> Result<(), &'static str> {
        let digest = batch.reference.digest;
        let prepared = PreparedBatch::new(batch);
        append(ctx, state, &prepared).map_err(|_| "the journal takes no more")?;
        state.fetches.take(&digest);
        verify_ahead(state, &prepared);
        state.appending.insert(digest, (Arc::new(prepared), Origin::Remote));
        if state.fetches.may_ask() {
            self.ask_peers(ctx, state);
        }
        Ok(())
    }

    pub(super) fn fetch(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        batches: &[BatchRef],
        candidates: &[AuthorIdx],
    ) {
        let own = state.members.own;
        let candidates: Vec<_> = candidates.iter().copied().filter(|peer| Some(*peer) != own).collect();
        let mut here = Vec::new();
        for batch in batches {
            if let Some(prepared) = state.prepared.get(&batch.digest) {
                self.parts.validator.batch_stored(batch.digest, prepared.reference.len);
            } else if self.stored(&batch.digest) {
                here.push(batch.digest);
            } else if !state.appending.contains_key(&batch.digest) && !state.fetches.add(batch, &candidates) {
                self.parts.validator.batch_fetch_failed(batch.digest);
            }
        }
        if !here.is_empty() {
            self.announce_stored(ctx, state, here);
        }
        self.ask_peers(ctx, state);
    }

    /// Tells the validator of bodies that are in the log only: their lengths stand there.
    fn announce_stored(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, digests: Vec<Hash>) {
        let validator = Arc::clone(&self.parts.validator);
        self.load(ctx, state, digests, move |digests, loaded| {
            for (digest, batch) in digests.iter().zip(loaded) {
                match batch {
                    Some(batch) => validator.batch_stored(*digest, batch.reference.len),
                    None => validator.batch_fetch_failed(*digest),
                };
            }
        });
    }

    pub(super) fn ask_peers(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState) {
        let round = state.fetches.round(Instant::now());
        for digest in round.failed {
            self.parts.validator.batch_fetch_failed(digest);
        }
        for (peer, digests) in round.requests {
            let name = state.members.name(peer);
            let request = BatchWire::Request(digests.clone()).encode();
            if !self.parts.outbound.bulk(name, request) {
                digests.iter().for_each(|digest| state.fetches.absent(digest, peer));
            }
        }
        if !state.fetches.is_empty() {
            tick(ctx, state);
        }
    }

    fn serve(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, peer: String, digests: Vec<Hash>) {
        let under_way = state.serving.entry(peer.clone()).or_default();
        if *under_way >= bounds::SERVING_PER_PEER {
            metrics::counter!("batch_messages_refused_total", "peer" => peer, "why" => "too many requests")
                .increment(1);
            return;
        }
        *under_way += 1;
        let found: Vec<_> = digests
            .into_iter()
            .map(|digest| (digest, Self::at_hand(state, &digest).map(|batch| batch.encoded())))
            .collect();
        let (journal, outbound, mouth) = (self.parts.journal.clone(), Arc::clone(&self.parts.outbound), ctx.mouth());
        let reads = Arc::clone(&state.reads);
        state.tasks.spawn(async move {
            let Ok(_permit) = reads.acquire_owned().await else { return };
            let asker = peer.clone();
            let sent = tokio::task::spawn_blocking(move || {
                for (digest, batch) in found {
                    let batch = batch.or_else(|| journal.get(RecordKind::Batch, &digest).ok().flatten());
                    let answer = batch.map_or(BatchWire::Absent(digest), BatchWire::Found);
                    // Over its credit: the peer asks again.
                    if !outbound.bulk(&asker, answer.encode()) {
                        return;
                    }
                }
            });
            // Its panic would be a fault of the journal, which the next read meets again.
            let _ = sent.await;
            mouth.send(BatchStoreMsg::Internal(Internal::Served(peer)));
        });
    }
}

pub(super) fn served(state: &mut StoreState, peer: &str) {
    if let Some(under_way) = state.serving.get_mut(peer) {
        *under_way -= 1;
        if *under_way == 0 {
            state.serving.remove(peer);
        }
    }
}

/// Has signatures checked before a block needs them, as far as the senders' keys are known. Nothing waits for it, and
/// nothing is concluded from a key that is not known.
fn verify_ahead(state: &StoreState, batch: &PreparedBatch) {
    let Some(view) = &state.view else { return };
    let check = |transaction: &Arc<Transaction>| {
        let key = view.account(&transaction.sender()).and_then(|account| account.key);
        let known = key.is_some() || transaction.sender_key().is_some();
        known.then(|| TransactionCheck { transaction: Arc::clone(transaction), key })
    };
    let checks: Vec<_> = batch.transactions().iter().filter_map(check).collect();
    if !checks.is_empty() {
        // Overload leaves them to the time when they are needed.
        let message = DispatchMsg::VerifyTransactions { checks, priority: Priority::Ahead, reply: None };
        let _ = state.dispatcher.send(message);
    }
}
