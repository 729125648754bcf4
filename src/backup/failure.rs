//! The error of a copy.

use std::error::Error as StdError;
use std::path::Path;

use super::copy::{DAMAGED, INDEX_DAMAGED, OPENING};
use super::staging::EXISTS;
use crate::error::Error;
use crate::maintenance::integrity;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a copy failed. It becomes the error of a backup, of a migration or of a restore.
#[derive(Debug)]
pub(crate) struct Failure {
    problem: &'static str,
    detail: Option<String>,
    pub(crate) source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(problem: &'static str) -> Self {
        Self {
            problem,
            detail: None,
            source: None,
        }
    }

    /// A failure with the findings of a check.
    pub(crate) fn found(problem: &'static str, detail: String) -> Self {
        Self {
            detail: Some(detail),
            ..Self::new(problem)
        }
    }

    pub(crate) fn of(problem: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self {
            problem,
            detail: Some(source.to_string()),
            source: Some(Box::new(source)),
        }
    }

    /// Adds a remedy to the detail.
    pub(super) fn with_advice(mut self, advice: &str) -> Self {
        if let Some(detail) = &mut self.detail {
            detail.push_str(advice);
        }
        self
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
        let problem = match self.problem {
            EXISTS => {
                "the target exists already; choose another name, move the file away, or replace it with \
                       Backup::overwrite"
            }
            _ if self.lacks_a_name() => {
                "the schema needs a function, a collation or a module that the connection to the copy does not have; \
                 define it in Options::on_connect for Role::Copy, too"
            }
            problem => problem,
        };
        Error::Backup {
            path: path.into(),
            problem,
            detail: self.detail,
            source: self.source,
        }
    }

    pub(super) fn of_restore(self, from: &Path, to: &Path) -> Error {
        let problem = match self.problem {
            DAMAGED => {
                "the backup is damaged; restore an older one (RestoreOptions::verify(false) restores this one as \
                        it is)"
            }
            INDEX_DAMAGED => {
                "an index of the backup is damaged, and its table may be whole; restore it with \
                 RestoreOptions::verify(false), REINDEX the index in a write, then check the database (Store::check)"
            }
            _ if self.lacks_a_name() => {
                "the schema needs a function, a collation or a module that is not there; restore it with \
                 Options::restore and the on_connect of its store"
            }
            problem => problem,
        };
        Error::Restore {
            from: from.into(),
            to: to.into(),
            problem,
            detail: self.detail,
            source: self.source,
        }
    }

    /// The failure of a restore from a replica, or of an import from PostgreSQL: a URL or the name of the source stands for
    /// the backup.
    #[cfg(any(feature = "postgres", feature = "replicate"))]
    pub(crate) fn of_replica(self, url: &str, to: &Path) -> Error {
        let problem = match self.problem {
            DAMAGED | INDEX_DAMAGED => {
                "the database in the replica is damaged; restore an older state (by time or TXID), or restore this one \
                 as it is, without the integrity check"
            }
            problem => problem,
        };
        Self { problem, ..self }.of_restore(Path::new(url), to)
    }

    /// Whether the work failed because SQLite does not know a name that `on_connect` may define. (Opening fails by the
    /// SQL of `on_connect` itself.)
    fn lacks_a_name(&self) -> bool {
        self.problem != OPENING && self.detail.as_deref().is_some_and(integrity::lacks_a_name)
    }
}
