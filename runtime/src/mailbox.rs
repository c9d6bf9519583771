//! Bounded mailboxes over ractor's unbounded ones, and addresses that outlive restarts.
//!
//! A mailbox has a fixed number of places. A message holds one until it was handled or dropped, so a dead
//! incarnation's queue gives its places back by being dropped. What happens at the bound is the sender's choice, in
//! the name of the method: [`Address::send`] refuses and hands the message back, [`Address::send_wait`] waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Semaphore, TryAcquireError, oneshot, watch};

use crate::behaviour::Envelope;

/// Why a message was not accepted; it comes back to the sender.
#[derive(thiserror::Error)]
pub enum SendError<M> {
    /// No incarnation is running (it may be restarting).
    #[error("{name} is not running")]
    NotRunning {
        /// Who was addressed.
        name: String,
        /// The message.
        message: M,
    },
    /// The mailbox holds as many messages as it may.
    #[error("the mailbox of {name} is full ({bound} messages)")]
    Full {
        /// Who was addressed.
        name: String,
        /// The mailbox's bound.
        bound: usize,
        /// The message.
        message: M,
    },
}

impl<M> std::fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl<M> SendError<M> {
    /// The message that was not accepted.
    pub fn into_message(self) -> M {
        match self {
            Self::NotRunning { message, .. } | Self::Full { message, .. } => message,
        }
    }

    /// True if the receiver lives but is overloaded.
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No incarnation is running (it may be restarting).
    #[error("{0} is not running")]
    NotRunning(String),
    /// The mailbox is full.
    #[error("the mailbox of {0} is full")]
    Full(String),
    /// No answer in time.
    #[error("{name} did not answer within {after:?}")]
    Timeout {
        /// Who was asked.
        name: String,
        /// How long.
        after: Duration,
    },
    /// The receiver died, or dropped the request.
    #[error("{0} ended before it answered")]
    Dropped(String),
}

/// Where an answer goes. Dropping it tells the asker at once.
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// A reply port and the receiver of its answer, for callers that wait outside [`Address::call`].
    #[must_use]
    pub fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers. An asker that has given up is no error.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }

    /// True if nobody waits for the answer any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

/// Counters of one actor name, kept across its incarnations.
#[derive(Clone, Default)]
pub struct MailboxStats(Arc<StatsInner>);

#[derive(Default)]
struct StatsInner {
    handled: AtomicU64,
    busy_nanos: AtomicU64,
}

impl MailboxStats {
    pub(crate) fn handled(&self, took: Duration) {
        self.0.handled.fetch_add(1, Ordering::Relaxed);
        self.0.busy_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Messages handled by all incarnations.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.0.handled.load(Ordering::Relaxed)
    }

    /// Time spent in handlers, awaits included.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.0.busy_nanos.load(Ordering::Relaxed))
    }
}

/// One incarnation's mailbox.
pub(crate) struct Mailbox<M: Send + 'static> {
    pub(crate) cell: ractor::ActorRef<Envelope<M>>,
    pub(crate) places: Arc<Semaphore>,
}

/// The place where the current incarnation of a name is published.
pub(crate) struct Slot<M: Send + 'static> {
    pub(crate) name: String,
    pub(crate) bound: RwLock<usize>,
    /// Kept here because looking a series up by label allocates.
    refused: RwLock<Option<metrics::Counter>>,
    pub(crate) current: RwLock<Option<Arc<Mailbox<M>>>>,
    pub(crate) generation: watch::Sender<u64>,
    /// Whether the newest incarnation ended in order, never to come back.
    gone: AtomicBool,
}

impl<M: Send + 'static> Slot<M> {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            bound: RwLock::new(0),
            refused: RwLock::new(None),
            current: RwLock::new(None),
            generation: watch::Sender::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// Publishes an incarnation. Waiters see the generation change only after the mailbox is in place.
    pub(crate) fn publish(&self, cell: ractor::ActorRef<Envelope<M>>, generation: u64, bound: usize) {
        self.gone.store(false, Ordering::Release);
        *self.bound.write() = bound;
        *self.refused.write() = Some(metrics::counter!("actor_mailbox_refused_total", "actor" => self.name.clone()));
        *self.current.write() = Some(Arc::new(Mailbox { cell, places: Arc::new(Semaphore::new(bound)) }));
        self.generation.send_replace(generation);
    }

    pub(crate) fn depth(&self) -> usize {
        let bound = *self.bound.read();
        self.current.read().as_ref().map_or(0, |mailbox| bound.saturating_sub(mailbox.places.available_permits()))
    }
}

/// Takes a dead incarnation's mailbox back, whatever its message type.
pub(crate) trait Withdraw: Send + Sync {
    /// Withdraws the incarnation, if it is still the published one; whoever waits for a place is told.
    fn withdraw(&self, generation: u64);

