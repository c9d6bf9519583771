//! The validators of an epoch and their stake: quorums in integers.

use std::collections::BTreeSet;

use crate::config::{Config, ConfigError, MAX_TOTAL_STAKE, MAX_VALIDATORS};
use crate::types::{AuthorIdx, Stake};

/// Stakes and thresholds of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committee {
    stakes: Vec<Stake>,
    total: Stake,
}

impl Committee {
    /// Checks and takes the stakes.
    ///
    /// # Errors
    /// If there are none, too many, one is zero, or the total is too large.
    pub fn new(stakes: Vec<Stake>) -> Result<Self, ConfigError> {
        if stakes.is_empty() || stakes.len() > MAX_VALIDATORS {
            return Err(ConfigError::Validators(stakes.len()));
        }
        let mut total: Stake = 0;
        for (index, stake) in (0_u16..).zip(&stakes) {
            if *stake == 0 {
                return Err(ConfigError::NoStake(index));
            }
            total = total.checked_add(*stake).filter(|t| *t <= MAX_TOTAL_STAKE).ok_or(ConfigError::TotalStake)?;
        }
        Ok(Self { stakes, total })
    }

    /// How many validators.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stakes.len()
    }

    /// Never true: an epoch has at least one validator.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stakes.is_empty()
    }

    /// All indices, ascending.
    pub fn authors(&self) -> impl Iterator<Item = AuthorIdx> + use<> {
        0..u16::try_from(self.stakes.len()).unwrap_or(u16::MAX)
    }

    /// Whether the index names a validator.
    #[must_use]
    pub fn contains(&self, author: AuthorIdx) -> bool {
        usize::from(author) < self.stakes.len()
    }

    /// A validator's stake; 0 for an index that names none.
    #[must_use]
    pub fn stake(&self, author: AuthorIdx) -> Stake {
        self.stakes.get(usize::from(author)).copied().unwrap_or(0)
    }

    /// S: all stake.
    #[must_use]
    pub const fn total(&self) -> Stake {
        self.total
    }

    /// Q: two such sets share a correct validator.
    #[must_use]
    pub const fn quorum(&self) -> Stake {
        2 * self.total / 3 + 1
    }

    /// V: such a set holds a correct validator.
    #[must_use]
    pub const fn validity(&self) -> Stake {
        self.total - self.quorum() + 1
    }

    /// F: largest faulty stake that is tolerated.
    #[must_use]
    pub const fn faulty(&self) -> Stake {
        self.total - self.quorum()
    }
}

/// Authors, each counted once, with their stake.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StakeSet {
    authors: BTreeSet<AuthorIdx>,
    stake: Stake,
}

impl StakeSet {
    /// Adds an author; again is harmless.
    pub fn add(&mut self, committee: &Committee, author: AuthorIdx) {
        if committee.contains(author) && self.authors.insert(author) {
            self.stake += committee.stake(author);
        }
    }

    /// Stake of the authors.
    #[must_use]
    pub const fn stake(&self) -> Stake {
        self.stake
    }

    /// Whether the author is in.
    #[must_use]
    pub fn contains(&self, author: AuthorIdx) -> bool {
        self.authors.contains(&author)
    }

    /// The authors, ascending.
    pub fn authors(&self) -> impl Iterator<Item = AuthorIdx> + '_ {
        self.authors.iter().copied()
    }

    /// The set of these authors.
    #[must_use]
    pub fn of(committee: &Committee, authors: impl IntoIterator<Item = AuthorIdx>) -> Self {
        let mut set = Self::default();
        for author in authors {
            set.add(committee, author);
        }
        set
    }
}

/// Checks what `Committee::new` cannot see.
pub(crate) fn check(config: &Config) -> Result<Committee, ConfigError> {
    let committee = Committee::new(config.stakes.clone())?;
    let n = committee.len();
    if let Some(own) = config.own.filter(|own| !committee.contains(*own)) {
        return Err(ConfigError::Own { own, n });
    }
    let leaders = config.params.leaders_per_round;
    if leaders == 0 || usize::from(leaders) > n {
        return Err(ConfigError::Leaders { leaders, n });
    }
    let (window, percent) = (config.params.schedule_window, config.params.schedule_swap_percent);
    if window == 0 || percent > 33 {
        return Err(ConfigError::Schedule { window, percent });
    }
    if config.version > config.supports {
        return Err(ConfigError::Version { version: config.version, supports: config.supports });
    }
    if config.params.gc_depth < 3 {
        return Err(ConfigError::GcDepth(config.params.gc_depth));
    }
    Ok(committee)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_those_of_the_specification() {
        for (n, q, v) in [(1, 1, 1), (4, 3, 2), (10, 7, 4), (50, 34, 17), (100, 67, 34)] {
            let committee = Committee::new(vec![1; n]).expect("valid");
            assert_eq!((committee.quorum(), committee.validity()), (q, v), "n = {n}");
            assert!(2 * committee.quorum() - committee.total() > committee.faulty());
        }
    }

    #[test]
    fn bad_sets_are_refused_with_the_facts() {
        assert_eq!(Committee::new(vec![]), Err(ConfigError::Validators(0)));
        assert_eq!(Committee::new(vec![1; 129]), Err(ConfigError::Validators(129)));
        assert_eq!(Committee::new(vec![1, 0]), Err(ConfigError::NoStake(1)));
        assert_eq!(Committee::new(vec![u64::MAX, 2]), Err(ConfigError::TotalStake));
    }

    #[test]
    fn an_author_counts_once_and_a_stranger_not_at_all() {
        let committee = Committee::new(vec![3, 2]).expect("valid");
        let set = StakeSet::of(&committee, [0, 0, 7]);
        assert_eq!(set.stake(), 3);
        assert!(!set.contains(7));
    }
}
