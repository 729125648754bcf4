//! Databases of known programs, made without larder: every feature of the store works on them and keeps what they hold.
//!
//! Each program has a file in the folder beside this one: how its database is made, writes, reads and migrations. A twin
//! of the database gets the same writes and migrations by rusqlite alone, and has the same rows after each step.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use larder::rusqlite::config::DbConfig;
use larder::rusqlite::functions::{Aggregate, Context, FunctionFlags};
use larder::rusqlite::types::ValueRef;
use larder::rusqlite::{self, Connection};
use larder::{Adopt, Migration, Migrations, Options, Result, Role, Severity, Store};
use tempfile::TempDir;

/// What is only in the database that larder has opened: its record, and statistics of the planner.
const NOT_OF_PROGRAM: &[&str] = &["larder_migrations", "schema_migrations", "sqlite_stat1", "sqlite_stat4"];

/// Settings of a file that stay as they were, but for the journal mode.
const OF_FILE: &[&str] = &["page_size", "auto_vacuum", "encoding", "application_id", "user_version"];

/// An FTS4 table that keeps no text. SQLite can neither read it as a whole nor check it.
const WITHOUT_TEXT: &str = "hidden4";

/// What SQLite says to its check.
const NOT_CHECKED: &str = "unable to validate the inverted index for FTS4 table main.hidden4: SQL logic error";

const NONE: [&str; 0] = [];

struct Program {
    sql: &'static str,
    /// Functions, collations and temporary objects that the program brings.
    connect: fn(&Connection, Role) -> Result<()>,
    adopt: Adopt,
    /// Versions that the record of the program's own migrations has.
    applied: &'static [u64],
}

impl Program {
    fn new(sql: &'static str) -> Self {
        Self {
            sql,
            connect: |_, _| Ok(()),
            adopt: Adopt::Nothing,
            applied: &[],
        }
    }

    /// The texts of the sections of this name.
    fn sections(&self, name: &str) -> Vec<&'static str> {
        let sections = self.sql.split("-- [").skip(1);
        let sections = sections.map(|section| section.split_once("]\n").unwrap());
        sections.filter(|(of, _)| *of == name).map(|(_, text)| text).collect()
    }

    fn section(&self, name: &str) -> &'static str {
        let sections = self.sections(name);
        assert_eq!(sections.len(), 1, "sections {name}");
        sections[0]
    }

    /// The migrations of the file, after those that the program has applied itself: to run one of these fails.
    fn migrations(&self) -> Migrations {
        let again = |version: &u64| Migration::new(*version, "applied", "SELECT this_runs_once_more()");
        let applied: Vec<_> = self.applied.iter().map(again).collect();
        let first = self.applied.last().map_or(1, |last| last + 1);
        let new = (first..).zip(self.sections("migrate"));
        let new = new.map(|(version, sql)| Migration::new(version, "new", sql));
        Migrations::new(applied.into_iter().chain(new)).adopt(self.adopt.clone())
    }

    fn options(&self) -> Options {
        Options::new().readers(2).on_connect(self.connect)
    }

    fn open_plain(&self, path: &Path) -> Connection {
        let conn = Connection::open(path).unwrap();
        (self.connect)(&conn, Role::Writer).unwrap();
        conn
    }

    /// Makes the database as the program does. In WAL mode a log is left beside the file, as after a crash.
    fn make(&self, path: &Path) {
        let conn = Connection::open(path).unwrap();
        (self.connect)(&conn, Role::Reader).unwrap();
        conn.execute_batch(self.section("made")).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        conn.close().unwrap();
    }
}

/// A database, and its twin that larder never opens.
struct Case {
    program: Program,
    folder: TempDir,
    path: PathBuf,
    twin: Connection,
}

