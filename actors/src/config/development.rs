//! Development mode: every key and token follows from one seed in the config, so that a cluster starts without any
//! ceremony. Whoever reads the config owns the cluster, which is why it is refused unless every address is loopback.

use aurigraph_gpu::CpuHasher;
use aurigraph_ledger::{
    Address, Amount, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, Hash, ProtocolParameters, PublicKey,
    TreeHasher as _, h_parts,
};

use super::secrets::{NodeSecrets, network_public_key, public_key_of_seed};

/// Addresses that are hashed at once, and the least that are worth a thread.
const DERIVED_AT_ONCE: usize = 4_096;

/// What a development chain is derived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Development {
    /// The seed of everything.
    pub seed: String,
    /// Accounts at genesis, the signers among them.
    pub accounts: usize,
    /// How many of them, from the first on, have a key; nobody holds keys of the others.
    pub signers: usize,
    /// Balance of each signer.
    pub signer_balance: Amount,
    /// Balance of each of the others.
    pub recipient_balance: Amount,
}

impl Development {
    /// 32 bytes for a name: SHA3-256 over the seed and the name.
    fn derive(&self, name: &str) -> [u8; 32] {
        h_parts("development", &[self.seed.as_bytes(), name.as_bytes()]).0
    }

    /// The secrets of a node.
    #[must_use]
    pub fn node_secrets(&self, node: &str) -> NodeSecrets {
        NodeSecrets {
            name: node.to_owned(),
            consensus_seed: Some(self.derive(&format!("{node}/consensus"))),
            network_seed: self.derive(&format!("{node}/network")),
            admin_token: Some(self.admin_token()),
        }
    }

    /// The seed of a signer's key.
    #[must_use]
    pub fn account_seed(&self, index: usize) -> [u8; 32] {
        self.derive(&format!("account/{index}"))
    }

    /// The seed of a key that load is sent with. Its account is none of the genesis, so that starting stays cheap:
    /// whoever makes the load creates and funds it.
    #[must_use]
    pub fn load_seed(&self, index: usize) -> [u8; 32] {
        self.derive(&format!("load/{index}"))
    }

    /// The bearer token that may sign for the first account.
    #[must_use]
    pub fn account_token(&self) -> String {
        hex::encode(self.derive("token/account"))
    }

    /// The bearer token of the admin routes.
    #[must_use]
    pub fn admin_token(&self) -> String {
        hex::encode(self.derive("token/admin"))
    }

    /// The accounts of the genesis, in index order.
    #[must_use]
    pub fn genesis_accounts(&self) -> Vec<GenesisAccount> {
        let signers = self.signers.min(self.accounts);
        let blank = GenesisAccount { address: Address::default(), balance: self.recipient_balance, public_key: None };
        let mut accounts = vec![blank; self.accounts];
        let (with_keys, without) = accounts.split_at_mut(signers);
        for (index, account) in with_keys.iter_mut().enumerate() {
            let key = public_key_of_seed(&self.account_seed(index));
            account.address = Address::of_public_key(&key);
            account.balance = self.signer_balance;
            account.public_key = Some(PublicKey::new(key));
        }
        // An address without a key: 250 µs of key generation each would cost every start seconds.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = without.len().div_ceil(cores).max(DERIVED_AT_ONCE);
        std::thread::scope(|scope| {
            for (at, part) in without.chunks_mut(share).enumerate() {
                scope.spawn(move || self.derive_recipients(signers + at * share, part));
            }
        });
        accounts
    }

    /// Sets the addresses of accounts without a key, the first of which has the index `first`.
    fn derive_recipients(&self, first: usize, accounts: &mut [GenesisAccount]) {
        let (mut messages, mut digests) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < accounts.len() {
            // Messages that are hashed together have one length.
            let (mut count, mut len) = (0, 0);
            messages.clear();
            for index in (first + at..first + accounts.len()).take(DERIVED_AT_ONCE) {
                let before = messages.len();
                messages.extend_from_slice(self.seed.as_bytes());
                messages.extend_from_slice(b"recipient/");
                messages.extend_from_slice(index.to_string().as_bytes());
                if count == 0 {
                    len = messages.len();
                } else if messages.len() - before != len {
                    messages.truncate(before);
                    break;
                }
                count += 1;
            }
            digests.clear();
            digests.resize(count, Hash::ZERO);
            CpuHasher.hash_level("development", &messages, len, &mut digests);
            for (account, digest) in accounts[at..].iter_mut().zip(&digests) {
                account.address = Address(*digest);
            }
            at += count;
        }
    }

    /// The genesis of these validators, given by name and stake. The first validator's operator is the first account, and so
    /// on, as far as there are accounts with keys.
    #[must_use]
    pub fn genesis(
        &self,
        network: &str,
        timestamp_ms: u64,
        fees: FeeSchedule,
        parameters: ProtocolParameters,
        validators: &[(String, u64)],
    ) -> Genesis {
        let validators = validators.iter().enumerate().map(|(at, (name, stake))| {
            let secrets = self.node_secrets(name);
            GenesisValidator {
                name: name.clone(),
                consensus_key: PublicKey::new(
                    secrets.consensus_seed.map_or_else(Vec::new, |seed| public_key_of_seed(&seed)),
                ),
                network_key: PublicKey::new(network_public_key(&secrets.network_seed)),
                stake: *stake,
                operator: (at < self.signers)
                    .then(|| Address::of_public_key(&public_key_of_seed(&self.account_seed(at)))),
            }
        });
        Genesis {
            network: network.to_owned(),
            timestamp_ms,
            fees,
            parameters,
            validators: validators.collect(),
            accounts: self.genesis_accounts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_without_a_key_is_that_of_its_own_name() {
        let (seed, accounts) = ("some seed".to_owned(), 2 * DERIVED_AT_ONCE + 1_003);
        let development = Development { seed, accounts, signers: 1, signer_balance: 2, recipient_balance: 3 };
        let all = development.genesis_accounts();
        assert_eq!(all.len(), accounts);
        assert_eq!((all[0].balance, all[0].public_key.is_some()), (2, true));
        for (index, account) in all.iter().enumerate().skip(1) {
            let expected = h_parts("development", &[b"some seed", format!("recipient/{index}").as_bytes()]);
            assert_eq!((account.address, account.balance), (Address(expected), 3), "account {index}");
        }
    }
}
