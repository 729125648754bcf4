//! Copies of the database made for migrations: the temporary one of a dry run, and the backup before the first step.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use larder::rusqlite::Connection;
use larder::{Access, Adopt, Direction, DryRun, Error, Migration, MigrationError, Migrations, Options, Outcome, Store};

use crate::support::migrations::{
    FAMILY, GOOSE_TABLE, after_first, applied, assert_has, contents, made_by, migration_error, numbers, pending,
    rolled_back, set, steps, store_of, texts,
};
use crate::support::names_in;

const BOTH: [DryRun; 2] = [DryRun::Schema, DryRun::Backup];

// ---- dry runs ----

/// A schema that has some of everything.
const RICH: &str = r#"
    CREATE TABLE numbered(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        x TEXT COLLATE NOCASE,
        stored TEXT GENERATED ALWAYS AS (upper(x)) STORED,
        virtual TEXT AS (x || x)
    ) STRICT;
    CREATE TABLE "a ""quoted"" table, it's"("a ""column""" INTEGER PRIMARY KEY, "select" TEXT DEFAULT 'it''s; --')
        STRICT;
    CREATE TABLE bare(k TEXT PRIMARY KEY, p INTEGER REFERENCES numbered(id)) STRICT, WITHOUT ROWID;
    CREATE TABLE words_data_not(x INTEGER) STRICT;
    CREATE VIRTUAL TABLE words USING fts5(word);
    CREATE VIRTUAL TABLE outer_words USING fts5(x, content='numbered', content_rowid='id');
    CREATE VIRTUAL TABLE boxes USING rtree(id, l, r);
    CREATE INDEX by_upper ON numbered(upper(x)) WHERE x IS NOT NULL;
    CREATE UNIQUE INDEX "an ""index""" ON "a ""quoted"" table, it's"("select" COLLATE NOCASE DESC);
    CREATE VIEW inner_view AS SELECT upper(x) AS xx FROM numbered;
    CREATE VIEW outer_view(y) AS SELECT xx FROM inner_view;
    CREATE TRIGGER instead INSTEAD OF INSERT ON outer_view BEGIN INSERT INTO numbered(x) VALUES (new.y); END;
    CREATE TRIGGER noting AFTER INSERT ON numbered BEGIN INSERT INTO words VALUES (new.x); END;
    INSERT INTO outer_view VALUES ('ant'), ('bee');
    INSERT INTO bare SELECT 'k' || id, id FROM numbered;
    INSERT INTO boxes VALUES (1, 2.0, 3.0);
    INSERT INTO "a ""quoted"" table, it's" DEFAULT VALUES;
    PRAGMA user_version = 7;
    PRAGMA application_id = 77;
    ANALYZE;"#;

const CHANGES: &str = r#"
    PRAGMA legacy_alter_table = ON;
    CREATE TABLE numbered_new(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT COLLATE NOCASE NOT NULL) STRICT;
    INSERT INTO numbered_new SELECT id, x FROM numbered;
    DROP TABLE numbered;
    ALTER TABLE numbered_new RENAME TO numbered;
    ALTER TABLE bare ADD COLUMN more TEXT;
    ALTER TABLE "a ""quoted"" table, it's" RENAME TO plain;
    INSERT INTO words VALUES ('cow');
    INSERT INTO words(words) VALUES ('rebuild');
    UPDATE boxes SET r = 4.0;
    INSERT INTO outer_words(outer_words) VALUES ('rebuild');"#;

#[test]
fn dry_run_tries_all_pending_and_changes_nothing() {
    for on in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let migrations = set([RICH, CHANGES, "CREATE TABLE last(x INTEGER) STRICT"]);
        let store = Options::new()
            .migrations(migrations)
            .open(folder.path().join("app.db"))
            .unwrap();
        store.migrate_to(1).unwrap();
        let (before, files) = (contents(&store), names_in(folder.path()));
        let report = store.migrate_dry_run(on).unwrap();
        assert_eq!(steps(&report), [(2, Direction::Up), (3, Direction::Up)], "{on:?}");
        assert_eq!(report.backup, None);
        assert_eq!(contents(&store), before, "{on:?}");
        assert_eq!(names_in(folder.path()), files, "{on:?}");
        assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2, 3]));
        // What went well dry goes well.
        assert_eq!(steps(&store.migrate().unwrap()), steps(&report));
        assert_eq!(store.migrate_dry_run(on).unwrap().steps, []);
        assert_eq!(texts(&store, "SELECT x FROM numbered ORDER BY id"), ["ant", "bee"]);
        assert!(store.close().unwrap().wal_truncated);
    }
}

