//! [`Trouble`]: why a look at the replica did not end at its newest transaction.

use crate::error::Error;
use crate::replica::restore::apply::ApplyError;
use crate::replica::storage::{FailureKind, FileInfo, Storage, StorageError};

#[derive(Debug)]
pub(super) enum Trouble {
    /// A file cannot be used.
    File(FileInfo, String),
    /// The storage does not answer, or refuses.
    Storage(StorageError),
    /// The files do not lead on from where the follower is.
    Incomplete(String),
    /// Another process has written to the replica than before: whose replica it is has to be asked.
    OtherNode(u64),
    /// The database is not as the follower left it.
    Changed(String),
    /// The database is perhaps not as the follower left it, for this reason, and the replica cannot tell: it has what came
    /// since in a snapshot alone.
    Doubtful(String),
    /// Replica and database do not fit: the end.
    Diverged(String),
    /// The disk is too full.
    NoRoom(String),
    /// The database cannot be written now.
    Local(Error),
    /// Another process has added to the replica before a claim was made.
    Overtaken,
    /// The follower closes.
    Closing,
}

impl Trouble {
    pub(super) fn of(file: &FileInfo, error: ApplyError, storage: &Storage) -> Self {
        match error {
            ApplyError::Invalid(problem) => Self::File(*file, problem),
            ApplyError::Storage(error) if error.is_not_found() => Self::File(*file, "it is missing".into()),
            ApplyError::Storage(error) => Self::Storage(error),
            other => {
                let what = format!("{} could not be read", storage.name(file.level, file.txids));
                Self::Storage(storage.failure(what, FailureKind::Transient, other.to_string()))
            }
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Local(Error::not_started(error))
    }
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Closed => Self::Closing,
            other => Self::Local(other),
        }
    }
}
