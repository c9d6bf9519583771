//! Exclusive ownership across the incarnations of an actor.
//!
//! A thread that owns a file or a device outlives a killed incarnation by as long as its current system call takes. The
//! next incarnation therefore acquires the same lease in `start` before it touches the thing itself; the thread holds
//! the lease and drops it last.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the incarnations of one actor share. Cheap to clone; kept by whoever makes the behaviours.
#[derive(Debug, Clone)]
pub struct LeaseHolder(Arc<Semaphore>);

/// The right to own the thing. Moved into the thread that does; dropping it lets the next incarnation go on.
#[derive(Debug)]
pub struct Lease {
    _place: OwnedSemaphorePermit,
}

/// The earlier incarnation's thread has not ended in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the earlier owner has not let go within {after:?}")]
pub struct LeaseError {
    /// How long it was waited for.
    pub after: Duration,
}

impl Default for LeaseHolder {
    fn default() -> Self {
        Self::new()
    }
}

impl LeaseHolder {
    /// A lease that nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Waits until the earlier owner has let go.
    ///
    /// # Errors
    /// [`LeaseError`] if it has not in time.
    pub async fn acquire(&self, within: Duration) -> Result<Lease, LeaseError> {
        let place = tokio::time::timeout(within, Arc::clone(&self.0).acquire_owned()).await;
        match place {
            Ok(Ok(place)) => Ok(Lease { _place: place }),
            // The semaphore is never closed, so only time runs out.
            Ok(Err(_)) | Err(_) => Err(LeaseError { after: within }),
        }
    }

    /// True while somebody owns it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.available_permits() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn a_second_owner_waits_until_the_first_thread_has_let_go() {
        let holder = LeaseHolder::new();
        let lease = holder.acquire(LONG).await.unwrap();
        assert!(holder.is_held());
        let refused = holder.acquire(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(refused, LeaseError { after: Duration::from_secs(1) });

        let (let_go, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = told.recv();
            drop(lease);
        });
        let waiting = tokio::spawn({
            let holder = holder.clone();
            async move { holder.acquire(LONG).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(let_go);
        thread.join().unwrap();
        assert!(waiting.await.unwrap());
        assert!(!holder.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_leaves_no_trace() {
        let holder = LeaseHolder::new();
        let lease = holder.acquire(LONG).await.unwrap();
        assert!(holder.acquire(Duration::from_millis(1)).await.is_err());
        drop(lease);
        assert!(holder.acquire(Duration::from_millis(1)).await.is_ok());
    }
}
