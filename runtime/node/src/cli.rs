//! The command line: what can be said, its help and its examples. Does nothing itself.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::passphrase::Passphrase;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the last line on stderr says why
  2  the command line is wrong
  3  a config, genesis, key or input file is missing or wrong (file, line and field are named)
  4  a port is in use
  5  the data directory belongs to another chain or node, is not initialised, or does not verify
  6  a node cannot be reached or does not answer
  7  the ledger refused the transaction, or a proof does not hold
  8  no GPU that can be used";

/// A post-quantum distributed ledger: signed transfers, Byzantine agreement, supervised actors.
#[derive(Debug, Parser)]
#[command(name = "aurigraph", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print results as JSON: one object, or one line an event.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every node of a config on this machine
    Up(Up),
    /// Run one node of a config in the foreground
    Node(Node),
    /// Make the genesis of a network
    #[command(subcommand)]
    Genesis(Genesis),
    /// Make and look at keys
    #[command(subcommand)]
    Keys(Keys),
    /// Send transactions and follow them
    #[command(subcommand)]
    Tx(Tx),
    /// Stake, delegate, and run validators
    #[command(subcommand)]
    Stake(crate::stake::Stake),
    /// Show what a node knows of itself and the chain
    Status(Status),
    /// Fetch proofs and verify them offline
    #[command(subcommand)]
    Proof(Proof),
    /// Look at a chain on disk
    #[command(subcommand)]
    Chain(Chain),
    /// Look at and change the schema version of a stopped node's store
    #[command(subcommand, after_help = SCHEMA_HELP)]
    Schema(Schema),
    /// Write, list, prove and restore snapshots of a node's state
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Say what is wrong with a stopped node's data directory, and what mends it; changes nothing
    #[command(after_help = DOCTOR_HELP)]
    Doctor(ChainVerify),
    /// Load a cluster with pre-signed transfers and report what it committed
    Bench(Bench),
    /// Use and measure the signatures and key encapsulation by themselves
    #[command(subcommand)]
    Crypto(crate::crypto::Crypto),
    /// Look at, test and measure GPUs
    #[command(subcommand)]
    Gpu(crate::gpu::Gpu),
    /// Seal a file so that one account alone can open it
    Seal(crate::confidential::Seal),
    /// Open a file that was sealed to an account
    Open(crate::confidential::Open),
}

/// `aurigraph up`.
#[derive(Debug, Args)]
#[command(
    long_about = "Run every node of a config on this machine, each as a process of its own.\n\nPrints progress until \
                  all are ready, then a table of nodes (live on a terminal). Ctrl-C stops all in order. A node that \
                  dies is reported with its last log line; `aurigraph node --config … --name …` brings it back. In \
                  development mode, account keys and bearer tokens are written to <data dir>/dev (mode 0600).",
    after_help = "Examples:\n  aurigraph up\n  aurigraph up cluster-configs/single-validator.toml --fresh\n  \
                  aurigraph up --data-dir /var/lib/aurigraph --json"
)]
pub struct Up {
    /// The cluster config
    #[arg(default_value = "cluster-configs/four-validators.toml")]
    pub config: PathBuf,
    /// Folder with one folder a node [default: .aurigraph/<config name>]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Delete the data directories of the config's nodes first
    #[arg(long)]
    pub fresh: bool,
}

