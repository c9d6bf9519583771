//! Development accounts that sign.

use aurigraph_actors::config::ClusterConfig;
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::transaction::{SenderKey, Target, Transaction, TransactionBuilder};
use aurigraph_ledger::{AccountIndex, Address, Hash};
use bytes::{BufMut as _, Bytes, BytesMut};

/// More than any fee of a development chain.
const MAX_FEE: u128 = 1_000_000_000_000_000_000;

/// One account with its key.
pub struct Wallet {
    /// Its index.
    pub index: u32,
    /// Its address.
    pub address: Address,
    /// The nonce of its next transaction.
    pub nonce: u64,
    /// Transactions expire at this height.
    pub expiry: u64,
    chain_id: Hash,
    signer: Signer,
}

impl Wallet {
    /// The wallet of a development account that has a key.
    #[must_use]
    pub fn of(config: &ClusterConfig, index: u32) -> Self {
        let development = config.development.as_ref().expect("a development config");
        let seed = development.account_seed(index as usize);
        Self {
            index,
            address: config.genesis.accounts[index as usize].address,
            nonce: 0,
            expiry: 9_000,
            chain_id: config.genesis.chain_id(),
            signer: Signer::from_seed(&Seed::new(seed)).unwrap(),
        }
    }

    /// Starts a transaction with an explicit nonce, for what no wallet would send.
    #[must_use]
    pub fn builder(&self, nonce: u64) -> TransactionBuilder {
        let sender = SenderKey::Index(AccountIndex(self.index));
        TransactionBuilder::new(self.chain_id, sender, nonce, self.expiry).max_fee(MAX_FEE)
    }

    /// Signs what was built.
    #[must_use]
    pub fn sign(&self, builder: &TransactionBuilder) -> Transaction {
        let unsigned = builder.build().unwrap();
        let signature = self.signer.sign(&unsigned.signing_message()).unwrap();
        unsigned.with_signature(&signature).unwrap()
    }

    /// Transfers to accounts by index, under one signature and the next nonce.
    pub fn transfers(&mut self, transfers: impl IntoIterator<Item = (u32, u128)>) -> Transaction {
        let mut builder = self.builder(self.nonce);
        for (to, amount) in transfers {
            builder.push_transfer(Target::Index(AccountIndex(to)), amount);
        }
        self.nonce += 1;
        self.sign(&builder)
    }
}

/// Transactions as the batch route takes them: each behind its length.
#[must_use]
pub fn framed<'a>(transactions: impl IntoIterator<Item = &'a Transaction>) -> Bytes {
    let mut body = BytesMut::new();
    for transaction in transactions {
        body.put_u32_le(u32::try_from(transaction.encode().len()).unwrap());
        body.put_slice(transaction.encode());
    }
    body.freeze()
}
