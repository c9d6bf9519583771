//! The run: a queue of happenings in virtual time, the faults, the end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use aurigraph_consensus::{AuthorIdx, BatchRef, Config, Effect, Event, Now, Record};
use aurigraph_ledger::{Foundation, Hash, h};

use super::checks::{Broken, Checks, broken};
use super::coverage::{Coverage, Mark};
use super::disk::Entry;
use super::executor::Stored;
use super::lies::Lies;
use super::network::Network;
use super::node::Node;
use super::puppet::{Act, Puppet};
use super::rng::Rng;
use super::scenario::{Ms, Sabotage, Scenario};
use super::second::Second;
use super::trace::{Trace, describe, describe_message};
use super::workload::Workload;
use super::{Outcome, Property, Violation};

const WALL_START_MS: u64 = 1_700_000_000_000;
/// Clients stop so long before the least time is over.
const CLIENTS_REST_MS: Ms = 2_000;
/// Time between two looks at everybody.
pub(super) const LOOK_MS: Ms = 250;

/// Something that happens at a time.
pub(super) enum Happening {
    /// To a process, if it still runs.
    Event { node: usize, life: u32, event: Event },
    /// A message arrives.
    Message { from: usize, to: usize, bytes: Arc<[u8]> },
    /// A batch body arrives.
    Body { from: usize, to: usize, digest: Hash },
    /// A batch body is asked of the next candidate.
    BodyRequest { node: usize, life: u32, batch: BatchRef, candidates: Vec<AuthorIdx>, next: usize },
    /// Execution takes what is queued.
    Execute { node: usize, life: u32 },
    /// A ledger checkpoint is durable.
    Stored { node: usize, life: u32, stored: Stored },
    /// A process starts.
    Start { node: usize },
    /// A second process with a validator's key starts.
    SecondStarts,
    /// To that process, if it runs.
    Second { event: Event },
    /// A message of it arrives.
    FromSecond { to: usize, bytes: Arc<[u8]> },
    /// The faults of the scenario, by number.
    Fault(usize),
    /// They end.
    FaultOver(usize),
    /// Both ends see how their link is.
    LinkCheck { a: usize, b: usize },
    /// A client has a batch.
    Client,
    /// A faulty validator acts.
    Puppet { author: AuthorIdx },
    /// A validator's driver takes a snapshot.
    Snapshot { node: usize },
    /// The simulator looks at everybody.
    Look,
}

/// When something happens, and where it is kept: a heap moves its entries about, and these are small.
struct Queued {
    at: Ms,
    tie: u64,
    sequence: u64,
    place: usize,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie, self.sequence).cmp(&(other.at, other.tie, other.sequence))
    }
}

/// A run.
pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) aloud: bool,
    pub(super) time: Ms,
    queue: BinaryHeap<Reverse<Queued>>,
    /// What the queue's entries stand for, by place, and the places that are free.
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
    sequence: u64,
    pub(super) events: u64,
    pub(super) rng: Rng,
    pub(super) network: Network,
    /// Correct validators by number; faulty ones are `puppets`.
    pub(super) nodes: BTreeMap<usize, Node>,
    pub(super) puppets: BTreeMap<AuthorIdx, Puppet>,
    /// A second process with the key of one of the correct validators.
    pub(super) second: Option<Second>,
    pub(super) genesis: Foundation,
    /// That of every epoch that somebody has reached.
    pub(super) configs: Vec<Config>,
    pub(super) workload: Workload,
    pub(super) checks: Checks,
    pub(super) marks: Coverage,
    pub(super) trace: Trace,
    pub(super) faults: u64,
    /// The commit that everybody must reach, once the network is quiet.
    pub(super) target: Option<u64>,
    /// The least executed commit of all, and since when.
    pub(super) least: (u64, Ms),
}