/// `aurigraph node`.
#[derive(Debug, Args)]
#[command(
    long_about = "Run one node of a config in the foreground, logging to stderr. This is how a node that died is \
                  brought back, and how a cluster is spread over several hosts.",
    after_help = "Examples:\n  aurigraph node --config cluster-configs/four-validators.toml --name v2\n  \
                  aurigraph node --config four-hosts.toml --name v1 --init\n  \
                  aurigraph node --config four-hosts.toml --name v1 --rejoin"
)]
pub struct Node {
    /// The cluster config
    #[arg(long)]
    pub config: PathBuf,
    /// Which node of it
    #[arg(long)]
    pub name: String,
    /// Folder with one folder a node [default: .aurigraph/<config name>]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Initialise an empty data directory. Never for a validator that has voted on this chain before: without its
    /// journal it cannot know what it signed
    #[arg(long)]
    pub init: bool,
    /// Start a validator whose data directory is lost with an empty one, on a running chain: it observes until the others
    /// have proved which rounds it cannot have signed, then signs again
    #[arg(long, conflicts_with = "init")]
    pub rejoin: bool,
    /// Check signatures with this back-end instead of the config's: fastest, fips204, aws-lc, native-portable,
    /// native-avx2, native-avx512 or native-mixed
    #[arg(long)]
    pub back_end: Option<aurigraph_gpu::BackEnd>,
    /// End in order when standard input ends: set by `up`, so that no node outlives it
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// `aurigraph genesis`.
#[derive(Debug, Subcommand)]
pub enum Genesis {
    /// Merge public keys and first balances into a genesis file
    #[command(after_help = "Examples:\n  aurigraph genesis create --network my-network --validator v1.pub.json \
                            --validator v2.pub.json:3 \\\n    --account 0x<address>=1000000 --out genesis.toml")]
    Create(GenesisCreate),
}

/// `aurigraph genesis create`.
#[derive(Debug, Args)]
pub struct GenesisCreate {
    /// The network's name
    #[arg(long)]
    pub network: String,
    /// Public file of a validator, with its stake after a colon (default 1). The order given is the validator order
    #[arg(long = "validator", required = true, value_name = "FILE[:STAKE]")]
    pub validators: Vec<String>,
    /// The account that acts for a validator: takes it out of jail, sets its commission, withdraws its rewards
    #[arg(long = "operator", value_name = "NAME=ADDRESS")]
    pub operators: Vec<String>,
    /// First balance of an address, in AUR
    #[arg(long = "account", value_name = "ADDRESS=AUR")]
    pub accounts: Vec<String>,
    /// Where to write it
    #[arg(long, default_value = "genesis.toml")]
    pub out: PathBuf,
}

/// `aurigraph keys`.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a new key
    #[command(after_help = "Examples:\n  aurigraph keys new account --out alice.key.json\n  \
                            aurigraph keys new node --name v1 --out v1.key.json      (also writes v1.pub.json)")]
    New(KeysNew),
    /// Show the public parts of a key file
    Show(KeyFile),
    /// Print the address of an account's key file
    Address(KeyFile),
    /// Encrypt a key file in place
    #[command(
        after_help = "argon2id with 64 MiB, three passes and four lanes; AES-256-GCM. Copies of the file made before stay \
                            unencrypted.\n\nExamples:\n  aurigraph keys encrypt v1.key.json\n  aurigraph keys encrypt \
                            v1.key.json --passphrase-file v1.passphrase"
    )]
    Encrypt(KeyFile),
    /// Take the encryption from a key file, in place
    #[command(after_help = "Examples:\n  aurigraph keys decrypt v1.key.json")]
    Decrypt(KeyFile),
    /// Write the public key to which others seal files for an account
    #[command(after_help = "Examples:\n  aurigraph keys encryption bob.key.json --out bob.enc.json")]
    Encryption(crate::confidential::Encryption),
}

/// What a key is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KeyKind {
    /// Signs an account's transactions.
    Account,
    /// A node's consensus and network keys.
    Node,
}

/// `aurigraph keys new`.
#[derive(Debug, Args)]
pub struct KeysNew {
    /// What the key is for
    #[arg(default_value = "account")]
    pub kind: KeyKind,
    /// The node's name (for node keys)
    #[arg(long, required_if_eq("kind", "node"))]
    pub name: Option<String>,
    /// Where to write it (mode 0600); an existing file is never overwritten
    #[arg(long)]
    pub out: PathBuf,
    /// Encrypt it under a passphrase
    #[arg(long)]
    pub encrypt: bool,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: Passphrase,
}

/// A key file.
#[derive(Debug, Args)]
pub struct KeyFile {
    /// The key file
    pub file: PathBuf,
    /// How to open it.
    #[command(flatten)]
    pub passphrase: Passphrase,
}

/// Where a node answers.
#[derive(Debug, Clone, Args)]
pub struct Url {
    /// The node's REST address
    #[arg(long, default_value = "http://127.0.0.1:9003")]
    pub url: String,
}

