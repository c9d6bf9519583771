//! `aurigraph tx` and `aurigraph status`: builds, signs and sends transactions, and follows them.

use std::path::Path;
use std::time::{Duration, Instant};

use aurigraph_gpu::Signer;
use aurigraph_ledger::transaction::{SenderKey, Target, Transaction, TransactionBuilder};
use aurigraph_ledger::types::{MAX_EXPIRY, parse_aur};
use aurigraph_ledger::{AccountIndex, Hash};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::http::{NodeClient, exit_of, number_field, text_field};
use crate::keyfile::AccountKey;
use crate::output::{Output, fields};

/// How long `--wait` waits.
const WAIT: Duration = Duration::from_secs(30);
/// How often `--wait` asks.
const POLL: Duration = Duration::from_millis(100);
/// Transactions stay valid this many blocks; the ledger allows [`MAX_EXPIRY`] above its own height, which may differ a
/// little from the one that was read.
const VALID_FOR: u64 = MAX_EXPIRY - 100;

/// Runs `aurigraph tx …`.
///
/// # Errors
/// Bad input, an unreachable node, or a refusal of the ledger.
pub async fn run(command: &cli::Tx, output: Output) -> CliResult {
    match command {
        cli::Tx::Transfer(args) => {
            let operation = (parse_target(&args.to)?, parse_amount(&args.amount)?);
            send(&args.signing, &[operation], false, output).await
        }
        cli::Tx::Bundle(args) => send(&args.signing, &read_csv(&args.file)?, args.atomic, output).await,
        cli::Tx::EncryptionKey(args) => crate::confidential::register(args, output).await,
        cli::Tx::Anchor(args) => crate::confidential::anchor(args, output).await,
        cli::Tx::Status(args) => {
            let hash: Hash = args.hash.parse().map_err(|error| CliError::failed(format!("{error}")))?;
            let status = NodeClient::new(&args.url.url).get(&format!("/blockchain/transactions/{hash}")).await?;
            output.print(&status, fields);
            Ok(())
        }
    }
}

/// Runs `aurigraph status`.
///
/// # Errors
/// An unreachable node.
pub async fn status(args: &cli::Status, output: Output) -> CliResult {
    let client = NodeClient::new(&args.url.url);
    let ready = client.request(Method::GET, "/ready", "application/json", bytes::Bytes::new()).await?;
    let status = json!({
        "url": client.url(),
        "ready": ready.status.is_success(),
        "info": client.get("/info").await?,
        "consensus": client.get("/consensus/status").await?,
    });
    output.print(&status, fields);
    Ok(())
}

fn parse_target(text: &str) -> CliResult<Target> {
    let wrong = |problem: String| CliError::failed(format!("{text:?} is no recipient: {problem}"));
    if text.starts_with("0x") {
        return text
            .parse()
            .map(Target::Address)
            .map_err(|error: aurigraph_ledger::HashParseError| wrong(error.to_string()));
    }
    let index = text.parse().map_err(|_| wrong("an address is 0x and 64 hex digits, an index a number".to_owned()))?;
    Ok(Target::Index(AccountIndex(index)))
}

fn parse_amount(text: &str) -> CliResult<u128> {
    parse_aur(text).map_err(|error| CliError::failed(format!("amount: {error}")))
}

fn read_csv(path: &Path) -> CliResult<Vec<(Target, u128)>> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
    let mut operations = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem: String| CliError::file(path, format!("line {}: {problem}", number + 1));
        let (to, amount) = line.split_once(',').ok_or_else(|| wrong("not \"recipient,amount\"".to_owned()))?;
        let to = parse_target(to.trim()).map_err(|error| wrong(error.message))?;
        operations.push((to, parse_amount(amount.trim()).map_err(|error| wrong(error.message))?));
    }
    Ok(operations)
}

/// What a sender must know of itself and the chain.
struct SenderState {
    chain_id: Hash,
    height: u64,
    sender: SenderKey,
    nonce: u64,
}

impl SenderState {
    async fn ask(client: &NodeClient, key: &AccountKey, signer: &Signer) -> CliResult<Self> {
        let info = client.get("/info").await?;
        let chain_id = text_field(&info, "chainId")?.parse().map_err(|error| CliError::failed(format!("{error}")))?;
        let height = number_field(&client.get("/consensus/status").await?, "height")?;
        let account = client.get(&format!("/gateway/balance/{}", key.address)).await?;
        let index = u32::try_from(number_field(&account, "index")?).ok();
        let sender = match (account["keyRegistered"].as_bool(), index) {
            (Some(true), Some(index)) => SenderKey::Index(AccountIndex(index)),
            _ => SenderKey::PublicKey(signer.public_key().to_vec()),
        };
        Ok(Self { chain_id, height, sender, nonce: number_field(&account, "nonceBase")? })
    }
}