fn config_of(scenario: &Scenario, genesis: &Foundation) -> Config {
    let seed = h("simulated-epoch", &scenario.seed.to_le_bytes());
    let mut config = Config::new(genesis.chain_id(), seed, scenario.stakes.clone(), None);
    config.version = scenario.version;
    config.params.gc_depth = scenario.gc_depth;
    config.params.leaders_per_round = scenario.leaders_per_round;
    config.params.schedule_window = scenario.schedule_window;
    config.params.epoch_commits = scenario.epoch_commits;
    (config.pacing.min_delay_busy_ms, config.pacing.min_delay_idle_ms) = scenario.min_delay_ms;
    config.pacing.t_leader_max_ms = 2_000;
    if let Some(fixed) = scenario.leader_timeout_ms {
        let pacing = &mut config.pacing;
        (pacing.t_leader_initial_ms, pacing.t_leader_min_ms, pacing.t_leader_max_ms) = (fixed, fixed, fixed);
    }
    // Links lose messages here as no real ones do: without this, a lost one costs a second and a half.
    config.pacing.rebroadcast_ms = 400;
    (config.limits.catch_up_enter, config.limits.catch_up_leave) = scenario.catch_up;
    config.limits.max_unexecuted = 48;
    config.limits.max_unexecuted_catch_up = 96;
    config
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario, aloud: bool) -> Self {
        aurigraph_ledger::memo::start();
        let mut rng = Rng::new(scenario.seed);
        let genesis = Foundation::new(super::workload::genesis(scenario, WALL_START_MS)).expect("a valid genesis");
        let config = config_of(scenario, &genesis);
        let n = scenario.stakes.len();
        let correct: Vec<bool> = (0..n).map(|node| !scenario.is_byzantine(node)).collect();
        let node = |number: usize| (number, Node::new(&genesis, scenario.skew_ms[number]));
        let nodes = (0..n).filter(|number| correct[*number]).map(node).collect();
        let puppet = |(author, behaviour): (&AuthorIdx, &super::Behaviour)| {
            let lies = Lies::new(scenario.lies_permille, scenario.seed, *author);
            (*author, Puppet::new(*author, *behaviour, lies, config.clone(), rng.fork()))
        };
        let puppets = scenario.byzantine.iter().map(puppet).collect();
        let sabotaged = scenario.sabotage == Some(Sabotage::TwinsCountAsCorrect);
        let held: Vec<bool> = correct.iter().map(|correct| *correct || sabotaged).collect();
        let mut checks = Checks::new(&config, held);
        checks.corruption.node = scenario.corrupted.map(|(node, _)| node);
        Self {
            scenario,
            aloud,
            time: 1_000,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            events: 0,
            network: Network::new(n, scenario.links.clone()),
            nodes,
            puppets,
            second: None,
            workload: Workload::new(rng.fork(), genesis.clone()),
            checks,
            marks: Coverage::default(),
            trace: Trace::default(),
            faults: 0,
            target: None,
            least: (0, 0),
            genesis,
            configs: vec![config],
            rng,
        }
    }

    /// Until the run is long enough and everybody has caught up.
    pub(super) fn run(mut self) -> Result<Outcome, Violation> {
        self.prepare();
        let ended = self.run_to_end();
        ended.map_err(|(property, detail)| Violation {
            property,
            seed: self.scenario.seed,
            event: self.events,
            time_ms: self.time,
            detail,
        })?;
        Ok(Outcome {
            trace: self.trace.digest(),
            events: self.events,
            virtual_ms: self.time - 1_000,
            rounds: self.checks.round(),
            commits: self.checks.commits(),
            height: self.checks.height(),
            faults: self.faults,
            marks: self.marks,
        })
    }

    fn prepare(&mut self) {
        let nodes: Vec<usize> = self.nodes.keys().copied().collect();
        for node in nodes {
            let after = self.rng.below(20);
            self.push(after, Happening::Start { node });
            if let Some(every) = self.scenario.snapshot_ms {
                self.push(every, Happening::Snapshot { node });
            }
        }
        for (number, (at, _)) in self.scenario.faults.iter().enumerate() {
            self.push(*at, Happening::Fault(number));
        }
        for behaviour in self.scenario.byzantine.values() {
            if *behaviour == super::Behaviour::Silent {
                self.marks.hit(Mark::Silent);
            }
        }
        if self.scenario.stakes.windows(2).any(|pair| pair[0] != pair[1]) {
            self.marks.hit(Mark::UnevenStakes);
        }
        let authors: Vec<AuthorIdx> = self.puppets.keys().copied().collect();
        for author in authors {
            self.schedule_puppet(author);
        }
        self.push(0, Happening::Client);
        self.push(LOOK_MS, Happening::Look);
    }

    fn run_to_end(&mut self) -> Result<(), Broken> {
        while let Some(Reverse(next)) = self.queue.pop() {
            self.time = next.at;
            self.events += 1;
            self.free.push(next.place);
            let what = self.happenings[next.place].take().expect("each place is queued once");
            let look = matches!(what, Happening::Look);
            let happened = self.happen(what);
            if matches!(happened, Err((Property::NoEquivocation, _))) && self.need_not_be_told() {
                self.marks.hit(Mark::RollbackUntold);
                return Ok(());
            }
            happened?;
            if look && self.is_over()? {
                return self.last_look();
            }
        }
        broken(Property::Shape, "nothing more happens".to_owned())
    }

    pub(super) fn push(&mut self, after: Ms, what: Happening) {
        self.sequence += 1;
        // Messages of one time arrive in any order.
        let shuffled = matches!(what, Happening::Message { .. } | Happening::Body { .. });
        let tie = if shuffled { self.rng.next() } else { 0 };
        let place = self.free.pop().unwrap_or(self.happenings.len());
        match self.happenings.get_mut(place) {
            Some(free) => *free = Some(what),
            None => self.happenings.push(Some(what)),
        }
        self.queue.push(Reverse(Queued { at: self.time + after, tie, sequence: self.sequence, place }));
    }

    pub(super) fn push_event(&mut self, node: usize, after: Ms, event: Event) {
        let life = self.nodes.get(&node).map_or(0, |state| state.life);
        self.push(after, Happening::Event { node, life, event });
    }

    pub(super) fn now(&self, node: usize) -> Now {
        let state = self.nodes.get(&node);
        let off = state.map_or(0, |state| state.skew_ms + state.jump_ms);
        let stands = state.and_then(|state| state.frozen_ms);
        let wall_ms = stands.unwrap_or_else(|| (WALL_START_MS + self.time).saturating_add_signed(off));
        Now { mono_ms: self.time, wall_ms }
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.nodes.get(&node).is_none_or(|state| state.machine.is_some())
    }

    pub(super) fn is_life(&self, node: usize, life: u32) -> bool {
        self.nodes.get(&node).is_some_and(|state| state.life == life && state.machine.is_some())
    }

    pub(super) fn say(&self, text: impl FnOnce() -> String) {
        if self.aloud {
            println!("{:>8} {:>6} {}", self.events, self.time, text());
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), Broken> {
        match what {
            Happening::Event { node, life, event } => {
                if self.is_life(node, life) {
                    self.step(node, event)?;
                }
                Ok(())
            }
            Happening::Message { from, to, bytes } => self.arrive(from, to, &bytes),
            Happening::Body { from, to, digest } => {
                self.body_arrives(from, to, digest);
                Ok(())
            }
            Happening::BodyRequest { node, life, batch, candidates, next } => {
                if self.is_life(node, life) {
                    self.request_body(node, batch, candidates, next);
                }
                Ok(())
            }
            Happening::Execute { node, life } => {
                if self.is_life(node, life) {
                    self.execute_commits(node)?;
                }
                Ok(())
            }
            Happening::Stored { node, life, stored } => {
                if self.is_life(node, life) {
                    self.stored(node, stored);
                }
                Ok(())
            }
            Happening::Start { node } => self.start(node),
            Happening::SecondStarts => self.start_second(),
            Happening::Second { event } => self.step_second(event),
            Happening::FromSecond { to, bytes } => self.second_reaches(to, &bytes),
            Happening::Fault(number) => self.fault(number),
            Happening::FaultOver(number) => {
                self.fault_over(number);
                Ok(())
            }
            Happening::LinkCheck { a, b } => {
                self.check_link(a, b);
                Ok(())
            }
            Happening::Client => {
                self.client();
                Ok(())
            }
            Happening::Puppet { author } => self.puppet_acts(author),
            Happening::Snapshot { node } => {
                self.take_snapshot(node);
                Ok(())
            }
            Happening::Look => self.look(),
        }
    }

    pub(super) fn step(&mut self, node: usize, event: Event) -> Result<(), Broken> {
        if let Event::Received { peer, bytes } = &event {
            return self.receive(node, *peer, bytes);
        }
        let now = self.now(node);
        self.say(|| format!("node {node}: {}", describe(&event)));
        self.trace.event(self.time, node, &event);
        let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
        match &event {
            Event::Tick if state.timer_at != self.time => return Ok(()),
            Event::Durable { lsn } => state.disk.end_sync(*lsn),
            _ => {}
        }
        let Some(machine) = state.machine.as_mut() else { return Ok(()) };
        let effects = machine.step(now, event);
        self.follow(node, effects)
    }

    /// A message reaches a machine.
    fn receive(&mut self, node: usize, peer: AuthorIdx, bytes: &[u8]) -> Result<(), Broken> {
        let now = self.now(node);
        self.say(|| format!("node {node}: {}", describe_message(peer, bytes)));
        self.trace.received(self.time, node, peer, bytes);
        let state = self.nodes.get_mut(&node);
        let Some(machine) = state.and_then(|state| state.machine.as_mut()) else { return Ok(()) };
        let effects = machine.receive(now, peer, bytes);
        let pushed = bytes.first() == Some(&1);
        self.checks.work.caused((node, peer), now.mono_ms, pushed, &effects, &machine.config().limits)?;
        self.follow(node, effects)
    }

    /// A machine has taken a step.
    pub(super) fn follow(&mut self, node: usize, effects: Vec<Effect>) -> Result<(), Broken> {
        let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
        let Some(machine) = &state.machine else { return Ok(()) };
        let slot = machine.last_decided();
        if state.seen.replace(slot) != Some(slot) {
            self.checks.schedule(node, machine)?;
        }
        self.execute(node, effects)
    }

    fn arrive(&mut self, from: usize, to: usize, bytes: &Arc<[u8]>) -> Result<(), Broken> {
        if self.network.is_cut(from, to) {
            return Ok(());
        }
        let author = AuthorIdx::try_from(to).expect("few");
        if let Some(puppet) = self.puppets.get_mut(&author) {
            let acts = puppet.receive(from, bytes, &self.configs, &mut self.marks);
            self.act(author, acts)?;
            self.schedule_puppet(author);
            return Ok(());
        }
        if self.is_up(to) {
            let peer = AuthorIdx::try_from(from).expect("few");
            self.receive(to, peer, bytes)?;
        }
        Ok(())
    }

    fn schedule_puppet(&mut self, author: AuthorIdx) {
        let delay = self.rng.between(5, 60);
        let Some(puppet) = self.puppets.get_mut(&author) else { return };
        if !puppet.scheduled && puppet.buildable().is_some() {
            puppet.scheduled = true;
            self.push(delay, Happening::Puppet { author });
        }
    }

    fn puppet_acts(&mut self, author: AuthorIdx) -> Result<(), Broken> {
        let Some(puppet) = self.puppets.get_mut(&author) else { return Ok(()) };
        puppet.scheduled = false;
        let acts = puppet.propose(WALL_START_MS + self.time, &mut self.workload, &mut self.marks);
        self.act(author, acts)?;
        self.schedule_puppet(author);
        Ok(())
    }

    pub(super) fn act(&mut self, author: AuthorIdx, acts: Vec<Act>) -> Result<(), Broken> {
        let from = usize::from(author);
        for act in acts {
            match act {
                Act::Message { to, bytes, after_ms } => {
                    if self.checks.correct[from] {
                        self.checks.said(author, &bytes)?;
                    }
                    let sent = (self.time, bytes.len());
                    for delay in self.network.transmit((from, to), sent, &mut self.rng, &mut self.marks) {
                        self.push(after_ms + delay, Happening::Message { from, to, bytes: bytes.clone() });
                    }
                    self.second_hears(from, to, &bytes);
                }
                Act::Body { to, digest } => {
                    for delay in self.network.transmit((from, to), (self.time, 0), &mut self.rng, &mut self.marks) {
                        self.push(delay, Happening::Body { from, to, digest });
                    }
                }
            }
        }
        Ok(())
    }

    fn client(&mut self) {
        if self.time > self.scenario.least_ms.saturating_sub(CLIENTS_REST_MS) + 1_000 && self.is_quiet() {
            return;
        }
        let up: Vec<usize> = self.nodes.keys().copied().filter(|node| self.is_up(*node)).collect();
        if let Some(node) = self.rng.pick(&up).copied() {
            self.submit(node);
        }
        let after = self.rng.between(1, 2 * self.scenario.client_ms);
        self.push(after, Happening::Client);
    }

    fn take_snapshot(&mut self, node: usize) {
        if let Some(state) = self.nodes.get_mut(&node)
            && let Some(machine) = &state.machine
        {
            let snapshot = machine.snapshot();
            state.append(Entry::Record(Record::Snapshot(Box::new(snapshot))));
            self.marks.hit(Mark::Snapshot);
        }
        if let Some(every) = self.scenario.snapshot_ms {
            self.push(every, Happening::Snapshot { node });
        }
    }
}
