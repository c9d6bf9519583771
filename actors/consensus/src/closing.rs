//! The end of an epoch and the start of the next (consensus.md 10).
//!
//! After the last commit the machine orders nothing more. Its blocks go on, empty, to carry the attestation of the final
//! checkpoint, until a quorum attests it: that is the epoch's certificate. It is on the disk before the driver hears of
//! it and makes the machine of the next epoch with [`Machine::next_epoch`]. Who comes late is told by whoever is ahead: a
//! push of an older epoch is answered with that epoch's certificate, whose blocks lead to the last commit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::{BlockCore, SignedCore};
use crate::checkpoint::{Certified, Divergence};
use crate::committee::StakeSet;
use crate::config::{Config, ConfigError, evidence_from};
use crate::epoch::{EpochBase, EpochCert, EpochStart};
use crate::event::{Alarm, Effect, HaltReason, Offence};
use crate::machine::{Checking, Machine};
use crate::message::Message;
use crate::record::{Record, SIGN_NOTHING};
use crate::status::{Doubt, EpochStatus};
use crate::types::{AuthorIdx, CkptRef, CommitRef, Epoch, Lsn, Now, Stake, TimeMs};

/// Own blocks of the closing phase come at this rate.
pub(crate) const CLOSING_DELAY_MS: TimeMs = 200;
/// A certificate that did not come is asked for again after this long.
const ASK_MS: TimeMs = 1_000;
/// A peer that pushes blocks of an older epoch is answered at most this often.
const ANSWER_MS: TimeMs = 300;
/// One that has come into a later epoch since the last answer, at most this often.
const ANSWER_NEXT_MS: TimeMs = 50;
/// Messages of the next epoch that are kept of each peer: its first block, one after it, and the probe it starts with.
const HELD_PER_PEER: usize = 3;
/// Peers outside the committee that anything is remembered of.
const MAX_GUESTS: usize = 256;

/// A certificate whose signatures are being checked.
#[derive(Debug)]
struct Check {
    cert: Arc<EpochCert>,
    unchecked: usize,
}

/// What is known of the epoch's end beside the commits.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Certificates under check, by the peer that sent them.
    checks: BTreeMap<AuthorIdx, Check>,
    /// A certificate from a peer with good signatures.
    told: Option<Arc<EpochCert>>,
    /// The certificate that fits what this node has executed.
    cert: Option<Arc<EpochCert>>,
    /// Its record, on the way to the disk.
    appending: Option<Lsn>,
    /// It is on the disk, and the driver knows.
    ended: bool,
    /// Messages of the next epoch, by sender.
    held: BTreeMap<AuthorIdx, VecDeque<Vec<u8>>>,
    /// Peers that are in a later epoch.
    ahead: BTreeMap<AuthorIdx, Epoch>,
    /// When the certificate may be asked for again.
    ask_ms: TimeMs,
    /// When each peer was answered with a certificate last, and of which epoch.
    answered: BTreeMap<AuthorIdx, (TimeMs, Epoch)>,
    /// Requests served to peers outside the committee: in which second, and how many.
    guests: BTreeMap<AuthorIdx, (TimeMs, u32)>,
}

impl Closing {
    /// Counts a request of a peer outside the committee; how many there were in this second.
    pub(crate) fn count_guest(&mut self, guest: AuthorIdx, second: TimeMs) -> u32 {
        if self.guests.len() >= MAX_GUESTS && !self.guests.contains_key(&guest) {
            return u32::MAX;
        }
        let served = self.guests.entry(guest).or_default();
        *served = if served.0 == second { (second, served.1.saturating_add(1)) } else { (second, 1) };
        served.1
    }

    /// The epoch's last commit, if a quorum is known to have come to it.
    pub(crate) fn last_commit(&self) -> Option<CommitRef> {
        self.told.as_ref().or(self.cert.as_ref()).map(|cert| cert.commit)
    }
}

