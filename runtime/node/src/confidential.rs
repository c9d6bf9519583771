//! `aurigraph seal`, `aurigraph open`, `aurigraph keys encryption`, `aurigraph tx encryption-key` and `tx anchor`: files for
//! one account alone.
//!
//! An account's encryption keys follow from its seed. The account signs the public half, which stands on the ledger or
//! goes from hand to hand in a file; whoever seals to an address checks that signature and need not trust where the key
//! came from.

use std::path::{Path, PathBuf};

use aurigraph_gpu::{
    AwsLc, BatchVerifier as _, EnvelopeParties, Seed, Signer, VerifyItem, encryption_keys, envelope_digest,
    envelope_parties, open_envelope, random_32, seal_envelope,
};
use aurigraph_ledger::identity::{IdentityOperation, SignedEncryptionKey, encryption_key_message, is_encryption_key};
use aurigraph_ledger::{Address, Hash};
use clap::Args;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::Signing;
use crate::error::{CliError, CliResult, Exit};
use crate::http::{NodeClient, exit_of, number_field, text_field};
use crate::keyfile::{AccountKey, write_private_bytes};
use crate::output::{Output, fields};
use crate::passphrase::Passphrase;
use crate::tx;

/// Largest file that is sealed: it is held in memory twice.
const MOST: u64 = 1 << 30;

/// `aurigraph seal`.
#[derive(Debug, Args)]
#[command(
    long_about = "Seal a file so that one account alone can open it: ML-KEM-1024 to the account's encryption key, and \
                  AES-256-GCM.\n\nThe key is the one that the account has registered on the ledger, asked of a node, or \
                  one in a file; in either case the account's own signature of it is checked.\n\nPrints the envelope's \
                  digest. `aurigraph tx anchor` says on the ledger that the sender sealed it; the envelope itself is sent \
                  by other ways, and does not prove who sealed it.",
    after_help = "Examples:\n  aurigraph seal --to 0x<address> --from 0x<address> --file deed.pdf --out deed.sealed \
                  --node http://127.0.0.1:9003\n  aurigraph seal --to bob.enc.json --from 0x<address> --chain 0x<chain \
                  id> --file deed.pdf --out deed.sealed"
)]
pub struct Seal {
    /// The recipient: an address, or the file that its `keys encryption` wrote
    #[arg(long)]
    pub to: String,
    /// The sender's address
    #[arg(long)]
    pub from: Address,
    /// The chain's id (`chainId` of /info); asked of the node if absent
    #[arg(long)]
    pub chain: Option<Hash>,
    /// What to seal
    #[arg(long)]
    pub file: PathBuf,
    /// Where to write the envelope
    #[arg(long)]
    pub out: PathBuf,
    /// The node that is asked, where something is
    #[arg(long, visible_alias = "url", default_value = "http://127.0.0.1:9003")]
    pub node: String,
}

/// `aurigraph open`.
#[derive(Debug, Args)]
#[command(
    long_about = "Open a sealed envelope with the key file of the account that it was sealed to.\n\nWith --node, what the \
                  envelope says of its sender has to stand on the ledger: its sender anchored it with `aurigraph tx \
                  anchor`.",
    after_help = "Examples:\n  aurigraph open --key bob.key.json --file deed.sealed --out deed.pdf\n  aurigraph open --key \
                  bob.key.json --file deed.sealed --out deed.pdf --node http://127.0.0.1:9003"
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
    /// Refuse an envelope that its sender did not anchor on this node's chain
    #[arg(long, visible_alias = "url")]
    pub node: Option<String>,
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
    /// Which of the account's encryption keys
    #[arg(long, default_value_t = 0)]
    pub number: u32,
    /// How to open the key file.
    #[command(flatten)]
    pub passphrase: Passphrase,
}

/// `aurigraph tx encryption-key`.
#[derive(Debug, Args)]
pub struct RegisterKey {
    /// Which of the account's encryption keys [default: the one after the registered one, or 0]
    #[arg(long)]
    pub number: Option<u32>,
    /// Sender and sending.
    #[command(flatten)]
    pub signing: Signing,
}

/// `aurigraph tx anchor`.
#[derive(Debug, Args)]
pub struct Anchor {
    /// The envelope; it stays here, its digest is sent
    #[arg(long)]
    pub file: PathBuf,
    /// Sender and sending.
    #[command(flatten)]
    pub signing: Signing,
}

