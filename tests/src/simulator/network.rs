//! Links between validators: delay with a tail, loss, duplicates, dead directions, and what each end believes.

use super::coverage::{Coverage, Mark};
use super::rng::Rng;
use super::scenario::{Links, Ms};

/// All directed links.
#[derive(Debug)]
pub(crate) struct Network {
    n: usize,
    links: Links,
    /// Cuts on each directed link now.
    cuts: Vec<u32>,
    /// What is added to delays, by validator.
    pub(crate) slow_ms: Vec<Ms>,
    /// What is added to losses.
    pub(crate) burst_permille: u64,
    /// Whether the first believes that its link to the second is up.
    believed: Vec<bool>,
}

impl Network {
    pub(crate) fn new(n: usize, links: Links) -> Self {
        Self { n, links, cuts: vec![0; n * n], slow_ms: vec![0; n], burst_permille: 0, believed: vec![false; n * n] }
    }

    pub(crate) fn cut(&mut self, pairs: &[(usize, usize)]) {
        for (from, to) in pairs {
            self.cuts[from * self.n + to] += 1;
        }
    }

    pub(crate) fn heal(&mut self, pairs: &[(usize, usize)]) {
        for (from, to) in pairs {
            self.cuts[from * self.n + to] -= 1;
        }
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.n + to] > 0
    }

    /// What one end believes of a link.
    pub(crate) fn believes(&mut self, from: usize, to: usize) -> &mut bool {
        &mut self.believed[from * self.n + to]
    }

    /// When the copies of a message arrive: none, one or two delays.
    pub(crate) fn transmit(&self, from: usize, to: usize, rng: &mut Rng, marks: &mut Coverage) -> Vec<Ms> {
        if self.is_cut(from, to) || rng.chance(self.links.loss_permille + self.burst_permille) {
            marks.hit(Mark::MessageLost);
            return Vec::new();
        }
        let mut delays = vec![self.delay(from, to, rng, marks)];
        if rng.chance(self.links.duplicate_permille) {
            marks.hit(Mark::MessageDuplicated);
            delays.push(self.delay(from, to, rng, marks));
        }
        delays
    }

    fn delay(&self, from: usize, to: usize, rng: &mut Rng, marks: &mut Coverage) -> Ms {
        let mut delay = self.links.delay_ms + rng.below(self.links.jitter_ms + 1);
        delay += self.slow_ms[from] + self.slow_ms[to];
        if rng.chance(self.links.tail_permille) {
            marks.hit(Mark::MessageLate);
            delay += rng.below(self.links.tail_ms + 1);
        }
        delay
    }
}
