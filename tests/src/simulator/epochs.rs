//! The end of an epoch at one validator: what its driver does until the next one runs.
//!
//! The validators of a run are the same in all epochs, and so are their indices; their stakes change.

use aurigraph_consensus::{AuthorIdx, EpochCert, Event};

use super::Property;
use super::checks::{Broken, broken};
use super::coverage::Mark;
use super::world::World;

impl World<'_> {
    /// The epoch has ended for a validator, and its certificate is on the disk.
    pub(super) fn next_epoch(&mut self, node: usize, cert: &EpochCert) -> Result<(), Broken> {
        let now = self.now(node);
        let epoch = cert.epoch + 1;
        self.say(|| format!("node {node} enters epoch {epoch} after commit {}", cert.commit.index));
        let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
        self.checks.ended(node, state, cert)?;
        let Some(machine) = &mut state.machine else { return Ok(()) };
        let held = machine.take_held();
        let stakes = self.scenario.stakes_in(epoch).to_vec();
        let Some(start) = machine.next_start(Vec::new()) else {
            return broken(Property::EpochSafety, format!("{node} cannot start epoch {epoch}: the last has not ended"));
        };
        let config = machine.config().at(&start, stakes, machine.config().own);
        if usize::try_from(epoch).is_ok_and(|epoch| epoch == self.configs.len()) {
            let observer = aurigraph_consensus::Config { own: None, ..config.clone() };
            self.checks.begin(&observer);
            if self.scenario.stakes_in(epoch) != self.scenario.stakes_in(cert.epoch) {
                self.marks.hit(Mark::StakesChanged);
            }
            self.configs.push(observer);
        }
        let next = machine.next_epoch(config, &start, now);
        let (machine, effects) = next.map_err(|error| (Property::Survival, format!("{node}: {error}")))?;
        self.marks.hit(Mark::EpochEnded);
        state.seen = None;
        state.out.clear();
        state.timer_at = 0;
        self.checks.schedule(node, &machine)?;
        state.machine = Some(machine);
        let open = state.open_batches();
        self.execute(node, effects)?;
        if self.is_up(node) {
            self.meet_again(node, open, held);
        }
        Ok(())
    }

    /// Peers that are connected, messages that came early, own batches that nobody has delivered.
    fn meet_again(&mut self, node: usize, open: Vec<aurigraph_consensus::BatchRef>, held: Vec<(AuthorIdx, Vec<u8>)>) {
        for other in 0..self.scenario.stakes.len() {
            if other != node && *self.network.believes(node, other) {
                let peer = AuthorIdx::try_from(other).expect("few");
                self.push_event(node, 0, Event::PeerUp { peer });
            }
        }
        for (peer, bytes) in held {
            self.push_event(node, 0, Event::Received { peer, bytes });
        }
        for batch in open {
            self.push_event(node, 1, Event::BatchSealed { batch });
        }
    }
}
