//! Mending a history that disagrees with its database: one rule, that a step is recorded if its result is there.
//!
//! Nothing is wiped: a row that is replaced is kept aside, and content changes only by a step that goes on.

use crate::error::UpgradeError;
use crate::history::{self, CURRENT, Direction, HISTORY, HistoryRow, Origin, PROGRESS};
use crate::label;
use crate::lock::now_ms;
use crate::run::{Run, check_order, declared};
use crate::step::{Presence, Step};

/// One thing that is wrong, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What is wrong, in one word of the code.
    pub kind: &'static str,
    /// The version that it is about.
    pub version: Option<u32>,
    /// What is wrong.
    pub found: String,
    /// True if it is no longer.
    pub mended: bool,
    /// What was done, or what an operator can do.
    pub action: String,
}

/// Finds and mends.
pub(crate) fn run(run: &Run<'_>) -> Result<Vec<Finding>, UpgradeError> {
    let mut repair = Repair { run, findings: Vec::new() };
    repair.progress()?;
    repair.rows()?;
    repair.holes()?;
    repair.order()?;
    repair.unrecorded()?;
    repair.interrupted()?;
    Ok(repair.findings)
}

struct Repair<'a, 'b> {
    run: &'a Run<'b>,
    findings: Vec<Finding>,
}

impl Repair<'_, '_> {
    fn note(&mut self, kind: &'static str, version: Option<u32>, found: String, mended: bool, action: String) {
        self.findings.push(Finding { kind, version, found, mended, action });
    }

    /// The rows that can be read, in order.
    fn readable(&self) -> Result<Vec<HistoryRow>, UpgradeError> {
        let rows = self.run.sled(history::raw_rows(self.run.medium))?;
        Ok(rows.into_iter().filter_map(|(_, row)| row).collect())
    }

    fn aside(&self, tree: &str, key: &[u8]) -> Result<(), UpgradeError> {
        self.run.sled(history::keep_aside(self.run.medium, tree, key, now_ms()))
    }

    /// Records a step if its result is there, and says what came of it.
    fn record_if_there(&mut self, kind: &'static str, found: String, step: &dyn Step) -> Result<bool, UpgradeError> {
        let version = step.version();
        let there = self.run.presence(step)?;
        let action = match &there {
            Presence::Complete => {
                self.aside(HISTORY, &version.to_be_bytes())?;
                self.run.record(step, 0, Origin::Repaired, None)?;
                "its result is in the database, so it is recorded now".to_owned()
            }
            Presence::Partial(missing) => {
                format!("its result is there in part only ({missing}): `schema restore FILE` goes back to a backup")
            }
            Presence::Absent => {
                "its result is not in the database: `schema restore FILE` goes back to a backup".to_owned()
            }
            Presence::Unknown => format!(
                "the step cannot recognise its result: `schema baseline --to {version}` if you know that it is there, \
                 else `schema restore FILE`"
            ),
        };
        let mended = there == Presence::Complete;
        self.note(kind, Some(version), found, mended, action);
        Ok(mended)
    }

    fn progress(&mut self) -> Result<(), UpgradeError> {
        let Err(error) = self.run.sled(history::progress(self.run.medium))? else { return Ok(()) };
        self.aside(PROGRESS, CURRENT)?;
        self.run.sled(history::set_progress(self.run.medium, None))?;
        self.run.flush()?;
        let action = "set aside: the step begins anew, which is harmless".to_owned();
        self.note("damagedProgress", None, error.to_string(), true, action);
        Ok(())
    }

    /// Rows that cannot be read, are of the future, or are of other steps than the plan's.
    fn rows(&mut self) -> Result<(), UpgradeError> {
        let rows = self.run.sled(history::raw_rows(self.run.medium))?;
        let newest = rows.iter().filter_map(|(_, row)| row.as_ref()).map(|row| row.version).max().unwrap_or(0);
        for (key, row) in rows {
            match row {
                None => self.damaged(&key, newest)?,
                Some(row) => self.compared(&row)?,
            }
        }
        Ok(())
    }

    fn damaged(&mut self, key: &[u8], newest: u32) -> Result<(), UpgradeError> {
        let found = format!("the history row {} fails its checksum", hex::encode(key));
        let version = key.try_into().ok().map(u32::from_be_bytes);
        let Some(step) = version.and_then(|version| self.run.step(version)) else {
            let action = "no step of this program has its version: use the release that wrote it".to_owned();
            self.note("damaged", version, found, false, action);
            return Ok(());
        };
        if step.version() < newest || self.run.presence(step)? == Presence::Complete {
            self.record_if_there("damaged", found, step)?;
            return Ok(());
        }
        // Nothing is built on the newest step: it may be applied again.
        self.aside(HISTORY, key)?;
        self.run.sled(history::forget(self.run.medium, step.version()))?;
        self.run.flush()?;
        let action = "set aside: `schema upgrade` applies the step again, which is harmless".to_owned();
        self.note("damaged", version, found, true, action);
        Ok(())
    }

