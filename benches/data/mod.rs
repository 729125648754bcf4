//! What both benches set up: the same rows in a store and on a private connection, each in a file of its own.

use larder::rusqlite::{Connection, params};
use larder::{Access, Durability, Options, Result, Store};
use tempfile::TempDir;

/// Rows in the table that is read.
pub(crate) const USERS: i64 = 50_000;

const SCHEMA: &str = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL) STRICT;
                      CREATE TABLE events(id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, kind TEXT NOT NULL) STRICT;";
pub(crate) const SELECT: &str = "SELECT name FROM users WHERE id = ?1";
pub(crate) const INSERT: &str = "INSERT INTO events(user_id, kind) VALUES (?1, ?2)";

/// `LARDER_BENCH_DIR`, or the target folder, which lies on a disk where the system's temporary folder may not.
pub(crate) fn folder() -> TempDir {
    let parent = std::env::var("LARDER_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    tempfile::Builder::new()
        .prefix("larder-bench")
        .tempdir_in(parent)
        .expect("LARDER_BENCH_DIR can be written")
}

pub(crate) fn store(folder: &TempDir, name: &str, durability: Durability) -> Store {
    let store = Options::new()
        .access(Access::Shared)
        .durability(durability)
        .open(folder.path().join(name))
        .expect("the store opens");
    store
        .write(|tx| {
            tx.execute_batch(SCHEMA)?;
            fill(tx)
        })
        .expect("the store is filled");
    store
}

/// A connection as its best users set it up, with the PRAGMAs that larder sets.
pub(crate) fn connection(folder: &TempDir, name: &str, durability: Durability) -> Connection {
    let conn = Connection::open(folder.path().join(name)).expect("the connection opens");
    let synchronous = match durability {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    };
    conn.execute_batch(&format!(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -64000;
         PRAGMA mmap_size = 268435456; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON;
         PRAGMA journal_size_limit = 67108864; {SCHEMA}"
    ))
    .expect("the PRAGMAs are set");
    conn.set_prepared_statement_cache_capacity(128);
    conn.execute_batch("BEGIN")
        .and_then(|()| fill(&conn).map_err(|_| larder::rusqlite::Error::InvalidQuery))
        .expect("filled");
    conn.execute_batch("COMMIT").expect("committed");
    conn
}

fn fill(conn: &Connection) -> Result<()> {
    let mut insert = conn.prepare_cached("INSERT INTO users VALUES (?1, ?2, ?3)")?;
    for id in 1..=USERS {
        insert.execute(params![id, format!("user {id}"), format!("user{id}@example.org")])?;
    }
    Ok(())
}

/// A seeded sequence of ids, the same on both sides.
pub(crate) struct Ids(u64);

impl Ids {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Iterator for Ids {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        // xorshift64, Marsaglia 2003
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some((self.0 % USERS as u64) as i64 + 1)
    }
}

/// What `store.read` does, by hand.
pub(crate) fn read_in_transaction(conn: &Connection, id: i64) -> String {
    let run = || -> larder::rusqlite::Result<_> {
        conn.prepare_cached("BEGIN")?.execute([])?;
        let name = conn.prepare_cached(SELECT)?.query_row([id], |row| row.get(0))?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(name)
    };
    run().expect("found")
}

/// What `store.write` does, by hand.
pub(crate) fn write_in_transaction(conn: &Connection) {
    let run = || -> larder::rusqlite::Result<_> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        conn.prepare_cached(INSERT)?.insert((1, "click"))?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    };
    run().expect("written");
}
