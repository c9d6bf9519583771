//! Key files under a passphrase: the text of a key file, sealed by argon2id and AES-256-GCM, with its parameters beside it.

use std::path::{Path, PathBuf};

use aurigraph_gpu::{PassphraseCost, SealError, key_of_passphrase, seal, unseal};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ConfigError;
use super::secrets::read_private_file;

const VERSION: u32 = 1;
const KDF: &str = "argon2id";
const CIPHER: &str = "aes-256-gcm";
/// Longest passphrase file.
const MOST: usize = 4_096;

/// Gives the passphrase of a file, or says why there is none. Asked only if the file is encrypted.
pub type AskPassphrase<'a> = &'a dyn Fn(&Path) -> Result<Zeroizing<String>, String>;

/// An encrypted key file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SealedFile {
    /// Whose keys: an address or a node's name. Not secret, and bound to what is sealed.
    pub of: String,
    version: u32,
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    cipher: String,
    nonce: String,
    sealed: String,
}

fn digits<const LEN: usize>(text: &str, what: &str) -> Result<[u8; LEN], String> {
    let bytes = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("{what}: not 0x and {} hex digits", 2 * LEN))
}

impl SealedFile {
    /// Seals the text of a key file.
    ///
    /// # Errors
    /// No randomness, or a cost that is not allowed.
    pub fn seal(of: &str, text: &str, passphrase: &str, cost: PassphraseCost) -> Result<Self, String> {
        let (mut salt, mut nonce) = ([0; 16], [0; 12]);
        getrandom::fill(&mut salt)
            .and_then(|()| getrandom::fill(&mut nonce))
            .map_err(|_| "no randomness".to_owned())?;
        let key = key_of_passphrase(passphrase.as_bytes(), &salt, cost).map_err(|error| error.to_string())?;
        let sealed =
            seal(&key, nonce, bound(of, cost).as_bytes(), text.as_bytes()).map_err(|error| error.to_string())?;
        let PassphraseCost { memory_kib, passes, lanes } = cost;
        let hex = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
        Ok(Self {
            of: of.to_owned(),
            version: VERSION,
            kdf: KDF.to_owned(),
            memory_kib,
            passes,
            lanes,
            salt: hex(&salt),
            cipher: CIPHER.to_owned(),
            nonce: hex(&nonce),
            sealed: hex(&sealed),
        })
    }

    /// The text that was sealed.
    ///
    /// # Errors
    /// In words: a form that this program does not read, or a wrong passphrase.
    pub fn open(&self, passphrase: &str) -> Result<Zeroizing<String>, String> {
        if (self.version, self.kdf.as_str(), self.cipher.as_str()) != (VERSION, KDF, CIPHER) {
            return Err(format!(
                "encrypted by {} and {} in version {}; this program reads {KDF} and {CIPHER} in version {VERSION}",
                self.kdf, self.cipher, self.version
            ));
        }
        let cost = PassphraseCost { memory_kib: self.memory_kib, passes: self.passes, lanes: self.lanes };
        let (salt, nonce) = (digits(&self.salt, "salt")?, digits(&self.nonce, "nonce")?);
        let sealed = self.sealed.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
        let sealed = sealed.ok_or("sealed: not 0x and hex digits")?;
        let key = key_of_passphrase(passphrase.as_bytes(), &salt, cost).map_err(|error| error.to_string())?;
        let plain = unseal(&key, nonce, bound(&self.of, cost).as_bytes(), &sealed).map_err(|error| match error {
            SealError::Refused => "the passphrase is wrong, or the file was changed".to_owned(),
            other => other.to_string(),
        })?;
        let text = std::str::from_utf8(&plain).map_err(|_| "what was encrypted is no text".to_owned())?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

/// What is bound to the sealed text.
fn bound(of: &str, cost: PassphraseCost) -> String {
    format!("aurigraph key file {VERSION}\n{of}\n{} {} {}\n", cost.memory_kib, cost.passes, cost.lanes)
}

/// The encrypted file in a text, if it is one.
#[must_use]
pub fn sealed_file(text: &str) -> Option<SealedFile> {
    serde_json::from_str(text).ok()
}

/// Reads a key file, and opens it if it is encrypted.
///
/// # Errors
/// Missing, unreadable, open to others, or no passphrase or a wrong one.
pub fn read_key_file(path: &Path, ask: AskPassphrase<'_>) -> Result<Zeroizing<String>, ConfigError> {
    let text = Zeroizing::new(read_private_file(path)?);
    let Some(sealed) = sealed_file(&text) else { return Ok(text) };
    let problem = |problem| ConfigError::Sealed { path: path.to_owned(), problem };
    sealed.open(&ask(path).map_err(problem)?).map_err(problem)
}

/// Where a passphrase stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PassphraseSource {
    /// In the first line of a file that only its owner may read.
    pub file: Option<PathBuf>,
    /// In an environment variable of this name.
    pub variable: Option<String>,
}

impl PassphraseSource {
    /// The passphrase; none if no place is named.
    ///
    /// # Errors
    /// In words: a file that cannot be used, or a variable that is not set.
    pub fn read(&self) -> Result<Option<Zeroizing<String>>, String> {
        if let Some(path) = &self.file {
            let text = Zeroizing::new(read_private_file(path).map_err(|error| error.to_string())?);
            let first = text.lines().next().unwrap_or_default();
            if first.is_empty() || first.len() > MOST {
                return Err(format!("{}: its first line is no passphrase", path.display()));
            }
            return Ok(Some(Zeroizing::new(first.to_owned())));
        }
        let Some(name) = &self.variable else { return Ok(None) };
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(Zeroizing::new(value))),
            _ => Err(format!("the environment variable {name} holds no passphrase")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };

    #[test]
    fn a_sealed_file_opens_with_its_passphrase_alone_and_shows_no_secret() {
        let secret = "{\"seed\":\"0x1234abcd\"}";
        let sealed = SealedFile::seal("v1", secret, "correct horse", CHEAP).unwrap();
        assert_eq!(*sealed.open("correct horse").unwrap(), secret);
        let refusal = "the passphrase is wrong, or the file was changed";
        assert_eq!(sealed.open("correct hors").unwrap_err(), refusal);
        let text = serde_json::to_string(&sealed).unwrap();
        assert_eq!(sealed_file(&text), Some(sealed.clone()));
        for shown in [text, format!("{sealed:?}")] {
            assert!(!shown.contains("1234abcd") && !shown.contains("horse"), "{shown}");
        }
        let other = SealedFile { of: "v2".to_owned(), ..sealed.clone() };
        assert_eq!(other.open("correct horse").unwrap_err(), refusal, "the name is bound");
        let greedy = SealedFile { memory_kib: u32::MAX, ..sealed.clone() };
        assert!(greedy.open("correct horse").unwrap_err().contains("is not allowed"));
        let newer = SealedFile { version: 2, ..sealed };
        assert!(newer.open("correct horse").unwrap_err().contains("in version 2"));
    }

    #[test]
    fn the_same_text_sealed_twice_gives_other_bytes() {
        let seal = || SealedFile::seal("v1", "text", "passphrase", CHEAP).unwrap();
        assert_ne!(seal().sealed, seal().sealed);
    }
}