/// Why the next epoch cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// The epoch has not ended here.
    #[error("epoch {0} has no durable certificate")]
    NotEnded(Epoch),
    /// The configuration is that of another epoch.
    #[error("epoch {found} with seed {seed} does not follow epoch {epoch}, whose final checkpoint is {expected}")]
    NotNext {
        /// The epoch that ended.
        epoch: Epoch,
        /// Digest of its final checkpoint.
        expected: Hash,
        /// The configuration's epoch.
        found: Epoch,
        /// The configuration's seed.
        seed: Hash,
    },
    /// The configuration cannot run.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Machine {
    /// The last commit, if it ended the epoch: nothing is decided any more.
    pub(crate) fn closed_at(&self) -> Option<CommitRef> {
        self.tally.end.as_ref().map(|_| self.linearizer.last_ref())
    }

    /// Whether the certificate is durable: nothing is signed in this epoch any more.
    pub(crate) const fn has_ended(&self) -> bool {
        self.closing.ended
    }

    /// The checkpoint of the last commit, once this node has executed it.
    fn final_checkpoint(&self) -> Option<CkptRef> {
        let last = self.closed_at()?;
        let own = self.proposer.attestation;
        (self.executed_index >= last.index && own.seq > 0 && !self.has_diverged()).then_some(own)
    }

    /// Whether the own newest block does not say yet what this node has come to at the end of the epoch.
    pub(crate) fn owes_final_attestation(&self) -> bool {
        let newest = self.proposer.own.as_ref().map(|own| own.block.core.attestation);
        self.final_checkpoint().is_some_and(|own| newest != Some(own))
    }

    /// Finds, asks for and keeps the epoch's certificate.
    pub(crate) fn tend_epoch(&mut self) {
        if self.halted || self.replaying || self.closing.ended {
            return;
        }
        if self.closing.cert.is_none()
            && let Some(cert) = self.find_cert()
        {
            let lsn = self.append(Record::EpochCert(cert.clone()), true);
            self.closing.appending = Some(lsn);
            self.closing.cert = Some(cert);
        }
        if self.now.mono_ms >= self.closing.ask_ms && self.closing.cert.is_none() {
            self.ask_for_end();
        }
    }

    pub(crate) fn epoch_deadline(&self) -> Option<TimeMs> {
        let waiting = self.closing.cert.is_none() && !(self.closing.ahead.is_empty() && self.closing.told.is_none());
        waiting.then_some(self.closing.ask_ms)
    }

    fn find_cert(&mut self) -> Option<Arc<EpochCert>> {
        let (last, own) = (self.closed_at()?, self.final_checkpoint()?);
        if let Some(told) = self.closing.told.clone() {
            return self.compare_end(last, own, told);
        }
        let cores: Vec<SignedCore> = self.checkpoints.attesting(own).filter(|s| s.core.commit_vote == last).collect();
        let cert = EpochCert { epoch: self.config.epoch, commit: last, checkpoint: own, cores };
        cert.is_well_formed(&self.config.chain_id, &self.ctx.committee).then(|| Arc::new(cert))
    }

    /// A certificate from others that differs from what this node has come to is no end: this node is wrong.
    fn compare_end(&mut self, last: CommitRef, own: CkptRef, told: Arc<EpochCert>) -> Option<Arc<EpochCert>> {
        if told.commit != last {
            let voters = told.cores.iter().map(|signed| signed.core.author).collect();
            self.halt(HaltReason::CommitDiffers { own: last, voters });
            return None;
        }
        if told.checkpoint == own {
            return Some(told);
        }
        let stake = told.stake(&self.ctx.committee);
        let CkptRef { seq, digest: other } = told.checkpoint;
        let divergence =
            Divergence { seq, own: (own.seq == seq).then_some(own.digest), other, stake, network_wide: false };
        self.checkpoints.resume(None, Some(divergence));
        self.out.push(Effect::Alarm(Alarm::Diverged(divergence)));
        None
    }

    /// The others are in a later epoch: asks for the certificate of this one, or for the blocks that it names.
    fn ask_for_end(&mut self) {
        let now = self.now.mono_ms;
        if let Some(told) = self.closing.told.clone() {
            self.closing.ask_ms = now.saturating_add(ASK_MS);
            if self.closed_at().is_none() && !self.catch_up.is_active() {
                self.want_closing_blocks(&told);
            }
        } else if let Some((peer, _)) = self.closing.ahead.pop_first() {
            self.closing.ask_ms = now.saturating_add(ASK_MS);
            self.send(peer, &Message::EpochCertRequest { epoch: self.config.epoch });
        }
    }

    /// Catch-up has ended: what it did not bring of this epoch is asked for at once.
    pub(crate) fn ask_soon(&mut self) {
        if self.closing.told.is_some() {
            self.closing.ask_ms = self.now.mono_ms;
        }
    }

    /// The blocks of the certificate have the last commit in their history, and what decides it.
    fn want_closing_blocks(&mut self, cert: &EpochCert) {
        let now = self.now.mono_ms;
        for signed in &cert.cores {
            let block = signed.core.reference();
            if block.round > self.store.gc_round() && !self.is_known(&block) {
                self.fetcher.want(block, &[block.author], now, self.clock.round(), self.config.limits.want_blocks);
            }
        }
    }

    /// A peer pushes a block, or sends a message, of another epoch of this chain.
    pub(crate) fn on_other_epoch(&mut self, peer: AuthorIdx, epoch: Epoch, message: &[u8]) {
        if epoch < self.config.epoch {
            self.answer_with_cert(peer, epoch);
            return;
        }
        if epoch == self.config.epoch + 1 && self.closing.held.len() < MAX_GUESTS {
            let held = self.closing.held.entry(peer).or_default();
            held.push_back(message.to_vec());
            if held.len() > HELD_PER_PEER {
                held.pop_front();
            }
        }
        if self.closing.ahead.len() < MAX_GUESTS {
            self.closing.ahead.insert(peer, epoch);
        }
    }

    /// A pushed block of another epoch of this chain, if it is one.
    pub(crate) fn is_other_epoch(&mut self, peer: AuthorIdx, core: &BlockCore, bytes: &[u8]) -> bool {
        if core.chain_id != self.config.chain_id || core.epoch == self.config.epoch {
            return false;
        }
        self.note_claim(peer, 0, core.commit_vote.index);
        self.on_other_epoch(peer, core.epoch, &crate::message::encode_block(bytes));
        true
    }

    fn answer_with_cert(&mut self, peer: AuthorIdx, epoch: Epoch) {
        let now = self.now.mono_ms;
        let due = self.closing.answered.get(&peer).is_none_or(|(last, before)| {
            last.saturating_add(if epoch > *before { ANSWER_NEXT_MS } else { ANSWER_MS }) <= now
        });
        if due && (self.closing.answered.len() < MAX_GUESTS || self.closing.answered.contains_key(&peer)) {
            self.closing.answered.insert(peer, (now, epoch));
            self.out.push(Effect::ServeEpochCert { to: peer, epoch });
        }
    }

    pub(crate) fn on_cert_request(&mut self, peer: AuthorIdx, epoch: Epoch) {
        if epoch < self.config.epoch || (epoch == self.config.epoch && self.closing.ended) {
            self.answer_with_cert(peer, epoch);
        }
    }

    /// A peer tells the end of an epoch. Believed when the signatures are good, acted on when this node comes to the same.
    pub(crate) fn on_epoch_cert(&mut self, peer: AuthorIdx, cert: EpochCert) {
        let known = self.closing.told.is_some() || self.closing.cert.is_some();
        if cert.epoch != self.config.epoch || known || self.closing.checks.contains_key(&peer) {
            return;
        }
        if !self.may_serve(peer) {
            return;
        }
        if !cert.is_well_formed(&self.config.chain_id, &self.ctx.committee) {
            self.charge(peer, Offence::InvalidBlock);
            return;
        }
        let cert = Arc::new(cert);
        self.closing.checks.insert(peer, Check { cert: cert.clone(), unchecked: cert.cores.len() });
        for SignedCore { core, signature } in &cert.cores {
            self.verify(core.reference(), signature.clone(), Checking::EpochCert { peer });
        }
    }

    pub(crate) fn on_epoch_cert_checked(&mut self, peer: AuthorIdx, ok: bool) {
        let Some(check) = self.closing.checks.get_mut(&peer) else { return };
        if !ok {
            self.closing.checks.remove(&peer);
            self.charge(peer, Offence::BadSignature);
            return;
        }
        check.unchecked = check.unchecked.saturating_sub(1);
        if check.unchecked == 0 {
            let cert = check.cert.clone();
            self.closing.checks.clear();
            self.closing.ask_ms = self.now.mono_ms;
            self.closing.told = Some(cert);
        }
    }

    /// The epoch has ended for good once its certificate is on the disk.
    pub(crate) fn on_cert_durable(&mut self, durable: Lsn) {
        if self.closing.appending.is_some_and(|lsn| lsn <= durable) {
            self.closing.appending = None;
            self.end_epoch();
        }
    }

    /// The log has the certificate already.
    pub(crate) fn replay_cert(&mut self, cert: Arc<EpochCert>) {
        if cert.epoch == self.config.epoch {
            self.closing.cert = Some(cert);
        }
    }

    pub(crate) fn resume_closing(&mut self) {
        if self.closing.cert.is_some() && self.closed_at().is_some() {
            self.end_epoch();
        }
    }

    fn end_epoch(&mut self) {
        let (Some(cert), Some(end)) = (self.closing.cert.clone(), self.tally.end.clone()) else { return };
        if end.version > self.config.supports {
            let (epoch, version, supports) = (self.config.epoch + 1, end.version, self.config.supports);
            self.halt(HaltReason::VersionUnsupported { epoch, version, supports });
            return;
        }
        self.closing.ended = true;
        self.out.push(Effect::EpochEnded(cert));
    }

    /// What the next epoch starts from, with its validators as the driver writes them; none before the end.
    #[must_use]
    pub fn next_start(&self, set: Vec<u8>) -> Option<EpochStart> {
        let cert = self.closing.cert.as_ref().filter(|_| self.closing.ended)?;
        let base = EpochBase { index: cert.commit.index, timestamp_ms: self.linearizer.last_ms() };
        let version = self.tally.end.as_ref()?.version;
        let floor = self.next_floor();
        let epoch = self.config.epoch + 1;
        let evidence = self.evidence.carried(evidence_from(epoch, version, &self.config.params));
        Some(EpochStart { epoch, seed: cert.checkpoint.digest, base, version, floor, set, evidence })
    }

    /// The machine of the next epoch; its effects append its first record. `config` is [`Config::at`] of
    /// [`Machine::next_start`]. The driver gives it [`Event::PeerUp`](crate::Event::PeerUp) for the peers that are
    /// connected, what [`Machine::take_held`] gave, and own batches under their new digests.
    ///
    /// # Errors
    /// If this epoch has not ended, or the configuration is not that of the next, or cannot run.
    pub fn next_epoch(&self, config: Config, start: &EpochStart, now: Now) -> Result<(Self, Vec<Effect>), EpochError> {
        let cert = self.closing.cert.as_ref().filter(|_| self.closing.ended);
        let cert = cert.ok_or(EpochError::NotEnded(self.config.epoch))?;
        let (epoch, expected) = (self.config.epoch, cert.checkpoint.digest);
        if config.epoch != epoch + 1 || config.epoch_seed != expected || config.base.index != cert.commit.index {
            let (found, seed) = (config.epoch, config.epoch_seed);
            return Err(EpochError::NotNext { epoch, expected, found, seed });
        }
        let mut next = Self::empty(config, now)?;
        next.carry_over(self);
        next.executed_index = self.executed_index;
        next.delivered_before = self.executed_index;
        next.proposer.attestation = self.proposer.attestation;
        // The old committee has certified it: the new one is not asked about it again.
        let stake = cert.stake(&self.ctx.committee);
        next.checkpoints.resume(Some(Certified { checkpoint: cert.checkpoint, stake }), None);
        next.append(Record::EpochStart(Arc::new(start.clone())), true);
        next.evidence.carry(&start.evidence);
        next.proposer.floor = start.floor;
        next.probe.seed_nonce(now);
        if start.floor == SIGN_NOTHING && next.config.own.is_some() {
            match self.next_is_fresh() {
                Some(fresh) => next.listen(fresh),
                None => next.stop_signing(Doubt::Earlier),
            }
        } else if self.is_recovered || self.probe.is_waiting() {
            // A disk that went back in time may have lost what was signed in the next epoch, too.
            next.start_probe();
        }
        next.settle();
        let effects = std::mem::take(&mut next.out);
        Ok((next, effects))
    }

    /// Messages of the next epoch that came early, with their senders' indices in this one.
    #[must_use]
    pub fn take_held(&mut self) -> Vec<(AuthorIdx, Vec<u8>)> {
        let held = std::mem::take(&mut self.closing.held);
        held.into_iter().flat_map(|(peer, messages)| messages.into_iter().map(move |bytes| (peer, bytes))).collect()
    }

    /// The epoch at a glance.
    pub(crate) fn epoch_status(&self) -> EpochStatus {
        let last = self.closed_at();
        let attesting: Stake = match (last, self.final_checkpoint()) {
            (Some(last), Some(own)) => {
                let cores = self.checkpoints.attesting(own).filter(|s| s.core.commit_vote == last);
                StakeSet::of(&self.ctx.committee, cores.map(|signed| signed.core.author)).stake()
            }
            _ => 0,
        };
        EpochStatus {
            epoch: self.config.epoch,
            version: self.config.version,
            first_index: self.config.base.index.saturating_add(1),
            first_commit_ms: self.tally.first_ms,
            last_commit: last,
            attesting,
            ended: self.closing.ended,
        }
    }
}
