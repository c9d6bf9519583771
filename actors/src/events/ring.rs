//! The hub's state, without actors: the ring, the subscribers, the waiting clients.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use aurigraph_ledger::{ExclusionReason, Hash};
use aurigraph_runtime::Reply;
use tokio::sync::mpsc;

use super::messages::{
    BlockEvent, DroppedTransaction, Event, EventBody, EventKind, Subscription, TransactionEnd, TransactionsEvent,
};
use crate::bounds::events as bounds;

struct Subscriber {
    kinds: Vec<EventKind>,
    queue: mpsc::Sender<Event>,
    dropped: Arc<OnceLock<&'static str>>,
}

impl Subscriber {
    fn wants(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// False if the subscriber is gone or was dropped for being slow.
    fn give(&self, event: &Event) -> bool {
        if !self.wants(event.body.kind()) {
            return !self.queue.is_closed();
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                // Only this place sets it, and it drops the subscriber right after.
                let _ = self.dropped.set("the subscriber reads more slowly than events arise");
                metrics::counter!("event_subscribers_dropped_total").increment(1);
                false
            }
        }
    }
}

/// Recent events, those who listen and those who wait.
pub(super) struct Ring {
    events: VecDeque<Event>,
    next_id: u64,
    /// The newest id that is no longer in the ring; what came before the ring's first start counts as gone.
    forgotten: u64,
    subscribers: Vec<Subscriber>,
    waiting: HashMap<Hash, Vec<Reply<TransactionEnd>>>,
    waiters: usize,
    dropped: HashMap<Hash, ExclusionReason>,
    dropped_order: VecDeque<Hash>,
}

