#![no_main]
//! A store opens with a folder of migrations. The input is its text:
//!
//! ```text
//! keep backup                     words on the first line, see `Words`
//! === 001_users.sql               the name of a file
//! CREATE TABLE users(id);         and its contents, up to the next line with that prefix
//! === 002_orders/up.sql
//! ```
//!
//! - The folder and the same files embedded in the program are equal sets, or both refused; a refusal names a file.
//! - A dry run predicts the real run, and leaves everything unchanged.
//! - The migrations that `migrate` reports were made, once: a second call, and a second open, make none.
//! - A failed migration has left nothing if that is its outcome: the database equals one that was migrated only to the
//!   version before it.
//! - After undoing everything, the record is empty.
//!
//! SQL may run without end, or create values of any size. Neither is larder's concern: a progress handler on each
//! connection counts, and the length of values is limited. Where the count ran out, or where the SQL uses random values
//! or the time, two runs need not agree, and are not compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use larder::rusqlite::limits::Limit;
use larder::rusqlite::{Connection, types::ValueRef};
use larder::{
    Adopt, DryRun, Error, MigrationError, MigrationReport, Migrations, Options, Outcome, ReadTx, Result, Store,
};
use larder_fuzz::{folder, options, sound, told};
use libfuzzer_sys::fuzz_target;

/// The prefix of a line that names a file.
const NAMED: &[u8] = b"=== ";

/// The maximum number of files.
const FILES: usize = 8;

/// Calls of the progress handler, each after a thousand SQLite steps, for everything done with one store.
const PATIENCE: u32 = 300;

/// The maximum bytes of a value.
const LONGEST: i32 = 100_000;

/// The number of repetitions of a file's contents if it is to be long: some hundred KB.
const LONG: usize = 500;

/// The maximum number of rows in a database's description.
const ROWS: usize = 200;

// ---- the input ----

struct Input {
    words: Words,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Whether two runs of it must agree.
    repeats: bool,
}

/// The settings on the first line.
struct Words {
    long: bool,
    gaps: bool,
    strict: bool,
    unenforced: bool,
    backup: bool,
    /// The database has tables and rows already.
    rows: bool,
    /// Goose has migrated the database.
    goose: bool,
    /// The database has a `user_version`.
    counted: bool,
    adopt: Option<Adopt>,
}

impl Words {
    fn of(line: &[u8]) -> Self {
        let has = |word: &str| line.split(|byte| *byte == b' ').any(|found| found == word.as_bytes());
        Self {
            long: has("long"),
            gaps: has("gaps"),
            strict: has("strict"),
            unenforced: has("unenforced"),
            backup: has("backup"),
            rows: has("rows"),
            goose: has("goose"),
            counted: has("counted"),
            adopt: [
                ("adopt-goose", Adopt::Goose),
                ("adopt-version", Adopt::UserVersion),
                ("adopt-nothing", Adopt::Nothing),
            ]
            .into_iter()
            .find_map(|(word, adopt)| has(word).then_some(adopt)),
        }
    }
}

impl Input {
    fn parse(bytes: &[u8]) -> Self {
        let mut first = &b""[..];
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            match (line.strip_prefix(NAMED), files.last_mut()) {
                (Some(name), _) => match path(name.trim_ascii_end()) {
                    Some(path) if files.len() < FILES => files.push((path, Vec::new())),
                    _ => {}
                },
                (None, Some((_, contents))) => contents.extend_from_slice(line),
                (None, None) if number == 0 => first = line.trim_ascii_end(),
                (None, None) => {}
            }
        }
        let lower = bytes.to_ascii_lowercase();
        let has = |word: &str| lower.windows(word.len()).any(|found| found == word.as_bytes());
        // The time, and values that depend on the connection or the file and not on its contents.
        let repeats = ![
            "random", "now", "date", "time", "current_", "changes", "rowid", "pragma", "sqlite_", "dbstat",
        ]
        .into_iter()
        .any(has);
        let words = Words::of(first);
        if words.long {
            files
                .iter_mut()
                .for_each(|(_, contents)| *contents = contents.repeat(LONG));
        }
        Self { words, files, repeats }
    }

    /// Writes the files, and keeps those that the file system accepts.
    fn write(&mut self, folder: &Path) {
        self.files.retain(|(name, contents)| {
            let path = folder.join(name);
            let parent = path.parent().expect("it is in the folder");
            !path.exists()
                && fs::create_dir_all(parent)
                    .and_then(|()| fs::write(&path, contents))
                    .is_ok()
        });
    }
}

/// A name in the folder, or `up.sql` or `down.sql` in a folder in it.
fn path(name: &[u8]) -> Option<PathBuf> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let (name, part) = match name.iter().position(|byte| *byte == b'/') {
        Some(at) if name.ends_with(b"down.sql") => (&name[..at], Some("down.sql")),
        Some(at) => (&name[..at], Some("up.sql")),
        None => (name, None),
    };
    if name.is_empty() || name.len() > 200 || name.contains(&0) || [&b"."[..], b".."].contains(&name) {
        return None;
    }
    let mut path = PathBuf::from(OsStr::from_bytes(name));
    path.extend(part);
    Some(path)
}

