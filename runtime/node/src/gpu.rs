//! `aurigraph gpu`: which devices there are, whether they are right, and how fast.

use std::time::{Duration, Instant};

use aurigraph_gpu::{Cuda, Device, DeviceError, KeyUse, Seed, Signer, VerifyItem, check_device, detect};
use aurigraph_ledger::Hash;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::{CliError, CliResult, Exit};
use crate::output::{Output, fields, table};

const EXIT_CODES: &str = "Exit codes:\n  0  done\n  1  the device fails or is wrong\n  8  there is no device that can be used; the \
                          last line says why";

/// `aurigraph gpu`.
#[derive(Debug, Subcommand)]
pub enum Gpu {
    /// Show the devices that this program could use, or why there is none
    #[command(after_help = "Examples:\n  aurigraph gpu list\n  aurigraph gpu list --json")]
    List,
    /// Compare everything that a device does with the processor
    #[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  aurigraph gpu selftest --signatures 100000"))]
    Selftest(Selftest),
    /// Measure a device, copies to and from it included
    #[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  aurigraph gpu bench\n  aurigraph gpu bench --most 1048576 --json"))]
    Bench(Bench),
}

/// `aurigraph gpu selftest`.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Which device
    #[arg(long, default_value_t = 0)]
    pub device: usize,
    /// Random signatures, about half of them broken
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub signatures: u32,
    /// Seed of what is random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// `aurigraph gpu bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Which device
    #[arg(long, default_value_t = 0)]
    pub device: usize,
    /// Largest batch
    #[arg(long, default_value_t = 1 << 16, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub most: u32,
}

/// Runs `aurigraph gpu …`.
///
/// # Errors
/// No device, or one that fails.
pub fn run(command: &Gpu, output: Output) -> CliResult {
    match command {
        Gpu::List => {
            list(output);
            Ok(())
        }
        Gpu::Selftest(args) => {
            let mut device = open(args.device)?;
            selftest(&mut device, args, output)
        }
        Gpu::Bench(args) => {
            let mut device = open(args.device)?;
            bench(&mut device, args, output)
        }
    }
}

fn list(output: Output) {
    let (devices, why) = match detect() {
        Ok(devices) => (devices, None),
        Err(none) => (Vec::new(), Some(none.to_string())),
    };
    let shown: Vec<_> = devices
        .iter()
        .map(|device| {
            let (major, minor) = device.architecture;
            json!({
                "index": device.index, "name": device.name, "computeCapability": format!("{major}.{minor}"),
                "memoryBytes": device.memory,
            })
        })
        .collect();
    output.print(&json!({ "devices": shown, "why": why }), |_| match why {
        Some(ref why) => why.clone(),
        None => {
            let row = |device: &aurigraph_gpu::DeviceInfo| {
                let (major, minor) = device.architecture;
                let memory = format!("{} MiB", device.memory >> 20);
                vec![device.index.to_string(), device.name.clone(), format!("{major}.{minor}"), memory]
            };
            table(&["device", "name", "compute capability", "memory"], &devices.iter().map(row).collect::<Vec<_>>())
        }
    });
}

fn open(index: usize) -> CliResult<Cuda> {
    let devices = detect().map_err(|none| CliError::new(Exit::NoDevice, none.to_string()))?;
    if devices.iter().all(|device| device.index != index) {
        let problem = format!("there is no device {index}; there are {}", devices.len());
        return Err(CliError::new(Exit::NoDevice, problem));
    }
    Cuda::open(index).map_err(failed)
}

fn failed(error: DeviceError) -> CliError {
    CliError::failed(error.to_string())
}

fn selftest(device: &mut dyn Device, args: &Selftest, output: Output) -> CliResult {
    let report = check_device(device, args.signatures as usize, args.seed).map_err(failed)?;
    output.print(
        &json!({
            "device": device.info().name, "seed": args.seed, "signatures": report.signatures, "valid": report.valid,
            "keyPairs": report.key_pairs, "hashes": report.hashes, "differences": 0,
        }),
        fields,
    );
    Ok(())
}

