//! How a command ends: exit codes, and errors.

use std::error::Error as StdError;
use std::{fmt, io};

use larder::Error;
use serde_json::{Value, json};

use crate::store::LABEL;

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
    /// About a CSV file.
    InFile {
        file: String,
        source: Box<Failure>,
    },
    /// That of an import, after rows were committed.
    After {
        committed: u64,
        source: Box<Failure>,
    },
    Other(String),
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        Self::Io { what, source }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::After { source, .. } | Self::InFile { source, .. } => source.exit_code(),
            Self::Usage(_) => USAGE,
            Self::Interrupted(_) | Self::Larder(Error::Cancelled { .. }) => INTERRUPTED,
            Self::Larder(error) if error.is_retryable() => BUSY,
            Self::Larder(_) | Self::Io { .. } | Self::Other(_) => FAILED,
        }
    }

    pub(crate) fn as_json(&self) -> Value {
        let mut error = self.details();
        error["message"] = self.to_string().into();
        json!({ "error": error })
    }

    /// The failure itself, without what it came after.
    fn root(&self) -> &Self {
        match self {
            Self::After { source, .. } | Self::InFile { source, .. } => source.root(),
            failure => failure,
        }
    }

    fn details(&self) -> Value {
        match self.root() {
            Self::Larder(error) => {
                let (kind, is_retryable) = match error {
                    Error::Cancelled { .. } => ("interrupted", false),
                    error => (error.kind(), error.is_retryable()),
                };
                json!({ "kind": kind, "retryable": is_retryable, "outcome": error.outcome() })
            }
            Self::Usage(_) => json!({ "kind": "usage", "retryable": false }),
            Self::Io { .. } => json!({ "kind": "io", "retryable": false }),
            Self::Interrupted(_) => json!({ "kind": "interrupted", "retryable": false }),
            Self::After { .. } | Self::InFile { .. } | Self::Other(_) => {
                json!({ "kind": "refused", "retryable": false })
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Larder(Error::Cancelled { work }) => {
                write!(f, "interrupted: the {work} was stopped, and left nothing behind")
            }
            Self::Larder(Error::Open { path, source, .. }) if is_missing(source) => write!(
                f,
                "cannot open {}: there is no such file; check the path, and that its volume is mounted",
                path.display()
            ),
            Self::Larder(Error::Refused { statement, .. }) => {
                write!(f, "{statement} is refused: larder sql only reads")
            }
            Self::Larder(error) => f.write_str(&with_flags(error.to_string())),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::After { committed, source } => {
                write!(f, "{source} (the {committed} rows before it are committed)")
            }
            Self::InFile { file, source } => write!(f, "{file}: {source}"),
            Self::Usage(said) | Self::Interrupted(said) | Self::Other(said) => f.write_str(said),
        }
    }
}

fn is_missing(source: &Option<Box<dyn StdError + Send + Sync>>) -> bool {
    let system = source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
    system.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The library's advice names its methods. The command has flags in their places.
const FLAGS: &[(&str, &str)] = &[
    (
        "use another name, or call Bulk::forget to begin from the first row",
        "give the same options as before, or leave --resumable out",
    ),
    (
        "and Bulk::forget lets the job begin from the first line",
        "and without --resumable it is read from the first line",
    ),
    ("; otherwise raise BulkCsv::max_line", ""),
    ("see Bulk::copy_from", "export its tables as CSV first"),
    ("RestoreOptions::verify(false)", "--no-verify"),
    ("Backup::overwrite", "--overwrite"),
    ("Backup::timeout", "--timeout"),
    ("ReadOptions::execution_timeout", "--timeout"),
    (
        "; check the path, and create the folder",
        "; --folder is the folder of the migrations",
    ),
    ("call Migrations::allow_gaps(true)", "give --allow-gaps"),
    ("Migrations::plain_comments", "--plain-comments"),
    ("Migrations::adopt(Adopt::Applied(versions))", "--adopt-versions"),
    ("Migrations::adopt(Adopt::Nothing)", "--adopt nothing"),
    (
        "call Migrations::adopt with Adopt::Applied(versions)",
        "give --adopt-versions",
    ),
    ("call Migrations::adopt with", "give --adopt with"),
    ("Adopt::Applied(versions)", "--adopt-versions"),
    ("Adopt::Goose", "goose"),
    ("Adopt::Sqlx", "sqlx"),
    ("Adopt::Diesel", "diesel"),
    ("Adopt::Refinery", "refinery"),
    ("Adopt::UserVersion", "user-version"),
    ("Adopt::Nothing", "nothing"),
    ("Migrations::adopt", "--adopt"),
    ("Options::migration_timeout", "--wait"),
    ("Options::trusted_schema(true)", "--trusted-schema"),
    ("Options::trusted_schema", "--trusted-schema"),
    ("Options::double_quoted_strings(true)", "--double-quoted-strings"),
    ("Options::double_quoted_strings", "--double-quoted-strings"),
    (
        "set Options::max_statements in the service, or give their texts by ExportToPostgres::statement",
        "set Options::max_statements in the service, and give --statements FILE with the JSON of its Store::stats, a JSON \
         list of texts, or SQL",
    ),
    (
        "give the column another type by column_type, or set on_misfit",
        "give the column another type by --type, or set --misfits",
    ),
    ("choose PostgresImport::nan", "give --nan"),
    ("or give another table", "or give another --table"),
    ("BulkCsv::create_table", "--create-table"),
    ("this job creates it", "this import creates it"),
    ("BulkCsv::rename", "--map NAME=COLUMN"),
    ("BulkCsv::ignore", "--skip NAME"),
    ("BulkCsv::columns", "--header, and the file without its first line"),
    ("BulkCsv::upsert", "--on-conflict replace"),
    (
        "create it in a migration",
        "create it in a migration, or with --create-table",
    ),
];

/// A message of the library, for the user of the command.
pub(crate) fn with_flags(message: String) -> String {
    let message = message
        .replace(&format!(" (at {LABEL})"), "")
        .replace(&format!(", at {LABEL})"), ")");
    FLAGS
        .iter()
        .fold(message, |said, (method, flag)| said.replace(method, flag))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Larder(error)
    }
}
