//! What was applied, what is pending, and what was done.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Direction, MigrationError};
use crate::error::Result;
#[cfg(doc)]
use crate::{Migrations, Store};

/// The applied and the pending migrations of a database. See [`Store::migrations`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MigrationStatus {
    /// The applied migrations, by version.
    pub applied: Vec<AppliedMigration>,
    /// The pending migrations, by version.
    pub pending: Vec<PendingMigration>,
}

/// An applied migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct AppliedMigration {
    /// Version.
    pub version: u64,
    /// Name.
    pub name: String,
    /// Time when it was applied, in UTC, as `2026-04-01T12:00:00.000Z`. `None` if another tool applied it and recorded
    /// no time.
    pub applied_at: Option<String>,
    /// Duration of its SQL and its checks. `None` if another tool applied it.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_seconds")
    )]
    pub duration: Option<Duration>,
}

/// A pending migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PendingMigration {
    /// Version.
    pub version: u64,
    /// Name.
    pub name: String,
}

/// The result of [`Store::migrate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MigrationReport {
    /// The migrations that this process applied or undid, in order. Another process may have applied some of the
    /// pending ones.
    pub steps: Vec<MigrationStep>,
    /// The backup before the first of them. See [`Migrations::backup_to`].
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::runtime::serde_units::optional_path")
    )]
    pub backup: Option<PathBuf>,
    /// The number of rows whose foreign key refers to no row, which were there before the migrations and still are. A
    /// warning of the target `larder::migrate` names their tables, and [`Store::check`] finds them.
    pub orphans: u64,
}

impl MigrationReport {
    /// Adds a step.
    pub(super) fn add(&mut self, step: MigrationStep, backup: Option<PathBuf>) -> Result<()> {
        let (version, direction) = (step.version, step.direction);
        let again = |step: &MigrationStep| step.version == version && step.direction == direction;
        if self.steps.iter().any(again) {
            return Err(MigrationError::Crossed { version }.into());
        }
        self.steps.push(step);
        self.backup = backup.or(self.backup.take());
        Ok(())
    }
}

/// One migration that was applied or undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MigrationStep {
    /// Version.
    pub version: u64,
    /// Name.
    pub name: String,
    /// Whether the migration was applied or undone.
    pub direction: Direction,
    /// Duration of the migration, including its COMMIT.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

/// A line for each migration, and their numbers: `[X]` is applied, `[ ]` is pending.
impl fmt::Display for MigrationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for migration in &self.applied {
            let when = migration.applied_at.as_deref().unwrap_or("by another tool");
            write!(f, "[X] {} {} ({when}", migration.version, migration.name)?;
            if let Some(took) = migration.duration {
                write!(f, ", took {took:.1?}")?;
            }
            f.write_str(")\n")?;
        }
        for migration in &self.pending {
            writeln!(f, "[ ] {} {}", migration.version, migration.name)?;
        }
        write!(f, "\nApplied: {}\nPending: {}", self.applied.len(), self.pending.len())
    }
}

/// A line for each step.
impl fmt::Display for MigrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return f.write_str("nothing to do");
        }
        if let Some(backup) = &self.backup {
            writeln!(f, "backup {}", backup.display())?;
        }
        for (at, step) in self.steps.iter().enumerate() {
            let end = if at > 0 { "\n" } else { "" };
            write!(f, "{end}{step}")?;
        }
        match self.orphans {
            0 => Ok(()),
            orphans => write!(
                f,
                "\n{orphans} rows whose foreign key refers to no row were there before, and still are"
            ),
        }
    }
}

impl fmt::Display for MigrationStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            name,
            direction,
            duration,
        } = self;
        write!(f, "{direction} {version} {name} in {duration:.1?}")
    }
}