// ---- the database ----

/// The remaining SQL steps, shared by all connections of a store.
#[derive(Clone)]
struct Patience(Arc<AtomicU32>);

impl Patience {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(PATIENCE)))
    }

    fn is_over(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    fn limit(&self, conn: &Connection) -> Result<()> {
        let left = Arc::clone(&self.0);
        let spend = move || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err();
        conn.progress_handler(1000, Some(spend))?;
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST)?;
        Ok(())
    }
}

/// One database, migrated step by step.
struct Database {
    store: Store,
    patience: Patience,
}

impl Database {
    fn open(input: &Input, set: &Migrations, path: &Path) -> Result<Self> {
        let patience = Patience::new();
        let limit = patience.clone();
        let options: Options = options()
            .foreign_keys(!input.words.unenforced)
            .require_strict(input.words.strict)
            .migration_timeout(Duration::from_millis(1))
            .on_connect(move |conn, _| limit.limit(conn))
            .migrations(set.clone());
        let store = options.open(path)?;
        Ok(Self { store, patience })
    }

    fn applied(&self) -> Result<Vec<u64>> {
        let status = self.store.migrations()?;
        Ok(status.applied.iter().map(|migration| migration.version).collect())
    }

    /// The schema and the first rows of each table, without the times in the record. An empty record counts as none: a
    /// migration outside a transaction leaves one if it failed before it changed anything.
    fn describe(&self) -> Result<Vec<String>> {
        self.store.read(|tx| {
            let mut all = Vec::new();
            let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema
                 WHERE tbl_name NOT IN ('schema_migrations', 'larder_migrations') ORDER BY type, name";
            push_rows(tx, schema, &mut all)?;
            let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
            for table in tx.query_map(tables, [], |row| row.get::<_, String>(0))? {
                let columns = if table == "larder_migrations" {
                    "version, name, checksum, unfinished"
                } else {
                    "*"
                };
                let sql = format!("SELECT {columns} FROM \"{}\"", table.replace('"', "\"\""));
                push_rows(tx, &sql, &mut all)?;
            }
            Ok(all)
        })
    }

    fn close(self) {
        let report = self.store.close().expect("nobody is inside a closure");
        assert!(report.wal_truncated, "{report}");
    }
}

fn push_rows(tx: &ReadTx<'_>, sql: &str, all: &mut Vec<String>) -> Result<()> {
    let mut statement = tx.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    for _ in 0..ROWS {
        let Some(row) = rows.next()? else { break };
        let values = (0..columns).map(|column| match row.get_ref(column) {
            Ok(ValueRef::Text(text)) => Ok(String::from_utf8_lossy(text).into_owned()),
            Ok(other) => Ok(format!("{other:?}")),
            Err(error) => Err(error),
        });
        all.push(values.collect::<Result<Vec<_>, _>>()?.join("|"));
    }
    Ok(())
}

/// The database before any of these migrations.
fn prepare(words: &Words, path: &Path) {
    let mut sql = String::new();
    if words.rows {
        sql += "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
                INSERT INTO users(name) VALUES ('Ada'), ('Grace'), ('Edsger');
                CREATE TABLE orders(id INTEGER PRIMARY KEY, user INTEGER REFERENCES users(id));
                INSERT INTO orders(user) VALUES (1), (2), (2);";
    }
    if words.goose {
        sql += "CREATE TABLE goose_db_version(id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL,
                    is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT '2026-04-01 12:00:00');
                INSERT INTO goose_db_version(version_id, is_applied) VALUES (0, 1), (1, 1);";
    }
    if words.counted {
        sql += "PRAGMA user_version = 1;";
    }
    let conn = Connection::open(path).expect("a new database opens");
    conn.execute_batch(&sql).expect("tables are made");
}

// ---- the run ----

/// The set, if it is valid.
fn read(input: &Input, folder: &Path) -> Option<Migrations> {
    let from_folder = Migrations::folder(folder);
    let embedded = Migrations::files(input.files.iter().map(|(name, contents)| (name, contents)));
    match (from_folder, embedded) {
        (Ok(one), Ok(other)) => {
            let list =
                |set: &Migrations| -> Vec<_> { set.iter().map(|m| (m.version(), m.name().to_owned())).collect() };
            assert_eq!(list(&one), list(&other), "the folder and the same files are two sets");
            Some(one)
        }
        (Err(one), Err(other)) => {
            for error in [one, other] {
                assert_eq!(told(&error), Outcome::NotStarted);
                names_a_file(&error, input);
            }
            None
        }
        (one, other) => panic!("the folder: {one:?}; the same files: {other:?}"),
    }
}

fn names_a_file(error: &Error, input: &Input) {
    let said = error.to_string();
    let named = input
        .files
        .iter()
        .any(|(name, _)| said.contains(&name.display().to_string()));
    assert!(named, "it names no file: {said}");
}