    fn compared(&mut self, row: &HistoryRow) -> Result<(), UpgradeError> {
        let Some(step) = self.run.step(row.version) else {
            let known = self.run.plan.newest();
            let found = format!("{} is recorded, this program knows up to {known}", label(row.version, &row.name));
            let action = "use the newer release, or `schema restore FILE` with a backup from before".to_owned();
            self.note("unknownFuture", Some(row.version), found, false, action);
            return Ok(());
        };
        if row.checksum == declared(step) && row.name == step.name() {
            return Ok(());
        }
        let found = format!("{} was altered after it was applied", label(row.version, step.name()));
        self.record_if_there("altered", found, step).map(|_| ())
    }

    /// Versions below the newest that are not recorded.
    fn holes(&mut self) -> Result<(), UpgradeError> {
        let rows = self.run.sled(history::raw_rows(self.run.medium))?;
        let Some(newest) = rows.iter().filter_map(|(_, row)| row.as_ref()).map(|row| row.version).max() else {
            return Ok(());
        };
        for version in 1..newest {
            let recorded = rows.iter().any(|(key, _)| key == &version.to_be_bytes());
            let Some(step) = self.run.step(version).filter(|_| !recorded) else { continue };
            let name = label(version, step.name());
            let found = format!("{name} is missing in the history, but version {newest} was applied");
            self.record_if_there("missing", found, step)?;
        }
        Ok(())
    }

    fn order(&mut self) -> Result<(), UpgradeError> {
        loop {
            let rows = self.readable()?;
            let Err(error) = check_order(&rows) else { return Ok(()) };
            let UpgradeError::OutOfOrder { version, .. } = &error else { return Ok(()) };
            let mut newer = rows.iter().filter(|row| row.version > *version);
            let undone = newer.find_map(|row| match self.run.step(row.version).map(|step| self.run.presence(step)) {
                Some(Ok(Presence::Complete)) => None,
                Some(Err(error)) => Some(Err(error)),
                _ => Some(Ok(label(row.version, &row.name))),
            });
            let found = format!("version {version} was applied after newer ones");
            if let Some(undone) = undone.transpose()? {
                let action = format!("the result of {undone} is not there whole: `schema restore FILE`");
                self.note("outOfOrder", Some(*version), found, false, action);
                return Ok(());
            }
            let Some(mut row) = rows.into_iter().find(|row| row.version == *version) else { return Ok(()) };
            self.aside(HISTORY, &row.version.to_be_bytes())?;
            row.origin = Origin::Repaired;
            self.run.sled(history::record(self.run.medium, &row))?;
            self.run.flush()?;
            let action = "every newer result is in the database whole, so the order did no harm".to_owned();
            self.note("outOfOrder", Some(row.version), found, true, action);
        }
    }

    /// Results that are there above the newest recorded step, down to a history that is missing as a whole.
    fn unrecorded(&mut self) -> Result<(), UpgradeError> {
        // What cannot be read or is missing below comes first.
        if self.findings.iter().any(|finding| !finding.mended) {
            return Ok(());
        }
        let newest = self.readable()?.last().map_or(0, |row| row.version);
        let under_way = self.run.progress()?;
        for step in self.run.plan.steps.iter().filter(|step| step.version() > newest) {
            let explained = under_way.as_ref().is_some_and(|row| row.version == step.version());
            if explained || self.run.presence(step.as_ref())? != Presence::Complete {
                break;
            }
            let found = format!(
                "the result of {} is in the database, but the history does not have it",
                label(step.version(), step.name())
            );
            self.record_if_there("unrecorded", found, step.as_ref())?;
        }
        if self.readable()?.is_empty() && under_way.is_none() {
            let trees = self.run.filled()?;
            if !trees.is_empty() {
                let found = format!("the database has content ({}) but no history", trees.join(", "));
                let action = "no step recognises its result: `schema baseline --to N` says which version it is at";
                self.note("unversioned", None, found, false, action.to_owned());
            }
        }
        Ok(())
    }

    fn interrupted(&mut self) -> Result<(), UpgradeError> {
        let Some(row) = self.run.progress()? else { return Ok(()) };
        let rows = self.readable()?;
        let name = self.run.step(row.version).map_or_else(String::new, |step| label(step.version(), step.name()));
        if !self.run.is_under_way(&row, &rows) {
            self.run.sled(history::set_progress(self.run.medium, None))?;
            return self.run.flush();
        }
        let found = format!("{name} was interrupted after {} chunks", row.chunks);
        if row.direction == Direction::Down {
            let below = row.version - 1;
            let action = format!("`schema downgrade --to {below}` ends the way back, `schema upgrade` takes it back");
            self.note("halfDowngraded", Some(row.version), found, false, action);
            return Ok(());
        }
        if self.run.validate().is_err() {
            let action = "it goes on once the history is right".to_owned();
            self.note("interrupted", Some(row.version), found, false, action);
            return Ok(());
        }
        self.run.upgrade(row.version, &|_| Ok(None), &mut |_| {})?;
        self.note("interrupted", Some(row.version), found, true, "resumed to its end".to_owned());
        Ok(())
    }
}