/// `aurigraph tx`.
#[derive(Debug, Subcommand)]
pub enum Tx {
    /// Sign and send one transfer
    #[command(
        after_help = "Examples:\n  aurigraph tx transfer --key alice.key.json --to 0x<address> --amount 1.5 --wait"
    )]
    Transfer(TxTransfer),
    /// Sign and send many transfers under one signature
    #[command(
        after_help = "The file has one transfer a line: address or index, comma, amount in AUR. Lines that start \
                            with # and empty lines are skipped.\n\nExamples:\n  aurigraph tx bundle --key alice.key.json \
                            --file transfers.csv --wait"
    )]
    Bundle(TxBundle),
    /// Register the key to which others seal files for the sender, or put a new one in its place
    #[command(
        after_help = "The key follows from the key file. Envelopes sealed to earlier keys can still be opened.\n\nExamples:\n  \
                            aurigraph tx encryption-key --key bob.key.json --wait"
    )]
    EncryptionKey(crate::confidential::RegisterKey),
    /// Say on the ledger that the sender sealed an envelope
    #[command(after_help = "Examples:\n  aurigraph tx anchor --key alice.key.json --file deed.sealed --wait")]
    Anchor(crate::confidential::Anchor),
    /// Ask what became of a transaction
    #[command(after_help = "Examples:\n  aurigraph tx status 0x<hash>")]
    Status(TxStatus),
}

/// What every signed transaction needs.
#[derive(Debug, Args)]
pub struct Signing {
    /// The sender's key file
    #[arg(long)]
    pub key: PathBuf,
    /// How to open it.
    #[command(flatten)]
    pub passphrase: Passphrase,
    /// A note of at most 256 bytes, stored with the transaction
    #[arg(long, default_value = "")]
    pub memo: String,
    /// The most the sender agrees to pay, in AUR
    #[arg(long, default_value = "1")]
    pub max_fee: String,
    /// Use this nonce instead of the account's next one
    #[arg(long)]
    pub nonce: Option<u64>,
    /// Wait until it is committed or refused (30 s at most)
    #[arg(long)]
    pub wait: bool,
    /// Where to send it.
    #[command(flatten)]
    pub url: Url,
}

/// `aurigraph tx transfer`.
#[derive(Debug, Args)]
pub struct TxTransfer {
    /// Who receives: an address (0x and 64 digits) or an account index
    #[arg(long)]
    pub to: String,
    /// How much, in AUR
    #[arg(long)]
    pub amount: String,
    /// Sender and sending.
    #[command(flatten)]
    pub signing: Signing,
}

/// `aurigraph tx bundle`.
#[derive(Debug, Args)]
pub struct TxBundle {
    /// One transfer a line: address or index, comma, amount in AUR
    #[arg(long)]
    pub file: PathBuf,
    /// One failing transfer undoes all
    #[arg(long)]
    pub atomic: bool,
    /// Sender and sending.
    #[command(flatten)]
    pub signing: Signing,
}

/// `aurigraph tx status`.
#[derive(Debug, Args)]
pub struct TxStatus {
    /// The transaction's hash
    pub hash: String,
    /// Whom to ask.
    #[command(flatten)]
    pub url: Url,
}

/// `aurigraph status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  aurigraph status\n  aurigraph status --url http://127.0.0.1:9013 --json")]
pub struct Status {
    /// Whom to ask.
    #[command(flatten)]
    pub url: Url,
}

/// `aurigraph proof`.
#[derive(Debug, Subcommand)]
pub enum Proof {
    /// Fetch the proof that a transaction is in its block
    #[command(after_help = "Examples:\n  aurigraph proof tx 0x<hash> --out proof.json")]
    Tx(ProofFetch),
    /// Fetch the proof of an account's balance under a checkpoint's state root
    #[command(after_help = "Examples:\n  aurigraph proof account 0x<address> --out proof.json")]
    Account(ProofFetch),
    /// Verify a proof file without any node
    #[command(
        after_help = "With --genesis, the validators named there are all that is trusted: their signatures, the \
                            checkpoints, the headers and the path are checked. A root must come from somewhere you \
                            trust: a block header you hold, or several nodes that agree.\n\nExamples:\n  aurigraph \
                            proof verify proof.json --genesis genesis.toml\n  aurigraph proof verify proof.json --root \
                            0x<root>"
    )]
    Verify(ProofVerify),
}

