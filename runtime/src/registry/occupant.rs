//! The last incarnation of a name, and how its successor learns that it is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::mailbox::Withdraw;

/// The last incarnation of a name: whoever starts the next waits for its end.
#[derive(Clone)]
pub(crate) struct Occupant {
    pub(crate) cell: ractor::ActorCell,
    pub(super) generation: u64,
    /// Closed when the incarnation's state was dropped. None for library actors.
    pub(super) life: Option<watch::Receiver<()>>,
}

impl Occupant {
    /// Waits for its end: the name is free, the task is over and, if asked for, the state is dropped. False if that did
    /// not happen in time.
    ///
    /// ractor frees the name before `post_stop`, and hands the state of a killed actor to the supervisor's queue, so a
    /// free name says little, and a supervisor in its own `post_stop` may wait for [`Until::Over`] only.
    pub(crate) async fn ended(&self, until: Until, within: Duration) -> bool {
        let both = async {
            // The waiter itself has no deadline: the timeout around both has.
            let _ = self.cell.wait(None).await;
            if let (Until::Dropped, Some(mut life)) = (until, self.life.clone()) {
                while life.changed().await.is_ok() {}
            }
        };
        tokio::time::timeout(within, both).await.is_ok()
    }
}

/// What counts as the end of an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Its task is over.
    Over,
    /// Its state was dropped, too.
    Dropped,
}

/// Held by an incarnation's state. Dropping it withdraws the mailbox and lets the next incarnation start.
pub(crate) struct Life {
    pub(super) mailbox: Option<(Arc<dyn Withdraw>, u64)>,
    pub(super) _open: watch::Sender<()>,
}

impl Life {
    /// Takes the mailbox back: nobody is addressed any more.
    pub(crate) fn withdraw(&mut self) {
        if let Some((slot, generation)) = self.mailbox.take() {
            slot.withdraw(generation);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.withdraw();
    }
}