#[test]
fn dry_run_of_new_database_tries_all_migrations() {
    for on in BOTH {
        let store = Options::new().migrations(set([RICH, CHANGES])).open_temp().unwrap();
        assert_eq!(store.migrate_dry_run(on).unwrap().steps.len(), 2, "{on:?}");
        assert_eq!(contents(&store).len(), 1, "{on:?}: {:?}", contents(&store));
    }
}

/// With encryption or an extension, a connection that was not prepared so could not read the copy.
#[test]
fn dry_run_copy_gets_on_connect() {
    for on in BOTH {
        let migrations = set([
            "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;
             CREATE TRIGGER next AFTER INSERT ON t WHEN new.id < 5 BEGIN INSERT INTO t VALUES (new.id + 1); END;",
            "CREATE TABLE all_five(n INTEGER CHECK (n = 5)) STRICT;
             INSERT INTO t VALUES (1);
             INSERT INTO all_five SELECT count(*) FROM t;",
        ]);
        let store = Options::new()
            .migrations(migrations)
            .on_connect(|conn, _| Ok(conn.execute_batch("PRAGMA recursive_triggers = ON")?))
            .open_temp()
            .unwrap();
        store.migrate_to(1).unwrap();
        assert_eq!(store.migrate_dry_run(on).unwrap().steps.len(), 1, "{on:?}");
    }
}

/// Where the copies were: `on_connect` sees them, too.
#[test]
fn dry_run_copy_is_removed_even_on_failure() {
    for on in BOTH {
        for second in ["CREATE TABLE u(x INTEGER) STRICT", "SELEC 1"] {
            let seen = Arc::new(Mutex::new(BTreeSet::new()));
            let places = Arc::clone(&seen);
            let options = Options::new().migrations(set(["CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT", second]));
            let store = options
                .on_connect(move |conn, _| {
                    places.lock().unwrap().insert(PathBuf::from(conn.path().unwrap()));
                    Ok(())
                })
                .open_temp()
                .unwrap();
            store.migrate_to(1).unwrap();
            assert_eq!(store.migrate_dry_run(on).is_ok(), !second.starts_with("SELEC"));
            let mut seen = seen.lock().unwrap().clone();
            assert!(seen.remove(store.path()));
            assert!(!seen.is_empty());
            for copy in seen {
                assert!(!copy.parent().unwrap().exists(), "{}", copy.display());
            }
        }
    }
}

#[test]
fn sql_error_is_found_by_both_dry_runs() {
    let store = after_first([
        FAMILY,
        "CREATE TABLE u(x INTEGER) STRICT",
        "ALTER TABLE parent ADD COLUMN name TEXT",
    ]);
    for on in BOTH {
        let error = store.migrate_dry_run(on).unwrap_err();
        assert_eq!(error.outcome(), Outcome::RolledBack);
        assert_has(
            &error.to_string(),
            &["migration 3 (step 3)", "duplicate column name: name"],
        );
        assert_eq!(pending(&store), [2, 3], "{on:?}");
    }
}

#[test]
fn constraint_violation_is_found_by_backup_dry_run() {
    for (sql, message) in [
        ("CREATE UNIQUE INDEX one ON parent(1)", "UNIQUE constraint failed"),
        ("DELETE FROM parent WHERE id = 1", "foreign keys without a parent row"),
        (
            "CREATE TABLE p2(id INTEGER PRIMARY KEY, name TEXT CHECK (name < 'b')) STRICT;
             INSERT INTO p2 SELECT * FROM parent",
            "CHECK constraint failed",
        ),
    ] {
        let store = after_first([FAMILY, sql]);
        let before = contents(&store);
        store.migrate_dry_run(DryRun::Schema).unwrap();
        let dry = store.migrate_dry_run(DryRun::Backup).unwrap_err().to_string();
        assert_has(&dry, &["migration 2 (step 2)", message]);
        assert_eq!(contents(&store), before);
        assert_eq!(store.migrate().unwrap_err().to_string(), dry, "as the real run says");
    }
}

