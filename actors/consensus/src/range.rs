//! Certified ranges of commits (consensus.md 9.5): putting one together from a log, and what must hold for one before
//! its signatures are looked at.
//!
//! A commit vote names the newest commit that its author has computed, and commits are chained: so votes of a quorum
//! at or after the last commit of a range certify all of it. They stand in the blocks of the commits that follow. Where
//! there are no such votes a range goes without: whoever takes it decides for itself.

use std::collections::BTreeMap;

use aurigraph_ledger::hash::Hash;

use crate::block::SignedCore;
use crate::commit::{CommitHeader, blocks_root};
use crate::committee::{Committee, StakeSet};
use crate::config::{MAX_RANGE_COMMITS, MAX_RANGE_HEADERS, SIGNED_CORE_LEN};
use crate::message::{BlockBytes, CommitRange};
use crate::types::{AuthorIdx, BlockRef, CommitIndex, CommitRef, RequestId, Stake};

/// A block of a commit, as the log holds it.
#[derive(Debug, Clone)]
pub struct ServedBlock {
    /// Which block.
    pub reference: BlockRef,
    /// Its canonical bytes.
    pub bytes: BlockBytes,
    /// Whether its signature was ever checked here: one that came in a certified range was not.
    pub checked: bool,
}

/// Puts a range together: give it the commits of the log one after the other, from the first that was asked for on,
/// until it wants no more.
pub struct RangeBuilder<'a> {
    range: CommitRange,
    committee: Committee,
    verify: &'a dyn Fn(&SignedCore) -> bool,
    count: usize,
    /// Blocks in the range after each of its commits.
    ends: Vec<usize>,
    /// Whether the signature of each of its blocks was checked.
    checked: Vec<bool>,
    /// No more commits are served; what follows is read for its votes.
    full: bool,
    /// The epoch's last commit was given: its certificate certifies what its votes do not.
    ended: bool,
    digests: BTreeMap<CommitIndex, Hash>,
    /// The newest vote of each validator for a commit that was given.
    votes: BTreeMap<AuthorIdx, SignedCore>,
    newest: Vec<SignedCore>,
}

impl<'a> RangeBuilder<'a> {
    /// For a request for at most `count` commits. `newest` are the newest cores of each validator whose signatures were
    /// checked: their votes certify the newest commits. `verify` checks the signature of a block that was not.
    #[must_use]
    pub fn new(
        request: RequestId,
        commit_index: CommitIndex,
        count: u16,
        committee: Committee,
        newest: Vec<SignedCore>,
        verify: &'a dyn Fn(&SignedCore) -> bool,
    ) -> Self {
        Self {
            range: CommitRange::new(request, commit_index),
            committee,
            verify,
            count: usize::from(count).min(MAX_RANGE_COMMITS),
            ends: Vec::new(),
            checked: Vec::new(),
            full: false,
            ended: false,
            digests: BTreeMap::new(),
            votes: BTreeMap::new(),
            newest,
        }
    }

    /// Takes the next commit, with its blocks in their order. Returns whether another one is wanted.
    pub fn push(&mut self, header: CommitHeader, blocks: Vec<ServedBlock>) -> bool {
        if self.range.commits.first().is_some_and(|first| first.header.epoch != header.epoch) {
            self.ended = true;
            return false;
        }
        self.digests.insert(header.index, header.digest());
        let closed = self.full;
        self.scan(&blocks, closed);
        if !closed {
            let mut checked: Vec<bool> = blocks.iter().map(|block| block.checked).collect();
            let bytes = blocks.into_iter().map(|block| (block.reference, block.bytes)).collect();
            let held = self.range.blocks.len();
            if self.range.push(header.clone(), bytes) {
                checked.truncate(self.range.blocks.len() - held);
                self.checked.append(&mut checked);
                self.ends.push(self.range.blocks.len());
                self.full = self.range.commits.len() >= self.count;
                return true;
            }
            self.full = true;
        }
        self.range.headers.push(header);
        let last = self.range.commits.last().map_or(0, |commit| commit.header.index);
        // What is cut off later becomes headers, too.
        self.certified() < last && self.range.headers.len() < MAX_RANGE_HEADERS - MAX_RANGE_COMMITS
    }

