//! What a faulty validator says of checkpoints: mostly nothing, now and then what is not so.

use aurigraph_consensus::{AuthorIdx, BlockCore, CkptRef};
use aurigraph_ledger::{Hash, h, h_parts};

use super::coverage::{Coverage, Mark};
use super::rng::Rng;

/// Its lies, from a source of randomness of their own: whoever tells none does what it did before there were any.
pub(crate) struct Lies {
    permille: u64,
    rng: Rng,
    /// The newest checkpoint that it has heard of.
    newest: CkptRef,
}

impl Lies {
    /// So many of a thousand blocks attest something.
    pub(crate) fn new(permille: u64, seed: u64, author: AuthorIdx) -> Self {
        let rng = Rng::new(seed ^ 0x11e5_c4ec_7b01_a700 ^ u64::from(author) << 48);
        Self { permille, rng, newest: CkptRef::default() }
    }

    /// Hears what another validator attests.
    pub(crate) fn hear(&mut self, core: &BlockCore) {
        // Other liars are not worth repeating.
        if core.attestation.seq > self.newest.seq && core.attestation.seq < u64::MAX / 2 {
            self.newest = core.attestation;
        }
    }

    /// What its next block attests.
    pub(crate) fn attest(&mut self, author: AuthorIdx, marks: &mut Coverage) -> CkptRef {
        if self.permille == 0 || !self.rng.chance(self.permille) {
            return CkptRef::default();
        }
        let seq = self.newest.seq.max(1);
        let lie = |seq: u64| CkptRef { seq, digest: h_parts("lie", &[&author.to_le_bytes(), &seq.to_le_bytes()]) };
        let attested = match self.rng.below(10) {
            0 => self.newest,
            1 => lie(u64::MAX - self.rng.below(100)),
            2 => lie(self.rng.between(1, seq)),
            3..=4 => lie(seq + self.rng.between(1, 3)),
            // Another one each time: it contradicts itself as well.
            5 => CkptRef { seq, digest: h("lie", &self.rng.next().to_le_bytes()) },
            6 => CkptRef { seq, digest: Hash::ZERO },
            _ => lie(seq),
        };
        if attested != self.newest {
            marks.hit(Mark::LyingAttestation);
        }
        attested
    }
}
