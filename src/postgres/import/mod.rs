//! From PostgreSQL into a new database.
//!
//! ```text
//! sql.rs         tokens
//! dump.rs        statements and rows of a plain dump
//! catalog.rs     the schema of a server, as the statements of a dump
//! model.rs       the schema that these statements make
//! kind.rs        types, and the column that each becomes
//! expression.rs  defaults, checks, predicates
//! view.rs        queries of views
//! schema.rs      the schema of the new database
//! values.rs      values, and the bytes by which both sides are compared
//! source.rs      rows of a dump or of a server
//! into.rs        the schema that migrations have made
//! load.rs        rows into the new database, and the comparison
//! report.rs      what was done
//! ```
//!
//! The rows are read twice: to load them, and to compare them with what is in the file.

mod catalog;
mod dump;
mod expression;
mod into;
mod kind;
mod load;
mod model;
pub(crate) mod report;
mod schema;
mod source;
mod sql;
mod values;
mod view;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::load::Load;
use self::report::PostgresImportReport;
use self::schema::Rules;
use self::source::Source;
use crate::backup::Build;
use crate::error::{Error, Outcome, Result};
use crate::maintenance::progress::ProgressReporter;
use crate::postgres::events;
use crate::postgres::url::{Server, on_a_thread};
use crate::store::{Options, Store};

/// What becomes of NaN, which SQLite cannot keep in a column of REAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostgresNan {
    /// The import fails at the first one, and names it.
    #[default]
    Fail,
    /// NULL. The comparison takes both for the same.
    Null,
    /// The text `NaN`. Each column of floating-point numbers is then of the type ANY, as SQLite calls it.
    Text,
}

/// An import from PostgreSQL that has not started. [`Store::import_from_postgres`] and [`Store::import_from_pg_dump`]
/// return it.
#[must_use = "an import does nothing until `run`"]
pub struct PostgresImport {
    options: Options,
    from: From,
    to: PathBuf,
    rules: Rules,
    nan: PostgresNan,
    data_only: bool,
    skipped: Vec<String>,
    reporter: ProgressReporter<PostgresImportProgress>,
}

/// The progress of a [`PostgresImport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresImportProgress {
    /// The current stage.
    pub stage: PostgresImportStage,
    /// Number of rows in this stage so far, in all tables.
    pub rows: u64,
    /// Time since the import began.
    pub elapsed: Duration,
}

/// A stage of a [`PostgresImport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostgresImportStage {
    /// Writing the rows to the new database.
    Load,
    /// Reading both sides.
    Compare,
}

impl PostgresImportProgress {
    fn at(stage: PostgresImportStage, rows: u64) -> Self {
        Self {
            stage,
            rows,
            elapsed: Duration::ZERO,
        }
    }
}

const OPERATION: &str = "import";

/// Bytes of the cache of a connection to the new database.
const CACHE: u64 = 16 << 20;

/// How often the callback is called.
const CALLBACK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum From {
    /// The text of the URL is not shown: it may have a password.
    Server(Url),
    Dump(PathBuf),
}

impl From {
    /// Its name, without a password.
    fn name(&self) -> String {
        match self {
            From::Server(url) => {
                Server::parse(&url.0).map_or_else(|_| "a server".to_owned(), |server| server.to_string())
            }
            From::Dump(path) => path.display().to_string(),
        }
    }
}

struct Url(String);

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url(..)")
    }
}

/// # From PostgreSQL
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
impl Store {
    /// Makes a database at `to` from that of a PostgreSQL server: tables, keys, indexes and rows of one snapshot, compared
    /// row by row. See [`PostgresImport::run`].
    ///
    /// `url` is what libpq takes: `postgres://user@host/database`, or `host=.. dbname=..`. Passwords may come from
    /// `PGPASSWORD` or `~/.pgpass`.
    ///
    /// ```no_run
    /// use larder::Store;
    ///
    /// let report = Store::import_from_postgres("postgres://app@db.example/app", "app.db").run()?;
    /// println!("{report}");
    /// let store = Store::open("app.db")?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn import_from_postgres(url: &str, to: impl AsRef<Path>) -> PostgresImport {
        Options::new().import_from_postgres(url, to)
    }

    /// As [`import_from_postgres`](Self::import_from_postgres), from a plain dump that `pg_dump` has made, with `COPY` or
    /// with `--inserts`; a file of gzip, too. The dump must be in UTF-8.
    ///
    /// ```no_run
    /// use larder::Store;
    ///
    /// let report = Store::import_from_pg_dump("app.sql.gz", "app.db").run()?;
    /// println!("{report}");
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn import_from_pg_dump(dump: impl AsRef<Path>, to: impl AsRef<Path>) -> PostgresImport {
        Options::new().import_from_pg_dump(dump, to)
    }
}

