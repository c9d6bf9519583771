//! What the store's thread waits for without standing still: an answer of the journal, a sync of the database.
//!
//! A checkpoint needs both between its steps, and the index of new blocks must not wait with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use aurigraph_schema_upgrades::{Database, Medium as _};
use tokio::sync::oneshot;

use super::error::StoreError;
use super::open::Shared;
use crate::storage::journal::JournalError;

/// Work of another thread. Its errors are those of the store.
#[derive(Debug)]
pub(super) enum Pending {
    /// It is done.
    Done,
    /// A record goes into the log.
    Journal(oneshot::Receiver<Result<(), JournalError>>),
    /// The database is synced.
    Sync(oneshot::Receiver<Result<(), StoreError>>),
}

fn logged(answer: Result<Result<(), JournalError>, oneshot::error::RecvError>) -> Result<(), StoreError> {
    let written = answer.map_err(|_| StoreError::Redo("the journal ended before it answered".to_owned()))?;
    written.map_err(|error| StoreError::Redo(error.to_string()))
}

fn synced(answer: Result<Result<(), StoreError>, oneshot::error::RecvError>) -> Result<(), StoreError> {
    answer.unwrap_or_else(|_| Err(StoreError::Thread("the syncing thread has ended".to_owned())))
}

impl Pending {
    /// True if there is nothing to wait for.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Completes with it; is `Done` from then on. Dropped before, it can be waited for again.
    pub async fn wait(&mut self) -> Result<(), StoreError> {
        let result = match self {
            Self::Done => Ok(()),
            Self::Journal(answer) => logged(answer.await),
            Self::Sync(answer) => synced(answer.await),
        };
        *self = Self::Done;
        result
    }

    /// The same on a thread that has nothing else to do.
    pub fn block(&mut self) -> Result<(), StoreError> {
        match std::mem::replace(self, Self::Done) {
            Self::Done => Ok(()),
            Self::Journal(answer) => logged(answer.blocking_recv()),
            Self::Sync(answer) => synced(answer.blocking_recv()),
        }
    }
}

/// A thread that syncs the database when it is asked to. Ends, after the sync under way, when it is dropped: whoever owns
/// it lets nobody else write before that.
pub(super) struct Syncer {
    asks: Option<Sender<oneshot::Sender<Result<(), StoreError>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread.
    pub fn start(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let (asks, asked) = channel::<oneshot::Sender<Result<(), StoreError>>>();
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("store-sync".to_owned()).spawn(move || {
            while let Ok(answer) = asked.recv() {
                shared.syncing.begin();
                #[cfg(test)]
                if let Some(until) = shared.held.lock().take() {
                    let _ = until.recv();
                }
                let result = sync(&shared.database());
                shared.syncing.end();
                // Who asked may be gone.
                let _ = answer.send(result);
            }
        });
        let thread = thread.map_err(|error| StoreError::Thread(error.to_string()))?;
        Ok(Self { asks: Some(asks), thread: Some(thread) })
    }

    /// Has everything that was written before this synced.
    pub fn sync(&self) -> Pending {
        let (answer, receiver) = oneshot::channel();
        // Without the thread the receiver says so.
        let _ = self.asks.as_ref().map(|asks| asks.send(answer));
        Pending::Sync(receiver)
    }
}

fn sync(database: &Database) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(|| database.flush())).map_or(Err(StoreError::Panicked), |done| Ok(done?))
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.asks = None;
        // A panic in it was caught.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
