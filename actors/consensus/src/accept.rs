//! Blocks in, commits out: checks from cheap to expensive, acceptance, garbage collection (consensus.md 2.4, 3.3, 6).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, BlockCore, Evidence};
use crate::commit::ProvenFault;
use crate::committer::{Decided, Decision};
use crate::config::CORE_LEN;
use crate::epoch::DeliveredBlock;
use crate::event::{Alarm, Effect, HaltReason, Offence};
use crate::evidence::Statement;
use crate::flush::{Flush, Lead};
use crate::machine::{Checking, Machine};
use crate::record::Record;
use crate::suspend::Incoming;
use crate::types::{AuthorIdx, BlockRef, CommitIndex, CommitRef, Epoch, Round, Signature, Ticket};
use crate::validity::Invalid;

/// Blocks with timestamps in the future that are held per author.
const HELD_PER_AUTHOR: usize = 64;
/// Versions of a slot that are taken unasked: the second is needed as evidence.
pub(crate) const VERSIONS_PER_SLOT: usize = 2;
/// Rounds whose first arrival is remembered.
const FIRST_SEEN_ROUNDS: usize = 4;

impl Machine {
    /// A peer pushes a block, which must be its own.
    pub(crate) fn on_pushed(&mut self, peer: AuthorIdx, bytes: &[u8]) {
        let early = bytes.get(..CORE_LEN).and_then(|bytes| BlockCore::decode(bytes).ok());
        if early.is_some_and(|core| self.is_other_epoch(peer, &core, bytes)) {
            return;
        }
        let Some(core) = self.parse_core(peer, bytes) else { return };
        if core.author != peer {
            self.charge(peer, Offence::Unrequested);
            return;
        }
        self.note_claim(peer, core.round, core.commit_vote.index);
        let too_far = core.round > self.clock.round().saturating_add(self.config.limits.ahead);
        if self.catch_up.is_active() {
            self.check_vote_only(peer, core, bytes);
            self.counters.blocks_dropped += 1;
            return;
        }
        if core.round <= self.store.gc_round() || too_far {
            self.counters.blocks_dropped += 1;
            return;
        }
        let reference = core.reference();
        if self.is_known(&reference) {
            return;
        }
        let requested = self.fetcher.is_wanted(&reference);
        let in_check = self.checking_refs.iter().filter(|checking| checking.author == reference.author).count();
        let in_check = in_check + self.evidence.unjudged_of(reference.author);
        let many = self.versions(&reference) >= VERSIONS_PER_SLOT;
        let full = in_check >= self.config.limits.verify_per_author || many;
        if full && !requested {
            self.counters.blocks_dropped += 1;
            return;
        }
        if !requested && !self.may_push(peer) {
            self.counters.blocks_dropped += 1;
            self.charge(peer, Offence::Quota);
            return;
        }
        self.check_block(peer, reference, bytes, requested);
    }

    /// Versions of a block's slot that are here or wait.
    pub(crate) fn versions(&self, block: &BlockRef) -> usize {
        self.store.slot(block.round, block.author).count() + self.suspended.versions(block.round, block.author)
    }

    /// Takes a token of a peer's for a block that nobody asked for.
    fn may_push(&mut self, peer: AuthorIdx) -> bool {
        let (limits, now) = (self.config.limits, self.now.mono_ms);
        let bucket = self.peers.get_mut(usize::from(peer)).map(|state| &mut state.bucket);
        bucket.is_none_or(|bucket| bucket.take(now, limits.pushed_burst, limits.pushed_per_second))
    }

    /// A block that was asked for, from a fetch or a range of commits.
    pub(crate) fn on_requested_block(&mut self, peer: AuthorIdx, bytes: &[u8]) {
        let Some(core) = self.parse_core(peer, bytes) else { return };
        let reference = core.reference();
        let lacking = !self.is_known(&reference) || self.wants_signature(&reference);
        if core.round > self.store.gc_round() && lacking {
            self.counters.blocks_fetched += 1;
            self.check_block(peer, reference, bytes, true);
        }
    }