async fn send(args: &cli::Signing, operations: &[(Target, u128)], atomic: bool, output: Output) -> CliResult {
    let add = |builder: TransactionBuilder| {
        let start = builder.atomic(atomic);
        operations.iter().fold(start, |builder, (to, amount)| builder.transfer(*to, *amount))
    };
    send_with(args, output, add).await
}

/// Signs and sends a transaction of what `add` puts into it, and follows it if asked to.
///
/// # Errors
/// Bad input, an unreachable node, or a refusal of the ledger.
pub async fn send_with(
    args: &cli::Signing,
    output: Output,
    add: impl FnOnce(TransactionBuilder) -> TransactionBuilder,
) -> CliResult {
    let (key, signer) = AccountKey::load(&args.key, &args.passphrase)?;
    let client = NodeClient::new(&args.url.url);
    let state = SenderState::ask(&client, &key, &signer).await?;
    let nonce = args.nonce.unwrap_or(state.nonce);
    let builder = TransactionBuilder::new(state.chain_id, state.sender, nonce, state.height + VALID_FOR)
        .max_fee(parse_amount(&args.max_fee)?)
        .memo(args.memo.as_bytes());
    let transaction = sign(&add(builder), &signer)?;
    submit(&client, &transaction).await?;
    let id = transaction.id();
    if !args.wait {
        output.print(&json!({ "hash": id, "nonce": nonce, "status": "accepted" }), fields);
        return Ok(());
    }
    let outcome = follow(&client, &id).await?;
    output.print(&outcome, fields);
    match outcome["status"].as_str() {
        Some("committed") => Ok(()),
        _ => Err(CliError::new(Exit::Refused, format!("transaction {id}: {}", reason(&outcome)))),
    }
}

/// Why a transaction had no effect: its own error, else its first operation's.
fn reason(outcome: &Value) -> String {
    let operations = outcome["operations"].as_array().into_iter().flatten().map(|operation| &operation["error"]);
    let first = std::iter::once(&outcome["error"]).chain(operations).find_map(Value::as_str);
    first.unwrap_or("no operation had an effect").to_owned()
}

/// Builds and signs.
///
/// # Errors
/// Operations that make no transaction.
pub fn sign(builder: &TransactionBuilder, signer: &Signer) -> CliResult<Transaction> {
    let unsigned = builder.build().map_err(|error| CliError::failed(error.to_string()))?;
    let signature = signer.sign(&unsigned.signing_message()).map_err(|error| CliError::failed(error.to_string()))?;
    unsigned.with_signature(&signature).map_err(|error| CliError::failed(error.to_string()))
}

/// Hands a transaction to a node, waiting out its refusals of the moment.
///
/// # Errors
/// An unreachable node, or a refusal for good.
pub async fn submit(client: &NodeClient, transaction: &Transaction) -> CliResult {
    let path = "/blockchain/transactions?wait=accepted";
    let deadline = Instant::now() + WAIT;
    loop {
        let body = transaction.shared_bytes();
        let answer = client.request(Method::POST, path, "application/octet-stream", body).await?;
        let busy = matches!(answer.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if busy && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_secs(answer.retry_after.unwrap_or(1).min(5))).await;
        } else if answer.status.is_success() {
            return Ok(());
        } else {
            return Err(CliError::new(exit_of(answer.status), answer.problem()));
        }
    }
}

/// Waits until a node knows what became of a transaction.
///
/// # Errors
/// An unreachable node, or none of its answers in time.
pub async fn follow(client: &NodeClient, id: &Hash) -> CliResult<Value> {
    let deadline = Instant::now() + WAIT;
    loop {
        let path = format!("/blockchain/transactions/{id}");
        let answer = client.request(Method::GET, &path, "application/json", bytes::Bytes::new()).await?;
        let pending = answer.status == StatusCode::NOT_FOUND || answer.body["status"] == "pending";
        if answer.status.is_success() && !pending {
            return Ok(answer.body);
        }
        if !answer.status.is_success() && !pending && answer.status != StatusCode::SERVICE_UNAVAILABLE {
            return Err(CliError::new(exit_of(answer.status), answer.problem()));
        }
        if Instant::now() > deadline {
            return Err(CliError::new(Exit::Unreachable, format!("transaction {id} is not committed after {WAIT:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_file_is_read_and_its_bad_lines_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("transfers.csv");
        let address = format!("0x{}", "ab".repeat(32));
        std::fs::write(&path, format!("# to, amount\n\n{address}, 1.5\n7,2\n")).unwrap();
        let operations = read_csv(&path).unwrap();
        assert_eq!(operations[0], (Target::Address(address.parse().unwrap()), 1_500_000_000_000_000_000));
        assert_eq!(operations[1], (Target::Index(AccountIndex(7)), 2_000_000_000_000_000_000));
        for (text, problem) in [("x", "line 1: not"), ("7,2\nq,1", "line 2: \"q\""), ("7,1e3", "line 1: amount")] {
            std::fs::write(&path, text).unwrap();
            let error = read_csv(&path).unwrap_err();
            assert!(error.message.contains(problem), "{}", error.message);
        }
    }
}
