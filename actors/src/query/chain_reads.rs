//! Blocks and transactions out of the published state and the archive. Everything that reads the archive blocks, and is
//! called from threads that may.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aurigraph_ledger::identity::IdentityOperation;
use aurigraph_ledger::merkle::{MerkleTree, TransactionProof, transaction_leaf, transaction_tree};
use aurigraph_ledger::staking::{EVERYTHING, StakingOperation};
use aurigraph_ledger::transaction::{Operation, Sender, Target, Transaction};
use aurigraph_ledger::{Address, Hash, LedgerHeader, PlainHasher, Receipt};
use aurigraph_schema_upgrades::node::v004_address_index::{RECEIVER, SENDER};
use parking_lot::Mutex;

use super::codes;
use super::messages::QueryError;
use super::sources::{Archive, ArchivedBlock, ArchivedTransaction, Sources};
use super::values::{Timestamp, Units};
use super::views::{
    AccountRole, AccountTransaction, AccountTransactionPage, AuditFilters, AuditLogPage, AuditSummaryView,
    BlockFilters, BlockList, BlockPage, BlockView, OperationStatus, OperationView, Page, ProofView, TransactionPage,
    TransactionStatus, TransactionSummary, TransactionView,
};
use crate::bounds::query as bounds;
use crate::parties;
use crate::published::{BlockSummary, Published};
use crate::storage::Measures;

/// What a read comes to.
pub(super) type Read<T> = Result<T, QueryError>;

pub(super) fn storage(what: &'static str) -> impl Fn(String) -> QueryError {
    move |reason| QueryError::Storage { what, reason }
}

/// Trees by height, oldest first.
type Trees = Arc<Mutex<VecDeque<(u64, Arc<MerkleTree>)>>>;

/// One reader of the chain, with its cache of trees.
#[derive(Clone)]
pub(super) struct ChainReads {
    sources: Arc<Sources>,
    trees: Trees,
}

