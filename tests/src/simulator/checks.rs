//! The properties, held against everything that correct validators decide, execute and say.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use aurigraph_consensus::commit::genesis_commit;
use aurigraph_consensus::message::pushed_block;
use aurigraph_consensus::oracle::{Mutation, Oracle};
use aurigraph_consensus::types::Slot;
use aurigraph_consensus::validity::EpochContext;
use aurigraph_consensus::{
    Alarm, AuthorIdx, BatchRef, Block, BlockCore, BlockRef, Certificate, CkptRef, Commit, CommitRef, CommittedBlock,
    Committee, Config, EpochCert, Evidence, EvidenceKind, FaultKind, Machine, Message, Mode, Record, Round, SignedCore,
    StakeSet, Status,
};
use aurigraph_ledger::{CommitOutcome, Hash};

use super::Property;
use super::attested::Attested;
use super::corruption::Corruption;
use super::coverage::{Coverage, Mark};
use super::disk::Entry;
use super::node::{Node, core_of};
use super::puppet::is_signed;
use super::work::Work;

/// A batch may be delivered again, as a faulty validator can bring about, after so many times the depth of garbage
/// collection: state that grows for ever is the price of more. Nonces keep its transactions from counting twice.
const BATCH_WINDOWS: u32 = 2;

/// Rounds within which evidence is proven in a quiet network: into an own block, into others' histories, past a few
/// skipped leaders.
const PROVEN_WITHIN: u32 = 40;

/// A property that does not hold, and how.
pub(crate) type Broken = (Property, String);

/// Fails with a property and a text.
pub(crate) fn broken<T>(property: Property, detail: String) -> Result<T, Broken> {
    Err((property, detail))
}

/// What the commit before leaves behind.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    /// Of the commit itself.
    epoch: u64,
    /// Blocks at or below can no longer be ordered.
    gc_round: u32,
    /// Batches delivered by leaders of earlier rounds are forgotten.
    oldest: u32,
}

/// What the oracle needs to know of a block, read once for all validators.
#[derive(Debug)]
struct Read {
    parents: Vec<BlockRef>,
    /// Whom it proves to have equivocated in its own epoch: a place in an earlier one's committee is perhaps another's now.
    accused: Vec<AuthorIdx>,
}

impl Read {
    fn of(bytes: &[u8]) -> Result<Rc<Self>, String> {
        let block = Block::decode(bytes).map_err(|error| error.to_string())?;
        let of_epoch = |it: &&Evidence| it.a.core.epoch == block.core.epoch && it.kind == EvidenceKind::Equivocation;
        let evidence = block.extras.evidence.iter().filter(of_epoch).filter(|it| is_proof(it));
        Ok(Rc::new(Self { accused: evidence.map(|it| it.a.core.author).collect(), parents: block.parents }))
    }
}

