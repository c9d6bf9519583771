//! Development accounts that sign.

use aurigraph_actors::config::ClusterConfig;
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::transaction::{
    SenderKey, TAG_TRANSFER_TO_INDEX, Target, Transaction, TransactionBuilder, signing_message,
};
use aurigraph_ledger::{AccountIndex, Address, Hash, Writer, blake3_digest, h};
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

    /// A validly signed transaction of this many transfers of 1 and with this memo, put together without the builder,
    /// which refuses what must not be sent.
    #[must_use]
    pub fn unchecked(&self, nonce: u64, transfers: usize, memo: &[u8]) -> Bytes {
        let mut groups = Writer::new();
        groups.varint(u64::from(transfers > 0));
        if transfers > 0 {
            groups.u8(TAG_TRANSFER_TO_INDEX).varint(transfers as u64).raw(&7_u32.to_le_bytes().repeat(transfers));
            groups.u8(1).raw(&[1].repeat(transfers));
        }
        let mut body = Writer::new();
        body.u8(1).hash(&self.chain_id).u8(0).varint(self.index.into()).u64(nonce).u64(self.expiry).u128(MAX_FEE);
        body.u8(0).bytes(memo).hash(&blake3_digest(groups.as_slice()));
        let signature = self.signer.sign(&signing_message(&h("tx", body.as_slice()))).unwrap();
        body.raw(groups.as_slice()).raw(&signature);
        body.into_bytes().into()
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
