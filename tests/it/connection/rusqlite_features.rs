//! The features of rusqlite that larder passes on: each by a store, and by `larder::` alone.

use std::collections::BTreeSet;

use larder::Store;

/// Those of `Cargo.toml`, in the order that it has.
const CONVERSIONS: &[&str] = &["chrono", "jiff", "serde_json", "time", "url", "uuid"];
const API: &[&str] = &[
    "array",
    "blob",
    "collation",
    "column_decltype",
    "csvtab",
    "functions",
    "load_extension",
    "series",
    "trace",
    "vtab",
    "window",
];

/// Writes a value by one connection and reads it by another. `kind` is SQLite's type of it.
#[allow(dead_code)]
#[track_caller]
fn round_trip<T>(value: T, kind: &str)
where
    T: larder::rusqlite::ToSql
        + larder::rusqlite::types::FromSql
        + Clone
        + PartialEq
        + std::fmt::Debug
        + Send
        + 'static,
{
    let store = Store::open_temp().unwrap();
    let written = value.clone();
    store
        .write(move |tx| {
            tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x ANY) STRICT")?;
            tx.insert("INSERT INTO t(x) VALUES (?1)", [&written])
        })
        .unwrap();
    let read: (T, String) = store.read(|tx| tx.one("SELECT x, typeof(x) FROM t", [])).unwrap();
    assert_eq!(read, (value, kind.to_owned()));
}

#[cfg(feature = "chrono")]
#[test]
fn chrono_values_are_columns() {
    use chrono::{DateTime, NaiveDate, Utc};

    let at: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 250_000_000).unwrap();
    round_trip(at, "text");
    round_trip(NaiveDate::from_ymd_opt(2026, 2, 28).unwrap(), "text");
    round_trip(at.naive_utc(), "text");
}

#[cfg(feature = "jiff")]
#[test]
fn jiff_values_are_columns() {
    round_trip(jiff::Timestamp::from_second(1_800_000_000).unwrap(), "text");
    round_trip(jiff::civil::date(2026, 2, 28), "text");
}

#[cfg(feature = "serde_json")]
#[test]
fn json_values_are_columns() {
    round_trip(serde_json::json!({ "tags": ["a", "b"], "n": 1.5 }), "text");
}

#[cfg(feature = "time")]
#[test]
fn time_values_are_columns() {
    let at = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    round_trip(at, "text");
    round_trip(at.date(), "text");
}

#[cfg(feature = "url")]
#[test]
fn urls_are_columns() {
    round_trip(url::Url::parse("https://example.org/a?b=c#d").unwrap(), "text");
}

#[cfg(feature = "uuid")]
#[test]
fn uuids_are_columns() {
    round_trip(uuid::Uuid::from_u128(0x0123_4567_89ab_cdef), "blob");
}

#[cfg(feature = "array")]
#[test]
fn array_of_values_is_a_parameter() {
    use std::rc::Rc;

    use larder::rusqlite::types::Value;
    use larder::rusqlite::vtab::array;

    let options = larder::Options::new().on_connect(|conn, _| Ok(array::load_module(conn)?));
    let store = options.open_temp().unwrap();
    let fill = "CREATE TABLE t(x INTEGER) STRICT; INSERT INTO t VALUES (1), (2), (3), (4)";
    store.write(move |tx| tx.execute_batch(fill)).unwrap();
    let found: Vec<i64> = store
        .read(|tx| {
            let wanted: Rc<Vec<Value>> = Rc::new([2, 4, 9].map(Value::from).to_vec());
            tx.scalars("SELECT x FROM t WHERE x IN rarray(?1) ORDER BY x", [wanted])
        })
        .unwrap();
    assert_eq!(found, [2, 4]);
    let deleted = store.write(|tx| {
        let gone: Rc<Vec<Value>> = Rc::new(vec![Value::from(1), Value::from(2)]);
        tx.execute("DELETE FROM t WHERE x IN rarray(?1)", [gone])
    });
    assert_eq!(deleted.unwrap(), 2);
}

