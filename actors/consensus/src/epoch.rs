//! Epochs (consensus.md 10): what ends one, what certifies its end, and what the next one starts from.
//!
//! Only data and the pure rule; what the machine does about it stands in `closing`.

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::Hash;

use crate::block::{Evidence, SignedCore};
use crate::committee::{Committee, StakeSet};
use crate::config::{Config, EpochParams, MAX_CARRIED_EVIDENCE, MAX_VALIDATORS};
use crate::types::{AuthorIdx, CkptRef, CommitIndex, CommitRef, Epoch, Round, Stake, TimeMs};

/// Most bytes of the encoded validator set that an epoch's first record carries: 128 validators with two keys each.
pub const MAX_SET_BYTES: usize = 2 * 1024 * 1024;

/// Where an epoch's commits start: the last commit of the one before. Indices and time run on over epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EpochBase {
    /// Index of that commit; 0 before the first epoch.
    pub index: CommitIndex,
    /// Its time: no later commit is before it.
    pub timestamp_ms: TimeMs,
}

/// That a commit is its epoch's last, and what the ledger needs to know of the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEnd {
    /// Delivered blocks of each validator, by its index. A second version of a slot does not count.
    pub delivered: Vec<u64>,
    /// The protocol version of the next epoch.
    pub version: u16,
}

impl EpochEnd {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u16(self.version).varint(self.delivered.len() as u64);
        for count in &self.delivered {
            w.u64(*count);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let version = r.u16()?;
        let count = r.varint_max("validators of an epoch", MAX_VALIDATORS as u64)?;
        let delivered = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
        Ok(Self { delivered, version })
    }
}

/// What the commits of an epoch say of its end: a function of these commits and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochTally {
    /// Time of the epoch's first commit: its length counts from there.
    pub first_ms: Option<TimeMs>,
    /// Delivered blocks of each validator.
    pub delivered: Vec<u64>,
    /// Round of each validator's newest delivered block, and the protocol version that it supports.
    pub supports: Vec<(Round, u16)>,
    /// The end, once a commit is the last.
    pub end: Option<EpochEnd>,
}

/// What the tally takes from a delivered block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliveredBlock {
    pub(crate) author: AuthorIdx,
    pub(crate) round: Round,
    pub(crate) supports: u16,
}

impl EpochTally {
    pub(crate) fn new(validators: usize) -> Self {
        Self { first_ms: None, delivered: vec![0; validators], supports: vec![(0, 0); validators], end: None }
    }

    /// Counts a commit; gives the end if it is the epoch's last: the first one whose time or number reaches the bounds.
    pub(crate) fn on_commit(
        &mut self,
        config: &Config,
        committee: &Committee,
        commit: (CommitIndex, TimeMs),
        blocks: impl Iterator<Item = DeliveredBlock>,
    ) -> Option<EpochEnd> {
        for block in blocks {
            let author = usize::from(block.author);
            if let (Some(count), Some(newest)) = (self.delivered.get_mut(author), self.supports.get_mut(author)) {
                *count += 1;
                if block.round > newest.0 {
                    *newest = (block.round, block.supports);
                }
            }
        }
        let (index, timestamp_ms) = commit;
        let first_ms = *self.first_ms.get_or_insert(timestamp_ms);
        let commits = index.saturating_sub(config.base.index);
        if !is_over(&config.params, timestamp_ms.saturating_sub(first_ms), commits) {
            return None;
        }
        let version = self.next_version(committee, config.version);
        self.end = Some(EpochEnd { delivered: self.delivered.clone(), version });
        self.end.clone()
    }

