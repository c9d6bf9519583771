//! The novelty budget on whole machines: a cone that grows fourfold with every round is loaded at a pace, and a long
//! absence is made good in spite of it.

use std::collections::{BTreeMap, VecDeque};

use aurigraph_ledger::hash::h;

use crate::block::Block;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::event::{Effect, Event};
use crate::machine::Machine;
use crate::message::{Message, encode_block};
use crate::testing::sealed_block;
use crate::types::{BlockRef, Now, Round};

/// A block on four others on sixteen others, and so on; nobody has the lowest.
fn cone(config: &Config, round: Round, author: u16, path: u64, depth: u32, into: &mut Vec<Block>) -> BlockRef {
    if depth == 0 {
        let name = [author.to_le_bytes().to_vec(), path.to_le_bytes().to_vec()].concat();
        return BlockRef { round, author, digest: h("nobody has it", &name) };
    }
    let mut parents: Vec<BlockRef> =
        (0..4).map(|parent| cone(config, round - 1, parent, path * 4 + u64::from(parent), depth - 1, into)).collect();
    parents.sort_by_key(|parent| (parent.author != author, parent.author));
    let block = sealed_block(config, round, author, parents, vec![]);
    into.push(block.clone());
    block.reference()
}

#[test]
fn a_cone_that_grows_without_end_is_loaded_at_a_pace() {
    let config = Config::new(h("chain", b"test"), h("seed", b"test"), vec![1; 4], None);
    let mut blocks = Vec::new();
    let top = cone(&config, 30, 3, 0, 5, &mut blocks);
    let blocks: BTreeMap<BlockRef, Block> = blocks.into_iter().map(|block| (block.reference(), block)).collect();
    let (mut machine, _) = Machine::new(config.clone(), Now::default()).expect("valid");
    let mut queue: VecDeque<Event> = (1..4).map(|peer| Event::PeerUp { peer }).collect();
    queue.push_back(Event::Received { peer: 3, bytes: encode_block(&blocks[&top].encode()) });
    let mut asked: BTreeMap<BlockRef, u64> = BTreeMap::new();
    for ms in (1..=2_000).step_by(5) {
        queue.push_back(Event::Tick);
        while let Some(event) = queue.pop_front() {
            for effect in machine.step(Now { mono_ms: ms, wall_ms: 1_700_000_000_000 + ms }, event) {
                match effect {
                    Effect::VerifySig { ticket, .. } => queue.push_back(Event::SigChecked { ticket, ok: true }),
                    Effect::Send { to, bytes, .. } => {
                        let Ok(Message::FetchRequest { request, refs, .. }) = Message::decode(&bytes) else { continue };
                        let found: Vec<Vec<u8>> = refs.iter().filter_map(|r| Some(blocks.get(r)?.encode())).collect();
                        for block in &refs {
                            asked.entry(*block).or_insert(ms);
                        }
                        let reply = Message::FetchReply { request, commit_index: 0, blocks: found };
                        queue.push_back(Event::Received { peer: to, bytes: reply.encode() });
                    }
                    _ => {}
                }
            }
        }
    }
    // 1,364 blocks lie below the top one; 8 an interval of 50 ms are the budget, and some more came before it bit.
    let budget = 2 * 4;
    for from in (100..1_900).step_by(50) {
        let new = asked.values().filter(|at| (from..from + 50).contains(*at)).count();
        assert!(new <= 2 * budget, "{new} blocks are looked for from {from} ms on");
    }
    let total = asked.len();
    assert!((100..=budget * 42).contains(&total), "{total} in two seconds");
    assert!(machine.status().deferred > 0 && machine.status().counters.blocks_deferred > 0);
}

#[test]
fn a_long_absence_is_made_good_within_the_budget() {
    let mut c = Cluster::new(&[1; 4], 1_160);
    c.start_all();
    c.run_for(1_500);
    c.cut.extend([(0, 3), (1, 3), (2, 3)]);
    let end = c.time + 4_000;
    while c.time < end {
        c.submit(0, &format!("{}", c.time));
        c.run_for(70);
    }
    let missed = c.status(0).round - c.status(3).round;
    assert!(missed > 30, "{missed} rounds");
    let target = c.commits(0);
    c.cut.clear();
    c.run_until(5_000, "it is back", |c| c.commits(3) >= target && c.status(3).own_round + 3 >= c.status(0).round);
    let counters = c.status(3).counters;
    assert!(counters.blocks_deferred > 0 && counters.catch_ups == 0, "{counters:?}");
    c.check_oracle(3);
}
