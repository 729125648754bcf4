//! One connection behind a mutex.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use rusqlite::Connection;
use workload::{Case, Peer, Result};

struct Locked(Mutex<Connection>);

impl Locked {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().expect("no client panics")
    }
}

impl Peer for Locked {
    const TASKS_FROM: usize = usize::MAX;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        Ok(Self(Mutex::new(connection::open(path, case.durability)?)))
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(rusqlite::version().to_owned())
    }

    async fn read(&self, user: i64) -> Result<String> {
        Ok(connection::read(&self.lock(), user)?)
    }

    async fn write(&self, user: i64) -> Result<()> {
        Ok(connection::write(&self.lock(), user)?)
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        Ok(connection::write_batch(&self.lock(), users)?)
    }
}

fn main() {
    workload::main::<Locked>();
}
