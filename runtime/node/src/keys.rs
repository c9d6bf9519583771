//! `aurigraph keys` and `aurigraph genesis`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aurigraph_actors::config::{NodePublic, NodeSecrets};
use aurigraph_ledger::types::parse_aur;
use aurigraph_ledger::{Address, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, ProtocolParameters};
use serde_json::json;

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::keyfile::{AccountKey, write_private};
use crate::output::{Output, fields};

/// Runs `aurigraph keys …`.
///
/// # Errors
/// Files that cannot be read or written.
pub fn run(command: &cli::Keys, output: Output) -> CliResult {
    match command {
        cli::Keys::New(new) => match (new.kind, &new.name) {
            (cli::KeyKind::Node, Some(name)) => new_node(name, &new.out, output),
            _ => new_account(&new.out, output),
        },
        cli::Keys::Show(file) => show(&file.file, output),
        cli::Keys::Address(file) => {
            let (key, _) = AccountKey::load(&file.file)?;
            output.print(&json!({ "address": key.address }), |_| key.address.to_string());
            Ok(())
        }
    }
}

fn random_seed() -> CliResult<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| CliError::failed(format!("no randomness: {error}")))?;
    Ok(seed)
}

fn new_account(out: &Path, output: Output) -> CliResult {
    let key = AccountKey::of_seed(random_seed()?)?;
    write_private(out, &pretty(&key)?, false)?;
    output.print(&json!({ "address": key.address, "file": out }), fields);
    Ok(())
}

fn new_node(name: &str, out: &Path, output: Output) -> CliResult {
    let secrets = NodeSecrets {
        name: name.to_owned(),
        consensus_seed: Some(random_seed()?),
        network_seed: random_seed()?,
        admin_token: Some(hex::encode(random_seed()?)),
    };
    let public = public_path(out, name);
    write_private(out, &pretty(&secrets)?, false)?;
    std::fs::write(&public, pretty(&secrets.public())? + "\n").map_err(|error| CliError::file(&public, error))?;
    output.print(&json!({ "name": name, "file": out, "public": public }), fields);
    Ok(())
}

/// `v1.key.json` has `v1.pub.json` beside it.
fn public_path(secret: &Path, name: &str) -> PathBuf {
    secret.with_file_name(format!("{name}.pub.json"))
}

fn pretty<T: serde::Serialize>(value: &T) -> CliResult<String> {
    serde_json::to_string_pretty(value).map_err(|error| CliError::failed(error.to_string()))
}

fn show(path: &Path, output: Output) -> CliResult {
    let shown = match NodeSecrets::load(path) {
        Ok(secrets) => serde_json::to_value(secrets.public()).map_err(|error| CliError::failed(error.to_string()))?,
        Err(_) => {
            let (key, signer) = AccountKey::load(path)?;
            json!({ "address": key.address, "publicKey": format!("0x{}", hex::encode(signer.public_key())) })
        }
    };
    output.print(&shown, fields);
    Ok(())
}

/// Runs `aurigraph genesis create`.
///
/// # Errors
/// Inputs that cannot be read, or that do not make a genesis.
pub fn create_genesis(command: &cli::GenesisCreate, output: Output) -> CliResult {
    let validators = command.validators.iter().map(|text| validator(text)).collect::<CliResult<Vec<_>>>()?;
    let accounts = command.accounts.iter().map(|text| account(text)).collect::<CliResult<Vec<_>>>()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let genesis = Genesis {
        network: command.network.clone(),
        timestamp_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        fees: FeeSchedule::default(),
        parameters: ProtocolParameters::default(),
        validators,
        accounts,
    };
    genesis.validate().map_err(|error| CliError::new(Exit::BadFile, error.to_string()))?;
    if command.out.exists() {
        return Err(CliError::file(&command.out, "exists already; a network has one genesis"));
    }
    let text = toml::to_string(&genesis).map_err(|error| CliError::failed(error.to_string()))?;
    std::fs::write(&command.out, text).map_err(|error| CliError::file(&command.out, error))?;
    output.print(&json!({ "chainId": genesis.chain_id(), "file": command.out }), fields);
    Ok(())
}

fn validator(text: &str) -> CliResult<GenesisValidator> {
    let (file, stake) = match text.rsplit_once(':').map(|(file, stake)| (file, stake.parse())) {
        Some((file, Ok(stake))) => (file, stake),
        _ => (text, 1),
    };
    let public = NodePublic::load(Path::new(file))?;
    let consensus_key = public.consensus_key;
    Ok(GenesisValidator {
        name: public.name,
        consensus_key: consensus_key.ok_or_else(|| CliError::file(Path::new(file), "has no consensus key"))?,
        network_key: public.network_key,
        stake,
        operator: None,
    })
}

fn account(text: &str) -> CliResult<GenesisAccount> {
    let wrong = |problem: String| CliError::new(Exit::BadFile, format!("--account {text}: {problem}"));
    let (address, amount) = text.split_once('=').ok_or_else(|| wrong("not ADDRESS=AUR".to_owned()))?;
    let address: Address =
        address.parse().map_err(|error: aurigraph_ledger::HashParseError| wrong(error.to_string()))?;
    let balance = parse_aur(amount).map_err(|error| wrong(error.to_string()))?;
    Ok(GenesisAccount { address, balance, public_key: None })
}
