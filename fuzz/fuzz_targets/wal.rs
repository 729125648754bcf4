#![no_main]
//! A store opens a sound database with a damaged WAL, as a killed process leaves one.
//!
//! - "The checksums are used to verify that the frame is valid"
//!   (<https://sqlite.org/fileformat2.html#wal_file_format>), so the contents are a prefix of the commits, in their
//!   order, each whole, and include every commit that a checkpoint has moved; the file is sound; the next write has the
//!   next number and is there after a reopen.
//! - An old or garbage `-shm` does not change that: SQLite rebuilds it where no other process has the file.
//! - A WAL that was damaged and sealed again, so that its checksums are right, may contain anything. Then only the
//!   assertions of `hostile.rs` hold.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use larder::{Access, AutoVacuum, Durability, Options, ReadTx, Result, Store, WriteTx};
use larder_fuzz::damage::Damage;
use larder_fuzz::hostile::{Tasks, exercise, migrations, refuse_wrong_errors};
use larder_fuzz::wal::{FRAME, HEADER, seal};
use larder_fuzz::{folder, options, sound, told};
use libfuzzer_sys::fuzz_target;

const MOST: usize = 8;

/// More WAL pages than any store here reaches, so that no checkpoint is made.
const NEVER: u32 = 1_000_000;

#[derive(Debug)]
struct Input<'a> {
    exclusive: bool,
    full: bool,
    base: u8,
    shm: Shm<'a>,
    /// The operations on the store if the WAL is sealed again.
    sealed: Option<Tasks>,
    damage: Vec<Damage<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Shm<'a> {
    Absent,
    AsLeft,
    Bytes(&'a [u8]),
    Damaged(Damage<'a>),
}

/// Reads as many kinds of damage as the input has bytes for.
impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut input = Self {
            exclusive: u.arbitrary()?,
            full: u.arbitrary()?,
            base: u.arbitrary()?,
            shm: u.arbitrary()?,
            sealed: if u.ratio(1, 3)? { Some(u.arbitrary()?) } else { None },
            damage: Vec::new(),
        };
        while !u.is_empty() && input.damage.len() < MOST {
            input.damage.push(u.arbitrary()?);
        }
        Ok(input)
    }
}

// ---- commits ----

const SCHEMA: &str = "CREATE TABLE entry(n INTEGER PRIMARY KEY, text TEXT NOT NULL, cleared INTEGER) STRICT;
     CREATE INDEX entry_text ON entry(text);
     CREATE TABLE part(entry INTEGER NOT NULL REFERENCES entry(n), i INTEGER NOT NULL, PRIMARY KEY (entry, i))
        STRICT, WITHOUT ROWID;
     CREATE TABLE tally(entries INTEGER NOT NULL) STRICT;
     INSERT INTO tally VALUES (0);";

/// The text of the n-th commit: from a few bytes to some pages.
fn text(n: i64) -> String {
    format!("commit {n} ").repeat((n * n % 23) as usize * 4 + 1)
}

fn parts(n: i64) -> i64 {
    n % 4
}

/// Every third commit clears the one before it.
fn cleared_by(n: i64, last: i64) -> Option<i64> {
    ((n + 1) % 3 == 0 && n < last).then_some(n + 1)
}

fn commit(tx: &WriteTx<'_>, n: i64) -> Result<()> {
    tx.execute("INSERT INTO entry VALUES (?1, ?2, NULL)", (n, text(n)))?;
    for i in 0..parts(n) {
        tx.execute("INSERT INTO part VALUES (?1, ?2)", [n, i])?;
    }
    if n % 3 == 0 {
        tx.execute("DELETE FROM part WHERE entry = ?1", [n - 1])?;
        tx.execute("UPDATE entry SET cleared = ?1 WHERE n = ?2", [n, n - 1])?;
    }
    tx.execute("UPDATE tally SET entries = entries + 1", []).map(drop)
}

/// The number of commits, if they are the first ones and each is whole.
fn look(tx: &ReadTx<'_>) -> Result<i64> {
    let entries: Vec<(i64, String, Option<i64>)> =
        tx.query_map("SELECT n, text, cleared FROM entry ORDER BY n", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let last = entries.len() as i64;
    let wanted: Vec<_> = (1..=last).map(|n| (n, text(n), cleared_by(n, last))).collect();
    assert_eq!(entries, wanted, "not a prefix of the commits");
    let by_index: i64 = tx.query_row("SELECT count(*) FROM entry INDEXED BY entry_text", [], |row| row.get(0))?;
    let tally: i64 = tx.query_row("SELECT entries FROM tally", [], |row| row.get(0))?;
    assert_eq!((by_index, tally), (last, last), "a commit is half");
    for n in 1..=last {
        let wanted = if cleared_by(n, last).is_some() { 0 } else { parts(n) };
        let found: i64 = tx.query_row("SELECT count(*) FROM part WHERE entry = ?1", [n], |row| row.get(0))?;
        assert_eq!(found, wanted, "commit {n} is half");
    }
    Ok(last)
}

// ---- WALs of killed processes ----

struct Base {
    page_size: usize,
    database: Vec<u8>,
    log: Vec<u8>,
    shm: Vec<u8>,
    /// The number of commits in the database file.
    moved: i64,
    /// The number of commits with those in the WAL.
    all: i64,
}

/// Made once, by stores.
fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let all = vec![
            // All commits are in the WAL.
            Base::make(512, 0, 9, NEVER),
            Base::make(4096, 4, 8, NEVER),
            // The WAL was reset, and frames of the previous one follow its end.
            Base::begun_anew(512, 40, 60),
            Base::begun_anew(1024, 30, 40),
        ];
        let begun_anew = all.iter().filter(|base| base.log.len() > base.live_bytes()).count();
        assert_eq!(begun_anew, 2, "logs that were begun anew");
        all
    })
}

