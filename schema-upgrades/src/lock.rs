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
        write!(f, "process {} ({}) since {}", self.process, self.program, rfc3339(self.since_ms))
    }
}

/// A time as people and programs read it, UTC, to the second.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1_000 % 86_400);
    // Days to a civil date, after Hinnant: eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A held lock. It is released when this is dropped, also by a crash.
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that was being started meanwhile has the descriptor, too, until it runs its
        // program, and would hold the lock as long. If this fails, closing does it.
        let _ = fs2::FileExt::unlock(&self.0);
    }
}

/// Takes the lock of a database's directory.
pub(crate) fn take(directory: &Path) -> Result<Lock, UpgradeError> {
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
    // The lock says enough without its holder: on a full disk what is to be removed has to be locked, too.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{text}"));
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::{rfc3339, take};

    #[test]
    fn the_lock_is_free_once_dropped_though_a_starting_process_has_inherited_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let lock = take(directory.path()).expect("it is free");
        let inherited = lock.0.try_clone().expect("a descriptor");
        assert!(take(directory.path()).is_err(), "it is held");
        drop(lock);
        assert!(take(directory.path()).is_ok(), "it is free again");
        drop(inherited);
    }

    #[test]
    fn a_lock_is_taken_also_where_nothing_can_be_written_into_it() {
        let directory = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/dev/full", directory.path().join(super::FILE)).expect("a link");
        let began = std::time::Instant::now();
        // Another run of this test may hold the same one for a moment.
        while let Err(error) = take(directory.path()) {
            assert!(matches!(error, crate::UpgradeError::InUse { .. }), "{error}");
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "{error}");
        }
    }

    #[test]
    fn times_are_civil_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399_999), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_478_400_000), "2026-11-24T00:00:00Z");
    }
}
