#![no_main]
//! The frames of a damaged WAL, as replication reads them, and as SQLite does.
//!
//! - The last commit that is found is SQLite's: `PRAGMA wal_checkpoint` says how many frames it recovered.
//! - Reading up to the number of frames that were committed is an error that names a frame, or gives all of them.
//! - A position that was reached is one from which reading goes on.

use std::fs;
use std::io::Cursor;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use larder::replica::wal::{WalHeader, WalScan};
use larder::rusqlite::Connection;
use larder_fuzz::damage::Damage;
use larder_fuzz::folder;
use larder_fuzz::wal::{FRAME, HEADER, seal};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    base: u8,
    /// The other byte order.
    swapped: bool,
    /// The checksums are made right after the damage.
    sealed: bool,
    damage: Vec<Damage<'a>>,
}

struct Base {
    page_size: usize,
    database: Vec<u8>,
    log: Vec<u8>,
}

/// Logs of a few commits; in the last ones frames of before a restart follow.
fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let all = [(512, 0), (4096, 0), (512, 9), (1024, 9)];
        let all: Vec<_> = all.map(|(page_size, before)| Base::make(page_size, before)).into();
        for base in &all {
            assert!(
                recovered(&base.database, &base.log) > Some(5),
                "SQLite reads its frames"
            );
        }
        all
    })
}

impl Base {
    fn make(page_size: usize, before: u32) -> Self {
        let folder = folder();
        let path = folder.path().join("base.db");
        let connection = Connection::open(&path).expect("it opens");
        let commit = |n: u32| {
            let sql = format!("INSERT INTO entry VALUES ({n}, zeroblob({n} * 100)), (0, 'some text of commit {n}')");
            connection.execute_batch(&sql).expect("a commit");
        };
        let setup = format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE entry(n, value);"
        );
        connection.execute_batch(&setup).expect("a new database");
        (0..before).for_each(commit);
        if before > 0 {
            connection
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
                .expect("a checkpoint");
        }
        (0..5).for_each(commit);
        let [database, log] = ["", "-wal"].map(|ending| {
            fs::read(folder.path().join(format!("base.db{ending}"))).expect("a file of an open database")
        });
        Self {
            page_size,
            database,
            log,
        }
    }
}

/// The frames that SQLite recovers; `None` where it cannot read the database with them.
fn recovered(database: &[u8], log: &[u8]) -> Option<i64> {
    let folder = folder();
    let path = folder.path().join("app.db");
    fs::write(&path, database).expect("a file can be written");
    fs::write(folder.path().join("app.db-wal"), log).expect("a file can be written");
    let connection = Connection::open(&path).expect("opening reads nothing");
    let frames = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1));
    frames.ok().filter(|frames| *frames >= 0)
}

fn scan(log: &[u8]) -> Option<WalScan> {
    let header = WalHeader::parse(log.get(..HEADER)?.try_into().expect("its length")).ok()?;
    let mut scan = WalScan::new(header, header.start());
    scan.read_to_last_commit(&mut Cursor::new(log))
        .expect("memory can be read");
    Some(scan)
}

fuzz_target!(|input: Input<'_>| {
    let bases = bases();
    let base = &bases[usize::from(input.base) % bases.len()];
    let mut log = base.log.clone();
    if input.swapped {
        log[3] ^= 1;
        seal(&mut log, base.page_size);
    }
    input
        .damage
        .iter()
        .for_each(|damage| damage.apply(&mut log, FRAME + base.page_size));
    if input.sealed {
        seal(&mut log, base.page_size);
    }
    let found = scan(&log);
    let frames = found.as_ref().map_or(0, |scan| scan.position().frames);
    if let Some(recovered) = recovered(&base.database, &log) {
        assert_eq!(i64::from(frames), recovered, "the frames that SQLite recovers");
    }
    let Some(mut found) = found else { return };
    assert!(found.pages().all(|(page, frame)| page > 0 && frame < frames));
    let end = found.position();
    found.read_to(&mut Cursor::new(&log), frames).expect("nothing to read");
    let all = (log.len() - HEADER).div_ceil(FRAME + base.page_size) as u32;
    match found.read_to(&mut Cursor::new(&log), all) {
        Ok(()) => assert_eq!(all, frames),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert_eq!(found.position(), end, "it stays at the last commit");
});
