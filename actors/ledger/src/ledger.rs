//! The ledger: commits in, blocks and checkpoints out.
//!
//! Decides which commits become blocks, chains headers and checkpoints, and shares or restores the state. What
//! transactions do is `execute`'s business.

use std::sync::Arc;

use crate::block::{
    Checkpoint, CommitInput, CommitOutcome, CommittedBatch, ExecutedBlock, FIRST_PROTOCOL_VERSION, LedgerError,
    LedgerHeader, PROTOCOL_VERSION, SignatureVerifier,
};
use crate::execute::{BlockExecution, Collected, Rules};
use crate::foundation::Foundation;
use crate::genesis::GenesisError;
use crate::hash::Hash;
use crate::identity::Identity;
use crate::merkle::{receipt_tree, transaction_tree};
use crate::module::{BlockFacts, Module};
use crate::staking::{Staking, StakingTable};
use crate::state::{
    Accounts, ImportError, Imported, ResumeError, Sealed, State, StateView, StoredPage, SystemState, ViewParts,
    read_pages, state_root,
};
use crate::tree_hasher::TreeHasher;
use crate::types::{Amount, ValidatorIndex};

/// Batches are remembered for this many times the consensus's own depth: its rounds, and as many again in which a
/// proposer may offer a batch anew.
const REMEMBERED_DEPTHS: u32 = 2;

/// The ledger's state machine.
pub struct Ledger {
    rules: Arc<Rules>,
    hasher: Arc<dyn TreeHasher>,
    state: State,
    header: LedgerHeader,
    header_hash: Hash,
    checkpoint: Checkpoint,
    /// Time of the block at which the newest checkpoint was taken.
    checkpoint_ms: u64,
    commit_index: u64,
    commit_ms: u64,
    /// The state at rest, if nothing was executed since the newest checkpoint.
    sealed: Option<Arc<Sealed>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("height", &self.header.height)
            .field("commit_index", &self.commit_index)
            .field("accounts", &self.state.accounts.count())
            .finish_non_exhaustive()
    }
}

fn rules_of(genesis: &Foundation) -> Rules {
    let supply = genesis.staked().and_then(|staked| genesis.supply().checked_add(staked));
    let mintable = supply.map_or(0, |supply| Amount::MAX - supply);
    Rules { chain_id: genesis.chain_id(), fees: genesis.fees, parameters: genesis.parameters, mintable }
}

/// The modules of this protocol version, in the order of their numbers.
fn modules() -> Vec<Box<dyn Module>> {
    vec![Box::<Staking>::default(), Box::<Identity>::default()]
}

fn genesis_header(genesis: &Foundation, chain_id: Hash, state_root: Hash, hasher: &dyn TreeHasher) -> LedgerHeader {
    LedgerHeader {
        height: 0,
        epoch: 0,
        commit_index: 0,
        commit_digest: chain_id,
        timestamp_ms: genesis.timestamp_ms,
        leader: 0,
        round: 0,
        parent: Hash::ZERO,
        tx_root: transaction_tree([], hasher).root(),
        receipts_root: receipt_tree([], hasher).root(),
        checkpoint_seq: 0,
        state_root,
        transactions: 0,
        operations: 0,
    }
}

