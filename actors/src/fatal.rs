//! The one way for a part of the node to say that the process must end: a failed sync, a broken safety invariant.
//!
//! Restarting cannot help there, and going on could harm. The node's main task watches, stops the tree and exits with
//! the reason as its last line.

use std::sync::Arc;

use tokio::sync::watch;

/// Raised at most once; the first reason stands.
#[derive(Clone, Debug)]
pub struct Fatal(Arc<watch::Sender<Option<String>>>);

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
        self.set(reason);
    }

    /// Has the process end for a reason that is no fault.
    pub fn leave(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::info!(reason = %reason, "the node stops");
        self.set(reason);
    }

    fn set(&self, reason: String) {
        self.0.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// The reason, if it was raised.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Resolves with the reason once it is raised.
    pub async fn raised(&self) -> String {
        let mut receiver = self.0.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
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
    }
}
