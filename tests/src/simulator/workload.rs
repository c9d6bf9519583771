//! Clients: accounts with keys, batches of signed transactions, good ones and bad ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_consensus::BatchRef;
use aurigraph_ledger::types::{AUR, PUBLIC_KEY_LEN, SIGNATURE_LEN};
use aurigraph_ledger::{
    AccountIndex, Address, Foundation, Genesis, GenesisAccount, GenesisValidator, Hash, ProtocolParameters, PublicKey,
    Reader, Sender, SenderKey, SignatureVerifier, Target, Transaction, TransactionBuilder, Verdict, Writer, h, h_parts,
};
use bytes::Bytes;

use super::rng::Rng;
use super::scenario::Scenario;

/// Accounts of the genesis; the later half has no registered key yet.
const ACCOUNTS: usize = 16;
const REGISTERED: usize = 8;
/// Entries of a batch at most.
const MAX_ENTRIES: u64 = 64;

/// The simulator's transaction signatures: a keyed hash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StubVerifier;

fn stub(public_key: &[u8], message: &[u8]) -> Hash {
    // The first bytes tell the simulator's keys apart.
    h_parts("simulated-signature", &[&public_key[..public_key.len().min(32)], message])
}

impl SignatureVerifier for StubVerifier {
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        signature.get(..32) == Some(stub(public_key, message).as_bytes().as_slice())
    }
}

fn key(kind: &str, number: usize) -> Vec<u8> {
    let mark = h_parts("simulated-key", &[kind.as_bytes(), &number.to_le_bytes()]);
    let mut bytes = vec![0; PUBLIC_KEY_LEN];
    bytes[..32].copy_from_slice(mark.as_bytes());
    bytes
}

/// The genesis of a scenario.
pub(crate) fn genesis(scenario: &Scenario, start_ms: u64) -> Genesis {
    let validator = |(number, stake): (usize, &u64)| GenesisValidator {
        name: format!("v{}", number + 1),
        consensus_key: PublicKey::new(key("consensus", number)),
        network_key: PublicKey::new(key("network", number)),
        stake: *stake,
        operator: None,
    };
    let account = |number: usize| {
        let public_key = key("account", number);
        GenesisAccount {
            address: Address::of_public_key(&public_key),
            balance: 1_000 * AUR,
            public_key: (number < REGISTERED).then(|| PublicKey::new(public_key)),
        }
    };
    Genesis {
        network: "simulated".to_owned(),
        timestamp_ms: start_ms,
        fees: aurigraph_ledger::FeeSchedule::default(),
        parameters: ProtocolParameters {
            checkpoint_interval_ms: 700,
            heartbeat_ms: 1_500,
            gc_depth: scenario.gc_depth,
            leaders_per_round: scenario.leaders_per_round,
            schedule_window: scenario.schedule_window,
            ..ProtocolParameters::default()
        },
        validators: scenario.stakes.iter().enumerate().map(validator).collect(),
        accounts: (0..ACCOUNTS).map(account).collect(),
    }
}

/// The clients of a run, and what their batches hold.
#[derive(Debug)]
pub(crate) struct Workload {
    rng: Rng,
    genesis: Foundation,
    chain_id: Hash,
    keys: Vec<Vec<u8>>,
    nonces: Vec<u64>,
    batches: u64,
    last: Option<Bytes>,
    decoded: BTreeMap<Hash, Arc<[Entry]>>,
}

/// A transaction of a batch, with what validators may have found out about its signature ahead.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) transaction: Arc<Transaction>,
    /// The right verdict, if the genesis tells its key.
    pub(crate) right: Option<Verdict>,
    /// A verdict under another key.
    pub(crate) strange: Option<Verdict>,
}

impl Workload {
    pub(crate) fn new(rng: Rng, genesis: Foundation) -> Self {
        Self {
            rng,
            chain_id: genesis.chain_id(),
            genesis,
            keys: (0..ACCOUNTS).map(|number| key("account", number)).collect(),
            nonces: vec![0; ACCOUNTS],
            batches: 0,
            last: None,
            decoded: BTreeMap::new(),
        }
    }

