//! `aurigraph proof`: fetches proofs as files, and verifies such files without any node.

use std::path::Path;
use std::time::{Duration, Instant};

use aurigraph_ledger::merkle::{MerkleProof, TransactionProof, transaction_leaf};
use aurigraph_ledger::state::AccountProof;
use aurigraph_ledger::{Address, Hash, LedgerHeader};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::finality::{FinalityFile, Trust};
use crate::http::{NodeClient, exit_of};
use crate::output::{Output, fields, say};

/// How long the first checkpoint of a chain may take: it comes with a heartbeat at the latest.
const FIRST_CHECKPOINT_WITHIN: Duration = Duration::from_secs(30);
/// How often the node is asked.
const POLL: Duration = Duration::from_millis(250);
/// The form of proof files that is written. The first had neither a version nor a certificate; it is read still.
const VERSION: u8 = 2;

const fn first_version() -> u8 {
    1
}

/// A proof file.
#[derive(Debug, Serialize, Deserialize)]
struct ProofFile {
    #[serde(default = "first_version")]
    version: u8,
    #[serde(flatten)]
    leaf: Leaf,
    /// What makes it final; none in files of the first form.
    finality: Option<FinalityFile>,
}

/// What is proved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
enum Leaf {
    /// That a transaction is in a block.
    #[serde(rename_all = "camelCase")]
    Transaction {
        /// The transaction.
        hash: Hash,
        /// Its block.
        block_height: u64,
        /// The path, as the node gave it.
        proof: TransactionPath,
    },
    /// What an account held at a checkpoint.
    #[serde(rename_all = "camelCase")]
    Account {
        /// The account.
        address: Address,
        /// The state root that the node says the proof holds under.
        state_root: Hash,
        /// Pages and paths.
        proof: AccountProof,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionPath {
    signature_digest: Hash,
    leaf: Hash,
    position: u32,
    count: u32,
    siblings: Vec<Hash>,
    transactions_root: Hash,
    header: String,
    block_hash: Hash,
}

/// Runs `aurigraph proof …`.
///
/// # Errors
/// An unreachable node, an unknown thing, or a proof that does not hold.
pub async fn run(command: &cli::Proof, output: Output) -> CliResult {
    match command {
        cli::Proof::Tx(args) => {
            let file = fetch_transaction(&NodeClient::new(&args.url.url), &args.of).await?;
            deliver(&file, args.out.as_deref(), output)
        }
        cli::Proof::Account(args) => {
            let file = fetch_account(&NodeClient::new(&args.url.url), &args.of).await?;
            deliver(&file, args.out.as_deref(), output)
        }
        cli::Proof::Verify(args) => {
            let shown = verify_file(&args.file, args.root.as_deref(), args.genesis.as_deref())?;
            output.print(&shown, fields);
            Ok(())
        }
    }
}

fn parse_hash(text: &str) -> CliResult<Hash> {
    text.parse().map_err(|error: aurigraph_ledger::HashParseError| CliError::failed(error.to_string()))
}

async fn fetch_transaction(client: &NodeClient, of: &str) -> CliResult<ProofFile> {
    let hash = parse_hash(of)?;
    let answer = client.get(&format!("/gateway/transactions/{hash}")).await?;
    if answer["proof"].is_null() {
        let message = format!("transaction {hash} is {}: only a committed one has a proof", answer["status"]);
        return Err(CliError::new(Exit::Refused, message));
    }
    let leaf = from_answer(
        json!({ "kind": "transaction", "hash": hash, "blockHeight": answer["blockHeight"], "proof": answer["proof"] }),
    )?;
    let Leaf::Transaction { proof, block_height, .. } = &leaf else {
        return Err(CliError::failed("the node's answer is no proof of a transaction"));
    };
    let header = header_of(proof).map_err(|problem| CliError::failed(format!("the node's proof: {problem}")))?;
    // The header names the newest checkpoint below it: the next one covers it.
    let finality = FinalityFile::fetch(client, header.checkpoint_seq.saturating_add(1), *block_height).await?;
    Ok(ProofFile { version: VERSION, leaf, finality: Some(finality) })
}

async fn fetch_account(client: &NodeClient, of: &str) -> CliResult<ProofFile> {
    let address = parse_hash(of)?;
    let path = format!("/gateway/balance/{address}/proof");
    let deadline = Instant::now() + FIRST_CHECKPOINT_WITHIN;
    let answer = loop {
        let answer = client.request(Method::GET, &path, "application/json", bytes::Bytes::new()).await?;
        // At genesis there is nothing to attest yet, and a node that has just started proves from its next checkpoint on:
        // one comes with the next blocks.
        let early = answer.status.as_u16() == 503 || answer.body["checkpointSequence"] == 0;
        if !early || Instant::now() > deadline {
            if answer.status.is_success() {
                break answer.body;
            }
            return Err(CliError::new(exit_of(answer.status), format!("{path}: {}", answer.problem())));
        }
        tokio::time::sleep(POLL).await;
    };
    let (state_root, proof) = (&answer["stateRoot"], &answer["proof"]);
    let leaf = from_answer(json!({ "kind": "account", "address": address, "stateRoot": state_root, "proof": proof }))?;
    let (Some(seq), Some(height)) = (answer["checkpointSequence"].as_u64(), answer["height"].as_u64()) else {
        return Err(CliError::failed("the node's answer names no checkpoint"));
    };
    let finality = FinalityFile::fetch(client, seq, height).await?;
    Ok(ProofFile { version: VERSION, leaf, finality: Some(finality) })
}

fn from_answer(value: Value) -> CliResult<Leaf> {
    serde_json::from_value(value).map_err(|error| CliError::failed(format!("the node's answer is no proof: {error}")))
}

fn deliver(file: &ProofFile, out: Option<&Path>, output: Output) -> CliResult {
    let text = serde_json::to_string_pretty(file).map_err(|error| CliError::failed(error.to_string()))?;
    let Some(out) = out else {
        say(&text);
        return Ok(());
    };
    std::fs::write(out, text + "\n").map_err(|error| CliError::file(out, error))?;
    output.print(&json!({ "file": out }), fields);
    Ok(())
}

fn verify_file(path: &Path, root: Option<&str>, genesis: Option<&Path>) -> CliResult<Value> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
    let file: ProofFile = serde_json::from_str(&text).map_err(|error| CliError::file(path, error))?;
    if file.version > VERSION {
        return Err(CliError::file(path, format!("is of form {}, this program reads up to {VERSION}", file.version)));
    }
    let root = root.map(parse_hash).transpose()?;
    let trust = genesis.map(Trust::load).transpose()?;
    let shown = verify(&file, root, trust.as_ref());
    shown.map_err(|problem| CliError::new(Exit::Refused, format!("{}: does not hold: {problem}", path.display())))
}

/// Against the validators of a genesis, a root, or only in itself.
fn verify(file: &ProofFile, root: Option<Hash>, trust: Option<&Trust>) -> Result<Value, String> {
    let Some(trust) = trust else {
        let mut shown = verify_leaf(&file.leaf, root)?;
        shown["final"] = false.into();
        shown["checkedAgainst"] = match root {
            Some(_) => "the root given; its certificate was not looked at",
            None => "itself alone, which shows nothing: give --genesis FILE, or --root with one that you trust",
        }
        .into();
        return Ok(shown);
    };
    let finality = file.finality.as_ref().ok_or("it has no certificate: it can be verified against a root only")?;
    let (proved, shown) = match &file.leaf {
        Leaf::Transaction { hash, proof, .. } => finality.verify_transaction(&proof.as_proof(hash), trust)?,
        Leaf::Account { address, proof, .. } => finality.verify_account(address, proof, trust)?,
    };
    let mut all = verify_leaf(&file.leaf, Some(proved))?;
    if let Some(root) = root {
        verify_leaf(&file.leaf, Some(root))?;
    }
    if let (Value::Object(all), Value::Object(shown)) = (&mut all, shown) {
        all.extend(shown);
        all.insert("final".to_owned(), true.into());
        all.insert("checkedAgainst".to_owned(), "the validators of the genesis".into());
    }
    Ok(all)
}

fn verify_leaf(leaf: &Leaf, root: Option<Hash>) -> Result<Value, String> {
    match leaf {
        Leaf::Transaction { hash, block_height, proof } => verify_transaction(hash, *block_height, proof, root),
        Leaf::Account { address, state_root, proof } => verify_account(address, state_root, proof, root),
    }
}

fn header_of(path: &TransactionPath) -> Result<LedgerHeader, String> {
    let bytes = path.header.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
    LedgerHeader::decode(&bytes.ok_or("the header is no hex")?).map_err(|error| error.to_string())
}

impl TransactionPath {
    fn merkle(&self) -> MerkleProof {
        MerkleProof { position: self.position, count: self.count, siblings: self.siblings.clone() }
    }

