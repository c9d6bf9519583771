//! The secret and public halves of one node's identity, as files. Secret files have mode 0600 and may be encrypted
//! ([`super::sealed`]).

use std::path::{Path, PathBuf};

use fips204::ml_dsa_87;
use fips204::traits::{KeyGen as _, SerDes as _};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::ConfigError;
use super::sealed::{AskPassphrase, read_key_file};

/// The secrets of one node.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeSecrets {
    /// The node's name.
    pub name: String,
    /// Signs blocks; absent for an observer.
    #[serde(default, with = "optional_seed", skip_serializing_if = "Option::is_none")]
    pub consensus_seed: Option<[u8; 32]>,
    /// Authenticates links.
    #[serde(with = "seed")]
    pub network_seed: [u8; 32],
    /// The bearer token of the admin routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<String>,
}

impl std::fmt::Debug for NodeSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeSecrets({})", self.name)
    }
}

impl Drop for NodeSecrets {
    fn drop(&mut self) {
        self.consensus_seed.zeroize();
        self.network_seed.zeroize();
        self.admin_token.zeroize();
    }
}

/// What the others may know of a node: the other half of [`NodeSecrets`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodePublic {
    /// The node's name.
    pub name: String,
    /// Verifies its blocks; absent for an observer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consensus_key: Option<aurigraph_ledger::PublicKey>,
    /// Its identity on links.
    pub network_key: aurigraph_ledger::PublicKey,
}

impl NodeSecrets {
    /// Reads a secrets file.
    ///
    /// # Errors
    /// Missing, unreadable, open to others, encrypted under another passphrase, or not of the right form.
    pub fn load(path: &Path, ask: AskPassphrase<'_>) -> Result<Self, ConfigError> {
        Self::parse(path, &read_key_file(path, ask)?)
    }

    /// Reads the text of a secrets file.
    ///
    /// # Errors
    /// Not of the right form.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        parse_json(path, text)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> NodePublic {
        NodePublic {
            name: self.name.clone(),
            consensus_key: self.consensus_seed.map(|seed| aurigraph_ledger::PublicKey::new(public_key_of_seed(&seed))),
            network_key: aurigraph_ledger::PublicKey::new(network_public_key(&self.network_seed)),
        }
    }
}

impl NodePublic {
    /// Reads a public file.
    ///
    /// # Errors
    /// Missing, unreadable or not of the right form.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        parse_json(path, &read_file(path)?)
    }
}

/// The ML-DSA-87 public key that belongs to a seed.
#[must_use]
pub fn public_key_of_seed(seed: &[u8; 32]) -> Vec<u8> {
    ml_dsa_87::KG::keygen_from_seed(seed).0.into_bytes().to_vec()
}

/// The network identity that belongs to a seed. The same algorithm, a key of its own.
#[must_use]
pub fn network_public_key(seed: &[u8; 32]) -> Vec<u8> {
    public_key_of_seed(seed)
}

/// Reads a file.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: std::io::Error) -> ConfigError {
    match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing(path.to_owned()),
        _ => ConfigError::Unreadable { path: path.to_owned(), source },
    }
}

/// Reads a file with secrets, which nobody but its owner may be able to read.
///
/// # Errors
/// Missing, unreadable, or open to others.
pub fn read_private_file(path: &Path) -> Result<String, ConfigError> {
    let text = read_file(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map_err(|source| unreadable(path, source))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(ConfigError::OpenSecrets { path: path.to_owned(), mode });
        }
    }
    Ok(text)
}

fn parse_json<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let field = message.split('`').nth(1).unwrap_or("file").to_owned();
        ConfigError::Invalid { path: PathBuf::from(path), line: error.line(), field, problem: message }
    })
}

mod seed {
    use serde::de::Error as _;

    pub fn serialize<S: serde::Serializer>(seed: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("0x{}", hex::encode(seed)))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let bytes = aurigraph_ledger::types::hex_bytes::deserialize(deserializer)?;
        let len = bytes.len();
        bytes.try_into().map_err(|_| D::Error::custom(format!("a seed has 32 bytes, this has {len}")))
    }
}

mod optional_seed {
    use serde::{Deserialize as _, de::Error as _};

    pub fn serialize<S: serde::Serializer>(seed: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
        match seed {
            Some(seed) => super::seed::serialize(seed, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let seed = super::seed::deserialize(serde::de::value::StrDeserializer::<D::Error>::new(&text));
        seed.map(Some).map_err(D::Error::custom)
    }
}
