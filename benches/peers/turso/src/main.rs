//! turso, SQLite rewritten in Rust, in its MVCC mode, in which transactions of several connections write at once.
//!
//! An operation takes an idle connection or opens one, so there are as many as there were operations at once.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use turso::{Builder, Connection, Database, Error};
use workload::{Case, Durability, INSERT, KIND, Peer, Result, SELECT};

struct Turso {
    database: Database,
    durability: Durability,
    idle: Mutex<Vec<Connection>>,
}

impl Turso {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().expect("no client panics")
    }

    async fn take(&self) -> Result<Connection> {
        let idle = self.idle().pop();
        match idle {
            Some(conn) => Ok(conn),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let conn = self.database.connect()?;
        conn.busy_timeout(Duration::from_secs(30))?;
        let synchronous = self.durability.synchronous();
        for (pragma, value) in [
            ("synchronous", synchronous),
            ("cache_size", "-64000"),
            ("temp_store", "MEMORY"),
            ("foreign_keys", "ON"),
        ] {
            conn.pragma_update(pragma, value).await?;
        }
        Ok(conn)
    }

    /// Inserts in a transaction, and once more if it conflicts with another, as turso's documents do.
    async fn insert(&self, first: i64, last: i64) -> Result<()> {
        let conn = self.take().await?;
        loop {
            match insert(&conn, first, last).await {
                Ok(()) => break,
                Err(error) => {
                    if !conn.is_autocommit()? {
                        conn.execute("ROLLBACK", ()).await?;
                    }
                    if !is_retryable(&error) {
                        return Err(error.into());
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        self.idle().push(conn);
        Ok(())
    }
}

async fn insert(conn: &Connection, first: i64, last: i64) -> turso::Result<()> {
    conn.prepare_cached("BEGIN CONCURRENT").await?.execute(()).await?;
    let mut statement = conn.prepare_cached(INSERT).await?;
    for user in first..=last {
        statement.execute((user, KIND)).await?;
    }
    conn.prepare_cached("COMMIT").await?.execute(()).await?;
    Ok(())
}

fn is_retryable(error: &Error) -> bool {
    match error {
        Error::Busy(_) | Error::BusySnapshot(_) => true,
        Error::Error(message) => message.contains("conflict"),
        _ => false,
    }
}

impl Peer for Turso {
    const TASKS_FROM: usize = 1;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        let path = path.to_str().expect("the path of the rows is UTF-8");
        let peer = Self {
            database: Builder::new_local(path).build().await?,
            durability: case.durability,
            idle: Mutex::default(),
        };
        let conn = peer.connect().await?;
        conn.pragma_update("journal_mode", "'mvcc'").await?;
        peer.idle().push(conn);
        Ok(peer)
    }

    async fn sqlite(&self) -> Result<String> {
        Ok("none: an engine of its own".to_owned())
    }

    async fn read(&self, user: i64) -> Result<String> {
        let conn = self.take().await?;
        let name = conn.prepare_cached(SELECT).await?.query_row((user,)).await?.get(0)?;
        self.idle().push(conn);
        Ok(name)
    }

    async fn write(&self, user: i64) -> Result<()> {
        self.insert(user, user).await
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        self.insert(1, users).await
    }

    /// Moves the log into the file, which the other peers do as they close.
    async fn close(self) -> Result<()> {
        self.idle().clear();
        let conn = self.connect().await?;
        conn.pragma_query("wal_checkpoint(TRUNCATE)", |_| Ok(())).await?;
        Ok(())
    }
}

fn main() {
    workload::main::<Turso>();
}
