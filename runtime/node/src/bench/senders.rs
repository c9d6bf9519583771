//! The accounts that sign: their keys, what the chain knows of them, and the money that they need.
//!
//! A key is 4.9 KB when it is expanded, and there may be a hundred thousand: only seeds are derived when they are
//! needed, and a key is expanded for the moment of one signature.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aurigraph_actors::config::development::Development;
use aurigraph_ledger::transaction::{SenderKey, Target, TransactionBuilder};
use aurigraph_ledger::types::MAX_OPERATIONS;
use aurigraph_ledger::{AccountIndex, Address, Amount, Hash};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;

use super::parallel;
use crate::error::{CliError, CliResult};
use crate::http::{NodeClient, exit_of, number_field, text_field};
use crate::keyfile::signer_of;
use crate::tx::{self, sign};

/// Accounts that are asked about at once.
const LOOKUPS: usize = 32;
/// The most that a funding transaction may cost.
const MAX_FEE: Amount = 1_000_000_000_000_000_000;

/// What the chain knows of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its index.
    pub index: u32,
    /// The first nonce above all used ones.
    pub nonce: u64,
    /// Whether transactions may name it by index.
    pub registered: bool,
    balance: Amount,
}

/// Which keys the senders have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Those of the genesis' signers.
    Genesis,
    /// Keys of the bench's own, whose accounts it creates and funds.
    Own,
}

impl Keys {
    /// The seed of an account's key.
    pub fn seed(self, development: &Development, account: u32) -> [u8; 32] {
        match self {
            Self::Genesis => development.account_seed(account as usize),
            Self::Own => development.load_seed(account as usize),
        }
    }
}

/// The chain and the nodes, as setting up sees them.
pub struct Chain<'a> {
    /// The chain's id.
    pub id: Hash,
    /// The last height at which what is signed now is valid.
    pub expiry: u64,
    /// The seeds.
    pub development: &'a Development,
    /// The nodes.
    pub clients: &'a [NodeClient],
}