/// # From PostgreSQL
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
impl Options {
    /// Makes a database from that of a PostgreSQL server, with the file's settings of these options: page size, vacuum
    /// mode, `on_connect`. See [`Store::import_from_postgres`].
    pub fn import_from_postgres(self, url: &str, to: impl AsRef<Path>) -> PostgresImport {
        PostgresImport::new(self, From::Server(Url(url.to_owned())), to.as_ref())
    }

    /// Makes a database from a plain dump, with the file's settings of these options. See
    /// [`Store::import_from_pg_dump`].
    pub fn import_from_pg_dump(self, dump: impl AsRef<Path>, to: impl AsRef<Path>) -> PostgresImport {
        PostgresImport::new(self, From::Dump(dump.as_ref().to_owned()), to.as_ref())
    }
}

impl PostgresImport {
    fn new(options: Options, from: From, to: &Path) -> Self {
        Self {
            options,
            from,
            to: to.to_owned(),
            rules: Rules::default(),
            nan: PostgresNan::default(),
            data_only: false,
            skipped: Vec::new(),
            reporter: ProgressReporter::new(PostgresImportProgress::at(PostgresImportStage::Load, 0)),
        }
    }

    /// Keeps `numeric` as REAL, with 15 to 17 digits. The default is `false`: text with all digits, which sorts as text.
    pub fn numeric_as_real(mut self, real: bool) -> Self {
        self.rules.numeric_as_real = real;
        self
    }

    /// Puts the rows into the tables that the [`migrations`](Options::migrations) of the options make, and makes no table of
    /// its own. The default is `false`.
    ///
    /// Each table of the source needs one of the same name with at least its columns, without rows; tables of another schema
    /// than `public` are called `schema_table`. `numeric` becomes a number where the column takes one with all its digits.
    /// A row that a trigger of the migrations changes, or a value that the column does not keep, fails the comparison.
    /// The tables that record the migrations are left out.
    pub fn data_only(mut self, data_only: bool) -> Self {
        self.data_only = data_only;
        self
    }

    /// Leaves a table out, by its name as the report shows it: without `public`. The report names it. A foreign key to it is
    /// left out too, unless migrations make it.
    pub fn skip_table(mut self, name: impl Into<String>) -> Self {
        self.skipped.push(name.into());
        self
    }

    /// What becomes of NaN. The default is [`PostgresNan::Fail`].
    pub fn nan(mut self, nan: PostgresNan) -> Self {
        self.nan = nan;
        self
    }

