//! How much of what waits a device is given, so that all who check are done at the same time. Pure: figures in, a number
//! of signatures out.

/// One who checks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Signatures that it holds already.
    pub outstanding: usize,
    /// Signatures a second.
    pub rate: f64,
}

impl Load {
    /// Seconds until it is done with what it holds.
    pub fn seconds(self) -> f64 {
        self.outstanding as f64 / self.rate
    }
}

/// Of so many that wait, how many one gets: as many as it does, after what it holds, in the time that all together need
/// for what waits and what they hold. `all` has it as well.
pub(super) fn share(waiting: usize, mine: Load, all: impl IntoIterator<Item = Load>) -> usize {
    let (mut held, mut rates) = (0, 0.0);
    for load in all {
        held += load.outstanding;
        rates += load.rate;
    }
    let together = (waiting + held) as f64 / rates;
    let fair = mine.rate * together - mine.outstanding as f64;
    // Rounded: halves of what waits must not become one less for each who checks.
    if fair.is_finite() { (fair.round().max(0.0) as usize).min(waiting) } else { waiting }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(waiting: usize, all: &mut [Load]) -> Vec<usize> {
        let mut waiting = waiting;
        let mut given = vec![0; all.len()];
        for at in 0..all.len() {
            given[at] = share(waiting, all[at], all.iter().copied());
            waiting -= given[at];
            all[at].outstanding += given[at];
        }
        given
    }

    fn idle(rates: &[f64]) -> Vec<Load> {
        rates.iter().map(|rate| Load { outstanding: 0, rate: *rate }).collect()
    }

    #[test]
    fn devices_share_by_their_rates_whoever_is_asked_first() {
        assert_eq!(give(4_000, &mut idle(&[1e6, 3e6])), [1_000, 3_000]);
        assert_eq!(give(4_000, &mut idle(&[3e6, 1e6])), [3_000, 1_000]);
        assert_eq!(give(9_000, &mut idle(&[1e6, 1e6, 1e6])), [3_000, 3_000, 3_000]);
    }

    #[test]
    fn what_one_holds_already_counts_as_its_share() {
        let mut all = idle(&[1e6, 1e6]);
        all[0].outstanding = 1_000;
        assert_eq!(give(3_000, &mut all), [1_000, 2_000]);
        all[0].outstanding = 100_000;
        assert_eq!(give(3_000, &mut all)[0], 0, "it holds more than its share");
    }

    #[test]
    fn one_alone_gets_everything_also_without_a_rate() {
        assert_eq!(give(77, &mut idle(&[5.0])), [77]);
        assert_eq!(give(77, &mut idle(&[0.0])), [77]);
    }
}
