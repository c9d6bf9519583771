//! How a command fails: one line for people, one exit code for scripts.

use aurigraph_actors::config::ConfigError;

/// Exit codes; the help lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything without a code of its own.
    Failed = 1,
    /// The command line, or what it names, cannot be used.
    Usage = 2,
    /// A config, genesis, key or input file is missing or wrong.
    BadFile = 3,
    /// A port is in use.
    PortInUse = 4,
    /// A data directory that must not be used, or does not verify.
    DataDirectory = 5,
    /// A node cannot be reached or does not answer.
    Unreachable = 6,
    /// The ledger refused, or a proof does not hold.
    Refused = 7,
    /// No GPU that can be used.
    NoDevice = 8,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// What to tell.
    pub message: String,
}

impl CliError {
    /// An error with its exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// An error without a code of its own.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// A file that is missing or wrong.
    pub fn file(path: &std::path::Path, problem: impl std::fmt::Display) -> Self {
        Self::new(Exit::BadFile, format!("{}: {problem}", path.display()))
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::BadFile, error.to_string())
    }
}

/// What every command returns.
pub type CliResult<T = ()> = Result<T, CliError>;
