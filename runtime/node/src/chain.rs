//! `aurigraph chain verify`: reads a stopped node's data directory and executes its whole chain again.
//!
//! Every frame of the journal, the chain of commits, the chain of blocks and every root are compared with what this
//! node recorded when it executed them; every signature is checked anew. Where the log was pruned, it begins with the
//! oldest own snapshot that leads to what is left, whose block the log vouches for.

use std::path::Path;
use std::sync::Arc;

use aurigraph_actors::Fatal;
use aurigraph_actors::config::{ClusterConfig, NodeEntry};
use aurigraph_actors::consensus::protocol_version;
use aurigraph_actors::mempool::{Batch, PreparedBatch};
use aurigraph_actors::pipeline::{Mark, faults_of};
use aurigraph_actors::pruning::{Which, own_snapshot};
use aurigraph_actors::storage::{
    Journal, JournalIdentity, JournalOptions, JournalReader, RecordKind, Store, StoreOptions, StoreReader,
};
use aurigraph_consensus::{Commit, Record as LogRecord};
use aurigraph_gpu::{BatchVerifier, CpuHasher, VerifyItem};
use aurigraph_ledger::block::{CommitInput, CommittedBatch, ExecutedBlock, PreparedTransaction, SignatureVerifier};
use aurigraph_ledger::{EpochEnd, Foundation, Hash, Ledger};
use serde::Serialize;

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::output::{Output, fields};

/// What was verified.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    valid: bool,
    node: String,
    journal_records: u64,
    commits: u64,
    /// The state that was begun with: 0, or the height of a snapshot where the log is pruned.
    from_height: u64,
    height: u64,
    block_hash: Hash,
    transactions: u64,
    operations: u64,
    checkpoints_compared: u64,
    state_root: Hash,
}

/// Runs the command.
///
/// # Errors
/// [`Exit::DataDirectory`] naming the first thing that does not hold.
pub fn verify(args: &cli::ChainVerify, output: Output) -> CliResult {
    let config = ClusterConfig::load(&args.config)?;
    let verified = Audit::open(&config, &args.data_dir).and_then(Audit::run);
    let verified = verified.map_err(|problem| {
        CliError::new(Exit::DataDirectory, format!("{}: does not verify: {problem}", args.data_dir.display()))
    })?;
    output.print(&verified, |verified| fields(&serde_json::to_value(verified).unwrap_or_default()));
    Ok(())
}

struct Audit {
    node: String,
    journal: JournalReader,
    store: StoreReader,
    ledger: Ledger,
    /// The first commit that is executed again.
    first_commit: u64,
    genesis: Foundation,
    last_commit: Hash,
    last_block: Hash,
    totals: Verified,
    // Held for its lock: no node may write meanwhile.
    _journal: Journal,
}

/// Any error of the layers below, as text: nobody handles them apart.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The node whose folder this is, by the folder's name.
pub(crate) fn node_of(config: &ClusterConfig, dir: &Path) -> Result<NodeEntry, String> {
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entry = config.nodes.iter().find(|node| config.node_dir(node, Path::new("")).ends_with(&name));
    entry.cloned().ok_or_else(|| format!("the config has no node whose folder is {name:?}"))
}

/// Whose journal a node's is.
pub(crate) fn identity_of(config: &ClusterConfig, node: &NodeEntry) -> Result<JournalIdentity, String> {
    let key = config.consensus_key(node).map_err(text)?;
    Ok(JournalIdentity::new(config.genesis.chain_id(), &node.name, key.as_deref()))
}

impl Audit {
    fn open(config: &ClusterConfig, dir: &Path) -> Result<Self, String> {
        let node = node_of(config, dir)?;
        if !dir.join("journal").is_dir() {
            return Err("there is no journal in it".to_owned());
        }
        let genesis = config.genesis.clone();
        let identity = identity_of(config, &node)?;
        let journal = Journal::open(dir, &identity, JournalOptions::default(), Fatal::default()).map_err(text)?;
        let store =
            Store::open(dir, &node.name, StoreOptions { upgrade: false, ..StoreOptions::default() }).map_err(text)?;
        let reader = journal.reader();
        let ledger = if reader.oldest_commit() > 1 {
            own_snapshot(dir, &genesis, &reader, Which::Oldest).map_err(text)?.1
        } else {
            Ledger::from_genesis(&genesis, Arc::new(CpuHasher)).map_err(text)?
        };
        let block_hash = ledger.header().hash();
        Ok(Self {
            journal: reader,
            store: store.reader(),
            first_commit: ledger.commit_index() + 1,
            last_commit: genesis.chain_id(),
            genesis,
            last_block: block_hash,
            totals: Verified {
                valid: true,
                node: node.name.clone(),
                journal_records: 0,
                commits: 0,
                from_height: ledger.height(),
                height: ledger.height(),
                block_hash,
                transactions: 0,
                operations: 0,
                checkpoints_compared: 0,
                state_root: Hash::ZERO,
            },
            ledger,
            node: node.name,
            _journal: journal,
        })
    }

