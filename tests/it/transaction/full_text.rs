//! A full-text table with external content and triggers, as the guide has it: after anything that a store does, the index
//! has the text of the content table.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::thread;

use larder::rusqlite::{self, Connection, OpenFlags, params};
use larder::{Error, Migration, Migrations, Options, Outcome, ReadTx, Result, Store, WriteTx, fts5};

use crate::support::keep_log;
use crate::support::migrations::{migration_error, number};
use crate::write::groups::{Gate, grouping};

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL) STRICT";

/// The SQL of the guide: both directions of the migration.
fn guide() -> [&'static str; 2] {
    let guide = include_str!("../../../docs/guide/full-text.md");
    let mut blocks = guide
        .split("```sql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    [blocks.next().unwrap(), blocks.next().unwrap()]
}

fn migrations() -> Migrations {
    let [up, down] = guide();
    Migrations::new([
        Migration::new(1, "notes", NOTES).down("DROP TABLE notes"),
        Migration::new(2, "notes search", up).down(down),
    ])
}

fn store() -> Store {
    grouping().migrations(migrations()).open_temp().unwrap()
}

fn add(tx: &WriteTx<'_>, id: i64, text: &str) -> Result<()> {
    tx.execute("INSERT INTO notes VALUES (?1, 'note', ?2)", params![id, text])
        .map(drop)
}

fn found(tx: &ReadTx<'_>, text: &str) -> Result<Vec<i64>> {
    let sql = "SELECT rowid FROM notes_search WHERE notes_search MATCH ?1 ORDER BY rowid";
    tx.scalars(sql, [fts5::all_words(text)])
}

fn search(store: &Store, text: &str) -> Vec<i64> {
    store.read(|tx| found(tx, text)).unwrap()
}

/// The full comparison of the index with the content table.
fn compare(tx: &WriteTx<'_>) -> Result<()> {
    tx.execute(
        "INSERT INTO notes_search(notes_search, rank) VALUES ('integrity-check', 1)",
        [],
    )
    .map(drop)
}

#[track_caller]
fn assert_index_is_right(store: &Store) {
    store.write(compare).unwrap();
    let report = store.check().run().unwrap();
    assert!(report.is_ok(), "{report}");
}

/// The same, for a file that no store has open.
#[track_caller]
fn assert_index_in_file_is_right(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.execute(
        "INSERT INTO notes_search(notes_search, rank) VALUES ('integrity-check', 1)",
        [],
    )
    .unwrap();
    let checked: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(checked, "ok");
}

/// The comparison finds what the triggers are for.
#[test]
fn text_changed_without_triggers_is_found_and_rebuilt() {
    let store = store();
    store.write(|tx| add(tx, 1, "ant")).unwrap();
    store
        .write(|tx| tx.execute_batch("DROP TRIGGER notes_search_update; UPDATE notes SET body = 'bee'"))
        .unwrap();
    let error = store.write(compare).unwrap_err();
    assert!(error.to_string().contains("checksum mismatch"), "{error}");
    assert!(store.poisoned().is_none());
    assert_eq!((search(&store, "ant"), search(&store, "bee")), (vec![1], vec![]));
    store
        .write(|tx| tx.execute("INSERT INTO notes_search(notes_search) VALUES ('rebuild')", []))
        .unwrap();
    assert_index_is_right(&store);
    assert_eq!((search(&store, "ant"), search(&store, "bee")), (vec![], vec![1]));
}

#[test]
fn insert_update_delete_and_upsert_reach_index() {
    let store = store();
    store
        .write(|tx| {
            add(tx, 1, "ant")?;
            add(tx, 2, "bee")?;
            tx.execute("UPDATE notes SET body = 'cow' WHERE id = 1", [])?;
            tx.execute("UPDATE notes SET id = 7 WHERE id = 2", [])?;
            tx.execute("UPDATE notes SET title = title", [])?;
            let upsert = "INSERT INTO notes VALUES (?1, 'note', ?2) ON CONFLICT DO UPDATE SET body = excluded.body";
            tx.execute(upsert, params![1, "dog"])?;
            tx.execute(upsert, params![3, "eel"])?;
            assert_eq!(found(tx, "dog")?, [1], "the write sees it");
            add(tx, 4, "fly")?;
            tx.execute("DELETE FROM notes WHERE id = 4", [])?;
            Ok(())
        })
        .unwrap();
    let all = ["ant", "bee", "cow", "dog", "eel", "fly", "note"].map(|word| search(&store, word));
    assert_eq!(all, [vec![], vec![7], vec![], vec![1], vec![3], vec![], vec![1, 3, 7]]);
    assert_index_is_right(&store);
}

/// The guide says so.
#[test]
fn insert_or_replace_leaves_old_text_in_index() {
    let store = store();
    let replaced = store.write(|tx| {
        add(tx, 1, "ant")?;
        tx.execute("INSERT OR REPLACE INTO notes VALUES (1, 'note', 'bee')", [])?;
        Ok(())
    });
    replaced.unwrap();
    assert_eq!(search(&store, "ant"), [1]);
    store.write(compare).unwrap_err();
}

#[test]
fn failed_job_of_group_leaves_nothing_in_index() {
    let store = store();
    let gate = Gate::hold(&store);
    let jobs = [
        store.submit(|tx| add(tx, 1, "ant")),
        store.submit(|tx| {
            add(tx, 2, "bee")?;
            tx.execute("UPDATE notes SET body = 'wasp' WHERE id = 1", [])?;
            Err(Error::app("no"))
        }),
        store.submit(|tx| {
            add(tx, 3, "cow")?;
            tx.savepoint(|tx| {
                add(tx, 4, "dog")?;
                tx.execute("DELETE FROM notes WHERE id < 3", [])?;
                Err::<(), _>(Error::app("not this"))
            })
            .unwrap_err();
            tx.savepoint(|tx| add(tx, 5, "eel"))
        }),
        // The primary key is taken: SQLite undoes the statement alone, with what its triggers did.
        store.submit(|tx| {
            tx.execute("INSERT INTO notes VALUES (6, 'note', 'fly'), (1, 'note', 'gnu')", [])
                .unwrap_err();
            add(tx, 7, "hen")
        }),
    ]
    .map(Result::unwrap);
    let panics = store
        .submit(|tx| -> Result<()> {
            add(tx, 8, "ibis")?;
            panic!("on purpose")
        })
        .unwrap();
    let last = store.submit(|tx| add(tx, 9, "jay")).unwrap();
    let groups = store.stats().groups;
    gate.open();
    let results = jobs.map(|job| job.wait().map_err(|error| error.outcome()));
    assert_eq!(results, [Ok(()), Err(Outcome::RolledBack), Ok(()), Ok(())]);
    assert!(catch_unwind(AssertUnwindSafe(|| panics.wait())).is_err());
    last.wait().unwrap();
    // That of the gate, and that of the group.
    assert_eq!(store.stats().groups - groups, 2);

    let words = [
        "ant", "bee", "wasp", "cow", "dog", "eel", "fly", "gnu", "hen", "ibis", "jay",
    ];
    let rows = words.map(|word| search(&store, word));
    let wanted = [&[1][..], &[], &[], &[3], &[], &[5], &[], &[], &[7], &[], &[9]];
    assert_eq!(rows, wanted);
    assert_index_is_right(&store);
}

/// SQLite rolls the whole group back, and the index with it.
#[test]
fn group_that_is_rolled_back_leaves_nothing_in_index() {
    let store = store();
    let gate = Gate::hold(&store);
    let first = store.submit(|tx| add(tx, 1, "ant")).unwrap();
    let fatal = store
        .submit(|tx| {
            tx.execute(
                "INSERT OR ROLLBACK INTO notes VALUES (2, 'note', 'bee'), (2, 'note', 'bee')",
                [],
            )
        })
        .unwrap();
    let later = store.submit(|tx| add(tx, 3, "cow")).unwrap();
    gate.open();
    assert_eq!(first.wait().unwrap_err().outcome(), Outcome::RolledBack);
    assert_eq!(fatal.wait().unwrap_err().outcome(), Outcome::RolledBack);
    later.wait().unwrap();
    assert_eq!(
        ["ant", "bee", "cow"].map(|word| search(&store, word)),
        [vec![], vec![], vec![3]]
    );
    assert_index_is_right(&store);
}

#[test]
fn migration_indexes_rows_that_are_there_and_undoes_it() {
    let store = Options::new()
        .migrations(migrations().at_open(false))
        .open_temp()
        .unwrap();
    store.migrate_to(1).unwrap();
    store.write(|tx| add(tx, 1, "ant")).unwrap();
    for _ in 0..2 {
        store.migrate_to(2).unwrap();
        assert_eq!(search(&store, "ant"), [1]);
        assert_index_is_right(&store);
        store.migrate_to(1).unwrap();
        assert_eq!(
            number(
                &store,
                "SELECT count(*) FROM sqlite_schema WHERE sql LIKE '%notes_search%'"
            ),
            0
        );
    }
    store.migrate_to(2).unwrap();
    assert_eq!(search(&store, "ant"), [1]);
}

#[test]
fn failed_migration_leaves_index_as_it_was() {
    let [up, down] = guide();
    let set = |third: &str| {
        let list = [
            Migration::new(1, "notes", NOTES),
            Migration::new(2, "search", up).down(down),
            Migration::new(3, "third", third),
        ];
        Migrations::new(list)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new().migrations(migrations()).open(&path).unwrap();
    store.write(|tx| add(tx, 1, "ant")).unwrap();
    store.close().unwrap();
    drop(store);
    let failing =
        set("UPDATE notes SET body = 'bee'; INSERT INTO notes SELECT id + 1, title, 'cow' FROM notes; nonsense");
    migration_error(Options::new().migrations(failing).open(&path));
    let store = Options::new().migrations(migrations()).open(&path).unwrap();
    assert_eq!(
        ["ant", "bee", "cow"].map(|word| search(&store, word)),
        [vec![1], vec![], vec![]]
    );
    assert_index_is_right(&store);
    store.close().unwrap();
    drop(store);

    // A rebuild of the content table, with its triggers.
    let triggers = up.split_once(");\n").unwrap().1.split("-- The rows").next().unwrap();
    let rebuild = format!(
        "CREATE TABLE new(id INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL, at INTEGER) STRICT;
         INSERT INTO new SELECT id, title, body, 0 FROM notes; DROP TABLE notes; ALTER TABLE new RENAME TO notes;
         {triggers}"
    );
    let store = Options::new().migrations(set(&rebuild)).open(&path).unwrap();
    assert_eq!(search(&store, "ant"), [1]);
    store
        .write(|tx| tx.execute("UPDATE notes SET body = 'bee', at = 7", []))
        .unwrap();
    assert_eq!(["ant", "bee"].map(|word| search(&store, word)), [vec![], vec![1]]);
    assert_index_is_right(&store);
}

/// Threads that insert, change and delete, of which some fail: each copy has an index that belongs to its rows.
#[test]
fn copies_made_during_writes_have_whole_index() {
    let store = store();
    let folder = tempfile::tempdir().unwrap();
    let copies: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..120_i64 {
                        let id = writer * 1000 + n;
                        let written = store.write(move |tx| {
                            add(tx, id, &format!("word{n} common"))?;
                            tx.execute("UPDATE notes SET body = body || ' seen' WHERE id = ?1 - 1", [id])?;
                            tx.execute("DELETE FROM notes WHERE id = ?1 - 7", [id])?;
                            if n % 5 == 0 { Err(Error::app("undone")) } else { Ok(()) }
                        });
                        assert_eq!(written.is_err(), n % 5 == 0);
                    }
                })
            })
            .collect();
        let copies = (0..3).map(|n| {
            let to = folder.path().join(format!("copy{n}.db"));
            let copy = if n == 1 {
                store.backup_compact(&to)
            } else {
                store.backup(&to)
            };
            copy.run().unwrap();
            to
        });
        let copies = copies.collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        copies
    });
    assert_index_is_right(&store);
    let last = folder.path().join("last.db");
    store.backup(&last).run().unwrap();
    for copy in copies.iter().chain([&last]) {
        assert_index_in_file_is_right(copy);
    }
    let restored = folder.path().join("restored.db");
    Store::restore(&last, &restored).unwrap();
    assert_index_in_file_is_right(&restored);
    let conn = Connection::open_with_flags(&restored, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    for word in ["common", "word8", "seen"] {
        let sql = "SELECT rowid FROM notes_search WHERE notes_search MATCH ?1 ORDER BY rowid";
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([fts5::all_words(word)], |row| row.get(0)).unwrap();
        let rows: Vec<i64> = rows.collect::<rusqlite::Result<_>>().unwrap();
        assert_eq!(rows, search(&store, word), "{word}");
        assert!(!rows.is_empty());
    }
}

