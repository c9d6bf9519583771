//! What a day of checkpoints and blocks does to the store's size: the node's own writer under a compressed day.
//!
//! With `--factor` the store is rewritten meanwhile as a node would (`storage.rewrite_factor`). A copy is paced by the clock, so
//! the next checkpoint waits for it, 30 s at the most, as it would in a node.
//!
//! ```sh
//! cargo run --release -p aurigraph-actors --example churn -- --accounts 20000
//! ```
//!
//! The store actor gets what a node sends it in 24 hours: a checkpoint every 30 s, each after transfers to accounts drawn
//! from all, and the index of the blocks between. Scaled: nobody waits between checkpoints, and the blocks between two
//! are one, with all their transactions. Redo records stay in memory; the journal is no part of the figures.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_actors::bounds::storage::STORE_MAILBOX;
use aurigraph_actors::parties;
use aurigraph_actors::storage::{
    RewriteOptions, Store, StoreActor, StoreMsg, StoreOptions, StoredBlock, StoredTransaction,
};
use aurigraph_ledger::types::{AUR, PUBLIC_KEY_LEN, SIGNATURE_LEN};
use aurigraph_ledger::{
    AccountIndex, Address, CommitInput, CommittedBatch, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, Hash,
    Ledger, PlainHasher, ProtocolParameters, PublicKey, SenderKey, SignatureVerifier, StateView, Target,
    TransactionBuilder, blake3_digest,
};
use aurigraph_runtime::Registry;
use aurigraph_runtime::supervisor::{ChildSpec, Strategy, SupervisorSpec, Tree};
use aurigraph_schema_upgrades::node::v004_address_index::{Party, RECEIVER, SENDER};

const USAGE: &str = "churn [--accounts 20000] [--checkpoints 2880] [--transactions 600] [--transfers 4000] [--factor 0]
  [--floor MIB] [--folder DIR]

Between two of --checkpoints there are --transfers to accounts drawn from all of --accounts (they make the pages that the
checkpoint writes), and --transactions go into the index. 2,880 are a day of one every 30 s; 600 are 20 a second.
With a --factor the store is rewritten once it takes more than so many times its data on disk, and --floor (256) at the least.";

const LONG: Duration = Duration::from_secs(600);
const LINES: u32 = 24;
/// Time between two checkpoints of a node.
const APART: Duration = Duration::from_secs(30);

struct Task {
    accounts: u32,
    checkpoints: u32,
    transactions: u32,
    transfers: u32,
    rewrite: RewriteOptions,
    folder: Option<PathBuf>,
}

fn read(mut words: impl Iterator<Item = String>) -> Option<Task> {
    let mut task = Task {
        accounts: 20_000,
        checkpoints: 2_880,
        transactions: 600,
        transfers: 4_000,
        rewrite: RewriteOptions { factor: 0, floor: 256 << 20 },
        folder: None,
    };
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        match flag.as_str() {
            "--accounts" => task.accounts = value.parse().ok().filter(|count| *count > 1)?,
            "--checkpoints" => task.checkpoints = value.parse().ok()?,
            "--transactions" => task.transactions = value.parse().ok()?,
            "--transfers" => task.transfers = value.parse().ok().filter(|count| *count <= 4_096)?,
            "--factor" => task.rewrite.factor = value.parse().ok()?,
            "--floor" => task.rewrite.floor = value.parse::<u64>().ok()? << 20,
            "--folder" => task.folder = Some(value.into()),
            _ => return None,
        }
    }
    Some(task)
}

struct AnySignature;

impl SignatureVerifier for AnySignature {
    fn verify(&self, _public_key: &[u8], _message: &[u8], _signature: &[u8]) -> bool {
        true
    }
}

/// xorshift64*, always from the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u32::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % u64::from(bound)).unwrap()
    }
}

struct World {
    genesis: Genesis,
    ledger: Ledger,
    chance: Chance,
    now: u64,
}

impl World {
    fn new(accounts: u32) -> Self {
        let key = PublicKey::new(vec![3; PUBLIC_KEY_LEN]);
        let account = |n: u32| GenesisAccount {
            address: if n == 0 {
                Address::of_public_key(&[3; PUBLIC_KEY_LEN])
            } else {
                Address(blake3_digest(&n.to_le_bytes()))
            },
            balance: if n == 0 { AUR * 1_000_000 } else { AUR },
            public_key: (n == 0).then(|| key.clone()),
        };
        let validator = GenesisValidator {
            name: "v1".into(),
            consensus_key: key.clone(),
            network_key: PublicKey::new(vec![1; 40]),
            stake: 1,
            operator: None,
        };
        let genesis = Genesis {
            network: "churn".into(),
            timestamp_ms: 1_000,
            fees: FeeSchedule { base: 1, per_operation: 1, per_byte: 0, invalid_signature_fee: 1 },
            parameters: ProtocolParameters::default(),
            validators: vec![validator],
            accounts: (0..accounts).map(account).collect(),
        };
        let ledger = Ledger::from_genesis(&genesis, Arc::new(PlainHasher)).unwrap();
        Self { genesis, ledger, chance: Chance(0x9e37_79b9_7f4a_7c15), now: 1_000 }
    }

