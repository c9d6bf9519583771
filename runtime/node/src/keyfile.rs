//! Account key files, and writing files that nobody else may read.
//!
//! A key file has mode 0600, and its text is encrypted where its owner gave a passphrase.

use std::io::Write as _;
use std::path::Path;

use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::Address;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{CliError, CliResult};
use crate::passphrase::Passphrase;

/// An account's key file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AccountKey {
    /// The account's address.
    pub address: Address,
    /// The ML-DSA-87 seed, `0x` and 64 digits.
    pub seed: String,
}

impl AccountKey {
    /// The key of a seed.
    ///
    /// # Errors
    /// If the library refuses the seed.
    pub fn of_seed(seed: [u8; 32]) -> CliResult<Self> {
        let signer = signer_of(seed)?;
        Ok(Self { address: Address::of_public_key(signer.public_key()), seed: format!("0x{}", hex::encode(seed)) })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// Missing, open to others, encrypted under another passphrase, malformed, or an address that is not the seed's.
    pub fn load(path: &Path, passphrase: &Passphrase) -> CliResult<(Self, Signer)> {
        Self::parse(path, &passphrase.read_key_file(path)?)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// Malformed, or an address that is not the seed's.
    pub fn parse(path: &Path, text: &str) -> CliResult<(Self, Signer)> {
        let key: Self = serde_json::from_str(text).map_err(|error| CliError::file(path, error))?;
        let signer =
            signer_of(key.seed_bytes().ok_or_else(|| CliError::file(path, "seed: not 0x and 64 hex digits"))?)?;
        let address = Address::of_public_key(signer.public_key());
        if address != key.address {
            let problem = format!("address: the seed belongs to {address}, not to {}", key.address);
            return Err(CliError::file(path, problem));
        }
        Ok((key, signer))
    }

    /// The seed, if it is one.
    pub fn seed_bytes(&self) -> Option<[u8; 32]> {
        hex::decode(self.seed.strip_prefix("0x")?).ok()?.try_into().ok()
    }
}

impl Drop for AccountKey {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

/// The signer of a seed.
///
/// # Errors
/// If the library refuses the seed.
pub fn signer_of(seed: [u8; 32]) -> CliResult<Signer> {
    Signer::from_seed(&Seed::new(seed)).map_err(|error| CliError::failed(error.to_string()))
}

/// Writes a file that only its owner may read, and that must not exist unless `replace`.
///
/// # Errors
/// If it exists or cannot be written.
pub fn write_private(path: &Path, text: &str, replace: bool) -> CliResult {
    let mut line = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    write_private_bytes(path, &line, replace)
}

/// The same for bytes as they are.
///
/// # Errors
/// If it exists or cannot be written.
pub fn write_private_bytes(path: &Path, bytes: &[u8], replace: bool) -> CliResult {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::file(path, "exists already, and keys are never overwritten"),
        _ => CliError::file(path, format!("cannot be written: {error}")),
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    if replace {
        // The mode counts only when a file is created.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}
