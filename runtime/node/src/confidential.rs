//! `aurigraph seal`, `aurigraph open` and `aurigraph keys encryption`: files for one account alone.
//!
//! An account's encryption key follows from its seed. Its public half goes into a file that the account signs, so that
//! whoever seals to an address knows that the key is that address's.

use std::path::PathBuf;

use aurigraph_gpu::{
    AwsLc, BatchVerifier as _, EnvelopeParties, Seed, VerifyItem, encryption_keys, envelope_digest, open_envelope,
    random_32, seal_envelope,
};
use aurigraph_ledger::{Address, Hash};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{CliError, CliResult, Exit};
use crate::keyfile::{AccountKey, write_private_bytes};
use crate::output::{Output, fields};
use crate::passphrase::Passphrase;

/// What stands before an encryption key when its account signs it.
const DOMAIN: &[u8] = b"aurigraph/encryption-key/1";
/// Largest file that is sealed: it is held in memory twice.
const MOST: u64 = 1 << 30;

/// `aurigraph seal`.
#[derive(Debug, Args)]
#[command(
    long_about = "Seal a file so that one account alone can open it: ML-KEM-1024 to the account's encryption key, and \
                  AES-256-GCM.\n\nPrints the envelope's digest. A transaction whose memo is `envelope:DIGEST` says on the \
                  ledger which envelope is meant; the envelope itself is sent by other ways. An envelope does not prove who \
                  sealed it; the transaction does.",
    after_help = "Examples:\n  aurigraph keys encryption bob.key.json --out bob.enc.json      (bob, once)\n  \
                  aurigraph seal --to bob.enc.json --from 0x<address> --chain 0x<chain id> --file deed.pdf --out deed.sealed"
)]
pub struct Seal {
    /// The encryption key of the recipient, as `keys encryption` wrote it
    #[arg(long)]
    pub to: PathBuf,
    /// The sender's address
    #[arg(long)]
    pub from: Address,
    /// The chain's id (`chainId` of /info)
    #[arg(long)]
    pub chain: Hash,
    /// What to seal
    #[arg(long)]
    pub file: PathBuf,
    /// Where to write the envelope
    #[arg(long)]
    pub out: PathBuf,
}

/// `aurigraph open`.
#[derive(Debug, Args)]
#[command(
    long_about = "Open a sealed envelope with the key file of the account that it was sealed to.",
    after_help = "Examples:\n  aurigraph open --key bob.key.json --file deed.sealed --out deed.pdf"
)]
pub struct Open {
    /// The account's key file
    #[arg(long)]
    pub key: PathBuf,
    /// The envelope
    #[arg(long)]
    pub file: PathBuf,
    /// Where to write what was sealed (mode 0600); an existing file is never overwritten
    #[arg(long)]
    pub out: PathBuf,
    /// Refuse an envelope of another chain than this one
    #[arg(long)]
    pub chain: Option<Hash>,
    /// How to open the key file.
    #[command(flatten)]
    pub passphrase: Passphrase,
}

/// `aurigraph keys encryption`.
#[derive(Debug, Args)]
pub struct Encryption {
    /// The account's key file
    pub file: PathBuf,
    /// Where to write the public encryption key, signed by the account
    #[arg(long)]
    pub out: PathBuf,
    /// How to open the key file.
    #[command(flatten)]
    pub passphrase: Passphrase,
}

/// The public half of an account's encryption key, signed by the account.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EncryptionKey {
    address: Address,
    public_key: String,
    encryption_key: String,
    signature: String,
}

fn digits(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("0x")?).ok()
}

impl EncryptionKey {
    /// The key, if the account of the address signed it.
    fn checked(&self) -> Result<Vec<u8>, &'static str> {
        let (Some(public), Some(key), Some(signature)) =
            (bytes(&self.public_key), bytes(&self.encryption_key), bytes(&self.signature))
        else {
            return Err("not hex digits");
        };
        if Address::of_public_key(&public) != self.address {
            return Err("publicKey: not that of the address");
        }
        let message = [DOMAIN, &key].concat();
        if !AwsLc.verify(&VerifyItem::new(&public, &message, &signature)) {
            return Err("signature: the account did not sign this encryption key");
        }
        Ok(key)
    }
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::failed(error.to_string())
}

