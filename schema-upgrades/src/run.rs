//! One run of a plan on one database: validation, the way up and the way down, chunk by chunk.

use std::path::PathBuf;

use crate::error::UpgradeError;
use crate::history::{self, ASIDE, Direction, FinalisedRow, HISTORY, HistoryRow, MARKS, Origin, PROGRESS, ProgressRow};
use crate::lock::{Holder, now_ms};
use crate::medium::Medium;
use crate::plan::{Plan, Report};
use crate::progress::{Meter, Progress};
use crate::step::{Advance, Presence, Step, checksum};

/// Takes the backup before a change, of a database at a version.
pub(crate) type Backups<'a> = &'a dyn Fn(u32) -> Result<Option<PathBuf>, UpgradeError>;
type Observer<'a> = &'a mut dyn FnMut(&Progress);

/// The trees that are the engine's own.
pub(crate) const OWN: [&str; 4] = [HISTORY, PROGRESS, MARKS, ASIDE];
const DEFAULT: &str = "__sled__default";

pub(crate) struct Run<'a> {
    pub plan: &'a Plan,
    pub medium: &'a dyn Medium,
    pub path: PathBuf,
}

pub(crate) fn declared(step: &dyn Step) -> String {
    hex::encode(checksum(step))
}

impl Run<'_> {
    pub(crate) fn sled<T>(&self, result: Result<T, sled::Error>) -> Result<T, UpgradeError> {
        result.map_err(|source| UpgradeError::Sled { path: self.path.clone(), source })
    }

    pub(crate) fn rows(&self) -> Result<Vec<HistoryRow>, UpgradeError> {
        self.sled(history::rows(self.medium))?
    }

    pub(crate) fn progress(&self) -> Result<Option<ProgressRow>, UpgradeError> {
        self.sled(history::progress(self.medium))?
    }

    pub(crate) fn finalised(&self) -> Result<u32, UpgradeError> {
        self.sled(history::finalised(self.medium))?
    }

    pub(crate) fn flush(&self) -> Result<(), UpgradeError> {
        self.sled(self.medium.flush())
    }

    pub(crate) fn step(&self, version: u32) -> Option<&dyn Step> {
        self.plan.steps.iter().map(AsRef::as_ref).find(|step| step.version() == version)
    }

    pub(crate) fn presence(&self, step: &dyn Step) -> Result<Presence, UpgradeError> {
        let (version, name) = (step.version(), step.name().to_owned());
        step.presence(self.medium).map_err(|source| UpgradeError::Step { version, name, chunk: 0, source })
    }

    /// False for progress that a crash left behind after its step was done.
    pub(crate) fn is_under_way(&self, row: &ProgressRow, rows: &[HistoryRow]) -> bool {
        let recorded = rows.iter().any(|it| it.version == row.version);
        recorded == (row.direction == Direction::Down)
    }

    /// The database's version, if the history agrees with the plan.
    pub(crate) fn validate(&self) -> Result<u32, UpgradeError> {
        let rows = self.rows()?;
        let Some(newest) = rows.last().map(|row| row.version) else {
            self.refuse_unversioned()?;
            return Ok(0);
        };
        self.compare(&rows)?;
        let missing = |version: u32| version < newest && rows.iter().all(|row| row.version != version);
        if let Some(step) = self.plan.steps.iter().find(|step| missing(step.version())) {
            return Err(UpgradeError::Missing { version: step.version(), name: step.name().to_owned(), newest });
        }
        check_order(&rows)?;
        Ok(newest)
    }

    /// [`Run::validate`], and what an upgrade would get over by itself.
    pub(crate) fn validate_strictly(&self) -> Result<(), UpgradeError> {
        let at = self.validate()?;
        let progress = self.progress()?;
        if let Some(row) = progress.as_ref().filter(|row| row.direction == Direction::Down && row.version <= at) {
            let name = self.step(row.version).map_or_else(String::new, |step| step.name().to_owned());
            return Err(UpgradeError::HalfDowngraded { version: row.version, name, chunks: row.chunks });
        }
        for step in self.plan.steps.iter().filter(|step| step.version() > at) {
            let known = progress.as_ref().is_some_and(|row| row.version == step.version());
            if !known && self.presence(step.as_ref())? == Presence::Complete {
                return Err(UpgradeError::Unrecorded { version: step.version(), name: step.name().to_owned() });
            }
        }
        Ok(())
    }

    /// Every recorded step must be one of the plan, unaltered.
    fn compare(&self, rows: &[HistoryRow]) -> Result<(), UpgradeError> {
        let known = self.plan.newest();
        if let Some(row) = rows.iter().find(|row| row.version > known) {
            return Err(UpgradeError::UnknownFuture { found: row.version, name: row.name.clone(), known });
        }
        for row in rows {
            let Some(step) = self.step(row.version) else { continue };
            let declared = declared(step);
            if row.checksum != declared || row.name != step.name() {
                return Err(UpgradeError::Altered {
                    version: row.version,
                    name: step.name().to_owned(),
                    recorded: format!("{} {}", row.name, row.checksum),
                    declared: format!("{} {declared}", step.name()),
                });
            }
        }
        Ok(())
    }

    /// Trees with content that is not the engine's own.
    pub(crate) fn filled(&self) -> Result<Vec<String>, UpgradeError> {
        let mut trees = Vec::new();
        for tree in self.medium.trees() {
            if !OWN.contains(&tree.as_str()) && !self.sled(self.medium.scan(&tree, None, 1))?.is_empty() {
                trees.push(if tree == DEFAULT { "the default tree".to_owned() } else { tree });
            }
        }
        trees.sort();
        Ok(trees)
    }

    /// An empty database needs no history; an interrupted first step explains its own trees.
    fn refuse_unversioned(&self) -> Result<(), UpgradeError> {
        if self.progress()?.is_some() {
            return Ok(());
        }
        let trees = self.filled()?;
        if trees.is_empty() { Ok(()) } else { Err(UpgradeError::Unversioned { trees: trees.join(", ") }) }
    }

    pub(crate) fn upgrade(&self, to: u32, backups: Backups<'_>, observe: Observer<'_>) -> Result<Report, UpgradeError> {
        let found = self.validate()?;
        let interrupted = self.progress()?;
        let from = self.take_back(found, interrupted.as_ref(), to)?;
        let interrupted = interrupted.filter(|row| row.direction == Direction::Up);
        let mut report = Report { from, to: from, applied: Vec::new(), resumed: None, backup: None, largest_chunk: 0 };
        let pending: Vec<&dyn Step> = (from + 1..=to).filter_map(|version| self.step(version)).collect();
        if let Some(first) = pending.first() {
            // The backup of an interrupted attempt is of the time before it: a new one would hold half a step.
            report.backup = match &interrupted {
                Some(row) if row.version == first.version() => row.backup.clone(),
                _ if self.filled()?.is_empty() => None,
                _ => backups(from)?,
            };
        }
        for step in pending {
            let checksum = declared(step);
            // Progress of a step whose content has changed since is worth nothing: steps are idempotent.
            let before = interrupted.as_ref().filter(|row| row.version == step.version() && row.checksum == checksum);
            if before.is_some() {
                report.resumed = Some(step.version());
            }
            let fresh = ProgressRow::new(step.version(), checksum, Direction::Up, report.backup.clone());
            let largest = self.apply(step, before.cloned().unwrap_or(fresh), observe)?;
            report.largest_chunk = report.largest_chunk.max(largest);
            report.applied.push(step.version());
            report.to = step.version();
        }
        if report.applied.is_empty() && interrupted.is_some_and(|row| row.version <= from) {
            self.sled(history::set_progress(self.medium, None))?;
        }
        Ok(report)
    }

    /// Before an upgrade goes on over a half-done way back, the step is no longer recorded: it is applied again.
    fn take_back(&self, found: u32, interrupted: Option<&ProgressRow>, to: u32) -> Result<u32, UpgradeError> {
        let Some(row) = interrupted.filter(|row| row.direction == Direction::Down) else { return Ok(found) };
        let Some(step) = self.step(row.version).filter(|step| step.version() <= found) else {
            // The way back was ended, only its note is left.
            self.sled(history::set_progress(self.medium, None))?;
            return Ok(found);
        };
        if to < row.version {
            return Err(UpgradeError::HalfDowngraded {
                version: row.version,
                name: step.name().to_owned(),
                chunks: row.chunks,
            });
        }
        // The row goes first: whatever a crash in between leaves, the step is pending then and begins anew.
        let up = ProgressRow::new(row.version, declared(step), Direction::Up, row.backup.clone());
        self.sled(history::forget(self.medium, row.version))?;
        self.sled(history::set_progress(self.medium, Some(&up)))?;
        self.flush()?;
        Ok(row.version - 1)
    }

    fn apply(&self, step: &dyn Step, row: ProgressRow, observe: Observer<'_>) -> Result<u64, UpgradeError> {
        tracing::info!(
            step = crate::label(step.version(), step.name()),
            chunks = row.chunks,
            "applying a schema upgrade"
        );
        let (row, largest) = self.chunks(step, row, observe)?;
        self.record(step, row.chunks, Origin::Applied, row.backup)?;
        self.sled(history::set_progress(self.medium, None))?;
        self.flush()?;
        Ok(largest)
    }

    /// Runs the chunks of a step, up or down, from where its progress says.
    fn chunks(
        &self,
        step: &dyn Step,
        mut row: ProgressRow,
        observe: Observer<'_>,
    ) -> Result<(ProgressRow, u64), UpgradeError> {
        let (version, down) = (step.version(), row.direction == Direction::Down);
        // Recorded before the first change, so that a half-made first layout is never taken for a foreign database.
        self.sled(history::set_progress(self.medium, Some(&row)))?;
        self.flush()?;
        let mut from = row.from.as_ref().and_then(|text| hex::decode(text).ok());
        let mut meter = self.sled(Meter::new(self.medium, step.source().filter(|_| !down), from.as_deref()))?;
        loop {
            row.chunks += 1;
            let failed =
                |source| UpgradeError::Step { version, name: step.name().to_owned(), chunk: row.chunks, source };
            let medium = &meter.medium;
            let result =
                if down { step.retreat(medium, from.as_deref()) } else { step.advance(medium, from.as_deref()) };
            let advance = result.map_err(failed)?;
            // The chunk is durable before its progress is: a crash in between repeats it.
            self.flush()?;
            from = match advance {
                Advance::More(next) => Some(next),
                Advance::Done => None,
            };
            let progress = meter.chunk((version, step.name()), down, row.chunks, from.as_deref());
            observe(&progress);
            let Some(next) = &from else { return Ok((row, progress.largest_chunk)) };
            row.from = Some(hex::encode(next));
            self.sled(history::set_progress(self.medium, Some(&row)))?;
        }
    }

    pub(crate) fn record(
        &self,
        step: &dyn Step,
        chunks: u64,
        origin: Origin,
        backup: Option<PathBuf>,
    ) -> Result<(), UpgradeError> {
        let (version, name, checksum) = (step.version(), step.name().to_owned(), declared(step));
        let rows = self.sled(history::raw_rows(self.medium))?;
        let sequence = rows.iter().filter_map(|(_, row)| row.as_ref()).map(|row| row.sequence).max().unwrap_or(0) + 1;
        let (done_ms, by) = (now_ms(), Holder::this());
        let row = HistoryRow { version, name, checksum, sequence, origin, chunks, done_ms, by, backup };
        self.sled(history::record(self.medium, &row))?;
        self.flush()
    }

    pub(crate) fn baseline(&self, version: u32) -> Result<(), UpgradeError> {
        let rows = self.rows()?;
        self.compare(&rows)?;
        let at = rows.last().map_or(0, |row| row.version);
        if version < at {
            return Err(UpgradeError::BaselineBehind { at, version });
        }
        let recorded: Vec<u32> = rows.iter().map(|row| row.version).collect();
        let steps = self.plan.steps.iter().filter(|step| step.version() <= version);
        for step in steps.filter(|step| !recorded.contains(&step.version())) {
            self.record(step.as_ref(), 0, Origin::Baseline, None)?;
        }
        Ok(())
    }

    pub(crate) fn downgrade(
        &self,
        to: u32,
        backups: Backups<'_>,
        observe: Observer<'_>,
    ) -> Result<Report, UpgradeError> {
        let from = self.validate()?;
        let rows = self.rows()?;
        let mut interrupted = self.progress()?.filter(|row| self.is_under_way(row, &rows));
        let mut report = Report { from, to: from, applied: Vec::new(), resumed: None, backup: None, largest_chunk: 0 };
        let steps: Vec<&dyn Step> = (to + 1..=from).rev().filter_map(|version| self.step(version)).collect();
        self.may_go_back(&steps, &rows, to)?;
        if let Some(row) = interrupted.take_if(|row| row.direction == Direction::Up) {
            // Half a step up lies above the newest recorded one: it is ended first, then all of it goes back.
            let step = self.step(row.version).filter(|step| step.reversible());
            let name = |version| self.step(version).map_or_else(String::new, |step| step.name().to_owned());
            let Some(step) = step else {
                let (version, backup) = (row.version, row.backup);
                return Err(UpgradeError::NotReversible { version, name: name(version), backup });
            };
            let checksum = declared(step);
            let fresh = ProgressRow::new(row.version, checksum.clone(), Direction::Up, row.backup.clone());
            self.apply(step, if row.checksum == checksum { row } else { fresh }, observe)?;
            return self.downgrade(to, backups, observe);
        }
        self.end_way_back(from)?;
        report.backup = match &interrupted {
            Some(row) => row.backup.clone(),
            None if steps.is_empty() => None,
            None => backups(from)?,
        };
        for step in steps {
            let before = interrupted.take_if(|row| row.version == step.version());
            if before.is_some() {
                report.resumed = Some(step.version());
            }
            let fresh = ProgressRow::new(step.version(), declared(step), Direction::Down, report.backup.clone());
            let (_, largest) = self.chunks(step, before.unwrap_or(fresh), observe)?;
            self.sled(history::forget(self.medium, step.version()))?;
            self.flush()?;
            self.sled(history::set_progress(self.medium, None))?;
            self.flush()?;
            report.largest_chunk = report.largest_chunk.max(largest);
            report.applied.push(step.version());
            report.to = step.version() - 1;
        }
        Ok(report)
    }

    /// A way back whose row has gone but whose note is there: after its last chunk, or after an upgrade that was about to
    /// begin the step anew. Its chunks are harmless where nothing is left to do.
    fn end_way_back(&self, from: u32) -> Result<(), UpgradeError> {
        let note = self.progress()?.filter(|row| row.direction == Direction::Down && row.version == from + 1);
        let Some(row) = note else { return Ok(()) };
        if let Some(step) = self.step(row.version) {
            self.chunks(step, ProgressRow { from: None, ..row }, &mut |_| {})?;
        }
        self.sled(history::set_progress(self.medium, None))?;
        self.flush()
    }

    fn may_go_back(&self, steps: &[&dyn Step], rows: &[HistoryRow], to: u32) -> Result<(), UpgradeError> {
        let finalised = self.finalised()?;
        for step in steps {
            let version = step.version();
            let backup = rows.iter().find(|row| row.version == version).and_then(|row| row.backup.clone());
            if version <= finalised {
                return Err(UpgradeError::Finalised { finalised, to, backup });
            }
            if !step.reversible() {
                return Err(UpgradeError::NotReversible { version, name: step.name().to_owned(), backup });
            }
        }
        Ok(())
    }

    pub(crate) fn finalise(&self) -> Result<u32, UpgradeError> {
        self.validate_strictly()?;
        let version = self.validate()?;
        let row = FinalisedRow { version, done_ms: now_ms(), by: Holder::this() };
        self.sled(history::set_finalised(self.medium, &row))?;
        self.flush()?;
        Ok(version)
    }
}

/// Steps must have been applied in the order of their versions; a baseline or a repair may fill a hole later.
pub(crate) fn check_order(rows: &[HistoryRow]) -> Result<(), UpgradeError> {
    let late = rows.iter().filter(|row| row.origin == Origin::Applied).find_map(|row| {
        let before = rows.iter().find(|other| other.version > row.version && other.sequence < row.sequence)?;
        Some((row, before.version))
    });
    late.map_or(Ok(()), |(row, after)| {
        Err(UpgradeError::OutOfOrder { version: row.version, name: row.name.clone(), after })
    })
}
