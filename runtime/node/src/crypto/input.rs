//! Bytes that come from a file, from standard input or from the command line itself, and files that hold results.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{CliError, CliResult, Exit};

/// Longest input: a message of any sensible kind; a device or an endless pipe is refused.
const MOST: u64 = 1 << 30;

/// Where bytes come from.
#[derive(Debug, Clone)]
pub enum Input {
    /// Given as digits.
    Bytes(Vec<u8>),
    /// Standard input.
    Standard,
    /// A file.
    File(PathBuf),
}

impl std::str::FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("hex:") {
            Some(digits) => hex::decode(digits).map(Self::Bytes).map_err(|error| error.to_string()),
            None if text == "-" => Ok(Self::Standard),
            None => Ok(Self::File(PathBuf::from(text))),
        }
    }
}

fn unusable(place: impl std::fmt::Display, problem: impl std::fmt::Display) -> CliError {
    CliError::new(Exit::Usage, format!("{place}: {problem}"))
}

impl Input {
    /// Reads all of it.
    ///
    /// # Errors
    /// What cannot be read, or is too long.
    pub fn read(&self) -> CliResult<Vec<u8>> {
        let mut bytes = Vec::new();
        let (place, read) = match self {
            Self::Bytes(bytes) => return Ok(bytes.clone()),
            Self::Standard => {
                ("standard input".to_owned(), std::io::stdin().lock().take(MOST + 1).read_to_end(&mut bytes))
            }
            Self::File(path) => {
                let file = std::fs::File::open(path);
                (path.display().to_string(), file.and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes)))
            }
        };
        match read {
            Err(error) => Err(unusable(place, error)),
            Ok(len) if len as u64 > MOST => Err(unusable(place, format!("more than {MOST} bytes"))),
            Ok(_) => Ok(bytes),
        }
    }

    /// Reads what must have one length to be used at all.
    ///
    /// # Errors
    /// Those of [`Self::read`], and another length.
    pub fn read_array<const LEN: usize>(&self, what: &str) -> CliResult<[u8; LEN]> {
        let bytes = self.read()?;
        let len = bytes.len();
        bytes.try_into().map_err(|_| unusable(what, format!("{len} bytes instead of {LEN}")))
    }
}

/// Reads an input that may be absent.
///
/// # Errors
/// Those of [`Input::read`].
pub fn read_or_empty(input: Option<&Input>) -> CliResult<Vec<u8>> {
    input.map_or_else(|| Ok(Vec::new()), Input::read)
}

/// Writes a file that anybody may read.
///
/// # Errors
/// If it cannot be written.
pub fn write_public(path: &Path, bytes: &[u8]) -> CliResult {
    std::fs::write(path, bytes).map_err(|error| unusable(path.display(), error))
}

/// Writes a new file that only its owner may read.
///
/// # Errors
/// If it exists or cannot be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> CliResult {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(|error| unusable(path.display(), error))
}