/// Checks a failed migration's error. Returns its outcome.
fn refused(error: &Error, input: &Input) -> Outcome {
    let Error::Migration(reason) = error else {
        panic!("not an error of a migration: {error:?}");
    };
    if let MigrationError::Failed { .. }
    | MigrationError::ForeignKeys { .. }
    | MigrationError::NotStrict { .. }
    | MigrationError::Format { .. }
    | MigrationError::Duplicate { .. } = &**reason
    {
        names_a_file(error, input);
    }
    told(error)
}

fn versions(report: &MigrationReport) -> Vec<u64> {
    report.steps.iter().map(|step| step.version).collect()
}

/// A database in its own folder, in its initial state.
fn begin(input: &Input, set: &Migrations, folder: &Path) -> Option<Database> {
    fs::create_dir(folder).expect("a folder can be made");
    let path = folder.join("app.db");
    prepare(&input.words, &path);
    match Database::open(input, set, &path) {
        Ok(database) => Some(database),
        Err(error) => {
            // The set as a whole is refused.
            assert_eq!(refused(&error, input), Outcome::NotStarted);
            None
        }
    }
}

fn migrate(input: &Input, set: &Migrations, folder: &Path) {
    let Some(database) = begin(input, set, &folder.join("one")) else {
        return;
    };
    let path = database.store.path().to_owned();
    let before = database.applied();
    let dry = database.store.migrate_dry_run(DryRun::Backup);
    let dry_is_over = database.patience.is_over();
    database.patience.0.store(PATIENCE, Relaxed);
    let schema = database.store.migrate_dry_run(DryRun::Schema);
    if let Err(error) = schema {
        told(&error);
    }
    if let (Ok(before), Ok(now)) = (&before, &database.applied()) {
        assert_eq!(before, now, "a dry run was none");
    }
    database.patience.0.store(PATIENCE, Relaxed);
    let made = database.store.migrate();
    if input.repeats && !dry_is_over && !database.patience.is_over() {
        agree(&dry, &made);
    }
    match made {
        Ok(report) => made_well(input, set, database, &path, &report),
        Err(error) => made_badly(input, set, database, folder, &error),
    }
    sound(&path).expect("the file is sound");
}

fn agree(dry: &Result<MigrationReport>, made: &Result<MigrationReport>) {
    match (dry, made) {
        (Ok(dry), Ok(made)) => assert_eq!(versions(dry), versions(made)),
        // The dry run may name another file: that of the copy.
        (Err(dry), Err(made)) => assert_eq!(dry.outcome(), made.outcome(), "{dry}; {made}"),
        _ => panic!("the dry run: {dry:?}; the run: {made:?}"),
    }
}

fn made_well(input: &Input, set: &Migrations, database: Database, path: &Path, report: &MigrationReport) {
    let status = database.store.migrations().expect("the record can be read");
    assert!(status.pending.is_empty(), "{:?}", status.pending);
    let applied: BTreeSet<_> = status.applied.iter().map(|migration| migration.version).collect();
    assert!(set.iter().all(|migration| applied.contains(&migration.version())));
    assert!(report.steps.iter().all(|step| applied.contains(&step.version)));
    let again = database.store.migrate().expect("there is nothing to do");
    assert!(again.steps.is_empty(), "{again:?}");
    database.close();
    let again = set.clone().at_open(true);
    let database = Database::open(input, &again, path).expect("there is nothing to do");
    assert_eq!(database.store.migrations().expect("the record can be read"), status);
    match database.store.migrate_to(0) {
        Ok(report) => {
            let applied = database.applied().expect("the record can be read");
            assert!(applied.is_empty(), "undone: {report:?}, and left: {applied:?}");
        }
        Err(error) => drop(refused(&error, input)),
    }
    database.close();
}

fn made_badly(input: &Input, set: &Migrations, database: Database, folder: &Path, error: &Error) {
    let outcome = refused(error, input);
    let over = database.patience.is_over();
    database.patience.0.store(PATIENCE, Relaxed);
    let applied = database.applied();
    let described = database.describe();
    database.close();
    let (true, false, Ok(applied), Ok(described)) = (input.repeats, over, applied, described) else {
        return;
    };
    if !matches!(outcome, Outcome::RolledBack | Outcome::NotStarted) {
        return;
    }
    // The expected state if the migrations before the failed one were the whole set.
    let other = begin(input, set, &folder.join("other")).expect("as it was opened before");
    let reached = match applied.last() {
        Some(last) => other.store.migrate_to(*last).is_ok(),
        None => true,
    };
    if let (true, Ok(now), Ok(wanted)) = (reached, other.applied(), other.describe())
        && now == applied
    {
        assert_eq!(described, wanted, "{error} left something behind");
    }
    other.close();
}

fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    let files = folder.path().join("migrations");
    fs::create_dir(&files).expect("a folder can be made");
    let mut input = Input::parse(bytes);
    input.write(&files);
    let Some(mut set) = read(&input, &files) else { return };
    set = set.allow_gaps(input.words.gaps).at_open(false);
    if let Some(adopt) = input.words.adopt.clone() {
        set = set.adopt(adopt);
    }
    if input.words.backup {
        set = set.backup_to(folder.path());
    }
    migrate(&input, &set, folder.path());
});
