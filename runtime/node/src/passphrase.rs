//! Where the passphrase of an encrypted key file comes from: a file, an environment variable, or the terminal.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use aurigraph_actors::config::{PassphraseSource, read_key_file};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{CliError, CliResult};

/// Longest passphrase that is read from a terminal.
const MOST: u64 = 4_096;

/// How to open an encrypted key file.
#[derive(Debug, Clone, Default, Args)]
pub struct Passphrase {
    /// For an encrypted key file: a file (mode 0600) whose first line is the passphrase [default: asked on the terminal]
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_env")]
    pub passphrase_file: Option<PathBuf>,
    /// For an encrypted key file: the name of an environment variable that holds the passphrase
    #[arg(long, value_name = "NAME")]
    pub passphrase_env: Option<String>,
}

impl Passphrase {
    fn source(&self) -> PassphraseSource {
        PassphraseSource { file: self.passphrase_file.clone(), variable: self.passphrase_env.clone() }
    }

    /// Reads a key file, with the passphrase if it is encrypted.
    ///
    /// # Errors
    /// A file that cannot be read, no passphrase, or a wrong one.
    pub fn read_key_file(&self, path: &Path) -> CliResult<Zeroizing<String>> {
        let ask = |path: &Path| match self.source().read()? {
            Some(passphrase) => Ok(passphrase),
            None => prompt(&format!("Passphrase of {}: ", path.display())),
        };
        Ok(read_key_file(path, &ask)?)
    }

    /// The passphrase for a file that is to be encrypted; on the terminal it is asked twice.
    ///
    /// # Errors
    /// No passphrase, or two different ones.
    pub fn choose(&self, path: &Path) -> CliResult<Zeroizing<String>> {
        let failed = |problem: String| CliError::file(path, problem);
        if let Some(passphrase) = self.source().read().map_err(failed)? {
            return Ok(passphrase);
        }
        let first = prompt(&format!("New passphrase of {}: ", path.display())).map_err(failed)?;
        let again = prompt("The same again: ").map_err(failed)?;
        if first.is_empty() || *first != *again {
            return Err(failed("the passphrase is empty, or the two differ".to_owned()));
        }
        Ok(first)
    }
}

/// Asks on the terminal, without showing what is typed.
fn prompt(text: &str) -> Result<Zeroizing<String>, String> {
    let none = "it is encrypted, and there is no terminal to ask for its passphrase: give --passphrase-file or --passphrase-env";
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| none.to_owned())?;
    let shown = tcgetattr(&terminal).map_err(|_| none.to_owned())?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    let failed = |error: std::io::Error| format!("the terminal cannot be asked: {error}");
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).map_err(|error| failed(error.into()))?;
    let asked = terminal.write_all(text.as_bytes()).and_then(|()| {
        // Long enough from the start, so that growing leaves no copy behind.
        let mut line = Zeroizing::new(String::with_capacity(MOST as usize + 1));
        BufReader::with_capacity(1, &terminal).take(MOST).read_line(&mut line).map(|_| line)
    });
    // Whatever happened, the terminal shows what is typed again.
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &shown);
    let _ = terminal.write_all(b"\n");
    restored.map_err(|error| failed(error.into()))?;
    let line = asked.map_err(failed)?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}
