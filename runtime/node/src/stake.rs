//! `aurigraph stake`: stakes, delegations and validators, as transactions.

use std::path::PathBuf;

use aurigraph_actors::config::NodeSecrets;
use aurigraph_ledger::staking::{
    EVERYTHING, ProvenKeys, Registration, StakingOperation, ValidatorKeys, is_valid_name, proof_message,
};
use aurigraph_ledger::types::{format_aur, parse_aur};
use aurigraph_ledger::{Address, Amount, Hash, PublicKey};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::{Signing, Url};
use crate::error::{CliError, CliResult};
use crate::http::{NodeClient, number_field, text_field};
use crate::keyfile::{AccountKey, signer_of};
use crate::output::{Output, fields, table};
use crate::tx;

/// Validators that one request asks for.
const PAGE_SIZE: u64 = 200;

/// `aurigraph stake`.
#[derive(Debug, Subcommand)]
pub enum Stake {
    /// Add to a validator's own stake, as its operator
    #[command(
        after_help = "Examples:\n  aurigraph stake bond --key operator.key.json --validator v1 --amount 100 --wait"
    )]
    Bond(Amounts),
    /// Delegate to a validator
    #[command(
        after_help = "Examples:\n  aurigraph stake delegate --key alice.key.json --validator v1 --amount 5 --wait"
    )]
    Delegate(Amounts),
    /// Take delegated stake back; it can be withdrawn after the unbonding period
    #[command(after_help = "Examples:\n  aurigraph stake undelegate --key alice.key.json --validator v1 --amount all")]
    Undelegate(Amounts),
    /// Take some of a validator's own stake back, as its operator
    #[command(after_help = "Examples:\n  aurigraph stake unbond --key operator.key.json --validator v1 --amount 10")]
    Unbond(Amounts),
    /// Withdraw what has unbonded from a validator, and an operator's rewards
    #[command(after_help = "Examples:\n  aurigraph stake withdraw --key alice.key.json --validator v1 --wait")]
    Withdraw(One),
    /// Register a validator, whose operator is the key's account
    #[command(
        after_help = "The node's keys are made with `aurigraph keys new node`.\n\nExamples:\n  aurigraph stake join \
                            --key operator.key.json --node-keys v5.key.json --name v5 --amount 100 --commission 5 --wait"
    )]
    Join(Join),
    /// Leave the validator set for good, as the operator
    #[command(after_help = "Examples:\n  aurigraph stake leave --key operator.key.json --validator v1 --wait")]
    Leave(One),
    /// Set a validator's commission from the next epoch on, as its operator
    #[command(
        after_help = "Examples:\n  aurigraph stake commission --key operator.key.json --validator v1 --percent 5.5"
    )]
    Commission(Commission),
    /// Give a validator new keys from the next epoch on, as its operator
    #[command(
        after_help = "Examples:\n  aurigraph stake rotate --key operator.key.json --validator v1 --node-keys new.key.json"
    )]
    Rotate(Rotate),
    /// Ask a jailed validator back in, as its operator
    #[command(after_help = "Examples:\n  aurigraph stake unjail --key operator.key.json --validator v1 --wait")]
    Unjail(One),
    /// Announce that a validator will be absent, as its operator
    #[command(
        after_help = "Examples:\n  aurigraph stake maintenance --key operator.key.json --validator v1 --minutes 30"
    )]
    Maintenance(Maintenance),
    /// Show a validator, or all, or what an account has at stake
    #[command(after_help = "Examples:\n  aurigraph stake show\n  aurigraph stake show --validator v1\n  \
                            aurigraph stake show --account 0x<address>")]
    Show(Show),
}

/// A command about a validator.
#[derive(Debug, Args)]
pub struct One {
    /// The validator's name
    #[arg(long)]
    pub validator: String,
    /// Sender and sending.
    #[command(flatten)]
    pub signing: Signing,
}

/// A command about a validator and an amount.
#[derive(Debug, Args)]
pub struct Amounts {
    /// How much, in AUR; `all` where stake is taken back
    #[arg(long)]
    pub amount: String,
    /// The validator, and sending.
    #[command(flatten)]
    pub one: One,
}

/// `aurigraph stake join`.
#[derive(Debug, Args)]
pub struct Join {
    /// The key file of the node: its consensus and network keys sign that they are held
    #[arg(long)]
    pub node_keys: PathBuf,
    /// The validator's name: a-z, 0-9, -, _ and .
    #[arg(long)]
    pub name: String,
    /// Its own stake, in AUR
    #[arg(long)]
    pub amount: String,
    /// Its commission in percent
    #[arg(long, default_value = "0")]
    pub commission: String,
    /// Sender and sending.
    #[command(flatten)]
    pub signing: Signing,
}

/// `aurigraph stake commission`.
#[derive(Debug, Args)]
pub struct Commission {
    /// The commission in percent, with at most two decimal places
    #[arg(long)]
    pub percent: String,
    /// The validator, and sending.
    #[command(flatten)]
    pub one: One,
}