    /// Takes the votes of these blocks. Signatures that nobody has checked are checked where votes are all that is
    /// looked for: a vote with a bad one would cost the whole range.
    fn scan(&mut self, blocks: &[ServedBlock], closed: bool) {
        for block in blocks {
            let Some(signed) = signed_core(&block.bytes).filter(|signed| self.is_newer(signed)) else { continue };
            if block.checked || (closed && (self.verify)(&signed)) {
                self.votes.insert(signed.core.author, signed);
            }
        }
    }

    /// Whether this core votes for a commit that was given, and for a later one than its author's vote so far.
    fn is_newer(&self, signed: &SignedCore) -> bool {
        let vote = signed.core.commit_vote;
        let before = self.votes.get(&signed.core.author).map_or(0, |vote| vote.core.commit_vote.index);
        vote.index > before && self.digests.get(&vote.index) == Some(&vote.digest)
    }

    /// The newest commit that votes of a quorum certify.
    fn certified(&self) -> CommitIndex {
        let votes = self.votes.values().map(|signed| (signed.core.commit_vote.index, signed.core.author)).collect();
        crate::machine::highest_with(&self.committee, votes, self.committee.quorum())
    }

    /// The range, cut to what is certified. If that is nothing: without votes, and cut to blocks whose signatures hold.
    #[must_use]
    pub fn finish(mut self) -> CommitRange {
        for signed in std::mem::take(&mut self.newest) {
            if self.is_newer(&signed) {
                self.votes.insert(signed.core.author, signed);
            }
        }
        let (certified, last) = (self.certified(), self.digests.last_key_value().map_or(0, |(index, _)| *index));
        // Who asks for commits of an epoch that is over knows its end.
        let by_end = self.ended && self.range.commits.last().is_some_and(|commit| commit.header.index > certified);
        let certified = if by_end { last } else { certified };
        let mut range = self.range;
        let kept = range.commits.partition_point(|commit| commit.header.index <= certified);
        if kept == 0 {
            range.headers.clear();
            let holds = |(bytes, checked): (&BlockBytes, &bool)| {
                *checked || signed_core(bytes).is_some_and(|it| (self.verify)(&it))
            };
            let good = range.blocks.iter().zip(&self.checked).take_while(|block| holds(*block)).count();
            range.blocks.truncate(good);
            return range;
        }
        range.blocks.truncate(kept.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0));
        let cut = range.commits.split_off(kept);
        let mut headers: Vec<CommitHeader> = cut.into_iter().map(|commit| commit.header).collect();
        headers.append(&mut range.headers);
        let Some(last) = range.commits.last().map(|commit| commit.header.index) else {
            return CommitRange::new(range.request, range.commit_index);
        };
        if by_end {
            return CommitRange { headers, ..range };
        }
        let mut votes: Vec<SignedCore> =
            self.votes.into_values().filter(|signed| signed.core.commit_vote.index >= last).collect();
        votes.sort_by_key(|signed| (signed.core.commit_vote.index, signed.core.author));
        let mut authors = StakeSet::default();
        let needed = votes.iter().position(|signed| {
            authors.add(&self.committee, signed.core.author);
            authors.stake() >= self.committee.quorum()
        });
        votes.truncate(needed.map_or(0, |at| at + 1));
        let newest = votes.last().map_or(0, |signed| signed.core.commit_vote.index);
        headers.retain(|header| header.index <= newest);
        CommitRange { headers, votes, ..range }
    }
}

fn signed_core(block: &[u8]) -> Option<SignedCore> {
    SignedCore::decode(block.get(..SIGNED_CORE_LEN)?).ok()
}

/// Why a range is not one that a correct node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// No commits: the server has none.
    #[error("the range holds no commits")]
    Empty,
    /// The commits do not follow each other, or the asker's own newest one, or name other blocks.
    #[error("commit {index} does not follow")]
    NoChain {
        /// The first that does not.
        index: CommitIndex,
    },
    /// No votes at all, and it does not reach the certified end of the epoch: the server has nothing to certify it with.
    /// Everything else that is checked before votes holds.
    #[error("the range is not certified")]
    Uncertified,
    /// A vote by a stranger, by an author that has voted, or for no commit of the chain at or after the last one.
    #[error("a vote of {author} counts for nothing")]
    Vote {
        /// By whom.
        author: AuthorIdx,
    },
    /// Too little stake.
    #[error("votes of {stake} of stake, {quorum} are needed")]
    Stake {
        /// That votes.
        stake: Stake,
        /// A quorum.
        quorum: Stake,
    },
}

