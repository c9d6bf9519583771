//! What the tests share: a network of fake keys, commits, seeds.
//!
//! The fake signature of a message is a stream of BLAKE3 over key and message: no cryptography of keys is needed to
//! test rules about verdicts.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use aurigraph_ledger::types::{AUR, PUBLIC_KEY_LEN, SIGNATURE_LEN};
use aurigraph_ledger::{
    AccountIndex, Address, Amount, CommitInput, CommitOutcome, CommittedBatch, ExclusionReason, ExecutedBlock,
    FeeSchedule, Genesis, GenesisAccount, GenesisValidator, Hash, Ledger, PlainHasher, PreparedTransaction,
    ProtocolParameters, PublicKey, SenderKey, SignatureVerifier, Transaction, TransactionBuilder, Verdict, h,
};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Accounts 0 to 3 have registered keys, 4 and 5 only addresses of keys that exist.
pub const KEYED: u32 = 4;
pub const ACCOUNTS: u32 = 6;
pub const START_BALANCE: Amount = 100 * AUR;
pub const GENESIS_MS: u64 = 1_000_000;

pub fn key(account: u32) -> Vec<u8> {
    let mut key = vec![0; PUBLIC_KEY_LEN];
    blake3::Hasher::new().update(b"key").update(&account.to_le_bytes()).finalize_xof().fill(&mut key);
    key
}

pub fn address(account: u32) -> Address {
    Address::of_public_key(&key(account))
}

pub fn fake_signature(public_key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; SIGNATURE_LEN];
    blake3::Hasher::new().update(public_key).update(message).finalize_xof().fill(&mut signature);
    signature
}

/// Checks fake signatures, and counts how often it is asked.
#[derive(Default)]
pub struct FakeVerifier {
    pub asked: Cell<usize>,
}

impl SignatureVerifier for FakeVerifier {
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.asked.set(self.asked.get() + 1);
        fake_signature(public_key, message) == signature
    }
}

pub fn genesis() -> Genesis {
    let validator = |n: u8| GenesisValidator {
        name: format!("v{n}"),
        consensus_key: PublicKey::new(vec![n; PUBLIC_KEY_LEN]),
        network_key: PublicKey::new(vec![n; 40]),
        stake: 100,
        operator: None,
    };
    let account = |n: u32| GenesisAccount {
        address: address(n),
        balance: START_BALANCE,
        public_key: (n < KEYED).then(|| PublicKey::new(key(n))),
    };
    Genesis {
        network: "test".into(),
        timestamp_ms: GENESIS_MS,
        fees: FeeSchedule { base: 1_000, per_operation: 10, per_byte: 1, invalid_signature_fee: 5_000 },
        parameters: ProtocolParameters::default(),
        validators: (1..=4).map(validator).collect(),
        accounts: (0..ACCOUNTS).map(account).collect(),
    }
}

/// Signs a transaction with the fake key of an account.
pub fn sign(builder: &TransactionBuilder, account: u32) -> Transaction {
    let unsigned = builder.build().expect("the test builds within the limits");
    let signature = fake_signature(&key(account), &unsigned.signing_message());
    unsigned.with_signature(&signature).expect("the signature has the right length")
}

/// The transaction signed anew, with the fake key of an account, as its bytes are.
pub fn sign_again(tx: &Transaction, account: u32) -> Transaction {
    let mut bytes = tx.encode().to_vec();
    let at = bytes.len() - SIGNATURE_LEN;
    bytes[at..].copy_from_slice(&fake_signature(&key(account), &tx.signing_message()));
    Transaction::decode(&bytes).expect("only the signature is another")
}

/// The transaction with a broken signature.
pub fn corrupt(tx: &Transaction) -> Transaction {
    let mut bytes = tx.encode().to_vec();
    *bytes.last_mut().expect("a transaction has bytes") ^= 1;
    Transaction::decode(&bytes).expect("any signature bytes decode")
}

pub fn with_verdict(tx: Transaction, account: u32, valid: bool) -> PreparedTransaction {
    let verdict = Some(Verdict::new(&tx, &key(account), valid));
    PreparedTransaction { transaction: Arc::new(tx), verdict }
}

