//! The signing-floor probe of every process start (consensus.md 9.3, intact-log form).
//!
//! A restored backup looks intact from inside, so the first signature waits until others with stake Q minus the own
//! have said which own block they hold. One that the log lacks makes this node an observer.

use crate::block::{Block, BlockCore};
use crate::committee::StakeSet;
use crate::event::{Alarm, Effect, Offence};
use crate::machine::{Checking, Machine};
use crate::message::Message;
use crate::record::{Record, SIGN_NOTHING};
use crate::types::{AuthorIdx, BlockRef, TimeMs};

/// Peers that have not answered are asked again after this long.
const RETRY_MS: TimeMs = 1_000;

/// The state of the probe.
#[derive(Debug, Default)]
pub struct Probe {
    waiting: bool,
    nonce: u64,
    answered: StakeSet,
    next_ms: TimeMs,
}

impl Probe {
    /// Whether nothing may be signed yet.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waiting
    }

    pub(crate) fn next_due_ms(&self) -> Option<TimeMs> {
        self.waiting.then_some(self.next_ms)
    }
}

impl Machine {
    pub(crate) fn start_probe(&mut self) {
        if self.config.own.is_some() && !self.observer {
            self.probe.waiting = true;
            self.probe.nonce = self.now.wall_ms.rotate_left(20) ^ self.now.mono_ms;
            self.probe.next_ms = self.now.mono_ms;
        }
    }

    /// Ends the probe when enough have answered; asks again those that have not.
    pub(crate) fn tend_probe(&mut self) {
        let Some(own) = self.config.own.filter(|_| self.probe.waiting && !self.halted) else { return };
        let committee = &self.ctx.committee;
        if self.probe.answered.stake() >= committee.quorum().saturating_sub(committee.stake(own)) {
            self.probe.waiting = false;
        } else if self.now.mono_ms >= self.probe.next_ms {
            self.probe.next_ms = self.now.mono_ms.saturating_add(RETRY_MS);
            for peer in self.connected_peers() {
                self.probe_peer(peer);
            }
        }
    }

    pub(crate) fn probe_peer(&mut self, peer: AuthorIdx) {
        if self.probe.waiting && !self.probe.answered.contains(peer) {
            let nonce = self.probe.nonce;
            self.send(peer, &Message::ProbeRequest { nonce });
        }
    }

    pub(crate) fn on_probe_reply(&mut self, peer: AuthorIdx, nonce: u64, newest: Option<&[u8]>) {
        let Some(own) = self.config.own.filter(|own| nonce == self.probe.nonce && *own != peer) else { return };
        let Some(bytes) = newest else {
            self.probe.answered.add(&self.ctx.committee, peer);
            return;
        };
        let block = Block::decode(bytes).ok().filter(|block| self.ctx.check_core(&block.core).is_ok());
        let Some(block) = block.filter(|block| block.core.author == own) else {
            self.charge(peer, Offence::InvalidBlock);
            return;
        };
        let reference = block.reference();
        if self.is_own_logged(&block.core, &reference) {
            self.probe.answered.add(&self.ctx.committee, peer);
        } else {
            self.verify(reference, block.signature, Checking::Probe { peer, block: reference });
        }
    }

    /// Whether the log has this own block, or has passed the time at which it could still be known.
    fn is_own_logged(&self, core: &BlockCore, reference: &BlockRef) -> bool {
        let passed = core.round <= self.store.gc_round() && core.round <= self.proposer.own_round();
        let newest = self.proposer.last == Some(*reference);
        passed || newest || self.store.contains(reference) || self.proposer.is_in_flight(reference)
    }

    pub(crate) fn on_probe_checked(&mut self, peer: AuthorIdx, block: BlockRef, ok: bool) {
        if ok {
            self.distrust_log(block);
        } else {
            self.charge(peer, Offence::BadSignature);
        }
    }

    /// A validly signed own block is not in the log: another instance, or a disk that went back in time.
    pub(crate) fn distrust_log(&mut self, block: BlockRef) {
        if !self.observer {
            self.stop_signing(Alarm::OwnBlockNotInLog { block });
        }
    }

    /// Observes from here on, and after every restart: what was signed last is unknown.
    pub(crate) fn stop_signing(&mut self, alarm: Alarm) {
        self.observer = true;
        self.probe.waiting = false;
        if self.proposer.floor != SIGN_NOTHING {
            self.proposer.floor = SIGN_NOTHING;
            self.append(Record::Floor { round: SIGN_NOTHING }, true);
        }
        self.out.push(Effect::Alarm(alarm));
    }
}
