//! Shared by the benches: the rows, the statements, and the floor, which is a private rusqlite connection in an
//! expert's configuration, with every PRAGMA that larder sets.
//!
//! The rows are generated once per run, from a seed: 50,000 users, 500,000 posts of theirs, the feeds of 1,000 of them
//! with 50 posts each, and tables to write to. Each side of a comparison works on its own copy of that file.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::rusqlite::{self, Connection, params};
use larder::{Durability, Options, Store};
use tempfile::TempDir;

/// Rows in `users`.
pub(crate) const USERS: i64 = 50_000;
/// Rows in `posts`.
pub(crate) const POSTS: i64 = 500_000;
/// Users with a feed.
pub(crate) const FEEDS: i64 = 1_000;

const SCHEMA: &str = "
    CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL) STRICT;
    CREATE TABLE posts(
        id INTEGER PRIMARY KEY,
        user_id INTEGER NOT NULL REFERENCES users(id),
        likes INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX posts_user ON posts(user_id, likes);
    CREATE TABLE feeds(user_id INTEGER NOT NULL, post_id INTEGER NOT NULL, PRIMARY KEY (user_id, post_id)) STRICT, WITHOUT ROWID;
    CREATE TABLE events(id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, kind TEXT NOT NULL) STRICT;
    CREATE TABLE messages(id INTEGER PRIMARY KEY, room INTEGER NOT NULL, sent INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE sessions(id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, seen INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
";

/// One row by primary key.
pub(crate) const SELECT: &str = "SELECT name FROM users WHERE id = ?1";
/// One row of two tables.
pub(crate) const JOIN: &str =
    "SELECT posts.body, users.name FROM posts JOIN users ON users.id = posts.user_id WHERE posts.id = ?1";
/// Fifty rows by an index.
pub(crate) const FEED: &str = "SELECT posts.id, posts.body FROM feeds JOIN posts ON posts.id = feeds.post_id
     WHERE feeds.user_id = ?1 ORDER BY feeds.post_id DESC LIMIT 50";
/// A count with a filter, over some 1,000 rows of an index.
pub(crate) const COUNT: &str = "SELECT count(*) FROM posts WHERE user_id BETWEEN ?1 AND ?1 + 99 AND likes > 50";
/// A hundred consecutive rows.
pub(crate) const RANGE: &str = "SELECT id, body FROM posts WHERE id >= ?1 ORDER BY id LIMIT 100";
/// One row.
pub(crate) const INSERT: &str = "INSERT INTO events(user_id, kind) VALUES (?1, ?2)";

/// The rows, in a folder that is deleted when this is dropped.
pub(crate) struct Data {
    folder: TempDir,
}

impl Data {
    /// Generates the rows, in `LARDER_BENCH_DIR` or else the target folder, which is on a disk where the system's
    /// temporary folder may not be.
    pub(crate) fn make() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("larder-bench")
            .tempdir_in(parent())
            .expect("LARDER_BENCH_DIR can be written");
        let data = Self { folder };
        let conn = Connection::open(data.base()).expect("the file opens");
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF")
            .and_then(|()| conn.execute_batch(SCHEMA))
            .and_then(|()| fill(&conn))
            .and_then(|()| conn.execute_batch("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)"))
            .expect("the rows are made");
        conn.close().expect("the file closes");
        data
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn base(&self) -> PathBuf {
        self.folder.path().join("base.db")
    }

    /// Copies the rows, to be opened under this name. The copy is synced, so that no measured fsync has to wait for it;
    /// and synced before it is opened, because closing a file drops every POSIX lock that SQLite has on it in this
    /// process.
    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        for ending in ["-wal", "-shm"] {
            let _ = fs::remove_file(self.folder.path().join(format!("{name}{ending}")));
        }
        fs::copy(self.base(), &path)
            .and_then(|_| File::open(&path)?.sync_all())
            .expect("the rows can be copied");
        path
    }

    /// A store on a copy of the rows.
    pub(crate) fn store(&self, name: &str, options: Options) -> Store {
        options.open(self.copy(name)).expect("the store opens")
    }

    /// The floor on a copy of the rows.
    pub(crate) fn connection(&self, name: &str, durability: Durability) -> Connection {
        connect(&self.copy(name), durability)
    }
}

pub(crate) fn parent() -> PathBuf {
    std::env::var_os("LARDER_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

/// A connection with every PRAGMA that larder sets.
pub(crate) fn connect(path: &Path, durability: Durability) -> Connection {
    let synchronous = match durability {
        Durability::Normal => "NORMAL",
        Durability::Full | Durability::Replicated => "FULL",
    };
    let conn = Connection::open(path).expect("the connection opens");
    conn.busy_timeout(Duration::from_secs(30)).expect("the time-out is set");
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -64000;
         PRAGMA mmap_size = 268435456; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON;
         PRAGMA journal_size_limit = 67108864"
    ))
    .expect("the PRAGMAs are set");
    conn.set_prepared_statement_cache_capacity(128);
    conn
}

fn fill(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN")?;
    let mut random = Random::new();
    let mut users = conn.prepare("INSERT INTO users VALUES (?1, ?2, ?3)")?;
    for id in 1..=USERS {
        users.execute(params![id, format!("user {id}"), format!("user{id}@example.org")])?;
    }
    let mut posts = conn.prepare("INSERT INTO posts VALUES (?1, ?2, ?3, ?4)")?;
    for id in 1..=POSTS {
        let (user, likes) = (random.below(USERS) + 1, random.below(100));
        posts.execute(params![
            id,
            user,
            likes,
            format!("{id}: {:0>100}", random.below(1 << 40))
        ])?;
    }
    let mut feeds = conn.prepare("INSERT OR IGNORE INTO feeds VALUES (?1, ?2)")?;
    for user in 1..=FEEDS {
        for _ in 0..50 {
            feeds.execute([user, random.below(POSTS) + 1])?;
        }
    }
    conn.execute_batch("COMMIT")
}

/// A seeded sequence, equal on both sides of a comparison. xorshift64, Marsaglia 2003.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// A number from 0 to just below `end`.
    pub(crate) fn below(&mut self, end: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as i64
    }

    /// The id of a user.
    pub(crate) fn user(&mut self) -> i64 {
        self.below(USERS) + 1
    }
}

/// The steps of `store.read`, by hand.
pub(crate) fn read_in_transaction(conn: &Connection, id: i64) -> String {
    let run = || -> rusqlite::Result<_> {
        conn.prepare_cached("BEGIN")?.execute([])?;
        let name = conn.prepare_cached(SELECT)?.query_row([id], |row| row.get(0))?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(name)
    };
    run().expect("found")
}

/// The steps of `store.write`, by hand.
pub(crate) fn write_in_transaction(conn: &Connection) {
    let run = || -> rusqlite::Result<_> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        conn.prepare_cached(INSERT)?.insert((1, "click"))?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    };
    run().expect("written");
}

