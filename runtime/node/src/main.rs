//! The node binary: reads a cluster config, builds one node's tree, and the command line around it.
//!
//! Knows how the parts are put together and nothing of what they do.

mod bench;
mod chain;
mod cli;
mod compose;
mod confidential;
mod crypto;
mod doctor;
mod error;
mod finality;
mod gpu;
mod http;
mod keyfile;
mod keys;
mod node;
mod output;
mod passphrase;
mod proof;
mod room;
mod schema;
mod signals;
mod snapshot;
mod stake;
mod tx;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use error::{CliError, CliResult};
use output::{Output, json_line, say};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    match run(&cli.command, output) {
        Ok(code) => code,
        Err(error) => {
            if output == Output::Json {
                say(&json_line(&serde_json::json!({ "error": error.message, "exit": error.exit as u8 })));
            }
            aurigraph_runtime::telemetry::last_words(&format!("error: {}", error.message));
            ExitCode::from(error.exit as u8)
        }
    }
}

fn run(command: &Command, output: Output) -> CliResult<ExitCode> {
    let done = match command {
        // An invalid signature is an answer with an exit code of its own.
        Command::Crypto(command) => return crypto::run(command, output),
        Command::Gpu(command) => gpu::run(command, output),
        Command::Seal(args) => block_on(confidential::seal(args, output)),
        Command::Open(args) => block_on(confidential::open(args, output)),
        Command::Keys(command) => keys::run(command, output),
        Command::Genesis(cli::Genesis::Create(args)) => keys::create_genesis(args, output),
        Command::Chain(cli::Chain::Verify(args)) => chain::verify(args, output),
        Command::Node(args) => block_on(node::run(args, output)),
        Command::Up(args) => block_on(up::run(args, output)),
        Command::Tx(command) => block_on(tx::run(command, output)),
        Command::Stake(command) => block_on(stake::run(command, output)),
        Command::Status(args) => block_on(tx::status(args, output)),
        Command::Proof(command) => block_on(proof::run(command, output)),
        Command::Schema(command) => schema::run(command, output),
        Command::Snapshot(command) => snapshot::run(command, output),
        Command::Doctor(args) => doctor::run(args, output),
        Command::Bench(args) => block_on(bench::run(args, output)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn block_on(work: impl Future<Output = CliResult>) -> CliResult {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("the async runtime cannot start: {error}")))?;
    let result = runtime.block_on(work);
    // Nothing that still runs may hold up the exit: what had to end in order has ended.
    runtime.shutdown_background();
    result
}