    fn as_proof(&self, id: &Hash) -> TransactionProof {
        TransactionProof { id: *id, signature_digest: self.signature_digest, path: self.merkle() }
    }
}

fn verify_transaction(id: &Hash, height: u64, path: &TransactionPath, root: Option<Hash>) -> Result<Value, String> {
    let leaf = transaction_leaf(id, &path.signature_digest);
    if leaf != path.leaf {
        return Err(format!("the leaf is {leaf}, not {}", path.leaf));
    }
    if !path.merkle().verify(leaf, &path.transactions_root) {
        return Err(format!("the path does not lead to transactions root {}", path.transactions_root));
    }
    let header = header_of(path)?;
    if header.hash() != path.block_hash {
        return Err(format!("the header's hash is {}, not {}", header.hash(), path.block_hash));
    }
    if header.tx_root != path.transactions_root || header.height != height {
        return Err("the header is another block's".to_owned());
    }
    if let Some(root) = root.filter(|root| *root != path.block_hash && *root != path.transactions_root) {
        return Err(format!("{root} is neither the block's hash nor its transactions root"));
    }
    Ok(json!({
        "valid": true,
        "transaction": id,
        "blockHeight": height,
        "blockHash": path.block_hash,
        "transactionsRoot": path.transactions_root,
        "rootTrusted": root.is_some(),
    }))
}

fn verify_account(address: &Address, named: &Hash, proof: &AccountProof, root: Option<Hash>) -> Result<Value, String> {
    if let Some(root) = root.filter(|root| root != named) {
        return Err(format!("it names state root {named}, the trusted one is {root}"));
    }
    let expected = root.unwrap_or(*named);
    let account = proof.verify(&expected).map_err(|error| error.to_string())?;
    if account.address != *address {
        return Err(format!("it proves account {}, not {address}", account.address));
    }
    Ok(json!({
        "valid": true,
        "address": address,
        "index": account.index,
        "balance": account.balance.to_string(),
        "nonceBase": account.nonce,
        "stateRoot": expected,
        "rootTrusted": root.is_some(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurigraph_ledger::merkle::transaction_tree;
    use aurigraph_ledger::{PlainHasher, blake3_digest};

    fn header(tx_root: Hash) -> LedgerHeader {
        LedgerHeader {
            height: 7,
            epoch: 1,
            commit_index: 9,
            commit_digest: Hash::ZERO,
            timestamp_ms: 1,
            leader: 0,
            round: 3,
            parent: Hash::ZERO,
            tx_root,
            receipts_root: Hash::ZERO,
            checkpoint_seq: 0,
            state_root: Hash::ZERO,
            transactions: 3,
            operations: 3,
        }
    }

    #[test]
    fn a_transaction_proof_holds_and_every_change_of_it_is_seen() {
        let leaves: Vec<_> = (0..3_u8).map(|n| (blake3_digest(&[n]), blake3_digest(&[n, n]))).collect();
        let tree = transaction_tree(leaves.clone(), &PlainHasher);
        let proof = tree.proof(1).unwrap();
        let header = header(tree.root());
        let path = || TransactionPath {
            signature_digest: leaves[1].1,
            leaf: transaction_leaf(&leaves[1].0, &leaves[1].1),
            position: proof.position,
            count: proof.count,
            siblings: proof.siblings.clone(),
            transactions_root: tree.root(),
            header: format!("0x{}", hex::encode(header.encode())),
            block_hash: header.hash(),
        };
        let id = leaves[1].0;
        assert_eq!(verify_transaction(&id, 7, &path(), Some(header.hash())).unwrap()["rootTrusted"], true);
        assert!(verify_transaction(&id, 7, &path(), Some(Hash::ZERO)).is_err());
        assert!(verify_transaction(&leaves[0].0, 7, &path(), None).is_err());
        assert!(verify_transaction(&id, 8, &path(), None).is_err());
        assert!(verify_transaction(&id, 7, &TransactionPath { position: 0, ..path() }, None).is_err());
        assert!(verify_transaction(&id, 7, &TransactionPath { block_hash: Hash::ZERO, ..path() }, None).is_err());
        assert!(verify_transaction(&id, 7, &TransactionPath { header: "0x00".into(), ..path() }, None).is_err());
    }
}
