//! The program as its users run it beside a cluster: key files, commands, proofs made and checked.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Cluster;

impl Cluster {
    /// Runs a command that must succeed; gives what it prints as JSON.
    #[must_use]
    pub fn aurigraph(&self, words: &[&str]) -> Value {
        let output = Command::new(&self.binary).arg("--json").args(words).output().unwrap();
        let told = || [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert!(output.status.success(), "{words:?}: {}", told());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {}", told()))
    }

    /// Fetches a transaction's proof from one node and verifies it offline, against the genesis alone. Gives what the
    /// verification says.
    #[must_use]
    pub fn prove(&self, node: usize, hash: &str) -> Value {
        let file = self.data_dir().join(format!("{hash}.json"));
        let (file, genesis) = (file.to_str().unwrap(), self.config_file(node).to_str().unwrap());
        let client = self.client(node);
        let _ = self.aurigraph(&["proof", "tx", hash, "--url", client.base(), "--out", file]);
        self.aurigraph(&["proof", "verify", file, "--genesis", genesis])
    }

    /// The key file of a development account. That of a validator's number is its operator's.
    #[must_use]
    pub fn account_key(&self, account: usize) -> PathBuf {
        let seed = self.config.development.as_ref().unwrap().account_seed(account);
        let seed: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
        let address = self.config.genesis.accounts[account].address;
        let path = self.data_dir().join(format!("account-{account}.json"));
        private(&path, &json!({ "address": address, "seed": format!("0x{seed}") }).to_string());
        path
    }
}

/// Writes a file that nobody else may read.
pub fn private(path: &Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
