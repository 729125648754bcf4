//! A pool for reads, and a pool of one for writes.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use workload::{Case, Durability, INSERT, KIND, Peer, Result, SELECT};

struct Pools {
    read: SqlitePool,
    write: SqlitePool,
}

fn options(path: &Path, durability: Durability) -> SqliteConnectOptions {
    let synchronous = match durability {
        Durability::Normal => SqliteSynchronous::Normal,
        Durability::Full => SqliteSynchronous::Full,
    };
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(30))
        .statement_cache_capacity(128)
        .pragma("cache_size", "-64000")
        .pragma("mmap_size", "268435456")
        .pragma("temp_store", "MEMORY")
}

fn pool(size: usize) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size as u32)
        .test_before_acquire(false)
}

impl Peer for Pools {
    const TASKS_FROM: usize = 1;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        let options = options(path, case.durability);
        Ok(Self {
            write: pool(1).connect_with(options.clone()).await?,
            read: pool(workload::readers()).connect_with(options.read_only(true)).await?,
        })
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&self.read)
            .await?)
    }

    async fn read(&self, user: i64) -> Result<String> {
        Ok(sqlx::query_scalar(SELECT).bind(user).fetch_one(&self.read).await?)
    }

    async fn write(&self, user: i64) -> Result<()> {
        let mut tx = self.write.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(INSERT).bind(user).bind(KIND).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        let mut tx = self.write.begin_with("BEGIN IMMEDIATE").await?;
        for user in 1..=users {
            sqlx::query(INSERT).bind(user).bind(KIND).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn close(self) -> Result<()> {
        self.read.close().await;
        self.write.close().await;
        Ok(())
    }
}

fn main() {
    workload::main::<Pools>();
}