    /// The core of an encoded block, if it can be one of this epoch.
    pub(crate) fn parse_core(&mut self, peer: AuthorIdx, bytes: &[u8]) -> Option<BlockCore> {
        let core = bytes.get(..CORE_LEN).and_then(|bytes| BlockCore::decode(bytes).ok());
        let Some(core) = core else {
            self.charge(peer, Offence::Malformed);
            return None;
        };
        match self.ctx.check_core(&core) {
            Ok(()) => Some(core),
            Err(Invalid::Chain { .. }) => None,
            Err(_) => {
                self.counters.blocks_invalid += 1;
                self.charge(peer, Offence::InvalidBlock);
                None
            }
        }
    }

    /// Whether the block is here or on its way in.
    pub(crate) fn is_known(&self, block: &BlockRef) -> bool {
        self.store.contains(block)
            || self.suspended.contains(block)
            || self.checking_refs.contains(block)
            || self.evidence.is_unjudged(block)
            || self.proposer.is_in_flight(block)
    }

    /// Everything but the signature, then the signature, unless a certified range vouches for the block.
    pub(crate) fn check_block(&mut self, peer: AuthorIdx, reference: BlockRef, bytes: &[u8], requested: bool) {
        let bytes: Arc<[u8]> = bytes.into();
        let block = Block::decode_shared(&bytes).ok().filter(|block| self.ctx.check(block).is_ok());
        let Some(block) = block else {
            self.counters.blocks_invalid += 1;
            self.charge(peer, Offence::InvalidBlock);
            return;
        };
        let signature = block.signature.clone();
        let certified = self.catch_up.is_pending(&reference);
        let incoming = Incoming { reference, block: Arc::new(block), bytes, from: peer, checked: !certified };
        self.fetcher.arrived(&reference);
        if certified {
            if self.config.own == Some(reference.author) {
                // A quorum has built on it, so this validator has signed it; the log does not know it.
                self.distrust_log(reference);
            }
            self.admit(incoming);
            return;
        }
        self.checking_refs.insert(reference);
        self.verify(reference, signature, Checking::Block { incoming, requested });
    }

    /// Has a signature of this epoch checked.
    pub(crate) fn verify(&mut self, block: BlockRef, signature: Signature, checking: Checking) {
        self.verify_of(self.config.epoch, block, signature, checking);
    }

    /// Has a signature checked under the author's key of the epoch that it was made in.
    pub(crate) fn verify_of(&mut self, epoch: Epoch, block: BlockRef, signature: Signature, checking: Checking) {
        let ticket = self.ticket();
        self.checking.insert(ticket, checking);
        self.counters.signatures_checked += 1;
        self.out.push(Effect::VerifySig { ticket, epoch, author: block.author, digest: block.digest, signature });
    }

    pub(crate) fn on_sig_checked(&mut self, ticket: Ticket, ok: bool) {
        match self.checking.remove(&ticket) {
            None => {}
            Some(Checking::Evidence { proof }) => self.on_evidence_checked(proof, ok),
            Some(Checking::Probe { peer, block }) => self.on_probe_checked(peer, block, ok),
            Some(Checking::EpochCert { peer }) => self.on_epoch_cert_checked(peer, ok),
            Some(Checking::Late(block)) => self.on_late_checked(block, ok),
            Some(Checking::Vote(core)) if ok => self.note_votes(&core),
            Some(Checking::Vote(core)) => self.charge(core.author, Offence::BadSignature),
            Some(Checking::RangeVote { request }) => self.on_range_vote_checked(request, ok),
            Some(Checking::Proof { peer, nonce, round }) => self.on_proof_checked(peer, nonce, round, ok),
            Some(Checking::Block { incoming, requested }) => {
                let reference = incoming.reference;
                self.checking_refs.remove(&reference);
                if ok {
                    self.on_verified(incoming, requested);
                } else {
                    self.counters.blocks_invalid += 1;
                    self.charge(incoming.from, Offence::BadSignature);
                    self.want_again(&reference);
                }
            }
        }
    }