impl ChainReads {
    pub(super) fn new(sources: Arc<Sources>) -> Self {
        Self { sources, trees: Arc::default() }
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(super) fn archive(&self) -> &dyn Archive {
        &*self.sources.archive
    }

    pub(super) fn newest(&self) -> Read<Arc<Published>> {
        self.sources.newest().ok_or(QueryError::NotReady)
    }

    fn view(&self, header: &LedgerHeader, hash: Hash, measures: Measures) -> BlockView {
        // Genesis is led by nobody; its header names validator 0 only because the field cannot be empty.
        let leader = (header.height > 0).then(|| self.sources.validator_name(header.epoch, header.leader)).flatten();
        BlockView {
            height: header.height,
            hash,
            parent_hash: header.parent,
            timestamp: Timestamp(header.timestamp_ms),
            transaction_count: header.transactions,
            operation_count: header.operations,
            size: measures.bytes,
            validator: leader,
            state_root: header.state_root,
            checkpoint_sequence: header.checkpoint_seq,
            transactions_root: header.tx_root,
            receipts_root: header.receipts_root,
            gas_used: None,
            gas_limit: None,
            round: header.round,
            epoch: header.epoch,
            commit_index: header.commit_index,
            finalized_after_ms: measures.finalized_after_ms,
        }
    }

    fn summary_view(&self, summary: &BlockSummary) -> BlockView {
        // Where execution began again nothing was counted.
        let counted = summary.bytes > 0 || summary.header.transactions == 0;
        let bytes = counted.then_some(summary.bytes);
        self.view(&summary.header, summary.hash, Measures { finalized_after_ms: summary.finalized_after_ms, bytes })
    }

    fn archived_view(&self, block: &ArchivedBlock) -> Read<BlockView> {
        Ok(self.view(&header_of(block)?, block.hash, block.measures))
    }

    /// A recent block, from memory. One that was executed before this process began is measured in the archive alone.
    pub(super) fn recent_block(&self, wanted: impl Fn(&BlockSummary) -> bool) -> Read<Option<BlockView>> {
        let published = self.newest()?;
        let found =
            published.recent.iter().rev().find(|summary| wanted(summary)).filter(|summary| is_measured(summary));
        Ok(found.map(|summary| self.summary_view(summary)))
    }

    /// A block by height; blocks beyond the newest published one are not there yet.
    pub(super) fn block(&self, height: u64) -> Read<Option<BlockView>> {
        let published = self.newest()?;
        if height > published.height() {
            return Ok(None);
        }
        self.block_in(&published, height)
    }

    fn block_in(&self, published: &Published, height: u64) -> Read<Option<BlockView>> {
        let summary = recent(published, height);
        if let Some(summary) = summary.filter(|summary| is_measured(summary)) {
            return Ok(Some(self.summary_view(summary)));
        }
        match self.archive().block(height).map_err(storage("a block"))? {
            Some(block) => self.archived_view(&block).map(Some),
            None => Ok(summary.map(|summary| self.summary_view(summary))),
        }
    }

    pub(super) fn block_by_hash(&self, hash: &Hash) -> Read<Option<BlockView>> {
        let newest = self.newest()?.height();
        let block = self.archive().block_by_hash(hash).map_err(storage("a block"))?;
        let view = block.as_ref().map(|block| self.archived_view(block)).transpose()?;
        Ok(view.filter(|view| view.height <= newest))
    }

    pub(super) fn latest(&self, limit: u64) -> Read<BlockList> {
        let published = self.newest()?;
        let newest = published.height();
        let oldest = newest.saturating_sub(limit.saturating_sub(1));
        let mut blocks = Vec::new();
        for height in (oldest..=newest).rev().take(usize::try_from(limit).unwrap_or(usize::MAX)) {
            blocks.extend(self.block_in(&published, height)?);
        }
        Ok(BlockList { blocks })
    }

    pub(super) fn header(&self, published: &Published, height: u64) -> Read<Option<LedgerHeader>> {
        if let Some(summary) = recent(published, height) {
            return Ok(Some(summary.header));
        }
        let block = self.archive().block(height).map_err(storage("a header"))?;
        block.as_ref().map(header_of).transpose()
    }

    /// The lowest height in a range whose block is at or after a time; commit times never decrease.
    fn first_at(&self, published: &Published, mut low: u64, mut high: u64, time: u64) -> Read<u64> {
        while low < high {
            let middle = low + (high - low) / 2;
            // A header that is not kept any more is older than all that are.
            let old = self.header(published, middle)?.is_none_or(|header| header.timestamp_ms < time);
            (low, high) = if old { (middle + 1, high) } else { (low, middle) };
        }
        Ok(low)
    }

    pub(super) fn search(&self, filters: &BlockFilters, page: Page) -> Read<BlockPage> {
        let published = self.newest()?;
        let end = published.height() + 1;
        // The range of heights, its end excluded.
        let mut low = filters.height_from.unwrap_or(0).min(end);
        let mut high = filters.height_to.map_or(end, |height| height.saturating_add(1).min(end));
        if let Some(time) = filters.date_from {
            low = self.first_at(&published, low, high.max(low), time.0)?;
        }
        if let Some(time) = filters.date_to {
            high = self.first_at(&published, low, high.max(low), time.0.saturating_add(1))?;
        }
        let mut found = Found::new(page);
        for (read, height) in (low..high).rev().enumerate() {
            if read as u64 >= bounds::SEARCH_HEADERS {
                found.truncated = true;
                break;
            }
            if self.header(&published, height)?.is_some_and(|header| self.matches(filters, &header)) {
                found.add(height);
            }
        }
        let mut blocks = Vec::new();
        for height in found.heights {
            blocks.extend(self.block_in(&published, height)?);
        }
        Ok(BlockPage {
            blocks,
            total: found.total,
            page: page.number,
            page_size: page.size,
            truncated: found.truncated,
        })
    }

    fn matches(&self, filters: &BlockFilters, header: &LedgerHeader) -> bool {
        let leader = || (header.height > 0).then(|| self.sources.validator_name(header.epoch, header.leader)).flatten();
        filters.validator.as_deref().is_none_or(|name| leader().as_deref() == Some(name))
            && filters.min_transactions.is_none_or(|least| header.transactions >= least)
            && filters.max_transactions.is_none_or(|most| header.transactions <= most)
    }

    pub(super) fn audit_logs(&self, filters: AuditFilters, page: Page) -> Read<AuditLogPage> {
        let found = self.archive().audit_logs(&filters.into(), page).map_err(storage("the audit log"))?;
        Ok(AuditLogPage::new(found, page))
    }

    pub(super) fn audit_summary(&self) -> Read<AuditSummaryView> {
        Ok(self.archive().audit_summary().map_err(storage("the audit log"))?.into())
    }

    pub(super) fn block_transactions(&self, height: u64, page: Page) -> Read<Option<TransactionPage>> {
        let published = self.newest()?;
        if height > published.height() {
            return Ok(None);
        }
        let Some(header) = self.header(&published, height)? else { return Ok(None) };
        let total = u64::from(header.transactions);
        let from = u32::try_from(page.skip().min(total)).unwrap_or(u32::MAX);
        let count = u32::try_from(page.size.min(total - u64::from(from))).unwrap_or(u32::MAX);
        let rows = match count {
            0 => Vec::new(),
            count => self.archive().transactions_of(height, from, count).map_err(storage("transactions"))?,
        };
        let transactions = rows.iter().map(summary).collect::<Read<Vec<_>>>()?;
        Ok(Some(TransactionPage { transactions, total, page: page.number, page_size: page.size }))
    }

    /// Transactions in which an account takes part, newest first; none if there is no such account.
    pub(super) fn account_transactions(&self, address: Hash, page: Page) -> Read<Option<AccountTransactionPage>> {
        let published = self.newest()?;
        let address = Address(address);
        let Some(index) = published.view.find(&address) else { return Ok(None) };
        let names = [parties::by_index(index), parties::by_address(&address)];
        let found =
            self.archive().transactions_by(&names, published.height(), page).map_err(storage("transactions"))?;
        let view = |(row, role): &(ArchivedTransaction, u8)| {
            let role = match (role & SENDER != 0, role & RECEIVER != 0) {
                (true, true) => AccountRole::Both,
                (true, false) => AccountRole::Sender,
                (false, _) => AccountRole::Receiver,
            };
            Ok(AccountTransaction { transaction: summary(row)?, role })
        };
        Ok(Some(AccountTransactionPage {
            transactions: found.transactions.iter().map(view).collect::<Read<Vec<_>>>()?,
            total: found.total,
            page: page.number,
            page_size: page.size,
            truncated: found.truncated,
        }))
    }

    pub(super) fn transaction(&self, id: &Hash) -> Read<Option<TransactionView>> {
        let published = self.newest()?;
        let row = self.archive().transaction(id).map_err(storage("a transaction"))?;
        let Some(row) = row.filter(|row| row.height <= published.height()) else { return Ok(None) };
        let receipt = receipt_of(&row)?;
        let body = self.body(&row)?;
        let mut view = TransactionView {
            block_height: Some(row.height),
            index: Some(row.index),
            operation_count: Some(receipt.operations),
            fee: Some(Units(receipt.fee)),
            error: receipt.failures.first().map(|failure| codes::failure(failure.code).to_owned()),
            ..TransactionView::unknown(row.id, status_of(&receipt))
        };
        if let Some(body) = body {
            view.from = sender_of(&published, &body);
            describe(&mut view, &body, &receipt);
            view.proof = self.proof(&published, &row, &body)?;
        }
        Ok(Some(view))
    }

    fn body(&self, row: &ArchivedTransaction) -> Read<Option<Arc<Transaction>>> {
        let batch = self.archive().batch(&row.batch).map_err(storage("a batch"))?;
        let body = batch.and_then(|batch| batch.transactions().get(row.position as usize).cloned());
        match body {
            Some(body) if body.id() != row.id => {
                Err(storage("a batch")(format!("{} is not where the index says", row.id)))
            }
            body => Ok(body),
        }
    }

    /// The tree over a block's transactions; none if a body is not kept any more.
    fn tree(&self, height: u64, header: &LedgerHeader) -> Read<Option<Arc<MerkleTree>>> {
        let cached = self.trees.lock().iter().find(|(known, _)| *known == height).map(|(_, tree)| Arc::clone(tree));
        if cached.is_some() {
            return Ok(cached);
        }
        let rows = self.archive().transactions_of(height, 0, header.transactions).map_err(storage("transactions"))?;
        let mut batches = HashMap::new();
        let mut leaves = Vec::with_capacity(rows.len());
        for row in &rows {
            if let std::collections::hash_map::Entry::Vacant(entry) = batches.entry(row.batch) {
                entry.insert(self.archive().batch(&row.batch).map_err(storage("a batch"))?);
            }
            let batch = batches.get(&row.batch).and_then(Option::as_ref);
            let Some(body) = batch.and_then(|batch| batch.transactions().get(row.position as usize)) else {
                return Ok(None);
            };
            leaves.push((row.id, body.signature_digest()));
        }
        let tree = Arc::new(transaction_tree(leaves, &PlainHasher));
        if tree.root() != header.tx_root {
            return Err(storage("a proof")(format!("the transactions kept for block {height} have another root")));
        }
        let mut trees = self.trees.lock();
        trees.push_back((height, Arc::clone(&tree)));
        if trees.len() > bounds::PROOF_TREES {
            trees.pop_front();
        }
        Ok(Some(tree))
    }

    fn proof(&self, published: &Published, row: &ArchivedTransaction, body: &Transaction) -> Read<Option<ProofView>> {
        let Some(header) = self.header(published, row.height)? else { return Ok(None) };
        let Some(path) = self.tree(row.height, &header)?.and_then(|tree| tree.proof(row.index as usize)) else {
            return Ok(None);
        };
        let proof = TransactionProof { id: row.id, signature_digest: body.signature_digest(), path };
        if !proof.verify(&header.tx_root) {
            return Err(storage("a proof")(format!("{} is not at its place in block {}", row.id, row.height)));
        }
        Ok(Some(ProofView {
            signature_digest: proof.signature_digest,
            leaf: transaction_leaf(&proof.id, &proof.signature_digest),
            position: proof.path.position,
            count: proof.path.count,
            siblings: proof.path.siblings,
            transactions_root: header.tx_root,
            header: format!("0x{}", hex::encode(header.encode())),
            block_hash: header.hash(),
        }))
    }
}

/// Collects one page of what is found.
struct Found {
    page: Page,
    total: u64,
    heights: Vec<u64>,
    truncated: bool,
}

impl Found {
    const fn new(page: Page) -> Self {
        Self { page, total: 0, heights: Vec::new(), truncated: false }
    }