/// `aurigraph proof tx` and `proof account`.
#[derive(Debug, Args)]
pub struct ProofFetch {
    /// The transaction's hash, or the account's address
    pub of: String,
    /// Where to write it; printed if absent
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Whom to ask.
    #[command(flatten)]
    pub url: Url,
}

/// `aurigraph proof verify`.
#[derive(Debug, Args)]
pub struct ProofVerify {
    /// The proof file
    pub file: PathBuf,
    /// The genesis file to verify against, or a cluster config that names one
    #[arg(long)]
    pub genesis: Option<PathBuf>,
    /// The root to verify against; with neither, the proof is only checked against the root it names itself
    #[arg(long)]
    pub root: Option<String>,
}

/// `aurigraph chain`.
#[derive(Debug, Subcommand)]
pub enum Chain {
    /// Verify a node's data directory, the node being stopped
    #[command(
        after_help = "Checks every journal frame, the chain of block hashes and every root, and executes the whole \
                            chain again.\n\nExamples:\n  aurigraph chain verify --config \
                            cluster-configs/four-validators.toml --data-dir .aurigraph/four-validators/v1"
    )]
    Verify(ChainVerify),
}

/// `aurigraph chain verify`.
#[derive(Debug, Args)]
pub struct ChainVerify {
    /// The node's own folder
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The config that the chain's genesis is read from
    #[arg(long, default_value = "cluster-configs/four-validators.toml")]
    pub config: PathBuf,
}

const DOCTOR_HELP: &str = "\
Checks the config, the directory's rights and free space, that no node runs on it, whose it is, every frame of the journal,
that the store opens at this program's schema version, and that its newest state has its root. `chain verify` executes
the whole chain again on top of that.

Exit codes:
  0  nothing is wrong; what it remarks does not stop a node
  3  the config cannot be read
  5  something is wrong; each finding names what mends it

Examples:
  aurigraph doctor --config cluster-configs/four-validators.toml --data-dir .aurigraph/four-validators/v1
  aurigraph doctor --json --data-dir .aurigraph/four-validators/v1";

const SCHEMA_HELP: &str = "\
The node must be stopped; --data-dir is its own folder, e.g. .aurigraph/four-validators/v1. Nothing is ever wiped: a
backup is taken before every upgrade and downgrade, a restore keeps what it replaces, a repair keeps rows aside.

Exit codes:
  0  done; for validate: the history agrees with this program; for repair: nothing is left to mend
  1  failed: the system refused, no space, a step failed (the next upgrade resumes it)
  2  the command line is wrong
  3  a backup file cannot be used
  5  there is no store, it is in use, or its schema is not as it must be; the message says what mends it";

/// `aurigraph snapshot`.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Show the snapshots of a node's folder, also while it runs; judges nothing
    #[command(after_help = "Examples:\n  aurigraph snapshot list --data-dir .aurigraph/four-validators/v1")]
    List(SnapshotList),
    /// Prove one: its chunks, the signatures of a quorum of the genesis' validators, and the state
    #[command(after_help = "Examples:\n  aurigraph snapshot verify --data-dir .aurigraph/four-validators/v1")]
    Verify(SnapshotOf),
    /// Have the node that runs with this folder write one of its newest certified state, and wait until it has
    #[command(after_help = "Examples:\n  aurigraph snapshot create --data-dir .aurigraph/four-validators/v1")]
    Create(SnapshotCreate),
    /// Prove one and have a stopped node's next start begin with it; the store that was there is kept beside it
    #[command(
        after_help = "The blocks before the snapshot are then not in the store's index. A log that ends before it is \
                      removed by that start, and a validator signs nothing until the others have proved which \
                      rounds it cannot have signed.\n\n\
                      Examples:\n  aurigraph snapshot restore --from .aurigraph/four-validators/v1 --data-dir \
                      .aurigraph/four-validators/v2"
    )]
    Restore(SnapshotOf),
}

/// `aurigraph snapshot list`.
#[derive(Debug, Args)]
pub struct SnapshotList {
    /// The node's own folder
    #[arg(long, default_value = ".")]
    pub data_dir: PathBuf,
}

