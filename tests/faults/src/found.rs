//! Regression tests for defects that the other suites found, each by its smallest case: a list that runs in a second or
//! two at every change. Defects that an ordinary test can show are in the integration tests of the crate.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use larder::rusqlite::hooks::Action;
use larder::{Error, Migration, Migrations, Options, Outcome, Store};

use crate::Arguments;
use crate::cases::{Suite, Summary};
use crate::child::{Child, tell};
use crate::disk::Image;
use crate::entries::clean;
use crate::memory;
use crate::trace::{Call, Class, Disk, Fault, Plan, calls};

const DATABASE: &str = "app.db";

/// A case that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

type Work = fn(&Path) -> Result<(), String>;

/// The environment that a case needs.
enum Where {
    /// A disk that fails.
    Disk(Work),
    /// A separate process whose memory fails.
    Memory(Work),
}

const CASES: &[(&str, Where)] = &[
    ("full-disk-at-creation", Where::Disk(full_disk_at_creation)),
    ("rollback-without-memory", Where::Memory(rollback_without_memory)),
    (
        "vacuum-after-a-failed-rollback",
        Where::Memory(vacuum_after_a_failed_rollback),
    ),
    ("poisoned-as-it-opens", Where::Memory(poisoned_as_it_opens)),
];

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("found", arguments).expect("a folder for temporary files");
    let wanted = |name: &str| arguments.case.as_ref().is_none_or(|case| case == name);
    let chosen: Vec<_> = CASES.iter().filter(|(name, _)| wanted(name)).collect();
    assert!(!chosen.is_empty(), "no case of that name");
    suite.run(arguments.threads, 0..chosen.len() as u64, |unit, bench| {
        let (name, place) = chosen[unit as usize];
        let result = bench.attempt(name, || {
            clean(&bench.folder).map_err(|error| error.to_string())?;
            match place {
                Where::Disk(work) => work(&bench.folder),
                Where::Memory(_) => follow_child(name, &bench.folder),
            }
        });
        bench.note(name, result, None);
    })
}

fn follow_child(name: &str, folder: &Path) -> Result<(), String> {
    let arguments = [name.to_owned(), folder.display().to_string()];
    let child = Child::start("found", &arguments).map_err(|error| error.to_string())?;
    match child.line(PATIENCE) {
        Ok(line) if line == "ok" => Ok(()),
        Ok(line) => Err(line),
        Err(true) => Err(format!("the process crashed: {}", child.rest().1)),
        Err(false) => Err("hangs".into()),
    }
}

pub fn child(arguments: &[String]) {
    let [name, folder] = arguments else {
        panic!("found: wrong arguments")
    };
    let Some((_, Where::Memory(work))) = CASES.iter().find(|(known, _)| known == name) else {
        panic!("found: no case {name:?}")
    };
    // Without lookaside memory nearly every allocation can fail.
    let lookaside = false;
    memory::install(lookaside);
    match work(Path::new(folder)) {
        Ok(()) => tell("ok"),
        Err(problem) => tell(&problem.replace('\n', " / ")),
    }
}

fn options() -> Options {
    Options::new().readers(1).monitor_interval(Duration::ZERO)
}

fn in_words(error: Error) -> String {
    format!("{error:?}")
}

/// `PRAGMA journal_mode = WAL` returns its row, "wal", before it commits. If the disk was full at that moment, the
/// error of the commit was lost: the store opened in rollback mode, believed to be in WAL mode, and a power cut could
/// lose acknowledged writes. (`calls`)
fn full_disk_at_creation(folder: &Path) -> Result<(), String> {
    let mut refused = 0;
    for nth in 1.. {
        clean(folder).map_err(|error| error.to_string())?;
        let disk = Disk::mount(folder, &Image::default());
        disk.arm(Plan {
            fault: Fault::Full,
            calls: calls(&[Call::Write]),
            files: |_: Class| true,
            nth,
            sticky: false,
        });
        let opened = options().open(folder.join(DATABASE));
        let hit = disk.disarm().is_some();
        match opened {
            Ok(store) => is_in_wal_mode(&store).map_err(|problem| format!("write {nth} of the creation: {problem}"))?,
            Err(error) if hit && error.outcome() == Outcome::NotStarted => refused += 1,
            Err(error) => return Err(format!("write {nth} of the creation: {error:?}")),
        }
        if !hit {
            break;
        }
    }
    if refused > 0 {
        Ok(())
    } else {
        Err("no write failed where the store needs it: the case has lost its aim".into())
    }
}

