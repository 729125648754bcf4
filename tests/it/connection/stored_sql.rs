//! Schemas that were made elsewhere: with double-quoted strings, and with functions that are not marked as innocuous.

use std::path::PathBuf;

use larder::rusqlite::Connection;
use larder::rusqlite::config::DbConfig;
use larder::rusqlite::functions::FunctionFlags;
use larder::{Error, Finding, Migration, Migrations, Options, Result, Role, Severity, Store, WriteTx};
use tempfile::{TempDir, tempdir};

use crate::support::log;

/// Views, triggers, constraints, columns and indexes with strings in double quotes.
const LEGACY: &str = "
    CREATE TABLE \"orders\"(\"id\" INTEGER PRIMARY KEY, state TEXT DEFAULT \"new\" CHECK (state <> \"gone\"),
        label TEXT AS (coalesce(state, \"none\")), full TEXT AS (state || \"!\") STORED);
    CREATE TABLE log(\"line\");
    CREATE INDEX by_state ON orders(state) WHERE state <> \"done\";
    CREATE INDEX by_text ON orders(state || \"?\");
    CREATE VIEW open_orders AS SELECT \"id\", \"open\" AS kind FROM \"orders\" WHERE state <> \"done\";
    CREATE TRIGGER logged AFTER INSERT ON orders BEGIN INSERT INTO log VALUES (\"made\"); END;
    CREATE VIEW plain AS SELECT \"orders\".\"id\", \"line\" FROM \"orders\", \"log\";
    INSERT INTO orders(state) VALUES ('new'), ('done');";

/// A database that another program made, which accepts double-quoted strings as SQLite mostly does.
fn made_elsewhere(sql: &str) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, true).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, true).unwrap();
    define(&conn, FunctionFlags::empty()).unwrap();
    conn.execute_batch(sql).unwrap();
    (folder, path)
}

fn of_topic(store: &Store, topic: &str) -> Vec<Finding> {
    let all = store.advice();
    assert!(all.iter().all(|finding| finding.topic != "schema_not_read"), "{all:#?}");
    all.into_iter().filter(|finding| finding.topic == topic).collect()
}

fn kinds(store: &Store) -> Result<Vec<String>> {
    store.read(|tx| tx.query_map("SELECT kind FROM open_orders", [], |row| row.get(0)))
}

#[track_caller]
fn assert_sound(store: &Store) {
    let report = store.check().full().run().unwrap();
    assert!(report.is_ok(), "{report}");
}

// ---- double-quoted strings ----

#[test]
fn opening_and_advice_name_double_quoted_strings() {
    log::collect();
    let (_folder, path) = made_elsewhere(LEGACY);
    let store = Store::open(&path).unwrap();
    let here = path.canonicalize().unwrap().display().to_string();
    let told = log::events(|event| event.field("objects").is_some() && event.mentions(&here));
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].target, "larder::open");
    let objects = told[0].expect("objects");
    for name in [
        "the table orders",
        "the index by_state",
        "the index by_text",
        "the view open_orders",
    ] {
        assert!(objects.contains(name), "{objects}");
    }
    assert!(objects.ends_with("the trigger logged"), "{objects}");
    let found = of_topic(&store, "double_quoted_string");
    let told: Vec<_> = found
        .iter()
        .map(|finding| (finding.severity, finding.message.as_str()))
        .collect();
    assert_eq!(found.len(), 2, "{told:#?}");
    assert_eq!(found[0].severity, Severity::Critical);
    assert!(
        found[0]
            .message
            .starts_with("the view open_orders and the trigger logged cannot"),
        "{told:#?}"
    );
    assert_eq!(found[1].severity, Severity::Note);
    assert!(
        found[1]
            .message
            .starts_with("the table orders, the index by_state and the index by_text"),
        "{told:#?}"
    );
}

#[test]
fn sound_schema_is_opened_without_a_warning() {
    log::collect();
    let (_folder, path) = made_elsewhere("CREATE TABLE \"t\"(\"a\"); CREATE VIEW \"v\" AS SELECT \"a\" FROM \"t\"");
    let store = Store::open(&path).unwrap();
    let here = path.canonicalize().unwrap().display().to_string();
    assert_eq!(
        log::events(|event| event.field("objects").is_some() && event.mentions(&here)).len(),
        0
    );
    assert_eq!(of_topic(&store, "double_quoted_string"), []);
}

#[test]
fn double_quoted_string_of_a_table_is_no_warning() {
    log::collect();
    let (_folder, path) = made_elsewhere("CREATE TABLE t(a TEXT DEFAULT \"new\" CHECK (a <> \"gone\"))");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute("INSERT INTO t DEFAULT VALUES", []))
        .unwrap();
    let here = path.canonicalize().unwrap().display().to_string();
    let told = log::events(|event| event.field("objects").is_some() && event.mentions(&here));
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (told[0].level, told[0].expect("objects")),
        (tracing::Level::INFO, "the table t")
    );
}

