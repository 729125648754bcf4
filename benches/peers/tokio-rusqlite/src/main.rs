//! Connections with a thread each: one for writes, several for reads.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio_rusqlite::{Connection, rusqlite};
use workload::{Case, Durability, Peer, Result};

struct Threaded {
    writer: Connection,
    readers: Vec<Connection>,
    turn: AtomicUsize,
}

async fn open(path: &Path, durability: Durability) -> Result<Connection> {
    let conn = Connection::open(path).await?;
    conn.call(move |conn| connection::set_up(conn, durability)).await?;
    Ok(conn)
}

impl Peer for Threaded {
    const TASKS_FROM: usize = 1;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        let mut readers = Vec::new();
        for _ in 0..workload::readers() {
            readers.push(open(path, case.durability).await?);
        }
        Ok(Self {
            writer: open(path, case.durability).await?,
            readers,
            turn: AtomicUsize::new(0),
        })
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(rusqlite::version().to_owned())
    }

    async fn read(&self, user: i64) -> Result<String> {
        let reader = &self.readers[self.turn.fetch_add(1, Relaxed) % self.readers.len()];
        Ok(reader.call(move |conn| connection::read(conn, user)).await?)
    }

    async fn write(&self, user: i64) -> Result<()> {
        Ok(self.writer.call(move |conn| connection::write(conn, user)).await?)
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        Ok(self
            .writer
            .call(move |conn| connection::write_batch(conn, users))
            .await?)
    }

    async fn close(self) -> Result<()> {
        for conn in self.readers {
            conn.close().await?;
        }
        Ok(self.writer.close().await?)
    }
}

fn main() {
    workload::main::<Threaded>();
}
