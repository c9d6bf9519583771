//! What will be sent: who signs, who receives, and the signatures, made before the clock starts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aurigraph_actors::config::ClusterConfig;
use aurigraph_actors::config::development::Development;
use aurigraph_gpu::Signer;
use aurigraph_ledger::transaction::{SenderKey, Target, Transaction, TransactionBuilder};
use aurigraph_ledger::types::MAX_EXPIRY;
use aurigraph_ledger::{AccountIndex, Hash};

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::http::{NodeClient, number_field, text_field};
use crate::keyfile::signer_of;
use crate::tx::sign;

/// Without a rate, signatures are prepared for this many a second: more than four nodes verify on the machines this is
/// run on. When they are used up, the measurement ends early and says how long it was.
const PREPARED_BUNDLES_PER_SECOND: u64 = 3_000;
/// The same for transactions of few operations, where signatures are all that counts.
const PREPARED_SINGLES_PER_SECOND: u64 = 6_000;
/// From this many operations on, a transaction counts as a bundle.
const BUNDLE: u16 = 100;
/// Amounts are below this, so that no account runs dry and the amount column stays narrow.
const MAX_TRANSFER: u64 = 1 << 16;
/// The most that a sender agrees to pay: 1 AUR, far above any fee of a development chain.
const MAX_FEE: u128 = 1_000_000_000_000_000_000;

/// One account that signs.
struct Sender {
    index: u32,
    nonce: u64,
    signer: Signer,
}

/// Everything that is fixed before signing.
pub struct Plan {
    chain_id: Hash,
    expiry: u64,
    operations: u16,
    recipients: u32,
    senders: Vec<Sender>,
    count: usize,
    nodes: usize,
}

impl Plan {
    /// Asks the nodes for what must be known of the chain and the senders.
    ///
    /// # Errors
    /// No development config, another chain, or unreachable nodes.
    pub async fn new(args: &cli::Bench, config: &ClusterConfig, clients: &[NodeClient]) -> CliResult<Self> {
        let development = config.development.as_ref().ok_or_else(|| {
            CliError::file(config.path(), "the bench signs for development accounts, and this config has none")
        })?;
        let first = clients.first().ok_or_else(|| CliError::failed("no node to load"))?;
        let info = first.get("/info").await?;
        let chain_id = config.genesis.chain_id();
        if text_field(&info, "chainId")? != chain_id.to_string() {
            let message = format!("{} runs chain {}, the config describes {chain_id}", first.url(), info["chainId"]);
            return Err(CliError::new(Exit::BadFile, message));
        }
        let height = number_field(&first.get("/consensus/status").await?, "height")?;
        let accounts = u32::try_from(config.genesis.accounts.len()).unwrap_or(u32::MAX);
        Ok(Self {
            chain_id,
            expiry: height + MAX_EXPIRY - 100,
            operations: args.operations_per_signature,
            recipients: args.accounts.map_or(accounts, |wanted| wanted.clamp(2, accounts.max(2))),
            senders: senders(first, config, development).await?,
            count: count(args),
            nodes: clients.len(),
        })
    }

    /// How many transactions it prepares.
    pub const fn transactions(&self) -> usize {
        self.count
    }

    /// Signs on every core. One queue a node: a sender always uses the same node, so that its nonces arrive in order.
    ///
    /// # Errors
    /// If the signing library fails.
    pub fn sign(&self) -> CliResult<Vec<Vec<Transaction>>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let slots: Vec<Mutex<Option<Transaction>>> = (0..self.count).map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(slot) = slots.get(at) else { break };
                        match self.transaction(at) {
                            Ok(transaction) => *lock(slot) = Some(transaction),
                            Err(error) => *lock(&failed) = Some(error),
                        }
                    }
                });
            }
        });
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        let mut queues: Vec<Vec<Transaction>> = (0..self.nodes).map(|_| Vec::new()).collect();
        for (at, slot) in slots.iter().enumerate() {
            queues[at % self.senders.len() % self.nodes].extend(lock(slot).take());
        }
        Ok(queues)
    }

    /// The transaction at a position: senders take turns.
    fn transaction(&self, at: usize) -> CliResult<Transaction> {
        let sender = &self.senders[at % self.senders.len()];
        let nonce = sender.nonce + (at / self.senders.len()) as u64;
        let key = SenderKey::Index(AccountIndex(sender.index));
        let mut builder = TransactionBuilder::new(self.chain_id, key, nonce, self.expiry).max_fee(MAX_FEE);
        let mut random = Random(at as u64);
        for _ in 0..self.operations {
            let recipient = random.below(u64::from(self.recipients));
            // Never the sender itself: that operation would fail and be counted as failed.
            let recipient = if recipient == u64::from(sender.index) {
                (recipient + 1) % u64::from(self.recipients)
            } else {
                recipient
            };
            let to = Target::Index(AccountIndex(u32::try_from(recipient).unwrap_or(0)));
            builder.push_transfer(to, u128::from(1 + random.below(MAX_TRANSFER - 1)));
        }
        sign(&builder, &sender.signer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn count(args: &cli::Bench) -> usize {
    let per_second = match args.rate {
        Some(rate) => u64::from(rate),
        None if args.operations_per_signature >= BUNDLE => PREPARED_BUNDLES_PER_SECOND,
        None => PREPARED_SINGLES_PER_SECOND,
    };
    let seconds = (args.duration + args.warm_up).as_millis().div_ceil(1_000);
    usize::try_from(u128::from(per_second) * seconds).unwrap_or(usize::MAX)
}

async fn senders(client: &NodeClient, config: &ClusterConfig, development: &Development) -> CliResult<Vec<Sender>> {
    let mut senders = Vec::new();
    for (at, account) in config.genesis.accounts.iter().take(development.signers).enumerate() {
        let answer = client.get(&format!("/gateway/balance/{}", account.address)).await?;
        senders.push(Sender {
            index: u32::try_from(number_field(&answer, "index")?).unwrap_or(0),
            nonce: number_field(&answer, "nonceBase")?,
            signer: signer_of(development.account_seed(at))?,
        });
    }
    Ok(senders)
}

/// SplitMix64: the same load for the same position, without a dependency.
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform below a bound; the bias of the product is below 2^-32 for the bounds used here.
    const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_spread_evenly() {
        let (mut random, mut counts) = (Random(1), [0_u32; 10]);
        for _ in 0..10_000 {
            counts[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn queues_keep_each_senders_nonces_in_order_on_one_node() {
        let senders = (0..3).map(|index| Sender { index, nonce: 5, signer: signer_of([index as u8; 32]).unwrap() });
        let plan = Plan {
            chain_id: Hash::ZERO,
            expiry: 10,
            operations: 2,
            recipients: 4,
            senders: senders.collect(),
            count: 9,
            nodes: 2,
        };
        let queues = plan.sign().unwrap();
        assert_eq!(queues.iter().map(Vec::len).sum::<usize>(), 9);
        let mut homes = std::collections::HashMap::new();
        let mut nonces = std::collections::HashMap::<String, Vec<u64>>::new();
        for (node, queue) in queues.iter().enumerate() {
            for transaction in queue {
                let sender = format!("{:?}", transaction.sender());
                assert_eq!(*homes.entry(sender.clone()).or_insert(node), node);
                nonces.entry(sender).or_default().push(transaction.nonce());
            }
        }
        assert!(nonces.values().all(|nonces| nonces == &[5, 6, 7]), "{nonces:?}");
    }
}
