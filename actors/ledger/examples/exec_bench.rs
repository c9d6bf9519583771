//! Prints what decoding, executing, snapshotting and hashing cost per operation.
//!
//! `cargo run --release -p aurigraph-ledger --example exec_bench [accounts] [bundles] [operations]`
//! Signatures are not verified here: every transaction comes with a verdict. Transfers go to random indices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_ledger::types::{AUR, SIGNATURE_LEN};
use aurigraph_ledger::{
    AccountIndex, Address, CommitInput, CommittedBatch, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, Hash,
    Ledger, PlainHasher, PreparedTransaction, ProtocolParameters, PublicKey, SenderKey, SignatureVerifier, Target,
    Transaction, TransactionBuilder, Verdict, h,
};

struct NoVerifier;

impl SignatureVerifier for NoVerifier {
    fn verify(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

struct Setup {
    accounts: u32,
    bundles: u32,
    operations: u32,
}

const SENDERS: u32 = 64;

fn sender_key(sender: u32) -> Vec<u8> {
    let mut key = vec![0; 2_592];
    key[..4].copy_from_slice(&sender.to_le_bytes());
    key
}

fn genesis(setup: &Setup) -> Genesis {
    let account = |at: u32| match at {
        0..SENDERS => {
            let key = sender_key(at);
            let address = Address::of_public_key(&key);
            GenesisAccount { address, balance: 1_000_000 * AUR, public_key: Some(PublicKey::new(key)) }
        }
        _ => GenesisAccount { address: Address(h("bench", &at.to_le_bytes())), balance: AUR, public_key: None },
    };
    Genesis {
        network: "bench".into(),
        timestamp_ms: 1,
        fees: FeeSchedule::default(),
        parameters: ProtocolParameters { checkpoint_interval_ms: 1_000, ..ProtocolParameters::default() },
        validators: vec![GenesisValidator {
            name: "v1".into(),
            consensus_key: PublicKey::new(vec![1; 2_592]),
            network_key: PublicKey::new(vec![2; 32]),
            stake: 1,
            operator: None,
        }],
        accounts: (0..setup.accounts).map(account).collect(),
    }
}

fn bundles(setup: &Setup, chain: Hash) -> Vec<Vec<u8>> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let bundle = |at: u32| {
        let (sender, nonce) = (AccountIndex(at % SENDERS), u64::from(at / SENDERS));
        let mut builder = TransactionBuilder::new(chain, SenderKey::Index(sender), nonce, 1_000).max_fee(AUR);
        for _ in 0..setup.operations {
            let to = next() % u64::from(setup.accounts - SENDERS) + u64::from(SENDERS);
            let to = AccountIndex(u32::try_from(to).expect("below the number of accounts"));
            builder.push_transfer(Target::Index(to), u128::from(next() % 1_000_000 + 1));
        }
        let unsigned = builder.build().expect("within the limits");
        unsigned.with_signature(&[7; SIGNATURE_LEN]).expect("right length").encode().to_vec()
    };
    (0..setup.bundles).map(bundle).collect()
}

fn report(what: &str, took: Duration, setup: &Setup) {
    let operations = u128::from(setup.bundles) * u128::from(setup.operations);
    println!(
        "{what:<42} {:>9.3} ms {:>8.2} ns/op",
        took.as_secs_f64() * 1e3,
        took.as_nanos() as f64 / operations as f64
    );
}

fn prepare(encoded: &[Vec<u8>], setup: &Setup) -> Vec<PreparedTransaction> {
    let start = Instant::now();
    let decoded: Vec<Transaction> =
        encoded.iter().map(|bytes| Transaction::decode(bytes).expect("own encoding")).collect();
    report("decode (copy, digests, canonical checks)", start.elapsed(), setup);
    let with_verdict = |(at, transaction): (usize, Transaction)| {
        let key = sender_key(u32::try_from(at).expect("few bundles") % SENDERS);
        let verdict = Some(Verdict::new(&transaction, &key, true));
        PreparedTransaction { transaction: Arc::new(transaction), verdict }
    };
    decoded.into_iter().enumerate().map(with_verdict).collect()
}

fn commit(index: u64, timestamp_ms: u64, transactions: Vec<PreparedTransaction>) -> CommitInput {
    let batch = CommittedBatch { proposer: 0, digest: h("batch", &index.to_le_bytes()), transactions };
    CommitInput {
        version: aurigraph_ledger::FIRST_PROTOCOL_VERSION,
        epoch: 0,
        commit_index: index,
        commit_digest: Hash::ZERO,
        timestamp_ms,
        leader: 0,
        round: 3,
        consensus_state_digest: Hash::ZERO,
        batches: vec![batch],
        faults: Vec::new(),
        epoch_end: None,
    }
}

fn store(genesis: &Genesis, ledger: &mut Ledger) {
    let view = ledger.snapshot();
    let start = Instant::now();
    let pages = view.export_pages(None).expect("genesis is a checkpoint");
    let (exported, values) = (start.elapsed(), pages.len());
    let start = Instant::now();
    let imported = Ledger::import(genesis, Arc::new(PlainHasher), pages).expect("the pages are whole");
    let (out, back) = (exported.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3);
    println!("export {out:.1} ms, {values} values; import {back:.1} ms, root {}", imported.checkpoint().state_root);
}

fn main() {
    let argument = |at: usize, default: u32| {
        std::env::args().nth(at).map_or(default, |text| text.parse().expect("arguments are numbers"))
    };
    let setup = Setup { accounts: argument(1, 100_000), bundles: argument(2, 350), operations: argument(3, 1_000) };
    println!("{} accounts, {} bundles of {} transfers", setup.accounts, setup.bundles, setup.operations);
    let genesis = genesis(&setup);
    let start = Instant::now();
    let mut ledger = Ledger::from_genesis(&genesis, Arc::new(PlainHasher)).expect("the genesis is valid");
    println!("genesis {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    store(&genesis, &mut ledger);
    let prepared = prepare(&bundles(&setup, ledger.chain_id()), &setup);
    for round in 1..=3_u64 {
        // Fresh ledger state would cost more than it tells: the same bundles run against a ledger rebuilt each time.
        if round > 1 {
            ledger = Ledger::from_genesis(&genesis, Arc::new(PlainHasher)).expect("the genesis is valid");
        }
        let input = commit(1, 2, prepared.clone());
        let start = Instant::now();
        let outcome = ledger.execute(input, &NoVerifier).expect("the next commit");
        report("execute (block, receipts, roots over them)", start.elapsed(), &setup);
        let block = outcome.block.expect("the commit has content");
        assert!(block.exclusions.is_empty(), "every transaction is included: {:?}", block.exclusions.first());
        assert!(block.transactions.iter().all(|tx| tx.receipt.all_applied()), "every transfer succeeds");
        let start = Instant::now();
        let view = ledger.snapshot();
        report("snapshot", start.elapsed(), &setup);
        let start = Instant::now();
        let root = ledger.compute_state_root();
        report("state root", start.elapsed(), &setup);
        println!("  height {}, root {root}", view.height());
    }
}
