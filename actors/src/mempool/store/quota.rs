//! How much an author may put into the log before a block names it.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use aurigraph_consensus::AuthorIdx;
use aurigraph_ledger::Hash;

use crate::bounds::mempool as bounds;

#[derive(Debug)]
struct Stored {
    digest: Hash,
    len: usize,
    at: Instant,
}

/// Pushed bodies that no accepted block names yet, by author.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    authors: HashMap<AuthorIdx, (VecDeque<Stored>, usize)>,
    by_digest: HashMap<Hash, AuthorIdx>,
}

impl Quotas {
    /// Counts a pushed body. False if its author has used up its share.
    pub fn admit(&mut self, author: AuthorIdx, digest: Hash, len: usize, now: Instant) -> bool {
        let (stored, bytes) = self.authors.entry(author).or_default();
        while let Some(oldest) = stored.front()
            && now.duration_since(oldest.at) >= bounds::UNREFERENCED_TTL
        {
            *bytes -= oldest.len;
            self.by_digest.remove(&oldest.digest);
            stored.pop_front();
        }
        if *bytes + len > bounds::UNREFERENCED_BYTES {
            return false;
        }
        *bytes += len;
        stored.push_back(Stored { digest, len, at: now });
        self.by_digest.insert(digest, author);
        true
    }

    /// A block names it: it counts no longer.
    pub fn referenced(&mut self, digest: &Hash) {
        let Some(author) = self.by_digest.remove(digest) else { return };
        let Some((stored, bytes)) = self.authors.get_mut(&author) else { return };
        if let Some(at) = stored.iter().position(|stored| stored.digest == *digest)
            && let Some(stored) = stored.remove(at)
        {
            *bytes -= stored.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_is_stopped_at_its_share_and_others_are_not() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        let half = bounds::UNREFERENCED_BYTES / 2;
        assert!(quotas.admit(1, Hash([1; 32]), half, now));
        assert!(quotas.admit(1, Hash([2; 32]), half, now));
        assert!(!quotas.admit(1, Hash([3; 32]), 1, now));
        assert!(quotas.admit(2, Hash([4; 32]), half, now));
        quotas.referenced(&Hash([1; 32]));
        quotas.referenced(&Hash([9; 32]));
        assert!(quotas.admit(1, Hash([3; 32]), half, now));
        assert!(!quotas.admit(1, Hash([5; 32]), 1, now));
        assert!(quotas.admit(1, Hash([5; 32]), half, now + bounds::UNREFERENCED_TTL));
    }
}
