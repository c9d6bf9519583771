//! `aurigraph keys` and `aurigraph genesis`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aurigraph_actors::config::{NodePublic, NodeSecrets, SealedFile, read_private_file, sealed_file};
use aurigraph_gpu::PassphraseCost;
use aurigraph_ledger::types::parse_aur;
use aurigraph_ledger::{Address, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, ProtocolParameters};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::keyfile::{AccountKey, write_private};
use crate::output::{Output, fields};
use crate::passphrase::Passphrase;

/// Runs `aurigraph keys …`.
///
/// # Errors
/// Files that cannot be read or written.
pub fn run(command: &cli::Keys, output: Output) -> CliResult {
    match command {
        cli::Keys::New(new) => match (new.kind, &new.name) {
            (cli::KeyKind::Node, Some(name)) => new_node(name, new, output),
            _ => new_account(new, output),
        },
        cli::Keys::Show(file) => show(file, output),
        cli::Keys::Address(file) => {
            let (key, _) = AccountKey::load(&file.file, &file.passphrase)?;
            output.print(&json!({ "address": key.address }), |_| key.address.to_string());
            Ok(())
        }
        cli::Keys::Encrypt(file) => encrypt(file, output),
        cli::Keys::Decrypt(file) => decrypt(file, output),
        cli::Keys::Encryption(args) => crate::confidential::encryption(args, output),
    }
}

/// What is written for a secret text: the text itself, or the text under a passphrase.
fn secret_text(new: &cli::KeysNew, of: &str, text: String) -> CliResult<Zeroizing<String>> {
    let text = Zeroizing::new(text);
    if new.encrypt { sealed(of, &text, &new.out, &new.passphrase) } else { Ok(text) }
}

fn sealed(of: &str, text: &str, path: &Path, passphrase: &Passphrase) -> CliResult<Zeroizing<String>> {
    let chosen = passphrase.choose(path)?;
    let sealed = SealedFile::seal(of, text, &chosen, PassphraseCost::RECOMMENDED);
    pretty(&sealed.map_err(|problem| CliError::file(path, problem))?).map(Zeroizing::new)
}

/// Replaces a key file by its encrypted form, which is written and read back before.
fn encrypt(args: &cli::KeyFile, output: Output) -> CliResult {
    let text = Zeroizing::new(read_private_file(&args.file)?);
    if sealed_file(&text).is_some() {
        return Err(CliError::file(&args.file, "is encrypted already"));
    }
    let of = match NodeSecrets::parse(&args.file, &text) {
        Ok(secrets) => secrets.name.clone(),
        Err(_) => AccountKey::parse(&args.file, &text)?.0.address.to_string(),
    };
    replace(&args.file, &sealed(&of, &text, &args.file, &args.passphrase)?)?;
    output.print(&json!({ "file": args.file, "of": of, "encrypted": true }), fields);
    Ok(())
}

fn decrypt(args: &cli::KeyFile, output: Output) -> CliResult {
    let Some(sealed) = sealed_file(&read_private_file(&args.file)?) else {
        return Err(CliError::file(&args.file, "is not encrypted"));
    };
    let text = args.passphrase.read_key_file(&args.file)?;
    replace(&args.file, text.trim_end())?;
    output.print(&json!({ "file": args.file, "of": sealed.of, "encrypted": false }), fields);
    Ok(())
}

/// Puts a new text in a file's place at once: a crash leaves the old file or the new one.
fn replace(path: &Path, text: &str) -> CliResult {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    write_private(&beside, text, true)?;
    let failed = |error: std::io::Error| CliError::file(path, format!("cannot be replaced: {error}"));
    std::fs::File::open(&beside).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

fn random_seed() -> CliResult<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| CliError::failed(format!("no randomness: {error}")))?;
    Ok(seed)
}

fn new_account(new: &cli::KeysNew, output: Output) -> CliResult {
    let key = AccountKey::of_seed(random_seed()?)?;
    write_private(&new.out, &secret_text(new, &key.address.to_string(), pretty(&key)?)?, false)?;
    output.print(&json!({ "address": key.address, "file": new.out }), fields);
    Ok(())
}

fn new_node(name: &str, new: &cli::KeysNew, output: Output) -> CliResult {
    let out = &new.out;
    let secrets = NodeSecrets {
        name: name.to_owned(),
        consensus_seed: Some(random_seed()?),
        network_seed: random_seed()?,
        admin_token: Some(hex::encode(random_seed()?)),
    };
    let public = public_path(out, name);
    write_private(out, &secret_text(new, name, pretty(&secrets)?)?, false)?;
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

fn show(args: &cli::KeyFile, output: Output) -> CliResult {
    let path = &args.file;
    let text = args.passphrase.read_key_file(path)?;
    let shown = match NodeSecrets::parse(path, &text) {
        Ok(secrets) => serde_json::to_value(secrets.public()).map_err(|error| CliError::failed(error.to_string()))?,
        Err(_) => {
            let (key, signer) = AccountKey::parse(path, &text)?;
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
    let mut validators = command.validators.iter().map(|text| validator(text)).collect::<CliResult<Vec<_>>>()?;
    command.operators.iter().try_for_each(|text| operator(text, &mut validators))?;
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

fn operator(text: &str, validators: &mut [GenesisValidator]) -> CliResult {
    let wrong = |problem: String| CliError::new(Exit::BadFile, format!("--operator {text}: {problem}"));
    let (name, address) = text.split_once('=').ok_or_else(|| wrong("not NAME=ADDRESS".to_owned()))?;
    let address: Address =
        address.parse().map_err(|error: aurigraph_ledger::HashParseError| wrong(error.to_string()))?;
    let validator = validators.iter_mut().find(|validator| validator.name == name);
    validator.ok_or_else(|| wrong(format!("no validator is called {name:?}")))?.operator = Some(address);
    Ok(())
}

fn account(text: &str) -> CliResult<GenesisAccount> {
    let wrong = |problem: String| CliError::new(Exit::BadFile, format!("--account {text}: {problem}"));
    let (address, amount) = text.split_once('=').ok_or_else(|| wrong("not ADDRESS=AUR".to_owned()))?;
    let address: Address =
        address.parse().map_err(|error: aurigraph_ledger::HashParseError| wrong(error.to_string()))?;
    let balance = parse_aur(amount).map_err(|error| wrong(error.to_string()))?;
    Ok(GenesisAccount { address, balance, public_key: None })
}