    /// Calls `f` some ten times a second, on a thread of the import. `ControlFlow::Break(())` cancels the import,
    /// and no file is left.
    pub fn progress(mut self, mut f: impl FnMut(&PostgresImportProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = ProgressReporter::new(PostgresImportProgress::at(PostgresImportStage::Load, 0));
        self.reporter.call(CALLBACK_INTERVAL, move |progress, elapsed| {
            f(&PostgresImportProgress { elapsed, ..progress })
        });
        self
    }

    /// Imports, compares, and gives the database its name.
    ///
    /// The database is made in a folder beside its path. The name appears once all rows are there and every one was
    /// compared with the source; until then, and if the import fails or the process is killed, there is no such file.
    /// There must be none before. Memory holds two batches of rows, of about 4 MiB each.
    ///
    /// A server is read in one REPEATABLE READ snapshot. Do not call it in an async task: use `spawn_blocking` or its like.
    ///
    /// # Errors
    ///
    /// - [`Error::Postgres`]: the server or the dump cannot be read, it has no table of [`skip_table`](Self::skip_table),
    ///   the migrations lack a table or a column, a value has no place in SQLite (the error names its table and column), a
    ///   row violates a foreign key, a row in the file differs from the source, or the file cannot be made at `to`.
    /// - [`Error::Options`]: the URL cannot be read, there are migrations without [`data_only`](Self::data_only) or it is
    ///   set without them, or a value is out of range.
    /// - [`Error::Cancelled`]: by [`progress`](Self::progress).
    /// - Errors of [`Options::open`] and of writes: a row that violates another constraint is one of them.
    pub fn run(self) -> Result<PostgresImportReport> {
        let to = self.to.clone();
        let (began, source) = (Instant::now(), self.from.name());
        let made = on_a_thread("larder-import", &to, "an import", || self.import());
        events::imported(&to, &source, began.elapsed(), &made);
        made
    }

    fn import(self) -> Result<PostgresImportReport> {
        let began = Instant::now();
        let Self {
            options,
            from,
            to,
            mut rules,
            nan,
            data_only,
            mut skipped,
            reporter,
        } = self;
        if data_only {
            if options.migrations.is_none() {
                return Err(Error::Options {
                    option: "data_only",
                    problem: "the options have no migrations to make the tables: set Options::migrations".into(),
                });
            }
            skipped.extend(into::RECORDS.map(str::to_owned));
        } else if options.migrations.is_some() {
            return Err(Error::Options {
                option: "migrations",
                problem:
                    "an import makes its tables itself: set data_only to put the rows into those of the migrations"
                        .into(),
            });
        }
        rules.has_generated = matches!(from, From::Server(_));
        reporter.begin();
        let mut source = match from {
            From::Server(url) => Source::server(&url.0)?,
            From::Dump(path) => Source::dump(&path),
        };
        let mut model = source.schema()?;
        into::skip(&mut model, &skipped, !data_only).map_err(|problem| failed(source.name(), problem))?;
        let mut plan = schema::plan(&model, rules);
        into::leave_out(&model, &mut plan, &skipped);
        let build = Build::begin(source.name(), &to).map_err(at_target)?;
        let options = options
            .create(true)
            .read_only(false)
            .foreign_keys(false)
            .interrupt_old_readers(false)
            // Rows are written in their order and read by their key: more pages in memory are of no use.
            .mmap_size(0)
            .cache_size(CACHE);
        let store = options.open(build.path())?;
        if data_only {
            into::adopt(&store, &mut plan, source.name())?;
        }
        let mut load = Load::new(&store, plan, nan, model, &reporter);
        let tables = load.run(&mut source);
        let closed = store.close();
        let tables = reporter.end(OPERATION).and(tables)?;
        if let Some(reason) = closed?.wal_kept_because {
            return Err(failed(
                source.name(),
                format!("the new database was not closed as a whole: {reason}"),
            ));
        }
        let path = build.finish().map_err(at_target)?;
        let (views, notes) = load.into_views_and_notes();
        Ok(PostgresImportReport {
            path,
            tables,
            views,
            notes,
            duration: began.elapsed(),
        })
    }
}

impl std::fmt::Debug for PostgresImport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresImport")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("rules", &self.rules)
            .field("nan", &self.nan)
            .field("data_only", &self.data_only)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

/// An import that fails at its file is no restore.
fn at_target(error: Error) -> Error {
    match error {
        Error::Restore {
            from,
            to,
            problem,
            detail,
            source,
        } => Error::Postgres {
            what: format!(
                "importing to {} failed: {problem}{}",
                to.display(),
                detail.map_or(String::new(), |detail| format!(": {detail}"))
            ),
            server: from.display().to_string(),
            outcome: Outcome::RolledBack,
            retryable: false,
            source,
        },
        error => error,
    }
}

/// The error of an import. Nothing is at its target.
fn failed(source: &str, what: impl Into<String>) -> Error {
    Error::Postgres {
        what: what.into(),
        server: source.to_owned(),
        outcome: Outcome::RolledBack,
        retryable: false,
        source: None,
    }
}