/// What is known of the run as a whole.
pub(crate) struct Checks {
    /// By epoch.
    contexts: Vec<EpochContext>,
    /// Protocol versions, by epoch.
    versions: Vec<u16>,
    /// What stands before the first commit of each epoch.
    genesis: Vec<Hash>,
    /// What each epoch's end was certified to be.
    ends: BTreeMap<u64, (CommitRef, CkptRef)>,
    /// Rounds of earlier epochs.
    past_rounds: u32,
    /// Whose blocks are held to the rules of correct validators.
    pub(crate) correct: Vec<bool>,
    /// Commits in order, as the first validator had them.
    agreed: Vec<(Hash, Arc<Commit>)>,
    delivered: BTreeSet<BlockRef>,
    /// Delivered batches with the epoch and the round of the leader that delivered them last.
    pub(crate) batches: BTreeMap<Hash, (u64, u32)>,
    /// Which block owns each delivered slot.
    slots: BTreeMap<(u64, Slot), BlockRef>,
    heights: BTreeMap<u64, Hash>,
    checkpoints: BTreeMap<u64, Hash>,
    blocks_said: BTreeMap<(AuthorIdx, u64, u32), Hash>,
    attested: BTreeMap<(AuthorIdx, u64), Hash>,
    /// Digest of the leader schedule after each decided slot that somebody was seen at.
    schedules: BTreeMap<(u64, (u32, u16)), Hash>,
    voted: BTreeMap<(AuthorIdx, u64, u64), Hash>,
    /// In a quiet network: since which round a validator holds evidence.
    owed: BTreeMap<usize, u32>,
    /// Faults that commits have proven.
    pub(crate) proven: BTreeSet<(u64, AuthorIdx, FaultKind)>,
    /// Correct validators whose disks went back in time: alone they may doubt their logs.
    pub(crate) lost: BTreeSet<usize>,
    /// The epoch and the first of two blocks that a correct validator has signed in one round.
    pub(crate) signed_again: Option<(u64, BlockRef)>,
    pub(crate) corruption: Corruption,
    attestations: Attested,
    pub(crate) work: Work,
    /// Who would lead each round if nobody were swapped: drawn from the epoch's seed, so the same for everybody.
    drawn: RefCell<BTreeMap<(u64, Round), Vec<AuthorIdx>>>,
    /// Blocks that the oracle has seen. Which block a reference names follows from its digest.
    read: RefCell<BTreeMap<BlockRef, Result<Rc<Read>, String>>>,
}

impl Checks {
    pub(crate) fn new(config: &Config, correct: Vec<bool>) -> Self {
        let mut checks = Self {
            contexts: Vec::new(),
            versions: Vec::new(),
            genesis: Vec::new(),
            ends: BTreeMap::new(),
            past_rounds: 0,
            correct,
            agreed: Vec::new(),
            delivered: BTreeSet::new(),
            batches: BTreeMap::new(),
            slots: BTreeMap::new(),
            heights: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            blocks_said: BTreeMap::new(),
            attested: BTreeMap::new(),
            schedules: BTreeMap::new(),
            voted: BTreeMap::new(),
            owed: BTreeMap::new(),
            proven: BTreeSet::new(),
            lost: BTreeSet::new(),
            signed_again: None,
            corruption: Corruption::default(),
            attestations: Attested::default(),
            work: Work::default(),
            drawn: RefCell::default(),
            read: RefCell::default(),
        };
        checks.begin(config);
        checks
    }

    /// An epoch that nobody was in before.
    pub(crate) fn begin(&mut self, config: &Config) {
        let committee = Committee::new(config.stakes.clone()).expect("valid stakes");
        self.contexts.push(EpochContext::new(config, committee));
        self.versions.push(config.version);
        let Config { chain_id, epoch, epoch_seed, base, .. } = config;
        self.genesis.push(genesis_commit(chain_id, *epoch, epoch_seed, *base).digest);
    }

    /// The rules of an epoch that somebody has reached.
    pub(crate) fn context(&self, epoch: u64) -> &EpochContext {
        let at = usize::try_from(epoch).unwrap_or(0);
        self.contexts.get(at).unwrap_or(&self.contexts[0])
    }

    /// A validator has come to the end of an epoch, and would go on with the next.
    pub(crate) fn ended(&mut self, number: usize, node: &Node, cert: &EpochCert) -> Result<(), Broken> {
        let found = (cert.commit, cert.checkpoint);
        let agreed = *self.ends.entry(cert.epoch).or_insert(found);
        if agreed != found {
            let detail = format!("{number} ends epoch {} with {found:?}, before {agreed:?}", cert.epoch);
            return broken(Property::EpochSafety, detail);
        }
        let bad = |detail: &str| broken(Property::EpochSafety, format!("{number}, end of {}: {detail}", cert.epoch));
        if node.disk.epoch_cert(cert.epoch).is_none() {
            return bad("its certificate is not durable");
        }
        let committee = &self.context(cert.epoch).committee;
        let signed = |it: &SignedCore| {
            let says = it.core.epoch == cert.epoch
                && it.core.attestation == cert.checkpoint
                && it.core.commit_vote == cert.commit;
            says && is_signed(it.core.author, &it.core.digest(), &it.signature)
        };
        let stake = StakeSet::of(committee, cert.cores.iter().map(|it| it.core.author)).stake();
        if stake < committee.quorum() || !cert.cores.iter().all(signed) {
            return bad("no quorum has signed it");
        }
        let last = self.agreed.get(usize::try_from(cert.commit.index).unwrap_or(0).wrapping_sub(1));
        if last.is_none_or(|(digest, commit)| *digest != cert.commit.digest || commit.epoch_end.is_none()) {
            return bad("its commit is not the one that was delivered, or does not end it");
        }
        Ok(())
    }

