//! The deterministic simulator: whole clusters of real state machines and real ledgers in one thread, from one seed.
//!
//! Time is virtual; the network loses, delays, reorders and doubles messages and falls apart; disks keep only what was
//! synced; processes end between any two effects and come back; up to F of stake lies. Only keys are not real: a
//! signature is a keyed hash of the simulator. While a run goes on, every commit, ledger block, checkpoint and message
//! is held against the properties of the specification ([`Property`]).
//!
//! [`run_seed`] is a run of a seed, [`run`] that of a [`Scenario`] made by hand. No assertion about what a machine
//! should do stands here beyond those properties, and nothing here reads a clock or draws randomness of its own.

mod adversary;
mod attested;
mod checks;
mod corruption;
mod coverage;
mod disk;
mod driver;
mod ending;
mod epochs;
mod executor;
mod faults;
mod lies;
mod network;
mod node;
mod puppet;
mod record;
pub(crate) mod rng;
mod scenario;
mod second;
mod shrink;
mod trace;
mod work;
mod workload;
mod world;

use std::fmt;

pub use coverage::{Coverage, Mark};
pub use record::{Record, Stretch};
pub use scenario::{Adversary, Behaviour, Fault, LEAST_FAULTS, Links, Sabotage, Scenario};
pub use shrink::{Part, Shrunk, shrink};

/// The properties of consensus.md 13.2 that are checked, and those of the simulator itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// P1: commits, ledger blocks and checkpoints of correct validators are equal.
    Agreement,
    /// P2: commits without gaps, nothing twice, the same again after a restart.
    TotalOrder,
    /// P3: a batch of a correct validator is delivered once the network is quiet.
    Validity,
    /// P4: delivered blocks are valid and signed, after their ancestors.
    Integrity,
    /// P5: commits go on once the network is quiet.
    Liveness,
    /// P6: a correct key says one thing per round and checkpoint.
    NoEquivocation,
    /// P7: no evidence and no suspicion against a correct validator.
    NoFalseEvidence,
    /// P8: what a correct validator has found, a commit proves once the network is quiet.
    Accountability,
    /// P9: what waits stays within its bounds.
    BoundedMemory,
    /// P10: the work that a peer causes stays within its quota.
    BoundedWork,
    /// P11: one seed, one trace.
    Determinism,
    /// P12: commit times do not go back.
    MonotonicTime,
    /// P13: the leader schedule is a function of the decided slots, also after a restart, and that of the oracle.
    Schedule,
    /// P14: nobody signs in an epoch before the end of the one before is certified and safe; each has one end.
    EpochSafety,
    /// P15: what is certified is what correct validators execute; a wrong executor is found, and only that node stops.
    Checkpoint,
    /// P17: recovery comes to the state of the process before, and of the whole log.
    Recovery,
    /// P16: the committer decides what the oracle decides.
    Oracle,
    /// The sum of balances and fees never changes.
    Conservation,
    /// A correct validator never stops, and recovers from its own log.
    Survival,
    /// A run is long and bad enough.
    Shape,
}

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub property: Property,
    /// In the run of which seed.
    pub seed: u64,
    /// At which event.
    pub event: u64,
    /// At which virtual time.
    pub time_ms: u64,
    /// What happened.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { property, seed, event, time_ms, detail } = self;
        write!(f, "seed {seed}, event {event} at {time_ms} ms: {property:?} violated: {detail}")
    }
}

impl std::error::Error for Violation {}

/// What a run was like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Digest of all events and effects.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Virtual time.
    pub virtual_ms: u64,
    /// The newest committed leader's round.
    pub rounds: u32,
    /// Commits.
    pub commits: u64,
    /// Ledger blocks.
    pub height: u64,
    /// Faults that happened, faulty validators not counted.
    pub faults: u64,
    /// Coverage marks.
    pub marks: Coverage,
}

/// Runs a scenario until it is long enough and everybody has caught up.
///
/// # Errors
/// The first property that does not hold.
pub fn run(scenario: &Scenario) -> Result<Outcome, Violation> {
    caught(scenario, false)
}

/// [`run`], with every event told on standard output.
///
/// # Errors
/// Those of [`run`].
pub fn run_aloud(scenario: &Scenario) -> Result<Outcome, Violation> {
    caught(scenario, true)
}

/// A panic is a failure of its seed like any other: it does not end the others.
fn caught(scenario: &Scenario, aloud: bool) -> Result<Outcome, Violation> {
    let ended = std::panic::catch_unwind(|| world::World::new(scenario, aloud).run());
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let detail = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        let detail = format!("panic: {detail}");
        Err(Violation { property: Property::Survival, seed: scenario.seed, event: 0, time_ms: 0, detail })
    })
}

/// Runs a seed; twice, if asked, to compare the traces.
///
/// # Errors
/// The first property that does not hold.
pub fn run_seed(seed: u64, twice: bool) -> Result<Outcome, Violation> {
    let scenario = Scenario::of_seed(seed);
    let mut outcome = run(&scenario)?;
    let fault =
        |property, detail| Violation { property, seed, event: outcome.events, time_ms: outcome.virtual_ms, detail };
    let (faults, rounds, time) = (outcome.faults, outcome.rounds, outcome.virtual_ms);
    let cut_short = outcome.marks.get(Mark::RollbackUntold) > 0;
    if !cut_short && (faults < LEAST_FAULTS as u64 || rounds < scenario.least_rounds || time < scenario.least_ms) {
        return Err(fault(Property::Shape, format!("{faults} faults, {rounds} rounds, {time} ms")));
    }
    if twice {
        let again = run(&scenario)?;
        if again != outcome {
            return Err(fault(Property::Determinism, format!("{outcome:?}, then {again:?}")));
        }
        outcome.marks.hit(Mark::RunTwice);
    }
    Ok(outcome)
}