#[test]
fn dry_run_refuses_what_the_real_run_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let first = "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT";
    Options::new()
        .migrations(set([first]).at_open(true))
        .open(&path)
        .unwrap();
    for on in BOTH {
        let changed = set(["CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT) STRICT"]);
        let store = Options::new().migrations(changed).open(&path).unwrap();
        let error = migration_error(store.migrate_dry_run(on));
        assert!(matches!(error, MigrationError::Changed { .. }), "{error}");
        drop(store);
        let strict = Options::new()
            .require_strict(true)
            .migrations(set([first, "CREATE TABLE u(x INTEGER)"]));
        let store = strict.open(&path).unwrap();
        let error = migration_error(store.migrate_dry_run(on));
        assert!(matches!(error, MigrationError::NotStrict { .. }), "{error}");
    }
}

#[test]
fn dry_run_works_with_exclusive_access() {
    for on in BOTH {
        let migrations = set([FAMILY, "ALTER TABLE parent ADD COLUMN x TEXT"]);
        let store = Options::new()
            .access(Access::Exclusive)
            .readers(2)
            .migrations(migrations)
            .open_temp()
            .unwrap();
        store.migrate_to(1).unwrap();
        let report = store.read(|tx| {
            tx.query_row("SELECT 1 FROM parent", [], |_| Ok(()))?;
            store.migrate_dry_run(on)
        });
        assert_eq!(report.unwrap().steps.len(), 1);
    }
}

#[test]
fn dry_run_needs_migrations_and_an_open_store() {
    for on in BOTH {
        let store = Store::open_temp().unwrap();
        let refused = store.migrate_dry_run(on);
        assert!(
            matches!(
                refused,
                Err(Error::Options {
                    option: "migrations",
                    ..
                })
            ),
            "{refused:?}"
        );
        let store = store_of(set([FAMILY]));
        store.close().unwrap();
        let closed = store.migrate_dry_run(on);
        assert!(matches!(closed, Err(Error::Closed)), "{closed:?}");
    }
}

/// What Goose has applied was pending in the copy, whose `goose_db_version` had no rows.
#[test]
fn schema_dry_run_adopts_record_of_goose() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(&path, GOOSE_TABLE);
    made_by(
        &path,
        "INSERT INTO goose_db_version(version_id, is_applied) VALUES (1, 1);
         CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;",
    );
    let list = [
        "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT",
        "ALTER TABLE t ADD COLUMN x TEXT",
    ];
    let store = Options::new()
        .migrations(set(list).adopt(Adopt::Goose))
        .open(&path)
        .unwrap();
    for on in [DryRun::Backup, DryRun::Schema] {
        assert_eq!(
            steps(&store.migrate_dry_run(on).unwrap()),
            [(2, Direction::Up)],
            "{on:?}"
        );
    }
}

/// Old schemas have "text" where 'text' was meant. The copy was refused, since it was made by larder's stricter rule.
#[test]
fn schema_dry_run_copies_double_quoted_strings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(
        &path,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT CHECK (x <> \"none\"))",
    );
    let store = Options::new()
        .migrations(set(["ALTER TABLE t ADD COLUMN y TEXT"]))
        .open(&path)
        .unwrap();
    for on in [DryRun::Backup, DryRun::Schema] {
        assert_eq!(store.migrate_dry_run(on).unwrap().steps.len(), 1, "{on:?}");
    }
    store.migrate().unwrap();
}

/// The rule for old schemas is not for the migrations.
#[test]
fn dry_run_refuses_double_quoted_strings_in_migrations() {
    let store = after_first([FAMILY, "CREATE TABLE t(x TEXT CHECK (x <> \"none\")) STRICT"]);
    let message = rolled_back(store.migrate());
    assert_has(
        &message,
        &["migration 2 (step 2), line 1: ", "no such column: \"none\""],
    );
    for on in BOTH {
        assert_eq!(rolled_back(store.migrate_dry_run(on)), message, "{on:?}");
    }
}

// ---- the backup ----

