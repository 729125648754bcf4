//! A rusqlite connection in an expert's configuration, and the statements on it, for the peers that hand one out.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Result};
use workload::{Durability, INSERT, KIND, SELECT};

/// Opens and configures a connection.
pub fn open(path: &Path, durability: Durability) -> Result<Connection> {
    let conn = Connection::open(path)?;
    set_up(&conn, durability)?;
    Ok(conn)
}

/// Sets everything that SQLite does not keep in the file, and WAL mode.
pub fn set_up(conn: &Connection, durability: Durability) -> Result<()> {
    conn.busy_timeout(Duration::from_secs(30))?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {}; PRAGMA cache_size = -64000;
         PRAGMA mmap_size = 268435456; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON",
        durability.synchronous()
    ))
}

pub fn read(conn: &Connection, user: i64) -> Result<String> {
    conn.prepare_cached(SELECT)?.query_row([user], |row| row.get(0))
}

pub fn write(conn: &Connection, user: i64) -> Result<()> {
    in_transaction(conn, || conn.prepare_cached(INSERT)?.execute((user, KIND)).map(drop))
}

pub fn write_batch(conn: &Connection, users: i64) -> Result<()> {
    in_transaction(conn, || {
        let mut insert = conn.prepare_cached(INSERT)?;
        for user in 1..=users {
            insert.execute((user, KIND))?;
        }
        Ok(())
    })
}

fn in_transaction(conn: &Connection, f: impl FnOnce() -> Result<()>) -> Result<()> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let result = f().and_then(|()| conn.prepare_cached("COMMIT")?.execute([]).map(drop));
    if result.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")?;
    }
    result
}
