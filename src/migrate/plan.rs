//! Plans the next step from the set and the applied migrations. Nothing here reads or writes the database.

use std::collections::BTreeMap;

use super::record::{Applied, Details};
use super::script::Script;
use super::{Direction, Migration, Migrations, lost_markers};
use crate::error::MigrationError;

/// Versions below this are consecutive numbers; from here on (the first of January 1900) they are dates.
const DATES: u64 = 19_000_101;

/// The version to migrate to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// The newest version of the set.
    Newest,
    /// This version, up or down; 0 is an empty database.
    Version(u64),
    /// This version, and never down.
    UpTo(u64),
    /// This version, and never up; 0 is an empty database.
    DownTo(u64),
}

impl Target {
    /// No version above it is applied in the end.
    fn highest(self) -> u64 {
        match self {
            Self::Newest => u64::MAX,
            Self::Version(version) | Self::UpTo(version) | Self::DownTo(version) => version,
        }
    }

    fn refuse_other_direction(self, applied: &BTreeMap<u64, Applied>) -> Result<(), MigrationError> {
        let newest = applied.last_key_value().map_or(0, |(version, _)| *version);
        match self {
            Self::UpTo(version) if newest > version => Err(MigrationError::OtherDirection {
                version,
                newest,
                direction: Direction::Down,
            }),
            Self::DownTo(version) if newest < version => Err(MigrationError::OtherDirection {
                version,
                newest,
                direction: Direction::Up,
            }),
            _ => Ok(()),
        }
    }
}

/// One step towards the target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'m> {
    Up(&'m Migration),
    Down(&'m Migration),
}

impl<'m> Step<'m> {
    pub(crate) fn migration(self) -> &'m Migration {
        match self {
            Step::Up(migration) | Step::Down(migration) => migration,
        }
    }

    pub(crate) fn script(self) -> &'m Script {
        match self {
            Step::Up(migration) => &migration.up,
            Step::Down(migration) => migration.down.as_ref().expect("`next` has looked"),
        }
    }

    pub(crate) fn direction(self) -> Direction {
        match self {
            Step::Up(_) => Direction::Up,
            Step::Down(_) => Direction::Down,
        }
    }
}

impl Migration {
    /// Checks a migration on its own.
    pub(super) fn validate(&self) -> Result<(), MigrationError> {
        let problem = if self.version == 0 {
            "versions start at 1: 0 stands for an empty database".to_owned()
        } else if self.version > i64::MAX as u64 {
            format!("the version is too large: the maximum is {}", i64::MAX)
        } else if self.up.is_blank() {
            // Filled in later, it would not be what was applied.
            "the up script has no statement: write one, or SELECT 1 to do nothing".to_owned()
        } else if self.up.text().contains('\0') || self.down.as_ref().is_some_and(|down| down.text().contains('\0')) {
            "the SQL has a NUL character, where SQLite would stop reading: remove it".to_owned()
        } else {
            return Ok(());
        };
        Err(MigrationError::Format {
            file: self.file.clone(),
            line: None,
            problem,
        })
    }
}

