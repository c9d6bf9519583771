//! The node's own sources: the store's index, the journal's bodies, the links' figures.

use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::Record as LogRecord;
use aurigraph_ledger::Hash;
use aurigraph_runtime::cluster::PeerStatus;
use parking_lot::Mutex;

use super::sources::{Archive, ArchivedBlock, ArchivedParties, ArchivedTransaction, EpochWork, LinkFacts, Sources};
use super::validator_watch::ValidatorWatch;
use super::values::Timestamp;
use super::views::Page;
use crate::audit::{AuditFilter, AuditPage, AuditReader, AuditSummary};
use crate::bounds::query as bounds;
use crate::context::NodeContext;
use crate::mempool::{Batch, PreparedBatch};
use crate::storage::{BlockRow, JournalReader, Record, RecordKind, StoreReader, TransactionLocation, TransactionRow};

impl Sources {
    /// What a running node's readers read from. The process is taken to have started at the given moments.
    #[must_use]
    pub fn of(context: &NodeContext, started: Instant, started_at: Timestamp) -> Self {
        let links = context.net.clone();
        let validators = context.settings.genesis.validators.len();
        Self {
            settings: context.settings.clone(),
            chain_id: context.chain_id,
            members: context.members_reader(),
            registry: context.registry.clone(),
            published: context.published.subscribe(),
            consensus: context.consensus_status.subscribe(),
            archive: Arc::new(NodeArchive {
                store: context.store.clone(),
                journal: context.journal.clone(),
                audit: AuditReader::new(context.store.clone()),
            }),
            links: Arc::new(move || links.status().into_iter().map(LinkFacts::from).collect()),
            // An open store is at this build's version: opening brings it there or fails.
            schema_version: Some(crate::release::schema_plan(None).newest().into()),
            gpus: context.gpus.clone(),
            started_at,
            started,
            validators: Mutex::new(ValidatorWatch::new(validators)),
        }
    }
}

impl From<PeerStatus> for LinkFacts {
    fn from(peer: PeerStatus) -> Self {
        Self {
            name: peer.name,
            up: peer.up,
            since: peer.since,
            round_trip_ms: peer.rtt_ms,
            bytes_in: peer.bytes_in,
            bytes_out: peer.bytes_out,
            messages_in: peer.messages_in,
            messages_out: peer.messages_out,
        }
    }
}

/// The store's index and the journal's bodies, as one archive.
struct NodeArchive {
    store: StoreReader,
    journal: JournalReader,
    audit: AuditReader,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn block_of(row: BlockRow) -> ArchivedBlock {
    ArchivedBlock { hash: row.hash, header: row.header, measures: row.measures }
}

fn transaction_of(row: TransactionRow) -> ArchivedTransaction {
    let TransactionLocation { height, index } = row.location;
    ArchivedTransaction { id: row.id, height, index, batch: row.batch, position: row.position, receipt: row.receipt }
}

impl Archive for NodeArchive {
    fn block(&self, height: u64) -> Result<Option<ArchivedBlock>, String> {
        Ok(self.store.header_by_height(height).map_err(text)?.map(block_of))
    }

    fn block_by_hash(&self, hash: &Hash) -> Result<Option<ArchivedBlock>, String> {
        Ok(self.store.header_by_hash(hash).map_err(text)?.map(block_of))
    }

    fn transaction(&self, id: &Hash) -> Result<Option<ArchivedTransaction>, String> {
        let Some(location) = self.store.transaction(id).map_err(text)? else { return Ok(None) };
        Ok(self.store.transaction_row(location).map_err(text)?.map(transaction_of))
    }

    fn transactions_of(&self, height: u64, from: u32, count: u32) -> Result<Vec<ArchivedTransaction>, String> {
        let rows = self.store.block_transactions(height, from, count as usize).map_err(text)?;
        Ok(rows.into_iter().map(transaction_of).collect())
    }

    fn transactions_by(&self, names: &[Vec<u8>], height: u64, page: Page) -> Result<ArchivedParties, String> {
        let part = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let range = (part(page.skip()), part(page.size));
        let (rows, total, truncated) =
            self.store.party_transactions(names, height, range, bounds::PARTY_ROWS).map_err(text)?;
        let mut transactions = Vec::with_capacity(rows.len());
        for row in rows {
            let found = self.store.transaction_row(row.location).map_err(text)?;
            transactions.extend(found.map(|found| (transaction_of(found), row.role)));
        }
        Ok(ArchivedParties { transactions, total: total as u64, truncated })
    }

    fn batch(&self, digest: &Hash) -> Result<Option<Arc<PreparedBatch>>, String> {
        let Some(body) = self.journal.get(RecordKind::Batch, digest).map_err(text)? else { return Ok(None) };
        let max = body.len();
        Ok(Some(Arc::new(PreparedBatch::new(&Batch::parse(body, max).map_err(text)?))))
    }

    fn checkpoint(&self, seq: u64) -> Result<Option<bytes::Bytes>, String> {
        self.journal.get(RecordKind::Checkpoint, &Record::index_key(seq)).map_err(text)
    }

    fn certificate(&self, seq: u64) -> Result<Option<bytes::Bytes>, String> {
        self.journal.get(RecordKind::Certificate, &Record::index_key(seq)).map_err(text)
    }

    fn epoch_certificate(&self, epoch: u64) -> Result<Option<bytes::Bytes>, String> {
        let Some(body) = self.journal.get(RecordKind::EpochCert, &Record::index_key(epoch)).map_err(text)? else {
            return Ok(None);
        };
        match LogRecord::decode(&body).map_err(text)? {
            LogRecord::EpochCert(cert) => Ok(Some(cert.encode().into())),
            other => Err(format!("a record of an epoch's end holds {other:?}")),
        }
    }

    fn validator_set(&self, epoch: u64) -> Result<Option<bytes::Bytes>, String> {
        self.journal.get(RecordKind::ValidatorSet, &Record::index_key(epoch)).map_err(text)
    }

    fn ended_epoch(&self, epoch: u64) -> Result<Option<EpochWork>, String> {
        let record = |kind, number| self.journal.get(kind, &Record::index_key(number)).map_err(text);
        let Some(end) = record(RecordKind::EpochCert, epoch)? else { return Ok(None) };
        let LogRecord::EpochCert(cert) = LogRecord::decode(&end).map_err(text)? else { return Ok(None) };
        let Some(last) = record(RecordKind::Commit, cert.commit.index)? else { return Ok(None) };
        let LogRecord::Commit(commit) = LogRecord::decode(&last).map_err(text)? else { return Ok(None) };
        let rounds = u64::from(commit.header.leader.round).saturating_sub(1);
        let end = commit.epoch_end.as_ref();
        Ok(end.map(|end| EpochWork { epoch, rounds, delivered: end.delivered.clone() }))
    }

    fn newest_certified(&self) -> Option<u64> {
        self.journal.highest(RecordKind::Certificate)
    }

    fn audit_logs(&self, filter: &AuditFilter, page: Page) -> Result<AuditPage, String> {
        // The reader counts pages from 0; what no memory can count is a page past the end.
        let number = usize::try_from(page.number.saturating_sub(1)).unwrap_or(usize::MAX);
        let size = usize::try_from(page.size).unwrap_or(usize::MAX);
        self.audit.search(filter, number, size).map_err(text)
    }

    fn audit_summary(&self) -> Result<AuditSummary, String> {
        self.audit.summary().map_err(text)
    }
}
