//! The steps of a program, and what can be asked of them: the crate's front door. The work is in `run`, `repair` and
//! `dry_run`.

use std::path::{Path, PathBuf};

use crate::backup::{self, Backup};
use crate::database::Database;
use crate::dry_run::{self, DryRun};
use crate::error::{PlanError, UpgradeError};
use crate::history::HistoryRow;
use crate::medium::Medium;
use crate::progress::Progress;
use crate::repair::{self, Finding};
use crate::run::Run;
use crate::step::{Step, label};

/// The ordered steps of a program.
pub struct Plan {
    pub(crate) steps: Vec<Box<dyn Step>>,
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
    /// Up to this version there is no way back; 0 if nothing was finalised.
    pub finalised: u32,
    /// The lowest version that `downgrade` reaches from here.
    pub downgrade_to: u32,
}

/// How an upgrade or a downgrade is to be done.
pub struct Options<'a> {
    /// The folder for the backup that is taken first; none takes none.
    pub backups: Option<PathBuf>,
    /// Told after each chunk.
    pub observe: &'a mut dyn FnMut(&Progress),
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
    /// The backup that was taken first, or by the attempt that was resumed.
    pub backup: Option<PathBuf>,
    /// The most bytes that one chunk read and wrote.
    pub largest_chunk: u64,
}

