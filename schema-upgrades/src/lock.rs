//! One process at a time, and who it is.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fs2::FileExt as _;

use crate::error::UpgradeError;

const FILE: &str = "SCHEMA.LOCK";

/// Who holds a database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// The process.
    pub process: u32,
    /// What it runs.
    pub program: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

impl Holder {
    /// This process.
    #[must_use]
    pub fn this() -> Self {
        let program = std::env::args().next().unwrap_or_default();
        Self { process: std::process::id(), program, since_ms: now_ms() }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({}) since {} ms", self.process, self.program, self.since_ms)
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Takes the lock of a database's directory. It is released when the file is dropped, also by a crash.
pub(crate) fn take(directory: &Path) -> Result<File, UpgradeError> {
    let path = directory.join(FILE);
    let io = |doing| {
        let path = path.clone();
        move |source| UpgradeError::Io { doing, path, source }
    };
    std::fs::create_dir_all(directory).map_err(io("create the directory of"))?;
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io("open"))?;
    if let Err(error) = file.try_lock_exclusive() {
        if error.kind() != fs2::lock_contended_error().kind() {
            return Err(io("lock")(error));
        }
        let mut text = String::new();
        // The lock says enough if its holder cannot be read.
        let _ = file.read_to_string(&mut text);
        let holder = serde_json::from_str::<Holder>(&text).ok();
        return Err(UpgradeError::InUse { directory: directory.to_owned(), holder: Box::new(holder) });
    }
    let text = serde_json::to_string(&Holder::this()).unwrap_or_default();
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{text}")).map_err(io("write"))?;
    Ok(file)
}
