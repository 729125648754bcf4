//! Generated users and their posts, for a run without data. The same on every machine.

use std::time::{Duration, Instant};

use larder::Store;
use larder::rusqlite::types::Value;

use crate::failure::Result;
use crate::progress;
use crate::random::Random;

const SCHEMA: &str = "
    CREATE TABLE users(
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        email TEXT NOT NULL,
        karma INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE posts(
        id INTEGER PRIMARY KEY,
        user_id INTEGER NOT NULL REFERENCES users(id),
        title TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
";

/// Serves lookups of a user's posts, and SQLite's checks when a user is deleted.
const INDEX: &str = "CREATE INDEX posts_by_user ON posts(user_id)";

const POSTS_A_USER: u64 = 10;

const FIRST_NAMES: &[&str] = &[
    "Ada", "Alan", "Barbara", "Dennis", "Edgar", "Grace", "Ken", "Radia", "Tony",
];
const LAST_NAMES: &[&str] = &[
    "Codd", "Hoare", "Hopper", "Liskov", "Lovelace", "Perlman", "Ritchie", "Turing",
];
const WORDS: &[&str] = &[
    "apple", "barrel", "candle", "cheese", "crock", "flour", "ham", "honey", "jam", "jar", "key", "oats", "onion",
    "pickle", "plum", "salt", "shelf", "syrup", "tea", "vinegar",
];

/// A table that was filled.
pub(crate) struct Ingested {
    pub(crate) table: String,
    pub(crate) rows: u64,
    pub(crate) took: Duration,
}

pub(crate) fn ingest(store: &Store, users: u32) -> Result<Vec<Ingested>> {
    store.write(|tx| tx.execute_batch(SCHEMA))?;
    let users = u64::from(users);
    let mut random = Random::seeded(0x1a4d_e400);
    // Users first, because a post without its user is refused: larder enables foreign keys.
    let made = vec![
        fill(store, "users", users, |id| user(id, &mut random))?,
        fill(store, "posts", users * POSTS_A_USER, |id| post(id, users, &mut random))?,
    ];
    // Last, because sorting all entries once is less work than inserting each in its place.
    store.write(|tx| tx.execute_batch(INDEX))?;
    Ok(made)
}

/// Fills a table of four columns.
fn fill(store: &Store, table: &str, rows: u64, row: impl FnMut(u64) -> [Value; 4]) -> Result<Ingested> {
    let begun = Instant::now();
    let progress = progress::of_rows(format!("making up {table}"), rows);
    let insert = format!("INSERT INTO {table} VALUES (?1, ?2, ?3, ?4)");
    let report = store
        .bulk()
        .insert(insert, progress.wrap_iter((1..=rows).map(row)))
        .run()?;
    Ok(Ingested {
        table: table.into(),
        rows: report.rows,
        took: begun.elapsed(),
    })
}

fn user(id: u64, random: &mut Random) -> [Value; 4] {
    let name = format!("{} {}", word(FIRST_NAMES, random), word(LAST_NAMES, random));
    let email = format!("user{id}@example.com");
    [integer(id), name.into(), email.into(), integer(random.below(1000))]
}

fn post(id: u64, users: u64, random: &mut Random) -> [Value; 4] {
    let user_id = 1 + random.below(users);
    let (title, body) = (words(4, random), words(20, random));
    [integer(id), integer(user_id), title.into(), body.into()]
}

fn integer(number: u64) -> Value {
    Value::Integer(number as i64)
}

fn words(count: usize, random: &mut Random) -> String {
    let words: Vec<_> = (0..count).map(|_| word(WORDS, random)).collect();
    words.join(" ")
}

fn word(from: &'static [&'static str], random: &mut Random) -> &'static str {
    random.pick(from).copied().unwrap_or_default()
}