fn is_in_wal_mode(store: &Store) -> Result<(), String> {
    let mode: String = store
        .read(|tx| tx.query_row("PRAGMA journal_mode", [], |row| row.get(0)))
        .map_err(in_words)?;
    if mode == "wal" {
        Ok(())
    } else {
        Err(format!("the store is open, and its journal_mode is {mode}"))
    }
}

/// A ROLLBACK without memory left the transaction open, and every later write failed with "cannot start a transaction
/// within a transaction", long after memory was available again. (`oom`)
fn rollback_without_memory(folder: &Path) -> Result<(), String> {
    let store = fail_a_rollback(folder)?;
    store
        .write(|tx| tx.execute("INSERT INTO t VALUES (2)", []))
        .map_err(|error| format!("there is memory again, and a write fails: {error:?}"))?;
    let rows: Vec<i64> = store
        .read(|tx| tx.query_map("SELECT id FROM t", [], |row| row.get(0)))
        .map_err(in_words)?;
    if rows == [2] {
        Ok(())
    } else {
        Err(format!("there are the rows {rows:?}"))
    }
}

/// The same open transaction blocked a `VACUUM`, which has no BEGIN of its own that would have ended it first: "cannot
/// VACUUM from within a transaction". (`oom`)
fn vacuum_after_a_failed_rollback(folder: &Path) -> Result<(), String> {
    let store = fail_a_rollback(folder)?;
    match store.vacuum().run() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("there is memory again, and a vacuum fails: {error:?}")),
    }
}

/// A store with an empty table, whose last write could not be rolled back for lack of memory, which is available again.
fn fail_a_rollback(folder: &Path) -> Result<Store, String> {
    let store = options().open(folder.join(DATABASE)).map_err(in_words)?;
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT"))
        .map_err(in_words)?;
    // The first ROLLBACK of this connection: it is not prepared yet.
    let refused = store.write(|tx| {
        tx.execute("INSERT INTO t VALUES (1)", [])?;
        memory::arm(1, true);
        Err::<(), _>(Error::app("no"))
    });
    let was_hit = memory::was_hit();
    memory::disarm();
    match refused {
        Err(error) if was_hit && error.outcome() == Outcome::RolledBack => Ok(store),
        other => Err(format!("without memory for a ROLLBACK ({was_hit}): {other:?}")),
    }
}

/// After a migration the writer restores its PRAGMAs, and a store for which this fails accepts no more writes. If it
/// failed for lack of memory while the store opened, the caller got a store as if nothing were wrong. (`oom`)
fn poisoned_as_it_opens(folder: &Path) -> Result<(), String> {
    static NTH: AtomicI64 = AtomicI64::new(0);
    let migration = Migration::new(1, "table", "CREATE TABLE t(x INTEGER) STRICT; INSERT INTO t VALUES (1)");
    // Counts the allocations from the end of the migration on.
    let options = options()
        .migrations(Migrations::new([migration]))
        .on_connect(|conn, _| {
            Ok(conn.update_hook(Some(|action, _: &str, table: &str, _| {
                if action == Action::SQLITE_INSERT && table == "t" {
                    memory::arm(NTH.load(Ordering::SeqCst), false);
                }
            }))?)
        });
    let path: PathBuf = folder.join(DATABASE);
    for nth in 1.. {
        clean(folder).map_err(|error| error.to_string())?;
        NTH.store(nth, Ordering::SeqCst);
        let opened = options.clone().open(&path);
        let was_hit = memory::was_hit();
        memory::disarm();
        let failed = |problem: String| format!("allocation {nth} after the migration's last statement: {problem}");
        match opened {
            Ok(store) => takes_a_write(&store).map_err(failed)?,
            Err(_) if was_hit => {}
            Err(error) => return Err(failed(in_words(error))),
        }
        if !was_hit {
            break;
        }
    }
    Ok(())
}

fn takes_a_write(store: &Store) -> Result<(), String> {
    if let Some(poisoned) = store.poisoned() {
        return Err(format!("it opened, and is poisoned: {poisoned:?}"));
    }
    store
        .write(|tx| tx.execute("DELETE FROM t", []))
        .map(drop)
        .map_err(|error| format!("it opened, and a write fails: {error:?}"))
}
