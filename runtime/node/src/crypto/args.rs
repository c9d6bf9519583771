//! The command line of `aurigraph crypto`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::input::Input;

const EXIT_CODES: &str = "Inputs are files of raw bytes, `-` for standard input, or digits: `hex:00ff`.\n\nExit codes:\n  \
                          0  done; for verify: valid\n  1  refused: an invalid signature, or a key, ciphertext or context \
                          that the standard does not allow\n  2  the command line is wrong, or a file cannot be read or \
                          written";

/// `aurigraph crypto`.
#[derive(Debug, Subcommand)]
pub enum Crypto {
    /// Make a key pair
    #[command(
        after_help = format!("{EXIT_CODES}\n\nExamples:\n  aurigraph crypto keygen --public a.pub --secret a.sec\n  \
                              aurigraph crypto keygen ml-kem-1024 --public b.pub --secret b.sec")
    )]
    Keygen(Keygen),
    /// Sign a message with ML-DSA-87
    #[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  aurigraph crypto sign --secret a.sec --message m --out m.sig"))]
    Sign(Sign),
    /// Verify an ML-DSA-87 signature
    #[command(
        after_help = format!("{EXIT_CODES}\n\nExamples:\n  aurigraph crypto verify --public-key a.pub --message m --signature m.sig\n  \
                              aurigraph crypto verify --public-key a.pub --message m --signature m.sig --back-end all")
    )]
    Verify(Verify),
    /// Make a secret and the ML-KEM-1024 ciphertext that carries it
    #[command(
        after_help = format!("{EXIT_CODES}\n\nExamples:\n  aurigraph crypto encaps --public-key b.pub --ciphertext c --secret s")
    )]
    Encaps(Encaps),
    /// Take the secret out of an ML-KEM-1024 ciphertext
    #[command(
        after_help = format!("{EXIT_CODES}\n\nExamples:\n  aurigraph crypto decaps --secret-key b.sec --ciphertext c --out s")
    )]
    Decaps(Decaps),
    /// Measure what this machine's processor does, on one core and on all
    #[command(
        after_help = "Examples:\n  aurigraph crypto bench\n  aurigraph crypto bench --round-ms 500 --json\n  aurigraph crypto bench --pipeline"
    )]
    Bench(Bench),
}

/// Which kind of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Signatures; the secret is the seed of 32 bytes
    #[value(name = "ml-dsa-87")]
    MlDsa87,
    /// Key encapsulation; the secret is the decapsulation key of 3,168 bytes
    #[value(name = "ml-kem-1024")]
    MlKem1024,
}

/// `aurigraph crypto keygen`.
#[derive(Debug, Args)]
pub struct Keygen {
    /// Which kind of keys
    #[arg(default_value = "ml-dsa-87")]
    pub kind: Kind,
    /// Make the keys of this seed instead of new ones: 32 bytes (ML-KEM: d and z, 64 bytes)
    #[arg(long)]
    pub seed: Option<Input>,
    /// Where to write the public key
    #[arg(long)]
    pub public: PathBuf,
    /// Where to write the secret (mode 0600, unencrypted); an existing file is never overwritten
    #[arg(long)]
    pub secret: PathBuf,
}

/// `aurigraph crypto sign`.
#[derive(Debug, Args)]
pub struct Sign {
    /// The seed of the key, 32 bytes
    #[arg(long)]
    pub secret: Input,
    /// The message
    #[arg(long)]
    pub message: Input,
    /// The context string, at most 255 bytes [default: empty]
    #[arg(long)]
    pub context: Option<Input>,
    /// Where to write the signature; its digits are printed if absent
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// `aurigraph crypto verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The public key, 2,592 bytes
    #[arg(long)]
    pub public_key: Input,
    /// The message
    #[arg(long)]
    pub message: Input,
    /// The signature, 4,627 bytes
    #[arg(long)]
    pub signature: Input,
    /// The context string, at most 255 bytes [default: empty]
    #[arg(long)]
    pub context: Option<Input>,
    /// Which implementation: fips204, aws-lc, native-portable, native-avx2, native-avx512, native-mixed; `all` asks each and fails if
    /// they disagree;
    /// `fastest` is what a node would use
    #[arg(long, default_value = "fastest")]
    pub back_end: String,
}

/// `aurigraph crypto encaps`.
#[derive(Debug, Args)]
pub struct Encaps {
    /// The encapsulation key, 1,568 bytes
    #[arg(long)]
    pub public_key: Input,
    /// 32 random bytes to use instead of new ones
    #[arg(long)]
    pub randomness: Option<Input>,
    /// Where to write the ciphertext
    #[arg(long)]
    pub ciphertext: PathBuf,
    /// Where to write the secret of 32 bytes (mode 0600); an existing file is never overwritten
    #[arg(long)]
    pub secret: PathBuf,
}

/// `aurigraph crypto decaps`.
#[derive(Debug, Args)]
pub struct Decaps {
    /// The decapsulation key, 3,168 bytes
    #[arg(long)]
    pub secret_key: Input,
    /// The ciphertext, 1,568 bytes
    #[arg(long)]
    pub ciphertext: Input,
    /// Where to write the secret of 32 bytes (mode 0600); an existing file is never overwritten
    #[arg(long)]
    pub out: PathBuf,
}

/// `aurigraph crypto bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Milliseconds of one round; three rounds of each work, in turn, the best counts
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub round_ms: u64,
    /// Measure the way from the batch store's request to its verdicts instead, against bare threads, over so many
    /// transactions, 7.5 KB of memory each
    #[arg(long, value_name = "TRANSACTIONS", num_args = 0..=1, default_missing_value = "60000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pipeline: Option<u32>,
}
