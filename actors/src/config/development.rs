//! Development mode: every key and token follows from one seed in the config, so that a cluster starts without any
//! ceremony. Whoever reads the config owns the cluster, which is why it is refused unless every address is loopback.

use aurigraph_ledger::{
    Address, Amount, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, ProtocolParameters, PublicKey, h_parts,
};

use super::secrets::{NodeSecrets, network_public_key, public_key_of_seed};

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
        (0..self.accounts).map(|index| self.genesis_account(index)).collect()
    }

    fn genesis_account(&self, index: usize) -> GenesisAccount {
        if index >= self.signers {
            // An address without a key: 250 µs of key generation each would cost every start seconds.
            let address =
                Address(h_parts("development", &[self.seed.as_bytes(), format!("recipient/{index}").as_bytes()]));
            return GenesisAccount { address, balance: self.recipient_balance, public_key: None };
        }
        let key = public_key_of_seed(&self.account_seed(index));
        GenesisAccount {
            address: Address::of_public_key(&key),
            balance: self.signer_balance,
            public_key: Some(PublicKey::new(key)),
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