impl Migrations {
    /// Checks the set on its own.
    pub(crate) fn validate(&self) -> Result<(), MigrationError> {
        if self.list.is_empty() {
            return Err(MigrationError::Empty {
                origin: self.origin.clone(),
            });
        }
        for pair in self.list.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            if one.version == next.version {
                return Err(MigrationError::Duplicate {
                    version: one.version,
                    first: one.file.clone(),
                    second: next.file.clone(),
                });
            }
            if !self.allow_gaps && next.version < DATES && next.version != one.version + 1 {
                return Err(MigrationError::Gap {
                    version: one.version + 1,
                    problem: format!(
                        "after migration {} comes {}: restore the migrations between them, or number them consecutively",
                        one.file, next.file
                    ),
                });
            }
        }
        self.list.iter().try_for_each(Migration::validate)?;
        let mut guarded = self
            .list
            .iter()
            .filter(|migration| !self.plain_comments.contains(&migration.version));
        guarded.try_for_each(lost_markers::refuse)
    }

    /// The next step, or `None` if there is none.
    pub(crate) fn next(
        &self,
        applied: &BTreeMap<u64, Applied>,
        target: Target,
    ) -> Result<Option<Step<'_>>, MigrationError> {
        self.check_applied(applied)?;
        let highest = target.highest();
        if target != Target::Newest && highest != 0 && self.find(highest).is_none() {
            return Err(MigrationError::NoSuchVersion { version: highest });
        }
        target.refuse_other_direction(applied)?;
        // All steps down are checked before the first one.
        let mut down = None;
        let mut without = Vec::new();
        for (version, applied) in applied.iter().filter(|(version, _)| **version > highest) {
            match self.find(*version) {
                Some(migration) if migration.down.is_some() => down = Some(Step::Down(migration)),
                Some(migration) => without.push((*version, migration.file.clone())),
                None => without.push((*version, applied.told(*version))),
            }
        }
        let mut without = without.into_iter();
        if let Some((version, file)) = without.next() {
            return Err(MigrationError::NoDown {
                file,
                version,
                others: without.map(|(_, file)| file).collect(),
            });
        }
        if down.is_some() || matches!(target, Target::DownTo(_)) {
            return Ok(down);
        }
        let mut pending = self.pending(applied).filter(|migration| migration.version <= highest);
        Ok(pending.next().map(Step::Up))
    }

    /// The step after that of the version `last`, which has left these versions applied. `None` also if it is not as
    /// plain as that: then [`next`](Self::next) tells. A long list would take a long time if each step looked at all of
    /// it.
    pub(crate) fn following(&self, applied: &BTreeMap<u64, Applied>, target: Target, last: u64) -> Option<Step<'_>> {
        let highest = target.highest();
        if let Some((above, _)) = applied.last_key_value().filter(|(version, _)| **version > highest) {
            return self
                .find(*above)
                .filter(|migration| migration.down.is_some())
                .map(Step::Down);
        }
        if matches!(target, Target::DownTo(_)) {
            return None;
        }
        // The lowest pending version is applied first.
        let from = self.list.partition_point(|migration| migration.version <= last);
        let next = self.list[from..]
            .iter()
            .find(|migration| !applied.contains_key(&migration.version))?;
        (next.version <= highest && applied.contains_key(&last)).then_some(Step::Up(next))
    }

    /// The migrations that are not applied yet.
    pub(crate) fn pending(&self, applied: &BTreeMap<u64, Applied>) -> impl Iterator<Item = &Migration> {
        self.list
            .iter()
            .filter(|migration| !applied.contains_key(&migration.version))
    }

    /// Checks that the applied migrations match the set.
    pub(crate) fn check_applied(&self, applied: &BTreeMap<u64, Applied>) -> Result<(), MigrationError> {
        let last = applied.last_key_value().map_or(0, |(version, _)| *version);
        self.refuse_newer(last)?;
        for (version, applied) in applied {
            match self.find(*version) {
                Some(migration) => refuse_changed(migration, applied)?,
                None if self.allow_gaps => {}
                None => return Err(gone(*version, applied)),
            }
        }
        match self.pending(applied).next() {
            Some(late) if late.version < last && !self.allow_gaps => Err(skipped(late, last)),
            _ => Ok(()),
        }
    }

    /// Refuses a database that a newer version of the program has migrated.
    fn refuse_newer(&self, last: u64) -> Result<(), MigrationError> {
        match self.list.last().map_or(0, |migration| migration.version) {
            newest if last > newest => Err(MigrationError::Newer { version: last, newest }),
            _ => Ok(()),
        }
    }

    /// The migration that was recorded under this version, perhaps by an earlier release, which read another version in
    /// the same file name. Where the record has its name or checksum, that decides.
    pub(crate) fn recorded_as(&self, version: u64, details: Option<&Details>) -> Option<&Migration> {
        let is = |migration: &Migration, name: &str| {
            details.is_some_and(|details| {
                details.name == name || details.checksum.as_deref() == Some(migration.checksum())
            })
        };
        let named = self.find(version);
        if named.is_some_and(|migration| details.is_none() || is(migration, &migration.name)) {
            return named;
        }
        let formerly = self.list.iter().find(|migration| {
            let former = migration.former.as_ref().filter(|former| former.version == version);
            former.is_some_and(|former| details.is_none() || is(migration, &former.name))
        });
        match named {
            Some(named) => formerly.or(Some(named)),
            None => formerly,
        }
    }

    pub(crate) fn find(&self, version: u64) -> Option<&Migration> {
        let at = self.list.binary_search_by_key(&version, |migration| migration.version);
        at.ok().map(|at| &self.list[at])
    }
}

fn refuse_changed(migration: &Migration, applied: &Applied) -> Result<(), MigrationError> {
    match applied.details.as_ref().and_then(|details| details.checksum.as_ref()) {
        Some(checksum) if *checksum != migration.checksum() => Err(MigrationError::Changed {
            file: migration.file.clone(),
            version: applied.recorded.clone(),
        }),
        _ => Ok(()),
    }
}

fn skipped(late: &Migration, last: u64) -> MigrationError {
    MigrationError::Gap {
        version: late.version,
        problem: format!(
            "migration {} is pending, but the later migration {last} is applied: give it a version above {last}",
            late.file
        ),
    }
}

fn gone(version: u64, applied: &Applied) -> MigrationError {
    MigrationError::Gap {
        version,
        problem: format!(
            "migration {} was applied, but is not in the set: restore it",
            applied.told(version)
        ),
    }
}