    fn add(&mut self, height: u64) {
        if self.total >= self.page.skip() && (self.heights.len() as u64) < self.page.size {
            self.heights.push(height);
        }
        self.total += 1;
    }
}

fn is_measured(summary: &BlockSummary) -> bool {
    summary.finalized_after_ms.is_some()
}

fn recent(published: &Published, height: u64) -> Option<&Arc<BlockSummary>> {
    // Heights are consecutive, but a restart may have left a gap: the newest that fits is looked for from the end.
    published
        .recent
        .iter()
        .rev()
        .find(|summary| summary.header.height <= height)
        .filter(|it| it.header.height == height)
}

fn header_of(block: &ArchivedBlock) -> Read<LedgerHeader> {
    LedgerHeader::decode(&block.header).map_err(|error| storage("a header")(error.to_string()))
}

fn receipt_of(row: &ArchivedTransaction) -> Read<Receipt> {
    Receipt::decode(&row.receipt).map_err(|error| storage("a receipt")(error.to_string()))
}

fn status_of(receipt: &Receipt) -> TransactionStatus {
    if receipt.applied_count() > 0 { TransactionStatus::Committed } else { TransactionStatus::Failed }
}

fn summary(row: &ArchivedTransaction) -> Read<TransactionSummary> {
    let receipt = receipt_of(row)?;
    let applied = u32::try_from(receipt.applied_count()).unwrap_or(u32::MAX);
    Ok(TransactionSummary {
        hash: row.id,
        status: status_of(&receipt),
        block_height: row.height,
        index: row.index,
        operation_count: receipt.operations,
        failed_operations: receipt.operations.saturating_sub(applied),
        fee: Units(receipt.fee),
    })
}

fn sender_of(published: &Published, body: &Transaction) -> Option<Hash> {
    match body.sender() {
        Sender::Address(address) => Some(address.0),
        Sender::Index(index) => published.view.account(index).map(|account| account.address.0),
    }
}

fn memo_text(memo: &[u8]) -> String {
    std::str::from_utf8(memo).map_or_else(|_| format!("0x{}", hex::encode(memo)), ToOwned::to_owned)
}

fn describe(view: &mut TransactionView, body: &Transaction, receipt: &Receipt) {
    view.nonce = Some(body.nonce());
    view.expiry = Some(body.expiry());
    view.atomic = Some(body.is_atomic());
    view.memo = Some(memo_text(body.memo()));
    let failures: HashMap<u32, &str> =
        receipt.failures.iter().map(|failure| (failure.position, codes::failure(failure.code))).collect();
    view.operations = (0_u32..)
        .zip(body.operations())
        .map(|(index, operation)| {
            let error = failures.get(&index).map(|code| (*code).to_owned());
            let failed = receipt.undone || error.is_some();
            let status = if failed { OperationStatus::Failed } else { OperationStatus::Applied };
            operation_view(index, &operation, status, error)
        })
        .collect();
}

fn operation_view(index: u32, operation: &Operation, status: OperationStatus, error: Option<String>) -> OperationView {
    let plain = OperationView {
        index,
        kind: "module".into(),
        to: None,
        amount: None,
        validator: None,
        name: None,
        commission_basis_points: None,
        seconds: None,
        key_number: None,
        digest: None,
        tag: None,
        status,
        error,
    };
    match operation {
        Operation::Transfer { to, amount } => {
            let to = match to {
                Target::Index(index) => index.to_string(),
                Target::Address(address) => address.to_string(),
            };
            OperationView { kind: "transfer".into(), to: Some(to), amount: Some(Units(*amount)), ..plain }
        }
        Operation::Staking(operation) => {
            let commission = match operation {
                StakingOperation::Join(registration) => Some(registration.commission),
                StakingOperation::SetCommission { commission, .. } => Some(*commission),
                _ => None,
            };
            let name = match operation {
                StakingOperation::Join(registration) => Some(registration.name.clone()),
                _ => None,
            };
            let seconds = match operation {
                StakingOperation::Maintenance { seconds, .. } => Some(*seconds),
                _ => None,
            };
            OperationView {
                kind: operation.name().into(),
                amount: operation.amount().filter(|amount| *amount != EVERYTHING).map(Units),
                validator: operation.validator(),
                name,
                commission_basis_points: commission,
                seconds,
                tag: Some(operation.tag()),
                ..plain
            }
        }
        Operation::Identity(operation) => {
            let (key_number, digest) = match operation {
                IdentityOperation::RegisterEncryptionKey(signed) => (Some(signed.number), None),
                IdentityOperation::AnchorEnvelope { digest } => (None, Some(*digest)),
            };
            let kind = operation.name().into();
            OperationView { kind, key_number, digest, tag: Some(operation.tag()), ..plain }
        }
        Operation::Module { tag } => OperationView { tag: Some(*tag), ..plain },
        _ => plain,
    }
}