/// `aurigraph stake rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// The key file with the node's new keys
    #[arg(long)]
    pub node_keys: PathBuf,
    /// The validator, and sending.
    #[command(flatten)]
    pub one: One,
}

/// `aurigraph stake maintenance`.
#[derive(Debug, Args)]
pub struct Maintenance {
    /// How long the absence may last. It starts after the notice that the genesis asks for
    #[arg(long)]
    pub minutes: u32,
    /// The validator, and sending.
    #[command(flatten)]
    pub one: One,
}

/// `aurigraph stake show`.
#[derive(Debug, Args)]
pub struct Show {
    /// One validator, by its name
    #[arg(long, conflicts_with = "account")]
    pub validator: Option<String>,
    /// An account's stakes, by its address
    #[arg(long)]
    pub account: Option<String>,
    /// Whom to ask.
    #[command(flatten)]
    pub url: Url,
}

/// Runs `aurigraph stake …`.
///
/// # Errors
/// Bad input, an unreachable node, or a refusal of the ledger.
pub async fn run(command: &Stake, output: Output) -> CliResult {
    match command {
        Stake::Bond(args) => {
            with_amount(args, false, output, |validator, amount| StakingOperation::Bond { validator, amount }).await
        }
        Stake::Delegate(args) => {
            with_amount(args, false, output, |validator, amount| StakingOperation::Delegate { validator, amount }).await
        }
        Stake::Undelegate(args) => {
            with_amount(args, true, output, |validator, amount| StakingOperation::Undelegate { validator, amount })
                .await
        }
        Stake::Unbond(args) => {
            with_amount(args, true, output, |validator, amount| StakingOperation::Unbond { validator, amount }).await
        }
        Stake::Withdraw(one) => about(one, output, |validator| StakingOperation::Withdraw { validator }).await,
        Stake::Leave(one) => about(one, output, |validator| StakingOperation::Leave { validator }).await,
        Stake::Unjail(one) => about(one, output, |validator| StakingOperation::Unjail { validator }).await,
        Stake::Commission(args) => {
            let commission = basis_points(&args.percent)?;
            about(&args.one, output, |validator| StakingOperation::SetCommission { validator, commission }).await
        }
        Stake::Maintenance(args) => {
            let seconds = args.minutes.checked_mul(60).ok_or_else(|| CliError::failed("that is too long"))?;
            about(&args.one, output, |validator| StakingOperation::Maintenance { validator, seconds }).await
        }
        Stake::Join(args) => join(args, output).await,
        Stake::Rotate(args) => rotate(args, output).await,
        Stake::Show(args) => show(args, output).await,
    }
}

fn amount_of(text: &str, all: bool) -> CliResult<Amount> {
    match text {
        "all" if all => Ok(EVERYTHING),
        text => parse_aur(text).map_err(|error| CliError::failed(format!("amount: {error}"))),
    }
}

