#![no_main]
//! A store opens a file that is damaged, or not a database at all, and runs a service's operations on it.
//!
//! The assertions are those of `hostile.rs`, and for the open: an error concerns the file, and leaves a file in WAL
//! mode (which needs no switch) unchanged, to the byte.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use larder::rusqlite::Connection;
use larder::{Access, AutoVacuum, Durability, Options, Store};
use larder_fuzz::damage::Damage;
use larder_fuzz::hostile::{Tasks, exercise, migrations, refuse_wrong_errors};
use larder_fuzz::{folder, options, told};
use libfuzzer_sys::fuzz_target;

const MOST: usize = 12;

#[derive(Debug)]
struct Input<'a> {
    settings: Settings,
    tasks: Tasks,
    base: u8,
    schema: Option<Schema<'a>>,
    contents: Contents<'a>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Settings {
    exclusive: bool,
    full: bool,
    mapped: bool,
    foreign_keys: bool,
}

/// One entry of the schema is replaced.
#[derive(Arbitrary, Debug)]
struct Schema<'a> {
    row: u8,
    column: Column,
    value: &'a [u8],
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Column {
    Type,
    Name,
    TableName,
    RootPage,
    Sql,
}

#[derive(Debug)]
enum Contents<'a> {
    Damaged(Vec<Damage<'a>>),
    Bytes(&'a [u8]),
}

/// Reads as many kinds of damage as the input has bytes for.
impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let (settings, tasks, base) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
        let schema = if u.ratio(1, 4)? { Some(u.arbitrary()?) } else { None };
        let contents = if u.ratio(1, 16)? {
            Contents::Bytes(u.bytes(u.len())?)
        } else {
            let mut all = Vec::new();
            while !u.is_empty() && all.len() < MOST {
                all.push(u.arbitrary()?);
            }
            Contents::Damaged(all)
        };
        Ok(Self {
            settings,
            tasks,
            base,
            schema,
            contents,
        })
    }
}

// ---- sound databases ----

struct Base {
    page_size: usize,
    bytes: Vec<u8>,
}

/// Made once, by stores.
fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        vec![
            Base::make(512, AutoVacuum::None),
            Base::make(512, AutoVacuum::Full),
            Base::make(1024, AutoVacuum::Incremental),
            Base::make(4096, AutoVacuum::Incremental),
            Base::make(65536, AutoVacuum::None),
        ]
    })
}

impl Base {
    /// Tables of all kinds, with several pages of rows, indexes of all kinds, free pages and a record of migrations.
    fn make(page_size: usize, auto_vacuum: AutoVacuum) -> Self {
        let folder = folder();
        let path = folder.path().join("base.db");
        let options = options()
            .page_size(page_size as u64)
            .auto_vacuum(auto_vacuum)
            .incremental_vacuum(false)
            .migrations(migrations());
        let store = options.open(&path).expect("a new database opens");
        store.migrate_to(1).expect("migrations are made");
        store
            .write(|tx| tx.execute_batch(include_str!("../base.sql")))
            .expect("tables are made");
        let report = store.close().expect("the store closes");
        assert!(report.wal_truncated, "{report}");
        Self {
            page_size,
            bytes: fs::read(&path).expect("the file can be read"),
        }
    }
}

/// Writes the file that the input describes. Returns its bytes.
fn write(input: &Input<'_>, path: &Path) -> Vec<u8> {
    let bases = bases();
    let base = &bases[usize::from(input.base) % bases.len()];
    let mut bytes = base.bytes.clone();
    if let Some(schema) = &input.schema {
        fs::write(path, &bytes).expect("a file can be written");
        change_schema(path, schema);
        bytes = fs::read(path).expect("the file can be read");
    }
    match &input.contents {
        Contents::Damaged(all) => all.iter().for_each(|damage| damage.apply(&mut bytes, base.page_size)),
        Contents::Bytes(all) => bytes = all.to_vec(),
    }
    fs::write(path, &bytes).expect("a file can be written");
    bytes
}

/// Bypasses all of SQLite's protections of the schema.
fn change_schema(path: &Path, schema: &Schema<'_>) {
    let column = match schema.column {
        Column::Type => "type",
        Column::Name => "name",
        Column::TableName => "tbl_name",
        Column::RootPage => "rootpage",
        Column::Sql => "sql",
    };
    // As text that may not be UTF-8.
    let value = match schema.column {
        Column::RootPage => "length(?1)",
        _ => "CAST(?1 AS TEXT)",
    };
    let sql = format!(
        "UPDATE sqlite_schema SET {column} = {value}
         WHERE rowid = (SELECT rowid FROM sqlite_schema ORDER BY rowid LIMIT 1 OFFSET ?2)"
    );
    let conn = Connection::open(path).expect("it is sound");
    conn.execute_batch("PRAGMA writable_schema = ON")
        .expect("it can be switched on");
    conn.execute(&sql, (schema.value, schema.row % 32))
        .expect("a row is changed");
}

// ---- the run ----

fn open(settings: Settings, path: &Path) -> larder::Result<Store> {
    let options: Options = options()
        .access(if settings.exclusive {
            Access::Exclusive
        } else {
            Access::Shared
        })
        .durability(if settings.full {
            Durability::Full
        } else {
            Durability::Normal
        })
        .mmap_size(if settings.mapped { 1 << 20 } else { 0 })
        .foreign_keys(settings.foreign_keys)
        .migrations(migrations());
    options.open(path)
}

/// The read and write versions of the file format, <https://sqlite.org/fileformat2.html#file_format_version_numbers>.
fn is_in_wal_mode(bytes: &[u8]) -> bool {
    bytes.get(18..20) == Some(&[2, 2])
}

fuzz_target!(|input: Input<'_>| {
    let folder = folder();
    let path = folder.path().join("app.db");
    let bytes = write(&input, &path);
    match open(input.settings, &path) {
        Ok(store) => exercise(&store, folder.path(), input.tasks),
        Err(error) => {
            refuse_wrong_errors(&error);
            told(&error);
            let after = fs::read(&path).expect("the file can be read");
            assert!(
                !is_in_wal_mode(&bytes) || bytes == after,
                "not opened, and changed: {error:?}"
            );
        }
    }
});