#[cfg(feature = "blob")]
#[test]
fn blob_is_written_and_read_in_parts() {
    use std::io::{Read, Seek, SeekFrom, Write};

    use larder::rusqlite::MAIN_DB;

    let store = Store::open_temp().unwrap();
    let id = store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE files(id INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT")?;
            let id = tx.insert("INSERT INTO files(content) VALUES (zeroblob(100000))", [])?;
            let mut blob = tx.blob_open(MAIN_DB, "files", "content", id, false)?;
            blob.seek(SeekFrom::Start(70_000)).unwrap();
            blob.write_all(b"larder").unwrap();
            Ok(id)
        })
        .unwrap();
    let part = store.read(|tx| {
        let mut blob = tx.blob_open(MAIN_DB, "files", "content", id, true)?;
        let mut part = [0; 6];
        blob.seek(SeekFrom::Start(70_000)).unwrap();
        blob.read_exact(&mut part).unwrap();
        Ok(part)
    });
    assert_eq!(&part.unwrap(), b"larder");
}

#[cfg(feature = "collation")]
#[test]
fn collation_of_on_connect_sorts() {
    let by_length = |a: &str, b: &str| a.len().cmp(&b.len());
    let options = larder::Options::new().on_connect(move |conn, _| Ok(conn.create_collation("length", by_length)?));
    let store = options.open_temp().unwrap();
    let fill = "CREATE TABLE t(x TEXT COLLATE length UNIQUE) STRICT; INSERT INTO t VALUES ('ccc'), ('b'), ('aa')";
    store.write(move |tx| tx.execute_batch(fill)).unwrap();
    let sorted: Vec<String> = store.read(|tx| tx.scalars("SELECT x FROM t ORDER BY x", [])).unwrap();
    assert_eq!(sorted, ["b", "aa", "ccc"]);
}

#[cfg(feature = "column_decltype")]
#[test]
fn columns_have_their_declared_types() {
    let store = Store::open_temp().unwrap();
    let declared = store.write(|tx| {
        tx.execute_batch("CREATE TABLE t(a DECIMAL(10, 2), b UUID)")?;
        let statement = tx.prepare("SELECT a, b, a + 1 FROM t")?;
        let types = statement
            .columns()
            .iter()
            .map(|column| column.decl_type().map(str::to_owned))
            .collect::<Vec<_>>();
        Ok(types)
    });
    assert_eq!(
        declared.unwrap(),
        [Some("DECIMAL(10, 2)".to_owned()), Some("UUID".to_owned()), None]
    );
}

#[cfg(feature = "csvtab")]
#[test]
fn csv_file_is_a_table() {
    use larder::rusqlite::vtab::csvtab;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.csv");
    std::fs::write(&file, "name,age\nAda,36\n\"Grace, H.\",85\n").unwrap();
    let options = larder::Options::new().on_connect(|conn, _| Ok(csvtab::load_module(conn)?));
    let store = options.open(folder.path().join("app.db")).unwrap();
    let create = format!(
        "CREATE VIRTUAL TABLE temp.people_csv USING csv(filename='{}', header=yes);
         CREATE TABLE people(name TEXT, age INTEGER) STRICT;
         INSERT INTO people SELECT name, CAST(age AS INTEGER) FROM people_csv;",
        file.display()
    );
    store.write(move |tx| tx.execute_batch(&create)).unwrap();
    let people: Vec<(String, i64)> = store.read(|tx| tx.all("SELECT name, age FROM people", [])).unwrap();
    assert_eq!(people, [("Ada".to_owned(), 36), ("Grace, H.".to_owned(), 85)]);
}

#[cfg(feature = "functions")]
#[test]
fn function_of_on_connect_is_called() {
    use larder::rusqlite::functions::FunctionFlags;

    let options = larder::Options::new().on_connect(|conn, _| {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        Ok(conn.create_scalar_function("double", 1, flags, |ctx| Ok(2 * ctx.get::<i64>(0)?))?)
    });
    let store = options.open_temp().unwrap();
    let written: i64 = store.write(|tx| tx.scalar("SELECT double(21)", [])).unwrap();
    let read: i64 = store.read(|tx| tx.scalar("SELECT double(21)", [])).unwrap();
    assert_eq!((written, read), (42, 42));
}

