#![no_main]
//! Calls of the API in any order, beside a model: a map, the number of migrations, and the contents of the copies.
//!
//! No call fails for lack of a resource, so the replies are known, with one exception: the writer's pace decides which
//! writes share a transaction, and a write that ends the whole transaction rolls its neighbours back. So the model
//! follows the replies, and checks them:
//!
//! - an acknowledged write is in every later read, whole; any other has left nothing;
//! - only neighbours of a write that ends transactions get *rolled back* through no fault of their own, and no caller
//!   gets *unknown*;
//! - a snapshot does not change, whatever is written meanwhile;
//! - a copy, and a database restored from it, has the store's contents; a vacuum, a check and advice change nothing;
//! - a closed store has an empty WAL, and the same contents when it is reopened with other options.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use larder::{
    Access, AutoVacuum, Backup, DryRun, Durability, Error, Migration, MigrationError, Migrations, Options, Outcome,
    Pending, ReadTx, Result, Store, WhenFull, WriteOptions, WriteTx,
};
use larder_fuzz::{folder, options, sound, told};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const MOST: usize = 24;

/// The newest migration.
const NEWEST: u64 = 3;

#[derive(Debug)]
struct Input {
    first: Settings,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Settings {
    exclusive: bool,
    full: bool,
    mapped: bool,
    page_size: u8,
    auto_vacuum: u8,
    readers: u8,
    queue: u8,
    max_group_size: u8,
    checkpoint_pages: u8,
    hard_limit: bool,
    spin: bool,
    statistics: bool,
    /// Whether opening applies the pending migrations.
    at_open: bool,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Write(Job),
    TryWrite(Job),
    WriteInFull(Job),
    /// Submits the jobs one after another, then waits for all.
    Submit(Vec<Job>),
    Read,
    /// A snapshot, writes meanwhile, the same snapshot again.
    ReadAcross(Vec<Job>),
    WriteInWrite(Job),
    Check,
    Vacuum,
    Advice,
    Backup(Copying),
    /// The last copy becomes the database.
    Restore,
    DryRun(bool),
    Migrate,
    MigrateTo(u8),
    Reopen(Settings),
    /// Keeps a clone until after the close.
    UseAfterClose(Job),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Copying {
    compact: bool,
    overwrite: bool,
    checksum: bool,
    step: u8,
}

#[derive(Arbitrary, Clone, Debug)]
struct Job {
    steps: Vec<Step>,
    end: End,
}

#[derive(Arbitrary, Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    DeleteFrom(u8),
    /// Inserts an existing row, and drops the error.
    Conflict(u8),
    /// Shadows the table for the rest of this job, without effect.
    Temporary,
    Savepoint(Vec<Step>, Inner),
}

/// How a savepoint ends.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Inner {
    Ok,
    Error,
    Panic,
}

/// How a job ends.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum End {
    Ok,
    Well,
    Fine,
    Error,
    Panic,
    Constraint,
    DeferredKey,
    Commit,
    Attach,
    Pragma,
    /// Ends the whole transaction, and returns the error.
    RaiseRollback,
    /// The same, but drops the error and continues.
    OrRollback,
}

impl End {
    fn is_ok(self) -> bool {
        matches!(self, End::Ok | End::Well | End::Fine)
    }

    fn ends_transaction(self) -> bool {
        matches!(self, End::RaiseRollback | End::OrRollback)
    }
}

/// Reads as many operations as the input has bytes for.
impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let first = u.arbitrary()?;
        let mut operations = Vec::new();
        while !u.is_empty() && operations.len() < MOST {
            operations.push(u.arbitrary()?);
        }
        Ok(Self { first, operations })
    }
}

// ---- the model ----

/// Each key, with the number that its text is made from.
type Rows = BTreeMap<u8, u8>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    rows: Rows,
    /// The newest applied migration.
    version: u64,
}

/// A text of any length up to some pages.
fn text(value: u8) -> String {
    format!("{value} ").repeat(usize::from(value) * usize::from(value) / 16)
}

