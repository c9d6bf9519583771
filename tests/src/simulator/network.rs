//! Links between validators: delay with a tail, loss, duplicates, dead directions, and what each end believes.

use super::coverage::{Coverage, Mark};
use super::rng::Rng;
use super::scenario::{Links, Ms};

/// What a narrow link holds before it drops.
const LINK_HOLDS_MS: Ms = 1_500;

/// After what time each copy of a message arrives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Copies([Option<Ms>; 2]);

impl Copies {
    pub(crate) const fn one(after: Ms) -> Self {
        Self([Some(after), None])
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }
}

impl IntoIterator for Copies {
    type Item = Ms;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Ms>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

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
    /// Bytes of a millisecond that a validator's narrow link lets through.
    pub(crate) narrow: Vec<Option<u64>>,
    /// When that link has sent what it holds.
    busy_until: Vec<Ms>,
    /// Whether the first believes that its link to the second is up.
    believed: Vec<bool>,
}

impl Network {
    pub(crate) fn new(n: usize, links: Links) -> Self {
        Self {
            n,
            links,
            cuts: vec![0; n * n],
            slow_ms: vec![0; n],
            burst_permille: 0,
            narrow: vec![None; n],
            busy_until: vec![0; n],
            believed: vec![false; n * n],
        }
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
    pub(crate) fn transmit(
        &mut self,
        (from, to): (usize, usize),
        (now, bytes): (Ms, usize),
        rng: &mut Rng,
        marks: &mut Coverage,
    ) -> Copies {
        if self.is_cut(from, to) || rng.chance(self.links.loss_permille + self.burst_permille) {
            marks.hit(Mark::MessageLost);
            return Copies::default();
        }
        let Some(waits) = self.queue(from, now, bytes, marks) else { return Copies::default() };
        let mut delays = [Some(waits + self.delay(from, to, rng, marks)), None];
        if rng.chance(self.links.duplicate_permille) {
            marks.hit(Mark::MessageDuplicated);
            delays[1] = Some(waits + self.delay(from, to, rng, marks));
        }
        Copies(delays)
    }

    /// How long a message takes to get through the sender's narrow link; nothing gets in when too much waits.
    fn queue(&mut self, from: usize, now: Ms, bytes: usize, marks: &mut Coverage) -> Option<Ms> {
        let Some(rate) = self.narrow[from] else { return Some(0) };
        let waits = self.busy_until[from].saturating_sub(now);
        if waits > LINK_HOLDS_MS {
            marks.hit(Mark::LinkFull);
            return None;
        }
        marks.hit(Mark::NarrowLink);
        let waits = waits + bytes as u64 / rate;
        self.busy_until[from] = now + waits;
        Some(waits)
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