#[cfg(feature = "load_extension")]
#[test]
#[allow(unsafe_code)]
fn missing_extension_fails_the_opening() {
    use larder::rusqlite::LoadExtensionGuard;

    let options = larder::Options::new().on_connect(|conn, _| {
        // SAFETY: the guard ends before any other SQL runs on the connection.
        let guard = unsafe { LoadExtensionGuard::new(conn)? };
        // SAFETY: there is no such library.
        let loaded = unsafe { conn.load_extension("/nonexistent/larder", None::<&str>) };
        drop(guard);
        Ok(loaded?)
    });
    let error = options.open_temp().unwrap_err().to_string();
    assert!(error.contains("/nonexistent/larder"), "{error}");
}

#[cfg(feature = "series")]
#[test]
fn series_fills_a_table() {
    use larder::rusqlite::vtab::series;

    let options = larder::Options::new().on_connect(|conn, _| Ok(series::load_module(conn)?));
    let store = options.open_temp().unwrap();
    let fill = "CREATE TABLE t(x INTEGER) STRICT; INSERT INTO t SELECT value FROM generate_series(10, 20, 5)";
    store.write(move |tx| tx.execute_batch(fill)).unwrap();
    let all: Vec<i64> = store.read(|tx| tx.scalars("SELECT x FROM t", [])).unwrap();
    assert_eq!(all, [10, 15, 20]);
}

#[cfg(feature = "trace")]
#[test]
fn trace_of_on_connect_sees_statements() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use larder::rusqlite::trace::{TraceEvent, TraceEventCodes};

    static SEEN: AtomicUsize = AtomicUsize::new(0);
    fn see(event: TraceEvent<'_>) {
        if let TraceEvent::Stmt(_, sql) = event
            && sql.contains("traced")
        {
            SEEN.fetch_add(1, Ordering::Relaxed);
        }
    }
    let options = larder::Options::new().on_connect(|conn, _| {
        conn.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(see));
        Ok(())
    });
    let store = options.open_temp().unwrap();
    let _: i64 = store.read(|tx| tx.scalar("SELECT 1 AS traced", [])).unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE traced(x)")).unwrap();
    assert!(SEEN.load(Ordering::Relaxed) >= 2);
}

#[cfg(feature = "vtab")]
#[test]
fn module_of_the_program_is_a_table() {
    use larder::rusqlite::vtab::Module;

    const CONSTANTS: &Module<'_, module::Table> = &Module::eponymous_only_module();
    let options = larder::Options::new().on_connect(|conn, _| Ok(conn.create_module(c"constants", CONSTANTS, None)?));
    let store = options.open_temp().unwrap();
    let all: Vec<i64> = store.read(|tx| tx.scalars("SELECT value FROM constants", [])).unwrap();
    assert_eq!(all, [1, 2, 3]);
}

/// A table of three numbers.
#[cfg(feature = "vtab")]
#[allow(unsafe_code)]
mod module {
    use std::borrow::Cow;
    use std::ffi::{CStr, c_int};
    use std::marker::PhantomData;

    use larder::rusqlite::Result;
    use larder::rusqlite::ffi;
    use larder::rusqlite::vtab::{Context, Filters, IndexInfo, VTab, VTabConnection, VTabCursor};

    #[repr(C)]
    pub(super) struct Table {
        base: ffi::sqlite3_vtab,
    }