    /// A block with transfers to accounts drawn from all, and the state after it.
    fn pay(&mut self, transfers: u32) -> StateView {
        let (index, expiry) = (self.ledger.commit_index() + 1, self.ledger.height() + 10);
        let sender = SenderKey::Index(AccountIndex(0));
        let mut builder =
            TransactionBuilder::new(self.ledger.chain_id(), sender, index - 1, expiry).fees(&self.genesis.fees);
        let accounts = u32::try_from(self.genesis.accounts.len()).unwrap();
        for _ in 0..transfers {
            let to = AccountIndex(1 + self.chance.below(accounts - 1));
            builder = builder.transfer(Target::Index(to), 7);
        }
        let transaction = builder.build().unwrap().with_signature(&[0; SIGNATURE_LEN]).unwrap();
        let digest = blake3_digest(&index.to_le_bytes());
        self.now += 30_000;
        let input = CommitInput {
            version: aurigraph_ledger::FIRST_PROTOCOL_VERSION,
            epoch: 0,
            commit_index: index,
            commit_digest: digest,
            timestamp_ms: self.now,
            leader: 0,
            round: u32::try_from(index).unwrap() + 2,
            consensus_state_digest: digest,
            batches: vec![CommittedBatch { proposer: 0, digest, transactions: vec![transaction.into()] }],
            faults: Vec::new(),
            epoch_end: None,
        };
        let outcome = self.ledger.execute(input, &AnySignature).unwrap();
        assert_eq!(outcome.block.unwrap().transactions.len(), 1);
        assert!(outcome.checkpoint.is_some());
        self.ledger.snapshot()
    }

    /// What goes into the index between two checkpoints.
    fn block(&mut self, height: u64, transactions: u32) -> StoredBlock {
        let accounts = u32::try_from(self.genesis.accounts.len()).unwrap();
        let transaction = |index: u32| {
            let mut party = |role| Party { key: parties::by_index(AccountIndex(self.chance.below(accounts))), role };
            let parties = vec![party(SENDER), party(RECEIVER)];
            StoredTransaction {
                id: blake3_digest(&[height.to_le_bytes().as_slice(), &index.to_le_bytes()].concat()),
                batch: 0,
                position: index,
                receipt: vec![u8::try_from(index % 251).unwrap(); 64].into(),
                parties,
            }
        };
        StoredBlock {
            height,
            hash: blake3_digest(&height.to_le_bytes()),
            commit_index: height,
            header: vec![9; 300].into(),
            batches: vec![Hash([1; 32])],
            transactions: (0..transactions).map(transaction).collect(),
            bytes: u64::from(transactions) * 5_000,
        }
    }
}

/// Bytes that a folder's files take on disk.
fn taken(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |path: &Path| if path.is_dir() { taken(path) } else { path.metadata().map_or(0, |it| it.blocks() * 512) };
    entries.map(|entry| of(&entry.path())).sum()
}

/// Databases in a folder: two while one is copied, or a replaced one removed.
fn databases(folder: &Path) -> usize {
    std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()).count()
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

#[tokio::main]
async fn main() {
    let Some(task) = read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let folder = task.folder.unwrap_or_else(|| std::env::temp_dir().join(format!("churn-{}", std::process::id())));
    std::fs::create_dir_all(&folder).unwrap();
    // A machine that stands still for a while is no reason to end.
    let options = StoreOptions { rewrite: task.rewrite, deadline: LONG, ..StoreOptions::default() };
    let store = Store::open(&folder, "v1", options).unwrap();
    let (made, reader) = (store.clone(), store.reader());
    let registry = Registry::new("churn");
    let child = ChildSpec::behaviour("store", STORE_MAILBOX, move || StoreActor::new(made.clone()));
    let spec = SupervisorSpec::new("storage", Strategy::OneForOne).child(child);
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let address = registry.role::<StoreMsg>("store");
    let mut world = World::new(task.accounts);
    let (began, mut slowest, mut written, mut most) = (Instant::now(), Duration::ZERO, 0, 0);
    println!(
        "hour | on disk MB | at the most MB | live MB | factor | written by checkpoints MB | slowest index write ms | resident MB"
    );
    for checkpoint in 1..=task.checkpoints {
        let view = world.pay(task.transfers);
        let block = Box::new(world.block(view.height(), task.transactions));
        let sent = Instant::now();
        let indexed = address.call(LONG, |reply| StoreMsg::WriteBlock { block, reply: Some(reply) }).await;
        indexed.unwrap().unwrap();
        slowest = slowest.max(sent.elapsed());
        let commit_index = view.height();
        let consensus = vec![1; 40_000].into();
        let done = address
            .call(LONG, |reply| StoreMsg::Checkpoint {
                view,
                consensus,
                commit_index,
                behind: false,
                reply: Some(reply),
            })
            .await;
        written += done.unwrap().unwrap().bytes as u64;
        let waits = Instant::now();
        while databases(&folder) > 1 && waits.elapsed() < APART {
            tokio::time::sleep(Duration::from_millis(5)).await;
            most = most.max(taken(&folder));
        }
        most = most.max(taken(&folder));
        if checkpoint % (task.checkpoints / LINES).max(1) == 0 {
            let reader = reader.clone();
            let live = tokio::task::spawn_blocking(move || reader.live_bytes().unwrap()).await.unwrap();
            let (disk, mb) = (taken(&folder), |bytes: u64| bytes as f64 / 1e6);
            println!(
                "{:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} | {} | {:.0}",
                f64::from(checkpoint) * 24.0 / f64::from(task.checkpoints),
                mb(disk),
                mb(most.max(disk)),
                mb(live),
                disk as f64 / live as f64,
                mb(written),
                slowest.as_millis(),
                mb(resident())
            );
            (slowest, most) = (Duration::ZERO, 0);
        }
    }
    println!("{} checkpoints in {:.0} s", task.checkpoints, began.elapsed().as_secs_f64());
    tree.shutdown(LONG).await.unwrap();
    drop((store, reader));
    std::fs::remove_dir_all(&folder).unwrap();
}