/// The best of three: operations a second.
fn rate(operations: usize, mut work: impl FnMut() -> Result<(), DeviceError>) -> Result<u64, DeviceError> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed());
    }
    Ok((operations as f64 / best.as_secs_f64().max(1e-9)) as u64)
}

fn bench(device: &mut dyn Device, args: &Bench, output: Output) -> CliResult {
    // Everything is right before anything is timed.
    check_device(device, 1_000, 1).map_err(failed)?;
    let rows = rows(device, args.most as usize).map_err(failed)?;
    let shown: Vec<_> = rows
        .iter()
        .map(|(work, batch, rate)| json!({ "work": work, "batch": batch, "perSecond": rate, "transfers": true }))
        .collect();
    output.print(&json!({ "device": device.info().name, "rates": shown }), |_| {
        let rows: Vec<_> = rows
            .iter()
            .map(|(work, batch, rate)| vec![(*work).to_owned(), batch.to_string(), rate.to_string()])
            .collect();
        table(&["work, transfers included", "batch", "per second"], &rows)
    });
    Ok(())
}

/// What, in batches of which size, how often a second.
fn rows(device: &mut dyn Device, most: usize) -> Result<Vec<(&'static str, usize, u64)>, DeviceError> {
    let wrong = |error: &dyn std::fmt::Display| DeviceError::SelfTest(error.to_string());
    let signer = Signer::from_seed(&Seed::new([1; 32])).map_err(|error| wrong(&error))?;
    let message = [7; 200];
    let signature = signer.sign(&message).map_err(|error| wrong(&error))?;
    let item = VerifyItem::new(signer.public_key(), &message, &signature);
    let mut rows = Vec::new();
    let sizes = std::iter::successors(Some(1), |size| Some(size * 4)).take_while(|size| *size <= most);
    for size in sizes {
        let items = vec![item; size];
        for (work, keys) in
            [("verify ML-DSA-87, each key expanded", KeyUse::Each), ("verify ML-DSA-87, one key", KeyUse::Table)]
        {
            let rate = rate(size, || match device.verify(&items, keys)?.contains(&false) {
                true => Err(wrong(&"a good signature was refused")),
                false => Ok(()),
            })?;
            rows.push((work, size, rate));
        }
        let seeds = vec![([1; 32], [2; 32]); size];
        let keys = device.key_pairs(&seeds)?;
        let (public, secret) = (keys.encapsulation.as_chunks().0, keys.decapsulation.as_chunks().0);
        let random = vec![[3; 32]; size];
        let sealed = device.encapsulate(public, &random)?;
        let ciphertexts: Vec<_> = sealed
            .into_iter()
            .map(|sealed| sealed.and_then(|(bytes, _)| bytes.try_into().ok()).ok_or_else(|| wrong(&"no ciphertext")))
            .collect::<Result<_, _>>()?;
        rows.push(("key pair ML-KEM-1024", size, rate(size, || device.key_pairs(&seeds).map(drop))?));
        rows.push(("encapsulate ML-KEM-1024", size, rate(size, || device.encapsulate(public, &random).map(drop))?));
        rows.push((
            "decapsulate ML-KEM-1024",
            size,
            rate(size, || device.decapsulate(secret, &ciphertexts).map(drop))?,
        ));
        let (messages, mut out) = (vec![5; 64 * size], vec![Hash::ZERO; size]);
        let level = rate(size, || device.hash_level(b"\x04node", &messages, 64, &mut out))?;
        rows.push(("tree node SHA3-256", size, level));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurigraph_gpu::ProcessorDevice;

    #[test]
    fn the_bench_has_a_row_for_every_work_and_size() {
        let rows = rows(&mut ProcessorDevice, 17).unwrap();
        assert_eq!(rows.len(), 3 * 6);
        assert!(rows.iter().all(|(_, size, rate)| [1, 4, 16].contains(size) && *rate > 0));
    }

    #[test]
    fn a_device_that_is_not_there_has_an_exit_code_of_its_own() {
        // On a machine with devices, their number is not this one.
        let Err(error) = open(4_711) else { panic!("a device 4711") };
        assert_eq!(error.exit, Exit::NoDevice);
        assert!(error.message.contains("device"), "{}", error.message);
    }
}
