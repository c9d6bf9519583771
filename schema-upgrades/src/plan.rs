//! The steps of a program, and what they do to a database: status, validate, upgrade, baseline.

use std::path::PathBuf;

use crate::database::Database;
use crate::error::{PlanError, UpgradeError};
use crate::history::{self, HISTORY, HistoryRow, Origin, PROGRESS, ProgressRow};
use crate::lock::{Holder, now_ms};
use crate::medium::Medium;
use crate::step::{Advance, Step, checksum, label};

/// The ordered steps of a program.
pub struct Plan {
    steps: Vec<Box<dyn Step>>,
}

/// Where a database stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Its version; 0 before the first step.
    pub version: u32,
    /// The newest version of the plan.
    pub newest: u32,
    /// What was applied.
    pub applied: Vec<HistoryRow>,
    /// What would be applied, `V002__name`.
    pub pending: Vec<String>,
    /// The version of an interrupted step, and its finished chunks.
    pub interrupted: Option<(u32, u64)>,
}

/// What an upgrade did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The version before.
    pub from: u32,
    /// The version after.
    pub to: u32,
    /// The steps that were applied.
    pub applied: Vec<u32>,
    /// The step that was resumed, if one was.
    pub resumed: Option<u32>,
}

impl Plan {
    /// A plan of steps with the versions 1, 2, 3 …
    ///
    /// # Errors
    /// [`PlanError`] for gaps, duplicates and odd names.
    pub fn new(steps: Vec<Box<dyn Step>>) -> Result<Self, PlanError> {
        for (expected, step) in (1..).zip(&steps) {
            let (version, name) = (step.version(), step.name());
            if version != expected {
                return Err(PlanError::Version { expected, found: label(version, name) });
            }
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || !name.bytes().all(allowed) {
                return Err(PlanError::Name { version, name: name.to_owned() });
            }
        }
        Ok(Self { steps })
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.steps.last().map_or(0, |step| step.version())
    }

    /// Where a database stands, without changing or judging it.
    ///
    /// # Errors
    /// [`UpgradeError::Sled`], [`UpgradeError::Damaged`].
    pub fn status(&self, database: &Database) -> Result<Status, UpgradeError> {
        let run = Run { plan: self, medium: database, path: database.path().to_owned() };
        let applied = run.rows()?;
        let version = applied.last().map_or(0, |row| row.version);
        let done: Vec<u32> = applied.iter().map(|row| row.version).collect();
        let pending = self.steps.iter().filter(|step| !done.contains(&step.version()));
        let interrupted = run.progress()?.filter(|row| !done.contains(&row.version));
        Ok(Status {
            version,
            newest: self.newest(),
            pending: pending.map(|step| label(step.version(), step.name())).collect(),
            interrupted: interrupted.map(|row| (row.version, row.chunks)),
            applied,
        })
    }

    /// Compares the history with the plan.
    ///
    /// # Errors
    /// [`UpgradeError`]: damaged, unversioned, unknown future, missing, altered, out of order.
    pub fn validate(&self, database: &Database) -> Result<(), UpgradeError> {
        Run { plan: self, medium: database, path: database.path().to_owned() }.validate().map(|_| ())
    }

    /// Validates, then applies what is pending, up to a version or to the newest. Interrupted steps go on at the chunk
    /// where they were.
    ///
    /// # Errors
    /// Those of [`Plan::validate`], [`UpgradeError::NoSuchVersion`], [`UpgradeError::Step`], [`UpgradeError::Sled`].
    pub fn upgrade(&self, database: &Database, to: Option<u32>) -> Result<Report, UpgradeError> {
        self.upgrade_on(database, database.path().to_owned(), to)
    }

    /// [`Plan::upgrade`] on any medium, so that tests can put faults in between. `name` is for the messages.
    ///
    /// # Errors
    /// Those of [`Plan::upgrade`].
    pub fn upgrade_on(&self, medium: &dyn Medium, name: PathBuf, to: Option<u32>) -> Result<Report, UpgradeError> {
        let to = self.known(to.unwrap_or_else(|| self.newest()))?;
        Run { plan: self, medium, path: name }.upgrade(to)
    }

    /// Records that an existing database is at a version, because an operator says so. Nothing of its content changes.
    ///
    /// # Errors
    /// [`UpgradeError::NoSuchVersion`], [`UpgradeError::BaselineBehind`], those of damaged or altered histories.
    pub fn baseline(&self, database: &Database, version: u32) -> Result<(), UpgradeError> {
        let version = self.known(version)?;
        Run { plan: self, medium: database, path: database.path().to_owned() }.baseline(version)
    }

    fn known(&self, version: u32) -> Result<u32, UpgradeError> {
        let newest = self.newest();
        if version <= newest { Ok(version) } else { Err(UpgradeError::NoSuchVersion { version, newest }) }
    }
}

/// One run of a plan on one database.
struct Run<'a> {
    plan: &'a Plan,
    medium: &'a dyn Medium,
    path: PathBuf,
}