#[test]
fn error_of_double_quoted_string_names_the_option() {
    let (_folder, path) = made_elsewhere(LEGACY);
    let store = Store::open(&path).unwrap();
    let read = kinds(&store).unwrap_err();
    assert!(read.to_string().contains("Options::double_quoted_strings"), "{read}");
    let write = store
        .write(|tx| tx.execute("INSERT INTO orders(state) VALUES ('new')", []))
        .unwrap_err();
    assert!(write.to_string().contains("Options::double_quoted_strings"), "{write}");
}

/// `VACUUM` failed with "no such column: gone".
#[test]
fn vacuum_and_copies_accept_double_quoted_strings() {
    let (folder, path) = made_elsewhere(LEGACY);
    let store = Store::open(&path).unwrap();
    for _ in 0..2 {
        store.vacuum().run().unwrap();
    }
    assert_sound(&store);
    let (plain, compact) = (folder.path().join("plain"), folder.path().join("compact"));
    store.backup(&plain).run().unwrap();
    store.backup_compact(&compact).run().unwrap();
    for (backup, name) in [(plain, "a.db"), (compact, "b.db")] {
        let restored = folder.path().join(name);
        Store::restore(&backup, &restored).unwrap();
        let restored = Options::new().double_quoted_strings(true).open(&restored).unwrap();
        assert_eq!(kinds(&restored).unwrap(), ["open"]);
        restored.vacuum().run().unwrap();
    }
    // The setting is back: a misspelt column is an error.
    for result in [
        store.write(|tx| tx.query_row("SELECT \"nothing\" FROM log", [], |_| Ok(()))),
        store.write(|tx| tx.execute_batch("CREATE INDEX i ON log(\"nothing\")")),
    ] {
        assert!(result.unwrap_err().to_string().contains("no such column"));
    }
}

/// With an `on_connect`, the next closure with the connection in hand had it replaced, as if it had replaced a function.
#[test]
fn exclusive_job_keeps_the_writing_connection() {
    let fill = Migration::new(1, "fill", "INSERT INTO t VALUES (1)").down("DELETE FROM t");
    let store = Options::new()
        .on_connect(|conn, _| Ok(conn.execute_batch("CREATE TEMP TABLE kept(a)")?))
        .migrations(Migrations::new([fill]).at_open(false))
        .open_temp()
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(a); INSERT INTO temp.kept VALUES (1)"))
        .unwrap();
    let kept = || {
        let count = |tx: &WriteTx<'_>| {
            let conn: &Connection = tx;
            Ok(conn.query_row("SELECT count(*) FROM temp.kept", [], |row| row.get::<_, i64>(0))?)
        };
        store.write(count).unwrap()
    };
    for _ in 0..2 {
        store.vacuum().run().unwrap();
        assert_eq!([kept(), kept()], [1, 1]);
        store.migrate().unwrap();
        assert_eq!([kept(), kept()], [1, 1]);
        store.migrate_to(0).unwrap();
        assert_eq!([kept(), kept()], [1, 1]);
    }
}

#[test]
fn alter_table_accepts_double_quoted_strings() {
    let (_folder, path) = made_elsewhere(LEGACY);
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute("ALTER TABLE log RENAME TO journal", []))
        .unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "-- first
                 ALTER TABLE journal ADD COLUMN at INTEGER; INSERT INTO journal VALUES ('x', 1);
                 /* then */ alter table journal RENAME COLUMN at TO made_at; DROP VIEW plain;
                 DROP TRIGGER logged; ALTER TABLE journal DROP COLUMN line;",
            )
        })
        .unwrap();
    let rows = store.read(|tx| tx.query_map("SELECT made_at FROM journal", [], |row| row.get::<_, Option<i64>>(0)));
    assert_eq!(rows.unwrap().last(), Some(&Some(1)));
    let error = store
        .write(|tx| tx.execute_batch("SELECT \"nothing\" FROM journal"))
        .unwrap_err();
    assert!(error.to_string().contains("no such column"), "{error}");
}

