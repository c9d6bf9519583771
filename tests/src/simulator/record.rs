//! What many runs have come to, in a file that later runs add to.
//!
//! One line per fact, words separated by blanks, so that a person can read it and a script can cut it. The file is written
//! anew under another name and renamed: a run that is cut short loses at most the seeds since the last time.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::coverage::{Coverage, Mark};
use super::{Outcome, Violation};

const FIRST_LINE: &str = "aurigraph simulation record 1";

/// Seeds that were run by one state of the code, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The commit of the code.
    pub code: String,
    /// The seeds.
    pub seeds: Range<u64>,
}

/// What many runs have come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Which seeds, by which code.
    pub stretches: Vec<Stretch>,
    /// Virtual milliseconds of all runs.
    pub virtual_ms: u64,
    /// Events of all runs.
    pub events: u64,
    /// Rounds of all runs.
    pub rounds: u64,
    /// Faults that were injected, faulty validators not counted.
    pub faults: u64,
    /// Coverage marks with counts.
    pub marks: Coverage,
    /// Failures in words, each with its seed, property and event.
    pub failures: Vec<String>,
}

impl Record {
    /// Adds a run.
    pub fn add(&mut self, result: &Result<Outcome, Violation>) {
        match result {
            Ok(outcome) => {
                self.virtual_ms += outcome.virtual_ms;
                self.events += outcome.events;
                self.rounds += u64::from(outcome.rounds);
                self.faults += outcome.faults;
                self.marks.merge(&outcome.marks);
            }
            Err(violation) => {
                self.virtual_ms += violation.time_ms;
                self.events += violation.event;
                self.failures.push(violation.to_string().replace('\n', " / "));
            }
        }
    }

    /// Adds another record's sums and failures, not its stretches.
    pub fn merge(&mut self, other: Self) {
        self.virtual_ms += other.virtual_ms;
        self.events += other.events;
        self.rounds += other.rounds;
        self.faults += other.faults;
        self.marks.merge(&other.marks);
        self.failures.extend(other.failures);
    }

    /// Notes that these seeds are done. They follow the last ones if the code is the same.
    pub fn done(&mut self, code: &str, seeds: Range<u64>) {
        match self.stretches.last_mut().filter(|last| last.code == code && last.seeds.end == seeds.start) {
            Some(last) => last.seeds.end = seeds.end,
            None => self.stretches.push(Stretch { code: code.to_owned(), seeds }),
        }
    }

    /// The first seed after those that were run.
    #[must_use]
    pub fn next_seed(&self) -> Option<u64> {
        self.stretches.last().map(|last| last.seeds.end)
    }