    /// A validator is about to sign in an epoch.
    pub(crate) fn may_sign(&self, number: usize, node: &mut Node, epoch: u64) -> Result<(), Broken> {
        let now = Some((node.life, epoch));
        if node.signs_in == now {
            return Ok(());
        }
        node.signs_in = now;
        if epoch > 0 && node.disk.epoch_cert(epoch - 1).is_none() {
            let detail = format!("{number} signs in epoch {epoch} without a durable end of the one before");
            return broken(Property::EpochSafety, detail);
        }
        Ok(())
    }

    pub(crate) fn commits(&self) -> u64 {
        self.agreed.len() as u64
    }

    pub(crate) fn round(&self) -> u32 {
        self.agreed.last().map_or(0, |(_, commit)| self.past_rounds + commit.header.leader.round)
    }

    pub(crate) fn height(&self) -> u64 {
        self.heights.last_key_value().map_or(0, |(height, _)| *height)
    }

    fn is_correct(&self, author: AuthorIdx) -> bool {
        self.correct.get(usize::from(author)).copied().unwrap_or(false)
    }

    /// The leader schedule is a function of the decided slots: equal on all validators, in all their lives.
    pub(crate) fn schedule(&mut self, number: usize, machine: &Machine) -> Result<(), Broken> {
        let slot = (machine.config().epoch, machine.last_decided().position());
        let digest = machine.schedule().digest();
        let agreed = *self.schedules.entry(slot).or_insert(digest);
        if agreed != digest {
            let detail = format!("after slot {slot:?} {number} has leader schedule {digest}, before {agreed}");
            return broken(Property::Schedule, detail);
        }
        Ok(())
    }

    /// A validator delivers a commit to its execution.
    pub(crate) fn delivered(
        &mut self,
        number: usize,
        node: &Node,
        commit: &Arc<Commit>,
        marks: &mut Coverage,
    ) -> Result<(), Broken> {
        let index = commit.header.index;
        if index != node.delivered + 1 {
            return broken(Property::TotalOrder, format!("{number} delivers {index} after {}", node.delivered));
        }
        let digest = commit.header.digest();
        let at = usize::try_from(index - 1).expect("few commits");
        if let Some((agreed, first)) = self.agreed.get(at) {
            if *agreed != digest {
                return broken(Property::Agreement, format!("commit {index}: {number} has {digest}, before {agreed}"));
            }
            if first != commit {
                return broken(Property::TotalOrder, format!("commit {index} of {number} has other payload"));
            }
            return Ok(());
        }
        if at != self.agreed.len() {
            return broken(Property::TotalOrder, format!("commit {index} of {number} follows {}", self.agreed.len()));
        }
        self.first_commit(node, commit, marks)?;
        self.agreed.push((digest, commit.clone()));
        Ok(())
    }