impl CommitRange {
    /// Checks that these commits follow `before` and that a quorum of `committee` says it has computed them, or that they
    /// lead to the certified end of their epoch. What is left to check are the signatures of `votes`, and that they are of
    /// this epoch.
    ///
    /// # Errors
    /// If one of it does not hold.
    pub fn check(&self, before: CommitRef, committee: &Committee, end: Option<CommitRef>) -> Result<(), RangeError> {
        let Some(last) = self.commits.last() else { return Err(RangeError::Empty) };
        let mut digests = BTreeMap::new();
        let mut previous = before;
        for commit in &self.commits {
            let header = &commit.header;
            let listed = usize::try_from(header.block_count).is_ok_and(|count| count == commit.blocks.len());
            let named = listed && header.blocks_root == blocks_root(commit.blocks.iter());
            previous = follow(previous, header).filter(|_| named).ok_or(RangeError::NoChain { index: header.index })?;
        }
        digests.insert(previous.index, previous.digest);
        for header in &self.headers {
            previous = follow(previous, header).ok_or(RangeError::NoChain { index: header.index })?;
            digests.insert(previous.index, previous.digest);
        }
        if self.votes.is_empty() {
            let ends = end.is_some_and(|end| digests.get(&end.index) == Some(&end.digest));
            return if ends { Ok(()) } else { Err(RangeError::Uncertified) };
        }
        let mut authors = StakeSet::default();
        for signed in &self.votes {
            let (author, vote) = (signed.core.author, signed.core.commit_vote);
            let counts = committee.contains(author)
                && !authors.contains(author)
                && vote.index >= last.header.index
                && digests.get(&vote.index) == Some(&vote.digest);
            if !counts {
                return Err(RangeError::Vote { author });
            }
            authors.add(committee, author);
        }
        if authors.stake() < committee.quorum() {
            return Err(RangeError::Stake { stake: authors.stake(), quorum: committee.quorum() });
        }
        Ok(())
    }
}

