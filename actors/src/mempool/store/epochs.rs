//! The batch store over the end of an epoch: a batch's digest contains its epoch, so own batches that were not delivered are
//! sealed anew. Their number stays, by which a restart sees which have been.

use std::sync::Arc;

use aurigraph_consensus::{AuthorIdx, Epoch};
use aurigraph_runtime::Context;

use super::own::OwnBatches;
use super::{BatchStore, Internal, Origin, StoreState, append, tick};
use crate::mempool::batch::{Batch, BatchHead};
use crate::mempool::messages::BatchStoreMsg;
use crate::mempool::prepared::PreparedBatch;

impl BatchStore {
    /// The validator has started an epoch.
    pub(super) fn enter_epoch(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState) {
        let Some(members) = (self.parts.members)(None).filter(|members| members.epoch != state.members.epoch) else {
            return;
        };
        state.members = members;
        state.unheard.clear();
        // One that is still being written is sealed anew when it is in the log.
        let written: Vec<_> =
            state.own.list().into_iter().filter(|batch| !state.appending.contains_key(&batch.digest)).collect();
        state.stale.extend(written);
        state.own = OwnBatches::default();
        self.load_stale(ctx, state);
    }

    /// Reads what is to be sealed anew.
    pub(super) fn load_stale(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState) {
        let stale: Vec<_> = std::mem::take(&mut state.stale).into_iter().map(|batch| batch.digest).collect();
        if stale.is_empty() {
            return;
        }
        let mouth = ctx.mouth();
        self.load(ctx, state, stale, move |_, loaded| {
            mouth.send(BatchStoreMsg::Internal(Internal::Stale(loaded.iter().flatten().cloned().collect())));
        });
    }

    pub(super) fn seal_anew(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        batches: Vec<Arc<PreparedBatch>>,
    ) {
        // Who left the committee proposes nothing any more: the clients' transactions run out of time.
        let Some(own) = state.members.own else { return };
        for old in batches {
            let batch = resealed(&old, state.members.epoch, own, self.parts.max_batch);
            let digest = batch.reference.digest;
            if self.stored(&digest) || state.appending.contains_key(&digest) {
                continue;
            }
            if append(ctx, state, &batch).is_ok() {
                metrics::counter!("batches_sealed_anew_total").increment(1);
                state.own.insert(batch.reference);
                state.appending.insert(digest, (Arc::new(batch), Origin::Own(Vec::new())));
            } else {
                state.stale.push(old.reference);
                tick(ctx, state);
            }
        }
    }
}

/// The batch in this epoch under this index.
pub(super) fn in_epoch(batch: PreparedBatch, epoch: Epoch, own: AuthorIdx, max: usize) -> PreparedBatch {
    if (batch.epoch, batch.author) == (epoch, own) { batch } else { resealed(&batch, epoch, own, max) }
}

fn resealed(old: &PreparedBatch, epoch: Epoch, own: AuthorIdx, max: usize) -> PreparedBatch {
    let head = BatchHead { epoch, author: own, sequence: old.sequence };
    let bytes = old.encoded();
    let capacity = bytes.len();
    // What is stored has been parsed or sealed by this node.
    let entries: Vec<_> = Batch::parse(bytes, max).map(|batch| batch.transactions().collect()).unwrap_or_default();
    let batch = Batch::seal(head, entries.iter().map(|entry: &bytes::Bytes| entry.as_ref()), capacity);
    PreparedBatch::of(&batch, old.transactions().to_vec())
}