#[test]
fn option_accepts_double_quoted_strings_everywhere() {
    let (folder, path) = made_elsewhere(LEGACY);
    let open = |path: &PathBuf| {
        let options = Options::new().double_quoted_strings(true).readers(1);
        options.open(path).unwrap()
    };
    let store = open(&path);
    assert_eq!(of_topic(&store, "double_quoted_string"), []);
    assert_eq!(kinds(&store).unwrap(), ["open"]);
    store
        .write(|tx| tx.execute("INSERT INTO orders(state) VALUES ('new')", []))
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE VIEW other AS SELECT \"a string\" AS s"))
        .unwrap();
    let lines = "SELECT line FROM log";
    let logged = store.read(|tx| tx.query_map(lines, [], |row| row.get::<_, String>(0)));
    assert_eq!(logged.unwrap(), ["made"; 3]);
    store.vacuum().run().unwrap();
    assert_sound(&store);
    let backup = folder.path().join("backup");
    store.backup(&backup).run().unwrap();
    assert_eq!(kinds(&store).unwrap(), ["open"; 2]);
    store.close().unwrap();
    let store = open(&path);
    let other: String = store
        .read(|tx| tx.query_row("SELECT s FROM other", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(other, "a string");
}

// ---- functions in the schema ----

/// The function `shout`, as an extension may define it.
fn define(conn: &Connection, more: FunctionFlags) -> larder::rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | more;
    conn.create_scalar_function("shout", 1, flags, |context| {
        Ok(context.get::<Option<String>>(0)?.map(|text| text.to_uppercase()))
    })
}

const WITH_FUNCTION: &str = "
    CREATE TABLE words(word TEXT CHECK (shout(word) <> 'NO'), loud TEXT AS (shout(word)), stored TEXT AS (shout(word)) STORED);
    CREATE INDEX by_loud ON words(shout(word)) WHERE shout(word) <> 'X';
    CREATE TABLE log(line);
    CREATE TRIGGER logged AFTER INSERT ON log BEGIN INSERT INTO words(word) VALUES (shout(new.line)); END;
    CREATE VIEW loud AS SELECT shout(word) AS word FROM words;
    INSERT INTO words(word) VALUES ('ant');";

fn with_function(flags: FunctionFlags) -> Options {
    Options::new()
        .readers(1)
        .on_connect(move |conn, _| Ok(define(conn, flags)?))
}

fn words(store: &Store) -> Result<Vec<String>> {
    store.read(|tx| tx.query_map("SELECT word FROM loud ORDER BY word", [], |row| row.get(0)))
}

fn log_line(store: &Store) -> Result<usize> {
    store.write(|tx| tx.execute("INSERT INTO log VALUES ('bee')", []))
}

#[track_caller]
fn assert_untrusted(result: Result<impl std::fmt::Debug>) {
    let told = result.unwrap_err().to_string();
    for text in ["unsafe use of shout()", "Options::trusted_schema", "SQLITE_INNOCUOUS"] {
        assert!(told.contains(text), "{told}");
    }
}

#[test]
fn unsafe_function_is_explained_and_found_by_advice() {
    let (folder, path) = made_elsewhere(WITH_FUNCTION);
    let store = with_function(FunctionFlags::empty()).open(&path).unwrap();
    assert_untrusted(words(&store));
    assert_untrusted(log_line(&store));
    assert_untrusted(store.write(|tx| tx.execute("INSERT INTO words(word) VALUES ('x')", [])));
    assert_untrusted(store.write(|tx| tx.execute("UPDATE words SET word = 'x'", [])));
    assert_untrusted(store.vacuum().run());
    assert_untrusted(store.backup(folder.path().join("backup")).run());
    assert_untrusted(store.backup_compact(folder.path().join("backup")).run());
    let found = of_topic(&store, "unsafe_function");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].severity, Severity::Critical);
    let message = &found[0].message;
    for name in [
        "the trigger logged",
        "the view loud",
        "the table words",
        "the index by_loud",
        "shout()",
    ] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn trusted_schema_lets_every_part_work() {
    let (folder, path) = made_elsewhere(WITH_FUNCTION);
    let options = || with_function(FunctionFlags::empty()).trusted_schema(true);
    let store = options().open(&path).unwrap();
    assert_eq!(of_topic(&store, "unsafe_function"), []);
    log_line(&store).unwrap();
    assert_eq!(words(&store).unwrap(), ["ANT", "BEE"]);
    store.vacuum().run().unwrap();
    assert_sound(&store);
    let (plain, compact) = (folder.path().join("plain"), folder.path().join("compact"));
    store.backup(&plain).checksum(true).run().unwrap();
    store.backup_compact(&compact).checksum(true).run().unwrap();
    let restored = folder.path().join("restored.db");
    options().restore(&compact, &restored).unwrap();
    let restored = options().open(&restored).unwrap();
    assert_eq!(words(&restored).unwrap(), ["ANT", "BEE"]);
}

#[test]
fn innocuous_function_needs_no_trust() {
    let (folder, path) = made_elsewhere(WITH_FUNCTION);
    let store = with_function(FunctionFlags::SQLITE_INNOCUOUS).open(&path).unwrap();
    assert_eq!(of_topic(&store, "unsafe_function"), []);
    log_line(&store).unwrap();
    assert_eq!(words(&store).unwrap(), ["ANT", "BEE"]);
    store.vacuum().run().unwrap();
    assert_sound(&store);
    store.backup(folder.path().join("backup")).run().unwrap();
}