/// Percent with at most two decimal places, as basis points.
fn basis_points(text: &str) -> CliResult<u16> {
    let wrong = || CliError::failed(format!("{text:?} is no percentage from 0 to 100 with at most two decimal places"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 2 || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let points: u16 = format!("{whole}{fraction:0<2}").parse().map_err(|_| wrong())?;
    if points > 10_000 { Err(wrong()) } else { Ok(points) }
}

async fn row_of(url: &str, name: &str) -> CliResult<u32> {
    let validator = NodeClient::new(url).get(&format!("/validators/{name}")).await?;
    u32::try_from(number_field(&validator, "row")?).map_err(|error| CliError::failed(error.to_string()))
}

async fn about(one: &One, output: Output, make: impl FnOnce(u32) -> StakingOperation) -> CliResult {
    let row = row_of(&one.signing.url.url, &one.validator).await?;
    tx::send_with(&one.signing, output, |builder| builder.staking(make(row))).await
}

async fn with_amount(
    args: &Amounts,
    all: bool,
    output: Output,
    make: impl FnOnce(u32, Amount) -> StakingOperation,
) -> CliResult {
    let amount = amount_of(&args.amount, all)?;
    about(&args.one, output, |validator| make(validator, amount)).await
}

/// The keys of a node's key file, and their signatures for this chain, operator and name.
async fn prove(node_keys: &std::path::Path, signing: &Signing, name: &str) -> CliResult<ProvenKeys> {
    let secrets = NodeSecrets::parse(node_keys, &signing.passphrase.read_key_file(node_keys)?)?;
    let seed = secrets.consensus_seed.ok_or_else(|| CliError::file(node_keys, "has no consensus key"))?;
    let (consensus, network) = (signer_of(seed)?, signer_of(secrets.network_seed)?);
    let info = NodeClient::new(&signing.url.url).get("/info").await?;
    let chain_id: Hash = text_field(&info, "chainId")?.parse().map_err(|error| CliError::failed(format!("{error}")))?;
    let operator: Address = AccountKey::load(&signing.key, &signing.passphrase)?.0.address;
    let key = |signer: &aurigraph_gpu::Signer| PublicKey::new(signer.public_key().to_vec());
    let keys = ValidatorKeys { consensus: key(&consensus), network: key(&network) };
    let message = proof_message(&chain_id, &operator, name, &keys);
    let sign = |signer: &aurigraph_gpu::Signer| {
        signer.sign(&message).map(|it| it.to_vec()).map_err(|error| CliError::failed(error.to_string()))
    };
    Ok(ProvenKeys { consensus_proof: sign(&consensus)?, network_proof: sign(&network)?, keys })
}

async fn join(args: &Join, output: Output) -> CliResult {
    if !is_valid_name(&args.name) {
        return Err(CliError::failed(format!("{:?} is no name: 1 to 64 of a-z, 0-9, -, _ and .", args.name)));
    }
    let (self_stake, commission) = (amount_of(&args.amount, false)?, basis_points(&args.commission)?);
    let keys = prove(&args.node_keys, &args.signing, &args.name).await?;
    let registration = Registration { name: args.name.clone(), self_stake, commission, keys };
    let operation = StakingOperation::Join(Box::new(registration));
    tx::send_with(&args.signing, output, |builder| builder.staking(operation)).await
}

async fn rotate(args: &Rotate, output: Output) -> CliResult {
    let keys = Box::new(prove(&args.node_keys, &args.one.signing, &args.one.validator).await?);
    about(&args.one, output, |validator| StakingOperation::Rotate { validator, keys }).await
}

async fn show(args: &Show, output: Output) -> CliResult {
    let client = NodeClient::new(&args.url.url);
    let shown = match (&args.validator, &args.account) {
        (Some(name), _) => client.get(&format!("/validators/{name}")).await?,
        (None, Some(address)) => {
            let account = client.get(&format!("/gateway/balance/{address}")).await?;
            json!({
                "address": account["address"],
                "stake": account["stake"],
                "delegations": account["delegations"],
                "unbonding": account["unbonding"],
            })
        }
        (None, None) => {
            output.print(&all_validators(&client).await?, validators_table);
            return Ok(());
        }
    };
    output.print(&shown, fields);
    Ok(())
}

/// The answer's first page with the validators of all.
async fn all_validators(client: &NodeClient) -> CliResult<Value> {
    let path = |page: u64| format!("/validators?page={page}&pageSize={PAGE_SIZE}");
    let mut all = client.get(&path(1)).await?;
    for page in 2.. {
        let known = all["validators"].as_array().map_or(0, Vec::len) as u64;
        if known >= number_field(&all, "total")? {
            break;
        }
        let mut next = client.get(&path(page)).await?;
        let Some(more) = next["validators"].as_array_mut().filter(|more| !more.is_empty()) else { break };
        if let Some(validators) = all["validators"].as_array_mut() {
            validators.append(more);
        }
    }
    Ok(all)
}

fn validators_table(shown: &Value) -> String {
    let cell = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let aur =
        |value: &Value| value.as_str().and_then(|text| text.parse().ok()).map_or_else(|| "-".to_owned(), format_aur);
    let row = |validator: &Value| {
        let percent = |name: &str| validator[name].as_f64().map_or("-".to_owned(), |found| format!("{found:.1}"));
        vec![
            cell(&validator["id"]),
            cell(&validator["status"]),
            aur(&validator["stake"]),
            cell(&validator["votes"]),
            percent("votingPower"),
            percent("uptime"),
            cell(&validator["slashingEvents"]),
            aur(&validator["slashedStake"]),
            if validator["leaving"] == true { "leaving".into() } else { cell(&validator["jailedUntilEpoch"]) },
        ]
    };
    let rows: Vec<_> = shown["validators"].as_array().into_iter().flatten().map(row).collect();
    let heading =
        ["validator", "status", "stake", "votes", "power %", "uptime %", "faults", "lost", "jailed until epoch"];
    table(&heading, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_at_most_two_decimal_places_and_everything_is_all_of_it() {
        for (text, points) in [("0", 0), ("5", 500), ("5.5", 550), ("0.01", 1), ("100", 10_000), ("100.00", 10_000)] {
            assert_eq!(basis_points(text).ok(), Some(points), "{text}");
        }
        for text in ["", ".", ".5", "100.01", "1.234", "-1", "1e2", "700000"] {
            assert!(basis_points(text).is_err(), "{text}");
        }
        assert_eq!(amount_of("all", true).ok(), Some(EVERYTHING));
        assert!(amount_of("all", false).is_err());
    }

    #[test]
    fn validators_stand_in_rows_and_what_is_unknown_is_a_dash() {
        let one = |id: &str, uptime: Value, leaving: bool| {
            json!({
                "id": id, "status": "active", "stake": "1500000000000000000", "votes": 1, "votingPower": 50.0, "uptime": uptime,
                "slashingEvents": 0, "slashedStake": "0", "leaving": leaving, "jailedUntilEpoch": null,
            })
        };
        let text =
            validators_table(&json!({ "validators": [one("v1", json!(99.96), false), one("v2", Value::Null, true)] }));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["v1", "active", "1.5", "1", "50.0", "100.0", "0", "0", "-"], "{text}");
        assert_eq!(lines[2], ["v2", "active", "1.5", "1", "50.0", "-", "0", "0", "leaving"], "{text}");
    }
}
