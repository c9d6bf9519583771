//! Makes a failing run small: leaves out faults, faulty validators and disturbances as long as the same property fails.

use std::fmt;
use std::str::FromStr;

use aurigraph_consensus::AuthorIdx;

use super::scenario::Scenario;
use super::{Property, Violation, run};

/// Something that a run can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A fault, by its place in the scenario.
    Fault(usize),
    /// A faulty validator: it becomes a correct one.
    Byzantine(AuthorIdx),
    /// Loss, duplicates and the tail of the links.
    Links,
    /// Clocks that are off.
    Skew,
    /// Snapshots, and restarts from them.
    Snapshots,
    /// A store ahead of the log.
    StoreAhead,
    /// A signer that fails.
    Signer,
    /// Slow syncs.
    Syncs,
    /// The load of clients.
    Load,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(number) => write!(f, "fault:{number}"),
            Self::Byzantine(author) => write!(f, "byzantine:{author}"),
            Self::Links => f.write_str("links"),
            Self::Skew => f.write_str("skew"),
            Self::Snapshots => f.write_str("snapshots"),
            Self::StoreAhead => f.write_str("store-ahead"),
            Self::Signer => f.write_str("signer"),
            Self::Syncs => f.write_str("syncs"),
            Self::Load => f.write_str("load"),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: no part of a run; they are fault:N, byzantine:N, {}", plain_names());
        match text.split_once(':') {
            Some(("fault", number)) => number.parse().map(Self::Fault).map_err(|_| bad()),
            Some(("byzantine", author)) => author.parse().map(Self::Byzantine).map_err(|_| bad()),
            _ => PLAIN.iter().find(|part| part.to_string() == text).copied().ok_or_else(bad),
        }
    }
}

const PLAIN: [Part; 7] =
    [Part::Links, Part::Skew, Part::Snapshots, Part::StoreAhead, Part::Signer, Part::Syncs, Part::Load];

fn plain_names() -> String {
    PLAIN.map(|part| part.to_string()).join(", ")
}

impl Scenario {
    /// All parts that it could do without.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let faults = (0..self.faults.len()).map(Part::Fault);
        faults.chain(self.byzantine.keys().copied().map(Part::Byzantine)).chain(PLAIN).collect()
    }

    /// The same without some parts. Faults that are left keep their times.
    #[must_use]
    pub fn without(&self, parts: &[Part]) -> Self {
        let mut left = self.clone();
        let calm = Self::calm(self.stakes.len(), self.seed);
        let faults = self.faults.iter().enumerate().filter(|(number, _)| !parts.contains(&Part::Fault(*number)));
        left.faults = faults.map(|(_, fault)| fault.clone()).collect();
        for part in parts {
            match part {
                Part::Fault(_) => {}
                Part::Byzantine(author) => {
                    left.byzantine.remove(author);
                }
                Part::Links => left.links = calm.links.clone(),
                Part::Skew => left.skew_ms.clone_from(&calm.skew_ms),
                Part::Snapshots => left.snapshot_ms = None,
                Part::StoreAhead => left.store_ahead = false,
                Part::Signer => left.unsigned_permille = 0,
                Part::Syncs => left.sync_ms = calm.sync_ms,
                Part::Load => left.client_ms = 5_000,
            }
        }
        left
    }
}

/// What is left of a failing run.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// What it does without.
    pub without: Vec<Part>,
    /// What is left.
    pub scenario: Scenario,
    /// How that fails.
    pub violation: Violation,
    /// Runs that it took.
    pub runs: u64,
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { without, scenario, violation, runs } = self;
        writeln!(f, "{violation}")?;
        writeln!(f, "what is left after {runs} runs, of {} validators:", scenario.stakes.len())?;
        for (at, fault) in &scenario.faults {
            writeln!(f, "{at:>8} ms  {fault:?}")?;
        }
        for (author, behaviour) in &scenario.byzantine {
            writeln!(f, "  faulty: {author}, {behaviour:?}")?;
        }
        let plain: Vec<String> = PLAIN.iter().filter(|part| !without.contains(part)).map(ToString::to_string).collect();
        writeln!(f, "  with: {}", plain.join(", "))?;
        let without: Vec<String> = without.iter().map(ToString::to_string).collect();
        write!(f, "--replay {} --without {}", scenario.seed, without.join(","))
    }
}

/// Leaves out as much as possible while the same property fails: halves first, then single parts, until nothing more can
/// go. `None` if the run does not fail.
#[must_use]
pub fn shrink(scenario: &Scenario) -> Option<Shrunk> {
    let violation = run(scenario).err()?;
    let mut shrunk = Shrunk { without: Vec::new(), scenario: scenario.clone(), violation, runs: 1 };
    let mut left = scenario.parts();
    let mut size = left.len();
    while size > 0 {
        let mut at = 0;
        let mut gone = false;
        while at < left.len() {
            let tried: Vec<Part> = left[at..(at + size).min(left.len())].to_vec();
            if leave_out(scenario, &tried, &mut shrunk) {
                left.drain(at..at + tried.len());
                gone = true;
            } else {
                at += size;
            }
        }
        // What one part needed may have gone after it was tried.
        size = if size == 1 && gone { 1 } else { size / 2 };
    }
    shrunk.without.sort_unstable();
    Some(shrunk)
}

fn leave_out(scenario: &Scenario, parts: &[Part], shrunk: &mut Shrunk) -> bool {
    let mut without = shrunk.without.clone();
    without.extend_from_slice(parts);
    let smaller = scenario.without(&without);
    shrunk.runs += 1;
    let wanted: Property = shrunk.violation.property;
    match run(&smaller) {
        Err(violation) if violation.property == wanted => {
            (shrunk.without, shrunk.scenario, shrunk.violation) = (without, smaller, violation);
            true
        }
        _ => false,
    }
}
