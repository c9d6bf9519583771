//! Answers peers from the log: single blocks for the block fetcher, ranges of commits for commit sync.
//!
//! Both read on their own time, so that a peer that catches up never delays the validator.

use std::sync::Arc;

use aurigraph_consensus::config::SIGNED_CORE_LEN;
use aurigraph_consensus::{
    BlockRef, Commit, CommitRange, Committee, Message, RangeBuilder, Record as LogRecord, ServedBlock, SignedCore,
};
use aurigraph_gpu::{AwsLc, BatchVerifier, VerifyItem};
use aurigraph_runtime::{ActorError, Behaviour, Context};

use super::messages::{ServeBlocks, ServeCommits};
use crate::context::NodeContext;
use crate::members::Members;
use crate::storage::{JournalReader, RecordKind};
use crate::wire::{BULK_CONSENSUS, CONTROL_CONSENSUS, framed};

/// Serves blocks that left the machine's memory.
pub struct BlockFetcher(pub Arc<NodeContext>);

impl Behaviour for BlockFetcher {
    type Msg = ServeBlocks;
    type State = ();

    async fn start(&self, _ctx: &Context<ServeBlocks>) -> Result<(), ActorError> {
        Ok(())
    }

    async fn handle(&self, _ctx: &Context<ServeBlocks>, ask: ServeBlocks, _state: &mut ()) -> Result<(), ActorError> {
        let node = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || -> Result<(), ActorError> {
            let mut blocks = Vec::new();
            let mut left = aurigraph_consensus::config::MAX_FETCH_REPLY_BYTES;
            for reference in &ask.refs {
                let Some(block) = logged_block(&node.journal, reference)? else { continue };
                if !block.checked && !signed_core(&block.bytes).is_some_and(|signed| is_good(&node, &signed)) {
                    continue;
                }
                let bytes = block.bytes;
                if bytes.len() > left {
                    break;
                }
                left -= bytes.len();
                blocks.push(bytes);
            }
            if !blocks.is_empty() {
                let reply = Message::FetchReply { request: ask.request, commit_index: ask.commit_index, blocks };
                let frame = framed(CONTROL_CONSENSUS, &reply.encode());
                // A reply that finds no room is asked for again.
                let _ = node.net.send_control(&ask.to, frame);
            }
            Ok(())
        });
        read.await.map_err(|error| format!("the reading thread ended: {error}"))?
    }
}

/// Serves ranges of commits to peers that catch up.
pub struct CommitSync(pub Arc<NodeContext>);

impl Behaviour for CommitSync {
    type Msg = ServeCommits;
    type State = ();

    async fn start(&self, _ctx: &Context<ServeCommits>) -> Result<(), ActorError> {
        Ok(())
    }

    async fn handle(&self, _ctx: &Context<ServeCommits>, ask: ServeCommits, _state: &mut ()) -> Result<(), ActorError> {
        let (node, to) = (Arc::clone(&self.0), ask.to.clone());
        let read = tokio::task::spawn_blocking(move || -> Result<(), ActorError> {
            let range = range(&node, ask)?;
            let frame = framed(BULK_CONSENSUS, &Message::CommitRangeReply(range).encode());
            // A reply that finds no room is asked for again.
            let _ = node.net.send_serving(&to, frame);
            Ok(())
        });
        read.await.map_err(|error| format!("the reading thread ended: {error}"))?
    }
}

fn range(node: &NodeContext, ask: ServeCommits) -> Result<CommitRange, ActorError> {
    let ServeCommits { request, commit_index, from, count, newest, .. } = ask;
    // The votes that count are those of the epoch that is asked for.
    let first = node.journal.commit(from)?.map(|body| decode_commit(&body)).transpose()?;
    let members = first.and_then(|commit| node.members_of(commit.header.epoch)).unwrap_or_else(|| node.members());
    let committee = Committee::new(members.stakes())?;
    let verify = |signed: &SignedCore| is_signed(&members, signed);
    let mut range = RangeBuilder::new(request, commit_index, count, committee, newest, &verify);
    for index in from.. {
        let Some(body) = node.journal.commit(index)? else { break };
        let commit = decode_commit(&body)?;
        let mut blocks = Vec::with_capacity(commit.blocks.len());
        for committed in &commit.blocks {
            let Some(block) = logged_block(&node.journal, &committed.block)? else {
                let block = &committed.block;
                // At the edge of a pruned log a commit may stand without all of its blocks.
                if node.journal.first_segment() > 1 {
                    tracing::debug!(index, %block, "a commit that is asked for is pruned in part");
                    return Ok(CommitRange { oldest: index + 1, ..range.finish() });
                }
                return Err(format!("block {block} of commit {index} is not in the log").into());
            };
            blocks.push(block);
        }
        if !range.push(commit.header.clone(), blocks) {
            break;
        }
    }
    Ok(CommitRange { oldest: node.journal.oldest_commit(), ..range.finish() })
}

fn signed_core(block: &[u8]) -> Option<SignedCore> {
    SignedCore::decode(block.get(..SIGNED_CORE_LEN)?).ok()
}

fn is_good(node: &NodeContext, signed: &SignedCore) -> bool {
    node.members_of(signed.core.epoch).is_some_and(|members| is_signed(&members, signed))
}

/// Checks the signature of a core that came in a certified range: few are, so it is done on the reading thread.
fn is_signed(members: &Members, signed: &SignedCore) -> bool {
    let key = members.consensus_key(signed.core.author);
    let message = signed.core.signing_message();
    AwsLc.verify(&VerifyItem::new(&key, &message, signed.signature.as_bytes()))
}

/// Takes the commit out of a commit record.
pub(crate) fn decode_commit(body: &[u8]) -> Result<Arc<Commit>, ActorError> {
    match LogRecord::decode(body)? {
        LogRecord::Commit(commit) => Ok(commit),
        other => Err(format!("a commit record holds {other:?}").into()),
    }
}

pub(crate) fn logged_block(journal: &JournalReader, block: &BlockRef) -> Result<Option<ServedBlock>, ActorError> {
    for kind in [RecordKind::Block, RecordKind::OwnBlock] {
        let Some(body) = journal.get(kind, &block.digest)? else { continue };
        let record = LogRecord::decode(&body)?;
        let checked = !matches!(record, LogRecord::CertifiedBlock(_));
        let Some(bytes) = record.block() else { return Err(format!("a block record holds {record:?}").into()) };
        return Ok(Some(ServedBlock { reference: *block, bytes: bytes.to_vec(), checked }));
    }
    Ok(None)
}