    /// The newest version that the newest delivered blocks of a quorum support; never an older one than now.
    fn next_version(&self, committee: &Committee, now: u16) -> u16 {
        let authors = committee.authors().zip(&self.supports);
        let mut supported: Vec<(u16, AuthorIdx)> = authors.map(|(author, (_, version))| (*version, author)).collect();
        supported.sort_unstable_by(|a, b| b.cmp(a));
        let mut stake = 0;
        for (version, author) in supported {
            stake += committee.stake(author);
            if stake >= committee.quorum() {
                return version.max(now);
            }
        }
        now
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        match self.first_ms {
            None => w.u8(0),
            Some(first_ms) => w.u8(1).u64(first_ms),
        };
        w.varint(self.delivered.len() as u64);
        for (count, (round, version)) in self.delivered.iter().zip(&self.supports) {
            w.u64(*count).u32(*round).u16(*version);
        }
        match &self.end {
            None => {
                w.u8(0);
            }
            Some(end) => {
                w.u8(1);
                end.write(w);
            }
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let first_ms = if read_flag(r)? { Some(r.u64()?) } else { None };
        let mut tally = Self { first_ms, ..Self::default() };
        for _ in 0..r.varint_max("validators of an epoch", MAX_VALIDATORS as u64)? {
            tally.delivered.push(r.u64()?);
            tally.supports.push((r.u32()?, r.u16()?));
        }
        tally.end = if read_flag(r)? { Some(EpochEnd::read(r)?) } else { None };
        Ok(tally)
    }
}

fn read_flag(r: &mut Reader<'_>) -> Result<bool, CodecError> {
    match r.u8()? {
        flag @ 0..=1 => Ok(flag == 1),
        flag => Err(CodecError::Invalid { what: "option tag", value: u64::from(flag) }),
    }
}

const fn is_over(params: &EpochParams, age_ms: TimeMs, commits: u64) -> bool {
    (params.epoch_ms > 0 && age_ms >= params.epoch_ms) || (params.epoch_commits > 0 && commits >= params.epoch_commits)
}

const CERT_VERSION: u8 = 1;

/// That an epoch has ended: validators with a quorum of its stake attest the checkpoint of its last commit. Whoever holds
/// it may start the next epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochCert {
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// Its last commit: every one of the cores votes for it.
    pub commit: CommitRef,
    /// The checkpoint after that commit: every one of the cores attests it. Its digest seeds the next epoch.
    pub checkpoint: CkptRef,
    /// Signed cores of different validators.
    pub cores: Vec<SignedCore>,
}

impl EpochCert {
    /// Stake of the authors, each counted once.
    #[must_use]
    pub fn stake(&self, committee: &Committee) -> Stake {
        StakeSet::of(committee, self.cores.iter().map(|signed| signed.core.author)).stake()
    }

    /// Whether it is one, but for the signatures: cores of this chain and epoch by different validators with a quorum of
    /// stake, all for the same commit and checkpoint.
    #[must_use]
    pub fn is_well_formed(&self, chain_id: &Hash, committee: &Committee) -> bool {
        let authors = StakeSet::of(committee, self.cores.iter().map(|signed| signed.core.author));
        let fits = |signed: &SignedCore| {
            let core = &signed.core;
            core.chain_id == *chain_id
                && core.epoch == self.epoch
                && core.attestation == self.checkpoint
                && core.commit_vote == self.commit
        };
        self.checkpoint.seq > 0
            && self.cores.iter().all(fits)
            && authors.authors().count() == self.cores.len()
            && authors.stake() >= committee.quorum()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.write(&mut w);
        w.into_bytes()
    }

    /// Takes a certificate from its canonical bytes. Nothing of what it claims is checked.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let cert = Self::read(&mut r)?;
        r.finish()?;
        Ok(cert)
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u8(CERT_VERSION).u64(self.epoch);
        self.commit.write(w);
        self.checkpoint.write(w);
        w.varint(self.cores.len() as u64);
        for signed in &self.cores {
            signed.write(w);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        match r.u8()? {
            CERT_VERSION => {}
            other => return Err(CodecError::Invalid { what: "epoch certificate version", value: other.into() }),
        }
        let epoch = r.u64()?;
        let (commit, checkpoint) = (CommitRef::read(r)?, CkptRef::read(r)?);
        let count = r.varint_max("cores of an epoch certificate", MAX_VALIDATORS as u64)?;
        let cores = (0..count).map(|_| SignedCore::read(r)).collect::<Result<_, _>>()?;
        Ok(Self { epoch, commit, checkpoint, cores })
    }
}

/// The first record of an epoch: what a machine of it is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// Digest of the final checkpoint of the epoch before.
    pub seed: Hash,
    /// Where its commits start.
    pub base: EpochBase,
    /// The protocol version that it runs.
    pub version: u16,
    /// The signing floor: 0, since nothing of the epoch was signed before; [`crate::SIGN_NOTHING`] if the log was doubtful
    /// when the epoch before ended, or so late in it that what ended the doubt says nothing of this epoch (ADR 0043).
    pub floor: Round,
    /// The validators, as the driver writes them; the machine does not look inside.
    pub set: Vec<u8>,
    /// Evidence that this node has found in earlier epochs and no commit has proven, ascending by accusation: it goes into
    /// blocks of this one. At most [`MAX_CARRIED_EVIDENCE`].
    pub evidence: Vec<Evidence>,
}