/// The public half of an account's encryption key, signed by the account: as it stands in files and as nodes tell it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EncryptionKey {
    address: Address,
    public_key: String,
    number: u32,
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
    fn of(address: Address, signer: &Signer, signed: &SignedEncryptionKey) -> Self {
        Self {
            address,
            public_key: digits(signer.public_key()),
            number: signed.number,
            encryption_key: digits(&signed.key),
            signature: digits(&signed.signature),
        }
    }

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
        let message = encryption_key_message(self.number, &key);
        if !AwsLc.verify(&VerifyItem::new(&public, &message, &signature)) {
            return Err("signature: the account did not sign this encryption key");
        }
        if !is_encryption_key(&key) {
            return Err("encryptionKey: not a key of ML-KEM-1024");
        }
        Ok(key)
    }

    fn read(path: &Path) -> CliResult<Self> {
        serde_json::from_slice(&read(path)?).map_err(|error| CliError::file(path, error))
    }

    /// The one that stands on the ledger.
    async fn ask(client: &NodeClient, address: &Address) -> CliResult<Self> {
        let path = format!("/gateway/encryption-keys/{address}");
        let answer = client.request(Method::GET, &path, "application/json", bytes::Bytes::new()).await?;
        if answer.status == StatusCode::NOT_FOUND {
            let problem = format!("{address} has registered no encryption key on the ledger");
            return Err(CliError::new(Exit::Refused, problem));
        }
        if !answer.status.is_success() {
            return Err(CliError::new(exit_of(answer.status), answer.problem()));
        }
        let told: Self = serde_json::from_value(answer.body).map_err(failed)?;
        if told.address == *address { Ok(told) } else { Err(failed("the node told another account's key")) }
    }
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::failed(error.to_string())
}

fn read(path: &Path) -> CliResult<Vec<u8>> {
    match std::fs::metadata(path) {
        Ok(file) if file.len() > MOST => Err(CliError::file(path, format!("more than {MOST} bytes"))),
        _ => std::fs::read(path).map_err(|error| CliError::file(path, error)),
    }
}

/// The public half of a key file's encryption key with a number, signed.
fn signed_key(key: &AccountKey, signer: &Signer, number: u32) -> CliResult<SignedEncryptionKey> {
    let keys = encryption_keys(&AwsLc, &key.seed()?, number).map_err(failed)?;
    let signature = signer.sign(&encryption_key_message(number, &keys.encapsulation)).map_err(failed)?;
    Ok(SignedEncryptionKey { number, key: keys.encapsulation, signature })
}

/// Runs `aurigraph keys encryption`.
///
/// # Errors
/// Files that cannot be read or written.
pub fn encryption(args: &Encryption, output: Output) -> CliResult {
    let (key, signer) = AccountKey::load(&args.file, &args.passphrase)?;
    let shown = EncryptionKey::of(key.address, &signer, &signed_key(&key, &signer, args.number)?);
    let text = serde_json::to_string_pretty(&shown).map_err(failed)?;
    std::fs::write(&args.out, text + "\n").map_err(|error| CliError::file(&args.out, error))?;
    output.print(&json!({ "address": key.address, "number": args.number, "file": args.out }), fields);
    Ok(())
}

/// Runs `aurigraph tx encryption-key`.
///
/// # Errors
/// Bad input, an unreachable node, or a refusal of the ledger.
pub async fn register(args: &RegisterKey, output: Output) -> CliResult {
    let (key, signer) = AccountKey::load(&args.signing.key, &args.signing.passphrase)?;
    let number = match args.number {
        Some(number) => number,
        None => {
            let client = NodeClient::new(&args.signing.url.url);
            let account = client.get(&format!("/gateway/balance/{}", key.address)).await?;
            match account["encryptionKeyNumber"].as_u64().map(|number| u32::try_from(number + 1)) {
                Some(next) => next.map_err(|_| failed("the account has no further number for an encryption key"))?,
                None => 0,
            }
        }
    };
    let signed = Box::new(signed_key(&key, &signer, number)?);
    let operation = IdentityOperation::RegisterEncryptionKey(signed);
    tx::send_with(&args.signing, output, |builder| builder.identity(operation)).await
}

/// Runs `aurigraph tx anchor`.
///
/// # Errors
/// A file that is no envelope, or one of another sender; an unreachable node, or a refusal of the ledger.
pub async fn anchor(args: &Anchor, output: Output) -> CliResult {
    let envelope = read(&args.file)?;
    let parties = envelope_parties(&envelope).map_err(|error| CliError::file(&args.file, error))?;
    let (key, _) = AccountKey::load(&args.signing.key, &args.signing.passphrase)?;
    if parties.sender != key.address.0 {
        return Err(CliError::file(&args.file, format!("it says that {} sealed it", parties.sender)));
    }
    let operation = IdentityOperation::AnchorEnvelope { digest: envelope_digest(&envelope) };
    tx::send_with(&args.signing, output, |builder| builder.identity(operation)).await
}