/// `aurigraph snapshot create`.
#[derive(Debug, Args)]
pub struct SnapshotCreate {
    /// The running node's own folder
    #[arg(long, default_value = ".")]
    pub data_dir: PathBuf,
    /// Seconds to wait
    #[arg(long, default_value_t = 60)]
    pub within: u64,
}

/// Which snapshot.
#[derive(Debug, Args)]
pub struct SnapshotOf {
    /// The node's own folder
    #[arg(long, default_value = ".")]
    pub data_dir: PathBuf,
    /// The height of its block [default: the newest]
    #[arg(long)]
    pub height: Option<u64>,
    /// Take it from this node's folder
    #[arg(long)]
    pub from: Option<PathBuf>,
    /// The genesis whose validators are trusted, or a config that names it
    #[arg(long, default_value = "cluster-configs/four-validators.toml")]
    pub genesis: PathBuf,
}

/// `aurigraph schema`.
#[derive(Debug, Subcommand)]
pub enum Schema {
    /// Show the version, what was applied and what is pending; changes and judges nothing
    #[command(after_help = "Examples:\n  aurigraph schema status --data-dir .aurigraph/four-validators/v1")]
    Status(SchemaStore),
    /// Compare the history with this program; a refusal names the command that mends it
    #[command(after_help = "Examples:\n  aurigraph schema validate --data-dir .aurigraph/four-validators/v1 --json")]
    Validate(SchemaStore),
    /// Upgrade a copy, and say per step which keys and bytes it would change
    #[command(after_help = "Examples:\n  aurigraph schema dry-run --data-dir .aurigraph/four-validators/v1")]
    DryRun(SchemaDryRun),
    /// Take a verified backup, then apply what is pending; an interrupted step goes on where it was
    #[command(after_help = "Examples:\n  aurigraph schema upgrade --data-dir .aurigraph/four-validators/v1")]
    Upgrade(SchemaUpgrade),
    /// Go back to an older version, keeping what was written since, until that version is finalised
    #[command(after_help = "Examples:\n  aurigraph schema downgrade --to 1 --data-dir .aurigraph/four-validators/v1")]
    Downgrade(SchemaDowngrade),
    /// Say what is wrong with the history, and mend what can be mended without losing anything
    #[command(
        after_help = "A step is recorded if its result is in the store; a row that is replaced is kept aside.\n\n\
                            Examples:\n  aurigraph schema repair --data-dir .aurigraph/four-validators/v1"
    )]
    Repair(SchemaRepair),
    /// Record on your word that the store is at a version
    #[command(after_help = "Examples:\n  aurigraph schema baseline --to 1 --data-dir .aurigraph/four-validators/v1")]
    Baseline(SchemaBaseline),
    /// Write everything that the store holds to one checksummed file, and read it back
    #[command(after_help = "Examples:\n  aurigraph schema backup --data-dir .aurigraph/four-validators/v1")]
    Backup(SchemaBackup),
    /// Put a backup in the store's place; what was there is kept beside it
    #[command(after_help = "Examples:\n  aurigraph schema restore v1.backup --data-dir .aurigraph/four-validators/v1")]
    Restore(SchemaRestore),
    /// End the downgrade window at the store's version
    #[command(after_help = "Examples:\n  aurigraph schema finalise --data-dir .aurigraph/four-validators/v1")]
    Finalise(SchemaStore),
}

/// Which store.
#[derive(Debug, Clone, Args)]
pub struct SchemaStore {
    /// The node's own folder
    #[arg(long, default_value = ".")]
    pub data_dir: PathBuf,
}

/// `aurigraph schema dry-run`.
#[derive(Debug, Args)]
pub struct SchemaDryRun {
    /// Up to this version [default: the newest]
    #[arg(long)]
    pub to: Option<u32>,
    /// Which store.
    #[command(flatten)]
    pub store: SchemaStore,
}

/// `aurigraph schema upgrade`.
#[derive(Debug, Args)]
pub struct SchemaUpgrade {
    /// Up to this version [default: the newest]
    #[arg(long)]
    pub to: Option<u32>,
    /// Take no backup first
    #[arg(long)]
    pub no_backup: bool,
    /// Which store.
    #[command(flatten)]
    pub store: SchemaStore,
}

