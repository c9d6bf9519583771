//! The driver of a correct validator in the simulator: what effects do, how processes end and start.

use std::sync::Arc;

use aurigraph_consensus::{AuthorIdx, BatchRef, Effect, Event, Lane, Message, Offence};
use aurigraph_ledger::Hash;
use bytes::Bytes;

use super::Property;
use super::checks::{Broken, broken};
use super::coverage::Mark;
use super::disk::Entry;
use super::ending::count;
use super::executor::Stored;
use super::network::Copies;
use super::puppet::{is_signed, sign};
use super::scenario::{Ms, Sabotage};
use super::world::{Happening, World};

/// Most bytes of a frame of the control lane.
const CONTROL_FRAME: usize = 256 * 1024;
/// Commits that are executed at once.
const EXECUTED_AT_ONCE: usize = 8;

impl World<'_> {
    /// The process ends here and now.
    pub(super) fn crash(&mut self, node: usize, down_ms: Option<Ms>) -> Result<(), Broken> {
        let lies = self.scenario.sabotage == Some(Sabotage::SyncLies);
        self.say(|| format!("node {node} crashes"));
        let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
        if let Some(machine) = &state.machine {
            count(&mut self.marks, &machine.status().counters);
        }
        self.marks.hit(Mark::Crash);
        state.crash(&mut self.rng, lies, &mut self.marks).map_err(|detail| (Property::Survival, detail))?;
        if let Some(after) = down_ms {
            self.push(after, Happening::Start { node });
        }
        for other in 0..self.scenario.stakes.len() {
            if other != node {
                *self.network.believes(node, other) = false;
                let after = self.rng.below(30);
                self.push(after, Happening::LinkCheck { a: node, b: other });
            }
        }
        Ok(())
    }

    /// The process starts.
    pub(super) fn start(&mut self, node: usize) -> Result<(), Broken> {
        self.say(|| format!("node {node} starts"));
        let now = self.now(node);
        let own = Some(AuthorIdx::try_from(node).expect("few"));
        let config = aurigraph_consensus::Config { own, ..self.configs[0].clone() };
        let Some(state) = self.nodes.get_mut(&node).filter(|state| state.machine.is_none()) else { return Ok(()) };
        if state.life > 0 {
            self.marks.hit(Mark::Restart);
        }
        let from_snapshots = self.marks.get(Mark::RestartFromSnapshot);
        let effects = state
            .start(config, now, &self.genesis, self.scenario, &mut self.marks)
            .map_err(|(property, detail)| (property, format!("{node}: {detail}")))?;
        if let Some(machine) = &state.machine {
            self.checks.schedule(node, machine)?;
        }
        let open = state.open_batches();
        if let Some((effects, down_ms)) = state.crash_at_start.take() {
            state.crash_in = Some((effects, Some(down_ms)));
        }
        self.execute(node, effects)?;
        if !self.is_up(node) {
            self.marks.hit(Mark::CrashAtStart);
            if self.marks.get(Mark::RestartFromSnapshot) > from_snapshots {
                self.marks.hit(Mark::CrashAtSnapshot);
            }
        }
        self.schedule_execution(node);
        for batch in open {
            self.push_event(node, 2, Event::BatchSealed { batch });
        }
        for other in 0..self.scenario.stakes.len() {
            if other != node {
                let after = self.rng.between(1, 30);
                self.push(after, Happening::LinkCheck { a: node, b: other });
            }
        }
        Ok(())
    }

    pub(super) fn execute(&mut self, node: usize, effects: Vec<Effect>) -> Result<(), Broken> {
        let mut ended = None;
        for effect in effects {
            let Some(state) = self.nodes.get_mut(&node).filter(|state| state.machine.is_some()) else { break };
            if let Some((left, down_ms)) = state.crash_in {
                if left == 0 {
                    self.marks.hit(Mark::CrashAmidEffects);
                    return self.crash(node, down_ms);
                }
                state.crash_in = Some((left - 1, down_ms));
            }
            self.trace.effect(&effect);
            match effect {
                Effect::EpochEnded(cert) => ended = Some(cert),
                other => self.execute_one(node, other)?,
            }
        }
        match ended {
            Some(cert) if self.is_up(node) => self.next_epoch(node, &cert),
            _ => Ok(()),
        }
    }

    fn execute_one(&mut self, node: usize, effect: Effect) -> Result<(), Broken> {
        let author = AuthorIdx::try_from(node).expect("few");
        match effect {
            Effect::VerifySig { ticket, author, digest, signature, .. } => {
                let ok = is_signed(author, &digest, &signature);
                let after = self.rng.below(4);
                self.push_event(node, after, Event::SigChecked { ticket, ok });
            }
            Effect::Sign { ticket, core } => {
                if let Some(state) = self.nodes.get_mut(&node) {
                    self.checks.may_sign(node, state, core.epoch)?;
                }
                self.sign(node, ticket, &core);
            }
            Effect::Append { lsn, need_fsync, record } => {
                let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
                state.append(Entry::Record(record));
                if need_fsync {
                    state.disk.start_sync(lsn);
                    let after = self.rng.between(self.scenario.sync_ms.0, self.scenario.sync_ms.1);
                    self.push_event(node, after, Event::Durable { lsn });
                }
            }
            Effect::Broadcast { bytes, .. } => {
                self.check_said(node, Lane::Control, &bytes)?;
                for to in 0..self.scenario.stakes.len() {
                    if to != node {
                        self.transmit(node, to, &bytes);
                    }
                }
            }
            Effect::Send { to, lane, bytes } => self.send(node, usize::from(to), lane, &bytes)?,
            Effect::FetchBatches { batches, candidates } => self.fetch_batches(node, &batches, &candidates),
            Effect::ServeBlocks { to, request, commit_index, refs } => {
                self.marks.hit(Mark::ServedFromLog);
                let reply = self.nodes[&node].serve_blocks(request, commit_index, &refs);
                self.reply(node, to, &reply)?;
            }
            Effect::ServeCommits { to, request, commit_index, from, count, newest } => {
                self.marks.hit(Mark::ServedCommits);
                let state = &self.nodes[&node];
                let epoch = state.commits.get(&from).map_or(0, |commit| commit.header.epoch);
                let committee = self.checks.context(epoch).committee.clone();
                let reply = state.serve_commits(request, commit_index, from, count, newest, committee);
                self.reply(node, to, &reply.map_err(|detail| (Property::Survival, format!("{node}: {detail}")))?)?;
            }
            Effect::Deliver { commit } => {
                let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
                if commit.header.index <= self.checks.commits() && state.life > 0 {
                    self.marks.hit(Mark::Redelivered);
                }
                self.checks.delivered(node, state, &commit, &mut self.marks)?;
                state.delivered = commit.header.index;
                state.executor.queue.push_back(commit);
                self.schedule_execution(node);
            }
            Effect::SetTimer { at_mono_ms } => {
                let late = self.rng.below(self.scenario.timers_late_ms + 1);
                let at = at_mono_ms.max(self.time) + late;
                if let Some(state) = self.nodes.get_mut(&node) {
                    state.timer_at = at;
                }
                self.push_event(node, at - self.time, Event::Tick);
            }
            Effect::Evidence(evidence) => {
                self.marks.hit(Mark::Evidence);
                self.checks.evidence(node, &evidence)?;
            }
            Effect::Certified(certificate) => {
                self.marks.hit(Mark::Certificate);
                self.checks.certified(node, &certificate)?;
            }
            Effect::Charge { peer, offence } => {
                self.marks.hit(Mark::Charge);
                if offence == Offence::Quota {
                    self.marks.hit(Mark::QuotaCharged);
                }
                self.say(|| format!("node {author} charges {peer} with {offence:?}"));
            }
            Effect::Alarm(alarm) => {
                self.say(|| format!("node {author}: {alarm:?}"));
                self.checks.alarm(node, &alarm, &mut self.marks)?;
            }
            Effect::ServeEpochCert { to, epoch } => {
                if let Some(cert) = self.nodes[&node].disk.epoch_cert(epoch) {
                    self.marks.hit(Mark::EpochCertServed);
                    let reply = Message::EpochCert((*cert).clone());
                    self.reply(node, to, &reply)?;
                }
            }
            Effect::EpochEnded(_) => {}
            Effect::Halt(reason) => return broken(Property::Survival, format!("{node} halts: {reason}")),
        }
        Ok(())
    }

    fn sign(&mut self, node: usize, ticket: u64, core: &aurigraph_consensus::BlockCore) {
        let after = self.rng.between(1, 3);
        self.say(|| format!("node {node} signs {}: {:?}, {:?}", core.reference(), core.commit_vote, core.attestation));
        let event = if self.rng.chance(self.scenario.unsigned_permille) {
            Event::SignFailed { ticket }
        } else {
            Event::Signed { ticket, signature: sign(core.author, &core.digest()) }
        };
        self.push_event(node, after, event);
    }

    fn send(&mut self, from: usize, to: usize, lane: Lane, bytes: &Arc<[u8]>) -> Result<(), Broken> {
        self.check_said(from, lane, bytes)?;
        self.transmit(from, to, bytes);
        Ok(())
    }

    /// What leaves a correct validator, to one or to all.
    fn check_said(&mut self, from: usize, lane: Lane, bytes: &[u8]) -> Result<(), Broken> {
        let author = AuthorIdx::try_from(from).expect("few");
        if lane == Lane::Control && bytes.len() > CONTROL_FRAME {
            return broken(Property::Survival, format!("{from} sends {} bytes on the control lane", bytes.len()));
        }
        self.checks.said(author, bytes)
    }

    fn transmit(&mut self, from: usize, to: usize, bytes: &Arc<[u8]>) {
        if !*self.network.believes(from, to) {
            return;
        }
        let ordered = self.adversarial_delay(to, bytes).map(Copies::one);
        let delays = ordered.unwrap_or_else(|| {
            self.network.transmit((from, to), (self.time, bytes.len()), &mut self.rng, &mut self.marks)
        });
        for delay in delays {
            self.push(delay, Happening::Message { from, to, bytes: bytes.clone() });
        }
        self.second_hears(from, to, bytes);
    }

    fn reply(&mut self, from: usize, to: AuthorIdx, message: &Message) -> Result<(), Broken> {
        self.send(from, usize::from(to), message.lane(), &message.encode().into())
    }

    /// A client's batch is sealed by a validator, and its body goes to the others.
    pub(super) fn submit(&mut self, node: usize) {
        let author = AuthorIdx::try_from(node).expect("few");
        let Some(state) = self.nodes.get_mut(&node) else { return };
        let (batch, body) = self.workload.batch(author, state.executor.ledger.height(), false);
        let sent = (self.time, body.len());
        state.append(Entry::Body { digest: batch.digest, own: true, body });
        self.push_event(node, 0, Event::BatchSealed { batch });
        for to in 0..self.scenario.stakes.len() {
            if to != node && *self.network.believes(node, to) {
                for delay in self.network.transmit((node, to), sent, &mut self.rng, &mut self.marks) {
                    self.push(delay, Happening::Body { from: node, to, digest: batch.digest });
                }
            }
        }
    }

    fn body_of(&self, holder: usize, digest: &Hash) -> Option<Bytes> {
        let author = AuthorIdx::try_from(holder).expect("few");
        match self.puppets.get(&author) {
            Some(puppet) => puppet.bodies.get(digest).cloned(),
            None => self.nodes.get(&holder)?.bodies.get(digest).map(|(body, _)| body.clone()),
        }
    }

    pub(super) fn body_arrives(&mut self, from: usize, to: usize, digest: Hash) {
        let body = self.body_of(from, &digest);
        if let Some(body) = body.filter(|_| self.is_up(to) && !self.network.is_cut(from, to)) {
            self.store_body(to, digest, body);
        }
    }

    fn store_body(&mut self, node: usize, digest: Hash, body: Bytes) {
        let len = u32::try_from(body.len()).expect("small");
        let Some(state) = self.nodes.get_mut(&node) else { return };
        if !state.bodies.contains_key(&digest) {
            state.append(Entry::Body { digest, own: false, body });
        }
        self.push_event(node, 0, Event::BatchStored { digest, len });
    }

    fn fetch_batches(&mut self, node: usize, batches: &[BatchRef], candidates: &[AuthorIdx]) {
        for batch in batches {
            let held = self.nodes[&node].bodies.contains_key(&batch.digest);
            if held {
                self.push_event(node, 0, Event::BatchStored { digest: batch.digest, len: batch.len });
            } else {
                self.request_body(node, *batch, candidates.to_vec(), 0);
            }
        }
    }

    /// Asks one candidate; the next one if this one cannot help.
    pub(super) fn request_body(&mut self, node: usize, batch: BatchRef, candidates: Vec<AuthorIdx>, next: usize) {
        let Some(candidate) = candidates.get(next).map(|candidate| usize::from(*candidate)) else {
            self.marks.hit(Mark::BatchFetchFailed);
            self.push_event(node, 0, Event::BatchFetchFailed { digest: batch.digest });
            return;
        };
        let reachable =
            candidate != node && self.is_up(candidate) && !self.network.is_cut(node, candidate) && !self.rng.chance(50);
        if reachable && let Some(body) = self.body_of(candidate, &batch.digest) {
            let sent = (self.time, body.len());
            let answers = self.network.transmit((candidate, node), sent, &mut self.rng, &mut self.marks);
            if !answers.is_empty() {
                self.marks.hit(Mark::BatchFetched);
                self.store_body(node, batch.digest, body);
                return;
            }
        }
        let life = self.nodes[&node].life;
        let after = self.rng.between(5, 60);
        self.push(after, Happening::BodyRequest { node, life, batch, candidates, next: next + 1 });
    }

    pub(super) fn schedule_execution(&mut self, node: usize) {
        let after = self.rng.between(1, 12);
        let now = self.time;
        let Some(state) = self.nodes.get_mut(&node).filter(|state| !state.executor.busy) else { return };
        if !state.executor.queue.is_empty() {
            state.executor.busy = true;
            let life = state.life;
            let stalled = state.executor.stalled_until.saturating_sub(now);
            self.push(after + stalled, Happening::Execute { node, life });
        }
    }

    pub(super) fn execute_commits(&mut self, node: usize) -> Result<(), Broken> {
        let corrupted = self.scenario.corrupted.is_some_and(|(number, from)| number == node && self.time >= from);
        let forgets = corrupted || self.scenario.sabotage == Some(Sabotage::ExecutorForgets) && node == 0;
        let Some(state) = self.nodes.get_mut(&node) else { return Ok(()) };
        state.executor.busy = false;
        let mut exported = None;
        let mut told = 0;
        for _ in 0..EXECUTED_AT_ONCE {
            let Some(commit) = state.executor.queue.pop_front() else { break };
            let body = |digest: &Hash| {
                let found = state.bodies.get(digest).map(|(body, _)| body.clone());
                found.ok_or_else(|| (Property::Integrity, format!("{node} lacks batch {digest} of a commit")))
            };
            let bodies = commit.batches().map(|(_, batch)| body(&batch.digest)).collect::<Result<Vec<_>, _>>()?;
            let last = commit.header.index;
            // The end of an epoch is told of with its checkpoint.
            told = if commit.epoch_end.is_some() { last - 1 } else { last };
            let outcome = state
                .executor
                .execute(node, &commit, &bodies, &mut self.workload, forgets)
                .map_err(|detail| (Property::Survival, format!("{node}: {detail}")))?;
            if commit.epoch_end.is_some() && outcome.checkpoint.is_none() {
                return broken(Property::Survival, format!("{node}: no checkpoint at the end of an epoch, {last}"));
            }
            self.checks.executed(node, &outcome, &mut self.marks)?;
            if outcome.checkpoint.is_some() {
                exported = Some(state.executor.export().map_err(|detail| (Property::Survival, detail))?);
            }
        }
        if let Some(stored) = exported {
            let life = state.life;
            // A store that waits for the log is never ahead of it.
            let after = if self.scenario.store_ahead { self.rng.below(5) } else { self.rng.between(100, 300) };
            self.push(after, Happening::Stored { node, life, stored });
        }
        if told > 0 {
            self.push_event(node, 1, Event::Executed { commit_index: told, checkpoint: None });
        }
        self.schedule_execution(node);
        Ok(())
    }

    pub(super) fn stored(&mut self, node: usize, stored: Stored) {
        let Some(state) = self.nodes.get_mut(&node) else { return };
        let (commit_index, checkpoint) = (stored.commit_index, Some(stored.checkpoint));
        if commit_index < state.executor.stored_index() {
            return;
        }
        state.executor.stored = Some(stored);
        self.push_event(node, 0, Event::Executed { commit_index, checkpoint });
    }
}