/// A database of three migrations, of which the first was made and has rows, and a folder for backups.
struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
    backups: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let backups = folder.path().join("backups");
        fs::create_dir(&backups).unwrap();
        let place = Self {
            _folder: folder,
            path,
            backups,
        };
        place.open(&[FIRST]).unwrap();
        place
    }

    fn options(&self, list: &[&'static str]) -> Options {
        let numbered = (1..).zip(list);
        let migrations = Migrations::new(numbered.map(|(version, up)| Migration::new(version, "step", *up)));
        Options::new().migrations(migrations.backup_to(&self.backups))
    }

    fn open(&self, list: &[&'static str]) -> larder::Result<Store> {
        // The first one is made without a backup, which would be of an empty file.
        let options = self.options(list);
        if list.len() > 1 {
            return options.open(&self.path);
        }
        let first = Migration::new(1, "step", list[0]);
        Options::new().migrations(Migrations::new([first])).open(&self.path)
    }

    /// The only file among the backups.
    #[track_caller]
    fn only(&self) -> String {
        match &names_in(&self.backups)[..] {
            [name] => name.clone(),
            names => panic!("one backup, and nothing beside it: {names:?}"),
        }
    }

    /// What the backup has, opened by itself.
    fn ids_in(&self, backup: &str) -> Vec<i64> {
        let backup = Connection::open(self.backups.join(backup)).unwrap();
        let found: String = backup
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(found, "ok");
        let mut statement = backup.prepare("SELECT id FROM t ORDER BY id").unwrap();
        let ids = statement.query_map([], |row| row.get(0)).unwrap();
        ids.collect::<Result<_, _>>().unwrap()
    }
}

/// Whether a name is that of a backup before a version, with its time: 20261121T091912.523Z.
#[track_caller]
fn assert_is_backup(name: &str, before: &str) {
    let time = name.strip_prefix(&format!("app.db.before-{before}."));
    let form: Option<String> = time.map(|time| {
        let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
        time.chars().map(digit).collect()
    });
    assert_eq!(form.as_deref(), Some("00000000T000000.000Z"), "{name}");
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

const FIRST: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1), (2)";

#[test]
fn backup_is_made_before_first_pending_migration_only() {
    let place = Place::new();
    let list = [FIRST, "DELETE FROM t WHERE id = 1", "DELETE FROM t WHERE id = 2"];
    let store = place.open(&list).unwrap();
    assert_eq!(numbers(&store, "SELECT id FROM t"), [0; 0]);
    drop(store);
    let name = place.only();
    assert_is_backup(&name, "2");
    let mode = fs::metadata(place.backups.join(&name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(place.ids_in(&name), [1, 2]);
    let backup = Connection::open(place.backups.join(&name)).unwrap();
    let applied: String = backup
        .query_row("SELECT group_concat(version) FROM schema_migrations", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(applied, "1");
    drop(backup);
    fs::remove_file(place.backups.join(&name)).unwrap();
    place.open(&list).unwrap().migrate().unwrap();
    assert_eq!(names_in(&place.backups), [""; 0], "nothing was pending");
}

#[test]
fn report_has_the_path_of_the_backup() {
    let place = Place::new();
    let migrations = set([FIRST, "DELETE FROM t WHERE id = 1", "DELETE FROM t"]).backup_to(&place.backups);
    let options = Options::new().migrations(migrations);
    fs::remove_file(&place.path).unwrap();
    let store = options.open(&place.path).unwrap();
    assert_eq!(
        store.migrate_to(1).unwrap().backup,
        None,
        "of a database with nothing in it"
    );
    assert_eq!(names_in(&place.backups), [""; 0]);
    let backup = store.migrate().unwrap().backup.unwrap();
    assert_eq!(backup.parent().unwrap(), place.backups.canonicalize().unwrap());
    assert_eq!(name_of(&backup), place.only());
    assert_is_backup(name_of(&backup), "2");
    assert_eq!(store.migrate().unwrap().backup, None);
}

/// The first step made none, so the second did, of what the first had made.
#[test]
fn new_database_is_migrated_without_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let backups = folder.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let migrations = set([FIRST, "DELETE FROM t WHERE id = 1", "DELETE FROM t"]).backup_to(&backups);
    let store = Options::new().migrations(migrations).open(folder.path().join("app.db"));
    let report = store.unwrap().migrate().unwrap();
    assert_eq!(report.steps.len(), 3);
    assert_eq!((report.backup, names_in(&backups)), (None, vec![]));
}

/// As its file has it.
#[test]
fn backup_name_keeps_zeros_of_the_version() {
    let place = Place::new();
    let files = [("001_step.sql", FIRST), ("002_more.sql", "DELETE FROM t")];
    let migrations = Migrations::files(files).unwrap().backup_to(&place.backups);
    Options::new().migrations(migrations).open(&place.path).unwrap();
    assert_is_backup(&place.only(), "002");
}

#[test]
fn backup_before_migration_opens_as_old_database() {
    let place = Place::new();
    place.open(&[FIRST, "DROP TABLE t"]).unwrap();
    let restored = place.backups.join(place.only());
    let options = Options::new().migrations(set([FIRST, "INSERT INTO t VALUES (3)"]));
    let store = options.open(&restored).unwrap();
    assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2]));
    store.migrate().unwrap();
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3]);
}