fn read(path: &std::path::Path) -> CliResult<Vec<u8>> {
    match std::fs::metadata(path) {
        Ok(file) if file.len() > MOST => Err(CliError::file(path, format!("more than {MOST} bytes"))),
        _ => std::fs::read(path).map_err(|error| CliError::file(path, error)),
    }
}

/// Runs `aurigraph keys encryption`.
///
/// # Errors
/// Files that cannot be read or written.
pub fn encryption(args: &Encryption, output: Output) -> CliResult {
    let (key, signer) = AccountKey::load(&args.file, &args.passphrase)?;
    let keys = encryption_keys(&AwsLc, &key.seed()?).map_err(failed)?;
    let signature = signer.sign(&[DOMAIN, &keys.encapsulation].concat()).map_err(failed)?;
    let shown = EncryptionKey {
        address: key.address,
        public_key: digits(signer.public_key()),
        encryption_key: digits(&keys.encapsulation),
        signature: digits(&signature),
    };
    let text = serde_json::to_string_pretty(&shown).map_err(failed)?;
    std::fs::write(&args.out, text + "\n").map_err(|error| CliError::file(&args.out, error))?;
    output.print(&json!({ "address": key.address, "file": args.out }), fields);
    Ok(())
}

/// Runs `aurigraph seal`.
///
/// # Errors
/// Files that cannot be read or written, and an encryption key that its account did not sign.
pub fn seal(args: &Seal, output: Output) -> CliResult {
    let text = read(&args.to)?;
    let to: EncryptionKey = serde_json::from_slice(&text).map_err(|error| CliError::file(&args.to, error))?;
    let key = to.checked().map_err(|problem| CliError::file(&args.to, problem))?;
    let plain = zeroize::Zeroizing::new(read(&args.file)?);
    let parties = EnvelopeParties { chain: args.chain, sender: args.from.0, recipient: to.address.0 };
    let (m, random) = (random_32().map_err(failed)?, random_32().map_err(failed)?);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&random[..12]);
    let envelope = seal_envelope(&AwsLc, &parties, &key, &plain, &m, nonce).map_err(failed)?;
    std::fs::write(&args.out, &envelope).map_err(|error| CliError::file(&args.out, error))?;
    let digest = envelope_digest(&envelope);
    output.print(
        &json!({ "file": args.out, "to": to.address, "digest": digest, "memo": format!("envelope:{digest}") }),
        fields,
    );
    Ok(())
}

/// Runs `aurigraph open`.
///
/// # Errors
/// Files that cannot be read or written; an envelope that is none, is for another account or chain, or was changed.
pub fn open(args: &Open, output: Output) -> CliResult {
    let (key, _) = AccountKey::load(&args.key, &args.passphrase)?;
    let envelope = read(&args.file)?;
    let refused = |problem: String| CliError::new(Exit::Failed, format!("{}: {problem}", args.file.display()));
    let keys = encryption_keys(&AwsLc, &key.seed()?).map_err(failed)?;
    let (parties, plain) =
        open_envelope(&AwsLc, &keys.decapsulation, &envelope).map_err(|error| refused(error.to_string()))?;
    if parties.recipient != key.address.0 {
        return Err(refused(format!("it says that it is for {}", parties.recipient)));
    }
    if args.chain.is_some_and(|chain| chain != parties.chain) {
        return Err(refused(format!("it belongs to the chain {}", parties.chain)));
    }
    write_private_bytes(&args.out, &plain, false)?;
    output.print(
        &json!({
            "file": args.out, "from": parties.sender, "chainId": parties.chain,
            "digest": envelope_digest(&envelope), "bytes": plain.len(),
        }),
        fields,
    );
    Ok(())
}

/// The seed of a key file, for the keys that follow from it.
impl AccountKey {
    fn seed(&self) -> CliResult<Seed> {
        self.seed_bytes().map(Seed::new).ok_or_else(|| failed("seed: not 0x and 64 hex digits"))
    }
}