    #[derive(Default)]
    #[repr(C)]
    pub(super) struct Cursor<'t> {
        base: ffi::sqlite3_vtab_cursor,
        row: i64,
        table: PhantomData<&'t Table>,
    }

    // SAFETY: `base` is the first field of a type that is laid out as in C.
    unsafe impl<'t> VTab<'t> for Table {
        type Aux = ();
        type Cursor = Cursor<'t>;

        fn connect(
            _: &mut VTabConnection,
            _: Option<&()>,
            _: &[u8],
            _: &[u8],
            _: &[u8],
            _: &[&[u8]],
        ) -> Result<(Cow<'static, CStr>, Self)> {
            let table = Self {
                base: ffi::sqlite3_vtab::default(),
            };
            Ok((Cow::Borrowed(c"CREATE TABLE x(value)"), table))
        }

        fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
            info.set_estimated_cost(3.0);
            Ok(true)
        }

        fn open(&'t mut self) -> Result<Cursor<'t>> {
            Ok(Cursor::default())
        }
    }

    // SAFETY: as above.
    unsafe impl VTabCursor for Cursor<'_> {
        fn filter(&mut self, _: c_int, _: Option<&str>, _: &Filters<'_>) -> Result<()> {
            self.row = 1;
            Ok(())
        }

        fn next(&mut self) -> Result<()> {
            self.row += 1;
            Ok(())
        }

        fn eof(&self) -> bool {
            self.row > 3
        }

        fn column(&self, ctx: &mut Context, _: c_int) -> Result<()> {
            ctx.set_result(&self.row)
        }

        fn rowid(&self) -> Result<i64> {
            Ok(self.row)
        }
    }
}

#[cfg(feature = "window")]
#[test]
fn window_function_of_on_connect_runs_over_rows() {
    use larder::rusqlite::Result;
    use larder::rusqlite::functions::{Aggregate, Context, FunctionFlags, WindowAggregate};

    struct Total;

    impl Aggregate<i64, i64> for Total {
        fn init(&self, _: &mut Context<'_>) -> Result<i64> {
            Ok(0)
        }

        fn step(&self, ctx: &mut Context<'_>, total: &mut i64) -> Result<()> {
            *total += ctx.get::<i64>(0)?;
            Ok(())
        }

        fn finalize(&self, _: &mut Context<'_>, total: Option<i64>) -> Result<i64> {
            Ok(total.unwrap_or(0))
        }
    }

    impl WindowAggregate<i64, i64> for Total {
        fn value(&self, total: Option<&mut i64>) -> Result<i64> {
            Ok(total.copied().unwrap_or(0))
        }

        fn inverse(&self, ctx: &mut Context<'_>, total: &mut i64) -> Result<()> {
            *total -= ctx.get::<i64>(0)?;
            Ok(())
        }
    }

    let options = larder::Options::new()
        .on_connect(|conn, _| Ok(conn.create_window_function("total_of", 1, FunctionFlags::SQLITE_UTF8, Total)?));
    let store = options.open_temp().unwrap();
    let pairs = "SELECT total_of(column1) OVER (ORDER BY column1 ROWS 1 PRECEDING) FROM (VALUES (1), (2), (5))";
    let sums: Vec<i64> = store.read(move |tx| tx.scalars(pairs, [])).unwrap();
    assert_eq!(sums, [1, 3, 7]);
}

/// The README, the crate's page and `.ci/run` have the features that `Cargo.toml` passes on.
#[test]
fn documents_name_every_feature_of_rusqlite() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let passed_on: BTreeSet<String> = text("Cargo.toml")
        .lines()
        .filter_map(|line| line.split_once(" = [\"rusqlite/"))
        .filter(|(name, feature)| *feature == format!("{name}\"]"))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != "bundled")
        .collect();
    let here: BTreeSet<String> = CONVERSIONS.iter().chain(API).map(|name| (*name).to_owned()).collect();
    assert_eq!(passed_on, here);
    for document in ["README.md", "src/lib.rs", "docs/guide/getting-started.md"] {
        let text = text(document);
        let missing: Vec<_> = here
            .iter()
            .filter(|name| !text.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "{document} does not name {missing:?}");
    }
    let run = text(".ci/run");
    let line = run
        .lines()
        .find(|line| line.starts_with("of_rusqlite=("))
        .expect("its list");
    let listed: BTreeSet<String> = line["of_rusqlite=(".len()..]
        .trim_end_matches(')')
        .split(' ')
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, here);
}