    fn run(mut self) -> Result<Verified, String> {
        self.totals.journal_records = self.journal.verify().map_err(text)?;
        for index in self.first_commit..=self.journal.highest_commit().unwrap_or(0) {
            self.commit(index).map_err(|problem| format!("commit {index}: {problem}"))?;
        }
        self.totals.state_root = self.ledger.compute_state_root();
        self.stored_checkpoint()?;
        tracing::debug!(node = self.node, "verified");
        Ok(self.totals)
    }

    fn commit(&mut self, index: u64) -> Result<(), String> {
        let body = self.journal.commit(index).map_err(text)?.ok_or("is missing from the journal")?;
        let LogRecord::Commit(commit) = LogRecord::decode(&body).map_err(text)? else {
            return Err("its record is not a commit".to_owned());
        };
        if index > self.first_commit && commit.header.prev_digest != self.last_commit {
            return Err(format!(
                "follows {}, but the commit before it is {}",
                commit.header.prev_digest, self.last_commit
            ));
        }
        self.last_commit = commit.header.digest();
        let input = self.input(&commit)?;
        let outcome = self.ledger.execute(input, &Checking(aurigraph_actors::crypto::cpu_back_end())).map_err(text)?;
        self.totals.commits += 1;
        if let Some(block) = &outcome.block {
            self.block(block)?;
        }
        self.compare_mark(index, outcome.block.as_ref(), outcome.checkpoint.as_ref().map(|it| (it.seq, it.digest())))
    }

    fn input(&self, commit: &Commit) -> Result<CommitInput, String> {
        let header = &commit.header;
        let batches = commit.batches().map(|(block, named)| {
            let body = self.journal.get(RecordKind::Batch, &named.digest).map_err(text)?;
            let body = body.ok_or_else(|| format!("batch {} is missing from the journal", named.digest))?;
            let len = body.len();
            let batch = PreparedBatch::new(&Batch::parse(body, len).map_err(text)?);
            if batch.reference.digest != named.digest {
                return Err(format!("batch {} has digest {}", named.digest, batch.reference.digest));
            }
            let delivered = batch.delivered_by(header.epoch, block.author, &named).iter();
            let transactions =
                delivered.map(|it| PreparedTransaction { transaction: Arc::clone(it), verdict: None }).collect();
            Ok(CommittedBatch { proposer: block.author, digest: named.digest, transactions })
        });
        Ok(CommitInput {
            epoch: header.epoch,
            version: protocol_version(&self.journal, header.epoch)?,
            commit_index: header.index,
            commit_digest: self.last_commit,
            timestamp_ms: header.timestamp_ms,
            leader: header.leader.author,
            round: header.leader.round,
            consensus_state_digest: commit.state_digest,
            batches: batches.collect::<Result<_, _>>()?,
            faults: faults_of(commit),
            epoch_end: commit.epoch_end.as_ref().map(|end| EpochEnd { delivered: end.delivered.clone() }),
        })
    }

    /// The chain of blocks, and the block as this node stored it.
    fn block(&mut self, block: &ExecutedBlock) -> Result<(), String> {
        if block.header.parent != self.last_block {
            return Err(format!("block {} does not follow the block before it", block.header.height));
        }
        let stored = self.store.header_by_height(block.header.height).map_err(text)?;
        if let Some(row) = stored.filter(|row| row.hash != block.hash || row.header != block.header.encode()) {
            let (height, hash) = (block.header.height, block.hash);
            return Err(format!("block {height} is stored as {}, executing it again gives {hash}", row.hash));
        }
        self.last_block = block.hash;
        self.totals.height = block.header.height;
        self.totals.block_hash = block.hash;
        self.totals.transactions += u64::from(block.header.transactions);
        self.totals.operations += block.header.operations;
        Ok(())
    }

    /// What this node recorded when it executed the commit; the last few may have none yet.
    fn compare_mark(
        &mut self,
        index: u64,
        block: Option<&ExecutedBlock>,
        checkpoint: Option<(u64, Hash)>,
    ) -> Result<(), String> {
        let Some(body) = self.journal.mark(index).map_err(text)? else { return Ok(()) };
        let mark = Mark::decode(&body).map_err(text)?;
        let block = block.map(|block| (block.header.height, block.hash));
        if mark.block != block {
            return Err(format!("was recorded as {:?}, executing it again gives {block:?}", mark.block));
        }
        if let Some(checkpoint) = checkpoint {
            if mark.checkpoint != Some(checkpoint) {
                let recorded = mark.checkpoint;
                return Err(format!("checkpoint {recorded:?} was recorded, executing it again gives {checkpoint:?}"));
            }
            self.totals.checkpoints_compared += 1;
        }
        Ok(())
    }

    /// The newest state in the store must be one that this chain leads to: its pages have the root they claim.
    fn stored_checkpoint(&self) -> Result<(), String> {
        let Some(stored) = self.store.latest_checkpoint().map_err(text)? else { return Ok(()) };
        let root = stored.state_root;
        Ledger::import(&self.genesis, Arc::new(CpuHasher), stored.pages)
            .map(|_| ())
            .map_err(|error| format!("the stored state of height {} (root {root}): {error}", stored.height))
    }
}

struct Checking(Arc<dyn BatchVerifier>);

impl SignatureVerifier for Checking {
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.0.verify(&VerifyItem::new(public_key, message, signature))
    }
}