    fn on_verified(&mut self, incoming: Incoming, requested: bool) {
        let reference = incoming.reference;
        if self.unchecked.contains(&reference) {
            return self.heal_signature(&incoming);
        }
        if self.config.own == Some(reference.author) && !self.proposer.is_in_flight(&reference) {
            self.distrust_log(reference);
        }
        self.note_newest(&incoming);
        self.note_statement(&Statement::Block(incoming.block.clone()));
        let latest = self.now.wall_ms.saturating_add(self.config.pacing.max_drift_ms);
        let timestamp = incoming.block.core.timestamp_ms;
        // Also one that a block here came to need while the signature was checked: nobody would ask for it any more.
        let requested = requested || self.suspended.is_awaited(&reference);
        if timestamp > latest && !requested {
            let held = self.held.keys().filter(|(_, block)| block.author == reference.author).count();
            if held < HELD_PER_AUTHOR {
                let due = timestamp.saturating_sub(self.config.pacing.max_drift_ms);
                self.held.insert((due, reference), incoming);
            } else {
                self.counters.blocks_dropped += 1;
            }
            return;
        }
        self.admit(incoming);
    }

    /// Lets blocks in whose time has come.
    pub(crate) fn release_held(&mut self) {
        while let Some(entry) = self.held.first_entry().filter(|entry| entry.key().0 <= self.now.wall_ms) {
            let incoming = entry.remove();
            self.admit(incoming);
        }
    }

    /// Accepts a verified block, or suspends it until its parents and batches are here.
    pub(crate) fn admit(&mut self, incoming: Incoming) {
        let reference = incoming.reference;
        if reference.round <= self.store.gc_round()
            || self.store.contains(&reference)
            || self.suspended.contains(&reference)
            || !self.is_judged(&incoming)
        {
            return;
        }
        let parents: BTreeSet<BlockRef> =
            incoming.block.parents.iter().filter(|p| !self.store.satisfies(p)).copied().collect();
        let batches: BTreeSet<Hash> = incoming
            .block
            .batches
            .iter()
            .filter(|b| !self.replaying && !self.batches.is_present(b))
            .map(|b| b.digest)
            .collect();
        if parents.is_empty() && batches.is_empty() {
            self.accept(incoming);
        } else {
            self.suspend(incoming, parents, batches);
        }
    }

    fn suspend(&mut self, incoming: Incoming, parents: BTreeSet<BlockRef>, batches: BTreeSet<Hash>) {
        let reference = incoming.reference;
        let holders = [incoming.from, reference.author];
        let unknown: Vec<BlockRef> = parents.iter().filter(|p| !self.is_known(p)).copied().collect();
        let due = self.now.mono_ms.saturating_add(self.config.pacing.fetch_grace_ms);
        for batch in incoming.block.batches.iter().filter(|b| batches.contains(&b.digest)) {
            self.batches.want(*batch, reference.round, &[reference.author, incoming.from], due);
        }
        self.suspended.insert(incoming.clone(), parents, batches);
        self.want_parents(reference, unknown, &holders);
        let limits = self.config.limits;
        let gone = self.suspended.evict(&incoming, limits.suspended_per_author, limits.suspended_bytes_per_peer);
        for block in gone {
            self.counters.blocks_dropped += 1;
            self.want_again(&block);
        }
    }

    /// A block that was on its way in is gone; another block may still need it.
    fn want_again(&mut self, block: &BlockRef) {
        let needed = self.suspended.is_awaited(block) || self.catch_up.is_pending(block);
        if (needed && !self.is_known(block)) || self.wants_signature(block) {
            let due = self.now.mono_ms.saturating_add(self.config.pacing.scan_ms);
            self.fetcher.want(*block, &[block.author], due, self.clock.round(), self.config.limits.want_blocks);
        }
    }

