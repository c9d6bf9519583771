//! What will be sent: who signs, who receives, and the signatures, made before the clock starts.

use aurigraph_actors::config::ClusterConfig;
use aurigraph_actors::config::development::Development;
use aurigraph_ledger::transaction::{SenderKey, Target, Transaction, TransactionBuilder};
use aurigraph_ledger::types::{MAX_EXPIRY, MAX_TRANSACTION_LEN};
use aurigraph_ledger::{AccountIndex, Amount, Hash};
use serde_json::{Value, json};

use super::draw::{Draw, Random};
use super::parallel;
use super::senders::{Chain, Facts, Keys};
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
/// For so long after its first transaction a sender carries its key: a load's longest latency twice over.
const KEY_FOR_SECONDS: u64 = 10;

/// Everything that is fixed before signing.
pub struct Plan {
    chain_id: Hash,
    expiry: u64,
    operations: u16,
    development: Development,
    keys: Keys,
    draw: Draw,
    /// By the draw's slots.
    senders: Vec<Facts>,
    /// The index of every account that takes part.
    accounts: Vec<u32>,
    /// From how many the senders were drawn.
    among: u32,
    nodes: usize,
}

impl Plan {
    /// Draws the senders, asks the nodes for what must be known of the chain and of them, and creates those that are
    /// missing. An account is taken for its place among the senders only if it is drawn: the others never sign, so the
    /// genesis' accounts, of which nobody has keys, stand for them as recipients.
    ///
    /// # Errors
    /// No development config, another chain, unreachable nodes, or senders that cannot be funded.
    pub async fn new(
        args: &cli::Bench,
        config: &ClusterConfig,
        clients: &[NodeClient],
        note: &dyn Fn(&str),
    ) -> CliResult<Self> {
        let development = config.development.as_ref().ok_or_else(|| {
            CliError::file(config.path(), "the bench signs for development accounts, and this config has none")
        })?;
        let chain_id = config.genesis.chain_id();
        let expiry = check_chain(clients, chain_id).await? + MAX_EXPIRY - 100;
        let (accounts, among) = population(args, config.genesis.accounts.len(), clients.len())?;
        let keys = if among as usize <= development.signers { Keys::Genesis } else { Keys::Own };
        let nodes = u32::try_from(clients.len()).unwrap_or(1);
        let young_for = usize::try_from(per_second(args).saturating_mul(KEY_FOR_SECONDS)).unwrap_or(usize::MAX);
        let draw = Draw::new(among, nodes, count(args), young_for);
        note(&format!("{} of {among} accounts are to send; making their keys", draw.members.len()));
        let fee = config.genesis.fees.fee(usize::from(args.operations_per_signature), MAX_TRANSACTION_LEN);
        let each = fee + Amount::from(args.operations_per_signature) * Amount::from(MAX_TRANSFER);
        let chain = Chain { id: chain_id, expiry, development, clients };
        let senders = chain.senders(keys, &draw.members, each * Amount::from(draw.most_turns()), note).await?;
        let mut accounts: Vec<u32> = (0..accounts).collect();
        for (member, sender) in draw.members.iter().zip(&senders) {
            accounts[*member as usize] = sender.index;
        }
        Ok(Self {
            chain_id,
            expiry,
            operations: args.operations_per_signature,
            development: development.clone(),
            keys,
            draw,
            senders,
            accounts,
            among,
            nodes: clients.len(),
        })
    }

    /// How many transactions it prepares.
    pub const fn transactions(&self) -> usize {
        self.draw.turns.len()
    }

    /// Among whom the transfers are.
    pub fn pairs(&self) -> Value {
        json!({ "accounts": self.accounts.len(), "senders": self.among, "sendersDrawn": self.senders.len() })
    }

    /// Signs on every core. One queue a node: a sender always uses the same node, so that its nonces arrive in order.
    ///
    /// # Errors
    /// If the signing library fails.
    pub fn sign(&self) -> CliResult<Vec<Vec<Transaction>>> {
        let mut queues: Vec<Vec<Transaction>> = (0..self.nodes).map(|_| Vec::new()).collect();
        for (at, transaction) in parallel::make(self.transactions(), |at| self.transaction(at))?.into_iter().enumerate()
        {
            queues[at % self.nodes].push(transaction);
        }
        Ok(queues)
    }

    /// The transaction at a position.
    fn transaction(&self, at: usize) -> CliResult<Transaction> {
        let turn = self.draw.turns[at];
        let (member, sender) = (self.draw.members[turn.slot as usize], self.senders[turn.slot as usize]);
        let signer = signer_of(self.keys.seed(&self.development, member))?;
        let key = if turn.young && !sender.registered {
            SenderKey::PublicKey(signer.public_key().to_vec())
        } else {
            SenderKey::Index(AccountIndex(sender.index))
        };
        let nonce = sender.nonce + u64::from(turn.before);
        let mut builder = TransactionBuilder::new(self.chain_id, key, nonce, self.expiry).max_fee(MAX_FEE);
        let mut random = Random(at as u64);
        for _ in 0..self.operations {
            // Uniform among all but the sender itself: that operation would fail and be counted as failed.
            let drawn = usize::try_from(random.below(self.accounts.len() as u64 - 1)).unwrap_or(0);
            let recipient = self.accounts[if drawn >= member as usize { drawn + 1 } else { drawn }];
            let to = Target::Index(AccountIndex(recipient));
            builder.push_transfer(to, u128::from(1 + random.below(MAX_TRANSFER - 1)));
        }
        sign(&builder, &signer)
    }
}