impl Base {
    /// Some commits before the store is closed once, and some after.
    fn make(page_size: usize, before: i64, after: i64, checkpoint_pages: u32) -> Self {
        let folder = folder();
        let path = folder.path().join("base.db");
        let options = options()
            .page_size(page_size as u64)
            .auto_vacuum(AutoVacuum::None)
            .checkpoint_pages(checkpoint_pages);
        let mut store = options.clone().open(&path).expect("a new database opens");
        store.write(|tx| tx.execute_batch(SCHEMA)).expect("tables are made");
        for n in 1..=before + after {
            if n == before + 1 {
                store.close().expect("it closes");
                store = options.clone().open(&path).expect("it opens again");
            }
            store.write(move |tx| commit(tx, n)).expect("a commit is made");
        }
        // A due checkpoint runs after the reply, and before the next write.
        store.write(|_| Ok(())).expect("a write that does nothing");
        // The store still has the files open. Reading them drops its locks, which no other process checks.
        let [database, log, shm] = ["", "-wal", "-shm"].map(|ending| {
            fs::read(folder.path().join(format!("base.db{ending}"))).expect("a file of an open store can be read")
        });
        let mut base = Self {
            page_size,
            database,
            log,
            shm,
            moved: 0,
            all: before + after,
        };
        base.moved = base.count_moved();
        base
    }

    /// Makes this many commits and a few more, because the last one may have caused a checkpoint.
    fn begun_anew(page_size: usize, commits: i64, checkpoint_pages: u32) -> Self {
        (commits..)
            .map(|commits| Self::make(page_size, 0, commits, checkpoint_pages))
            .find(|base| base.moved > 0 && base.moved + 3 <= base.all)
            .expect("numbers do not end")
    }

    /// The length of the header and of the frames that belong to it, by their salts.
    fn live_bytes(&self) -> usize {
        let (header, frames) = self.log.split_at(HEADER);
        let frames = frames.chunks_exact(FRAME + self.page_size);
        HEADER + (FRAME + self.page_size) * frames.take_while(|frame| frame[8..16] == header[16..24]).count()
    }

    fn count_moved(&self) -> i64 {
        let folder = folder();
        let path = folder.path().join("moved.db");
        fs::write(&path, &self.database).expect("a file can be written");
        let store = options().open(&path).expect("it opens without the log");
        let made = store.read(|tx| tx.exists("SELECT 1 FROM sqlite_schema WHERE name = 'tally'", []));
        if made.expect("the schema can be read") {
            store.read(look).expect("commits can be read")
        } else {
            0
        }
    }
}

fn write(input: &Input<'_>, path: &Path) -> &'static Base {
    let bases = bases();
    let base = &bases[usize::from(input.base) % bases.len()];
    let mut log = base.log.clone();
    input
        .damage
        .iter()
        .for_each(|damage| damage.apply(&mut log, FRAME + base.page_size));
    if input.sealed.is_some() {
        seal(&mut log, base.page_size);
    }
    let shm = match &input.shm {
        Shm::Absent => None,
        Shm::AsLeft => Some(base.shm.clone()),
        Shm::Bytes(bytes) => Some(bytes.to_vec()),
        Shm::Damaged(damage) => {
            let mut shm = base.shm.clone();
            damage.apply(&mut shm, 512);
            Some(shm)
        }
    };
    for (ending, bytes) in [("", Some(base.database.clone())), ("-wal", Some(log)), ("-shm", shm)] {
        if let Some(bytes) = bytes {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            fs::write(name, bytes).expect("a file can be written");
        }
    }
    base
}

// ---- the run ----

fn open(input: &Input<'_>, path: &Path) -> Result<Store> {
    let options: Options = options()
        .access(if input.exclusive {
            Access::Exclusive
        } else {
            Access::Shared
        })
        .durability(if input.full {
            Durability::Full
        } else {
            Durability::Normal
        })
        .migrations(migrations());
    options.open(path)
}

/// Checks that only the end of the WAL is missing.
fn recovers(input: &Input<'_>, path: &Path, base: &Base) {
    let store = open(input, path).expect("a damaged log is no reason not to open");
    let has_tables = store.read(|tx| tx.exists("SELECT 1 FROM sqlite_schema WHERE name = 'tally'", []));
    if !has_tables.expect("the schema can be read") {
        assert_eq!(base.moved, 0, "the tables are gone");
        store.write(|tx| tx.execute_batch(SCHEMA)).expect("tables can be made");
    }
    let found = store.read(look).expect("commits can be read");
    assert!(
        (base.moved..=base.all).contains(&found),
        "{found} of the commits, and {} to {} were made",
        base.moved,
        base.all
    );
    let found = found + 1;
    store
        .write(move |tx| commit(tx, found))
        .expect("the next commit is made");
    let report = store.close().expect("nobody is inside a closure");
    assert!(report.wal_truncated, "{report}");
    sound(path).expect("the file is sound");
    let store = open(input, path).expect("it opens again");
    assert_eq!(
        store.read(look).expect("commits can be read"),
        found,
        "an acknowledged commit"
    );
    store.close().expect("nobody is inside a closure");
}

fuzz_target!(|input: Input<'_>| {
    let folder = folder();
    let path = folder.path().join("app.db");
    let base = write(&input, &path);
    let Some(tasks) = input.sealed else {
        return recovers(&input, &path, base);
    };
    match open(&input, &path) {
        Ok(store) => exercise(&store, folder.path(), tasks),
        Err(error) => {
            refuse_wrong_errors(&error);
            told(&error);
        }
    }
});
