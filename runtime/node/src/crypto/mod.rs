//! `aurigraph crypto`: the node's own signatures and key encapsulation, for test suites and for measuring.
//!
//! Raw bytes in, raw bytes out; knows no accounts, addresses or key files.

mod args;
mod bench;
mod input;
mod pipeline;

use std::process::ExitCode;
use std::sync::Arc;

use aurigraph_gpu::{
    AwsLc, BatchVerifier, Kem, KemError, KemKeys, Seed, Signer, VerifyItem, back_ends, fastest, random_32,
    sign_with_context,
};
use serde_json::json;

use crate::error::{CliError, CliResult, Exit};
use crate::output::{Output, fields};
pub use args::Crypto;
use args::{Decaps, Encaps, Keygen, Kind, Sign, Verify};
use input::{read_or_empty, write_public, write_secret};

/// Runs `aurigraph crypto …`.
///
/// # Errors
/// Files that cannot be read or written; inputs that the standards refuse.
pub fn run(command: &Crypto, output: Output) -> CliResult<ExitCode> {
    match command {
        Crypto::Keygen(args) => keygen(args, output)?,
        Crypto::Sign(args) => sign(args, output)?,
        Crypto::Verify(args) => return verify(args, output),
        Crypto::Encaps(args) => encaps(args, output)?,
        Crypto::Decaps(args) => decaps(args, output)?,
        Crypto::Bench(args) => match args.pipeline {
            Some(transactions) => pipeline::run(transactions as usize, output)?,
            None => bench::run(args, output)?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn refused(error: impl std::fmt::Display) -> CliError {
    CliError::failed(error.to_string())
}

fn keygen(args: &Keygen, output: Output) -> CliResult {
    let public = match args.kind {
        Kind::MlDsa87 => {
            let seed = match &args.seed {
                Some(seed) => Seed::new(seed.read_array("the seed")?),
                None => Seed::generate().map_err(refused)?,
            };
            let signer = Signer::from_seed(&seed).map_err(refused)?;
            write_secret(&args.secret, seed.expose())?;
            signer.public_key().to_vec()
        }
        Kind::MlKem1024 => {
            let (mut d, mut z) = (random_32().map_err(refused)?, random_32().map_err(refused)?);
            if let Some(seed) = &args.seed {
                let seed: [u8; 64] = seed.read_array("the seed")?;
                d.copy_from_slice(&seed[..32]);
                z.copy_from_slice(&seed[32..]);
            }
            let KemKeys { encapsulation, decapsulation } = AwsLc.key_pair(&d, &z).map_err(refused)?;
            write_secret(&args.secret, &decapsulation)?;
            encapsulation
        }
    };
    write_public(&args.public, &public)?;
    output.print(&json!({ "public": args.public, "secret": args.secret, "publicBytes": public.len() }), fields);
    Ok(())
}

fn sign(args: &Sign, output: Output) -> CliResult {
    let (seed, message) = (Seed::new(args.secret.read_array("the secret")?), args.message.read()?);
    let context = read_or_empty(args.context.as_ref())?;
    let signature = if context.is_empty() {
        Signer::from_seed(&seed).and_then(|signer| signer.sign(&message))
    } else {
        sign_with_context(&seed, &message, &context)
    };
    let signature = signature.map_err(refused)?;
    match &args.out {
        Some(path) => {
            write_public(path, &signature)?;
            output.print(&json!({ "signature": path, "bytes": signature.len() }), fields);
        }
        None => output.print(&json!({ "signature": hex::encode(&signature) }), |_| hex::encode(&signature)),
    }
    Ok(())
}

/// The back-ends of this name.
fn named(name: &str) -> CliResult<Vec<Arc<dyn BatchVerifier>>> {
    // One signature is checked: there is nothing to keep an expanded key for.
    let all = back_ends(0);
    let names = all.iter().map(|back_end| back_end.name()).collect::<Vec<_>>().join(", ");
    match name {
        "fastest" => Ok(vec![fastest(0).verifier]),
        "all" => Ok(all),
        _ => match all.into_iter().find(|back_end| back_end.name() == name) {
            Some(one) => Ok(vec![one]),
            None => Err(CliError::new(Exit::Usage, format!("--back-end {name}: this machine has {names}"))),
        },
    }
}

fn verify(args: &Verify, output: Output) -> CliResult<ExitCode> {
    let back_ends = named(&args.back_end)?;
    let (public_key, message) = (args.public_key.read()?, args.message.read()?);
    let (signature, context) = (args.signature.read()?, read_or_empty(args.context.as_ref())?);
    let item = VerifyItem { context: &context, ..VerifyItem::new(&public_key, &message, &signature) };
    let verdicts: Vec<_> = back_ends.iter().map(|back_end| (back_end.name(), back_end.verify(&item))).collect();
    let valid = verdicts.iter().all(|(_, valid)| *valid);
    if !valid && verdicts.iter().any(|(_, valid)| *valid) {
        return Err(CliError::failed(format!("the back-ends disagree: {verdicts:?}")));
    }
    let names: Vec<_> = verdicts.iter().map(|(name, _)| *name).collect();
    output.print(&json!({ "valid": valid, "backEnds": names }), |_| {
        if valid { "valid".to_owned() } else { "invalid".to_owned() }
    });
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(Exit::Failed as u8) })
}

fn encaps(args: &Encaps, output: Output) -> CliResult {
    let key = args.public_key.read()?;
    let randomness = match &args.randomness {
        Some(given) => given.read_array("the randomness")?,
        None => *random_32().map_err(refused)?,
    };
    let (ciphertext, secret) = AwsLc.encapsulate(&key, &randomness).map_err(refused)?;
    write_secret(&args.secret, &secret[..])?;
    write_public(&args.ciphertext, &ciphertext)?;
    output.print(&json!({ "ciphertext": args.ciphertext, "secret": args.secret }), fields);
    Ok(())
}

fn decaps(args: &Decaps, output: Output) -> CliResult {
    let (key, ciphertext) = (args.secret_key.read()?, args.ciphertext.read()?);
    let secret = AwsLc.decapsulate(&key, &ciphertext).map_err(|error: KemError| refused(error))?;
    write_secret(&args.out, &secret[..])?;
    output.print(&json!({ "secret": args.out }), fields);
    Ok(())
}