impl Step {
    fn apply(&self, rows: &mut Rows) {
        match self {
            Step::Put(key, value) => drop(rows.insert(*key, *value)),
            Step::Delete(key) => drop(rows.remove(key)),
            Step::DeleteFrom(key) => drop(rows.split_off(key)),
            Step::Conflict(key) => drop(rows.insert(*key, 1)),
            Step::Temporary => {}
            Step::Savepoint(steps, inner) => {
                let mut inside = rows.clone();
                steps.iter().for_each(|step| step.apply(&mut inside));
                if matches!(inner, Inner::Ok) {
                    *rows = inside;
                }
            }
        }
    }
}

// ---- jobs ----

const SCHEMA: &str = "
    CREATE TABLE row(k INTEGER PRIMARY KEY, v INTEGER NOT NULL, text TEXT NOT NULL) STRICT;
    CREATE INDEX row_text ON row(text);
    CREATE TABLE child(k INTEGER NOT NULL REFERENCES row(k) DEFERRABLE INITIALLY DEFERRED) STRICT;
    CREATE TABLE fatal(x INTEGER) STRICT;
    CREATE TRIGGER fatal AFTER INSERT ON fatal BEGIN SELECT RAISE(ROLLBACK, 'fatal'); END;
    CREATE TABLE one(x INTEGER PRIMARY KEY) STRICT;
    INSERT INTO one VALUES (1);";

fn migrations() -> Migrations {
    Migrations::new([
        Migration::new(1, "base", SCHEMA),
        Migration::new(2, "extra", "CREATE TABLE extra AS SELECT * FROM row").down("DROP TABLE extra"),
        Migration::new(
            NEWEST,
            "column",
            "ALTER TABLE row ADD COLUMN more TEXT; UPDATE row SET more = v",
        )
        .down("ALTER TABLE row DROP COLUMN more"),
    ])
}

impl Step {
    fn run(&self, tx: &WriteTx<'_>) -> Result<()> {
        match self {
            Step::Put(key, value) => put(tx, *key, *value),
            Step::Delete(key) => tx.execute("DELETE FROM main.row WHERE k = ?1", [key]).map(drop),
            Step::DeleteFrom(key) => tx.execute("DELETE FROM main.row WHERE k >= ?1", [key]).map(drop),
            Step::Conflict(key) => {
                put(tx, *key, 1)?;
                let again = tx.execute("INSERT INTO main.row(k, v, text) VALUES (?1, 2, '')", [key]);
                told(&again.expect_err("the key is there"));
                Ok(())
            }
            Step::Temporary => tx.execute_batch(
                "CREATE TEMP TABLE IF NOT EXISTS row(k, v, text); INSERT INTO temp.row VALUES (1, 2, 'x')",
            ),
            Step::Savepoint(steps, inner) => savepoint(tx, steps, *inner),
        }
    }
}

fn put(tx: &WriteTx<'_>, key: u8, value: u8) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO main.row(k, v, text) VALUES (?1, ?2, ?3)";
    tx.execute(sql, (key, value, text(value))).map(drop)
}

fn savepoint(tx: &WriteTx<'_>, steps: &[Step], inner: Inner) -> Result<()> {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        tx.savepoint(|tx| {
            steps.iter().try_for_each(|step| step.run(tx))?;
            match inner {
                Inner::Ok => Ok(()),
                Inner::Error => Err(Error::app("undo it")),
                Inner::Panic => resume_unwind(Box::new("undo it")),
            }
        })
    }));
    match (inner, ended) {
        (Inner::Ok, Ok(result)) => result,
        (Inner::Error, Ok(Err(Error::App(_)))) | (Inner::Panic, Err(_)) => Ok(()),
        (inner, other) => panic!("a savepoint that was to end with {inner:?}: {other:?}"),
    }
}