fn log(progress: &Progress) {
    tracing::info!(%progress, "schema upgrade");
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

    /// The plan of the release that knew versions up to this one only.
    #[must_use]
    pub fn up_to(mut self, newest: u32) -> Self {
        self.steps.retain(|step| step.version() <= newest);
        self
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
        let run = self.run(database);
        let applied = run.rows()?;
        let version = applied.last().map_or(0, |row| row.version);
        let done = |version: u32| applied.iter().any(|row| row.version == version);
        let pending = self.steps.iter().filter(|step| !done(step.version()));
        let pending = pending.map(|step| label(step.version(), step.name())).collect();
        let interrupted = run.progress()?.filter(|row| run.is_under_way(row, &applied));
        let finalised = run.finalised()?;
        Ok(Status {
            version,
            newest: self.newest(),
            pending,
            interrupted: interrupted.map(|row| (row.version, row.chunks)),
            finalised,
            downgrade_to: self.lowest_from(version, finalised),
            applied,
        })
    }

    fn lowest_from(&self, version: u32, finalised: u32) -> u32 {
        let back = self.steps.iter().rev().filter(|step| step.version() <= version);
        let steps = back.take_while(|step| step.reversible() && step.version() > finalised).count();
        version.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX))
    }

    /// Compares the history with the plan, and with what steps recognise in the database.
    ///
    /// # Errors
    /// [`UpgradeError`]: damaged, unversioned, unknown future, missing, altered, out of order, unrecorded, half
    /// downgraded. Each says what mends it.
    pub fn validate(&self, database: &Database) -> Result<(), UpgradeError> {
        self.run(database).validate_strictly()
    }

    /// Validates, then applies what is pending, up to a version or to the newest. Interrupted steps go on at the chunk
    /// where they were. A backup is taken first if anything is there, into [`backup::default_folder`].
    ///
    /// # Errors
    /// Those of [`Plan::validate`] but for [`UpgradeError::Unrecorded`], which an upgrade mends by itself;
    /// [`UpgradeError::NoSuchVersion`], [`UpgradeError::Step`], [`UpgradeError::Sled`], those of [`backup::write`].
    pub fn upgrade(&self, database: &Database, to: Option<u32>) -> Result<Report, UpgradeError> {
        let backups = Some(backup::default_folder(database.path()));
        self.upgrade_with(database, to, Options { backups, observe: &mut log })
    }

    /// [`Plan::upgrade`] with the backup's place and an observer.
    ///
    /// # Errors
    /// Those of [`Plan::upgrade`].
    pub fn upgrade_with(
        &self,
        database: &Database,
        to: Option<u32>,
        options: Options<'_>,
    ) -> Result<Report, UpgradeError> {
        let to = self.known(to.unwrap_or_else(|| self.newest()))?;
        let Options { backups, observe } = options;
        let take = |from: u32| self.backup_before(database, backups.as_deref(), "upgrade", from);
        self.run(database).upgrade(to, &take, observe)
    }

    /// [`Plan::upgrade`] on any medium and without a backup, so that tests can put faults in between. `name` is for the
    /// messages.
    ///
    /// # Errors
    /// Those of [`Plan::upgrade`].
    pub fn upgrade_on(&self, medium: &dyn Medium, name: PathBuf, to: Option<u32>) -> Result<Report, UpgradeError> {
        let to = self.known(to.unwrap_or_else(|| self.newest()))?;
        Run { plan: self, medium, path: name }.upgrade(to, &|_| Ok(None), &mut log)
    }

    /// Goes back to an older version, step by step, as long as no step on the way was finalised. What was written since
    /// the upgrade is kept.
    ///
    /// # Errors
    /// [`UpgradeError::Finalised`], [`UpgradeError::NotReversible`], and those of [`Plan::upgrade`].
    pub fn downgrade(&self, database: &Database, to: u32, options: Options<'_>) -> Result<Report, UpgradeError> {
        let to = self.known(to)?;
        let Options { backups, observe } = options;
        let take = |from: u32| self.backup_before(database, backups.as_deref(), "downgrade", from);
        self.run(database).downgrade(to, &take, observe)
    }

    /// [`Plan::downgrade`] on any medium and without a backup, for tests.
    ///
    /// # Errors
    /// Those of [`Plan::downgrade`].
    pub fn downgrade_on(&self, medium: &dyn Medium, name: PathBuf, to: u32) -> Result<Report, UpgradeError> {
        Run { plan: self, medium, path: name }.downgrade(self.known(to)?, &|_| Ok(None), &mut log)
    }

    /// Ends the downgrade window at the database's version, and gives that version back.
    ///
    /// # Errors
    /// Those of [`Plan::validate`].
    pub fn finalise(&self, database: &Database) -> Result<u32, UpgradeError> {
        self.run(database).finalise()
    }

    /// Takes a verified backup.
    ///
    /// # Errors
    /// Those of [`backup::write`].
    pub fn backup(&self, database: &Database, file: &Path) -> Result<Backup, UpgradeError> {
        // A history that cannot be read is no reason to refuse a backup.
        let version = self.status(database).map_or(0, |status| status.version);
        backup::write(database, version, file)
    }

    /// Applies what is pending to a copy beside the database, and says what each step would change. The copy is removed.
    ///
    /// # Errors
    /// Those of [`Plan::upgrade`].
    pub fn dry_run(&self, database: &Database, to: Option<u32>) -> Result<DryRun, UpgradeError> {
        dry_run::run(self, database, self.known(to.unwrap_or_else(|| self.newest()))?)
    }

    /// Says everything that is wrong with the history, and mends what can be mended without losing anything: a step is
    /// recorded if its result is there. Rows that are replaced are kept aside, content is never touched but by the steps
    /// themselves.
    ///
    /// # Errors
    /// [`UpgradeError::Sled`], [`UpgradeError::Step`].
    pub fn repair(&self, database: &Database) -> Result<Vec<Finding>, UpgradeError> {
        repair::run(&self.run(database))
    }

    /// Records that an existing database is at a version, because an operator says so. Nothing of its content changes.
    ///
    /// # Errors
    /// [`UpgradeError::NoSuchVersion`], [`UpgradeError::BaselineBehind`], those of damaged or altered histories.
    pub fn baseline(&self, database: &Database, version: u32) -> Result<(), UpgradeError> {
        let version = self.known(version)?;
        self.run(database).baseline(version)
    }

    fn run<'a>(&'a self, database: &'a Database) -> Run<'a> {
        Run { plan: self, medium: database, path: database.path().to_owned() }
    }

    fn backup_before(
        &self,
        database: &Database,
        folder: Option<&Path>,
        what: &str,
        from: u32,
    ) -> Result<Option<PathBuf>, UpgradeError> {
        let Some(folder) = folder else { return Ok(None) };
        let file = backup::free_name(folder, &format!("V{from:03}-before-{what}"));
        backup::write(database, from, &file)?;
        Ok(Some(file))
    }

    fn known(&self, version: u32) -> Result<u32, UpgradeError> {
        let newest = self.newest();
        if version <= newest { Ok(version) } else { Err(UpgradeError::NoSuchVersion { version, newest }) }
    }
}
