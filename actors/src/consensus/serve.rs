//! Answers peers from the log: single blocks for the block fetcher, ranges of commits for commit sync.
//!
//! Both read on their own time, so that a peer that catches up never delays the validator.

use std::sync::Arc;

use aurigraph_consensus::{Commit, CommitRange, Message, Record as LogRecord};
use aurigraph_ledger::Hash;
use aurigraph_runtime::{ActorError, Behaviour, Context};

use super::messages::{ServeBlocks, ServeCommits};
use crate::context::NodeContext;
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
                let Some(bytes) = logged_block(&node.journal, &reference.digest)? else { continue };
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
                let _ = node.net.send_control(node.validator_name(ask.to), frame);
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
        let node = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || -> Result<(), ActorError> {
            let range = range(&node.journal, &ask)?;
            let frame = framed(BULK_CONSENSUS, &Message::CommitRangeReply(range).encode());
            // A reply that finds no room is asked for again.
            let _ = node.net.send_serving(node.validator_name(ask.to), frame);
            Ok(())
        });
        read.await.map_err(|error| format!("the reading thread ended: {error}"))?
    }
}

fn range(journal: &JournalReader, ask: &ServeCommits) -> Result<CommitRange, ActorError> {
    let mut range = CommitRange::new(ask.request, ask.commit_index);
    for index in ask.from..ask.from.saturating_add(u64::from(ask.count)) {
        let Some(body) = journal.commit(index)? else { break };
        let commit = decode_commit(&body)?;
        let mut blocks = Vec::with_capacity(commit.blocks.len());
        for committed in &commit.blocks {
            let Some(bytes) = logged_block(journal, &committed.block.digest)? else {
                return Err(format!("block {} of commit {index} is not in the log", committed.block).into());
            };
            blocks.push((committed.block, bytes));
        }
        if !range.push(commit.header.clone(), blocks) {
            break;
        }
    }
    Ok(range)
}

/// Takes the commit out of a commit record.
pub(crate) fn decode_commit(body: &[u8]) -> Result<Arc<Commit>, ActorError> {
    match LogRecord::decode(body)? {
        LogRecord::Commit(commit) => Ok(commit),
        other => Err(format!("a commit record holds {other:?}").into()),
    }
}

fn logged_block(journal: &JournalReader, digest: &Hash) -> Result<Option<Vec<u8>>, ActorError> {
    for kind in [RecordKind::Block, RecordKind::OwnBlock] {
        let Some(body) = journal.get(kind, digest)? else { continue };
        return match LogRecord::decode(&body)? {
            LogRecord::Block(bytes) | LogRecord::OwnBlock(bytes) => Ok(Some(bytes.to_vec())),
            other => Err(format!("a block record holds {other:?}").into()),
        };
    }
    Ok(None)
}