#[test]
fn failed_backup_stops_the_migration() {
    let place = Place::new();
    fs::write(place.backups.join("a file"), "").unwrap();
    symlink("loop", place.backups.join("loop")).unwrap();
    for (folder, says) in [
        (place.backups.join("missing"), "No such file"),
        (place.backups.join("a file"), "Not a directory"),
        (place.backups.join("loop"), "Too many levels of symbolic links"),
    ] {
        let migrations = set([FIRST, "DELETE FROM t"]).backup_to(&folder);
        let store = Options::new().migrations(migrations.clone()).open(&place.path);
        let before = contents(store.as_ref().unwrap());
        drop(store);
        let names = names_in(&place.backups);
        let error = Options::new()
            .migrations(migrations.at_open(true))
            .open(&place.path)
            .unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotStarted);
        assert_has(
            &error.to_string(),
            &[
                "nothing was migrated",
                folder.to_str().unwrap(),
                "app.db.before-2 failed",
                says,
            ],
        );
        let error = migration_error(Err::<(), _>(error));
        assert!(
            matches!(&error, MigrationError::Backup { source: Some(_), .. }),
            "{error:?}"
        );
        assert_eq!(names_in(&place.backups), names, "no half of one is left");
        let store = Store::open(&place.path).unwrap();
        assert_eq!(contents(&store), before);
    }
}

/// The database is as the backup has it. Whoever tried again and again filled the disk with them.
#[test]
fn backup_is_removed_if_first_migration_rolls_back() {
    let place = Place::new();
    let not_strict = "DELETE FROM t; CREATE TABLE loose(x INTEGER)";
    let dangling = "CREATE TABLE c(id INTEGER REFERENCES t(id)) STRICT; INSERT INTO c VALUES (77)";
    let record = "DELETE FROM t; DELETE FROM schema_migrations";
    for sql in ["DELETE FROM t; SELEC 1", not_strict, dangling, record] {
        let migrations = set([FIRST, sql]).backup_to(&place.backups);
        let options = Options::new().require_strict(true).migrations(migrations);
        let store = options.open(&place.path).unwrap();
        for _ in 0..2 {
            rolled_back(store.migrate());
            assert_eq!(names_in(&place.backups), [""; 0], "{sql}");
        }
    }
    place.open(&[FIRST, "DELETE FROM t"]).unwrap();
    let name = place.only();
    assert_is_backup(&name, "2");
    assert_eq!(place.ids_in(&name), [1, 2]);
}

#[test]
fn backup_is_kept_if_later_migration_rolls_back() {
    let place = Place::new();
    for _ in 0..3 {
        rolled_back(place.open(&[FIRST, "DELETE FROM t WHERE id = 1", "SELEC 1"]));
        let name = place.only();
        assert_is_backup(&name, "2");
        assert_eq!(place.ids_in(&name), [1, 2]);
    }
}

#[test]
fn backup_is_kept_if_first_migration_partly_applied() {
    let place = Place::new();
    let open = |sql| {
        let list = [
            Migration::new(1, "step", FIRST),
            Migration::new(2, "bare", sql).without_transaction(),
        ];
        Options::new()
            .migrations(Migrations::new(list).backup_to(&place.backups))
            .open(&place.path)
    };
    let error = open("SELEC 1").unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_eq!(names_in(&place.backups), [""; 0]);
    let error = open("DELETE FROM t WHERE id = 1; SELEC 1").unwrap_err();
    assert_eq!(error.outcome(), Outcome::Partial);
    let name = place.only();
    assert_is_backup(&name, "2");
    assert_eq!(place.ids_in(&name), [1, 2]);
}