#[test]
fn direct_function_is_refused_in_trusted_schema() {
    // SQLite does not even load a table that calls such a function.
    let (_folder, path) = made_elsewhere(WITH_FUNCTION);
    let options = || with_function(FunctionFlags::SQLITE_DIRECTONLY).trusted_schema(true);
    let error = options().open(&path).map(drop);
    assert!(matches!(error, Err(Error::Open { .. })), "{error:?}");
    assert_untrusted(error);
    let (_folder, path) = made_elsewhere("CREATE VIEW loud AS SELECT shout('ant') AS word");
    let store = options().open(&path).unwrap();
    assert_untrusted(words(&store));
    assert_eq!(of_topic(&store, "unsafe_function").len(), 1);
}

/// Readers load the schema again after a change. SQLite then calls a table with an unsafe function malformed.
#[test]
fn unsafe_schema_is_not_reported_as_damage() {
    let (_folder, path) = made_elsewhere(WITH_FUNCTION);
    let store = with_function(FunctionFlags::empty()).open(&path).unwrap();
    let count =
        |store: &Store| store.read(|tx| tx.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0)));
    assert_eq!(count(&store).unwrap(), 0);
    store.write(|tx| tx.execute_batch("CREATE TABLE later(a)")).unwrap();
    assert_untrusted(count(&store));
    let advice = store.advice();
    assert!(
        advice
            .iter()
            .any(|finding| finding.message.contains("Options::trusted_schema")),
        "{advice:#?}"
    );
    assert!(!count(&store).unwrap_err().to_string().contains("restore"), "no damage");
    store.close().unwrap();
    let store = with_function(FunctionFlags::empty())
        .trusted_schema(true)
        .open(&path)
        .unwrap();
    assert_eq!(count(&store).unwrap(), 0);
    store.write(|tx| tx.execute_batch("CREATE TABLE last(a)")).unwrap();
    assert_eq!(words(&store).unwrap(), ["ANT"]);
}

#[test]
fn unsafe_virtual_table_in_view_is_explained() {
    let (_folder, path) = made_elsewhere(
        "CREATE TABLE t(a); CREATE VIEW columns AS SELECT name FROM pragma_table_info('t');
         CREATE VIEW pages AS SELECT count(*) AS n FROM dbstat",
    );
    fn columns(store: &Store) -> Result<String> {
        store.read(|tx| tx.query_row("SELECT name FROM columns", [], |row| row.get(0)))
    }
    let store = Store::open(&path).unwrap();
    let told = columns(&store).unwrap_err().to_string();
    assert!(
        told.contains("unsafe use of virtual table") && told.contains("Options::trusted_schema"),
        "{told}"
    );
    let found = of_topic(&store, "unsafe_function");
    assert!(
        found[0].message.contains("the view columns and the view pages"),
        "{found:#?}"
    );
    store.close().unwrap();
    let store = Options::new().trusted_schema(true).open(&path).unwrap();
    assert_eq!(columns(&store).unwrap(), "a");
    assert!(
        of_topic(&store, "unsafe_function")[0]
            .message
            .contains("the view pages:")
    );
}

/// It was set back, in silence.
#[test]
fn trusted_schema_of_on_connect_is_kept() {
    let (_folder, path) = made_elsewhere(WITH_FUNCTION);
    for by_pragma in [true, false] {
        let options = Options::new().readers(1).on_connect(move |conn, role| {
            define(conn, FunctionFlags::empty())?;
            if role == Role::Reader && by_pragma {
                conn.execute_batch("PRAGMA trusted_schema = ON")?;
            } else if role == Role::Reader {
                conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, true)?;
            }
            Ok(())
        });
        let store = options.open(&path).unwrap();
        assert_eq!(words(&store).unwrap(), ["ANT"]);
        assert_untrusted(log_line(&store));
        // A closure does not decide that.
        let set = store.read(|tx| {
            Ok(tx
                .set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)
                .map(drop)?)
        });
        set.unwrap();
        assert_eq!(words(&store).unwrap(), ["ANT"]);
        let error = store
            .write(|tx| tx.execute_batch("PRAGMA trusted_schema = ON"))
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        store.close().unwrap();
    }
    let distrusts = |conn: &Connection, _| Ok(conn.execute_batch("PRAGMA trusted_schema = OFF")?);
    let store = Options::new()
        .trusted_schema(true)
        .on_connect(distrusts)
        .open(&path)
        .unwrap();
    let value = |tx: &larder::WriteTx<'_>| tx.query_row("PRAGMA trusted_schema", [], |row| row.get::<_, i64>(0));
    assert_eq!(store.write(value).unwrap(), 0);
}