impl Ring {
    /// Ids start at `first_id`, which must exceed every id of earlier incarnations.
    pub(super) fn new(first_id: u64) -> Self {
        Self {
            events: VecDeque::new(),
            next_id: first_id,
            forgotten: first_id.saturating_sub(1),
            subscribers: Vec::new(),
            waiting: HashMap::new(),
            waiters: 0,
            dropped: HashMap::new(),
            dropped_order: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, body: EventBody) {
        let event = Event { id: self.next_id, body };
        self.next_id += 1;
        self.subscribers.retain(|subscriber| subscriber.give(&event));
        self.events.push_back(event);
        while self.events.len() > bounds::RING {
            self.forgotten = self.events.pop_front().map_or(self.forgotten, |event| event.id);
        }
    }

    pub(super) fn block(&mut self, block: &Arc<BlockEvent>) {
        self.push(EventBody::Block(Arc::clone(block)));
        for chunk in block.transactions.chunks(bounds::TRANSACTIONS_PER_EVENT) {
            let event = TransactionsEvent { block_height: block.height, transactions: chunk.to_vec() };
            self.push(EventBody::Transactions(Arc::new(event)));
        }
        for dropped in &block.dropped {
            self.remember(dropped);
        }
        if self.waiting.is_empty() {
            return;
        }
        for outcome in &block.transactions {
            self.answer(&outcome.hash, &TransactionEnd::Committed { height: block.height, outcome: *outcome });
        }
        for dropped in &block.dropped {
            self.answer(&dropped.hash, &TransactionEnd::Dropped { reason: dropped.reason });
        }
    }

    fn answer(&mut self, hash: &Hash, end: &TransactionEnd) {
        for reply in self.waiting.remove(hash).unwrap_or_default() {
            self.waiters -= 1;
            reply.send(end.clone());
        }
    }

    fn remember(&mut self, dropped: &DroppedTransaction) {
        if self.dropped.insert(dropped.hash, dropped.reason).is_none() {
            self.dropped_order.push_back(dropped.hash);
        }
        while self.dropped_order.len() > bounds::DROPPED_TRANSACTIONS {
            if let Some(oldest) = self.dropped_order.pop_front() {
                self.dropped.remove(&oldest);
            }
        }
    }

    pub(super) fn recently_dropped(&self, hash: &Hash) -> Option<ExclusionReason> {
        self.dropped.get(hash).copied()
    }

    /// Remembers who waits; drops the reply if too many wait.
    pub(super) fn wait_for(&mut self, hash: Hash, reply: Reply<TransactionEnd>) {
        if self.waiters >= bounds::WAITING_CLIENTS {
            self.forget_closed();
        }
        if self.waiters < bounds::WAITING_CLIENTS {
            self.waiters += 1;
            self.waiting.entry(hash).or_default().push(reply);
        }
    }

    /// Forgets the clients that have given up.
    pub(super) fn forget_closed(&mut self) {
        self.waiting.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        self.waiters = self.waiting.values().map(Vec::len).sum();
        self.subscribers.retain(|subscriber| !subscriber.queue.is_closed());
    }

    pub(super) fn subscribe(&mut self, after: Option<u64>, kinds: Vec<EventKind>) -> Option<Subscription> {
        self.subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        if self.subscribers.len() >= bounds::SUBSCRIBERS {
            return None;
        }
        let (queue, events) = mpsc::channel(bounds::SUBSCRIBER_QUEUE);
        let subscriber = Subscriber { kinds, queue, dropped: Arc::default() };
        let dropped = Arc::clone(&subscriber.dropped);
        let newer = |event: &&Event| after.is_some_and(|after| event.id > after);
        let wanted = |event: &&Event| newer(event) && subscriber.wants(event.body.kind());
        let backlog = self.events.iter().filter(wanted).cloned().collect();
        // An id from the future was not given by this node's present stream: what it stood for is unknown.
        let gap = after.is_some_and(|after| after < self.forgotten || after >= self.next_id);
        self.subscribers.push(subscriber);
        Some(Subscription { backlog, gap, events, dropped })
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        (self.subscribers.len(), self.waiters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::messages::{TransactionOutcome, ValidatorEvent};
    use crate::query::values::Timestamp;
    use aurigraph_ledger::h;

    fn validator(id: &str) -> EventBody {
        EventBody::Validator(Arc::new(ValidatorEvent { id: id.into(), status: "active".into() }))
    }

    fn outcome(at: u32) -> TransactionOutcome {
        TransactionOutcome {
            hash: h("t", &at.to_le_bytes()),
            index: at,
            operations: 2,
            failed_operations: 1,
            first_failure: None,
        }
    }

    fn block(transactions: u32, dropped: &[u32]) -> Arc<BlockEvent> {
        Arc::new(BlockEvent {
            height: 7,
            hash: Hash::ZERO,
            parent_hash: Hash::ZERO,
            timestamp: Timestamp(1),
            validator: "v1".into(),
            leader: 0,
            round: 3,
            transaction_count: transactions,
            operation_count: 2 * u64::from(transactions),
            transactions: (0..transactions).map(outcome).collect(),
            dropped: dropped
                .iter()
                .map(|at| DroppedTransaction { hash: outcome(*at).hash, reason: ExclusionReason::NonceUsed })
                .collect(),
        })
    }

    #[test]
    fn a_subscriber_that_resumes_gets_what_it_missed_and_nothing_twice() {
        let mut ring = Ring::new(100);
        for _ in 0..5 {
            ring.push(validator("v2"));
        }
        let subscription = ring.subscribe(Some(102), Vec::new()).expect("room");
        assert_eq!(subscription.backlog.iter().map(|event| event.id).collect::<Vec<_>>(), [103, 104]);
        assert!(!subscription.gap);
        let mut events = subscription.events;
        ring.push(validator("v3"));
        assert_eq!(events.try_recv().map(|event| event.id), Ok(105));
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn an_id_that_left_the_ring_or_never_was_in_it_is_a_gap() {
        let mut ring = Ring::new(100);
        for _ in 0..bounds::RING + 10 {
            ring.push(validator("v2"));
        }
        assert_eq!(ring.events.len(), bounds::RING);
        assert!(ring.subscribe(Some(105), Vec::new()).expect("room").gap);
        assert!(!ring.subscribe(Some(109), Vec::new()).expect("room").gap);
        assert!(ring.subscribe(Some(3), Vec::new()).expect("room").gap, "an id of an earlier incarnation");
        assert!(ring.subscribe(Some(u64::MAX), Vec::new()).expect("room").gap, "an id from the future");
        assert!(!ring.subscribe(None, Vec::new()).expect("room").gap);
    }

    #[test]
    fn a_slow_subscriber_is_dropped_with_a_reason_and_the_others_go_on() {
        let mut ring = Ring::new(1);
        let slow = ring.subscribe(None, Vec::new()).expect("room");
        let mut other = ring.subscribe(None, vec![EventKind::Block]).expect("room");
        for _ in 0..=bounds::SUBSCRIBER_QUEUE {
            ring.push(validator("v2"));
        }
        assert!(slow.dropped.get().is_some());
        assert_eq!(ring.counts().0, 1);
        ring.block(&block(1, &[]));
        assert_eq!(other.events.try_recv().map(|event| event.body.kind()), Ok(EventKind::Block));
        assert!(other.events.try_recv().is_err(), "kinds it did not ask for stay away");
    }

    #[test]
    fn long_blocks_are_told_in_several_events_that_hold_every_transaction_once() {
        let mut ring = Ring::new(1);
        let mut listener = ring.subscribe(None, vec![EventKind::Transaction]).expect("room");
        let count = u32::try_from(bounds::TRANSACTIONS_PER_EVENT * 2 + 3).expect("small");
        ring.block(&block(count, &[]));
        let mut seen = Vec::new();
        while let Ok(Event { body: EventBody::Transactions(event), .. }) = listener.events.try_recv() {
            seen.extend(event.transactions.iter().map(|outcome| outcome.index));
        }
        assert_eq!(seen, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn those_who_wait_hear_of_commits_and_of_refusals() {
        let mut ring = Ring::new(1);
        let (reply, mut committed) = Reply::channel();
        ring.wait_for(outcome(1).hash, reply);
        let (reply, mut dropped) = Reply::channel();
        ring.wait_for(outcome(9).hash, reply);
        let (reply, mut other) = Reply::<TransactionEnd>::channel();
        ring.wait_for(Hash::ZERO, reply);
        ring.block(&block(3, &[9]));
        assert_eq!(committed.try_recv(), Ok(TransactionEnd::Committed { height: 7, outcome: outcome(1) }));
        assert_eq!(ring.recently_dropped(&outcome(9).hash), Some(ExclusionReason::NonceUsed));
        assert_eq!(ring.recently_dropped(&outcome(1).hash), None);
        assert_eq!(dropped.try_recv(), Ok(TransactionEnd::Dropped { reason: ExclusionReason::NonceUsed }));
        assert!(other.try_recv().is_err());
        assert_eq!(ring.counts().1, 1);
        drop(other);
        ring.forget_closed();
        assert_eq!(ring.counts().1, 0);
    }

    #[test]
    fn waiting_clients_are_bounded_and_room_is_found_among_those_who_gave_up() {
        let mut ring = Ring::new(1);
        let mut answers = Vec::new();
        for _ in 0..bounds::WAITING_CLIENTS {
            let (reply, answer) = Reply::channel();
            ring.wait_for(Hash::ZERO, reply);
            answers.push(answer);
        }
        let (reply, mut refused) = Reply::<TransactionEnd>::channel();
        ring.wait_for(Hash::ZERO, reply);
        assert!(matches!(refused.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Closed)));
        answers.pop();
        let (reply, mut accepted) = Reply::<TransactionEnd>::channel();
        ring.wait_for(Hash::ZERO, reply);
        assert!(matches!(accepted.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)));
    }
}
