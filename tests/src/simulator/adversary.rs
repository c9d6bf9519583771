//! The adversary who orders messages: each arrives within a bound, and yet slots stay empty, if validators jump rounds.
//!
//! The published attack on protocols whose validators go to the newest round at once (docs/historic-bugs.md, row 1): the
//! leader of each round is the last to enter it. It is held back by the blocks of the round before, up to the bound; by the
//! time it has them, the others' blocks of its own round are there as well, and completing both in one step it builds for
//! the round after. Its slot stays empty, and the others wait for their time-outs. Nothing is lost, and nobody is faulty. This
//! adversary empties about every second slot; the published one, which is cleverer, empties all.

use std::sync::Arc;

use aurigraph_consensus::message::pushed_block;
use aurigraph_consensus::{AuthorIdx, Message, Round};

use super::coverage::Mark;
use super::node::core_of;
use super::scenario::Ms;
use super::world::World;

/// How fast a message is that the adversary does not hold.
const SOON_MS: Ms = 1;
/// So much before the leader's block those of the others arrive at the one who is held back.
const EARLIER_MS: Ms = 20;

impl World<'_> {
    /// When a message arrives, if somebody orders messages by now.
    pub(super) fn adversarial_delay(&mut self, to: usize, bytes: &Arc<[u8]>) -> Option<Ms> {
        let adversary = self.scenario.adversary.filter(|adversary| self.time >= adversary.from_ms)?;
        let delta = adversary.delta_ms;
        let held_for = |block: &[u8]| {
            let core = core_of(block).filter(|core| self.leads(to, core.round.saturating_add(1)))?;
            // Without the leader it waits, though it has a quorum: that block comes last, and completes both rounds.
            let last = self.leads(usize::from(core.author), core.round);
            Some(if last { delta } else { delta.saturating_sub(EARLIER_MS) })
        };
        let held = match pushed_block(bytes) {
            Some(block) => held_for(block),
            None => match Message::decode(bytes) {
                Ok(Message::FetchReply { blocks, .. }) => {
                    blocks.iter().find_map(|block| held_for(block)).map(|_| delta)
                }
                _ => None,
            },
        };
        if held.is_some() {
            self.marks.hit(Mark::Held);
        }
        Some(held.unwrap_or(SOON_MS).max(SOON_MS))
    }

    /// Whether a validator leads a round, by the table of the first that runs.
    fn leads(&self, node: usize, round: Round) -> bool {
        let machine = self.nodes.values().find_map(|state| state.machine.as_ref());
        let leaders = machine.map(|machine| machine.schedule().leaders(machine.committee(), round));
        leaders.is_some_and(|leaders| AuthorIdx::try_from(node).is_ok_and(|node| leaders.contains(&node)))
    }
}
