//! How a command ends: exit codes, and errors.

use std::{fmt, io};

use larder::Error;
use serde_json::{Value, json};

/// The command did its work and found a problem.
pub(crate) const PROBLEM: u8 = 1;
/// The arguments do not fit.
const USAGE: u8 = 2;
/// The command could not do its work.
const FAILED: u8 = 3;
/// The same, and it may succeed after a pause.
const BUSY: u8 = 4;
/// Ctrl-C: 128 and the number of the signal, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// What a command that did its work has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sound,
    Problem,
}

impl Verdict {
    pub(crate) fn of(is_sound: bool) -> Self {
        if is_sound { Self::Sound } else { Self::Problem }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    Larder(Error),
    /// Arguments that contradict each other or the files.
    Usage(String),
    /// A file or a stream.
    Io {
        what: String,
        source: io::Error,
    },
    /// The message says what is as it was.
    Interrupted(String),
    Other(String),
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        Self::Io { what, source }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Interrupted(_) | Self::Larder(Error::Cancelled { .. }) => INTERRUPTED,
            Self::Larder(error) if error.is_retryable() => BUSY,
            Self::Larder(_) | Self::Io { .. } | Self::Other(_) => FAILED,
        }
    }

    pub(crate) fn as_json(&self) -> Value {
        let (kind, is_retryable) = match self {
            Self::Larder(Error::Cancelled { .. }) => ("interrupted", false),
            Self::Larder(error) => (error.kind(), error.is_retryable()),
            Self::Usage(_) => ("usage", false),
            Self::Io { .. } => ("io", false),
            Self::Interrupted(_) => ("interrupted", false),
            Self::Other(_) => ("refused", false),
        };
        let mut error = json!({ "kind": kind, "message": self.to_string(), "retryable": is_retryable });
        if let Self::Larder(source) = self {
            error["outcome"] = json!(source.outcome());
        }
        json!({ "error": error })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Larder(Error::Cancelled { work }) => {
                write!(f, "interrupted: the {work} was stopped, and left nothing behind")
            }
            Self::Larder(error) => error.fmt(f),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Usage(said) | Self::Interrupted(said) | Self::Other(said) => f.write_str(said),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Larder(error)
    }
}
