//! What a request to the storage failed with: the place, what was tried, the reason, and the way out.

use std::error::Error as StdError;
use std::{fmt, io};

use crate::error::Error;

/// A request failed. No credential is in its text or its source.
#[derive(Debug)]
pub struct StorageError {
    /// The replica, without the query of its URL.
    pub(super) url: String,
    /// What failed, to which object: `level 0 could not be listed`.
    pub(super) what: String,
    /// The reason and the way out.
    pub(super) reason: String,
    pub(super) kind: FailureKind,
    pub(super) source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// There is no such object.
    NotFound,
    /// The same request may succeed later: the storage is away, slow or overloaded.
    Transient,
    /// The user must change something: credentials, a URL, a folder's owner.
    Permanent,
}

impl StorageError {
    /// What can be done about it.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == FailureKind::NotFound
    }

    /// An error of a URL or of a setting.
    pub(super) fn invalid(url: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            what: "cannot be used".into(),
            reason: reason.into(),
            kind: FailureKind::Permanent,
            source: None,
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {}: {}: {}", self.url, self.what, self.reason)
    }
}

impl StdError for StorageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Error::Replica {
            what: format!("{}: {}", error.what, error.reason),
            url: error.url,
            source: error.source,
        }
    }
}

/// The kind and the reason of an error of `object_store`.
pub(super) fn explain(error: &object_store::Error) -> (FailureKind, String) {
    use object_store::Error as Store;
    if let Some(error) = io_error(error) {
        return (kind_of_io(error), error.to_string());
    }
    match error {
        Store::NotFound { .. } => (FailureKind::NotFound, "there is no such object".into()),
        Store::Generic { source, .. } => (FailureKind::Transient, source.to_string()),
        other => (FailureKind::Permanent, other.to_string()),
    }
}

/// The error of the operating system that caused it.
fn io_error(error: &object_store::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

fn kind_of_io(error: &io::Error) -> FailureKind {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        PermissionDenied | ReadOnlyFilesystem | NotADirectory | Unsupported => FailureKind::Permanent,
        _ => FailureKind::Transient,
    }
}