    /// The first time that a commit is seen: everything that can be said of its content.
    fn first_commit(&mut self, node: &Node, commit: &Commit, marks: &mut Coverage) -> Result<(), Broken> {
        let header = &commit.header;
        let epoch = header.epoch;
        let gc_depth = self.context(epoch).gc_depth;
        let time = self.agreed.last().map_or(0, |(_, last)| last.header.timestamp_ms);
        let (ended, past_rounds) = match self.agreed.last() {
            None => (epoch == 0, 0),
            Some((_, last)) if last.header.epoch == epoch => (last.epoch_end.is_none(), self.past_rounds),
            Some((_, last)) => {
                let next = last.epoch_end.is_some() && last.header.epoch + 1 == epoch;
                (next && self.ends.contains_key(&last.header.epoch), self.past_rounds + last.header.leader.round)
            }
        };
        if !ended {
            return broken(Property::EpochSafety, format!("commit {} is of epoch {epoch}", header.index));
        }
        self.past_rounds = past_rounds;
        let (before, previous) = match self.agreed.last().filter(|(_, last)| last.header.epoch == epoch) {
            None => {
                (Before { epoch, ..Before::default() }, self.genesis.get(usize::try_from(epoch).unwrap_or(0)).copied())
            }
            Some((digest, last)) => {
                let oldest = last.header.leader.round.saturating_sub(BATCH_WINDOWS * gc_depth);
                (Before { epoch, gc_round: last.header.gc_round, oldest }, Some(*digest))
            }
        };
        if previous != Some(header.prev_digest) {
            return broken(Property::TotalOrder, format!("commit {} does not follow its predecessor", header.index));
        }
        if header.timestamp_ms < time {
            let detail = format!("commit {} at {}, before {time}", header.index, header.timestamp_ms);
            return broken(Property::MonotonicTime, detail);
        }
        if commit.blocks.last().is_none_or(|last| last.block != header.leader) {
            return broken(Property::TotalOrder, format!("the leader of commit {} is not the last", header.index));
        }
        for fault in &commit.faults {
            if fault.kind == FaultKind::Downtime {
                // A correct validator may be down, or cut off.
                marks.hit(Mark::Downtime);
                continue;
            }
            let again = !self.proven.insert((fault.epoch, fault.author, fault.kind));
            let is_wrong = fault.kind == FaultKind::WrongAttestation && self.corruption.is(fault.author.into());
            if (self.is_correct(fault.author) && !is_wrong) || again {
                let detail = format!("commit {} proves {fault:?}, again: {again}", header.index);
                return broken(Property::NoFalseEvidence, detail);
            }
            marks.hit(if fault.epoch < header.epoch { Mark::EarlierFaultProven } else { Mark::FaultProven });
        }
        let mut attested = Vec::with_capacity(commit.blocks.len());
        for committed in &commit.blocks {
            let attestation = self.first_delivery(node, before, header.leader.round, committed, marks)?;
            attested.push((committed.block.author, attestation));
        }
        self.wrong_attestations(commit, &attested, marks)
    }

    /// A commit proves all wrong attestations that its blocks decide, and no others.
    fn wrong_attestations(
        &mut self,
        commit: &Commit,
        attested: &[(AuthorIdx, CkptRef)],
        marks: &mut Coverage,
    ) -> Result<(), Broken> {
        let epoch = commit.header.epoch;
        let version = self.versions[usize::try_from(epoch).unwrap_or(0)];
        let committee = self.context(epoch).committee.clone();
        let found = self.attestations.found(epoch, version, &committee, attested);
        let proven = commit.faults.iter().filter(|fault| fault.kind == FaultKind::WrongAttestation);
        let proven: BTreeSet<AuthorIdx> = proven.map(|fault| fault.author).collect();
        if proven != found {
            let detail =
                format!("commit {} proves wrong attestations of {proven:?}, not {found:?}", commit.header.index);
            return broken(Property::Accountability, detail);
        }
        marks.add(Mark::WrongAttestation, proven.len() as u64);
        Ok(())
    }