    pub(crate) fn on_batch_stored(&mut self, digest: Hash, len: u32) {
        self.batches.stored(digest, len);
        for free in self.suspended.batch_arrived(&digest, len) {
            self.accept(free);
        }
    }

    /// Takes a complete block into the store, and with it every block that waited only for it.
    pub(crate) fn accept(&mut self, incoming: Incoming) {
        let mut ready = VecDeque::from([incoming]);
        while let Some(next) = ready.pop_front() {
            if !self.store.insert(next.reference, next.block.clone(), next.bytes.clone()) {
                continue;
            }
            self.on_inserted(&next);
            if self.halted {
                return;
            }
            ready.extend(self.suspended.parent_arrived(&next.reference));
        }
    }

    fn on_inserted(&mut self, incoming: &Incoming) {
        let reference = incoming.reference;
        self.counters.blocks_accepted += 1;
        if !incoming.checked {
            self.unchecked.insert(reference);
        }
        self.fetcher.arrived(&reference);
        self.catch_up.arrived(&reference, self.now.mono_ms);
        let own = self.proposer.is_in_flight(&reference);
        if incoming.checked && (self.replaying || own) {
            self.note_newest(incoming);
            self.note_statement(&Statement::Block(incoming.block.clone()));
        }
        if !self.replaying && !own && !incoming.checked {
            self.append(Record::CertifiedBlock(incoming.bytes.clone()), false);
        } else if !self.replaying && !own {
            self.append(Record::Block(incoming.bytes.clone()), false);
        }
        self.slot_is_logged(&reference);
        let to_order = !incoming.block.batches.is_empty() || !incoming.block.extras.evidence.is_empty();
        if to_order && !self.linearizer.is_committed(&reference) {
            self.open_payload.insert(reference);
        }
        if incoming.checked {
            self.check_watermarks(incoming);
        }
        self.note_arrival(reference.round);
        self.clock.on_accept(&self.ctx.committee, &self.store, reference, self.now.mono_ms);
        let taken = self.committer.on_accept(&self.ctx.committee, &self.schedule, reference, &incoming.block);
        if let Err(reason) = taken {
            self.halt(reason);
        }
    }

    /// How long after the first block of its round a block comes: what the leader time-out adapts to.
    fn note_arrival(&mut self, round: Round) {
        let now = self.now.mono_ms;
        if round.saturating_add(2) < self.clock.round() {
            return;
        }
        match self.first_seen.get(&round) {
            Some(first) => self.proposer.timeout.on_arrival(now.saturating_sub(*first)),
            None => {
                self.first_seen.insert(round, now);
                while self.first_seen.len() > FIRST_SEEN_ROUNDS {
                    self.first_seen.pop_first();
                }
            }
        }
    }

    /// V13: reported, never a reason to refuse.
    fn check_watermarks(&mut self, incoming: &Incoming) {
        let Some(before) = incoming.block.parents.first().and_then(|own| self.store.get(own)) else { return };
        let (old, new) = (&before.block.core, &incoming.block.core);
        let fell = new.commit_vote.index < old.commit_vote.index || new.attestation.seq < old.attestation.seq;
        if fell && self.fallen.insert(incoming.reference.author) {
            self.out.push(Effect::Alarm(Alarm::WatermarkFell { block: incoming.reference }));
        }
    }

    /// Everything that a checked statement says, before anything is known of its block's history.
    pub(crate) fn note_statement(&mut self, statement: &Statement) {
        self.note_votes(statement.core());
        self.note_attestation(statement);
        self.note_vote_of(statement);
        self.note_slot(statement);
    }

    /// Newest commit vote and attestation of a checked core; votes are compared with the own chain.
    pub(crate) fn note_votes(&mut self, core: &BlockCore) {
        let Some(peer) = self.peers.get_mut(usize::from(core.author)) else { return };
        if core.attestation.seq > peer.attestation.seq {
            peer.attestation = core.attestation;
        }
        if core.commit_vote.index >= peer.vote.index {
            peer.vote = core.commit_vote;
        }
        self.compare_vote(core.author, core.commit_vote.index);
    }