impl Case {
    fn new(program: Program) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, twin) = (folder.path().join("app.db"), folder.path().join("twin.db"));
        program.make(&path);
        for end in ["", "-wal"] {
            if let Ok(bytes) = fs::read(with_end(&path, end)) {
                fs::write(with_end(&twin, end), bytes).unwrap();
            }
        }
        let twin = program.open_plain(&twin);
        assert_eq!(problems(&twin), NONE);
        Self {
            program,
            folder,
            path,
            twin,
        }
    }

    /// The store has the rows of the twin, and gives the same answers.
    #[track_caller]
    fn compare(&self, step: &str, store: &Store) {
        let found = store.read(|tx| Ok(contents(tx))).unwrap();
        assert_same(step, &contents(&self.twin), &found);
        for query in statements(self.program.section("read")) {
            let wanted = rows(&self.twin, query);
            let found = store.read(|tx| Ok(rows(tx, query))).unwrap();
            assert_same(&format!("{step}: {query}"), &wanted, &found);
        }
    }

    #[track_caller]
    fn write(&self, store: &Store) {
        let sql = self.program.section("write");
        store.write(move |tx| tx.execute_batch(sql)).unwrap();
        in_transaction(&self.twin, sql);
        for query in statements(self.program.section("read")) {
            assert!(!rows(&self.twin, query).is_empty(), "nothing to read: {query}");
        }
    }

    /// Applies the migrations, and nothing at the next opening.
    fn migrate(&self) -> Store {
        let options = || self.program.options().migrations(self.program.migrations());
        let store = options().open(&self.path).unwrap();
        self.twin.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        for sql in self.program.sections("migrate") {
            in_transaction(&self.twin, sql);
            self.twin.execute_batch("PRAGMA legacy_alter_table = OFF").unwrap();
        }
        self.twin.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        store.close().unwrap();
        let store = options().open(&self.path).unwrap();
        assert!(store.migrate().unwrap().steps.is_empty());
        let applied = self.program.applied.len() + self.program.sections("migrate").len();
        assert_eq!(store.migrations().unwrap().applied.len(), applied);
        store
    }

    /// Makes a backup of each kind and restores it.
    fn back_up(&self, store: &Store) {
        for compact in [false, true] {
            let name = if compact { "compact" } else { "backup" };
            let (copy, to) = (
                self.folder.path().join(name),
                self.folder.path().join(format!("{name}.db")),
            );
            let backup = if compact {
                store.backup_compact(&copy)
            } else {
                store.backup(&copy)
            };
            let made = backup.checksum(true).run().unwrap();
            assert!(made.is_verified() && made.rows > 0, "{made}");
            assert!(made.check.as_ref().unwrap().is_ok(), "{made}");
            let conn = self.program.open_plain(&copy);
            assert_eq!(problems(&conn), NONE);
            assert_same(name, &contents(&self.twin), &contents(&conn));
            conn.close().unwrap();
            let restored = self.program.options().restore(&copy, &to).unwrap();
            assert_eq!(
                (restored.rows, Some(&restored.checksum)),
                (made.rows, made.checksum.as_ref())
            );
            assert!(restored.check.is_ok(), "{restored}");
            let restored = self.program.options().open(&to).unwrap();
            self.compare(&format!("restored from {name}"), &restored);
            restored.close().unwrap();
        }
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

fn in_transaction(conn: &Connection, sql: &str) {
    conn.execute_batch(&format!("BEGIN;{sql};COMMIT")).unwrap();
}

fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n").map(str::trim).filter(|sql| !sql.is_empty())
}

/// Every object of the schema, every row of every table and view, and the settings of the file.
fn contents(conn: &Connection) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for name in OF_FILE {
        let value = rows(conn, &format!("SELECT * FROM pragma_{name}"));
        all.extend(value.iter().map(|value| format!("{name}: {value}")));
    }
    let mut statement = conn
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema")
        .unwrap();
    let mut objects = statement.query([]).unwrap();
    while let Some(object) = objects.next().unwrap() {
        let (kind, name, table): (String, String, String) =
            (object.get(0).unwrap(), object.get(1).unwrap(), object.get(2).unwrap());
        if NOT_OF_PROGRAM.contains(&table.as_str()) {
            continue;
        }
        all.insert(format!(
            "{kind} {name} of {table}: {:?}",
            object.get::<_, Option<String>>(3).unwrap()
        ));
        if (kind == "table" || kind == "view") && name != WITHOUT_TEXT {
            let select = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
            // Equal rows are told apart by their number.
            let mut rows = rows(conn, &select);
            rows.sort();
            all.extend(rows.iter().enumerate().map(|(n, row)| format!("{name} {n}: {row}")));
        }
    }
    all
}

/// The rows of a query, with the type of each value.
fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        let values = (0..columns).map(|column| Ok(told(row.get_ref(column)?)));
        Ok(values.collect::<rusqlite::Result<Vec<_>>>()?.join(", "))
    };
    let rows = statement.query_map([], row).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