impl Job {
    fn run(&self, tx: &WriteTx<'_>) -> Result<()> {
        self.steps.iter().try_for_each(|step| step.run(tx))?;
        match self.end {
            End::Ok | End::Well | End::Fine => Ok(()),
            End::Error => Err(Error::app("changed my mind")),
            // Not `panic!`, whose hook ends the run.
            End::Panic => resume_unwind(Box::new("boom")),
            End::Constraint => tx.execute("INSERT INTO one VALUES (1)", []).map(drop),
            End::DeferredKey => tx.execute("INSERT INTO child VALUES (-1)", []).map(drop),
            End::Commit => tx.execute_batch("COMMIT"),
            End::Attach => tx.execute_batch("ATTACH 'other.db' AS other"),
            End::Pragma => tx.execute_batch("PRAGMA journal_mode = DELETE"),
            End::RaiseRollback => tx.execute("INSERT INTO fatal VALUES (1)", []).map(drop),
            End::OrRollback => {
                let ended = tx.execute("INSERT OR ROLLBACK INTO one VALUES (1)", []);
                told(&ended.expect_err("the row is there"));
                let _ = put(tx, 5, 55);
                Ok(())
            }
        }
    }

    fn closure(&self) -> impl FnOnce(&WriteTx<'_>) -> Result<()> + Send + 'static {
        let job = self.clone();
        move |tx| job.run(tx)
    }
}

// ---- the store, and its model ----

struct Run {
    folder: TempDir,
    settings: Settings,
    store: Store,
    model: Model,
    /// The contents of the last copy.
    copied: Option<Model>,
    restored: u32,
}

/// The reply to a caller: `None` for a panic.
type Answer = Option<Result<()>>;

fn catch(call: impl FnOnce() -> Result<()>) -> Answer {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

impl Settings {
    fn options(self) -> Options {
        let sizes = [512, 1024, 4096, 8192];
        let modes = [AutoVacuum::None, AutoVacuum::Incremental, AutoVacuum::Full];
        let pages = self.checkpoint_pages;
        options()
            .access(if self.exclusive {
                Access::Exclusive
            } else {
                Access::Shared
            })
            .durability(if self.full {
                Durability::Full
            } else {
                Durability::Normal
            })
            .mmap_size(if self.mapped { 1 << 20 } else { 0 })
            .page_size(sizes[usize::from(self.page_size) % sizes.len()])
            .auto_vacuum(modes[usize::from(self.auto_vacuum) % modes.len()])
            .readers(u32::from(self.readers % 3) + 1)
            .queue_capacity(usize::from(self.queue % 4) + 1)
            .max_group_size(usize::from(self.max_group_size % 4) + 1)
            .checkpoint_pages(u32::from(pages) + 1)
            .wal_limit(64 << 10)
            .wal_hard_limit(self.hard_limit.then_some(128 << 10))
            .spin_time(Duration::from_micros(if self.spin { 100 } else { 0 }))
            .max_statements(if self.statistics { 8 } else { 0 })
            .max_call_sites(if self.statistics { 4 } else { 0 })
            .migrations(migrations().at_open(self.at_open))
    }
}

impl Run {
    fn new(settings: Settings) -> Self {
        let folder = folder();
        let store = settings
            .options()
            .open(folder.path().join("0.db"))
            .expect("a new database opens");
        store.migrate_to(1).expect("an empty database is migrated");
        let model = Model {
            version: 1,
            ..Model::default()
        };
        let mut run = Self {
            folder,
            settings,
            store,
            model,
            copied: None,
            restored: 0,
        };
        run.settle_version();
        run
    }

    /// Opening may have applied the newest migration.
    fn settle_version(&mut self) {
        self.model.version = self.version();
    }

    fn version(&self) -> u64 {
        let status = self.store.migrations().expect("the record can be read");
        let applied: Vec<_> = status.applied.iter().map(|migration| migration.version).collect();
        let wanted: Vec<_> = (1..=applied.len() as u64).collect();
        assert_eq!(applied, wanted, "migrations were left out");
        assert_eq!(applied.len() + status.pending.len(), NEWEST as usize);
        applied.len() as u64
    }

    fn make(&mut self, operation: &Operation) {
        match operation {
            Operation::Write(job) => {
                let answer = catch(|| self.store.write(job.closure()));
                self.judge(job, answer, false);
            }
            Operation::TryWrite(job) => {
                let options = WriteOptions::new().when_full(WhenFull::Fail);
                let answer = catch(|| self.store.write_with(options, job.closure()));
                // The last job may still be in the queue.
                if !matches!(answer, Some(Err(Error::QueueFull { .. }))) {
                    self.judge(job, answer, false);
                }
            }
            Operation::WriteInFull(job) => {
                let options = WriteOptions::new().durability(Durability::Full).label("in full");
                let answer = catch(|| self.store.write_with(options, job.closure()));
                self.judge(job, answer, false);
            }
            Operation::Submit(jobs) => self.submit(jobs),
            Operation::Read => {}
            Operation::ReadAcross(jobs) => self.read_across(jobs),
            Operation::WriteInWrite(job) => self.write_in_write(job),
            Operation::Check => {
                for check in [self.store.check(), self.store.check().full()] {
                    let report = check.run().expect("a check can be made");
                    assert!(report.is_ok(), "{report}");
                }
            }
            Operation::Vacuum => drop(self.store.vacuum().run().expect("there is room")),
            Operation::Advice => assert!(
                self.store
                    .advice()
                    .iter()
                    .all(|finding| !finding.to_string().is_empty())
            ),
            Operation::Backup(copying) => self.back_up(*copying),
            Operation::Restore => self.restore(),
            Operation::DryRun(whole) => self.dry_run(if *whole { DryRun::Backup } else { DryRun::Schema }),
            Operation::Migrate => {
                let report = self.store.migrate().expect("migrations are made");
                assert_eq!(report.steps.len() as u64, NEWEST - self.model.version);
                self.model.version = NEWEST;
            }
            Operation::MigrateTo(version) => self.migrate_to(u64::from(version % 5)),
            Operation::Reopen(settings) => self.reopen(*settings),
            Operation::UseAfterClose(job) => {
                let kept = self.store.clone();
                self.reopen(self.settings);
                let error = kept.write(job.closure()).expect_err("it is closed");
                assert!(matches!(error, Error::Closed), "{error:?}");
                let error = kept.read(|_| Ok(())).expect_err("it is closed");
                assert!(matches!(error, Error::Closed), "{error:?}");
            }
        }
        self.look();
    }

    /// Compares the store with the model, by the table and by its index.
    fn look(&self) {
        let rows = self.store.read(rows).expect("the rows can be read");
        assert_eq!(rows, self.model.rows);
    }

    /// `shared` tells whether another write of the group could end the transaction.
    fn judge(&mut self, job: &Job, answer: Answer, shared: bool) {
        let Some(result) = answer else {
            return assert_eq!(job.end, End::Panic, "a panic from nowhere");
        };
        let Err(error) = result else {
            assert!(job.end.is_ok(), "{:?} was acknowledged", job.end);
            job.steps.iter().for_each(|step| step.apply(&mut self.model.rows));
            return;
        };
        let outcome = told(&error);
        match (&error, job.end) {
            (
                Error::RolledBack {
                    caused_by_closure: false,
                    ..
                },
                _,
            ) => assert!(shared, "{error:?}"),
            (Error::WalFull { .. }, _) => assert!(self.settings.hard_limit, "{error:?}"),
            (Error::App(_), End::Error)
            | (Error::Refused { .. }, End::Commit | End::Attach | End::Pragma)
            | (Error::Sqlite { .. }, End::Constraint | End::DeferredKey | End::RaiseRollback)
            | (
                Error::RolledBack {
                    caused_by_closure: true,
                    ..
                },
                End::OrRollback,
            ) => {}
            _ => panic!("a job that was to end with {:?} gave {error:?}", job.end),
        }
        assert!(
            matches!(outcome, Outcome::RolledBack | Outcome::NotStarted),
            "{error:?}"
        );
    }

    fn submit(&mut self, jobs: &[Job]) {
        let shared = jobs.iter().any(|job| job.end.ends_transaction());
        let submit = |job: &Job| self.store.submit(job.closure()).expect("it is queued");
        let pending: Vec<Pending<()>> = jobs.iter().map(submit).collect();
        let answers: Vec<Answer> = pending.into_iter().map(|pending| catch(|| pending.wait())).collect();
        for (job, answer) in jobs.iter().zip(answers) {
            self.judge(job, answer, shared);
        }
    }

    fn read_across(&mut self, jobs: &[Job]) {
        let store = self.store.clone();
        let before = self.model.rows.clone();
        let across = store.read(|tx| {
            assert_eq!(rows(tx)?, before);
            for job in jobs {
                let answer = catch(|| self.store.write(job.closure()));
                self.judge(job, answer, false);
            }
            rows(tx)
        });
        assert_eq!(
            across.expect("the rows can be read"),
            before,
            "the snapshot has changed"
        );
    }

    fn write_in_write(&mut self, job: &Job) {
        let (store, inner) = (self.store.clone(), job.clone());
        let refused = self.store.write(move |tx| {
            let error = store.write(inner.closure()).expect_err("it would wait for itself");
            assert!(matches!(error, Error::Reentrant { .. }), "{error:?}");
            let error = store.close().expect_err("it would wait for itself");
            assert!(matches!(error, Error::Reentrant { .. }), "{error:?}");
            put(tx, 7, 7)
        });
        refused.expect("the outer write is made");
        self.model.rows.insert(7, 7);
    }

    fn back_up(&mut self, copying: Copying) {
        let to = self.folder.path().join("copy");
        let begin = |to: &Path| -> Backup<'_> {
            let backup = if copying.compact {
                self.store.backup_compact(to)
            } else {
                self.store.backup(to)
            };
            backup
                .overwrite(copying.overwrite)
                .checksum(copying.checksum)
                .pages_per_step(u32::from(copying.step) + 1)
        };
        match begin(&to).run() {
            Ok(report) => {
                assert!(report.is_verified());
                sound(&to).expect("a copy is sound");
                self.copied = Some(self.model.clone());
            }
            Err(error) => {
                told(&error);
                assert!(self.copied.is_some() && !copying.overwrite, "{error:?}");
            }
        }
    }

    fn restore(&mut self) {
        let Some(copied) = self.copied.clone() else { return };
        self.close();
        self.restored += 1;
        let path = self.folder.path().join(format!("{}.db", self.restored));
        Store::restore(self.folder.path().join("copy"), &path).expect("a good copy is restored");
        self.model = copied;
        self.open(&path);
    }

    fn dry_run(&mut self, on: DryRun) {
        let before = self.version();
        let report = self.store.migrate_dry_run(on).expect("migrations can be made");
        assert_eq!(report.steps.len() as u64, NEWEST - before);
        assert_eq!(self.version(), before, "a dry run was none");
    }

    fn migrate_to(&mut self, version: u64) {
        match self.store.migrate_to(version) {
            Ok(report) => {
                assert_eq!(report.steps.len() as u64, version.abs_diff(self.model.version));
                self.model.version = version;
            }
            Err(error) => {
                told(&error);
                let Error::Migration(reason) = error else {
                    panic!("{error:?}")
                };
                match *reason {
                    MigrationError::NoDown { .. } => assert_eq!(version, 0),
                    MigrationError::NoSuchVersion { .. } => assert!(version > NEWEST),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(self.version(), self.model.version);
    }

    fn close(&self) {
        let report = self.store.close().expect("nobody is inside a closure");
        assert!(report.wal_truncated && report.never_started == 0, "{report}");
    }

    fn reopen(&mut self, settings: Settings) {
        let path = self.store.path().to_owned();
        self.close();
        self.settings = settings;
        self.open(&path);
    }

    fn open(&mut self, path: &Path) {
        self.store = self.settings.options().open(path).expect("it opens");
        if self.settings.at_open {
            self.model.version = NEWEST;
        }
        assert_eq!(self.version(), self.model.version);
    }

    fn end(self) {
        self.close();
        sound(self.store.path()).expect("the file is sound");
    }
}

/// Reads the rows by the table and by its index.
fn rows(tx: &ReadTx<'_>) -> Result<Rows> {
    let all = tx.query_map("SELECT k, v, text FROM row", [], |row| {
        let (key, value): (u8, u8) = (row.get(0)?, row.get(1)?);
        assert_eq!(row.get::<_, String>(2)?, text(value), "half of row {key}");
        Ok((key, value))
    })?;
    let by_index: i64 = tx.query_row("SELECT count(*) FROM row INDEXED BY row_text", [], |row| row.get(0))?;
    assert_eq!(by_index, all.len() as i64, "the index has others");
    Ok(all.into_iter().collect())
}

fuzz_target!(|input: Input| {
    let mut run = Run::new(input.first);
    run.look();
    for operation in &input.operations {
        run.make(operation);
    }
    run.end();
});