    /// Compares a validator's newest vote, if it is for this index, with the own commit.
    fn compare_vote(&mut self, author: AuthorIdx, index: CommitIndex) {
        let vote = self.peers[usize::from(author)].vote;
        let Some(digest) = self.recent_commits.get(&index).copied().filter(|_| vote.index == index) else { return };
        if vote.digest == digest || self.dissenters.contains(author) {
            return;
        }
        let own = CommitRef { index, digest };
        self.out.push(Effect::Alarm(Alarm::CommitVoteDiffers { author, vote, own }));
        self.note_dissent(author, own);
    }

    /// A validator has another commit than this node: one may lie, V of stake may not.
    pub(crate) fn note_dissent(&mut self, author: AuthorIdx, own: CommitRef) {
        self.dissenters.add(&self.ctx.committee, author);
        if self.dissenters.stake() >= self.ctx.committee.validity() {
            self.halt(HaltReason::CommitDiffers { own, voters: self.dissenters.authors().collect() });
        }
    }

    /// What a validator that has lost its log must not sign over.
    pub(crate) fn note_newest(&mut self, incoming: &Incoming) {
        let Some(peer) = self.peers.get_mut(usize::from(incoming.reference.author)) else { return };
        if peer.newest.as_ref().is_none_or(|(newest, _)| newest.round < incoming.reference.round) {
            peer.newest = Some((incoming.reference, incoming.bytes.clone()));
        }
    }

    /// What a peer says about itself, unchecked: a hint of being behind, nothing else.
    pub(crate) fn note_claim(&mut self, peer: AuthorIdx, round: Round, commit: CommitIndex) {
        if let Some(state) = self.peers.get_mut(usize::from(peer)) {
            state.claimed_round = state.claimed_round.max(round);
            state.claimed_commit = state.claimed_commit.max(commit);
        }
    }

    /// Decides, flushes, delivers and collects garbage until nothing more follows.
    pub(crate) fn try_commit(&mut self) {
        while !self.halted && self.closed_at().is_none() {
            // What a quorum certifies is not decided here.
            if let Some(header) = self.certified.front() {
                if !self.store.contains(&header.leader) {
                    return;
                }
                if let Err(what) = self.committer.certify(header.last_decided, header.leader) {
                    return self.certified_differs(header.reference(), Hash::ZERO, what);
                }
            } else if let Err(reason) = self.committer.decide(&self.store) {
                self.halt(reason);
                return;
            }
            let Some(decided) = self.committer.pop() else { return };
            self.count_decision(decided);
            if decided.decision == Decision::Skip {
                self.schedule.on_skip(decided.slot.author);
            }
            if let Decision::Commit(leader) = decided.decision {
                self.commit(decided, leader);
            }
        }
    }

    fn count_decision(&mut self, decided: Decided) {
        match (decided.decision, decided.direct) {
            (Decision::Skip, _) => self.counters.slots_skipped += 1,
            (Decision::Commit(_), false) => self.counters.slots_indirect += 1,
            (Decision::Commit(_), true) => {
                self.counters.slots_direct += 1;
                self.proposer.timeout.on_direct_commit();
            }
        }
    }