fn told(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => format!("{value:?} ({:x})", value.to_bits()),
        ValueRef::Text(text) => match str::from_utf8(text) {
            Ok(text) => format!("{text:?}"),
            Err(_) => format!("not UTF-8: \"{}\"", text.escape_ascii()),
        },
        ValueRef::Blob(bytes) => format!("x\"{}\"", bytes.escape_ascii()),
    }
}

#[track_caller]
fn assert_same<'a>(
    step: &str,
    wanted: impl IntoIterator<Item = &'a String>,
    found: impl IntoIterator<Item = &'a String>,
) {
    let (wanted, found): (Vec<_>, Vec<_>) = (wanted.into_iter().collect(), found.into_iter().collect());
    if wanted != found {
        let missing: Vec<_> = wanted.iter().filter(|line| !found.contains(line)).take(10).collect();
        let new: Vec<_> = found.iter().filter(|line| !wanted.contains(line)).take(10).collect();
        panic!("{step}: missing {missing:#?}, new {new:#?}");
    }
}

/// What SQLite's own check says of the database.
fn problems(conn: &Connection) -> Vec<String> {
    let said = rows(conn, "PRAGMA integrity_check");
    said.into_iter()
        .filter(|line| line != "\"ok\"" && !line.contains(NOT_CHECKED))
        .collect()
}

#[track_caller]
fn lives_with_larder(program: Program) {
    let case = Case::new(program);
    let store = case.program.options().open(&case.path).unwrap();
    case.compare("as it came", &store);
    case.write(&store);
    case.compare("after writes", &store);
    store.close().unwrap();

    let store = case.migrate();
    case.compare("after migrations", &store);
    let report = store.check().full().run().unwrap();
    assert!(report.is_ok(), "{report}");
    let advice = store.advice();
    let critical = advice.iter().find(|finding| finding.severity == Severity::Critical);
    assert_eq!(critical, None, "{advice:#?}");
    case.back_up(&store);

    store.vacuum().run().unwrap();
    case.compare("after a vacuum", &store);
    let closed = store.close().unwrap();
    assert!(closed.wal_truncated, "{closed:?}");
    let plain = case.program.open_plain(&case.path);
    assert_eq!(problems(&plain), NONE);
    assert_same("closed", &contents(&case.twin), &contents(&plain));
}

#[test]
fn firefox_places_keeps_its_rows() {
    lives_with_larder(Program {
        connect: firefox,
        ..Program::new(include_str!("known_schemas/firefox_places.sql"))
    });
}

#[test]
fn chromium_history_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/chromium_history.sql")));
}

#[test]
fn anki_collection_keeps_its_rows() {
    lives_with_larder(Program {
        connect: anki,
        ..Program::new(include_str!("known_schemas/anki_collection.sql"))
    });
}

#[test]
fn calibre_library_keeps_its_rows() {
    lives_with_larder(Program {
        connect: calibre,
        ..Program::new(include_str!("known_schemas/calibre_library.sql"))
    });
}

#[test]
fn home_assistant_recorder_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/home_assistant.sql")));
}

#[test]
fn map_tiles_keep_their_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/mbtiles.sql")));
}

#[test]
fn geopackage_keeps_its_rows() {
    lives_with_larder(Program {
        connect: geopackage,
        ..Program::new(include_str!("known_schemas/geopackage.sql"))
    });
}

#[test]
fn fossil_repository_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/fossil_repository.sql")));
}

#[test]
fn django_site_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/django_site.sql")));
}

#[test]
fn rails_application_keeps_its_rows() {
    lives_with_larder(Program {
        applied: &[20_240_101_000_000, 20_240_102_000_000],
        ..Program::new(include_str!("known_schemas/rails_app.sql"))
    });
}

#[test]
fn vaultwarden_keeps_its_rows() {
    lives_with_larder(Program {
        adopt: Adopt::Diesel,
        applied: &[20_180_114_171_611, 20_180_217_205_753],
        ..Program::new(include_str!("known_schemas/vaultwarden.sql"))
    });
}

#[test]
fn messenger_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/messenger.sql")));
}

#[test]
fn zotero_library_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/zotero_library.sql")));
}

#[test]
fn kodi_videos_keep_their_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/kodi_videos.sql")));
}

