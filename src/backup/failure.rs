//! The error of a copy.

use std::error::Error as StdError;
use std::path::Path;

use crate::error::Error;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a copy failed. It becomes the error of a backup, of a migration or of a restore.
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

    /// A failure with the findings of a check.
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

    /// The work was stopped; the code that stopped it reports the reason.
    pub(super) fn stopped() -> Self {
        Self::new("the copy was stopped")
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