#[test]
fn backup_before_migration_has_virtual_tables() {
    for access in [Access::Shared, Access::Exclusive] {
        let folder = tempfile::tempdir().unwrap();
        let migrations = set([RICH, CHANGES]).backup_to(folder.path());
        let options = Options::new().access(access).migrations(migrations);
        let store = options.open(folder.path().join("app.db")).unwrap();
        store.migrate_to(1).unwrap();
        let backup = store.migrate().unwrap().backup.unwrap();
        assert_is_backup(name_of(&backup), "2");
        let restored = Options::new().migrations(set([RICH, CHANGES])).open(&backup);
        let restored = restored.unwrap();
        let found = texts(&restored, "SELECT word FROM words WHERE words MATCH 'bee'");
        assert_eq!(found, ["bee"]);
        assert_eq!(
            texts(&restored, "SELECT stored FROM numbered ORDER BY id"),
            ["ANT", "BEE"]
        );
        assert_eq!(
            numbers(&restored, "SELECT id FROM boxes WHERE r BETWEEN 2.5 AND 3.5"),
            [1]
        );
        restored.migrate().unwrap();
    }
}

#[test]
fn dry_run_makes_no_backup() {
    let place = Place::new();
    let store = place
        .options(&[FIRST, "DELETE FROM t"])
        .migrations(set([FIRST, "DELETE FROM t"]).backup_to(&place.backups));
    let store = store.open(&place.path).unwrap();
    for on in BOTH {
        assert_eq!(store.migrate_dry_run(on).unwrap().backup, None);
    }
    assert_eq!(names_in(&place.backups), [""; 0]);
}

#[test]
fn backup_before_migration_includes_the_log() {
    let place = Place::new();
    let migrations = set([FIRST, "DELETE FROM t"]).backup_to(&place.backups);
    let store = Options::new()
        .readers(2)
        .migrations(migrations)
        .open(&place.path)
        .unwrap();
    store.write(|tx| tx.execute("INSERT INTO t VALUES (3)", [])).unwrap();
    store
        .read(|tx| {
            assert_eq!(
                tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?,
                3
            );
            store.write(|tx| tx.execute("INSERT INTO t VALUES (4)", []))?;
            store.migrate()
        })
        .unwrap();
    assert_eq!(place.ids_in(&place.only()), [1, 2, 3, 4]);
}

fn lossy(place: &Place) -> Store {
    let list = [
        Migration::new(1, "t", FIRST).down("DROP TABLE t"),
        Migration::new(2, "lossy", "DELETE FROM t WHERE id = 1").down("-- the rows are gone\nSELECT 1"),
    ];
    let migrations = Migrations::new(list).backup_to(&place.backups).at_open(false);
    let store = Options::new().migrations(migrations).open(&place.path).unwrap();
    store.migrate().unwrap();
    assert_eq!(place.ids_in(&place.only()), [1, 2]);
    store
}

#[test]
fn undo_makes_its_own_backup() {
    let place = Place::new();
    let store = lossy(&place);
    let first = place.only();
    let backup = store.migrate_to(1).unwrap().backup.unwrap();
    assert_is_backup(name_of(&backup), "down-2");
    assert_eq!(names_in(&place.backups), [&first, name_of(&backup)]);
    assert_eq!(place.ids_in(name_of(&backup)), [2]);
    assert_eq!(place.ids_in(&first), [1, 2]);
}

#[test]
fn undo_that_rolls_back_leaves_no_backup() {
    let place = Place::new();
    let list = [Migration::new(1, "step", FIRST).down("DELETE FROM t; SELEC 1")];
    let migrations = Migrations::new(list).backup_to(&place.backups);
    let store = Options::new().migrations(migrations).open(&place.path).unwrap();
    rolled_back(store.migrate_to(0));
    assert_eq!(names_in(&place.backups), [""; 0]);
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2]);
}

