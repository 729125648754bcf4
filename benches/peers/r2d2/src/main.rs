//! A pool of connections, each of which may write.

use std::path::Path;

use r2d2::{Pool, PooledConnection};
use r2d2_sqlite::{SqliteConnectionManager, rusqlite};
use workload::{Case, Peer, Result};

struct Pooled(Pool<SqliteConnectionManager>);

impl Pooled {
    fn get(&self) -> Result<PooledConnection<SqliteConnectionManager>> {
        Ok(self.0.get()?)
    }
}

impl Peer for Pooled {
    const TASKS_FROM: usize = usize::MAX;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        let durability = case.durability;
        let manager = SqliteConnectionManager::file(path).with_init(move |conn| connection::set_up(conn, durability));
        let pool = Pool::builder()
            .max_size(workload::readers() as u32)
            .test_on_check_out(false)
            .build(manager)?;
        Ok(Self(pool))
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(rusqlite::version().to_owned())
    }

    async fn read(&self, user: i64) -> Result<String> {
        Ok(connection::read(&*self.get()?, user)?)
    }

    async fn write(&self, user: i64) -> Result<()> {
        Ok(connection::write(&*self.get()?, user)?)
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        Ok(connection::write_batch(&*self.get()?, users)?)
    }
}

fn main() {
    workload::main::<Pooled>();
}
