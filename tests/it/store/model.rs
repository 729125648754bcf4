//! A store against a model: after the same operations, in any order and with any concurrency, it holds the same rows as
//! a `BTreeMap`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use larder::{Error, Pending, ReadTx, Result, Store, WriteTx};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::write::groups::{Gate, grouping};

type Model = BTreeMap<i64, i64>;

/// How many operations the cases must come to.
const OPERATIONS: usize = 100_000;

#[derive(Clone, Debug)]
enum Operation {
    Put(i64, i64),
    /// Adds to a value, if the key is there.
    Add(i64, i64),
    Delete(i64),
    DeleteAbove(i64),
    /// A row that is there already: the error is looked at and dropped.
    SwallowedConflict(i64),
    Savepoint(Vec<Operation>, Inner),
}

/// How a savepoint ends.
#[derive(Clone, Copy, Debug)]
enum Inner {
    Ok,
    Error,
    /// Caught by the closure around it.
    Panic,
}

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Ok,
    Error,
    Conflict,
    Panic,
    DeferredForeignKey,
    Refused,
    /// Ends the whole transaction; the error is returned.
    RaiseRollback,
    /// Ends the whole transaction; the error is dropped, and the closure writes on.
    OrRollback,
}

#[derive(Clone, Debug)]
struct Job {
    operations: Vec<Operation>,
    end: End,
}

#[derive(Clone, Debug)]
enum Step {
    Write(Job),
    /// Queued together, so that they share a transaction as far as they let it live.
    Group(Vec<Job>),
    Read,
    /// A snapshot, a write meanwhile, the same snapshot again.
    ReadAcross(Job),
    Reopen,
}

fn key() -> impl Strategy<Value = i64> {
    0_i64..24
}

fn operation() -> impl Strategy<Value = Operation> {
    let leaf = prop_oneof![
        6 => (key(), any::<i32>()).prop_map(|(k, v)| Operation::Put(k, v.into())),
        3 => (key(), -9_i64..9).prop_map(|(k, v)| Operation::Add(k, v)),
        3 => key().prop_map(Operation::Delete),
        1 => (12_i64..24).prop_map(Operation::DeleteAbove),
        1 => key().prop_map(Operation::SwallowedConflict),
    ];
    let inner = prop_oneof![3 => Just(Inner::Ok), 2 => Just(Inner::Error), 1 => Just(Inner::Panic)];
    leaf.prop_recursive(3, 12, 4, move |operation| {
        (prop::collection::vec(operation, 0..4), inner.clone())
            .prop_map(|(operations, inner)| Operation::Savepoint(operations, inner))
    })
}

fn job() -> impl Strategy<Value = Job> {
    let end = prop_oneof![
        12 => Just(End::Ok),
        1 => Just(End::Error),
        1 => Just(End::Conflict),
        1 => Just(End::Panic),
        1 => Just(End::DeferredForeignKey),
        1 => Just(End::Refused),
        1 => Just(End::RaiseRollback),
        1 => Just(End::OrRollback),
    ];
    (prop::collection::vec(operation(), 0..6), end).prop_map(|(operations, end)| Job { operations, end })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => job().prop_map(Step::Write),
        6 => prop::collection::vec(job(), 2..8).prop_map(Step::Group),
        4 => Just(Step::Read),
        2 => job().prop_map(Step::ReadAcross),
        1 => Just(Step::Reopen),
    ]
}

// ---- the model ----

impl Operation {
    fn apply(&self, model: &mut Model) {
        match self {
            Operation::Put(key, value) => drop(model.insert(*key, *value)),
            Operation::Add(key, by) => {
                if let Some(value) = model.get_mut(key) {
                    *value += by;
                }
            }
            Operation::Delete(key) => drop(model.remove(key)),
            Operation::DeleteAbove(key) => drop(model.split_off(&(key + 1))),
            // A row is put, and put again.
            Operation::SwallowedConflict(key) => drop(model.insert(*key, 1)),
            Operation::Savepoint(operations, inner) => {
                let mut inside = model.clone();
                operations.iter().for_each(|operation| operation.apply(&mut inside));
                if matches!(inner, Inner::Ok) {
                    *model = inside;
                }
            }
        }
    }

    fn count(&self) -> usize {
        match self {
            Operation::Savepoint(operations, _) => 1 + operations.iter().map(Self::count).sum::<usize>(),
            _ => 1,
        }
    }
}

