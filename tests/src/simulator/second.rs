//! A second process with the key of a validator that runs: it starts from what the disk of the first one held, and hears
//! what the first one hears. Nothing that the two send may contradict itself.
//!
//! It starts only when its peers hold blocks that its log lacks, and only beside a first one that signs: two processes of
//! one log in one moment cannot see each other (ADR 0013), and one that takes over from a silent one is no fault.

use aurigraph_consensus::{AuthorIdx, Config, Doubt, Effect, Event, Lane, Message, Mode, SigningState};

use super::Property;
use super::checks::{Broken, broken};
use super::coverage::{Coverage, Mark};
use super::disk::Entry;
use super::node::Node;
use super::puppet::{Act, is_signed, sign};
use super::scenario::{Fault, Ms};
use super::world::{Happening, World};

/// After this time another look is taken at whether it may start.
const AGAIN_MS: Ms = 50;

/// A process beside the one of the same validator.
pub(super) struct Second {
    /// Whose key it has.
    key: usize,
    /// Its log and its machine. It executes nothing.
    node: Node,
    /// Which fault of the scenario it is.
    fault: usize,
}

impl World<'_> {
    /// The disk is copied; the process starts from the copy later.
    pub(super) fn copy_disk(&mut self, fault: usize) {
        let (_, Fault::SecondProcess { node, kept_permille, after_ms, for_ms }) = &self.scenario.faults[fault] else {
            return;
        };
        let Some(state) = self.nodes.get(node) else { return };
        let mut second = Node::new(&self.genesis, state.skew_ms);
        second.disk = state.disk.copy();
        second.lose(*kept_permille, &self.genesis, &mut Coverage::default());
        self.second = Some(Second { key: *node, node: second, fault });
        self.push(*after_ms, Happening::SecondStarts);
        self.push(after_ms + for_ms, Happening::FaultOver(fault));
    }

    /// Whether the first one signs, and every correct peer that runs holds a block of it that the copy lacks.
    fn is_behind(&self, second: &Second) -> bool {
        let author = AuthorIdx::try_from(second.key).expect("few");
        let newest = |node: &Node| {
            let own = node.disk.blocks.iter().flatten().filter(|(_, block)| block.author == author);
            own.map(|(epoch, block)| (*epoch, block.round)).max()
        };
        let copied = newest(&second.node);
        let signs = self.nodes.get(&second.key).and_then(|state| state.machine.as_ref()).is_some_and(|machine| {
            let status = machine.status();
            status.mode == Mode::Active && status.signing.state == SigningState::Signing
        });
        let up = self.nodes.iter().filter(|(number, state)| **number != second.key && state.machine.is_some());
        signs && up.into_iter().all(|(_, state)| newest(state) > copied)
    }

    pub(super) fn start_second(&mut self) -> Result<(), Broken> {
        let Some(mut second) = self.second.take().filter(|second| second.node.machine.is_none()) else { return Ok(()) };
        if !self.is_behind(&second) {
            self.second = Some(second);
            self.push(AGAIN_MS, Happening::SecondStarts);
            return Ok(());
        }
        self.say(|| format!("a second process of {} starts", second.key));
        let own = Some(AuthorIdx::try_from(second.key).expect("few"));
        let config = Config { own, ..self.configs[0].clone() };
        let now = self.now(second.key);
        let marks = &mut Coverage::default();
        let started = second.node.start(config, now, &self.genesis, self.scenario, marks);
        let effects = started.map_err(|(property, detail)| (property, format!("second {}: {detail}", second.key)))?;
        self.marks.hit(match &self.scenario.faults[second.fault].1 {
            Fault::SecondProcess { kept_permille: 0, .. } => Mark::SecondEmpty,
            Fault::SecondProcess { kept_permille: 1_000, .. } => Mark::SecondOfCopy,
            _ => Mark::SecondOfOlder,
        });
        let key = second.key;
        self.second = Some(second);
        for other in 0..self.scenario.stakes.len() {
            if other != key && self.is_up(other) {
                let peer = AuthorIdx::try_from(other).expect("few");
                let after = self.rng.between(1, 30);
                self.push(after, Happening::Second { event: Event::PeerUp { peer } });
            }
        }
        self.second_executes(effects)
    }

    /// The second process ends. What it was in says what it has seen.
    pub(super) fn end_second(&mut self) {
        let Some(second) = self.second.take() else { return };
        let Some(machine) = &second.node.machine else { return };
        let signing = machine.status().signing;
        self.say(|| format!("the second process of {} ends: {signing:?}", second.key));
        if matches!(signing.doubt, Some(Doubt::OwnBlock(_))) {
            self.marks.hit(Mark::SecondSawFirst);
        }
    }

    pub(super) fn step_second(&mut self, event: Event) -> Result<(), Broken> {
        let Some(second) = &mut self.second else { return Ok(()) };
        let key = second.key;
        match &event {
            Event::Tick if second.node.timer_at != self.time => return Ok(()),
            Event::Durable { lsn } => second.node.disk.end_sync(*lsn),
            _ => {}
        }
        let now = self.now(key);
        self.say(|| format!("second {key}: {}", super::trace::describe(&event)));
        self.trace.event(self.time, key, &event);
        let Some(machine) = self.second.as_mut().and_then(|second| second.node.machine.as_mut()) else { return Ok(()) };
        let effects = machine.step(now, event);
        self.checks.schedule(key, machine)?;
        self.second_executes(effects)
    }

    fn after(&mut self, after: Ms, event: Event) {
        self.push(after, Happening::Second { event });
    }

    fn second_executes(&mut self, effects: Vec<Effect>) -> Result<(), Broken> {
        for effect in effects {
            self.trace.effect(&effect);
            self.second_executes_one(effect)?;
        }
        Ok(())
    }

    fn second_executes_one(&mut self, effect: Effect) -> Result<(), Broken> {
        let Some(second) = &mut self.second else { return Ok(()) };
        let key = second.key;
        let author = AuthorIdx::try_from(key).expect("few");
        match effect {
            Effect::VerifySig { ticket, author, digest, signature, .. } => {
                let ok = is_signed(author, &digest, &signature);
                self.after(2, Event::SigChecked { ticket, ok });
            }
            Effect::Sign { ticket, core } => {
                self.say(|| format!("second {key} signs {}", core.reference()));
                let signature = sign(core.author, &core.digest());
                self.after(2, Event::Signed { ticket, signature });
            }
            Effect::Append { lsn, need_fsync, record } => {
                second.node.append(Entry::Record(record));
                if need_fsync {
                    second.node.disk.start_sync(lsn);
                    let after = self.rng.between(self.scenario.sync_ms.0, self.scenario.sync_ms.1);
                    self.after(after, Event::Durable { lsn });
                }
            }
            Effect::Broadcast { bytes, .. } => {
                self.checks.said(author, &bytes)?;
                for to in (0..self.scenario.stakes.len()).filter(|to| *to != key) {
                    self.second_sends(to, &bytes);
                }
            }
            Effect::Send { to, lane, bytes } => {
                if lane == Lane::Control {
                    self.checks.said(author, &bytes)?;
                }
                self.second_sends(usize::from(to), &bytes);
            }
            // Whether a body is there makes no difference here: somebody has it.
            Effect::FetchBatches { batches, .. } => {
                for batch in batches {
                    self.after(5, Event::BatchStored { digest: batch.digest, len: batch.len });
                }
            }
            Effect::Deliver { commit } => {
                self.checks.delivered(key, &second.node, &commit, &mut self.marks)?;
                let commit_index = commit.header.index;
                second.node.delivered = commit_index;
                if commit.epoch_end.is_none() {
                    self.after(2, Event::Executed { commit_index, checkpoint: None });
                }
            }
            Effect::SetTimer { at_mono_ms } => {
                let at = at_mono_ms.max(self.time);
                second.node.timer_at = at;
                self.after(at - self.time, Event::Tick);
            }
            Effect::Evidence(evidence) => self.checks.evidence(key, &evidence)?,
            Effect::Certified(certificate) => self.checks.certified(key, &certificate)?,
            Effect::EpochEnded(cert) => return self.second_enters(cert.epoch + 1),
            Effect::Halt(reason) => return broken(Property::Survival, format!("second {key} halts: {reason}")),
            // Peers ask the first one, and nobody looks at what this one tells.
            Effect::ServeBlocks { .. }
            | Effect::ServeCommits { .. }
            | Effect::ServeEpochCert { .. }
            | Effect::Charge { .. }
            | Effect::Alarm(_) => {}
        }
        Ok(())
    }

    /// The next epoch, whose rounds nobody has signed yet for all that the second process knows.
    fn second_enters(&mut self, epoch: u64) -> Result<(), Broken> {
        let stakes = self.scenario.stakes_in(epoch).to_vec();
        let Some(second) = &mut self.second else { return Ok(()) };
        let key = second.key;
        let now = self.now(key);
        let Some(machine) = self.second.as_mut().and_then(|second| second.node.machine.as_mut()) else { return Ok(()) };
        let Some(start) = machine.next_start(Vec::new()) else { return Ok(()) };
        let config = machine.config().at(&start, stakes, machine.config().own);
        let next = machine.next_epoch(config, &start, now);
        let (next, effects) = next.map_err(|error| (Property::Survival, format!("second {key}: {error}")))?;
        *machine = next;
        for peer in (0..self.scenario.stakes.len()).filter(|peer| *peer != key) {
            let peer = AuthorIdx::try_from(peer).expect("few");
            self.after(0, Event::PeerUp { peer });
        }
        self.second_executes(effects)
    }

    /// A message of the second process, over the links of its validator.
    fn second_sends(&mut self, to: usize, bytes: &std::sync::Arc<[u8]>) {
        let Some(key) = self.second.as_ref().map(|second| second.key) else { return };
        for delay in self.network.transmit((key, to), (self.time, bytes.len()), &mut self.rng, &mut self.marks) {
            self.push(delay, Happening::FromSecond { to, bytes: bytes.clone() });
        }
    }

    /// It hears what is said to its validator, in its own time.
    pub(super) fn second_hears(&mut self, from: usize, to: usize, bytes: &std::sync::Arc<[u8]>) {
        let hears = |second: &Second| second.key == to && second.node.machine.is_some();
        if from == to || !self.second.as_ref().is_some_and(hears) {
            return;
        }
        let peer = AuthorIdx::try_from(from).expect("few");
        for delay in self.network.transmit((from, to), (self.time, bytes.len()), &mut self.rng, &mut self.marks) {
            self.after(delay, Event::Received { peer, bytes: bytes.to_vec() });
        }
    }

    /// A peer takes a message of the second process; what it answers at once goes back there and not to the first.
    pub(super) fn second_reaches(&mut self, to: usize, bytes: &[u8]) -> Result<(), Broken> {
        let Some(key) = self.second.as_ref().map(|second| second.key) else { return Ok(()) };
        if self.network.is_cut(key, to) || !self.is_up(to) {
            return Ok(());
        }
        let now = self.now(to);
        let (peer, author) = (AuthorIdx::try_from(key).expect("few"), AuthorIdx::try_from(to).expect("few"));
        if let Some(puppet) = self.puppets.get_mut(&author) {
            let acts = puppet.receive(key, bytes, &self.configs, &mut self.marks);
            let mut others = Vec::new();
            for act in acts {
                match act {
                    Act::Message { to: back, bytes, .. } if back == key => self.second_hears(to, key, &bytes),
                    other => others.push(other),
                }
            }
            return self.act(author, others);
        }
        self.trace.received(self.time, to, peer, bytes);
        let machine = self.nodes.get_mut(&to).and_then(|state| state.machine.as_mut());
        let Some(machine) = machine else { return Ok(()) };
        let effects = machine.receive(now, peer, bytes);
        let mut others = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { to: back, bytes, .. } if back == peer => {
                    self.checks.said(author, &bytes)?;
                    self.second_hears(to, key, &bytes);
                }
                Effect::ServeBlocks { to: back, request, commit_index, refs } if back == peer => {
                    let reply = self.nodes[&to].serve_blocks(request, commit_index, &refs);
                    self.second_hears(to, key, &reply.encode().into());
                }
                Effect::ServeCommits { to: back, request, commit_index, from, count, newest } if back == peer => {
                    let state = &self.nodes[&to];
                    let epoch = state.commits.get(&from).map_or(0, |commit| commit.header.epoch);
                    let committee = self.checks.context(epoch).committee.clone();
                    let reply = state.serve_commits(request, commit_index, from, count, newest, committee);
                    let reply = reply.map_err(|detail| (Property::Survival, format!("{to}: {detail}")))?;
                    self.second_hears(to, key, &reply.encode().into());
                }
                Effect::ServeEpochCert { to: back, epoch } if back == peer => {
                    if let Some(cert) = self.nodes[&to].disk.epoch_cert(epoch) {
                        self.second_hears(to, key, &Message::EpochCert((*cert).clone()).encode().into());
                    }
                }
                other => others.push(other),
            }
        }
        self.follow(to, others)
    }
}
