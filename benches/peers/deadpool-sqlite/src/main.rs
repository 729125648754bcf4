//! A pool for reads, and a pool of one for writes, so that writers queue for the connection and not for SQLite's lock.

use std::path::Path;

use deadpool_sqlite::{Config, Hook, HookError, Pool, Runtime, rusqlite};
use workload::{Case, Durability, Peer, Result};

struct Pools {
    read: Pool,
    write: Pool,
}

fn pool(path: &Path, durability: Durability, size: usize) -> Result<Pool> {
    let set_up = Hook::async_fn(move |conn, _| {
        Box::pin(async move {
            conn.interact(move |conn| connection::set_up(conn, durability))
                .await
                .map_err(|error| HookError::message(error.to_string()))?
                .map_err(HookError::Backend)
        })
    });
    let builder = Config::new(path).builder(Runtime::Tokio1)?;
    Ok(builder.max_size(size).post_create(set_up).build()?)
}

async fn interact<T: Send + 'static>(
    pool: &Pool,
    f: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T> {
    let conn = pool.get().await?;
    let result = conn.interact(|conn| f(conn)).await.map_err(|error| error.to_string())?;
    Ok(result?)
}

impl Peer for Pools {
    const TASKS_FROM: usize = 1;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        Ok(Self {
            read: pool(path, case.durability, workload::readers())?,
            write: pool(path, case.durability, 1)?,
        })
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(rusqlite::version().to_owned())
    }

    async fn read(&self, user: i64) -> Result<String> {
        interact(&self.read, move |conn| connection::read(conn, user)).await
    }

    async fn write(&self, user: i64) -> Result<()> {
        interact(&self.write, move |conn| connection::write(conn, user)).await
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        interact(&self.write, move |conn| connection::write_batch(conn, users)).await
    }
}

fn main() {
    workload::main::<Pools>();
}