/// An operator sees that version 2 has lost rows, goes back to version 1, and restarts the service, which applies it
/// again. The one backup that had the rows was replaced by one without them.
#[test]
fn undo_and_redo_keep_the_first_backup() {
    let place = Place::new();
    let store = lossy(&place);
    let first = place.only();
    let mut made = [vec![first.clone()], vec![]];
    for _ in 0..4 {
        let down = store.migrate_to(1).unwrap().backup.unwrap();
        let up = store.migrate().unwrap().backup.unwrap();
        made[0].push(name_of(&up).to_owned());
        made[1].push(name_of(&down).to_owned());
        // Of each version the first and the two newest.
        let mut kept = Vec::new();
        for made in &made {
            let newest = made.len().saturating_sub(2).max(1);
            kept.push(made[0].clone());
            kept.extend_from_slice(&made[newest..]);
        }
        kept.sort();
        assert_eq!(names_in(&place.backups), kept);
        assert_eq!(place.ids_in(&first), [1, 2]);
    }
}

/// Those between the first and the newest were removed before the migration was made: its failure took the newest that
/// had served along.
#[test]
fn rolled_back_attempt_removes_only_its_own_backup() {
    let place = Place::new();
    let store = lossy(&place);
    store.migrate_to(1).unwrap();
    store.migrate().unwrap();
    store.migrate_to(1).unwrap();
    let names = names_in(&place.backups);
    assert_eq!(names.len(), 4, "{names:?}");
    store.close().unwrap();
    rolled_back(place.open(&[FIRST, "SELEC 1"]));
    assert_eq!(names_in(&place.backups), names);
}

/// Six tenants had one folder, and three of them no backup.
#[test]
fn tenants_with_one_folder_keep_their_backups() {
    let place = Place::new();
    for round in 1..=3 {
        for tenant in 0..6 {
            let folder = place.backups.with_file_name(format!("tenant {tenant}"));
            fs::create_dir_all(&folder).unwrap();
            let first = format!("CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES ({tenant})");
            let mut list = vec![Migration::new(1, "step", first)];
            list.push(Migration::new(2, "step", "INSERT INTO t VALUES (100)").down("DELETE FROM t WHERE id = 100"));
            let set = Migrations::new(list).backup_to(&place.backups).at_open(false);
            let store = Options::new().migrations(set).open(folder.join("app.db")).unwrap();
            store.migrate_to(1).unwrap();
            let backup = store.migrate().unwrap().backup.unwrap();
            assert_eq!(place.ids_in(name_of(&backup)), [tenant]);
        }
        let ups = names_in(&place.backups);
        let ups = ups.iter().filter(|name| name.contains(".before-2."));
        let mut tenants: Vec<_> = ups.map(|name| place.ids_in(name)[0]).collect();
        tenants.sort();
        let all: Vec<i64> = (0..6).flat_map(|tenant| vec![tenant; round]).collect();
        assert_eq!(tenants, all);
    }
}

/// Two of them took the places of the newest, and the one that was just made was removed.
#[test]
fn backup_with_later_time_displaces_none() {
    let place = Place::new();
    let later = [
        "app.db.before-2.20990101T000000.000Z",
        "app.db.before-2.20990101T000000.001Z",
    ];
    let store = lossy(&place);
    for name in later {
        fs::write(place.backups.join(name), "by name").unwrap();
    }
    for _ in 0..3 {
        store.migrate_to(1).unwrap();
        let made = store.migrate().unwrap().backup.unwrap();
        assert_eq!(place.ids_in(name_of(&made)), [2]);
    }
    let names = names_in(&place.backups);
    assert!(
        later.iter().all(|name| names.iter().any(|other| other == name)),
        "{names:?}"
    );
    // The first and the two newest of each way.
    assert_eq!(names.len(), later.len() + 3 + 3, "{names:?}");
}

/// "/backups" is often a link to where the disk is mounted. SQLite refused it.
#[test]
fn backup_folder_may_be_a_symbolic_link() {
    let place = Place::new();
    let link = place.backups.with_file_name("link");
    symlink(&place.backups, &link).unwrap();
    let migrations = set([FIRST, "DELETE FROM t"]).backup_to(&link).at_open(true);
    Options::new().migrations(migrations).open(&place.path).unwrap();
    let name = place.only();
    assert_is_backup(&name, "2");
    assert_eq!(place.ids_in(&name), [1, 2]);
}