/// `aurigraph schema downgrade`.
#[derive(Debug, Args)]
pub struct SchemaDowngrade {
    /// Back to this version
    #[arg(long)]
    pub to: u32,
    /// Take no backup first
    #[arg(long)]
    pub no_backup: bool,
    /// Which store.
    #[command(flatten)]
    pub store: SchemaStore,
}

/// `aurigraph schema repair`.
#[derive(Debug, Args)]
pub struct SchemaRepair {
    /// Restore this backup instead of mending
    #[arg(long)]
    pub from_backup: Option<PathBuf>,
    /// Which store.
    #[command(flatten)]
    pub store: SchemaStore,
}

/// `aurigraph schema baseline`.
#[derive(Debug, Args)]
pub struct SchemaBaseline {
    /// The version that the store is at
    #[arg(long)]
    pub to: u32,
    /// Which store.
    #[command(flatten)]
    pub store: SchemaStore,
}

/// `aurigraph schema backup`.
#[derive(Debug, Args)]
pub struct SchemaBackup {
    /// Where to write it; an existing file is never overwritten [default: a new file in <data dir>/store.backups]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Which store.
    #[command(flatten)]
    pub store: SchemaStore,
}

/// `aurigraph schema restore`.
#[derive(Debug, Args)]
pub struct SchemaRestore {
    /// The backup
    pub file: PathBuf,
    /// Which store.
    #[command(flatten)]
    pub store: SchemaStore,
}

/// `aurigraph bench`.
#[derive(Debug, Args)]
#[command(
    long_about = "Load a development cluster with pre-signed transfers between random accounts and report what it \
                  committed.\n\nSenders and recipients are drawn uniformly from the same accounts; those that send are \
                  created and funded first, and their first transactions carry their key. Signing happens before the \
                  clock starts. Operations are counted from the nodes' executed \
                  receipts, never from what was sent. Latency is submit to committed at the node asked, of a sample of \
                  transactions, with arrivals that do not wait for answers when --rate is given.",
    after_help = "Examples:\n  aurigraph bench --url http://127.0.0.1:9003 --url http://127.0.0.1:9013 \
                  --operations-per-signature 1000 --duration 20s\n  aurigraph bench --operations-per-signature 1 \
                  --rate 500 --duration 30s --json"
)]
pub struct Bench {
    /// A node's REST address; repeat for several [default: every node of the config]
    #[arg(long = "url")]
    pub urls: Vec<String>,
    /// The development config whose accounts are used
    #[arg(long, default_value = "cluster-configs/four-validators.toml")]
    pub config: PathBuf,
    /// Transfers under one signature, 1 to 4096
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub operations_per_signature: u16,
    /// How long to measure, after the warm-up: 20s, 2m
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub duration: std::time::Duration,
    /// How long to load before measuring
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub warm_up: std::time::Duration,
    /// Accounts that take part: recipients are drawn uniformly from them [default: as many as the genesis has]
    #[arg(long)]
    pub accounts: Option<u32>,
    /// How many of them send, drawn uniformly [default: all]. Up to the genesis' signers those are used; beyond them
    /// accounts of the bench's own are created and funded before the load
    #[arg(long)]
    pub senders: Option<u32>,
    /// Signatures a second, open loop [default: as many as the nodes accept]
    #[arg(long)]
    pub rate: Option<u32>,
    /// Connections to each node
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
}

/// Reads `20s`, `500ms`, `2m` or plain seconds.
fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no duration; say 20s, 500ms or 2m"))?;
    let milliseconds = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        unit => return Err(format!("{unit:?} is no unit of time; there are ms, s and m")),
    };
    milliseconds.map(std::time::Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_and_every_flag_says_what_it_does() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("20s"), Ok(std::time::Duration::from_secs(20)));
        assert_eq!(parse_duration("500ms"), Ok(std::time::Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(std::time::Duration::from_secs(120)));
        assert_eq!(parse_duration("3"), Ok(std::time::Duration::from_secs(3)));
        assert!(parse_duration("3h").is_err() && parse_duration("s").is_err());
    }
}