impl Step {
    fn count(&self) -> usize {
        let count = |job: &Job| 1 + job.operations.iter().map(Operation::count).sum::<usize>();
        match self {
            Step::Write(job) => count(job),
            Step::Group(jobs) => jobs.iter().map(count).sum(),
            Step::ReadAcross(job) => 2 + count(job),
            Step::Read | Step::Reopen => 1,
        }
    }
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Committed,
    /// Another job ended its transaction.
    Lost,
    Failed(End),
}

/// Does to the model what the jobs of one group do to the store, and says what each caller is told.
fn apply_group(jobs: &[Job], model: &mut Model) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    // The state to which the open transaction would go back.
    let mut before = model.clone();
    for job in jobs {
        match job.end {
            End::Ok => {
                job.operations.iter().for_each(|operation| operation.apply(model));
                told.push(Told::Committed);
            }
            End::RaiseRollback | End::OrRollback => {
                *model = before.clone();
                told.iter_mut()
                    .filter(|told| **told == Told::Committed)
                    .for_each(|told| *told = Told::Lost);
                told.push(Told::Failed(job.end));
                before = model.clone();
            }
            end => told.push(Told::Failed(end)),
        }
    }
    told
}

// ---- the store ----

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS kv(k INTEGER PRIMARY KEY, v INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS orphan(parent INTEGER REFERENCES kv(k) DEFERRABLE INITIALLY DEFERRED) STRICT;
    CREATE TABLE IF NOT EXISTS fatal(x);
    CREATE TRIGGER IF NOT EXISTS fatal AFTER INSERT ON fatal BEGIN SELECT RAISE(ROLLBACK, 'fatal'); END;
    CREATE TABLE IF NOT EXISTS one(x INTEGER PRIMARY KEY) STRICT;
    INSERT OR IGNORE INTO one VALUES (1);";

fn open(path: &Path) -> Store {
    let store = grouping().open(path).unwrap();
    store.write(|tx| tx.execute_batch(SCHEMA)).unwrap();
    store
}

impl Operation {
    fn run(&self, tx: &WriteTx<'_>) -> Result<()> {
        match self {
            Operation::Put(key, value) => tx
                .execute("INSERT OR REPLACE INTO kv VALUES (?1, ?2)", [key, value])
                .map(drop),
            Operation::Add(key, by) => tx.execute("UPDATE kv SET v = v + ?2 WHERE k = ?1", [key, by]).map(drop),
            Operation::Delete(key) => tx.execute("DELETE FROM kv WHERE k = ?1", [key]).map(drop),
            Operation::DeleteAbove(key) => tx.execute("DELETE FROM kv WHERE k > ?1", [key]).map(drop),
            Operation::SwallowedConflict(key) => {
                tx.execute("INSERT OR REPLACE INTO kv VALUES (?1, 1)", [key])?;
                let conflict = tx.execute("INSERT INTO kv VALUES (?1, 2)", [key]);
                assert!(conflict.is_err());
                Ok(())
            }
            Operation::Savepoint(operations, inner) => {
                let inner = *inner;
                let result = catch_unwind(AssertUnwindSafe(|| {
                    tx.savepoint(|tx| {
                        run_all(operations, tx)?;
                        match inner {
                            Inner::Ok => Ok(()),
                            Inner::Error => Err(Error::app("undo the savepoint")),
                            Inner::Panic => resume_unwind(Box::new("undo the savepoint")),
                        }
                    })
                }));
                match (inner, result) {
                    (Inner::Ok, Ok(result)) => result,
                    (Inner::Error, Ok(Err(Error::App(_)))) | (Inner::Panic, Err(_)) => Ok(()),
                    (inner, other) => panic!("{inner:?}: {other:?}"),
                }
            }
        }
    }
}

fn run_all(operations: &[Operation], tx: &WriteTx<'_>) -> Result<()> {
    operations.iter().try_for_each(|operation| operation.run(tx))
}

impl Job {
    fn run(&self, tx: &WriteTx<'_>) -> Result<()> {
        run_all(&self.operations, tx)?;
        match self.end {
            End::Ok => Ok(()),
            End::Error => Err(Error::app("changed my mind")),
            End::Conflict => tx.execute("INSERT INTO one VALUES (1)", []).map(drop),
            End::Panic => resume_unwind(Box::new("boom")),
            End::DeferredForeignKey => tx.execute("INSERT INTO orphan VALUES (-1)", []).map(drop),
            End::Refused => tx.execute_batch("COMMIT"),
            End::RaiseRollback => tx.execute("INSERT INTO fatal VALUES (1)", []).map(drop),
            End::OrRollback => {
                assert!(tx.execute("INSERT OR ROLLBACK INTO one VALUES (1)", []).is_err());
                let _ = tx.execute("INSERT OR REPLACE INTO kv VALUES (5, 555)", []);
                Ok(())
            }
        }
    }
}

fn submit(store: &Store, job: &Job) -> Pending<()> {
    let job = job.clone();
    store.submit(move |tx| job.run(tx)).unwrap()
}

/// What the caller was told, if that is what it should be told.
fn told(pending: Pending<()>, expected: Told) -> std::result::Result<(), TestCaseError> {
    let result = catch_unwind(AssertUnwindSafe(|| pending.wait()));
    let right = match (expected, &result) {
        (Told::Committed, Ok(Ok(()))) => true,
        (Told::Lost, Ok(Err(Error::RolledBack { reason, .. }))) => reason.contains("another write"),
        (Told::Failed(End::Error), Ok(Err(Error::App(_)))) => true,
        (Told::Failed(End::Panic), Err(payload)) => payload.downcast_ref::<&str>() == Some(&"boom"),
        (Told::Failed(End::Refused), Ok(Err(Error::Refused { .. }))) => true,
        (Told::Failed(End::OrRollback), Ok(Err(Error::RolledBack { .. }))) => true,
        (Told::Failed(End::Conflict), Ok(Err(error @ Error::Sqlite { .. }))) => error.to_string().contains("UNIQUE"),
        (Told::Failed(End::DeferredForeignKey), Ok(Err(error @ Error::Sqlite { .. }))) => {
            error.to_string().contains("FOREIGN KEY")
        }
        (Told::Failed(End::RaiseRollback), Ok(Err(error @ Error::Sqlite { .. }))) => {
            error.to_string().contains("fatal")
        }
        _ => false,
    };
    prop_assert!(right, "{:?} expected, {:?} told", expected, result);
    Ok(())
}

fn contents(tx: &ReadTx<'_>) -> Result<Model> {
    let rows = tx.query_map("SELECT k, v FROM kv", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.into_iter().collect())
}

fn write_group(store: &Store, jobs: &[Job], model: &mut Model) -> std::result::Result<(), TestCaseError> {
    let gate = Gate::hold(store);
    let pending: Vec<_> = jobs.iter().map(|job| submit(store, job)).collect();
    gate.open();
    let expected = apply_group(jobs, model);
    for (pending, expected) in pending.into_iter().zip(expected) {
        told(pending, expected)?;
    }
    Ok(())
}

fn write(store: &Store, job: &Job, model: &mut Model) -> std::result::Result<(), TestCaseError> {
    let expected = apply_group(std::slice::from_ref(job), model);
    told(submit(store, job), expected[0])
}

fn run(steps: &[Step]) -> std::result::Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.db");
    let mut store = open(&path);
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Write(job) => write(&store, job, &mut model)?,
            Step::Group(jobs) => write_group(&store, jobs, &mut model)?,
            Step::Read => prop_assert_eq!(&store.read(contents).unwrap(), &model),
            Step::ReadAcross(job) => {
                let before = model.clone();
                let (first, wrote, second) = store
                    .read(|tx| {
                        let first = contents(tx)?;
                        let wrote = write(&store, job, &mut model);
                        Ok((first, wrote, contents(tx)?))
                    })
                    .unwrap();
                wrote?;
                prop_assert_eq!(&first, &before);
                prop_assert_eq!(&second, &before);
            }
            Step::Reopen => {
                let report = store.close().unwrap();
                prop_assert!(report.wal_truncated, "{}", report);
                store = open(&path);
            }
        }
    }
    prop_assert_eq!(&store.read(contents).unwrap(), &model);
    let sound: String = store
        .read(|tx| tx.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .unwrap();
    prop_assert_eq!(sound, "ok");
    Ok(())
}

#[test]
fn store_agrees_with_the_model() {
    let done = std::cell::Cell::new(0);
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    // As many cases as it takes, each of some hundred steps.
    while done.get() < OPERATIONS {
        TestRunner::new(config.clone())
            .run(&prop::collection::vec(step(), 50..150), |steps| {
                done.set(done.get() + steps.iter().map(Step::count).sum::<usize>());
                run(&steps)
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}
