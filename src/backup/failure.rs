//! The reason why a copy could not be made.

use std::error::Error as StdError;
use std::path::Path;

use crate::error::Error;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The failure of a copy, before its purpose is known: a backup, the backup of a migration, or a restore.
#[derive(Debug)]
pub(crate) struct Failure {
    problem: &'static str,
    detail: Option<String>,
    pub(crate) source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub(super) fn new(problem: &'static str) -> Self {
        Self {
            problem,
            detail: None,
            source: None,
        }
    }

    /// A failure with the finding that caused it.
    pub(super) fn found(problem: &'static str, detail: String) -> Self {
        Self {
            detail: Some(detail),
            ..Self::new(problem)
        }
    }

    pub(super) fn of(problem: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self {
            problem,
            detail: Some(source.to_string()),
            source: Some(Box::new(source)),
        }
    }

    /// The work was stopped. The part that stopped it reports the reason.
    pub(super) fn stopped() -> Self {
        Self::new("it was stopped")
    }

    pub(crate) fn sentence(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.problem),
            None => self.problem.to_owned(),
        }
    }

    pub(super) fn of_backup(self, path: &Path) -> Error {
        Error::Backup {
            path: path.into(),
            problem: self.problem,
            detail: self.detail,
            source: self.source,
        }
    }

    pub(super) fn of_restore(self, from: &Path, to: &Path) -> Error {
        Error::Restore {
            from: from.into(),
            to: to.into(),
            problem: self.problem,
            detail: self.detail,
            source: self.source,
        }
    }
}