impl Ledger {
    /// The ledger before the first commit, at height 0 and checkpoint 0. A plain genesis is checked and copied first, a
    /// [`Foundation`] is neither.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis is not valid.
    pub fn from_genesis<'g, G: ?Sized>(genesis: &'g G, hasher: Arc<dyn TreeHasher>) -> Result<Self, GenesisError>
    where
        Foundation: TryFrom<&'g G, Error = GenesisError>,
    {
        Self::from_genesis_with(genesis, hasher, modules())
    }

    /// [`Ledger::from_genesis`] with other modules than this protocol version's.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis is not valid.
    pub fn from_genesis_with<'g, G: ?Sized>(
        genesis: &'g G,
        hasher: Arc<dyn TreeHasher>,
        mut modules: Vec<Box<dyn Module>>,
    ) -> Result<Self, GenesisError>
    where
        Foundation: TryFrom<&'g G, Error = GenesisError>,
    {
        let genesis = &Foundation::try_from(genesis)?;
        let rules = rules_of(genesis);
        modules.sort_by_key(|module| module.id());
        modules.iter_mut().for_each(|module| module.genesis(genesis));
        let invalid_signatures = vec![0; genesis.validators.len()];
        let system = SystemState { chain_id: rules.chain_id, invalid_signatures, ..SystemState::default() };
        let mut state = State { accounts: Accounts::of_genesis(&genesis.accounts), system, modules };
        let sealed = state.seal(&*hasher);
        let header = genesis_header(genesis, rules.chain_id, sealed.state_root, &*hasher);
        let checkpoint = Checkpoint {
            chain_id: rules.chain_id,
            epoch: 0,
            seq: 0,
            prev_digest: Hash::ZERO,
            commit_index: 0,
            commit_digest: rules.chain_id,
            ledger_height: 0,
            ledger_header_digest: header.hash(),
            state_root: sealed.state_root,
            consensus_state_digest: Hash::ZERO,
            next_set_root: None,
        };
        Ok(Self::at_checkpoint(rules, hasher, state, header, checkpoint, sealed))
    }

    /// A ledger that stands exactly at a checkpoint.
    fn at_checkpoint(
        rules: Rules,
        hasher: Arc<dyn TreeHasher>,
        state: State,
        header: LedgerHeader,
        checkpoint: Checkpoint,
        sealed: Sealed,
    ) -> Self {
        Self {
            rules: Arc::new(rules),
            hasher,
            state,
            header_hash: header.hash(),
            checkpoint,
            checkpoint_ms: header.timestamp_ms,
            commit_index: header.commit_index,
            // The genesis time is a configured one: the first commits may well be stamped before it.
            commit_ms: if header.commit_index == 0 { 0 } else { header.timestamp_ms },
            header,
            sealed: Some(Arc::new(sealed)),
        }
    }

    /// Rebuilds the ledger at a checkpoint from what [`StateView::export_pages`] gave, and checks that the pages have
    /// the root of their checkpoint. Whether that checkpoint is the right one is for the caller to compare.
    ///
    /// # Errors
    /// [`ImportError`] naming what is missing, does not decode or does not fit.
    pub fn import<'g, G: ?Sized>(
        genesis: &'g G,
        hasher: Arc<dyn TreeHasher>,
        pages: impl IntoIterator<Item = StoredPage>,
    ) -> Result<Self, ImportError>
    where
        Foundation: TryFrom<&'g G, Error = GenesisError>,
    {
        Self::import_with(genesis, hasher, pages, modules())
    }

    /// [`Ledger::import`] with other modules than this protocol version's.
    ///
    /// # Errors
    /// Those of [`Ledger::import`].
    pub fn import_with<'g, G: ?Sized>(
        genesis: &'g G,
        hasher: Arc<dyn TreeHasher>,
        pages: impl IntoIterator<Item = StoredPage>,
        mut modules: Vec<Box<dyn Module>>,
    ) -> Result<Self, ImportError>
    where
        Foundation: TryFrom<&'g G, Error = GenesisError>,
    {
        let genesis = &Foundation::try_from(genesis)?;
        modules.sort_by_key(|module| module.id());
        modules.iter_mut().for_each(|module| module.genesis(genesis));
        let rules = rules_of(genesis);
        let Imported { mut state, header, checkpoint } = read_pages(pages, modules)?;
        for found in [state.system.chain_id, checkpoint.chain_id] {
            if found != rules.chain_id {
                return Err(ImportError::Chain { expected: rules.chain_id, found });
            }
        }
        let (seq, expected, found) = (checkpoint.seq, checkpoint.ledger_header_digest, header.hash());
        if expected != found {
            return Err(ImportError::Header { seq, expected, found });
        }
        let sealed = state.seal(&*hasher);
        let (expected, found) = (checkpoint.state_root, sealed.state_root);
        if expected != found {
            return Err(ImportError::StateRoot { seq, expected, found });
        }
        Ok(Self::at_checkpoint(rules, hasher, state, header, checkpoint, sealed))
    }

    /// Goes on from a view of a checkpoint within one process, sharing its pages: for an executor that is restarted.
    /// Costs some nanoseconds an account. The roots that the view carries are compared with its checkpoint, its pages
    /// are not hashed again.
    ///
    /// # Errors
    /// [`ResumeError`] if the view is not of a checkpoint, of another chain, or does not fit together.
    pub fn resume<'g, G: ?Sized>(
        genesis: &'g G,
        hasher: Arc<dyn TreeHasher>,
        view: &StateView,
    ) -> Result<Self, ResumeError>
    where
        Foundation: TryFrom<&'g G, Error = GenesisError>,
    {
        Self::resume_with(genesis, hasher, view, modules())
    }

    /// [`Ledger::resume`] with other modules than this protocol version's.
    ///
    /// # Errors
    /// Those of [`Ledger::resume`].
    pub fn resume_with<'g, G: ?Sized>(
        genesis: &'g G,
        hasher: Arc<dyn TreeHasher>,
        view: &StateView,
        mut modules: Vec<Box<dyn Module>>,
    ) -> Result<Self, ResumeError>
    where
        Foundation: TryFrom<&'g G, Error = GenesisError>,
    {
        let genesis = &Foundation::try_from(genesis)?;
        modules.sort_by_key(|module| module.id());
        modules.iter_mut().for_each(|module| module.genesis(genesis));
        let rules = rules_of(genesis);
        let (state, sealed) = view.resume(modules)?;
        if state.system.chain_id != rules.chain_id {
            return Err(ResumeError::Chain { expected: rules.chain_id, found: state.system.chain_id });
        }
        let (seq, expected) = (view.checkpoint().seq, view.checkpoint().state_root);
        let found = state_root(&sealed.roots);
        if expected != found {
            return Err(ResumeError::StateRoot { seq, expected, found });
        }
        Ok(Self::at_checkpoint(rules, hasher, state, *view.header(), *view.checkpoint(), sealed))
    }

    /// The chain.
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        self.rules.chain_id
    }

    /// The newest block's height.
    #[must_use]
    pub const fn height(&self) -> u64 {
        self.header.height
    }

    /// The newest block's header.
    #[must_use]
    pub const fn header(&self) -> &LedgerHeader {
        &self.header
    }

    /// Its hash.
    #[must_use]
    pub const fn header_hash(&self) -> Hash {
        self.header_hash
    }

    /// The newest checkpoint.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The last executed commit's index.
    #[must_use]
    pub const fn commit_index(&self) -> u64 {
        self.commit_index
    }

    /// Fees not yet shared out.
    #[must_use]
    pub const fn fee_pool(&self) -> Amount {
        self.state.system.fee_pool
    }

    /// How many validators the epoch that runs has.
    #[must_use]
    pub fn validators(&self) -> usize {
        self.state.system.invalid_signatures.len()
    }

    /// The hasher that was injected.
    #[must_use]
    pub fn hasher(&self) -> &Arc<dyn TreeHasher> {
        &self.hasher
    }

    /// The state's root now, whether or not a checkpoint is due: for tests, tools and the comparison of replicas.
    pub fn compute_state_root(&mut self) -> Hash {
        self.state.seal(&*self.hasher).state_root
    }

    /// An immutable view of the state now. Only one taken right after a checkpoint can prove and be stored.
    pub fn snapshot(&mut self) -> StateView {
        self.state.accounts.publish();
        let (rules, sealed) = (self.rules.clone(), self.sealed.clone());
        StateView::new(ViewParts::share(&self.state, rules, self.header, self.checkpoint, sealed))
    }

    /// Executes the next commit.
    ///
    /// # Errors
    /// [`LedgerError`] if the commit is not the next one; the ledger is unchanged then.
    pub fn execute(
        &mut self,
        input: CommitInput,
        verifier: &dyn SignatureVerifier,
    ) -> Result<CommitOutcome, LedgerError> {
        self.check_input(&input)?;
        self.sealed = None;
        self.commit_index = input.commit_index;
        self.commit_ms = input.timestamp_ms;
        let batches = self.new_batches(&input);
        let has_content = input.epoch_end.is_some()
            || !input.faults.is_empty()
            || batches.iter().any(|batch| !batch.transactions.is_empty());
        let since_block = input.timestamp_ms.saturating_sub(self.header.timestamp_ms);
        if !has_content && since_block < self.rules.parameters.heartbeat_ms {
            return Ok(CommitOutcome::default());
        }
        let CommitInput { timestamp_ms, epoch, version, .. } = input;
        let facts = BlockFacts { height: self.header.height + 1, timestamp_ms, epoch, version };
        let mut execution = BlockExecution::new(&mut self.state, &self.rules, facts, verifier);
        execution.faults(&input.faults);
        for batch in batches {
            execution.batch(batch);
        }
        if let Some(end) = &input.epoch_end {
            execution.end_epoch(end);
        }
        let collected = execution.finish();
        let block = self.append_block(&input, collected);
        let checkpoint = self.checkpoint_if_due(&input);
        Ok(CommitOutcome { block: Some(block), checkpoint })
    }

    fn check_input(&self, input: &CommitInput) -> Result<(), LedgerError> {
        let commit_index = input.commit_index;
        let expected = self.commit_index + 1;
        if commit_index != expected {
            return Err(LedgerError::CommitOrder { expected, found: commit_index });
        }
        if !(FIRST_PROTOCOL_VERSION..=PROTOCOL_VERSION).contains(&input.version) {
            return Err(LedgerError::Version { commit_index, found: input.version });
        }
        if input.timestamp_ms < self.commit_ms {
            let (last, found) = (self.commit_ms, input.timestamp_ms);
            return Err(LedgerError::TimeRanBackwards { commit_index, last, found });
        }
        let staking = self.staking();
        if let Some(expected) = staking.map(StakingTable::epoch).filter(|epoch| *epoch != input.epoch) {
            return Err(LedgerError::Epoch { commit_index, expected, found: input.epoch });
        }
        let count = self.state.system.invalid_signatures.len();
        let proposers = input.batches.iter().map(|batch| batch.proposer);
        let reporters = input.faults.iter().map(|fault| fault.reporter);
        let of_epoch = std::iter::once(input.leader).chain(proposers).chain(reporters).map(|index| (index, count));
        // Of an epoch whose set is forgotten nothing is known, and no fault counts.
        let set_len = |epoch| staking.map_or(Some(count), |staking| staking.set_len(epoch));
        let faulty = input.faults.iter().filter_map(|fault| Some((fault.validator, set_len(fault.epoch)?)));
        match of_epoch.chain(faulty).find(|(index, count): &(ValidatorIndex, usize)| usize::from(*index) >= *count) {
            Some((index, count)) => Err(LedgerError::UnknownValidator { commit_index, index, count }),
            None => Ok(()),
        }
    }

    /// The table of validators and stakes; none in a ledger without the module.
    fn staking(&self) -> Option<&StakingTable> {
        self.state.modules.iter().find_map(|module| module.staking())
    }

    /// The batches that were not delivered before, and notes that they now are.
    fn new_batches<'a>(&mut self, input: &'a CommitInput) -> Vec<&'a CommittedBatch> {
        let system = &mut self.state.system;
        if system.epoch != input.epoch {
            // Rounds start again, and a batch's digest contains its epoch.
            system.epoch = input.epoch;
            system.delivered.clear();
        }
        let depth = self.rules.parameters.gc_depth * REMEMBERED_DEPTHS;
        system.delivered.forget_before(input.round.saturating_sub(depth));
        input.batches.iter().filter(|batch| system.delivered.insert(input.round, batch.digest)).collect()
    }

    fn append_block(&mut self, input: &CommitInput, collected: Collected) -> ExecutedBlock {
        let Collected { transactions, exclusions, events, operations, bytes } = collected;
        let leaves = transactions.iter().map(|tx| (tx.transaction.id(), tx.transaction.signature_digest()));
        let header = LedgerHeader {
            height: self.header.height + 1,
            epoch: input.epoch,
            commit_index: input.commit_index,
            commit_digest: input.commit_digest,
            timestamp_ms: input.timestamp_ms,
            leader: input.leader,
            round: input.round,
            parent: self.header_hash,
            tx_root: transaction_tree(leaves, &*self.hasher).root(),
            receipts_root: receipt_tree(transactions.iter().map(|tx| &tx.receipt), &*self.hasher).root(),
            checkpoint_seq: self.checkpoint.seq,
            state_root: self.checkpoint.state_root,
            transactions: u32::try_from(transactions.len()).expect("a block has fewer than 2^32 transactions"),
            operations,
        };
        self.header = header;
        self.header_hash = header.hash();
        ExecutedBlock { header, hash: self.header_hash, transactions, exclusions, events, bytes }
    }

    fn checkpoint_if_due(&mut self, input: &CommitInput) -> Option<Checkpoint> {
        let since = input.timestamp_ms.saturating_sub(self.checkpoint_ms);
        if input.epoch_end.is_none() && since < self.rules.parameters.checkpoint_interval_ms {
            return None;
        }
        let next_set = input.epoch_end.as_ref().and_then(|_| self.staking()?.set_of(input.epoch + 1));
        let sealed = self.state.seal(&*self.hasher);
        self.checkpoint = Checkpoint {
            chain_id: self.rules.chain_id,
            epoch: input.epoch,
            seq: self.checkpoint.seq + 1,
            prev_digest: self.checkpoint.digest(),
            commit_index: input.commit_index,
            commit_digest: input.commit_digest,
            ledger_height: self.header.height,
            ledger_header_digest: self.header_hash,
            state_root: sealed.state_root,
            consensus_state_digest: input.consensus_state_digest,
            next_set_root: next_set.map(|set| set.root()),
        };
        self.checkpoint_ms = input.timestamp_ms;
        self.sealed = Some(Arc::new(sealed));
        Some(self.checkpoint)
    }
}

/// Views go to readers on other threads, and the ledger to the thread that executes.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<StateView>();
    shared::<Ledger>();
    shared::<CommitOutcome>();
};