impl Run<'_> {
    fn sled<T>(&self, result: Result<T, sled::Error>) -> Result<T, UpgradeError> {
        result.map_err(|source| UpgradeError::Sled { path: self.path.clone(), source })
    }

    fn rows(&self) -> Result<Vec<HistoryRow>, UpgradeError> {
        self.sled(history::rows(self.medium))?
    }

    fn progress(&self) -> Result<Option<ProgressRow>, UpgradeError> {
        self.sled(history::progress(self.medium))?
    }

    /// The database's version, if the history agrees with the plan.
    fn validate(&self) -> Result<u32, UpgradeError> {
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
        Self::check_order(&rows)?;
        Ok(newest)
    }

    /// Steps must have been applied in the order of their versions; a baseline may fill a hole later.
    fn check_order(rows: &[HistoryRow]) -> Result<(), UpgradeError> {
        let late = rows.iter().filter(|row| row.origin == Origin::Applied).find_map(|row| {
            let before = rows.iter().find(|other| other.version > row.version && other.sequence < row.sequence)?;
            Some((row, before.version))
        });
        late.map_or(Ok(()), |(row, after)| {
            Err(UpgradeError::OutOfOrder { version: row.version, name: row.name.clone(), after })
        })
    }

    /// Every recorded step must be one of the plan, unaltered.
    fn compare(&self, rows: &[HistoryRow]) -> Result<(), UpgradeError> {
        let known = self.plan.newest();
        if let Some(row) = rows.iter().find(|row| row.version > known) {
            return Err(UpgradeError::UnknownFuture { found: row.version, name: row.name.clone(), known });
        }
        for row in rows {
            let Some(step) = self.plan.steps.iter().find(|step| step.version() == row.version) else { continue };
            let declared = hex::encode(checksum(step.as_ref()));
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

    /// An empty database needs no history; an interrupted first step explains its own trees.
    fn refuse_unversioned(&self) -> Result<(), UpgradeError> {
        if self.progress()?.is_some() {
            return Ok(());
        }
        let own = ["__sled__default", HISTORY, PROGRESS];
        let mut trees: Vec<String> = Vec::new();
        for tree in self.medium.trees() {
            let foreign = !own.contains(&tree.as_str());
            let filled = foreign || tree == own[0];
            if filled && !self.sled(self.medium.scan(&tree, None, 1))?.is_empty() {
                trees.push(tree);
            }
        }
        if trees.is_empty() { Ok(()) } else { Err(UpgradeError::Unversioned { trees: trees.join(", ") }) }
    }

    fn upgrade(&self, to: u32) -> Result<Report, UpgradeError> {
        let from = self.validate()?;
        let interrupted = self.progress()?;
        let mut report = Report { from, to: from, applied: Vec::new(), resumed: None };
        for step in self.plan.steps.iter().filter(|step| step.version() > from && step.version() <= to) {
            let declared = hex::encode(checksum(step.as_ref()));
            // Progress of a step whose content has changed since is worth nothing: steps are idempotent.
            let before = interrupted.as_ref().filter(|row| row.version == step.version() && row.checksum == declared);
            if before.is_some() {
                report.resumed = Some(step.version());
            }
            self.apply(step.as_ref(), declared, before)?;
            report.applied.push(step.version());
            report.to = step.version();
        }
        if report.applied.is_empty() && interrupted.is_some_and(|row| row.version <= from) {
            self.sled(history::set_progress(self.medium, None))?;
        }
        Ok(report)
    }

    fn apply(&self, step: &dyn Step, declared: String, before: Option<&ProgressRow>) -> Result<(), UpgradeError> {
        let (version, name) = (step.version(), step.name());
        tracing::info!(step = label(version, name), resumed = before.is_some(), "applying a schema upgrade");
        let mut row = before.cloned().unwrap_or(ProgressRow { version, checksum: declared, chunks: 0, from: None });
        // Recorded before the first change, so that a half-made first layout is never taken for a foreign database.
        self.sled(history::set_progress(self.medium, Some(&row)))?;
        self.sled(self.medium.flush())?;
        loop {
            let from = row.from.as_ref().and_then(|text| hex::decode(text).ok());
            row.chunks += 1;
            let failed = |source| UpgradeError::Step { version, name: name.to_owned(), chunk: row.chunks, source };
            let advance = step.advance(self.medium, from.as_deref()).map_err(failed)?;
            // The chunk is durable before its progress is: a crash in between repeats it.
            self.sled(self.medium.flush())?;
            let Advance::More(next) = advance else { break };
            row.from = Some(hex::encode(next));
            self.sled(history::set_progress(self.medium, Some(&row)))?;
        }
        self.finish(step, row.checksum, row.chunks, Origin::Applied)?;
        self.sled(history::set_progress(self.medium, None))?;
        self.sled(self.medium.flush())
    }

    fn finish(&self, step: &dyn Step, checksum: String, chunks: u64, origin: Origin) -> Result<(), UpgradeError> {
        let (version, name) = (step.version(), step.name().to_owned());
        let sequence = self.rows()?.iter().map(|row| row.sequence).max().unwrap_or(0) + 1;
        let (done_ms, by) = (now_ms(), Holder::this());
        let row = HistoryRow { version, name, checksum, sequence, origin, chunks, done_ms, by };
        self.sled(history::record(self.medium, &row))?;
        self.sled(self.medium.flush())
    }

    fn baseline(&self, version: u32) -> Result<(), UpgradeError> {
        let rows = self.rows()?;
        self.compare(&rows)?;
        let at = rows.last().map_or(0, |row| row.version);
        if version < at {
            return Err(UpgradeError::BaselineBehind { at, version });
        }
        let recorded: Vec<u32> = rows.iter().map(|row| row.version).collect();
        let steps = self.plan.steps.iter().filter(|step| step.version() <= version);
        for step in steps.filter(|step| !recorded.contains(&step.version())) {
            self.finish(step.as_ref(), hex::encode(checksum(step.as_ref())), 0, Origin::Baseline)?;
        }
        Ok(())
    }
}