fn follow(previous: CommitRef, header: &CommitHeader) -> Option<CommitRef> {
    let follows = previous.index.checked_add(1) == Some(header.index) && header.prev_digest == previous.digest;
    follows.then(|| header.reference())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::testing::{genesis_of, sealed_block};
    use crate::types::LeaderSlot;

    fn config() -> Config {
        Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], None)
    }

    fn genesis() -> CommitRef {
        let config = config();
        crate::commit::genesis_commit(&config.chain_id, config.epoch, &config.epoch_seed, config.base)
    }

    /// Commits of one block each; the block of commit `k` votes for commit `k - lag`, the authors take turns.
    fn chain(length: u64, lag: u64) -> Vec<(CommitHeader, Vec<ServedBlock>)> {
        let config = config();
        let mut digests = vec![genesis()];
        let mut made = Vec::new();
        for index in 1..=length {
            let author = AuthorIdx::try_from(index % 4).expect("small");
            let parents = vec![genesis_of(&config)[usize::from(author)]];
            let mut block = sealed_block(&config, u32::try_from(index).expect("small"), author, parents, vec![]);
            block.core.commit_vote = digests[usize::try_from(index.saturating_sub(lag)).expect("small")];
            let reference = block.reference();
            let header = CommitHeader {
                epoch: 0,
                index,
                prev_digest: digests.last().expect("genesis").digest,
                timestamp_ms: index,
                leader: reference,
                blocks_root: blocks_root([reference].iter()),
                block_count: 1,
                gc_round: 0,
                schedule_digest: Hash::ZERO,
                last_decided: LeaderSlot { round: reference.round, offset: 0, author },
            };
            digests.push(header.reference());
            made.push((header, vec![ServedBlock { reference, bytes: block.encode(), checked: true }]));
        }
        made
    }

    fn served(chain: &[(CommitHeader, Vec<ServedBlock>)], count: u16, newest: Vec<SignedCore>) -> CommitRange {
        let committee = Committee::new(vec![1; 4]).expect("valid");
        let mut builder = RangeBuilder::new(7, chain.len() as u64, count, committee, newest, &|_| false);
        for (header, blocks) in chain {
            if !builder.push(header.clone(), blocks.clone()) {
                break;
            }
        }
        builder.finish()
    }

    fn committee() -> Committee {
        Committee::new(vec![1; 4]).expect("valid")
    }

    #[test]
    fn a_range_is_certified_by_the_votes_in_the_commits_that_follow() {
        let chain = chain(60, 3);
        let range = served(&chain, 20, Vec::new());
        assert_eq!(range.commits.len(), 20);
        assert_eq!(range.blocks.len(), 20);
        // Votes for 20 and later stand in 23, 24 and 25: no more headers than these need.
        let voted: Vec<u64> = range.votes.iter().map(|signed| signed.core.commit_vote.index).collect();
        assert_eq!((voted, range.headers.len()), (vec![20, 21, 22], 2));
        range.check(genesis(), &committee(), None).expect("certified");
    }

    #[test]
    fn at_the_end_of_the_log_a_range_is_cut_to_what_is_certified() {
        let chain = chain(20, 3);
        let range = served(&chain, 64, Vec::new());
        assert_eq!(range.commits.last().expect("some").header.index, 15);
        assert_eq!(range.blocks.len(), 15);
        range.check(genesis(), &committee(), None).expect("certified");
        // What the server has seen of the validators since reaches further.
        let newest = chain.iter().skip(16).map(|(_, blocks)| {
            let mut signed = SignedCore::decode(&blocks[0].bytes[..SIGNED_CORE_LEN]).expect("a core");
            signed.core.commit_vote = chain[18].0.reference();
            signed
        });
        let range = served(&chain, 64, newest.collect());
        assert_eq!(range.commits.last().expect("some").header.index, 19);
        range.check(genesis(), &committee(), None).expect("certified");
        // Nothing at all is certified: it goes without votes.
        let range = served(&chain[..3], 64, Vec::new());
        assert_eq!((range.commits.len(), range.blocks.len(), range.headers.len(), range.votes.len()), (3, 3, 0, 0));
        assert_eq!(range.check(genesis(), &committee(), None), Err(RangeError::Uncertified));
        assert_eq!(served(&[], 64, Vec::new()), CommitRange::new(7, 0));
    }

    #[test]
    fn a_vote_whose_signature_nobody_has_checked_is_checked_before_it_is_served() {
        let mut chain = chain(60, 3);
        for (_, blocks) in &mut chain {
            blocks[0].checked = false;
        }
        // A block with a signature that does not hold is in no range without votes, nor what follows it.
        let range = served(&chain, 20, Vec::new());
        assert_eq!((range.votes.len(), range.blocks.len()), (0, 0));
        let mut builder = RangeBuilder::new(7, 60, 20, committee(), Vec::new(), &|_| true);
        let mut commits = chain.into_iter();
        while let Some((header, blocks)) = commits.next().filter(|_| true) {
            if !builder.push(header, blocks) {
                break;
            }
        }
        builder.finish().check(genesis(), &committee(), None).expect("certified");
    }

    #[test]
    fn what_is_wrong_with_a_range_is_found() {
        let good = served(&chain(60, 3), 20, Vec::new());
        let mut stale = good.clone();
        stale.commits.remove(0);
        assert_eq!(stale.check(genesis(), &committee(), None), Err(RangeError::NoChain { index: 2 }));
        let mut other_blocks = good.clone();
        other_blocks.commits[4].blocks[0].author ^= 1;
        assert_eq!(other_blocks.check(genesis(), &committee(), None), Err(RangeError::NoChain { index: 5 }));
        let mut other_header = good.clone();
        other_header.headers[0].timestamp_ms += 1;
        assert_eq!(other_header.check(genesis(), &committee(), None), Err(RangeError::NoChain { index: 22 }));
        let mut few = good.clone();
        few.votes.pop();
        assert_eq!(few.check(genesis(), &committee(), None), Err(RangeError::Stake { stake: 2, quorum: 3 }));
        let mut twice = good.clone();
        twice.votes[2] = twice.votes[1].clone();
        assert!(matches!(twice.check(genesis(), &committee(), None), Err(RangeError::Vote { .. })));
        let mut early = good.clone();
        early.votes[0].core.commit_vote = good.commits[18].header.reference();
        assert!(matches!(early.check(genesis(), &committee(), None), Err(RangeError::Vote { .. })));
        let mut stranger = good.clone();
        stranger.votes[0].core.author = 99;
        assert_eq!(stranger.check(genesis(), &committee(), None), Err(RangeError::Vote { author: 99 }));
        assert_eq!(CommitRange::new(1, 1).check(genesis(), &committee(), None), Err(RangeError::Empty));
    }
}