impl EpochStart {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.epoch).hash(&self.seed).u64(self.base.index).u64(self.base.timestamp_ms).u16(self.version);
        w.u32(self.floor).bytes(&self.set).varint(self.evidence.len() as u64);
        self.evidence.iter().for_each(|evidence| evidence.write(w));
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (epoch, seed) = (r.u64()?, r.hash()?);
        let base = EpochBase { index: r.u64()?, timestamp_ms: r.u64()? };
        let (version, floor) = (r.u16()?, r.u32()?);
        let set = r.bytes("validator set", MAX_SET_BYTES)?.to_vec();
        let count = r.varint_max("evidence of earlier epochs", MAX_CARRIED_EVIDENCE as u64)?;
        let evidence = (0..count).map(|_| Evidence::read(r)).collect::<Result<Vec<_>, _>>()?;
        if let Some(at) = evidence.windows(2).position(|pair| pair[0].accusation() >= pair[1].accusation()) {
            return Err(CodecError::Invalid { what: "evidence of earlier epochs", value: at as u64 });
        }
        Ok(Self { epoch, seed, base, version, floor, set, evidence })
    }
}

impl Config {
    /// The same configuration in the epoch that this record starts.
    #[must_use]
    pub fn at(&self, start: &EpochStart, stakes: Vec<Stake>, own: Option<AuthorIdx>) -> Self {
        let mut next = Self {
            epoch: start.epoch,
            epoch_seed: start.seed,
            base: start.base,
            version: start.version,
            stakes,
            own,
            ..self.clone()
        };
        let n = u16::try_from(next.stakes.len()).unwrap_or(u16::MAX);
        next.params.leaders_per_round = next.params.leaders_per_round.min(n);
        next.limits.want_blocks = next.limits.want_blocks.max(4 * next.stakes.len() * 64);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(epoch_ms: u64, epoch_commits: u64) -> Config {
        let mut config = Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], Some(0));
        config.params.epoch_ms = epoch_ms;
        config.params.epoch_commits = epoch_commits;
        config.base = EpochBase { index: 100, timestamp_ms: 5_000 };
        config
    }

    fn tally_until_end(config: &Config, supports: [u16; 4]) -> (u64, EpochEnd) {
        let committee = Committee::new(config.stakes.clone()).expect("valid");
        let mut tally = EpochTally::new(4);
        for (index, round) in (101..200).zip(1..) {
            let block = |author: u16| DeliveredBlock { author, round, supports: supports[usize::from(author)] };
            let blocks = (0..4).filter(|author| round % 2 == 0 || *author < 3).map(block);
            let end = tally.on_commit(config, &committee, (index, 6_000 + 100 * u64::from(round)), blocks);
            let mut w = Writer::new();
            tally.write(&mut w);
            let bytes = w.into_bytes();
            assert_eq!(EpochTally::read(&mut Reader::new(&bytes)).expect("decodes"), tally);
            if let Some(end) = end {
                return (index, end);
            }
        }
        panic!("no end");
    }

    #[test]
    fn an_epoch_ends_at_the_first_commit_that_reaches_its_length_or_its_number() {
        assert_eq!(tally_until_end(&config(450, 0), [1; 4]).0, 106, "the sixth is 500 ms after the first");
        assert_eq!(tally_until_end(&config(0, 3), [1; 4]).0, 103);
        let (index, end) = tally_until_end(&config(1_000, 4), [1; 4]);
        assert_eq!((index, end.delivered), (104, vec![4, 4, 4, 2]));
    }

    #[test]
    fn a_version_comes_when_a_quorum_supports_it_and_none_goes_back() {
        let version = |supports| tally_until_end(&config(0, 4), supports).1.version;
        assert_eq!(version([2, 2, 1, 1]), 1);
        assert_eq!(version([2, 2, 3, 1]), 2);
        let mut newer = config(0, 4);
        newer.version = 4;
        assert_eq!(tally_until_end(&newer, [2, 2, 2, 2]).1.version, 4);
    }
}