    fn first_delivery(
        &mut self,
        node: &Node,
        before: Before,
        round: u32,
        committed: &CommittedBlock,
        marks: &mut Coverage,
    ) -> Result<CkptRef, Broken> {
        let reference = committed.block;
        let bad = |detail: &str| Err((Property::Integrity, format!("{reference}: {detail}")));
        let decoded = node.blocks.get(&reference).map(|(bytes, _)| Block::decode(bytes));
        let Some(Ok(block)) = decoded else { return bad("is not in the log") };
        if let Err(invalid) = self.context(before.epoch).check(&block) {
            return bad(&invalid.to_string());
        }
        if block.reference() != reference || !is_signed(reference.author, &reference.digest, &block.signature) {
            return bad("is not signed by its author");
        }
        let missing = |parent: &&BlockRef| parent.round > before.gc_round && !self.delivered.contains(*parent);
        if let Some(parent) = block.parents.iter().find(missing) {
            return bad(&format!("its parent {parent} above {} was not delivered", before.gc_round));
        }
        if !self.delivered.insert(reference) {
            return Err((Property::TotalOrder, format!("{reference} is delivered twice")));
        }
        let owner = *self.slots.entry((before.epoch, reference.slot())).or_insert(reference);
        let mut expected: Vec<BatchRef> = Vec::new();
        if owner == reference {
            // An epoch knows nothing of the batches of the one before: elsewhere their digests differ.
            let late = |at: &(u64, u32)| at.0 == before.epoch && at.1 >= before.oldest;
            let lately = |batch: &&BatchRef| self.batches.get(&batch.digest).is_some_and(late);
            expected.extend(block.batches.iter().filter(|batch| !lately(batch)));
            marks.add(Mark::BatchDeliveredOnce, (block.batches.len() - expected.len()) as u64);
        } else {
            marks.hit(Mark::TwinDelivered);
        }
        if committed.batches != expected {
            let detail = format!("{reference} delivers {:?}, not {expected:?}", committed.batches);
            return Err((Property::TotalOrder, detail));
        }
        self.batches.extend(expected.iter().map(|batch| (batch.digest, (before.epoch, round))));
        Ok(block.core.attestation)
    }

    /// A validator has executed a commit.
    pub(crate) fn executed(
        &mut self,
        number: usize,
        outcome: &CommitOutcome,
        marks: &mut Coverage,
    ) -> Result<(), Broken> {
        if self.corruption.is(number) {
            return self.corruption.executed(outcome, &self.checkpoints);
        }
        if let Some(block) = &outcome.block {
            let (height, hash) = (block.header.height, block.header.hash());
            if hash != block.hash {
                return broken(Property::Agreement, format!("{number}: block {height} is named {}", block.hash));
            }
            match self.heights.get(&height) {
                None => {
                    self.heights.insert(height, hash);
                    marks.hit(Mark::LedgerBlock);
                    marks.add(Mark::Transaction, block.transactions.len() as u64);
                    marks.add(Mark::Exclusion, block.exclusions.len() as u64);
                }
                Some(agreed) if *agreed == hash => {}
                Some(agreed) => {
                    let detail = format!("block {height} of {number} is {hash}, before {agreed}: {:?}", block.header);
                    return broken(Property::Agreement, detail);
                }
            }
        }
        if let Some(checkpoint) = &outcome.checkpoint {
            let digest = checkpoint.digest();
            let agreed = *self.checkpoints.entry(checkpoint.seq).or_insert(digest);
            marks.hit(Mark::Checkpoint);
            if agreed != digest {
                let detail = format!("checkpoint {} of {number} is {checkpoint:?}, before {agreed}", checkpoint.seq);
                return broken(Property::Agreement, detail);
            }
        }
        Ok(())
    }

    /// A message leaves a correct validator.
    pub(crate) fn said(&mut self, author: AuthorIdx, bytes: &[u8]) -> Result<(), Broken> {
        if let Some(block) = pushed_block(bytes) {
            return self.said_block(author, block);
        }
        match bytes.first() {
            Some(1 | 3) => match Message::decode(bytes) {
                Ok(Message::FetchReply { blocks, .. }) => {
                    blocks.iter().try_for_each(|block| self.said_block(author, block))
                }
                _ => broken(Property::Survival, format!("{author} sends what does not decode")),
            },
            _ => Ok(()),
        }
    }

    fn said_block(&mut self, author: AuthorIdx, block: &[u8]) -> Result<(), Broken> {
        match core_of(block) {
            Some(core) if core.author == author => self.signed(&core),
            _ => Ok(()),
        }
    }