/// The height of the chain, which must be the config's.
async fn check_chain(clients: &[NodeClient], chain_id: Hash) -> CliResult<u64> {
    let first = clients.first().ok_or_else(|| CliError::failed("no node to load"))?;
    let info = first.get("/info").await?;
    if text_field(&info, "chainId")? != chain_id.to_string() {
        let message = format!("{} runs chain {}, the config describes {chain_id}", first.url(), info["chainId"]);
        return Err(CliError::new(Exit::BadFile, message));
    }
    number_field(&first.get("/consensus/status").await?, "height")
}

/// How many accounts take part and how many of them send.
fn population(args: &cli::Bench, genesis: usize, nodes: usize) -> CliResult<(u32, u32)> {
    let least = u32::try_from(nodes.max(2)).unwrap_or(u32::MAX);
    let all = u32::try_from(genesis).unwrap_or(u32::MAX);
    if all < least {
        return Err(CliError::failed(format!("the genesis has {all} accounts, the bench needs {least}")));
    }
    let accounts = args.accounts.map_or(all, |wanted| wanted.clamp(least, all));
    Ok((accounts, args.senders.map_or(accounts, |wanted| wanted.clamp(least, accounts))))
}

/// How many signatures a second are prepared.
fn per_second(args: &cli::Bench) -> u64 {
    match args.rate {
        Some(rate) => u64::from(rate),
        None if args.operations_per_signature >= BUNDLE => PREPARED_BUNDLES_PER_SECOND,
        None => PREPARED_SINGLES_PER_SECOND,
    }
}

fn count(args: &cli::Bench) -> usize {
    let seconds = (args.duration + args.warm_up).as_millis().div_ceil(1_000);
    usize::try_from(u128::from(per_second(args)) * seconds).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aurigraph_ledger::transaction::{Operation, Sender};

    use super::super::senders::tests::known;
    use super::*;

    fn plan(registered: bool) -> Plan {
        let development = Development {
            seed: "bench".to_owned(),
            accounts: 100,
            signers: 2,
            signer_balance: 0,
            recipient_balance: 0,
        };
        let draw = Draw::new(6, 2, 60, 10);
        let mut accounts: Vec<u32> = (0..8).collect();
        for member in &draw.members {
            accounts[*member as usize] = 100 + member;
        }
        Plan {
            chain_id: Hash::ZERO,
            expiry: 10,
            operations: 3,
            development,
            keys: Keys::Own,
            senders: draw.members.iter().map(|member| known(100 + member, registered)).collect(),
            draw,
            accounts,
            among: 6,
            nodes: 2,
        }
    }

    #[test]
    fn queues_keep_each_senders_nonces_in_order_on_one_node() {
        let plan = plan(true);
        let queues = plan.sign().unwrap();
        assert_eq!(queues.iter().map(Vec::len).collect::<Vec<_>>(), [30, 30]);
        let (mut homes, mut nonces) = (HashMap::new(), HashMap::<String, Vec<u64>>::new());
        for (node, queue) in queues.iter().enumerate() {
            for transaction in queue {
                let sender = format!("{:?}", transaction.sender());
                assert_eq!(*homes.entry(sender.clone()).or_insert(node), node);
                nonces.entry(sender).or_default().push(transaction.nonce());
            }
        }
        assert_eq!(nonces.len(), plan.draw.members.len());
        for nonces in nonces.values() {
            assert_eq!(*nonces, (5..5 + nonces.len() as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_sender_carries_its_key_until_it_must_be_registered_and_pays_everybody_but_itself() {
        let plan = plan(false);
        let mut paid = HashMap::<u32, u32>::new();
        for (at, turn) in plan.draw.turns.iter().enumerate() {
            let transaction = plan.transaction(at).unwrap();
            assert_eq!(transaction.sender_key().is_some(), turn.young, "{at}");
            let own = plan.senders[turn.slot as usize].index;
            if !turn.young {
                assert_eq!(transaction.sender(), Sender::Index(AccountIndex(own)));
            }
            for operation in transaction.operations() {
                let Operation::Transfer { to: Target::Index(to), .. } = operation else { panic!("{operation:?}") };
                assert_ne!(to.0, own);
                *paid.entry(to.0).or_default() += 1;
            }
        }
        assert!(plan.accounts.iter().all(|account| paid[account] > 5), "{paid:?}");
        assert!(plan.draw.turns.iter().any(|turn| !turn.young && turn.before > 0));
    }
}
