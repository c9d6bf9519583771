//! Log lines that others can cause: the first of a kind is written, then the second, the fourth, the eighth and so on.
//! Whoever repeats an offence a million times a minute must not fill the disk with it. Metrics count every one.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Counts by kind. The kinds must be few: peers and offences, never what a peer can choose.
#[derive(Debug)]
pub struct Seldom<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Seldom<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> Seldom<K> {
    /// Counts one more of a kind, and says how many there were if that is worth a line.
    pub fn due(&self, kind: K) -> Option<u64> {
        let mut counts = self.0.lock();
        let count = counts.entry(kind).or_default();
        *count += 1;
        count.is_power_of_two().then_some(*count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_repetitions_are_twenty_lines_and_another_kind_has_its_own() {
        let seldom = Seldom::default();
        let lines: Vec<u64> = (0..1_000_000).filter_map(|_| seldom.due("flood")).collect();
        assert_eq!((lines.len(), &lines[..4], lines[19]), (20, &[1, 2, 4, 8][..], 524_288));
        assert_eq!(seldom.due("another"), Some(1));
    }
}