    /// A new batch for a validator at this height; some from a faulty one are full of rubbish.
    pub(crate) fn batch(&mut self, author: u16, height: u64, faulty: bool) -> (BatchRef, Bytes) {
        self.batches += 1;
        let mut w = Writer::new();
        w.u16(author).u64(self.batches);
        let entries = self.rng.between(1, 3);
        w.varint(entries);
        for _ in 0..entries {
            let entry = if faulty && self.rng.chance(300) {
                Bytes::from_static(b"no transaction")
            } else {
                self.entry(height, faulty)
            };
            w.bytes(&entry);
        }
        let body = Bytes::from(w.into_bytes());
        let len = u32::try_from(body.len()).expect("small");
        let tx_count = u32::try_from(entries).expect("small");
        // No two batches of a run have the same number.
        (BatchRef { digest: h("simulated-batch", &self.batches.to_le_bytes()), len, tx_count }, body)
    }

    fn entry(&mut self, height: u64, faulty: bool) -> Bytes {
        if self.rng.chance(60)
            && let Some(again) = &self.last
        {
            return again.clone();
        }
        let entry = self.transaction(height, faulty);
        self.last = Some(entry.clone());
        entry
    }

    fn transaction(&mut self, height: u64, faulty: bool) -> Bytes {
        let from = self.rng.index(ACCOUNTS);
        let odd = self.rng.below(1_000);
        let nonce = match odd {
            0..30 => self.nonces[from].saturating_sub(1),
            30..40 => self.nonces[from] + 5_000,
            _ => self.nonces[from],
        };
        self.nonces[from] = self.nonces[from].max(nonce + 1).min(self.nonces[from] + 1);
        let by_index = from < REGISTERED && self.rng.chance(700);
        let sender = if by_index {
            SenderKey::Index(AccountIndex(u32::try_from(from).expect("few")))
        } else {
            SenderKey::PublicKey(self.keys[from].clone())
        };
        let expiry = if odd < 950 { height + 500 } else { height.saturating_sub(3) };
        let mut builder = TransactionBuilder::new(self.chain_id, sender, nonce, expiry)
            .fees(&self.genesis.fees)
            .atomic(self.rng.chance(300));
        for _ in 0..self.rng.between(1, 4) {
            let to = if self.rng.chance(800) {
                Target::Index(AccountIndex(u32::try_from(self.rng.below(ACCOUNTS as u64 + 4)).expect("few")))
            } else {
                Target::Address(Address(h("recipient", &self.rng.below(200).to_le_bytes())))
            };
            let amount = if self.rng.chance(30) { 5_000 * AUR } else { u128::from(self.rng.between(1, 1_000_000)) };
            builder = builder.transfer(to, amount);
        }
        let unsigned = builder.build().expect("within the limits");
        let mut signature = [0; SIGNATURE_LEN];
        signature[..32].copy_from_slice(stub(&self.keys[from], &unsigned.signing_message()).as_bytes());
        if faulty && self.rng.chance(300) {
            signature[0] ^= 1;
        }
        unsigned.with_signature(&signature).expect("the right length").shared_bytes()
    }

    /// The transactions of a body, decoded once.
    pub(crate) fn decode(&mut self, digest: &Hash, body: &Bytes) -> Arc<[Entry]> {
        if let Some(known) = self.decoded.get(digest) {
            return known.clone();
        }
        let entries = entries(body).unwrap_or_default();
        let transactions = entries.into_iter().filter_map(|entry| Transaction::decode_shared(entry).ok());
        let decoded: Arc<[Entry]> = transactions.map(|transaction| self.known(transaction)).collect();
        self.decoded.insert(*digest, decoded.clone());
        decoded
    }

    fn known(&self, transaction: Transaction) -> Entry {
        let key = self.key_of(&transaction);
        let right = key.map(|key| {
            let valid = StubVerifier.verify(key, &transaction.signing_message(), transaction.signature());
            Verdict::new(&transaction, key, valid)
        });
        let strange = key.map(|_| Verdict::new(&transaction, b"another key", false));
        Entry { transaction: Arc::new(transaction), right, strange }
    }

    /// The key a transaction must be signed with, as far as the genesis tells.
    fn key_of<'a>(&'a self, transaction: &'a Transaction) -> Option<&'a [u8]> {
        match transaction.sender() {
            Sender::Address(_) => transaction.sender_key(),
            Sender::Index(index) => self.keys.get(index.as_usize()).map(Vec::as_slice),
        }
    }
}

/// The entries of a batch body.
fn entries(body: &Bytes) -> Option<Vec<Bytes>> {
    let mut r = Reader::new(body);
    r.u16().ok()?;
    r.u64().ok()?;
    let count = r.varint_max("entries", MAX_ENTRIES).ok()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let len = r.bytes("entry", body.len()).ok()?.len();
        entries.push(body.slice(r.offset() - len..r.offset()));
    }
    r.finish().ok()?;
    Some(entries)
}
