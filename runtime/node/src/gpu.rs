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
    /// Measure a device: with all copies to and from it, and its kernels alone
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
    /// Largest batch; the processor needs some 15 KB of memory for each of its items
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

/// What, in batches of which size, how often a second.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    work: String,
    batch: usize,
    /// With all copies to and from the device.
    whole: u64,
    /// Of its kernels alone, one after the other; none where the device does not take their time.
    kernels: Option<u64>,
}

const ROUNDS: usize = 3;

fn a_second(operations: usize, took: Duration) -> u64 {
    (operations as f64 / took.as_secs_f64().max(1e-9)) as u64
}

/// The best of three, with copies and without.
fn row(
    device: &mut dyn Device,
    work: impl Into<String>,
    batch: usize,
    mut once: impl FnMut(&mut dyn Device) -> Result<(), DeviceError>,
) -> Result<Row, DeviceError> {
    let mut whole = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        once(device)?;
        whole = whole.min(start.elapsed());
    }
    device.time_kernels(true);
    let mut kernels: Option<Duration> = None;
    for _ in 0..ROUNDS {
        once(device)?;
        let took = device.kernel_time()?;
        kernels = kernels.into_iter().chain(took).min();
    }
    device.time_kernels(false);
    let kernels = kernels.map(|took| a_second(batch, took));
    Ok(Row { work: work.into(), batch, whole: a_second(batch, whole), kernels })
}

fn bench(device: &mut dyn Device, args: &Bench, output: Output) -> CliResult {
    // Everything is right before anything is timed.
    check_device(device, 1_000, 1).map_err(failed)?;
    let rows = rows(device, args.most as usize, KNOWN_KEYS).map_err(failed)?;
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "work": row.work, "batch": row.batch, "perSecond": row.whole, "kernelsAlonePerSecond": row.kernels,
            })
        })
        .collect();
    let info = device.info();
    output.print(&json!({ "device": info.index, "name": info.name, "rates": shown }), |_| {
        let cells = |row: &Row| {
            let kernels = row.kernels.map_or_else(|| "not taken".to_owned(), |rate| rate.to_string());
            vec![row.work.clone(), row.batch.to_string(), row.whole.to_string(), kernels]
        };
        table(
            &["work", "batch", "per second, copies included", "per second, kernels alone"],
            &rows.iter().map(cells).collect::<Vec<_>>(),
        )
    });
    Ok(())
}

/// Keys that a device has expanded before it is timed: more than fit in the caches of its processors.
const KNOWN_KEYS: usize = 4_096;

/// Rows for batches of 1, 4, 16 and so on up to `most`.
fn rows(device: &mut dyn Device, most: usize, known_keys: usize) -> Result<Vec<Row>, DeviceError> {
    let wrong = |error: &dyn std::fmt::Display| DeviceError::SelfTest(error.to_string());
    let message = [7; 200];
    let signed = |number: usize| {
        let mut seed = [1; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let signer = Signer::from_seed(&Seed::new(seed)).map_err(|error| wrong(&error))?;
        let signature = signer.sign(&message).map_err(|error| wrong(&error))?;
        Ok::<_, DeviceError>((signer.public_key().to_vec(), signature))
    };
    let senders = if most >= known_keys { known_keys } else { 1 };
    let senders: Vec<_> = (0..senders).map(signed).collect::<Result<_, _>>()?;
    let check =
        |device: &mut dyn Device, items: &[VerifyItem<'_>], keys| match device.verify(items, keys)?.contains(&false) {
            true => Err(wrong(&"a good signature was refused")),
            false => Ok(()),
        };
    let mut rows = Vec::new();
    let sizes = std::iter::successors(Some(1), |size| Some(size * 4)).take_while(|size| *size <= most);
    for size in sizes {
        let of = |keys: usize| -> Vec<VerifyItem<'_>> {
            senders[..keys]
                .iter()
                .cycle()
                .take(size)
                .map(|(key, signature)| VerifyItem::new(key, &message, signature))
                .collect()
        };
        let one = of(1);
        let each = "verify ML-DSA-87, each key expanded";
        rows.push(row(device, each, size, |device| check(device, &one, KeyUse::Each))?);
        rows.push(row(device, "verify ML-DSA-87, one known key", size, |device| check(device, &one, KeyUse::Table))?);
        if size >= known_keys {
            let (items, work) = (of(known_keys), format!("verify ML-DSA-87, {known_keys} known keys"));
            rows.push(row(device, work, size, |device| check(device, &items, KeyUse::Table))?);
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
        rows.push(row(device, "key pair ML-KEM-1024", size, |device| device.key_pairs(&seeds).map(drop))?);
        let encapsulate = |device: &mut dyn Device| device.encapsulate(public, &random).map(drop);
        rows.push(row(device, "encapsulate ML-KEM-1024", size, encapsulate)?);
        let decapsulate = |device: &mut dyn Device| device.decapsulate(secret, &ciphertexts).map(drop);
        rows.push(row(device, "decapsulate ML-KEM-1024", size, decapsulate)?);
        let (messages, mut out) = (vec![5; 64 * size], vec![Hash::ZERO; size]);
        let level = |device: &mut dyn Device| device.hash_level(b"\x04node", &messages, 64, &mut out);
        rows.push(row(device, "tree node SHA3-256", size, level)?);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurigraph_gpu::ProcessorDevice;

    #[test]
    fn the_bench_has_a_row_for_every_work_and_size() {
        let rows = rows(&mut ProcessorDevice, 17, 4).unwrap();
        assert_eq!(rows.len(), 3 * 6 + 2);
        assert!(rows.iter().all(|row| [1, 4, 16].contains(&row.batch) && row.whole > 0 && row.kernels.is_none()));
        let known: Vec<_> = rows.iter().filter(|row| row.work.contains("4 known keys")).map(|row| row.batch).collect();
        assert_eq!(known, [4, 16]);
    }

    #[test]
    fn a_device_that_is_not_there_has_an_exit_code_of_its_own() {
        // On a machine with devices, their number is not this one.
        let Err(error) = open(4_711) else { panic!("a device 4711") };
        assert_eq!(error.exit, Exit::NoDevice);
        assert!(error.message.contains("device"), "{}", error.message);
    }
}