/// This many rows in one transaction, by hand.
pub(crate) fn batch_in_transaction(conn: &Connection, rows: i64) {
    let run = || -> rusqlite::Result<_> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        {
            let mut insert = conn.prepare_cached(INSERT)?;
            for user in 0..rows {
                insert.execute((user, "click"))?;
            }
        }
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    };
    run().expect("written");
}

/// This many rows in one transaction.
pub(crate) fn batch(store: &Store, rows: i64) {
    store
        .write(move |tx| {
            let mut insert = tx.prepare_cached(INSERT)?;
            for user in 0..rows {
                insert.execute((user, "click"))?;
            }
            Ok(())
        })
        .expect("written");
}

/// Reads every row of a query with one parameter, and returns their number.
pub(crate) fn rows(conn: &Connection, sql: &str, id: i64) -> usize {
    let run = || -> rusqlite::Result<usize> {
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query([id])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            std::hint::black_box(row.get_ref(0)?);
            count += 1;
        }
        Ok(count)
    };
    run().expect("the query goes well")
}

/// The same in a transaction.
pub(crate) fn rows_in_transaction(conn: &Connection, sql: &str, id: i64) -> usize {
    let run = |sql| conn.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    run("BEGIN").expect("begun");
    let count = rows(conn, sql, id);
    run("COMMIT").expect("ended");
    count
}

/// The same in one snapshot.
pub(crate) fn read_rows(store: &Store, sql: &str, id: i64) -> usize {
    store
        .read(|tx| {
            let mut count = 0;
            tx.query_each(sql, [id], |row| {
                std::hint::black_box(row.get_ref(0)?);
                count += 1;
                Ok(())
            })?;
            Ok(count)
        })
        .expect("the query goes well")
}