    fn commit(&mut self, decided: Decided, leader: BlockRef) {
        let digest = self.schedule.digest();
        let certified = self.certified.pop_front();
        if certified.as_ref().is_some_and(|header| header.schedule_digest != digest) {
            let certified = certified.map_or(CommitRef { index: 0, digest }, |header| header.reference());
            return self.certified_differs(certified, digest, "the leader schedule");
        }
        let certified_ms = certified.as_ref().map(|header| header.timestamp_ms);
        let lead = Lead { slot: decided.slot, leader, schedule_digest: digest, certified_ms };
        let verdict = |evidence: &Evidence| self.evidence.verdict(evidence);
        let flushed = self.linearizer.apply(&self.ctx.committee, &self.store, lead, &verdict);
        let mut flush = match flushed {
            Ok(flush) => flush,
            Err(reason) => return self.halt(reason),
        };
        self.follow_schedule(&mut flush, leader.round);
        self.follow_epoch(&mut flush);
        self.follow_anchor(&flush.commit.header);
        flush.commit.state_digest = self.anchor.digest;
        let commit = Arc::new(flush.commit);
        for fault in &commit.faults {
            self.evidence.proven_fault(fault);
        }
        let reference = self.linearizer.last_ref();
        if let Some(certified) = certified.map(|header| header.reference()) {
            if certified != reference {
                return self.certified_differs(certified, reference.digest, "the commit");
            }
            self.counters.commits_certified += 1;
        }
        self.note_recent_commit(reference);
        for block in &commit.blocks {
            self.open_payload.remove(&block.block);
            for batch in &block.batches {
                self.proposer.delivered(&batch.digest);
            }
        }
        if commit.has_payload() {
            self.last_payload_commit = reference.index;
        }
        if self.replaying {
            self.replayed.push_back(commit);
        } else {
            self.append(Record::Commit(commit.clone()), false);
            // A crash may have lost the tail of the log, but not what execution had made durable.
            if reference.index > self.delivered_before && !self.has_diverged() {
                self.out.push(Effect::Deliver { commit });
            }
        }
        for author in self.ctx.committee.authors() {
            self.compare_vote(author, reference.index);
        }
        self.collect_garbage(self.linearizer.gc_round());
    }

    /// Counts a commit for the epoch, while its blocks are in the store: it may be the last.
    fn follow_epoch(&mut self, flush: &mut Flush) {
        let (header, store) = (&flush.commit.header, &self.store);
        let first = flush.commit.blocks.iter().map(|b| b.block).filter(|block| !flush.twins.contains(block));
        let blocks = first.filter_map(|block| {
            let supports = store.get(&block)?.block.core.supports;
            Some(DeliveredBlock { author: block.author, round: block.round, supports })
        });
        let commit = (header.index, header.timestamp_ms);
        let end = self.tally.on_commit(&self.config, &self.ctx.committee, commit, blocks);
        if end.is_some() {
            flush.commit.epoch_end = end;
        }
    }

    /// Counts a commit for the schedule, while its blocks are in the store. After the last commit of a window nothing is
    /// decided before the new leaders hold.
    fn follow_schedule(&mut self, flush: &mut Flush, round: Round) {
        let Some(absent) = self.schedule.on_commit(&self.ctx.committee, &self.store, flush) else { return };
        let (epoch, index) = (flush.commit.header.epoch, flush.commit.header.index);
        let down = absent.into_iter().map(|author| ProvenFault::downtime(epoch, index, author));
        flush.commit.faults.extend(down);
        if let Err(reason) = self.committer.reschedule(&self.ctx.committee, &self.schedule, &self.store, round) {
            self.halt(reason);
        }
    }

    pub(crate) fn collect_garbage(&mut self, gc_round: Round) {
        let dropped = self.store.advance_gc(gc_round);
        for (reference, stored) in dropped {
            self.open_payload.remove(&reference);
            if self.config.own == Some(reference.author) {
                self.proposer.requeue(&stored.block.batches);
            }
        }
        self.evidence.advance_gc(gc_round);
        let above = BlockRef { round: gc_round.saturating_add(1), author: 0, digest: Hash::ZERO };
        self.unchecked = self.unchecked.split_off(&above);
        self.held.retain(|(_, block), _| block.round > gc_round);
        self.fetcher.advance_gc(gc_round);
        self.novelty.advance_gc(gc_round);
        self.catch_up.advance_gc(gc_round, self.now.mono_ms);
        let free = self.suspended.advance_gc(gc_round);
        let suspended = &self.suspended;
        self.batches.advance_gc(gc_round, |batch| suspended.is_batch_awaited(batch));
        for incoming in free {
            self.accept(incoming);
        }
    }
}