    /// Notes that this incarnation, if it is the newest one published, was the last.
    fn never_again(&self, generation: u64);

    /// Notes that there will be another one after all.
    fn once_more(&self);
}

impl<M: Send + 'static> Withdraw for Slot<M> {
    fn withdraw(&self, generation: u64) {
        if *self.generation.borrow() == generation
            && let Some(mailbox) = self.current.write().take()
        {
            mailbox.places.close();
        }
    }

    fn never_again(&self, generation: u64) {
        if *self.generation.borrow() == generation {
            self.gone.store(true, Ordering::Release);
        }
    }

    fn once_more(&self) {
        self.gone.store(false, Ordering::Release);
    }
}

/// An actor's address: its name, resolved to whichever incarnation runs when a message is sent.
pub struct Address<M: Send + 'static>(pub(crate) Arc<Slot<M>>);

impl<M: Send + 'static> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Send + 'static> Address<M> {
    /// The name that this address stands for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The newest incarnation's number; 0 before the first start. A caller that awaits an effect of the callee beyond
    /// one call compares it before and after: when it changed, ask again or fail.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.0.generation.borrow()
    }

    /// Tells of each new incarnation.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// True while an incarnation is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.current.read().is_some()
    }

    /// True if it ended in order and will not come back, as in a tree that stops: there is nothing to wait for.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    /// How many messages wait or are being handled.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.depth()
    }

    fn mailbox(&self) -> Option<Arc<Mailbox<M>>> {
        self.0.current.read().clone()
    }

    /// Sends now or refuses: never waits.
    ///
    /// # Errors
    /// [`SendError`] with the message, if nobody runs or the mailbox is full.
    pub fn send(&self, message: M) -> Result<(), SendError<M>> {
        let Some(mailbox) = self.mailbox() else {
            return Err(SendError::NotRunning { name: self.0.name.clone(), message });
        };
        match Arc::clone(&mailbox.places).try_acquire_owned() {
            Ok(place) => self.deliver(&mailbox, message, place),
            Err(TryAcquireError::Closed) => Err(SendError::NotRunning { name: self.0.name.clone(), message }),
            Err(TryAcquireError::NoPermits) => {
                if let Some(refused) = &*self.0.refused.read() {
                    refused.increment(1);
                }
                Err(SendError::Full { name: self.0.name.clone(), bound: *self.0.bound.read(), message })
            }
        }
    }

    /// Waits for a place in the mailbox, then sends. For edges inside one pipeline only, where the receiver never waits
    /// for the sender; consensus never calls it.
    ///
    /// # Errors
    /// [`SendError::NotRunning`] with the message.
    pub async fn send_wait(&self, message: M) -> Result<(), SendError<M>> {
        let Some(mailbox) = self.mailbox() else {
            return Err(SendError::NotRunning { name: self.0.name.clone(), message });
        };
        match Arc::clone(&mailbox.places).acquire_owned().await {
            Ok(place) => self.deliver(&mailbox, message, place),
            Err(_) => Err(SendError::NotRunning { name: self.0.name.clone(), message }),
        }
    }

    fn deliver(
        &self,
        mailbox: &Mailbox<M>,
        message: M,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<(), SendError<M>> {
        mailbox.cell.send_message(Envelope::Message { message, place: Some(place) }).map_err(|error| match error {
            ractor::MessagingErr::SendErr(Envelope::Message { message, .. }) => {
                SendError::NotRunning { name: self.0.name.clone(), message }
            }
            // The cell's type is fixed where it is published, so neither another type nor another variant comes back.
            _ => unreachable!("ractor returns the message it was given"),
        })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`]: not running, full, no answer in time, or the receiver ended first.
    pub async fn call<T, F>(&self, within: Duration, request: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnOnce(Reply<T>) -> M + Send,
    {
        let answer = self.ask(request)?;
        Self::await_answer(self.0.name.clone(), within, answer).await
    }

    /// Asks without waiting: the receiver resolves to the answer, or to an error if the callee ended.
    ///
    /// # Errors
    /// [`CallError::NotRunning`] or [`CallError::Full`].
    pub fn ask<T, F>(&self, request: F) -> Result<oneshot::Receiver<T>, CallError>
    where
        T: Send + 'static,
        F: FnOnce(Reply<T>) -> M,
    {
        let (reply, answer) = Reply::channel();
        match self.send(request(reply)) {
            Ok(()) => Ok(answer),
            Err(SendError::Full { name, .. }) => Err(CallError::Full(name)),
            Err(SendError::NotRunning { name, .. }) => Err(CallError::NotRunning(name)),
        }
    }

    async fn await_answer<T: Send + 'static>(
        name: String,
        within: Duration,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(CallError::Dropped(name)),
            Err(_) => Err(CallError::Timeout { name, after: within }),
        }
    }
}