    /// How many seeds were run.
    #[must_use]
    pub fn seeds(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.seeds.end - stretch.seeds.start).sum()
    }

    /// The lines of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for Stretch { code, seeds } in &self.stretches {
            let _ = writeln!(text, "code {code} {} {}", seeds.start, seeds.end);
        }
        let Self { virtual_ms, events, rounds, faults, .. } = self;
        let _ = writeln!(text, "virtual_ms {virtual_ms}\nevents {events}\nrounds {rounds}\nfaults {faults}");
        for mark in Mark::ALL {
            let _ = writeln!(text, "mark {mark:?} {}", self.marks.get(*mark));
        }
        for failure in &self.failures {
            let _ = writeln!(text, "failure {failure}");
        }
        text
    }

    /// Takes a record from its lines. Marks that are no longer counted are left out.
    ///
    /// # Errors
    /// The first line that is none of a record.
    pub fn decode(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(format!("the first line is not `{FIRST_LINE}`"));
        }
        let mut record = Self::default();
        for line in lines {
            let bad = || format!("`{line}` is no line of a record");
            let (kind, rest) = line.split_once(' ').ok_or_else(bad)?;
            let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
            let words: Vec<&str> = rest.split(' ').collect();
            match (kind, words.as_slice()) {
                ("code", [code, from, to]) => {
                    let seeds = number(from)?..number(to)?;
                    record.stretches.push(Stretch { code: (*code).to_owned(), seeds });
                }
                ("virtual_ms", [value]) => record.virtual_ms = number(value)?,
                ("events", [value]) => record.events = number(value)?,
                ("rounds", [value]) => record.rounds = number(value)?,
                ("faults", [value]) => record.faults = number(value)?,
                ("mark", [name, value]) => {
                    let count = number(value)?;
                    if let Some(mark) = Mark::ALL.iter().find(|mark| format!("{mark:?}") == **name) {
                        record.marks.add(*mark, count);
                    }
                }
                ("failure", _) => record.failures.push(rest.to_owned()),
                _ => return Err(bad()),
            }
        }
        Ok(record)
    }

    /// Reads a file; an empty record if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is no record.
    pub fn read(path: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::decode(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Writes the file anew; what was there stays until the new one is whole.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let beside = path.with_extension("new");
        let written = std::fs::write(&beside, self.encode()).and_then(|()| std::fs::rename(&beside, path));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The record as tables in Markdown.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::from("| seeds | code |\n|---|---|\n");
        for Stretch { code, seeds } in &self.stretches {
            let _ = writeln!(text, "| {} to {} | `{code}` |", seeds.start, seeds.end.saturating_sub(1));
        }
        let tenths = self.virtual_ms / 360_000;
        let _ = writeln!(text, "\n| what | how much |\n|---|---|");
        let _ = writeln!(text, "| seeds | {} |", self.seeds());
        let _ = writeln!(text, "| virtual hours | {}.{} |", tenths / 10, tenths % 10);
        let _ = writeln!(text, "| rounds | {} |\n| events | {} |", self.rounds, self.events);
        let _ = writeln!(text, "| faults injected | {} |\n| failures | {} |", self.faults, self.failures.len());
        for failure in &self.failures {
            let _ = writeln!(text, "\n- {failure}");
        }
        let _ = writeln!(text, "\n| situation | times |\n|---|---|");
        for mark in Mark::ALL {
            let _ = writeln!(text, "| {} | {} |", mark.text(), self.marks.get(*mark));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::Property;
    use super::*;

    fn outcome() -> Outcome {
        let mut outcome = Outcome { virtual_ms: 20_000, events: 7, rounds: 150, faults: 5, ..Outcome::default() };
        outcome.marks.add(Mark::Crash, 3);
        outcome
    }

    fn violation() -> Violation {
        let detail = "two\nlines".to_owned();
        Violation { property: Property::Agreement, seed: 661, event: 9, time_ms: 1_000, detail }
    }

    #[test]
    fn a_record_that_goes_on_after_a_restart_adds_up() {
        let mut whole = Record::default();
        let mut first = Record::default();
        for record in [&mut whole, &mut first] {
            record.add(&Ok(outcome()));
            record.add(&Err(violation()));
            record.done("abc", 0..2);
        }
        let mut again = Record::decode(&first.encode()).unwrap();
        assert_eq!(again, first);
        for record in [&mut whole, &mut again] {
            record.add(&Ok(outcome()));
            record.done("abc", 2..3);
        }
        assert_eq!(again, whole);
        assert_eq!((again.seeds(), again.next_seed(), again.marks.get(Mark::Crash)), (3, Some(3), 6));
        again.done("def", 3..4);
        assert_eq!(again.stretches.len(), 2, "another code is another stretch");
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_line() {
        assert!(Record::decode("1200").is_err());
        let error = Record::decode(&format!("{FIRST_LINE}\nevents many\n")).unwrap_err();
        assert!(error.contains("events many"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_empty_record() {
        let path = std::env::temp_dir().join(format!("simulation-record-{}", std::process::id()));
        assert_eq!(Record::read(&path).unwrap(), Record::default());
        let mut record = Record::default();
        record.add(&Err(violation()));
        record.done("abc", 0..1);
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record);
        std::fs::remove_file(&path).unwrap();
    }
}