/// Runs `aurigraph seal`.
///
/// # Errors
/// Files that cannot be read or written, an unreachable node, a recipient without an encryption key, and an encryption
/// key that its account did not sign.
pub async fn seal(args: &Seal, output: Output) -> CliResult {
    let client = NodeClient::new(&args.node);
    let (to, key) = if args.to.starts_with("0x") {
        let address = args.to.parse().map_err(|error| failed(format!("--to: {error}")))?;
        let to = EncryptionKey::ask(&client, &address).await?;
        let key = to.checked().map_err(|problem| CliError::new(Exit::Refused, format!("{}: {problem}", args.node)))?;
        (to, key)
    } else {
        let path = Path::new(&args.to);
        let to = EncryptionKey::read(path)?;
        let key = to.checked().map_err(|problem| CliError::file(path, problem))?;
        (to, key)
    };
    let chain = match args.chain {
        Some(chain) => chain,
        None => text_field(&client.get("/info").await?, "chainId")?.parse().map_err(failed)?,
    };
    let plain = zeroize::Zeroizing::new(read(&args.file)?);
    let parties = EnvelopeParties { chain, sender: args.from.0, recipient: to.address.0, key_number: to.number };
    let (m, random) = (random_32().map_err(failed)?, random_32().map_err(failed)?);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&random[..12]);
    let envelope = seal_envelope(&AwsLc, &parties, &key, &plain, &m, nonce).map_err(failed)?;
    std::fs::write(&args.out, &envelope).map_err(|error| CliError::file(&args.out, error))?;
    let digest = envelope_digest(&envelope);
    output.print(
        &json!({ "file": args.out, "to": to.address, "keyNumber": to.number, "chainId": chain, "digest": digest }),
        fields,
    );
    Ok(())
}

/// The height at which the envelope's sender anchored it on the chain of a node.
async fn anchored(node: &str, parties: &EnvelopeParties, digest: &Hash) -> CliResult<u64> {
    let client = NodeClient::new(node);
    let chain: Hash = text_field(&client.get("/info").await?, "chainId")?.parse().map_err(failed)?;
    if chain != parties.chain {
        let problem = format!("{node} is of the chain {chain}, the envelope of {}", parties.chain);
        return Err(CliError::new(Exit::Refused, problem));
    }
    let path = format!("/gateway/envelopes/{}/{digest}", parties.sender);
    let answer = client.request(Method::GET, &path, "application/json", bytes::Bytes::new()).await?;
    match answer.status {
        StatusCode::NOT_FOUND => {
            let problem = format!("{} has not anchored the envelope {digest} on the ledger", parties.sender);
            Err(CliError::new(Exit::Refused, problem))
        }
        status if status.is_success() => number_field(&answer.body, "height"),
        status => Err(CliError::new(exit_of(status), answer.problem())),
    }
}

/// Runs `aurigraph open`.
///
/// # Errors
/// Files that cannot be read or written; an envelope that is none, is for another account or chain, or was changed; with
/// a node, one that its sender did not anchor.
pub async fn open(args: &Open, output: Output) -> CliResult {
    let (key, _) = AccountKey::load(&args.key, &args.passphrase)?;
    let envelope = read(&args.file)?;
    let refused = |problem: String| CliError::new(Exit::Failed, format!("{}: {problem}", args.file.display()));
    let parties = envelope_parties(&envelope).map_err(|error| refused(error.to_string()))?;
    let keys = encryption_keys(&AwsLc, &key.seed()?, parties.key_number).map_err(failed)?;
    let (parties, plain) =
        open_envelope(&AwsLc, &keys.decapsulation, &envelope).map_err(|error| refused(error.to_string()))?;
    if parties.recipient != key.address.0 {
        return Err(refused(format!("it says that it is for {}", parties.recipient)));
    }
    if args.chain.is_some_and(|chain| chain != parties.chain) {
        return Err(refused(format!("it belongs to the chain {}", parties.chain)));
    }
    let digest = envelope_digest(&envelope);
    let height = match &args.node {
        Some(node) => Some(anchored(node, &parties, &digest).await?),
        None => None,
    };
    write_private_bytes(&args.out, &plain, false)?;
    output.print(
        &json!({
            "file": args.out, "from": parties.sender, "chainId": parties.chain,
            "digest": digest, "anchoredAt": height, "bytes": plain.len(),
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
