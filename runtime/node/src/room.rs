//! Waiting for room on a full or read-only disk: who asks is told why, and the disk is looked at until there is room.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_actors::settings::NodeSettings;
use aurigraph_actors::storage::Store;
use aurigraph_actors::storage::room::{NoRoom, try_room};
use aurigraph_api::problem::Problem;
use aurigraph_api::stand_in;
use parking_lot::Mutex;

use crate::compose::Frame;

/// How often a node that waits looks at its disk. The first look comes as late, so that a disk that is full again at once
/// does not keep a node starting.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often the log says that it still waits.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// When a client should ask again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Below so many bytes no start is begun. Less than a running node needs, so that one which was stopped on a disk with
/// little room starts there, too.
const LEAST_AT_START: u64 = 16 << 20;

/// What a node wants of its disk.
pub struct Want {
    name: String,
    directory: PathBuf,
    /// Bytes that must be free for a node that waits.
    needed: u64,
    max_connections: usize,
}

impl Want {
    /// What these settings say.
    pub fn of(settings: &NodeSettings) -> Self {
        Self {
            name: settings.name.clone(),
            directory: settings.data_dir.clone(),
            needed: settings.resume_free,
            max_connections: settings.api.max_connections,
        }
    }

    /// Why a start cannot even begin, if so. Whatever else is wrong with the directory, the start itself finds and says. What
    /// a process before has left of rewriting its store goes first: a node would wait in vain for the room that it takes.
    pub async fn at_start(&self) -> Option<NoRoom> {
        let (directory, name) = (self.directory.clone(), self.name.clone());
        let cleared = tokio::task::spawn_blocking(move || Store::clear(&directory, &name)).await;
        if let Err(error) = cleared {
            tracing::warn!(%error, "what rewriting the store has left is not looked for");
        }
        look(&self.directory, self.needed.min(LEAST_AT_START)).await.ok()?.err()
    }

    /// Whether the directory holds a journal: then what waits must find that one again.
    pub fn has_journal(&self) -> bool {
        has_journal(&self.directory)
    }

    /// Answers every client with the reason until there is room, and the journal if the directory had one (`initialised`).
    /// Dropping the future ends it.
    pub async fn room(&self, frame: &Frame, reason: &str, initialised: bool) {
        let free = Arc::new(Mutex::new(fs2::available_space(&self.directory).ok()));
        let why = {
            let (name, reason, needed, free) = (self.name.clone(), reason.to_owned(), self.needed, Arc::clone(&free));
            let path = self.directory.display().to_string();
            move || {
                let detail = format!("node {name} waits for room on its disk: {reason}");
                Problem::unavailable("no_room", detail, RETRY_AFTER)
                    .with("path", path.clone())
                    .with("freeBytes", *free.lock())
                    .with("neededBytes", needed)
            }
        };
        metrics::describe_gauge!("node_waiting_for_room", "1 while the node waits for room on its disk.");
        metrics::describe_gauge!(
            "disk_free_bytes",
            "Free bytes on the data directory's disk, while a node waits there."
        );
        metrics::describe_gauge!("disk_needed_bytes", "Free bytes with which a node that waits starts again.");
        metrics::gauge!("node_waiting_for_room").set(1.0);
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("disk_needed_bytes").set(self.needed as f64);
        tracing::error!(
            alert = "no_room", path = %self.directory.display(), free_bytes = *free.lock(), needed_bytes = self.needed, reason,
            "the disk is full or read-only: the node waits for room"
        );
        tokio::select! {
            () = stand_in(&frame.port, Arc::new(why), frame.render(), self.max_connections) => {}
            () = self.watch(&free, initialised) => {}
        }
    }

    async fn watch(&self, free: &Mutex<Option<u64>>, initialised: bool) {
        let (since, mut said) = (Instant::now(), Instant::now());
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let path = self.directory.display();
            let no_room = match look_again(&self.directory, self.needed, initialised).await {
                Ok(Ok(())) => {
                    tracing::info!(%path, needed_bytes = self.needed, waited = ?since.elapsed(), "there is room: the node starts again");
                    return;
                }
                Ok(Err(no_room)) => {
                    *free.lock() = Some(no_room.free());
                    #[allow(clippy::cast_precision_loss)]
                    metrics::gauge!("disk_free_bytes").set(no_room.free() as f64);
                    no_room.to_string()
                }
                Err(error) => format!("{path}: {error}"),
            };
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                tracing::warn!(alert = "no_room", reason = no_room, waited = ?since.elapsed(), "the node still waits for room");
            }
        }
    }
}

/// [`look`], but an empty place where the disk was mounted is no room: a validator that begins there has forgotten what it
/// signed.
async fn look_again(directory: &Path, needed: u64, initialised: bool) -> std::io::Result<Result<(), NoRoom>> {
    if initialised && !has_journal(directory) {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the journal is gone: is its disk mounted?"));
    }
    look(directory, needed).await
}

fn has_journal(directory: &Path) -> bool {
    std::fs::read_dir(directory.join("journal")).is_ok_and(|mut entries| entries.next().is_some())
}

/// On a thread that may block: a disk that fails may take long.
async fn look(directory: &Path, needed: u64) -> std::io::Result<Result<(), NoRoom>> {
    let directory = directory.to_owned();
    let looked = tokio::task::spawn_blocking(move || try_room(&directory, needed)).await;
    looked.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_without_the_journal_that_was_there_is_no_room_and_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("v1");
        std::fs::create_dir_all(directory.join("journal")).unwrap();
        std::fs::write(directory.join("journal/000001.seg"), "records").unwrap();
        assert!(has_journal(&directory));
        assert!(look_again(&directory, 1, true).await.unwrap().is_ok());
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(look_again(&directory, 1, true).await.is_err());
        assert!(!directory.exists());
        // A first start waits for room alone.
        assert!(look_again(&directory, 1, false).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_start_gives_back_what_rewriting_the_store_left_also_where_it_finds_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("store.rewrite-1795478400000");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("db"), b"an unfinished copy").unwrap();
        let want = Want {
            name: "v1".to_owned(),
            directory: directory.path().to_owned(),
            needed: u64::MAX,
            max_connections: 1,
        };
        want.at_start().await;
        assert!(!left.exists());
        assert!(look(directory.path(), want.needed).await.unwrap().is_err(), "there is no room all the same");
    }
}