#[test]
fn vacuum_leaves_index_right() {
    let store = store();
    store
        .write(|tx| {
            for id in 1..200 {
                add(tx, id * 3, &format!("word{id}"))?;
            }
            tx.execute("DELETE FROM notes WHERE id % 2 = 0", []).map(drop)
        })
        .unwrap();
    store.vacuum().run().unwrap();
    assert_eq!(search(&store, "word7"), [21]);
    assert!(store.advice().iter().all(|finding| finding.topic != "implicit_rowid"));
    assert_index_is_right(&store);
}

/// What a killed process leaves: the database and its log, as they are while the store is open.
#[test]
fn index_in_log_of_killed_process_is_that_of_committed_rows() {
    let store = store();
    for id in 0..50 {
        store.write(move |tx| add(tx, id, &format!("word{id}"))).unwrap();
    }
    store
        .write(|tx| {
            add(tx, 99, "undone")?;
            Err::<(), _>(Error::app("no"))
        })
        .unwrap_err();
    let folder = tempfile::tempdir().unwrap();
    let _reader = keep_log(store.path());
    // By another process: a descriptor of this one would take the locks of the store with it.
    for file in ["temp.db", "temp.db-wal"] {
        let from = store.path().with_file_name(file);
        let copied = Command::new("cp").arg(&from).arg(folder.path()).status().unwrap();
        assert!(copied.success(), "{}", from.display());
    }
    let path = folder.path().join("temp.db");
    let copy = Options::new().migrations(migrations()).open(&path).unwrap();
    assert_eq!(search(&copy, "word7"), [7]);
    assert!(search(&copy, "undone").is_empty());
    assert_index_is_right(&copy);
}