    /// A statement with a correct key has left its process.
    pub(crate) fn signed(&mut self, core: &BlockCore) -> Result<(), Broken> {
        let author = core.author;
        let digest = core.digest();
        let said = *self.blocks_said.entry((author, core.epoch, core.round)).or_insert(digest);
        if said != digest {
            let detail = format!("{author} signs {digest} and {said} in round {}", core.round);
            self.signed_again = Some((core.epoch, BlockRef { round: core.round, author, digest: said }));
            return broken(Property::NoEquivocation, detail);
        }
        let (vote, attestation) = (core.commit_vote, core.attestation);
        let voted = *self.voted.entry((author, core.epoch, vote.index)).or_insert(vote.digest);
        let attested = *self.attested.entry((author, attestation.seq)).or_insert(attestation.digest);
        if voted != vote.digest || attested != attestation.digest {
            let detail = format!("{author}: {vote:?} after {voted}, {attestation:?} after {attested}");
            return broken(Property::NoEquivocation, detail);
        }
        Ok(())
    }

    /// A look at a validator in a quiet network: evidence that it holds is proven within so many rounds.
    pub(crate) fn accountable(&mut self, number: usize, status: &Status) -> Result<(), Broken> {
        // Who does not sign cannot report.
        if status.pending_evidence == 0 || status.mode != Mode::Active {
            self.owed.remove(&number);
            return Ok(());
        }
        let round = self.round();
        let since = *self.owed.entry(number).or_insert(round);
        if round > since + PROVEN_WITHIN {
            let detail = format!("{number} holds evidence since round {since} that no commit proves");
            return broken(Property::Accountability, detail);
        }
        Ok(())
    }

    /// A validator holds a certificate.
    pub(crate) fn certified(&self, number: usize, certificate: &Certificate) -> Result<(), Broken> {
        let CkptRef { seq, digest } = certificate.checkpoint;
        let bad = |detail: String| broken(Property::Checkpoint, format!("{number}, certificate {seq}: {detail}"));
        if self.checkpoints.get(&seq).is_some_and(|agreed| *agreed != digest) {
            return bad(format!("is of {digest}"));
        }
        let epoch = certificate.cores.first().map_or(0, |signed| signed.core.epoch);
        let committee = &self.context(epoch).committee;
        if certificate.stake(committee) < committee.quorum() {
            return bad("has no quorum".to_owned());
        }
        for signed in &certificate.cores {
            let (core, attestation) = (&signed.core, signed.core.attestation);
            let known = self.checkpoints.get(&attestation.seq).is_none_or(|agreed| *agreed == attestation.digest);
            if core.epoch != epoch
                || attestation.seq < seq
                || !known
                || !is_signed(core.author, &core.digest(), &signed.signature)
            {
                return bad(format!("holds {core:?}"));
            }
        }
        Ok(())
    }

    pub(crate) fn evidence(&self, number: usize, evidence: &Evidence) -> Result<(), Broken> {
        let author = evidence.a.core.author;
        if self.is_correct(author) || !is_proof(evidence) {
            return broken(Property::NoFalseEvidence, format!("{number} accuses {author}: {:?}", evidence.kind));
        }
        Ok(())
    }

    pub(crate) fn alarm(&mut self, number: usize, alarm: &Alarm, marks: &mut Coverage) -> Result<(), Broken> {
        let accused = match alarm {
            Alarm::CommitVoteDiffers { author, .. } => Some(*author),
            Alarm::WatermarkFell { block } => Some(block.author),
            Alarm::SigningFloorUnknown | Alarm::OwnBlockNotInLog { .. } if self.lost.contains(&number) => {
                marks.hit(Mark::LogDoubted);
                return Ok(());
            }
            Alarm::SigningFloorProven { .. } if self.lost.contains(&number) => {
                marks.hit(Mark::FloorProven);
                return Ok(());
            }
            Alarm::SigningFloorUnknown | Alarm::OwnBlockNotInLog { .. } | Alarm::SigningFloorProven { .. } => None,
            Alarm::WrongAttestation { author, .. } if !self.is_correct(*author) => Some(*author),
            Alarm::WrongAttestation { author, attested, .. } => {
                return self.corruption.accused(number, *author, attested.seq);
            }
            Alarm::Diverged(divergence) => return self.corruption.noticed(number, divergence),
        };
        if accused.is_none_or(|author| self.is_correct(author)) {
            return broken(Property::NoFalseEvidence, format!("{number} raises {alarm:?}"));
        }
        Ok(())
    }
}

