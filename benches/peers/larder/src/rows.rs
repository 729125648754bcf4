//! The rows that all peers copy.

use std::path::Path;

use larder::rusqlite::{Connection, Result, params};
use workload::{POSTS, Random, SCHEMA, USERS};

pub(crate) fn make(path: &Path, auto_vacuum: &str) -> Result<()> {
    let conn = Connection::open(path)?;
    conn.execute_batch(&format!(
        "PRAGMA auto_vacuum = {auto_vacuum}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF"
    ))?;
    conn.execute_batch(SCHEMA)?;
    conn.execute_batch("BEGIN")?;
    fill(&conn)?;
    conn.execute_batch("COMMIT; ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)")
}

fn fill(conn: &Connection) -> Result<()> {
    let mut random = Random::seeded(0);
    let mut users = conn.prepare("INSERT INTO users VALUES (?1, ?2, ?3)")?;
    for id in 1..=USERS {
        users.execute(params![id, format!("user {id}"), format!("user{id}@example.org")])?;
    }
    let mut posts = conn.prepare("INSERT INTO posts VALUES (?1, ?2, ?3, ?4)")?;
    for id in 1..=POSTS {
        let (likes, number) = (random.below(100), random.below(1 << 40));
        posts.execute(params![id, random.user(), likes, format!("{id}: {number:0>100}")])?;
    }
    Ok(())
}