#[test]
fn core_data_store_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/core_data_store.sql")));
}

#[test]
fn mail_index_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/mail_index.sql")));
}

#[test]
fn file_sync_index_keeps_its_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/file_sync.sql")));
}

#[test]
fn dashboards_keep_their_rows() {
    lives_with_larder(Program::new(include_str!("known_schemas/dashboards.sql")));
}

// ---- what the programs bring ----

const HARMLESS: FunctionFlags = FunctionFlags::SQLITE_UTF8
    .union(FunctionFlags::SQLITE_DETERMINISTIC)
    .union(FunctionFlags::SQLITE_INNOCUOUS);

/// Firefox keeps its counts by temporary triggers of the connection that writes.
fn firefox(conn: &Connection, role: Role) -> Result<()> {
    if role == Role::Writer {
        conn.execute_batch(
            "CREATE TEMP TRIGGER moz_historyvisits_afterinsert AFTER INSERT ON moz_historyvisits BEGIN
                UPDATE moz_places SET visit_count = visit_count + 1, last_visit_date = max(ifnull(last_visit_date, 0),
                    new.visit_date) WHERE id = new.place_id;
             END;
             CREATE TEMP TRIGGER moz_historyvisits_afterdelete AFTER DELETE ON moz_historyvisits BEGIN
                UPDATE moz_places SET visit_count = visit_count - 1 WHERE id = old.place_id;
             END;
             CREATE TEMP TRIGGER moz_bookmarks_afterupdate AFTER UPDATE OF fk ON moz_bookmarks BEGIN
                UPDATE moz_places SET foreign_count = foreign_count + 1 WHERE id = new.fk;
                UPDATE moz_places SET foreign_count = foreign_count - 1 WHERE id = old.fk;
             END",
        )?;
    }
    Ok(())
}

fn anki(conn: &Connection, _: Role) -> Result<()> {
    conn.create_collation("unicase", |a, b| a.to_lowercase().cmp(&b.to_lowercase()))?;
    Ok(())
}

fn calibre(conn: &Connection, _: Role) -> Result<()> {
    conn.create_scalar_function("title_sort", 1, HARMLESS, |context| {
        let title: String = context.get(0)?;
        let article = ["The ", "A ", "An "]
            .iter()
            .find(|article| title.starts_with(**article));
        Ok(article.map_or(title.clone(), |article| {
            format!("{}, {}", &title[article.len()..], article.trim_end())
        }))
    })?;
    conn.create_scalar_function("uuid4", 1, HARMLESS, |context| {
        Ok(format!("00000000-0000-4000-8000-{:012}", context.get::<i64>(0)?))
    })?;
    conn.create_aggregate_function("sortconcat", 2, HARMLESS, Concatenation)?;
    conn.create_aggregate_function("concat", 1, HARMLESS, Concatenation)?;
    Ok(())
}

/// The texts in the last argument, in the order of the first.
struct Concatenation;

impl Aggregate<Vec<(Option<i64>, String)>, String> for Concatenation {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<Vec<(Option<i64>, String)>> {
        Ok(Vec::new())
    }

    fn step(&self, context: &mut Context<'_>, texts: &mut Vec<(Option<i64>, String)>) -> rusqlite::Result<()> {
        let place = if context.len() > 1 { context.get(0)? } else { None };
        texts.push((place, context.get(context.len() - 1)?));
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, texts: Option<Vec<(Option<i64>, String)>>) -> rusqlite::Result<String> {
        let mut texts = texts.unwrap_or_default();
        texts.sort();
        let texts: Vec<_> = texts.into_iter().map(|(_, text)| text).collect();
        Ok(texts.join(" & "))
    }
}

/// Points of two bytes; the real ones have a header and an envelope.
fn geopackage(conn: &Connection, _: Role) -> Result<()> {
    conn.create_scalar_function("ST_IsEmpty", 1, HARMLESS, |context| {
        Ok(context.get_raw(0).as_blob().map_or(true, <[u8]>::is_empty))
    })?;
    for (name, place) in [("ST_X", 0), ("ST_Y", 1)] {
        conn.create_scalar_function(name, 1, HARMLESS, move |context| {
            Ok(context.get_raw(0).as_blob().ok().map(|point| f64::from(point[place])))
        })?;
    }
    Ok(())
}
