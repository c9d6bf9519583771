//! Who sends what, drawn before anything is signed: seeded, so that the same arguments give the same load.

use std::collections::HashMap;

/// One transaction's sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Its place in [`Draw::members`].
    pub slot: u32,
    /// How many transactions it sent before.
    pub before: u32,
    /// Its first one was sent so recently that its key may not be registered yet.
    pub young: bool,
}

/// The senders of all transactions.
#[derive(Debug)]
pub struct Draw {
    /// Who signs at each position.
    pub turns: Vec<Turn>,
    /// The accounts that were drawn at least once, in the order in which they were.
    pub members: Vec<u32>,
}

impl Draw {
    /// Draws `count` senders uniformly from `senders` accounts. The position decides the node and the node's accounts
    /// are every `nodes`-th one, so that every node gets equally much and a sender's nonces arrive at one node in order.
    /// For `young_for` positions after its first one a sender counts as young.
    pub fn new(senders: u32, nodes: u32, count: usize, young_for: usize) -> Self {
        let mut random = Random(SEED);
        let mut sent: HashMap<u32, (u32, u32, usize)> = HashMap::new();
        let (mut turns, mut members) = (Vec::with_capacity(count), Vec::new());
        for at in 0..count {
            let node = u32::try_from(at % nodes as usize).unwrap_or(0);
            let homed = senders.saturating_sub(node).div_ceil(nodes).max(1);
            let drawn = u32::try_from(random.below(u64::from(homed))).unwrap_or(0);
            let member = node + nodes * drawn;
            let (slot, before, first) = sent.entry(member).or_insert_with(|| {
                members.push(member);
                (u32::try_from(members.len() - 1).unwrap_or(u32::MAX), 0, at)
            });
            turns.push(Turn { slot: *slot, before: *before, young: at - *first <= young_for });
            *before += 1;
        }
        Self { turns, members }
    }

    /// The most transactions that one sender signs.
    pub fn most_turns(&self) -> u32 {
        self.turns.iter().map(|turn| turn.before + 1).max().unwrap_or(0)
    }
}

/// Of the senders; recipients are drawn from their transaction's position.
const SEED: u64 = 0x5e4d_e125;

/// SplitMix64: the same load for the same position, without a dependency.
pub struct Random(pub u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform below a bound; the bias of the product is below 2^-32 for the bounds used here.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly() {
        let (mut random, mut counts) = (Random(1), [0_u32; 10]);
        for _ in 0..10_000 {
            counts[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn senders_are_drawn_evenly_and_the_same_each_time() {
        let draw = Draw::new(10, 4, 20_000, 0);
        let mut counts = [0_u32; 10];
        for turn in &draw.turns {
            counts[draw.members[turn.slot as usize] as usize] += 1;
        }
        // Nodes 0 and 1 have three accounts, the others two, and every node gets a quarter.
        for (member, count) in counts.iter().enumerate() {
            let expected = if member % 4 < 2 { 5_000 / 3 } else { 5_000 / 2 };
            assert!(count.abs_diff(expected) < expected / 10, "{counts:?}");
        }
        assert_eq!(draw.turns, Draw::new(10, 4, 20_000, 0).turns);
    }

    #[test]
    fn every_account_is_a_sender_sooner_or_later_and_most_are_when_there_are_as_many_draws() {
        let draw = Draw::new(100_000, 4, 100_000, 0);
        // 1 - 1/e of them.
        assert!((62_500..64_000).contains(&draw.members.len()), "{}", draw.members.len());
        assert!(draw.members.iter().all(|member| *member < 100_000));
        assert!(draw.most_turns() < 15);
        assert_eq!(Draw::new(4, 4, 8, 0).members, [0, 1, 2, 3], "one account a node");
    }

    #[test]
    fn a_senders_turns_count_up_on_one_node_and_it_is_young_at_first() {
        let draw = Draw::new(8, 2, 400, 30);
        let mut seen: HashMap<u32, (u32, usize)> = HashMap::new();
        for (at, turn) in draw.turns.iter().enumerate() {
            let (turns, first) = seen.entry(turn.slot).or_insert((0, at));
            assert_eq!(turn.before, *turns);
            assert_eq!(turn.young, at - *first <= 30);
            assert_eq!(draw.members[turn.slot as usize] as usize % 2, at % 2, "a sender keeps to its node");
            *turns += 1;
        }
    }
}
