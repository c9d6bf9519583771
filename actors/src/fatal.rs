//! The one way for a part of the node to say that the process must end: a failed sync, a broken safety invariant.
//!
//! Restarting cannot help there, and going on could harm. The node's main task watches, stops the tree and exits with
//! the reason as its last line.

use std::error::Error;
use std::sync::Arc;

use tokio::sync::watch;

use crate::storage::room::is_want_of_room;

/// Raised at most once; the first reason stands.
#[derive(Clone, Debug)]
pub struct Fatal(Arc<watch::Sender<Option<Reason>>>);

#[derive(Debug)]
struct Reason {
    text: String,
    wants_room: bool,
}

impl Default for Fatal {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Fatal {
    /// Says that the process must end, and why.
    pub fn raise(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(reason = %reason, "the node must stop");
        self.set(reason, false);
    }

    /// [`Fatal::raise`] for an error of a write: if there is no room on the disk, the node can go on once there is.
    pub fn raise_for(&self, error: &(dyn Error + 'static), reason: impl Into<String>) {
        let (reason, wants_room) = (reason.into(), is_want_of_room(error));
        tracing::error!(reason = %reason, wants_room, "the node must stop");
        self.set(reason, wants_room);
    }

    /// Has the process end for a reason that is no fault.
    pub fn leave(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::info!(reason = %reason, "the node stops");
        self.set(reason, false);
    }

    fn set(&self, text: String, wants_room: bool) {
        self.0.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(Reason { text, wants_room });
            }
            first
        });
    }

    /// The reason, if it was raised.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().as_ref().map(|reason| reason.text.clone())
    }

    /// Whether it was raised because there is no room on the disk.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|reason| reason.wants_room)
    }

    /// Resolves with the reason once it is raised.
    pub async fn raised(&self) -> String {
        let mut receiver = self.0.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.as_ref().map(|reason| reason.text.clone()).unwrap_or_default(),
            // The sender lives in self.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stands_and_late_watchers_see_it() {
        let fatal = Fatal::default();
        assert_eq!(fatal.reason(), None);
        fatal.raise("disk full");
        fatal.raise("something else");
        assert_eq!(fatal.raised().await, "disk full");
        assert!(!fatal.wants_room(), "the text decides nothing");
    }

    #[test]
    fn a_full_disk_is_told_apart_by_its_kind() {
        for (kind, expected) in [(std::io::ErrorKind::StorageFull, true), (std::io::ErrorKind::FileTooLarge, false)] {
            let fatal = Fatal::default();
            fatal.raise_for(&std::io::Error::from(kind), "the journal cannot be written");
            assert_eq!(fatal.wants_room(), expected, "{kind:?}");
        }
    }
}
