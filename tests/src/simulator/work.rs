//! P10: what one peer makes a validator check and answer in a second has a bound.

use std::collections::BTreeMap;

use aurigraph_consensus::{AuthorIdx, Effect, Limits};

use super::Property;
use super::checks::{Broken, broken};

/// Requests of one peer that a validator answers in a second.
const ANSWERS: u64 = 200;
/// Pushed blocks that are needed cost no tokens: so many may come in a second.
const NEEDED: u64 = 128;

/// The work of one second.
#[derive(Debug, Default)]
struct Second {
    number: u64,
    checks: u64,
    sent: u64,
}

/// The work that each peer has caused at each validator.
#[derive(Debug, Default)]
pub(crate) struct Work(BTreeMap<(usize, AuthorIdx), Second>);

impl Work {
    /// A validator has taken a message of a peer, with these effects.
    pub(crate) fn caused(
        &mut self,
        (node, peer): (usize, AuthorIdx),
        now_ms: u64,
        pushed: bool,
        effects: &[Effect],
        limits: &Limits,
    ) -> Result<(), Broken> {
        let second = self.0.entry((node, peer)).or_default();
        if second.number != now_ms / 1_000 {
            *second = Second { number: now_ms / 1_000, ..Second::default() };
        }
        for effect in effects {
            match effect {
                Effect::VerifySig { .. } if pushed => second.checks += 1,
                Effect::Send { to, .. } | Effect::ServeBlocks { to, .. } | Effect::ServeCommits { to, .. }
                    if *to == peer =>
                {
                    second.sent += 1;
                }
                _ => {}
            }
        }
        let most = u64::from(limits.pushed_burst + limits.pushed_per_second) + NEEDED;
        // Each block that is checked may bring about a request for what it names.
        if second.checks > most || second.sent > ANSWERS + most {
            let detail = format!("{peer} costs {node} {second:?} in one second");
            return broken(Property::BoundedWork, detail);
        }
        Ok(())
    }
}
