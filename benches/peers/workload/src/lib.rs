//! Shared by all peers: the rows, the statements, the cases, the clients and the protocol. Nothing here depends on
//! SQLite.
//!
//! A peer is a program that gets the path of its copy of the rows. It implements [`Peer`] and calls [`main`], which
//! reads one [`Case`] per line from standard input and answers each with one line of JSON.

mod case;
mod clients;
mod histogram;
mod protocol;
mod random;

use std::error::Error;
use std::future::Future;
use std::path::Path;

pub use case::{Case, Durability, Operation};
pub use protocol::main;
pub use random::Random;

/// Rows in `users`.
pub const USERS: i64 = 50_000;
/// Rows in `posts`.
pub const POSTS: i64 = 500_000;
/// Rows of a batch.
pub const BATCH: i64 = 1_000;
/// The maximum number of threads, for clients that block.
pub const THREADS: usize = 64;

/// The tables, as in the other benches.
pub const SCHEMA: &str = "
    CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL) STRICT;
    CREATE TABLE posts(
        id INTEGER PRIMARY KEY,
        user_id INTEGER NOT NULL REFERENCES users(id),
        likes INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX posts_user ON posts(user_id, likes);
    CREATE TABLE events(id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, kind TEXT NOT NULL) STRICT;
";
/// One row by primary key.
pub const SELECT: &str = "SELECT name FROM users WHERE id = ?1";
/// One row.
pub const INSERT: &str = "INSERT INTO events(user_id, kind) VALUES (?1, ?2)";
/// The kind of every event.
pub const KIND: &str = "click";

/// The result of a peer's operation.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A way to use SQLite. The futures of a blocking peer are ready at once, and its clients are threads.
pub trait Peer: Send + Sync + Sized + 'static {
    /// From this number of clients on they are tasks of a runtime. Fewer are threads.
    const TASKS_FROM: usize;

    /// Opens the rows for a case.
    fn open(path: &Path, case: &Case) -> impl Future<Output = Result<Self>> + Send;

    /// The version of SQLite.
    fn sqlite(&self) -> impl Future<Output = Result<String>> + Send;

    /// [`SELECT`]s a user's name.
    fn read(&self, user: i64) -> impl Future<Output = Result<String>> + Send;

    /// [`INSERT`]s an event in its own transaction.
    fn write(&self, user: i64) -> impl Future<Output = Result<()>> + Send;

    /// [`INSERT`]s an event for each user up to this one, row by row in one transaction.
    fn write_batch(&self, users: i64) -> impl Future<Output = Result<()>> + Send;

    /// Closes everything that was opened, so that nothing of it runs beside the next peer.
    fn close(self) -> impl Future<Output = Result<()>> + Send {
        async {
            drop(self);
            Ok(())
        }
    }
}

/// Connections of a pool for reads: as many as cores, from 4 to 8.
pub fn readers() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| cores.get().clamp(4, 8))
}
