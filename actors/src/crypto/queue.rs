//! The dispatcher's queues: one per class, bounded by items, and within a class one lane per sender, served in turn.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::messages::Priority;
use crate::bounds::crypto as bounds;

/// Whose turn it is: the first bytes of a key or of its hash. Two senders on one lane only share their turns.
pub(super) type Lane = u64;

/// Lanes that keep room when they are empty, and for how many items.
const LANES_KEPT: usize = 1_024;
const ITEMS_KEPT: usize = 4;

/// One class: lanes in a ring.
#[derive(Debug)]
struct Class<T> {
    /// Which slot a lane has, while it has items.
    places: HashMap<Lane, usize, RandomState>,
    /// Lanes with what waits in them; an empty slot keeps its room for the next lane.
    slots: Vec<(Lane, VecDeque<T>)>,
    free: Vec<usize>,
    /// Slots, the one whose turn it is first.
    ring: VecDeque<usize>,
    len: usize,
    bound: usize,
}

impl<T> Class<T> {
    fn new(bound: usize) -> Self {
        let (places, slots, free, ring) = (HashMap::default(), Vec::new(), Vec::new(), VecDeque::new());
        Self { places, slots, free, ring, len: 0, bound }
    }

    fn lane(&mut self, lane: Lane, ahead: bool) -> &mut VecDeque<T> {
        self.len += 1;
        let slot = *self.places.entry(lane).or_insert_with(|| {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push((lane, VecDeque::new()));
                self.slots.len() - 1
            });
            self.slots[slot].0 = lane;
            if ahead {
                self.ring.push_front(slot)
            } else {
                self.ring.push_back(slot)
            }
            slot
        });
        &mut self.slots[slot].1
    }

    /// One item of the lane whose turn it is, which then goes to the end of the ring.
    fn pop(&mut self) -> Option<(Lane, T)> {
        let slot = self.ring.pop_front()?;
        let (lane, items) = self.slots.get_mut(slot)?;
        let item = items.pop_front()?;
        self.len -= 1;
        if items.is_empty() {
            // The room of a few lanes is kept for the next ones, a flood's given back.
            items.shrink_to(if self.free.len() < LANES_KEPT { ITEMS_KEPT } else { 0 });
            self.places.remove(lane);
            self.free.push(slot);
        } else {
            self.ring.push_back(slot);
        }
        Some((*lane, item))
    }
}

/// All classes.
#[derive(Debug)]
pub(super) struct Queues<T> {
    classes: [(Priority, Class<T>); 4],
}

impl<T> Queues<T> {
    pub fn new() -> Self {
        let class = |priority| (priority, Class::new(bounds::queue(priority)));
        Self { classes: Priority::ALL.map(class) }
    }

    fn class(&mut self, priority: Priority) -> &mut Class<T> {
        &mut self.classes[priority as usize].1
    }

    /// How many of a class wait, and how many may, if `asked` more are too many. An empty class takes any request, so
    /// that none is refused for ever.
    pub fn refuses(&mut self, priority: Priority, asked: usize) -> Option<(usize, usize)> {
        let class = self.class(priority);
        (class.len > 0 && class.len + asked > class.bound).then_some((class.len, class.bound))
    }

    pub fn push(&mut self, priority: Priority, lane: Lane, item: T) {
        self.class(priority).lane(lane, false).push_back(item);
    }

    /// Puts an item that was taken before ahead of all others of its class.
    pub fn push_again(&mut self, priority: Priority, lane: Lane, item: T) {
        self.class(priority).lane(lane, true).push_front(item);
    }

    /// The next item of the highest class that has one, of those that are let.
    pub fn pop(&mut self, let_through: impl Fn(Priority) -> bool) -> Option<(Priority, Lane, T)> {
        self.classes
            .iter_mut()
            .filter(|(priority, _)| let_through(*priority))
            .find_map(|(priority, class)| class.pop().map(|(lane, item)| (*priority, lane, item)))
    }

    /// How many wait in the classes that are let.
    pub fn len(&self, let_through: impl Fn(Priority) -> bool) -> usize {
        self.lens().filter(|(priority, _)| let_through(*priority)).map(|(_, len)| len).sum()
    }

    pub fn lens(&self) -> impl Iterator<Item = (Priority, usize)> + '_ {
        self.classes.iter().map(|(priority, class)| (*priority, class.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_class_is_served_first_and_senders_take_turns() {
        let mut queues = Queues::new();
        for at in 0..3 {
            queues.push(Priority::Admission, 1, ("flooder", at));
        }
        queues.push(Priority::Admission, 2, ("other", 0));
        queues.push(Priority::Ahead, 3, ("ahead", 0));
        queues.push(Priority::Consensus, 4, ("block", 0));
        let order: Vec<_> = std::iter::from_fn(|| queues.pop(|_| true)).map(|(_, _, item)| item).collect();
        let expected = [("block", 0), ("flooder", 0), ("other", 0), ("flooder", 1), ("flooder", 2), ("ahead", 0)];
        assert_eq!(order, expected);
        assert!(queues.lens().all(|(_, len)| len == 0));
    }

    #[test]
    fn lanes_that_come_and_go_keep_their_items_apart() {
        let mut queues = Queues::new();
        for round in 0..3_u64 {
            // More lanes than keep their room, and other ones each time, over the slots of the earlier.
            let lanes = round * 10_000..round * 10_000 + 2 * LANES_KEPT as u64;
            for lane in lanes.clone() {
                (0..3).for_each(|at| queues.push(Priority::Ahead, lane, (lane, at)));
            }
            for at in 0..3 {
                for lane in lanes.clone() {
                    assert_eq!(queues.pop(|_| true), Some((Priority::Ahead, lane, (lane, at))));
                }
            }
            assert_eq!(queues.pop(|_| true), None);
        }
        assert_eq!(queues.class(Priority::Ahead).slots.len(), 2 * LANES_KEPT, "slots are used again");
    }

    #[test]
    fn what_was_taken_before_comes_first_again() {
        let mut queues = Queues::new();
        for (lane, item) in [(1, 'a'), (1, 'b'), (2, 'c')] {
            queues.push(Priority::Execution, lane, item);
        }
        let (_, lane, first) = queues.pop(|_| true).unwrap();
        let (_, other, second) = queues.pop(|_| true).unwrap();
        queues.push_again(Priority::Execution, other, second);
        queues.push_again(Priority::Execution, lane, first);
        let order: String = std::iter::from_fn(|| queues.pop(|priority| priority == Priority::Execution))
            .map(|(_, _, item)| item)
            .collect();
        assert_eq!(order.len(), 3);
        assert!(order.find('a') < order.find('b'), "{order}: the order within a lane");
    }

    #[test]
    fn a_full_class_refuses_and_an_empty_one_takes_any_request() {
        let mut queues = Queues::new();
        let bound = bounds::queue(Priority::Ahead);
        assert_eq!(queues.refuses(Priority::Ahead, 2 * bound), None);
        (0..bound).for_each(|at| queues.push(Priority::Ahead, at as u64, at));
        assert_eq!(queues.refuses(Priority::Ahead, 1), Some((bound, bound)));
        assert_eq!(queues.refuses(Priority::Consensus, 1), None);
    }
}