/// A ledger, and the commits it has had.
pub struct World {
    pub ledger: Ledger,
    pub verifier: FakeVerifier,
    pub genesis: Genesis,
    pub now: u64,
    /// The protocol version of the epoch.
    pub version: u16,
    pub epoch: u64,
    batches: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(genesis())
    }

    pub fn with(genesis: Genesis) -> Self {
        let ledger = Ledger::from_genesis(&genesis, Arc::new(PlainHasher)).expect("the genesis is valid");
        Self { ledger, verifier: FakeVerifier::default(), genesis, now: GENESIS_MS, version: 1, epoch: 0, batches: 0 }
    }

    pub fn builder(&self, sender: u32, nonce: u64) -> TransactionBuilder {
        let expiry = self.ledger.height() + 100;
        let sender = SenderKey::Index(AccountIndex(sender));
        TransactionBuilder::new(self.ledger.chain_id(), sender, nonce, expiry).fees(&self.genesis.fees)
    }

    pub fn builder_with_key(&self, sender: u32, nonce: u64) -> TransactionBuilder {
        let expiry = self.ledger.height() + 100;
        let sender = SenderKey::PublicKey(key(sender));
        TransactionBuilder::new(self.ledger.chain_id(), sender, nonce, expiry).fees(&self.genesis.fees)
    }

    pub fn batch(&mut self, proposer: u16, transactions: Vec<PreparedTransaction>) -> CommittedBatch {
        self.batches += 1;
        let proposer = proposer.min(self.last_validator());
        CommittedBatch { proposer, digest: h("test-batch", &self.batches.to_le_bytes()), transactions }
    }

    pub fn input(&self, batches: Vec<CommittedBatch>) -> CommitInput {
        let commit_index = self.ledger.commit_index() + 1;
        CommitInput {
            version: self.version,
            epoch: self.epoch,
            commit_index,
            commit_digest: h("test-commit", &commit_index.to_le_bytes()),
            timestamp_ms: self.now,
            leader: self.last_validator().min(1),
            round: u32::try_from(commit_index).expect("tests are short") + 2,
            consensus_state_digest: h("test-consensus", &commit_index.to_le_bytes()),
            batches,
            faults: Vec::new(),
            epoch_end: None,
        }
    }

    /// The last position in the set of the epoch that runs.
    fn last_validator(&self) -> u16 {
        let members = self.ledger.validators();
        u16::try_from(members).expect("at most 128") - 1
    }

    pub fn commit_batches(&mut self, batches: Vec<CommittedBatch>) -> CommitOutcome {
        self.now += 100;
        let input = self.input(batches);
        self.ledger.execute(input, &self.verifier).expect("the commit is the next one")
    }

    /// One commit of one batch by validator 2.
    pub fn commit(&mut self, transactions: Vec<PreparedTransaction>) -> ExecutedBlock {
        let batch = self.batch(2, transactions);
        self.commit_batches(vec![batch]).block.expect("the commit has content")
    }

    /// Commits a single transaction and expects it to be excluded; returns why.
    pub fn excluded(&mut self, tx: Transaction) -> ExclusionReason {
        let block = self.commit(vec![tx.into()]);
        assert!(block.transactions.is_empty(), "the transaction is in the block");
        assert_eq!(block.exclusions.len(), 1);
        block.exclusions[0].reason
    }

    pub fn balance(&mut self, account: u32) -> Amount {
        self.ledger.snapshot().balance(AccountIndex(account)).expect("the account exists")
    }

    /// All money: balances, the fee pool, what the staking module holds and what it burnt, without genesis' stakes.
    pub fn total(&mut self) -> Amount {
        let view = self.ledger.snapshot();
        let balances = (0..view.account_count()).filter_map(|account| view.balance(AccountIndex(account)));
        let staked = view.staking().map_or(0, |table| table.held() + table.burnt());
        balances.sum::<Amount>() + view.fee_pool() + staked - self.genesis.staked().expect("no overflow")
    }

    pub fn nonce(&mut self, account: u32) -> u64 {
        self.ledger.snapshot().account(AccountIndex(account)).expect("the account exists").nonce
    }

    pub fn root(&mut self) -> Hash {
        self.ledger.compute_state_root()
    }
}

/// Runs a property with a fresh seed, or with the one in `AURIGRAPH_TEST_SEED`; the seed is printed.
pub fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let given = std::env::var("AURIGRAPH_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one("seed"));
    println!("AURIGRAPH_TEST_SEED={seed}");
    let seed = blake3::hash(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, seed.as_bytes());
    if let Err(error) = TestRunner::new_with_rng(config, rng).run(&strategy, test) {
        panic!("{error}");
    }
}