impl Chain<'_> {
    /// Makes sure that these accounts exist and have `needed` each, and tells what the chain knows of them.
    ///
    /// # Errors
    /// Unreachable nodes, or funders that cannot pay.
    pub async fn senders(
        &self,
        keys: Keys,
        members: &[u32],
        needed: Amount,
        note: &dyn Fn(&str),
    ) -> CliResult<Vec<Facts>> {
        let addresses = tokio::task::block_in_place(|| self.addresses(keys, members))?;
        let mut facts = self.facts(&addresses).await?;
        let poor: Vec<usize> =
            (0..facts.len()).filter(|at| facts[*at].is_none_or(|facts| facts.balance < needed)).collect();
        if keys == Keys::Own && !poor.is_empty() {
            note(&format!("creating and funding {} accounts", poor.len()));
            let wanting: Vec<Address> = poor.iter().map(|at| addresses[*at]).collect();
            self.fund(&wanting, needed, note).await?;
            for (at, found) in poor.iter().zip(self.facts(&wanting).await?) {
                facts[*at] = found;
            }
        }
        let known = facts.into_iter().zip(&addresses).map(|(facts, address)| match facts {
            Some(facts) if facts.balance >= needed => Ok(facts),
            _ => Err(CliError::failed(format!("{address} cannot pay for what it is to send"))),
        });
        known.collect()
    }

    fn addresses(&self, keys: Keys, members: &[u32]) -> CliResult<Vec<Address>> {
        parallel::make(members.len(), |at| {
            let signer = signer_of(keys.seed(self.development, members[at]))?;
            Ok(Address::of_public_key(signer.public_key()))
        })
    }

    /// Asks the nodes about accounts, in their order.
    async fn facts(&self, addresses: &[Address]) -> CliResult<Vec<Option<Facts>>> {
        let all = Arc::new(Mutex::new(vec![None; addresses.len()]));
        let open = Arc::new(Mutex::new(addresses.iter().copied().enumerate().collect::<VecDeque<_>>()));
        let mut asking = JoinSet::new();
        for at in 0..LOOKUPS {
            let client = self.clients[at % self.clients.len()].clone();
            let (all, open) = (Arc::clone(&all), Arc::clone(&open));
            asking.spawn(async move {
                loop {
                    let next = open.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((at, address)) = next else { return CliResult::Ok(()) };
                    let facts = ask(&client, &address).await?;
                    all.lock().unwrap_or_else(PoisonError::into_inner)[at] = facts;
                }
            });
        }
        while let Some(ended) = asking.join_next().await {
            ended.map_err(|error| CliError::failed(error.to_string()))??;
        }
        let facts = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(facts)
    }

    /// Gives each account an amount, out of the genesis' signers, and waits until every node has it.
    async fn fund(&self, accounts: &[Address], amount: Amount, note: &dyn Fn(&str)) -> CliResult {
        let bundles: Vec<&[Address]> = accounts.chunks(MAX_OPERATIONS).collect();
        let funders = u32::try_from(self.development.signers.min(bundles.len()).max(1)).unwrap_or(1);
        let members: Vec<u32> = (0..funders).collect();
        let addresses = self.addresses(Keys::Genesis, &members)?;
        let funders = self.facts(&addresses).await?;
        let mut sent = Vec::new();
        for (at, bundle) in bundles.iter().enumerate() {
            let (turn, by) = (at / funders.len(), at % funders.len());
            let funder = funders[by].ok_or_else(|| CliError::failed("a signer of the genesis has no account"))?;
            let signer = signer_of(Keys::Genesis.seed(self.development, members[by]))?;
            let key = SenderKey::Index(AccountIndex(funder.index));
            let mut builder = TransactionBuilder::new(self.id, key, funder.nonce + turn as u64, self.expiry);
            builder = builder.max_fee(MAX_FEE).atomic(true);
            bundle.iter().for_each(|to| builder.push_transfer(Target::Address(*to), amount));
            let transaction = sign(&builder, &signer)?;
            tx::submit(&self.clients[by % self.clients.len()], &transaction).await?;
            sent.push(transaction.id());
        }
        for (at, id) in sent.iter().enumerate() {
            for client in self.clients {
                let outcome = tx::follow(client, id).await?;
                if outcome["status"] != "committed" {
                    return Err(CliError::failed(format!("funding was refused: {outcome}")));
                }
            }
            note(&format!("funded by {} of {} bundles", at + 1, sent.len()));
        }
        Ok(())
    }
}

/// Asks a node about an account; none if there is no such account.
async fn ask(client: &NodeClient, address: &Address) -> CliResult<Option<Facts>> {
    let path = format!("/gateway/balance/{address}");
    loop {
        let answer = client.request(Method::GET, &path, "application/json", Bytes::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                tokio::time::sleep(Duration::from_secs(answer.retry_after.unwrap_or(1).min(5))).await;
            }
            status if status.is_success() => return read(&answer.body).map(Some),
            status => return Err(CliError::new(exit_of(status), answer.problem())),
        }
    }
}

fn read(body: &Value) -> CliResult<Facts> {
    let base = number_field(body, "nonceBase")?;
    // A run that was cut short may have left holes below a used nonce.
    let used = body["usedNonces"].as_array().into_iter().flatten().filter_map(Value::as_u64).max();
    let balance = text_field(body, "balance")?;
    Ok(Facts {
        index: u32::try_from(number_field(body, "index")?).map_err(|error| CliError::failed(error.to_string()))?,
        nonce: used.map_or(base, |used| base.max(used + 1)),
        registered: body["keyRegistered"] == true,
        balance: balance.parse().map_err(|_| CliError::failed(format!("{balance:?} is no balance")))?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An account as the chain might know it.
    pub const fn known(index: u32, registered: bool) -> Facts {
        Facts { index, nonce: 5, registered, balance: 0 }
    }

    #[test]
    fn nonces_go_on_above_the_highest_used_one() {
        let body = |used: &[u64]| serde_json::json!({"index": 3, "nonceBase": 7, "usedNonces": used, "keyRegistered": true, "balance": "12"});
        assert_eq!(read(&body(&[])).unwrap(), Facts { index: 3, nonce: 7, registered: true, balance: 12 });
        assert_eq!(read(&body(&[9, 11])).unwrap().nonce, 12);
        assert!(read(&serde_json::json!({"index": 3})).is_err());
    }
}
