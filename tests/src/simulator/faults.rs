//! What goes wrong in a run, and how it ends.

use aurigraph_consensus::{AuthorIdx, Event};

use super::checks::Broken;
use super::coverage::Mark;
use super::scenario::{Fault, Ms, Sabotage};
use super::world::{Happening, World};

/// A dead link is noticed after this time.
const LINK_NOTICE_MS: Ms = 400;

impl World<'_> {
    pub(super) fn fault(&mut self, number: usize) -> Result<(), Broken> {
        let (_, fault) = &self.scenario.faults[number];
        self.say(|| format!("fault: {fault:?}"));
        self.faults += 1;
        let over = match fault {
            Fault::Crash { node, effects, down_ms } => {
                // One that has not started yet crashes in its first moments.
                if let Some(state) = self.nodes.get_mut(node).filter(|s| s.machine.is_some() || s.life == 0) {
                    state.crash_in = Some((*effects, *down_ms));
                }
                return Ok(());
            }
            Fault::Loss { node, kept_permille, down_ms } => return self.lose(*node, *kept_permille, *down_ms),
            Fault::SecondProcess { .. } => {
                self.copy_disk(number);
                return Ok(());
            }
            Fault::CrashAtStart { node, effects, down_ms } => return self.crash_at_start(*node, *effects, *down_ms),
            Fault::CrashAll { down_ms, late } => {
                self.marks.hit(Mark::RestartOfAll);
                return self.crash_all(*down_ms, *late);
            }
            Fault::CrashSome { nodes, down_ms } => {
                self.marks.hit(Mark::RestartOfSome);
                for node in nodes {
                    let after = down_ms + self.rng.below(200);
                    self.crash_whole(*node, Some(after))?;
                }
                return Ok(());
            }
            Fault::Partition { side, for_ms } => {
                self.marks.hit(Mark::Partition);
                self.cut(&across(side, self.scenario.stakes.len()));
                *for_ms
            }
            Fault::OneWay { pairs, for_ms } => {
                self.marks.hit(Mark::Isolation);
                self.cut(pairs);
                *for_ms
            }
            Fault::Drops { permille, for_ms } => {
                self.marks.hit(Mark::LossBurst);
                self.network.burst_permille += permille;
                *for_ms
            }
            Fault::Slow { node, extra_ms, for_ms } => {
                self.marks.hit(Mark::SlowLinks);
                self.network.slow_ms[*node] += extra_ms;
                *for_ms
            }
            Fault::ClockJump { node, by_ms, for_ms } => {
                self.marks.hit(Mark::ClockJump);
                if let Some(state) = self.nodes.get_mut(node) {
                    state.jump_ms += by_ms;
                }
                *for_ms
            }
            Fault::Narrow { node, bytes_per_ms, for_ms } => {
                self.network.narrow[*node] = Some(*bytes_per_ms);
                *for_ms
            }
            Fault::FrozenClock { node, for_ms } => {
                self.marks.hit(Mark::FrozenClock);
                let wall_ms = self.now(*node).wall_ms;
                if let Some(state) = self.nodes.get_mut(node) {
                    state.frozen_ms = Some(wall_ms);
                }
                *for_ms
            }
            Fault::ExecutorStall { node, for_ms } => {
                self.marks.hit(Mark::ExecutorStall);
                let until = self.time + for_ms;
                if let Some(state) = self.nodes.get_mut(node) {
                    state.executor.stalled_until = until;
                }
                return Ok(());
            }
        };
        self.push(over, Happening::FaultOver(number));
        Ok(())
    }

    /// A process ends and comes back with an older disk, or an empty one. One that is down already keeps what it has.
    fn lose(&mut self, node: usize, kept_permille: usize, down_ms: Ms) -> Result<(), Broken> {
        if self.nodes.get(&node).is_none_or(|state| state.machine.is_none()) {
            return Ok(());
        }
        self.crash(node, Some(down_ms))?;
        self.marks.hit(if kept_permille == 0 { Mark::Wiped } else { Mark::RolledBack });
        self.checks.lost.insert(node);
        if let Some(state) = self.nodes.get_mut(&node) {
            state.lose(kept_permille, &self.genesis, &mut self.marks);
        }
        Ok(())
    }

    /// A process ends, and the one after it while it starts.
    fn crash_at_start(&mut self, node: usize, effects: u32, down_ms: Ms) -> Result<(), Broken> {
        let Some(state) = self.nodes.get_mut(&node).filter(|state| state.machine.is_some()) else { return Ok(()) };
        state.crash_at_start = Some((effects, down_ms));
        self.crash(node, Some(down_ms))
    }

    fn crash_all(&mut self, down_ms: Ms, late: Option<(usize, Option<Ms>)>) -> Result<(), Broken> {
        let nodes: Vec<usize> = self.nodes.keys().copied().collect();
        for node in nodes {
            let down = match late {
                Some((stays, more)) if stays == node => more.map(|more| down_ms + more),
                _ => Some(down_ms + self.rng.below(200)),
            };
            self.crash_whole(node, down)?;
        }
        Ok(())
    }

    /// A process ends between two events; what it knew is kept to compare with what it recovers to.
    fn crash_whole(&mut self, node: usize, down_ms: Option<Ms>) -> Result<(), Broken> {
        let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
        let Some(machine) = &state.machine else { return Ok(()) };
        state.before = Some((state.disk.entries.len(), machine.snapshot()));
        self.crash(node, down_ms)
    }

    pub(super) fn fault_over(&mut self, number: usize) {
        let (_, fault) = &self.scenario.faults[number];
        self.say(|| format!("over: {fault:?}"));
        match fault {
            Fault::Partition { side, .. } => {
                if self.scenario.sabotage != Some(Sabotage::NeverHeals) {
                    self.heal(&across(side, self.scenario.stakes.len()));
                }
            }
            Fault::OneWay { pairs, .. } => self.heal(pairs),
            Fault::Drops { permille, .. } => self.network.burst_permille -= permille,
            Fault::Slow { node, extra_ms, .. } => self.network.slow_ms[*node] -= extra_ms,
            Fault::ClockJump { node, by_ms, .. } => {
                if let Some(state) = self.nodes.get_mut(node) {
                    state.jump_ms -= by_ms;
                }
            }
            Fault::Narrow { node, .. } => self.network.narrow[*node] = None,
            Fault::FrozenClock { node, .. } => {
                if let Some(state) = self.nodes.get_mut(node) {
                    state.frozen_ms = None;
                }
            }
            Fault::SecondProcess { .. } => self.end_second(),
            Fault::Crash { .. }
            | Fault::CrashAtStart { .. }
            | Fault::Loss { .. }
            | Fault::CrashAll { .. }
            | Fault::CrashSome { .. }
            | Fault::ExecutorStall { .. } => {}
        }
    }

    fn cut(&mut self, pairs: &[(usize, usize)]) {
        self.network.cut(pairs);
        self.check_links(pairs, LINK_NOTICE_MS);
    }

    fn heal(&mut self, pairs: &[(usize, usize)]) {
        self.marks.hit(Mark::Heal);
        self.network.heal(pairs);
        self.check_links(pairs, 5);
    }

    fn check_links(&mut self, pairs: &[(usize, usize)], after: Ms) {
        for (a, b) in pairs {
            let after = after + self.rng.below(100);
            self.push(after, Happening::LinkCheck { a: *a, b: *b });
        }
    }

    /// Both ends come to see how the link between them is.
    pub(super) fn check_link(&mut self, a: usize, b: usize) {
        let works = self.is_up(a) && self.is_up(b) && !self.network.is_cut(a, b) && !self.network.is_cut(b, a);
        for (here, there) in [(a, b), (b, a)] {
            let believed = self.network.believes(here, there);
            if *believed != works {
                *believed = works;
                let peer = AuthorIdx::try_from(there).expect("few");
                if !works {
                    self.marks.hit(Mark::LinkDown);
                }
                let event = if works { Event::PeerUp { peer } } else { Event::PeerDown { peer } };
                self.push_event(here, 0, event);
            }
        }
    }
}

/// All directed pairs between a side and the rest.
fn across(side: &[usize], n: usize) -> Vec<(usize, usize)> {
    let rest: Vec<usize> = (0..n).filter(|node| !side.contains(node)).collect();
    side.iter().flat_map(|a| rest.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}