/// Two statements that contradict each other, signed by one author.
fn is_proof(evidence: &Evidence) -> bool {
    let signed = |it: &SignedCore| is_signed(it.core.author, &it.core.digest(), &it.signature);
    evidence.is_well_formed() && signed(&evidence.a) && signed(&evidence.b)
}

/// The oracle, given the blocks that a validator has logged, must see the commits that it has logged.
pub(crate) fn against_oracle(checks: &Checks, number: usize, node: &Node) -> Result<(), Broken> {
    let Some(machine) = &node.machine else { return Ok(()) };
    let epoch = machine.config().epoch;
    let base = machine.config().base.index;
    let gc_depth = machine.config().params.gc_depth;
    let mut oracle = Oracle::new(machine.committee().clone(), gc_depth, Mutation::None).after(base);
    // The newest commit taken while catching up: a quorum has certified it, and the blocks here may not decide it yet.
    let (mut catching_up, mut certified) = (false, 0);
    for (place, (entry, block)) in node.disk.entries.iter().zip(&node.disk.blocks).enumerate() {
        // A process does not go on with the catch-up of the one before, nor an epoch.
        catching_up &= node.starts.binary_search(&place).is_err();
        let Entry::Record(record) = entry else { continue };
        match record {
            Record::Mode { catching_up: now } => catching_up = *now,
            Record::EpochStart(_) => catching_up = false,
            Record::Commit(commit) if catching_up => certified = commit.header.index,
            _ => {}
        }
        if let Some(bytes) = record.block() {
            let (of_epoch, reference) = block.ok_or_else(|| (Property::Integrity, "no block in the log".to_owned()))?;
            if of_epoch != epoch {
                continue;
            }
            let known = checks.read.borrow_mut().entry(reference).or_insert_with(|| Read::of(bytes)).clone();
            let known = known.map_err(|error| (Property::Integrity, error))?;
            oracle.insert(reference, &known.parents);
            known.accused.iter().for_each(|author| oracle.accuse(reference, *author));
        }
    }
    let schedule = machine.schedule();
    let candidates = |round| {
        let mut drawn = checks.drawn.borrow_mut();
        drawn.entry((epoch, round)).or_insert_with(|| schedule.candidates(machine.committee(), round)).clone()
    };
    let expected = oracle.follow(schedule.rules(), &candidates).commits;
    let known = node.commits.len();
    let commits = || node.commits.range(base + 1..).map(|(_, commit)| commit);
    let last = node.commits.last_key_value().map_or(0, |(index, _)| *index);
    let mut surplus = commits().skip(expected.len());
    if known as u64 != last || surplus.any(|commit| commit.header.index > certified) {
        let detail = format!("{number} has {known} commits up to {last}, the oracle {}", expected.len());
        return broken(Property::Oracle, detail);
    }
    for (commit, expected) in commits().zip(expected) {
        let mut blocks: Vec<BlockRef> = commit.blocks.iter().map(|b| b.block).collect();
        blocks.sort_unstable();
        if commit.header.leader != expected.leader || blocks != expected.blocks {
            let detail = format!("{number}: commit {} by {}", commit.header.index, commit.header.leader);
            return broken(Property::Oracle, format!("{detail}, the oracle has {}", expected.leader));
        }
        let (own, expected) = (commit.header.schedule_digest, expected.schedule_digest);
        if own != expected {
            let detail = format!("{number}: commit {} names {own}", commit.header.index);
            return broken(Property::Schedule, format!("{detail}, the oracle has {expected}"));
        }
    }
    Ok(())
}
